//! What real replicas say and hold, asked once for each state of a replica that there is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use orset::crdt::{Dot, Op, OpBody, VersionVector};

use super::real::{Answer, Real};
use super::site::{Place, Site, StateDelta, element};

/// All that there ever was.
type Ops = BTreeMap<Dot, Op>;

/// See the module's text.
#[derive(Default)]
pub struct Bridge {
    lived: HashSet<Vec<u8>>,
    answers: HashMap<Vec<u8>, Answer>,
    pulled: HashMap<Vec<u8>, Arc<StateDelta>>,
}

impl Bridge {
    /// How many states of one replica a real one has lived through.
    pub fn lived(&self) -> usize {
        self.lived.len()
    }

    /// How many different answers and state deltas real replicas have given.
    pub fn said(&self) -> usize {
        self.answers.len() + self.pulled.len()
    }

    /// A real replica that lives through the same holds the same.
    ///
    /// # Errors
    /// In words, if not.
    pub fn lives_through(&mut self, site: &Site, ops: &Ops) -> Result<(), String> {
        if !self.lived.insert(local_name(site, ops)) {
            return Ok(());
        }
        let (vv, floor, live) = Real::of(site).view();
        let expected = site.live.iter().map(|(tag, number)| (*tag, element(*number))).collect();
        if (&vv, &floor, &live) == (&site.state.vv, &site.state.floor, &expected) {
            return Ok(());
        }
        let (ours, steps) = ((&site.state.vv, &site.state.floor, expected), &site.history);
        Err(format!("a real n{} has {vv:?}, {floor:?}, {live:?} instead of {ours:?} after {steps:?}", site.place + 1))
    }

    /// What the site answers to `to`, which holds `digest`.
    pub fn answer(&mut self, site: &Site, ops: &Ops, to: Place, digest: &VersionVector) -> Answer {
        let mut name = local_name(site, ops);
        vector(digest, &mut name);
        self.answers.entry(name).or_insert_with(|| Real::of(site).answer(to, digest)).clone()
    }

    /// The state delta that the site `to` pulls from the newest snapshot of the site `from`.
    ///
    /// # Errors
    /// In words, if it is not offered, pulled or given.
    pub fn pulled(&mut self, from: &Site, to: &Site, ops: &Ops) -> Result<Arc<StateDelta>, String> {
        let mut name = local_name(from, ops);
        name.push(u8::try_from(to.place).unwrap());
        vector(&to.state.vv, &mut name);
        if let Some(known) = self.pulled.get(&name) {
            return Ok(Arc::clone(known));
        }
        let mut sender = Real::of(from);
        let (offered, vv) = sender.offer(to.place).ok_or("a snapshot at the floor is not offered")?;
        let pull = Real::of(to).pull(from.place, offered, &vv);
        let (key, digest) = pull.ok_or("an offer of news is not taken up")?;
        if digest != to.state.vv || Some(&vv) != from.snapshot.as_ref() {
            return Err(format!("{vv:?} is offered for {:?}, and {digest:?} is what pulls it", from.snapshot));
        }
        let parts = sender.parts(to.place, key, &digest).filter(|parts| !parts.is_empty());
        let parts = parts.ok_or("what has just been offered is gone")?;
        let delta = Arc::new(StateDelta { from: from.place, key, vv, digest, parts });
        self.pulled.insert(name, Arc::clone(&delta));
        Ok(delta)
    }
}

/// All that a replica's future depends on, as bytes: the operations that it holds, and which of them are in its log.
fn local_name(site: &Site, ops: &Ops) -> Vec<u8> {
    let mut name = vec![u8::try_from(site.place).unwrap(), site.life];
    name.extend(site.own.map_or(0, |own| own.to_u128() + 1).to_le_bytes());
    for vv in [Some(&site.state.floor), site.snapshot.as_ref(), site.receiving.as_ref().map(|r| &r.delta.digest)] {
        name.push(u8::from(vv.is_some()));
        vv.into_iter().for_each(|vv| vector(vv, &mut name));
    }
    if let Some(receiving) = &site.receiving {
        name.extend([u8::try_from(receiving.delta.from).unwrap(), u8::try_from(receiving.taken).unwrap()]);
        vector(&receiving.delta.vv, &mut name);
    }
    for op in ops.values().filter(|op| site.state.vv.covers(op.dot)) {
        dot(op.dot, &mut name);
        match &op.body {
            OpBody::Start { parent, .. } => parent.iter().for_each(|parent| dot(*parent, &mut name)),
            OpBody::Add(element) => name.extend(element.as_bytes()),
            OpBody::Remove { tags, .. } => tags.iter().for_each(|tag| dot(*tag, &mut name)),
        }
        name.push(0xff);
    }
    name
}

fn dot(dot: Dot, name: &mut Vec<u8>) {
    name.extend([&dot.replica.to_u128().to_le_bytes()[..2], &[u8::try_from(dot.seq.0).unwrap()]].concat());
}

fn vector(vv: &VersionVector, name: &mut Vec<u8>) {
    vv.iter().for_each(|(replica, seq)| dot(Dot::new(replica, seq), name));
    name.push(0xff);
}
