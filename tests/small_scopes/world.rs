//! A state of the whole: three replicas, all operations that there have ever been, and what may still happen.
//!
//! The network has no state of its own. Whatever was ever sent may arrive at any time, any number of times, or never: so
//! every operation that somebody has made stays on offer. Operations arrive one by one; a longer message is several
//! arrivals in a row. A state delta is under way as a whole from the moment at which it is pulled, and its parts may arrive
//! when its sender has long gone on, or died.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use orset::crdt::{Dot, Op, OpBody, Seq, Tag, Verdict, VersionVector};

use super::bridge::Bridge;
use super::oracle::{Meaning, Oracle};
use super::real::Answer;
use super::rules::Rules;
use super::scope::Scope;
use super::site::{Place, Site, Step, number_of, place_of};

/// See the module's text.
#[derive(Clone)]
pub struct World {
    pub sites: [Arc<Site>; 3],
    /// All operations ever made.
    pub ops: Arc<BTreeMap<Dot, Op>>,
    pub oracle: Arc<Oracle>,
    pub left: Left,
}

/// What may still happen.
#[derive(Clone, Copy)]
pub struct Left {
    pub changes: u8,
    pub faults: u8,
    pub snapshots: u8,
    pub joins: u8,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Add(Place, u8),
    Remove(Place, u8),
    Arrives(Place, Dot),
    Compacts(Place),
    Pulls(Place, Place),
    NextPart(Place),
    Crashes(Place),
    IsWiped(Place),
}

impl Action {
    /// Where it happens.
    pub fn place(&self) -> Place {
        match self {
            Self::Add(place, _)
            | Self::Remove(place, _)
            | Self::Arrives(place, _)
            | Self::Compacts(place)
            | Self::Pulls(place, _)
            | Self::NextPart(place)
            | Self::Crashes(place)
            | Self::IsWiped(place) => *place,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |place: &Place| place + 1;
        match self {
            Self::Add(place, number) => write!(f, "n{} adds {number}", n(place)),
            Self::Remove(place, number) => write!(f, "n{} removes {number}", n(place)),
            Self::Arrives(place, dot) => {
                let (from, life) = place_of(dot.replica);
                write!(f, "operation {} of n{}, life {life}, arrives at n{}", dot.seq, n(&from), n(place))
            }
            Self::Compacts(place) => write!(f, "n{} makes a snapshot and drops its log", n(place)),
            Self::Pulls(place, from) => write!(f, "n{} pulls a state delta from n{}", n(place), n(from)),
            Self::NextPart(place) => write!(f, "the next part arrives at n{}", n(place)),
            Self::Crashes(place) => write!(f, "n{} is killed and started", n(place)),
            Self::IsWiped(place) => write!(f, "n{} loses its store", n(place)),
        }
    }
}

impl World {
    /// Three empty stores.
    pub fn new(scope: &Scope) -> Self {
        let left =
            Left { changes: scope.changes, faults: scope.faults, snapshots: scope.snapshots, joins: scope.joins };
        Self {
            sites: [0, 1, 2].map(|place| Arc::new(Site::new(place, 0))),
            ops: Arc::default(),
            oracle: Arc::default(),
            left,
        }
    }

    /// All that may happen next.
    pub fn actions(&self, scope: &Scope) -> Vec<Action> {
        let mut actions = Vec::new();
        for (place, site) in self.sites.iter().enumerate() {
            if self.left.changes > 0 {
                for number in 0..2 {
                    actions.push(Action::Add(place, number));
                    // A remove that sees nothing writes nothing.
                    if site.live.values().any(|live| *live == number) {
                        actions.push(Action::Remove(place, number));
                    }
                }
            }
            // Also what is held already, and what has been made here.
            let arrives = self.ops.keys().filter(|dot| dot.seq > Seq(1) || scope.lone_starts);
            actions.extend(arrives.map(|dot| Action::Arrives(place, *dot)));
            if self.left.snapshots > 0
                && site.receiving.is_none()
                && site.snapshot.as_ref() != Some(&site.state.vv)
                && !site.state.vv.is_empty()
            {
                actions.push(Action::Compacts(place));
            }
            match &site.receiving {
                Some(_) => actions.push(Action::NextPart(place)),
                None if self.left.joins > 0 => {
                    let offered = (0..3).filter(|from| *from != place && self.sites[*from].offers_to(site));
                    actions.extend(offered.map(|from| Action::Pulls(place, from)));
                }
                None => {}
            }
            if self.left.faults > 0 && (!site.state.vv.is_empty() || site.receiving.is_some()) {
                actions.push(Action::Crashes(place));
                actions.push(Action::IsWiped(place));
            }
        }
        actions
    }

