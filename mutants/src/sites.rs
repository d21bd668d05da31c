//! Where in a file the mutants are, and what stands there once they can be switched on and off.
//!
//! A site is one expression, one function's beginning or one match arm, with all mutants that change it. Its place is taken by
//! pieces: new text, and parts of the old, which may have sites in them in turn:
//!
//! ```text
//! a + f(b)     (match (a, f(b)) { (__l, __r) => match at(7) { 1 => l - r, 2 => l * r, _ => l + r } })
//! ```

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Block, Expr};

use crate::list::{Genre, Mutant, Place};

/// See the module's text.
pub struct Site {
    /// The bytes of the file whose place is taken; an empty range if something is put in.
    pub range: Range<usize>,
    pub pieces: Vec<Piece>,
}

/// A part of what stands at a site.
pub enum Piece {
    Text(String),
    Source(Range<usize>),
}

/// What numbers and names mean the same to the planted sources and to whoever runs them.
pub struct Numbers<'a> {
    /// The mutants, by their number.
    pub mutants: &'a [Mutant],
    /// Those that are left out.
    pub left_out: &'a HashSet<usize>,
    /// Functions that must stay `const`.
    pub constant: &'a HashSet<String>,
}

/// What is found in a file.
pub struct Found {
    /// Outer ones before inner ones.
    pub sites: Vec<Site>,
    /// The mutants that have a place in them.
    pub placed: HashSet<usize>,
    /// Those that the language forbids: `||` beside a `let`, a match whose arms are not enough.
    pub forbidden: HashSet<usize>,
}

/// Looks for all mutants of a file.
pub fn sites(file: &str, text: &str, numbers: &Numbers) -> syn::Result<Found> {
    let mut at: HashMap<(Genre, Place), Vec<usize>> = HashMap::new();
    for (number, mutant) in numbers.mutants.iter().enumerate() {
        if mutant.file == file && !numbers.left_out.contains(&number) {
            at.entry((mutant.genre, mutant.span.start)).or_default().push(number);
        }
    }
    let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(n, _)| n + 1)).collect();
    let found = Found { sites: Vec::new(), placed: HashSet::new(), forbidden: HashSet::new() };
    let mut finder = Finder { text, lines, numbers, at, constant: false, found };
    finder.visit_file(&syn::parse_file(text)?);
    let mut found = finder.found;
    found.sites.sort_by_key(|site| (site.range.start, !site.range.is_empty(), std::cmp::Reverse(site.range.end)));
    Ok(found)
}

struct Finder<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    numbers: &'a Numbers<'a>,
    at: HashMap<(Genre, Place), Vec<usize>>,
    /// Whether this is evaluated by the compiler, so that nothing can be switched.
    constant: bool,
    found: Found,
}

use Piece::{Source, Text};

