//! The set's laws, as properties: on histories that several replicas may really have made.
//!
//! A history is made by replicas that add, remove what they see, take over each other's operations, and start anew
//! (sometimes from an earlier state: a fork). It is then applied in other orders, doubled, cut, or joined as state deltas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orset::crdt::{
    Base, BaseError, Change, Dot, DotSet, Element, EmptyBase, Entry, Incarnation, Incarnations, JoinCommit, JoinId,
    JoinPart, KeptRecords, Memtable, NodeId, Op, OpBody, Record, RecordKey, Records, ReplicaId, Seq, State, Tag,
    Verdict, VersionVector,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

type Live = BTreeMap<Tag, String>;

fn live(state: &State) -> Live {
    state.records(&EmptyBase, &[]).map(Result::unwrap).map(|r| (r.tag(), r.element().as_str().to_owned())).collect()
}

fn element(n: u8) -> Element {
    // One of them is too long to be in its key whole.
    let text = if n == 0 { "x".repeat(200) } else { format!("e{n}") };
    Element::from_canonical(format!("{text:?}").as_bytes())
}

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Remove(u8),
    /// Takes over everything that the other holds.
    Merge(usize),
    /// Starts anew, as what it was so many of its own changes ago.
    Restart(usize),
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        5 => (0..4_u8).prop_map(Step::Add),
        3 => (0..4_u8).prop_map(Step::Remove),
        3 => (0..3_usize).prop_map(Step::Merge),
        1 => (0..4_usize).prop_map(Step::Restart),
    ];
    vec((0..3_usize, step), 1..60)
}

/// One replica and its past.
#[derive(Clone, Default)]
struct Site {
    state: State,
    own: Option<ReplicaId>,
    log: Vec<Op>,
    past: Vec<(State, Option<ReplicaId>, Vec<Op>)>,
    starts: u128,
}

impl Site {
    fn take(&mut self, op: &Op) -> Verdict {
        let verdict = op.judge(&self.state.vv);
        if verdict == Verdict::Next {
            self.state.apply(&EmptyBase, &Entry::Op(op.clone())).unwrap();
            self.log.push(op.clone());
        }
        verdict
    }

    fn make(&mut self, site: usize, restart: bool, body: OpBody) {
        self.past.push((self.state.clone(), self.own, self.log.clone()));
        if restart || self.own.is_none() {
            let parent = self.own.map(|own| self.state.last_dot(own));
            self.starts += 1;
            let own = ReplicaId::from_random(100 * self.starts + site as u128);
            self.own = Some(own);
            let start = OpBody::Start { node: NodeId::new(&format!("n{site}")).unwrap(), parent };
            assert_eq!(self.take(&Op { dot: Dot::new(own, Seq(1)), body: start }), Verdict::Next);
        }
        let own = self.own.expect("it has started");
        let dot = Dot::new(own, self.state.vv.get(own).next());
        assert_eq!(self.take(&Op { dot, body }), Verdict::Next);
    }
}

/// Plays the steps; gives back the sites, of which the first has heard of everything that is still anywhere.
fn play(steps: &[(usize, Step)]) -> Vec<Site> {
    let mut sites = vec![Site::default(); 3];
    let mut restarting = [false; 3];
    for (n, step) in steps {
        match step {
            Step::Add(e) => {
                let restart = std::mem::take(&mut restarting[*n]);
                sites[*n].make(*n, restart, OpBody::Add(element(*e)));
            }
            Step::Remove(e) => {
                let tags = sites[*n].state.tags(&EmptyBase, &element(*e)).unwrap();
                if !tags.is_empty() {
                    let restart = std::mem::take(&mut restarting[*n]);
                    sites[*n].make(*n, restart, OpBody::Remove { element: element(*e), tags });
                }
            }
            Step::Merge(from) => merge(&mut sites, *from, *n),
            Step::Restart(back) => {
                restarting[*n] = true;
                let site = &mut sites[*n];
                for _ in 0..*back {
                    let Some((state, own, log)) = site.past.pop() else { break };
                    (site.state, site.own, site.log) = (state, own, log);
                }
            }
        }
    }
    merge(&mut sites, 1, 0);
    merge(&mut sites, 2, 0);
    sites
}

