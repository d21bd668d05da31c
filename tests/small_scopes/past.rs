//! All that was ever made: the operations of all replicas, and what they mean.

use std::collections::BTreeMap;

use orset::crdt::{Dot, Op, OpBody, Seq, VersionVector};

use super::oracle::{Meaning, Oracle};
use super::table::{Number, Table};
use super::view::{Names, ops_names};

/// See the module's text.
pub struct Past {
    pub ops: BTreeMap<Dot, Op>,
    pub oracle: Oracle,
    /// What may arrive somewhere.
    pub arrivals: Vec<Arrival>,
    pub names: Names,
}

/// An operation on its way. If it is the one after a `Start`, that comes with it where it is missing.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub dot: Dot,
    /// The same for the same operation, and `Start`.
    pub number: Number,
}

impl Past {
    /// `lone_starts`: whether a `Start` may arrive without the operation after it.
    pub fn new(ops: BTreeMap<Dot, Op>, oracle: Oracle, lone_starts: bool, arriving: &mut Table<()>) -> Self {
        let alone = ops.keys().filter(|dot| dot.seq > Seq(1) || lone_starts);
        let arrivals = alone.map(|dot| {
            let mut name = Vec::new();
            op_name(&ops[dot], &mut name);
            if dot.seq == Seq(2) {
                op_name(&ops[&Dot::new(dot.replica, Seq(1))], &mut name);
            }
            Arrival { dot: *dot, number: arriving.number(&name, || ()) }
        });
        let arrivals = arrivals.collect();
        Self { names: ops_names(&ops), arrivals, ops, oracle }
    }

    /// This, and the operations that a client's change has made.
    ///
    /// # Errors
    /// If a dot is used twice.
    pub fn and(&self, made: &[Op], meaning: &Meaning) -> Result<(BTreeMap<Dot, Op>, Oracle), String> {
        let (mut ops, mut oracle) = (self.ops.clone(), self.oracle.clone());
        for op in made {
            let meaning = if op.dot.seq == Seq(1) { Meaning::Start } else { meaning.clone() };
            oracle.happened(op.dot, meaning)?;
            ops.insert(op.dot, op.clone());
        }
        Ok((ops, oracle))
    }
}

/// Operations as bytes.
pub fn ops_name<'a>(ops: impl Iterator<Item = &'a Op>, name: &mut Vec<u8>) {
    for op in ops {
        op_name(op, name);
    }
    name.push(0xfe);
}

fn op_name(op: &Op, name: &mut Vec<u8>) {
    dot(op.dot, name);
    match &op.body {
        OpBody::Start { parent, .. } => parent.iter().for_each(|parent| dot(*parent, name)),
        OpBody::Add(element) => name.extend(element.as_bytes()),
        OpBody::Remove { element, tags } => {
            name.extend(element.as_bytes());
            tags.iter().for_each(|tag| dot(*tag, name));
        }
    }
    name.push(0xff);
}

/// A dot as bytes.
pub fn dot(dot: Dot, name: &mut Vec<u8>) {
    name.extend([&dot.replica.to_u128().to_le_bytes()[..2], &[u8::try_from(dot.seq.0).unwrap()]].concat());
}

/// A vector as bytes.
pub fn vector(vv: &VersionVector, name: &mut Vec<u8>) {
    vv.iter().for_each(|(replica, seq)| dot(Dot::new(replica, seq), name));
    name.push(0xff);
}
