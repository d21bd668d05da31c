//! Requests with a name, and what is known of their answers.
//!
//! What a store was asked under a name goes with its files ([`Past`](super::slot::Past)): known for certain once it is
//! durable; of what was under way when a process died, a start must find all or nothing. From then on a repeat must get
//! exactly the first answer and do nothing, and whoever asks for something else under the name must be refused.

use std::collections::BTreeMap;

use super::rules::Rule;
use crate::crdt::{Dot, Element, RequestKey, Tag};
use crate::replica::{ErrorCode, Reply, Request, Write};
use crate::storage::Store;

/// What a request was and was answered.
#[derive(Clone)]
struct Kept {
    write: Write,
    reply: Reply,
    /// Its last operation, if it made any.
    last: Option<Dot>,
}

/// What a store must know of named requests.
#[derive(Clone, Default)]
pub struct Names {
    durable: BTreeMap<RequestKey, Kept>,
    /// Those that no commit has made durable yet, oldest first.
    under_way: Vec<(RequestKey, Kept)>,
}

fn tags_of(reply: &Reply) -> Vec<Tag> {
    match reply {
        Reply::Added(tag) => vec![*tag],
        Reply::AddedMany(tags) | Reply::Removed(tags) => tags.clone(),
        Reply::RemovedMany(lists) => lists.concat(),
        _ => Vec::new(),
    }
}

impl Names {
    /// What a request under a name must be answered, and which operation that speaks of; `perform` does it, if it has not
    /// been done.
    pub fn once(
        &mut self,
        key: RequestKey,
        write: Write,
        perform: impl FnOnce(&Write) -> (Reply, Option<Dot>),
    ) -> (Reply, Option<Dot>) {
        let under_way = self.under_way.iter().find(|(known, _)| *known == key).map(|(_, kept)| kept);
        match self.durable.get(&key).or(under_way) {
            Some(kept) if kept.write == write => (kept.reply.clone(), kept.last),
            Some(_) => (Reply::Error { code: ErrorCode::MalformedRequest, text: String::new() }, None),
            None => {
                let (reply, last) = perform(&write);
                self.under_way.push((key, Kept { write, reply: reply.clone(), last }));
                (reply, last)
            }
        }
    }

    /// Everything is durable by now.
    pub fn committed(&mut self) {
        self.durable.extend(self.under_way.drain(..));
    }

    /// Sees to it that a store that has just been opened knows what it must, and takes note of what it has of the rest.
    ///
    /// # Panics
    /// If it does not.
    pub fn found_in(&mut self, store: &Store) {
        for (key, kept) in std::mem::take(&mut self.under_way) {
            let known = store.answered(key).is_some();
            let done = kept.last.map_or(known, |last| store.vv().covers(last));
            Rule::Requests.must(known == done, || {
                format!("{:?} of {key} was done: {done}; and its answer is known: {known}", kept.write)
            });
            if known {
                self.durable.insert(key, kept);
            }
        }
        self.check(store);
    }

    /// Sees to it that a store knows what was durable.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self, store: &Store) {
        for (key, kept) in &self.durable {
            let found = store.answered(*key).map(|found| (found.asked, found.answer.tags().collect::<Vec<_>>()));
            let expected = (kept.write.hash(), tags_of(&kept.reply));
            Rule::Requests.must(found.as_ref() == Some(&expected), || {
                format!("{:?} of {key} was answered {:?}, and the store knows {found:?}", kept.write, kept.reply)
            });
        }
        let (known, expected) = (store.state().answers.len(), self.durable.len() + self.under_way.len());
        Rule::Requests.must(known == expected, || format!("the store knows {known} answers, and gave {expected}"));
    }
}

/// Requests that are repeated are among the last so many of a run.
const REMEMBERED: usize = 40;

/// Gives names to clients' requests, and repeats some. It draws from a stream of its own, so that all else is drawn as
/// it is without names.
pub struct Namer {
    rng: fastrand::Rng,
    given: u64,
    last: Vec<(usize, RequestKey, Write)>,
}

impl Namer {
    /// One for the run of this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed ^ 0x6e61_6d65_7300), given: 0, last: Vec::new() }
    }

    /// The requests that go to `slot` in place of these, and how many of them are repeats.
    pub fn named(&mut self, slot: usize, requests: Vec<Request>) -> (Vec<Request>, u64) {
        let (mut named, mut repeats) = (Vec::with_capacity(requests.len() + 1), 0);
        for request in requests {
            named.push(self.name(slot, request));
            if self.rng.u64(0..4) == 0
                && let Some(again) = self.repeat(slot)
            {
                named.push(again);
                repeats += 1;
            }
        }
        (named, repeats)
    }

    fn name(&mut self, slot: usize, request: Request) -> Request {
        if self.rng.u64(0..3) > 0 {
            return request;
        }
        let many = self.rng.u64(0..4) == 0;
        let twice = |element: Element| vec![element.clone(), element];
        let write = match (request, many) {
            (Request::Add(element), false) => Write::Add(element),
            (Request::Add(element), true) => Write::AddMany(twice(element)),
            (Request::Remove(element), false) => Write::Remove(element),
            (Request::Remove(element), true) => Write::RemoveMany(twice(element)),
            (other, _) => return other,
        };
        self.given += 1;
        let key = RequestKey::of(&self.given.to_string());
        if self.last.len() == REMEMBERED {
            self.last.remove(0);
        }
        self.last.push((slot, key, write.clone()));
        Request::Once(key, write)
    }

    /// A request from before: of the same slot mostly, and mostly the very same.
    fn repeat(&mut self, slot: usize) -> Option<Request> {
        let anywhere = self.rng.u64(0..8) == 0;
        let candidates: Vec<_> = self.last.iter().filter(|(of, ..)| anywhere || *of == slot).collect();
        let (_, key, write) = self.rng.choice(candidates)?;
        let write = match (write, self.rng.u64(0..8)) {
            (Write::Add(element), 0) => Write::Remove(element.clone()),
            (write, _) => write.clone(),
        };
        Some(Request::Once(*key, write))
    }
}