fn merge(sites: &mut [Site], from: usize, to: usize) {
    for op in sites[from].log.clone() {
        assert_ne!(sites[to].take(&op), Verdict::Early, "a log is in an order in which it applies");
    }
}

/// What the operations mean: every add less what the removes name.
fn meaning(ops: &[Op]) -> Live {
    let mut live = Live::new();
    let mut removed = BTreeSet::new();
    for op in ops {
        match &op.body {
            OpBody::Start { .. } => {}
            OpBody::Add(element) => drop(live.insert(op.dot, element.as_str().to_owned())),
            OpBody::Remove { tags, .. } => removed.extend(tags.iter().copied()),
        }
    }
    live.retain(|tag, _| !removed.contains(tag));
    live
}

/// Applies the operations in the order that `picks` draws among those that apply.
fn in_another_order(ops: &[Op], picks: &[prop::sample::Index]) -> State {
    let (mut state, mut rest) = (State::default(), ops.to_vec());
    let mut picks = picks.iter().cycle();
    while !rest.is_empty() {
        let next: Vec<usize> = (0..rest.len()).filter(|n| rest[*n].judge(&state.vv) == Verdict::Next).collect();
        let op = rest.remove(next[picks.next().expect("it cycles").index(next.len())]);
        state.apply(&EmptyBase, &Entry::Op(op.clone())).unwrap();
        assert_eq!(op.judge(&state.vv), Verdict::Known, "a second time it is skipped");
    }
    state
}

/// A state delta of `sender` for somebody who holds `digest`, in parts of a few records.
fn state_delta(sender: &State, digest: &VersionVector) -> Vec<Entry> {
    let join = JoinId(7);
    let mut bits = DotSet::default();
    let mut listed = Vec::new();
    for record in sender.records(&EmptyBase, &[]).map(Result::unwrap) {
        if digest.covers(record.tag()) {
            bits.insert(record.tag());
        } else {
            listed.push((record.element(), record.tag()));
        }
    }
    let mut parts: Vec<JoinPart> =
        listed.chunks(3).map(|some| JoinPart { join, records: some.to_vec(), live: Vec::new() }).collect();
    parts.push(JoinPart { join, records: Vec::new(), live: bits.pieces(2) });
    let commit = JoinCommit { join, vv: sender.vv.clone(), incarnations: sender.incarnations.clone() };
    parts.into_iter().map(Entry::JoinPart).chain([Entry::JoinCommit(commit)]).collect()
}

/// Records of a state delta, kept beside the state that they were staged in.
struct Kept(Vec<(Element, Tag)>);

impl KeptRecords for Kept {
    fn read(&self) -> Result<Vec<(Element, Tag)>, BaseError> {
        Ok(self.0.clone())
    }
}

/// Applies a state delta; after some of its parts the records that have come are kept elsewhere.
fn join(state: &mut State, delta: Vec<Entry>, keep: &[bool]) {
    let mut since = Vec::new();
    for (entry, keep) in delta.into_iter().zip(keep.iter().cycle()) {
        state.apply(&EmptyBase, &entry).unwrap();
        if let Entry::JoinPart(part) = entry {
            since.extend(part.records);
        }
        if *keep {
            state.keep_staged(|_, count| {
                assert_eq!(count, since.len());
                Arc::new(Kept(std::mem::take(&mut since)))
            });
        }
    }
}

/// A base of records that are given.
struct Given(Vec<Record>);

impl Base for Given {
    fn records(&self, from: &[u8]) -> Records<'_> {
        let from = from.to_vec();
        Box::new(self.0.iter().filter(move |r| r.key.as_bytes() >= from.as_slice()).cloned().map(Ok))
    }
}

