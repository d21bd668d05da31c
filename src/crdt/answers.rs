//! What was answered to requests that had a name, so that a repeated one gets the first answer and changes nothing.
//!
//! The table belongs to one store: it is what the [`Answered`] entries of its log say, the newest [`MAX_ANSWERS`] of
//! them. Peers never hear of it, so a client that asks another node asks anew. It is a part of the fold like the records
//! are: whoever folds a suffix of the log that is long enough gets the same table.
//!
//! A name is kept as its SHA-256, cut to 128 bits. Two names with one hash would let one client's request be taken for
//! another's; nobody can make such a pair on purpose with fewer than 2^64 tries, and then it is a pair of their own. Of
//! what was asked 64 bits of a hash are kept, as that only guards a client against its own mistakes.
//!
//! ```
//! use orset::crdt::{Answer, Answered, Answers, AskedHash, Dot, ReplicaId, RequestKey, Seq};
//! let (key, tag) = (RequestKey::of("order 17"), Dot::new(ReplicaId::from_random(7), Seq(2)));
//! let mut answers = Answers::default();
//! answers.push(Answered { key, asked: AskedHash::of([&b"add"[..], &b"1"[..]]), answer: Answer::Added([tag].into_iter().collect()) });
//! assert_eq!(answers.find(key).unwrap().answer.tags().collect::<Vec<_>>(), [tag]);
//! assert!(answers.find(RequestKey::of("order 18")).is_none());
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use sha2::{Digest, Sha256};

use super::id::{Dot, Seq, Tag};

/// So many of the newest answers are kept.
pub const MAX_ANSWERS: usize = 100_000;
/// Fewer are kept if they take more than about this much memory: some 40 scattered tags each.
pub const MAX_ANSWERS_BYTES: usize = 64 << 20;
/// Most tags in one answer.
pub const MAX_ANSWER_TAGS: usize = 16_384;

/// The hash of the name that a client gave its request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey([u8; 16]);

impl RequestKey {
    /// The key of this name.
    pub fn of(name: &str) -> Self {
        Self(cut(Sha256::digest(name)))
    }

    /// The key of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A hash of what was asked for under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskedHash(pub [u8; 8]);

impl AskedHash {
    /// The hash of these texts, in this order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two lists run together into one text.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(cut(hash.finalize()))
    }
}

fn cut<const N: usize>(hash: impl Into<[u8; 32]>) -> [u8; N] {
    *hash.into().first_chunk().expect("fewer than 32 bytes")
}

/// Consecutive tags of one replica: `first` and those after it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    /// As bytes, which take half as much memory as a [`Tag`] does.
    first: [u8; 16],
    count: u32,
}

/// Tags in little memory: runs of consecutive ones.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TagList(Box<[Run]>);

impl TagList {
    /// The tags of these runs, each a first tag and how many there are; `None` if one has none, or none that a tag can be.
    pub fn from_runs(runs: impl IntoIterator<Item = (Tag, u32)>) -> Option<Self> {
        let run = |(first, count): (Tag, u32)| {
            let last = first.seq.0.checked_add(u64::from(count).checked_sub(1)?)?;
            (first.seq > Seq(0) && last <= Seq::MAX.0).then(|| Run { first: first.to_bytes(), count })
        };
        runs.into_iter().map(run).collect::<Option<_>>().map(Self)
    }

    /// The runs, each a first tag and how many there are.
    pub fn runs(&self) -> impl Iterator<Item = (Tag, u32)> {
        self.0.iter().map(|run| (Dot::from_bytes(run.first).expect("made from a tag"), run.count))
    }