    /// The state after an action; `None` if it changes nothing.
    ///
    /// # Errors
    /// In words, if what must hold does not hold there.
    pub fn after(&self, action: Action, rules: &dyn Rules, bridge: &mut Bridge) -> Result<Option<World>, String> {
        let mut world = self.clone();
        world.happens(action, rules, bridge)?;
        let (before, site) = (&self.sites[action.place()], &world.sites[action.place()]);
        if before.history.len() == site.history.len() && matches!(action, Action::Arrives(..)) {
            return Ok(None);
        }
        world.oracle.check(&site.state.vv, &site.live).map_err(|why| format!("n{}: {why}", site.place + 1))?;
        Ok(Some(world))
    }

    fn happens(&mut self, action: Action, rules: &dyn Rules, bridge: &mut Bridge) -> Result<(), String> {
        match action {
            Action::Add(place, number) => {
                self.left.changes -= 1;
                self.writes(place, rules, Step::Add(number), &Meaning::Add(number))?;
            }
            Action::Remove(place, number) => {
                self.left.changes -= 1;
                let seen = self.oracle.seen(&self.sites[place].state.vv, number);
                self.writes(place, rules, Step::Remove(number), &Meaning::Remove(seen))?;
            }
            Action::Arrives(place, dot) => self.arrives(place, rules, dot),
            Action::Compacts(place) => {
                self.left.snapshots -= 1;
                self.step(place, rules, Step::Compact);
            }
            Action::Pulls(place, from) => {
                self.left.joins -= 1;
                self.pulls(place, from, rules, bridge)?;
            }
            Action::NextPart(place) => drop(self.step(place, rules, Step::Part)),
            Action::Crashes(place) => {
                self.left.faults -= 1;
                let life = self.sites[place].life + 1;
                self.step(place, rules, Step::Restart(life));
            }
            Action::IsWiped(place) => {
                self.left.faults -= 1;
                let life = rules.life_after_wipe(self.sites[place].life);
                self.sites[place] = Arc::new(Site::new(place, life));
            }
        }
        Ok(())
    }

    /// An operation arrives; if it is the one after a `Start` that has not come, that comes with it.
    fn arrives(&mut self, place: Place, rules: &dyn Rules, dot: Dot) {
        if dot.seq == Seq(2) && self.sites[place].state.vv.get(dot.replica) == Seq(0) {
            let start = self.ops[&Dot::new(dot.replica, Seq(1))].clone();
            self.step(place, rules, Step::Receive(start));
        }
        self.step(place, rules, Step::Receive(self.ops[&dot].clone()));
    }

    fn step(&mut self, place: Place, rules: &dyn Rules, step: Step) -> Vec<Op> {
        Arc::make_mut(&mut self.sites[place]).step(rules, step)
    }

    fn writes(&mut self, place: Place, rules: &dyn Rules, step: Step, meaning: &Meaning) -> Result<(), String> {
        for op in self.step(place, rules, step) {
            if let (OpBody::Remove { tags, .. }, Meaning::Remove(seen)) = (&op.body, meaning)
                && !seen.iter().eq(tags.iter().collect::<BTreeSet<&Tag>>())
            {
                return Err(format!("a remove names {tags:?}, and its client saw {seen:?}"));
            }
            let meaning = if op.dot.seq == Seq(1) { Meaning::Start } else { meaning.clone() };
            Arc::make_mut(&mut self.oracle).happened(op.dot, meaning)?;
            Arc::make_mut(&mut self.ops).insert(op.dot, op);
        }
        Ok(())
    }

    /// A real receiver pulls the newest snapshot of a real sender. All of it is under way then, and may arrive late.
    fn pulls(&mut self, place: Place, from: Place, rules: &dyn Rules, bridge: &mut Bridge) -> Result<(), String> {
        let delta = bridge.pulled(&self.sites[from], &self.sites[place], &self.ops)?;
        let claimed = rules.claimed(&delta.vv, &self.sites[from].state.vv);
        self.step(place, rules, Step::Pull(delta));
        let site = Arc::make_mut(&mut self.sites[place]);
        if let Some(receiving) = &mut site.receiving {
            receiving.claimed = claimed;
        }
        Ok(())
    }

    /// From here everybody can catch up with everybody: each pulls from the two others, by whatever they answer to its
    /// digest, and then holds all that anybody holds.
    ///
    /// # Errors
    /// In words, if somebody does not, or has another set than follows from it.
    pub fn heals(&self, rules: &dyn Rules, bridge: &mut Bridge) -> Result<(), String> {
        let mut all = VersionVector::new();
        self.sites.iter().for_each(|site| all.join(&site.state.vv));
        for place in 0..3 {
            let mut site = Site::clone(&self.sites[place]);
            site.receiving = None;
            for from in (0..3).filter(|from| *from != place) {
                self.catches_up(&mut site, from, rules, bridge)?;
            }
            let who = format!("n{}, when all faults have ceased", place + 1);
            if site.state.vv != all {
                return Err(format!("{who}, holds {:?}, and there is {all:?}", site.state.vv));
            }
            self.oracle.check(&all, &site.live).map_err(|why| format!("{who}: {why}"))?;
        }
        Ok(())
    }