fn record(n: u8) -> Record {
    Record::new(&element(n % 4), Dot::new(ReplicaId::from_random(1), Seq(2 + u64::from(n / 4))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_concurrent_operations_does_not_matter(steps in steps(), picks in vec(any::<prop::sample::Index>(), 1..40)) {
        let all = &play(&steps)[0];
        let other = in_another_order(&all.log, &picks);
        prop_assert_eq!(live(&other), live(&all.state));
        prop_assert_eq!(live(&other), meaning(&all.log));
        prop_assert_eq!(&other.vv, &all.state.vv);
        prop_assert_eq!(&other.incarnations, &all.state.incarnations);
    }

    #[test]
    fn an_operation_that_is_not_next_changes_nothing(steps in steps()) {
        let mut all = play(&steps).swap_remove(0);
        let before = live(&all.state);
        for op in all.log.clone() {
            prop_assert_eq!(op.judge(&all.state.vv), Verdict::Known);
            prop_assert!(all.state.apply(&EmptyBase, &Entry::Op(op.clone())).is_err());
            let later = Op { dot: Dot::new(op.dot.replica, Seq(1_000)), body: OpBody::Add(element(1)) };
            prop_assert_eq!(later.judge(&all.state.vv), Verdict::Early);
            prop_assert!(all.state.apply(&EmptyBase, &Entry::Op(later)).is_err());
        }
        prop_assert_eq!(live(&all.state), before);
    }

    #[test]
    fn an_add_wins_over_every_remove_that_did_not_see_it(steps in steps()) {
        let mut sites = play(&steps);
        sites[1].make(1, true, OpBody::Add(element(1)));
        let tag = sites[1].log.last().expect("just made").dot;
        let seen = sites[2].state.tags(&EmptyBase, &element(1)).unwrap();
        if !seen.is_empty() {
            sites[2].make(2, true, OpBody::Remove { element: element(1), tags: seen.clone() });
        }
        merge(&mut sites, 1, 2);
        merge(&mut sites, 2, 1);
        for site in &sites[1..] {
            let tags = site.state.tags(&EmptyBase, &element(1)).unwrap();
            prop_assert!(tags.contains(&tag) && !tags.iter().any(|tag| seen.contains(tag)));
        }
    }

    /// However much it changes: worked into the memtable, or laid over it; held in memory, or kept elsewhere.
    #[test]
    fn a_state_delta_has_the_effect_of_the_operations(
        steps in steps(),
        (from, to) in (0..3_usize, 0..3_usize),
        asked in any::<prop::sample::Index>(),
        most in option::of(0..3_usize),
        keep in vec(any::<bool>(), 1..4),
    ) {
        let mut sites = play(&steps);
        let sender = sites[from].clone();
        // The digest was frozen when the receiver held only some of its log; the rest has come since.
        let log = sites[to].log.clone();
        let frozen: VersionVector =
            log[..asked.index(log.len() + 1)].iter().map(|op| (op.dot.replica, op.dot.seq)).collect();
        let mut joined = sites[to].state.clone();
        joined.max_join_changes = most;
        join(&mut joined, state_delta(&sender.state, &frozen), &keep);
        for op in &sender.log {
            sites[to].take(op);
        }
        let told = sites[to].state.clone();
        prop_assert_eq!(live(&joined), live(&told));
        prop_assert_eq!(&joined.vv, &told.vv);
        prop_assert_eq!(&joined.incarnations, &told.incarnations);
        prop_assert!(sender.state.vv.is_within(&joined.floor));
        for record in told.records(&EmptyBase, &[]).map(Result::unwrap) {
            let keys = |state: &State| -> Vec<RecordKey> {
                state.records(&EmptyBase, record.key.as_bytes()).map(|r| r.unwrap().key).collect()
            };
            prop_assert_eq!(keys(&joined), keys(&told), "from a key on");
        }
        // A base takes it all over: what the state delta drops does not come back with the memtable.
        let mut based = joined.clone();
        let base = Given(joined.records(&EmptyBase, &[]).map(Result::unwrap).collect());
        based.memtable.drop_joined(based.memtable.joined());
        let over: Live = based.records(&base, &[]).map(|r| r.map(|r| (r.tag(), r.element().as_str().to_owned())).unwrap()).collect();
        prop_assert_eq!(over, live(&told));
        // And everything that may follow, another state delta too.
        let all = sites[0].clone();
        let mut told = all.log.clone();
        told.retain(|op| !joined.vv.covers(op.dot));
        let mut twice = joined.clone();
        join(&mut twice, state_delta(&all.state, &joined.vv), &keep);
        for op in told {
            joined.apply(&EmptyBase, &Entry::Op(op)).unwrap();
        }
        merge(&mut sites, to, 0);
        prop_assert_eq!(live(&joined), live(&sites[0].state));
        prop_assert_eq!(live(&twice), live(&sites[0].state));
    }

    #[test]
    fn a_digest_is_expanded_to_what_it_was_made_of(steps in steps()) {
        let sites = play(&steps);
        for holder in &sites {
            let (vv, digest) = (&holder.state.vv, holder.state.incarnations.compact(&holder.state.vv));
            prop_assert!(digest.is_within(vv));
            // By its maker, and by whoever has heard of more.
            for reader in [holder, &sites[0]] {
                prop_assert_eq!(&reader.state.incarnations.expand(&digest).unwrap(), vv);
            }
        }
    }

    #[test]
    fn a_digest_of_any_tree_of_incarnations_is_expanded_to_what_it_was_made_of(tree in vec((any::<prop::sample::Index>(), 1..6_u64, 1..9_u64), 1..30)) {
        let (mut table, mut vv) = (Incarnations::new(), VersionVector::new());
        for (n, (parent, at, length)) in tree.iter().enumerate() {
            let id = |n: usize| ReplicaId::from_random(n as u128 * 7919 % 101);
            let parent = (n > 0).then(|| {
                let parent = id(parent.index(n));
                Dot::new(parent, Seq(*at.min(&vv.get(parent).0)))
            });
            table.insert(id(n), Incarnation { node: NodeId::new("n1").unwrap(), parent });
            vv.raise(id(n), Seq(*length));
        }
        let digest = table.compact(&vv);
        prop_assert_eq!(table.expand(&digest).unwrap(), vv);
    }

    #[test]
    fn a_memtable_on_a_base_is_a_map(base in vec(0..40_u8, 0..20), changes in vec((0..40_u8, 0..10_u8), 0..60), from in 0..40_u8) {
        let base: BTreeSet<u8> = base.into_iter().collect();
        let mut model: BTreeMap<RecordKey, Record> = base.iter().map(|n| (record(*n).key, record(*n))).collect();
        let mut records: Vec<Record> = model.values().cloned().collect();
        let mut memtable = Memtable::default();
        let mut gone = BTreeSet::new();
        for (n, what) in changes {
            let Record { key, long_element } = record(n);
            match what {
                // A tag is not added again once it is removed.
                0..=4 if !gone.contains(&n) => {
                    model.insert(key.clone(), record(n));
                    memtable.insert(key, Change::Put(long_element));
                }
                5..=7 => {
                    gone.insert(n);
                    model.remove(&key);
                    memtable.insert(key, Change::Delete);
                }
                8 if !memtable.has_elder() => memtable.age(),
                // The base takes the elder over: here, all there is.
                9 if memtable.has_elder() => {
                    records = model.values().cloned().collect();
                    memtable.drop_elder();
                }
                _ => {}
            }
            let given = Given(records.clone());
            let from = record(from).key;
            let merged: Vec<Record> = memtable.over(&given, from.as_bytes()).map(Result::unwrap).collect();
            let expected: Vec<Record> = model.range(from..).map(|(_, record)| record.clone()).collect();
            prop_assert_eq!(merged, expected);
        }
    }
}

/// What is live must be covered, else the operation that it came from applies once more.
#[test]
fn a_state_delta_that_lists_what_its_vector_does_not_cover_is_refused_and_changes_nothing() {
    let replica = ReplicaId::from_random(1);
    let element = Element::from_canonical(b"1");
    let part =
        |seq| JoinPart { join: JoinId(1), records: vec![(element.clone(), Dot::new(replica, Seq(seq)))], live: vec![] };
    let commit = JoinCommit {
        join: JoinId(1),
        vv: [(replica, Seq(5))].into_iter().collect(),
        incarnations: Incarnations::new(),
    };
    for (seq, sound) in [(5, true), (6, false)] {
        let mut state = State::default();
        state.apply(&EmptyBase, &Entry::JoinPart(part(seq))).unwrap();
        let mut context = state.clone();
        let commit = Entry::JoinCommit(commit.clone());
        assert_eq!(state.apply(&EmptyBase, &commit).is_ok(), sound, "{seq}");
        assert_eq!(context.apply_context(&commit).is_ok(), sound, "{seq}, on top of an index");
        assert_eq!((state.vv.is_empty(), state.memtable.is_empty()), (!sound, !sound), "{seq}");
    }
}
