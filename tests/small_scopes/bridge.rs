//! What real replicas say and hold, asked once for each state of a replica that there is.

use std::collections::HashMap;
use std::sync::Arc;

use super::real::{Answer, Real};
use super::site::{Place, Site, StateDelta, element};
use super::table::Number;

/// The site that is asked, the place of who asks, and the vector that this one holds.
type Question = (Number, Place, Number);

/// See the module's text. Sites and vectors are numbered by whoever asks.
#[derive(Default)]
pub struct Bridge {
    lived: usize,
    answers: usize,
    pulled: HashMap<Question, Arc<StateDelta>>,
}

impl Bridge {
    /// How many states of one replica a real one has lived through.
    pub fn lived(&self) -> usize {
        self.lived
    }

    /// How many different answers and state deltas real replicas have given.
    pub fn said(&self) -> usize {
        self.answers + self.pulled.len()
    }

    /// A real replica that lives through the same holds the same.
    ///
    /// # Errors
    /// In words, if not.
    pub fn lives_through(&mut self, site: &Site) -> Result<(), String> {
        self.lived += 1;
        let (vv, floor, live) = Real::of(site).view();
        let expected = site.live.iter().map(|(tag, number)| (*tag, element(*number))).collect();
        if (&vv, &floor, &live) == (&site.state.vv, &site.state.floor, &expected) {
            return Ok(());
        }
        let (ours, steps) = ((&site.state.vv, &site.state.floor, expected), site.history.steps());
        Err(format!("a real n{} has {vv:?}, {floor:?}, {live:?} instead of {ours:?} after {steps:?}", site.place + 1))
    }

    /// What the site answers to `asker`.
    pub fn answer(&mut self, site: &Site, asker: &Site) -> Answer {
        self.answers += 1;
        Real::of(site).answer(asker.place, &asker.state.vv)
    }

    /// The state delta that the site `to`, which holds a vector of that number, pulls from the newest snapshot of the site `from`.
    ///
    /// # Errors
    /// In words, if it is not offered, pulled or given.
    pub fn pulled(
        &mut self,
        (number, from): (Number, &Site),
        to: &Site,
        vector: Number,
    ) -> Result<Arc<StateDelta>, String> {
        let question = (number, to.place, vector);
        if let Some(known) = self.pulled.get(&question) {
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
        self.pulled.insert(question, Arc::clone(&delta));
        Ok(delta)
    }
}