    /// The tags.
    pub fn iter(&self) -> impl Iterator<Item = Tag> {
        self.runs().flat_map(|(first, count)| {
            (0..u64::from(count)).map(move |n| Dot::new(first.replica, Seq(first.seq.0 + n)))
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().map(|run| run.count as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

impl FromIterator<Tag> for TagList {
    fn from_iter<T: IntoIterator<Item = Tag>>(tags: T) -> Self {
        let (mut runs, mut next) = (Vec::<Run>::new(), None);
        for tag in tags {
            match runs.last_mut().filter(|run| next == Some(tag) && run.count < u32::MAX) {
                Some(run) => run.count += 1,
                None => runs.push(Run { first: tag.to_bytes(), count: 1 }),
            }
            next = Some(Dot::new(tag.replica, tag.seq.next()));
        }
        Self(runs.into())
    }
}

impl fmt::Debug for TagList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The element is in, under this one tag.
    Added(TagList),
    /// The elements are in, under these tags, in the order of the request.
    AddedMany(TagList),
    /// These tags are gone.
    Removed(TagList),
    /// These tags are gone, by element, in the order of the request.
    RemovedMany(Box<[TagList]>),
}

impl Answer {
    fn lists(&self) -> &[TagList] {
        match self {
            Self::Added(list) | Self::AddedMany(list) | Self::Removed(list) => std::slice::from_ref(list),
            Self::RemovedMany(lists) => lists,
        }
    }

    /// All tags in it.
    pub fn tags(&self) -> impl Iterator<Item = Tag> {
        self.lists().iter().flat_map(TagList::iter)
    }

    /// Whether it can have been given: an add has one tag, and nothing more than [`MAX_ANSWER_TAGS`].
    pub fn is_possible(&self) -> bool {
        let tags = self.lists().iter().map(TagList::len).fold(0, usize::saturating_add);
        let lists = if let Self::RemovedMany(lists) = self { lists.len() } else { 1 };
        let fits = tags.max(lists) <= MAX_ANSWER_TAGS;
        if let Self::Added(_) = self { tags == 1 } else { fits }
    }
}

/// A request with a name, and what was answered to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The name's hash.
    pub key: RequestKey,
    /// The hash of what was asked for.
    pub asked: AskedHash,
    /// The answer.
    pub answer: Answer,
}

/// What one costs in the table beyond its lists: itself, and its place in the map.
const ENTRY_BYTES: usize = size_of::<Answered>() + 40;

impl Answered {
    /// About how many bytes it takes in memory, and at most in a log.
    pub fn weight(&self) -> usize {
        let list = |list: &TagList| size_of::<TagList>() + list.bytes();
        ENTRY_BYTES + self.answer.lists().iter().map(list).sum::<usize>()
    }
}

/// The newest answers. See the module's text.
#[derive(Clone, Default)]
pub struct Answers {
    /// Oldest first.
    kept: VecDeque<Answered>,
    /// The number of the oldest one, counting all that there ever were.
    first: u64,
    numbers: BTreeMap<RequestKey, u64>,
    bytes: usize,
}

impl Answers {
    /// Takes in an answer, and forgets the oldest ones beyond the bounds.
    pub fn push(&mut self, answered: Answered) {
        self.bytes += answered.weight();
        self.numbers.insert(answered.key, self.first + self.kept.len() as u64);
        self.kept.push_back(answered);
        while self.kept.len() > MAX_ANSWERS || self.bytes > MAX_ANSWERS_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.weight();
            if self.numbers.get(&oldest.key) == Some(&self.first) {
                self.numbers.remove(&oldest.key);
            }
            self.first += 1;
        }
    }

    /// The answer to the request of this name, if it is one of the newest.
    pub fn find(&self, key: RequestKey) -> Option<&Answered> {
        let place = self.numbers.get(&key)? - self.first;
        self.kept.get(usize::try_from(place).expect("a place in memory"))
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Answered> {
        self.kept.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl PartialEq for Answers {
    fn eq(&self, other: &Self) -> bool {
        self.kept == other.kept
    }
}

impl Eq for Answers {}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::ReplicaId;
    use super::*;

    fn tag(replica: u128, seq: u64) -> Tag {
        Dot::new(ReplicaId::from_random(replica), Seq(seq))
    }

    fn answered(n: u64) -> Answered {
        let answer = Answer::Added([tag(1, n + 2)].into_iter().collect());
        Answered { key: RequestKey::of(&n.to_string()), asked: AskedHash([0; 8]), answer }
    }

    #[test]
    fn a_list_gives_back_its_tags_and_consecutive_ones_cost_nothing() {
        let tags = [tag(1, 5), tag(1, 6), tag(1, 7), tag(2, 8), tag(1, 9), tag(1, 8)];
        let list: TagList = tags.into_iter().collect();
        assert_eq!(list.iter().collect::<Vec<_>>(), tags);
        assert_eq!(list.runs().map(|(_, count)| count).collect::<Vec<_>>(), [3, 1, 1, 1]);
        assert_eq!((TagList::from_runs(list.runs()), list.len()), (Some(list.clone()), 6));
        assert_eq!(TagList::from_runs([(tag(1, 5), 0)]), None);
        assert_eq!(TagList::from_runs([(tag(1, Seq::MAX.0), 2)]), None);
    }

    #[test]
    fn the_newest_hundred_thousand_are_known_and_no_others() {
        let mut answers = Answers::default();
        let count = MAX_ANSWERS as u64 + 3;
        (0..count).for_each(|n| answers.push(answered(n)));
        assert_eq!(answers.len(), MAX_ANSWERS);
        let known = |n: u64| answers.find(RequestKey::of(&n.to_string())).map(|found| found.answer.clone());
        assert_eq!([known(0), known(2)], [None, None]);
        assert_eq!(known(3), Some(answered(3).answer));
        assert_eq!(known(count - 1), Some(answered(count - 1).answer));
        // Whoever begins later comes to the same.
        let mut later = Answers::default();
        (2..count).for_each(|n| later.push(answered(n)));
        assert_eq!(later, answers);
    }

    #[test]
    fn large_answers_are_forgotten_sooner() {
        let scattered = (0..MAX_ANSWER_TAGS as u64).map(|n| tag(1, 2 + 2 * n)).collect::<TagList>();
        let mut answers = Answers::default();
        for n in 0..1_000 {
            answers.push(Answered { answer: Answer::Removed(scattered.clone()), ..answered(n) });
        }
        let room = MAX_ANSWERS_BYTES / answers.iter().next().unwrap().weight();
        assert_eq!(answers.len(), room);
    }

    #[test]
    fn a_name_that_comes_again_after_it_was_forgotten_is_known_by_its_last_answer() {
        let mut answers = Answers::default();
        let again = Answered { answer: Answer::Removed(TagList::default()), ..answered(0) };
        answers.push(answered(0));
        answers.push(again.clone());
        (1..MAX_ANSWERS as u64).for_each(|n| answers.push(answered(n)));
        assert_eq!(answers.find(again.key), Some(&again), "the older of the two has gone, and not the newer");
    }

    #[test]
    fn no_two_lists_of_elements_look_the_same() {
        let hash = |parts: &[&[u8]]| AskedHash::of(parts.iter().copied());
        assert_ne!(hash(&[b"add", b"12"]), hash(&[b"add", b"1", b"2"]));
        assert_ne!(hash(&[b"add", b"12"]), hash(&[b"add1", b"2"]));
    }

    #[test]
    fn a_run_begins_with_a_tag_that_there_can_be() {
        assert_eq!(TagList::from_runs([(tag(1, 0), 1)]), None, "operations are counted from one");
        assert!(TagList::from_runs([(tag(1, 1), 1)]).is_some());
    }

    #[test]
    fn nothing_is_empty_and_no_more() {
        assert!(TagList::default().is_empty() && Answers::default().is_empty());
        let mut answers = Answers::default();
        answers.push(answered(1));
        assert!(!answers.is_empty());
        assert!(!answers.iter().next().unwrap().answer.lists()[0].is_empty());
        assert_ne!(answers, Answers::default());
    }

    #[test]
    fn an_answer_weighs_what_it_takes() {
        let run = size_of::<Run>();
        assert_eq!(answered(0).weight(), ENTRY_BYTES + size_of::<TagList>() + run);
        let lists = [3, 0].map(|n| (0..n).map(|n| tag(1, 1 + 2 * n)).collect::<TagList>());
        let answer = Answer::RemovedMany(Box::new(lists));
        assert_eq!(Answered { answer, ..answered(0) }.weight(), ENTRY_BYTES + 2 * size_of::<TagList>() + 3 * run);
    }

    #[test]
    fn answers_that_take_just_as_much_as_they_may_are_all_kept() {
        let mut answers = Answers::default();
        let scattered = (0..MAX_ANSWER_TAGS as u64).map(|n| tag(1, 2 + 2 * n)).collect::<TagList>();
        let large = Answered { answer: Answer::Removed(scattered), ..answered(0) };
        while answers.bytes + 2 * large.weight() <= MAX_ANSWERS_BYTES {
            answers.push(large.clone());
        }
        // What is left is filled by lists of no tag and lists of one: 16 and 36 bytes.
        let (list, run) = (size_of::<TagList>(), size_of::<Run>());
        let rest = MAX_ANSWERS_BYTES - answers.bytes - ENTRY_BYTES;
        let runs = (0..list).find(|runs| (rest - runs * (list + run)).is_multiple_of(list)).unwrap();
        let lists = (rest - runs * run) / list;
        let one: TagList = [tag(1, 2)].into_iter().collect();
        let list = |n: usize| if n < runs { one.clone() } else { TagList::default() };
        let count = answers.len();
        answers.push(Answered { answer: Answer::RemovedMany((0..lists).map(list).collect()), ..answered(1) });
        assert_eq!((answers.bytes, answers.len()), (MAX_ANSWERS_BYTES, count + 1));
        answers.push(answered(2));
        assert_eq!(answers.len(), count + 1, "one came and the oldest went");
    }

    #[test]
    fn what_failed_tests_show_of_answers() {
        let list: TagList = [tag(1, 5), tag(2, 8)].into_iter().collect();
        assert_eq!(format!("{list:?}"), format!("[{}, {}]", tag(1, 5), tag(2, 8)));
        let mut answers = Answers::default();
        answers.push(answered(1));
        let text = format!("{answers:?}");
        assert!(text.starts_with("[Answered") && text.contains(&RequestKey::of("1").to_string()), "{text}");
    }
}