impl Finder<'_> {
    fn byte(&self, at: LineColumn) -> usize {
        let line = self.lines[at.line - 1];
        self.text[line..].char_indices().nth(at.column).map_or(self.text.len(), |(n, _)| line + n)
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.byte(span.start())..self.byte(span.end())
    }

    /// The mutants of a genre that begin with `span`.
    fn mutants(&mut self, genre: Genre, span: Span) -> Vec<usize> {
        if self.constant {
            return Vec::new();
        }
        let LineColumn { line, column } = span.start();
        let found = self.at.get(&(genre, Place { line, column: column + 1 })).cloned().unwrap_or_default();
        self.found.placed.extend(&found);
        found
    }

    fn replacement(&self, number: usize) -> &str {
        &self.numbers.mutants[number].replacement
    }

    /// `match chosen() { 17 => …, _ => … }`; each mutant on a line that begins with its number, for the compiler's errors.
    fn choice(&self, mutants: &[usize], change: impl Fn(&str) -> Vec<Piece>, original: Vec<Piece>) -> Vec<Piece> {
        let mut pieces = vec![Text(format!("match {} {{", chosen(mutants)))];
        for number in mutants {
            pieces.push(Text(format!("\n/*@{number}@*/ {number} => ")));
            pieces.extend(change(self.replacement(*number)));
            pieces.push(Text(",".to_owned()));
        }
        pieces.push(Text("\n_ => ".to_owned()));
        pieces.extend(original);
        pieces.push(Text("}".to_owned()));
        pieces
    }

    /// Puts the pieces in brackets where the expression stands.
    fn expression(&mut self, span: Span, mutants: &[usize], before: &str, pieces: Vec<Piece>, after: &str) {
        let mut all = vec![Text(format!("(/*#{}#*/{before}", mutants[0]))];
        all.extend(pieces);
        all.push(Text(format!("{after})")));
        self.found.sites.push(Site { range: self.range(span), pieces: all });
    }

    fn put_in(&mut self, at: usize, text: String) {
        self.found.sites.push(Site { range: at..at, pieces: vec![Text(text)] });
    }

    fn body(&mut self, signature: &syn::Signature, block: &Block) {
        let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) else { return };
        let iterated = iterated(&signature.output);
        if iterated.is_none() && hides_a_type(&signature.output) {
            return;
        }
        let mutants = self.mutants(Genre::FnValue, first.span());
        if mutants.is_empty() {
            return;
        }
        if let Some(item) = iterated {
            let item = self.text[self.range(item)].to_owned();
            let whole = self.byte(first.span().start())..self.byte(last.span().end());
            let boxed = |value: &str| vec![Text(format!("Box::new({value})"))];
            let original = vec![Text("Box::new({ ".to_owned()), Source(whole.clone()), Text(" })".to_owned())];
            let mut pieces = vec![Text(format!("{{ let __all: Box<dyn Iterator<Item = {item}> + '_> = "))];
            pieces.extend(self.choice(&mutants, boxed, original));
            pieces.push(Text("; __all }".to_owned()));
            self.found.sites.push(Site { range: whole, pieces });
            return;
        }
        let mut text = String::from("{ let __chosen = ");
        text += &chosen(&mutants);
        for number in mutants {
            text += &format!(";\n/*@{number}@*/ if __chosen == {number} {{ return {} }}", self.replacement(number));
        }
        let at = self.byte(first.span().start());
        self.put_in(at, text + "; }\n");
    }

    /// A function can only choose if the compiler need not evaluate it.
    fn function(&mut self, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        let before = self.constant;
        self.constant = false;
        let placed = self.found.placed.len();
        let keeps = signature.constness.is_some() && self.numbers.constant.contains(&signature.ident.to_string());
        self.constant = keeps;
        visit(self);
        if let (Some(token), false) = (&signature.constness, keeps)
            && self.found.placed.len() > placed
        {
            let range = self.range(token.span());
            self.found.sites.push(Site { range, pieces: Vec::new() });
        }
        self.constant = before;
    }

    fn never(&mut self, visit: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.constant, true);
        visit(self);
        self.constant = before;
    }

    fn binary(&mut self, node: &syn::ExprBinary) {
        let mutants = self.mutants(Genre::BinaryOperator, node.op.span());
        if matches!(node.op, BinOp::And(_)) && (is_let(&node.left) || is_let(&node.right)) {
            self.found.forbidden.extend(mutants);
            return;
        }
        if mutants.is_empty() {
            return;
        }
        let [left, right] = [&node.left, &node.right].map(|side| Source(self.range(side.span())));
        let op = self.text[self.range(node.op.span())].to_owned();
        let both = |op: &str| vec![Text(format!("__l {op} __r"))];
        let span = node.span();
        match node.op {
            BinOp::And(_) | BinOp::Or(_) => {
                // The right side is evaluated once at most, as ever: `l` decides if `&&` is `&&`, or if `||` is `&&`.
                let is = if matches!(node.op, BinOp::And(_)) { "!=" } else { "==" };
                let is = format!("; if __l {is} ({} == {}) {{ ", chosen(&mutants), mutants[0]);
                let pieces = vec![left, Text(is), right, Text(" } else { __l } ".to_owned())];
                self.expression(span, &mutants, "{ let __l: bool = ", pieces, "}");
            }
            BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => {
                let mut pieces = vec![left, Text("), &(".to_owned()), right, Text(")) { (__l, __r) => ".to_owned())];
                pieces.extend(self.choice(&mutants, both, both(&op)));
                self.expression(span, &mutants, "match (&(", pieces, " }");
            }
            _ if op.ends_with('=') => {
                let [left, right] = [&node.left, &node.right].map(|side| self.range(side.span()));
                let change = |op: &str| vec![Source(left.clone()), Text(format!(" {op} ")), Source(right.clone())];
                let pieces = self.choice(&mutants, change, change(&op));
                self.expression(span, &mutants, "", pieces, "");
            }
            _ => {
                let mut pieces = vec![left, Text(", ".to_owned()), right, Text(") { (__l, __r) => ".to_owned())];
                pieces.extend(self.choice(&mutants, both, both(&op)));
                self.expression(span, &mutants, "match (", pieces, " }");
            }
        }
    }

    fn arm(&mut self, arm: &syn::Arm) {
        let mut deleted = self.mutants(Genre::MatchArm, arm.span());
        deleted.retain(|number| !self.found.forbidden.contains(number));
        let end = self.byte(arm.pat.span().end());
        match &arm.guard {
            None if !deleted.is_empty() => self.put_in(end, format!(" if {} != {}", chosen(&deleted), deleted[0])),
            None => {}
            Some((_, guard)) => {
                let whole = self.range(guard.span());
                if !deleted.is_empty() {
                    self.put_in(whole.start, format!("{} != {} && ", chosen(&deleted), deleted[0]));
                }
                let mutants = self.mutants(Genre::MatchArmGuard, guard.span());
                if !mutants.is_empty() {
                    let change = |word: &str| vec![Text(word.to_owned())];
                    let pieces = self.choice(&mutants, change, vec![Source(whole)]);
                    self.expression(guard.span(), &mutants, "", pieces, "");
                }
            }
        }
    }
}

