//! One replica of the model: the product's [`State`], and what has happened to it.

use std::sync::Arc;

use orset::crdt::{
    Change, Dot, Element, EmptyBase, Entry, NodeId, Op, OpBody, RecordKey, ReplicaId, Seq, State, VersionVector,
};
use orset::replica::{StateContent, StateKey, StateOffset};

use super::oracle::Live;
use super::rules::Rules;

/// A place in the cluster: 0, 1 or 2.
pub type Place = usize;

/// The node at a place.
pub fn node(place: Place) -> NodeId {
    NodeId::new(["n1", "n2", "n3"][place]).unwrap()
}

/// The replica id of a place's `life`-th process start.
pub fn replica_id(place: Place, life: u8) -> ReplicaId {
    ReplicaId::from_random(((place as u128) << 8) + u128::from(life) + 1)
}

/// The place and life of [`replica_id`].
pub fn place_of(replica: ReplicaId) -> (Place, u8) {
    let number = replica.to_u128() - 1;
    (usize::try_from(number >> 8).unwrap(), u8::try_from(number & 0xff).unwrap())
}

/// The element of that number.
pub fn element(number: u8) -> Element {
    Element::from_canonical(number.to_string().as_bytes())
}

/// The number of an [`element`].
pub fn number_of(element: &Element) -> u8 {
    element.as_str().parse().unwrap()
}

/// A state delta on its way: what a real sender has said when a real receiver pulled it.
#[derive(Debug)]
pub struct StateDelta {
    /// Who sends it.
    pub from: Place,
    /// The name under which it was pulled.
    pub key: StateKey,
    /// The vector of the snapshot.
    pub vv: VersionVector,
    /// What the receiver held when it pulled.
    pub digest: VersionVector,
    /// The parts, in order.
    pub parts: Vec<(StateOffset, Option<StateOffset>, StateContent)>,
}

/// Something that happens to a replica.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client adds the element.
    Add(u8),
    /// A client removes it.
    Remove(u8),
    /// An operation arrives.
    Receive(Op),
    /// A snapshot is made, and the log before it goes.
    Compact,
    /// A state delta is offered and pulled, with this context; its first part arrives (the incarnations).
    Pull(Arc<StateDelta>, VersionVector),
    /// The next part arrives; the last one makes it count.
    Part,
    /// The process dies, and is started under this life.
    Restart(u8),
}

/// What has happened to a store. What two have in common is there once.
#[derive(Clone, Default)]
pub struct History(Option<Arc<Link>>);

struct Link {
    step: Step,
    before: History,
}

impl History {
    fn push(&mut self, step: Step) {
        let before = std::mem::take(self);
        *self = Self(Some(Arc::new(Link { step, before })));
    }

    /// The oldest first.
    pub fn steps(&self) -> Vec<&Step> {
        let mut steps: Vec<_> = std::iter::successors(self.0.as_deref(), |link| link.before.0.as_deref()).collect();
        steps.reverse();
        steps.into_iter().map(|link| &link.step).collect()
    }

    /// Whether nothing has happened since.
    pub fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

/// A state delta of which some parts have come.
#[derive(Clone, Debug)]
pub struct Receiving {
    pub delta: Arc<StateDelta>,
    /// How many parts have come.
    pub taken: usize,
    /// The context that the commit will join: the snapshot's, if the rules are right.
    pub claimed: VersionVector,
}

/// A replica, as far as it can make a difference.
#[derive(Clone)]
pub struct Site {
    pub place: Place,
    pub life: u8,
    /// The last replica id that this store has written under.
    pub own: Option<ReplicaId>,
    pub state: State,
    /// The records of the state.
    pub live: Live,
    pub receiving: Option<Receiving>,
    /// The vector of the newest snapshot.
    pub snapshot: Option<VersionVector>,
    /// The life in which the store began, and all that has happened since: a real replica can live through the same.
    pub first_life: u8,
    pub history: History,
}

impl Site {
    /// A place with an empty store.
    pub fn new(place: Place, life: u8) -> Self {
        Self {
            place,
            life,
            own: None,
            state: State::default(),
            live: Live::new(),
            receiving: None,
            snapshot: None,
            first_life: life,
            history: History::default(),
        }
    }

