//! The rules by which a replica takes things in: the product's, and wrong ones that the search must catch.

use orset::crdt::{
    Change, Dot, EmptyBase, Entry, JoinCommit, JoinId, JoinPart, Op, OpBody, RecordKey, State, Verdict, VersionVector,
};
use orset::replica::StateContent;

use super::site::Receiving;

const JOIN: JoinId = JoinId(1);

/// What is checked: by default the product's code and nothing else.
pub trait Rules {
    /// Takes in an operation that has arrived.
    fn receive(&self, state: &mut State, op: &Op) {
        if op.judge(&state.vv) == Verdict::Next {
            state.apply(&EmptyBase, &Entry::Op(op.clone())).unwrap();
        }
    }

    /// Takes in a part of a state delta.
    fn part(&self, state: &mut State, receiving: &Receiving, content: &StateContent) {
        let _ = receiving;
        state.apply(&EmptyBase, &Entry::JoinPart(part(content))).unwrap();
    }

    /// The end of a state delta.
    fn commit(&self, state: &mut State, receiving: &Receiving) {
        state.apply(&EmptyBase, &Entry::JoinCommit(commit(receiving))).unwrap();
    }

    /// The context that a sender who holds `sender` by now sends with a snapshot.
    fn claimed(&self, snapshot: &VersionVector, sender: &VersionVector) -> VersionVector {
        let _ = sender;
        snapshot.clone()
    }

    /// The life after a wipe in life `life`.
    fn life_after_wipe(&self, life: u8) -> u8 {
        life + 1
    }
}

/// A part as it goes into the log.
fn part(content: &StateContent) -> JoinPart {
    JoinPart { join: JOIN, records: content.records.clone(), live: content.live.clone() }
}

/// The commit as it goes into the log.
fn commit(receiving: &Receiving) -> JoinCommit {
    let incarnations = receiving.delta.parts.iter().flat_map(|(_, _, content)| content.incarnations.iter().cloned());
    JoinCommit { join: JOIN, vv: receiving.claimed.clone(), incarnations: incarnations.collect() }
}

fn delete(state: &mut State, op: &Op, keep: impl Fn(Dot) -> bool) {
    let OpBody::Remove { element, .. } = &op.body else { return };
    for tag in state.tags(&EmptyBase, element).unwrap() {
        if !keep(tag) {
            state.memtable.insert(RecordKey::new(element, tag), Change::Delete);
        }
    }
}

/// The product's.
pub struct Product;
impl Rules for Product {}

/// A remove need not wait for the adds that it saw.
pub struct RemoveBeforeItsAdd;
impl Rules for RemoveBeforeItsAdd {
    fn receive(&self, state: &mut State, op: &Op) {
        let next = op.dot.seq == state.vv.get(op.dot.replica).next();
        match (&op.body, op.judge(&state.vv)) {
            (OpBody::Remove { tags, .. }, Verdict::Early) if next => {
                delete(state, op, |tag| !tags.contains(&tag));
                state.vv.advance(op.dot);
            }
            _ => Product.receive(state, op),
        }
    }
}

/// A remove takes all tags of its element that there are where it arrives.
pub struct RemoveOfConcurrentTags;
impl Rules for RemoveOfConcurrentTags {
    fn receive(&self, state: &mut State, op: &Op) {
        if op.judge(&state.vv) == Verdict::Next {
            delete(state, op, |_| false);
        }
        Product.receive(state, op);
    }
}

/// An operation may be taken in with a gap before it.
pub struct GapsArePaperedOver;
impl Rules for GapsArePaperedOver {
    fn receive(&self, state: &mut State, op: &Op) {
        if let (OpBody::Add(element), Verdict::Early) = (&op.body, op.judge(&state.vv)) {
            state.vv.raise(op.dot.replica, op.dot.seq);
            state.memtable.insert(RecordKey::new(element, op.dot), Change::Put(None));
            return;
        }
        Product.receive(state, op);
    }
}

/// A state delta is sent with what its sender holds by now.
pub struct OverclaimedContext;
impl Rules for OverclaimedContext {
    fn claimed(&self, _snapshot: &VersionVector, sender: &VersionVector) -> VersionVector {
        sender.clone()
    }
}

/// The context of a state delta is joined with its first part.
pub struct JoinedPartByPart;
impl Rules for JoinedPartByPart {
    fn part(&self, state: &mut State, receiving: &Receiving, content: &StateContent) {
        Product.part(state, receiving, content);
        Product.commit(state, receiving);
    }

    fn commit(&self, _state: &mut State, _receiving: &Receiving) {}
}

/// What a state delta lists is put in, also what has been removed here.
pub struct ListedTagsComeBack;
impl Rules for ListedTagsComeBack {
    fn commit(&self, state: &mut State, receiving: &Receiving) {
        Product.commit(state, receiving);
        for (element, tag) in receiving.delta.parts.iter().flat_map(|(_, _, content)| &content.records) {
            state.memtable.insert(RecordKey::new(element, *tag), Change::Put(None));
        }
    }
}

/// A state delta removes nothing.
pub struct JoinWithoutRemovals;
impl Rules for JoinWithoutRemovals {
    fn commit(&self, state: &mut State, receiving: &Receiving) {
        let before: Vec<_> = state.records(&EmptyBase, &[]).map(Result::unwrap).collect();
        Product.commit(state, receiving);
        for record in before {
            state.memtable.insert(record.key, Change::Put(record.long_element));
        }
    }
}

/// What is live is judged by the vector at the commit, as if the digest had not been frozen: what the receiver has come to
/// hold meanwhile, and is not listed, goes.
pub struct DigestNotFrozen;
impl Rules for DigestNotFrozen {
    fn commit(&self, state: &mut State, receiving: &Receiving) {
        let meanwhile = state.vv.clone();
        Product.commit(state, receiving);
        let gone: Vec<RecordKey> = state.records(&EmptyBase, &[]).map(|record| record.unwrap().key).collect();
        for key in gone {
            let tag = key.tag();
            if meanwhile.covers(tag) && !receiving.delta.digest.covers(tag) {
                state.memtable.insert(key, Change::Delete);
            }
        }
    }
}

/// A wiped store goes on under its old replica id.
pub struct ReplicaIdKeptAfterWipe;
impl Rules for ReplicaIdKeptAfterWipe {
    fn life_after_wipe(&self, life: u8) -> u8 {
        life
    }
}

/// Removes of others are dropped on arrival. What is held is never wrong; it only never gets further.
pub struct RemovesAreLost;
impl Rules for RemovesAreLost {
    fn receive(&self, state: &mut State, op: &Op) {
        if !matches!(op.body, OpBody::Remove { .. }) {
            Product.receive(state, op);
        }
    }
}

/// What arrives a second time is applied a second time.
pub struct AppliedTwice;
impl Rules for AppliedTwice {
    fn receive(&self, state: &mut State, op: &Op) {
        if let (OpBody::Add(element), Verdict::Known) = (&op.body, op.judge(&state.vv)) {
            state.memtable.insert(RecordKey::new(element, op.dot), Change::Put(None));
        }
        Product.receive(state, op);
    }
}