/// Whether there is an `impl …` in it.
fn hides_a_type(output: &syn::ReturnType) -> bool {
    struct Look(bool);
    impl Visit<'_> for Look {
        fn visit_type_impl_trait(&mut self, _: &syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut look = Look(false);
    look.visit_return_type(output);
    look.0
}

/// What an `impl Iterator<Item = …>` gives: its type follows from its body, so all that it may give back has to be of one.
fn iterated(output: &syn::ReturnType) -> Option<Span> {
    let syn::ReturnType::Type(_, output) = output else { return None };
    let syn::Type::ImplTrait(output) = &**output else { return None };
    output.bounds.iter().find_map(|bound| {
        let syn::TypeParamBound::Trait(bound) = bound else { return None };
        let name = bound.path.segments.last().filter(|name| name.ident == "Iterator")?;
        let syn::PathArguments::AngleBracketed(given) = &name.arguments else { return None };
        given.args.iter().find_map(|arg| match arg {
            syn::GenericArgument::AssocType(item) => Some(item.ty.span()),
            _ => None,
        })
    })
}

/// `_`, or a name that is no constant's or variant's.
fn takes_all(pattern: &syn::Pat) -> bool {
    match pattern {
        syn::Pat::Wild(_) => true,
        syn::Pat::Ident(name) => {
            name.subpat.is_none() && name.ident.to_string().starts_with(|c: char| !c.is_uppercase())
        }
        _ => false,
    }
}

fn is_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(node) => is_let(&node.left) || is_let(&node.right),
        _ => false,
    }
}

fn chosen(mutants: &[usize]) -> String {
    let [first, last] = [mutants[0], mutants[mutants.len() - 1]];
    format!("crate::mutants::chosen({first}, {last})")
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.function(&node.sig, |finder| {
            finder.body(&node.sig, &node.block);
            visit::visit_item_fn(finder, node);
        });
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.function(&node.sig, |finder| {
            finder.body(&node.sig, &node.block);
            visit::visit_impl_item_fn(finder, node);
        });
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        self.function(&node.sig, |finder| {
            node.default.iter().for_each(|block| finder.body(&node.sig, block));
            visit::visit_trait_item_fn(finder, node);
        });
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        self.never(|finder| visit::visit_item_const(finder, node));
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.never(|finder| visit::visit_item_static(finder, node));
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.never(|finder| visit::visit_impl_item_const(finder, node));
    }

    fn visit_type(&mut self, node: &'ast syn::Type) {
        self.never(|finder| visit::visit_type(finder, node));
    }

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
        self.never(|finder| finder.visit_expr(&node.len));
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        self.binary(node);
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let mutants = self.mutants(Genre::UnaryOperator, node.op.span());
        if !mutants.is_empty() {
            let whole = self.range(node.span());
            let inner = self.range(node.expr.span());
            let op = self.text[whole.start..inner.start].to_owned();
            let change = |_: &str| vec![Source(inner.clone())];
            let pieces = self.choice(&mutants, change, vec![Text(op), Source(inner.clone())]);
            self.expression(node.span(), &mutants, "", pieces, "");
        }
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        if !node.arms.iter().any(|arm| arm.guard.is_none() && takes_all(&arm.pat)) {
            for arm in node.arms.iter().filter(|arm| arm.guard.is_none()) {
                let deleted = self.mutants(Genre::MatchArm, arm.span());
                self.found.forbidden.extend(deleted);
            }
        }
        visit::visit_expr_match(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        self.arm(node);
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        for field in &node.fields {
            let mutants = self.mutants(Genre::StructField, field.span());
            if let (Some(base), false, syn::Member::Named(name)) = (&node.rest, mutants.is_empty(), &field.member) {
                let inner = Source(self.range(field.expr.span()));
                let base = Source(self.range(base.span()));
                let text = format!("{name}: if {} == {} {{ (", chosen(&mutants), mutants[0]);
                let after = Text(format!(").{name} }} else {{ "));
                let pieces = vec![Text(text), base, after, inner, Text(" }".to_owned())];
                self.found.sites.push(Site { range: self.range(field.span()), pieces });
            }
        }
        visit::visit_expr_struct(self, node);
    }
}