    /// A place whose store began in that life, and has lived through all that.
    pub fn after(place: Place, first_life: u8, history: &History, rules: &dyn Rules) -> Self {
        let mut site = Self::new(place, first_life);
        history.steps().into_iter().for_each(|step| drop(site.step(rules, step.clone())));
        site
    }

    /// A place that holds this and has this, which follows from it; how it came to that does not matter.
    pub fn holding(place: Place, vv: VersionVector, live: Live) -> Self {
        let mut site = Self::new(place, 0);
        for (tag, number) in &live {
            site.state.memtable.insert(RecordKey::new(&element(*number), *tag), Change::Put(None));
        }
        site.state.vv = vv;
        site.live = live;
        site
    }

    /// The vector of its newest snapshot, if that may be sent: it must not be below the floor.
    pub fn offers(&self) -> Option<&VersionVector> {
        self.snapshot.as_ref().filter(|vv| self.state.floor.is_within(vv))
    }

    /// Lives through a step; gives back the operations that it has made.
    ///
    /// An operation that changes nothing leaves no trace. (One that comes too early a real replica parks for a while: that is
    /// as if it came once more when it applies.)
    pub fn step(&mut self, rules: &dyn Rules, step: Step) -> Vec<Op> {
        let mut made = Vec::new();
        match &step {
            Step::Add(number) => made = self.write(OpBody::Add(element(*number))),
            Step::Remove(number) => {
                let element = element(*number);
                let tags = self.state.tags(&EmptyBase, &element).unwrap();
                made = self.write(OpBody::Remove { element, tags });
            }
            Step::Receive(op) => {
                let held = self.state.vv.clone();
                rules.receive(&mut self.state, op);
                if self.state.vv == held && self.records() == self.live {
                    return made;
                }
            }
            Step::Compact => {
                self.state.floor = self.state.vv.clone();
                self.snapshot = Some(self.state.vv.clone());
            }
            Step::Pull(delta, claimed) => {
                self.receiving = Some(Receiving { delta: Arc::clone(delta), taken: 0, claimed: claimed.clone() });
                self.take_part(rules);
            }
            Step::Part => self.take_part(rules),
            Step::Restart(life) => {
                self.life = *life;
                self.receiving = None;
                self.state.discard_staged();
            }
        }
        self.live = self.records();
        self.history.push(step);
        made
    }

    fn records(&self) -> Live {
        let records = self.state.records(&EmptyBase, &[]).map(Result::unwrap);
        records.map(|record| (record.tag(), number_of(&record.element()))).collect()
    }

    /// Writes as [`orset::storage::Store`] does: a `Start` first, if this life has not written yet.
    fn write(&mut self, body: OpBody) -> Vec<Op> {
        let replica = replica_id(self.place, self.life);
        let mut bodies = vec![body];
        if self.state.vv.get(replica) == Seq(0) {
            let parent = self.own.map(|own| self.state.last_dot(own)).filter(|parent| parent.seq > Seq(0));
            bodies.insert(0, OpBody::Start { node: node(self.place), parent });
            self.own = Some(replica);
        }
        let mut made = Vec::new();
        for body in bodies {
            let op = Op { dot: Dot::new(replica, self.state.vv.get(replica).next()), body };
            self.state.apply(&EmptyBase, &Entry::Op(op.clone())).unwrap();
            made.push(op);
        }
        made
    }

    fn take_part(&mut self, rules: &dyn Rules) {
        let Some(receiving) = &mut self.receiving else { return };
        let (_, next, content) = &receiving.delta.parts[receiving.taken];
        rules.part(&mut self.state, receiving, content);
        receiving.taken += 1;
        if next.is_none() {
            let receiving = self.receiving.take().unwrap();
            rules.commit(&mut self.state, &receiving);
        }
    }
}