    /// Pulls until it holds what `from` does: a state delta brings a snapshot, and a delta what came after that.
    fn catches_up(&self, site: &mut Site, from: Place, rules: &dyn Rules, bridge: &mut Bridge) -> Result<(), String> {
        for _ in 0..2 {
            if self.sites[from].state.vv.is_within(&site.state.vv) {
                break;
            }
            match bridge.answer(&self.sites[from], &self.ops, site.place, &site.state.vv) {
                Answer::Ops(ops) => {
                    for op in ops {
                        if op.judge(&site.state.vv) != Verdict::Next {
                            return Err(format!("n{} answers with {}, which does not apply", from + 1, op.dot));
                        }
                        site.step(rules, Step::Receive(op));
                    }
                }
                Answer::State(delta) => {
                    let parts = delta.parts.len();
                    site.step(rules, Step::Pull(delta));
                    (1..parts).for_each(|_| drop(site.step(rules, Step::Part)));
                }
            }
        }
        Ok(())
    }

    /// A name that is the same for all states that differ only in which place is which and which element is which.
    pub fn name(&self) -> u128 {
        const ORDERS: [[Place; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let names = ORDERS.iter().flat_map(|order| [false, true].map(|swap| View { order, swap }.of(self)));
        let least = names.min().expect("there are twelve");
        let [mut one, mut two] = [DefaultHasher::new(), DefaultHasher::new()];
        two.write_u8(1);
        one.write(&least);
        two.write(&least);
        u128::from(one.finish()) << 64 | u128::from(two.finish())
    }
}

/// A way of looking at a world: which place comes where, and whether the elements change names.
struct View<'a> {
    /// `order[place]` is where it comes.
    order: &'a [Place; 3],
    swap: bool,
}

impl View<'_> {
    fn of(&self, world: &World) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        for n in 0..3 {
            let place = self.order.iter().position(|at| *at == n).expect("a permutation");
            self.site(&world.sites[place], &mut out);
        }
        let mut ops: Vec<_> = world.ops.values().map(|op| (self.dot(op.dot), &op.body)).collect();
        ops.sort_by_key(|(dot, _)| *dot);
        for (dot, body) in ops {
            out.extend(dot);
            match body {
                OpBody::Start { parent, .. } => out.extend(parent.map_or([0, 0], |parent| self.dot(parent))),
                OpBody::Add(element) => out.push(self.number(number_of(element))),
                OpBody::Remove { tags, .. } => {
                    let mut tags: Vec<_> = tags.iter().map(|tag| self.dot(*tag)).collect();
                    tags.sort_unstable();
                    out.extend([2, small(tags.len())]);
                    out.extend(tags.concat());
                }
            }
        }
        let left = world.left;
        out.extend([left.changes, left.faults, left.snapshots, left.joins]);
        out
    }

    fn site(&self, site: &Site, out: &mut Vec<u8>) {
        out.push(site.life);
        out.push(site.own.map_or(0, |own| place_of(own).1 + 1));
        self.vector(&site.state.vv, out);
        self.vector(&site.state.floor, out);
        let mut live: Vec<_> = site.live.iter().map(|(tag, number)| (self.dot(*tag), self.number(*number))).collect();
        live.sort_unstable();
        for (tag, number) in live {
            out.extend(tag);
            out.push(number);
        }
        out.push(0xff);
        match &site.snapshot {
            None => out.push(0),
            Some(vv) => {
                out.push(1);
                self.vector(vv, out);
            }
        }
        if let Some(receiving) = &site.receiving {
            out.push(1 + small(receiving.taken));
            out.push(small(self.order[receiving.delta.from]));
            self.vector(&receiving.delta.vv, out);
            self.vector(&receiving.delta.digest, out);
            self.vector(&receiving.claimed, out);
        }
        out.push(0xff);
    }

    fn vector(&self, vv: &VersionVector, out: &mut Vec<u8>) {
        let mut entries: Vec<_> = vv.iter().map(|(replica, seq)| self.dot(Dot::new(replica, seq))).collect();
        entries.sort_unstable();
        out.push(small(entries.len()));
        out.extend(entries.concat());
    }

    fn dot(&self, dot: Dot) -> [u8; 2] {
        let (place, life) = place_of(dot.replica);
        [small(self.order[place]) << 4 | life, small(usize::try_from(dot.seq.0).expect("small"))]
    }

    fn number(&self, number: u8) -> u8 {
        if self.swap { 1 - number } else { number }
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("a small scope")
}
