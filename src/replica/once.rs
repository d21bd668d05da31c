//! Requests with a name: a repeated one gets the first answer again, and changes nothing.
//!
//! A client that has heard nothing cannot know whether its request was done. Under a name it can ask again, also after
//! this node has been killed: the answer is durable in one step with what was done, and a repeat that comes before that
//! waits in the same outbox as the first. The table is this store's: a client that asks another node, or one whose store
//! was set back to before the request, has it done there a second time.

use std::collections::BTreeSet;

use super::{ErrorCode, Replica, Reply, Write};
use crate::crdt::{Answer, Element, MAX_REMOVE_TAGS, OpBody, RequestKey, TagList};
use crate::storage::StoreError;

impl Replica {
    /// Does what is asked for, unless it has been done under this name.
    pub(super) fn once(&mut self, key: RequestKey, write: Write) -> Result<Reply, StoreError> {
        let asked = write.hash();
        if let Some(known) = self.store.answered(key) {
            return Ok(if known.asked == asked {
                again(&known.answer)
            } else {
                malformed("this request_id was given to another request")
            });
        }
        let outcome = match write {
            Write::Add(element) => self.store.append_answered(key, asked, vec![OpBody::Add(element)], |dots| {
                Answer::Added(dots.iter().copied().collect())
            }),
            Write::AddMany(elements) => {
                let bodies = elements.into_iter().map(OpBody::Add).collect();
                self.store.append_answered(key, asked, bodies, |dots| Answer::AddedMany(dots.iter().copied().collect()))
            }
            Write::Remove(element) => {
                let (bodies, mut lists) = self.removals(vec![element])?;
                let list = lists.pop().unwrap_or_default();
                self.store.append_answered(key, asked, bodies, |_| Answer::Removed(list))
            }
            Write::RemoveMany(elements) => {
                let (bodies, lists) = self.removals(elements)?;
                self.store.append_answered(key, asked, bodies, |_| Answer::RemovedMany(lists.into()))
            }
        };
        Ok(outcome.map_or_else(
            |_| malformed("more elements, tags or bytes than are changed at once under a request_id"),
            |answer| again(&answer),
        ))
    }

    /// The operations that remove what is seen of each element, and which tags that are.
    fn removals(&mut self, elements: Vec<Element>) -> Result<(Vec<OpBody>, Vec<TagList>), StoreError> {
        self.store.prepare_look_ups();
        let (mut bodies, mut lists, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for element in elements {
            // The second time an element comes there is nothing left of it.
            let tags = if seen.insert(element.as_bytes().to_vec()) { self.store.tags(&element)? } else { Vec::new() };
            let body = |some: &[_]| OpBody::Remove { element: element.clone(), tags: some.to_vec() };
            bodies.extend(tags.chunks(MAX_REMOVE_TAGS).map(body));
            lists.push(tags.into_iter().collect());
        }
        Ok((bodies, lists))
    }
}

fn malformed(text: &str) -> Reply {
    Reply::Error { code: ErrorCode::MalformedRequest, text: text.to_owned() }
}

/// An answer as the reply that it was.
fn again(answer: &Answer) -> Reply {
    match answer {
        Answer::Added(list) => Reply::Added(list.iter().next().expect("an add has one tag")),
        Answer::AddedMany(list) => Reply::AddedMany(list.iter().collect()),
        Answer::Removed(list) => Reply::Removed(list.iter().collect()),
        Answer::RemovedMany(lists) => Reply::RemovedMany(lists.iter().map(|list| list.iter().collect()).collect()),
    }
}
