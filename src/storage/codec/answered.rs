//! Bytes of the answers to requests with a name: the same in log frames and in snapshots.

use bincode::{Decode, Encode};

use super::{DotForm, Ids, KnownIds, Meaningless};
use crate::crdt::{Answer, Answered, AskedHash, RequestKey, TagList};

/// Consecutive tags of one replica: its place in the list of ids, the first number, how many.
type RunForm = (u32, u64, u32);

/// An [`Answered`], with replica ids by their places in a list.
#[derive(Encode, Decode)]
pub struct AnsweredForm {
    key: [u8; 16],
    asked: [u8; 8],
    answer: AnswerForm,
}

#[derive(Encode, Decode)]
enum AnswerForm {
    Added(DotForm),
    AddedMany(Vec<RunForm>),
    Removed(Vec<RunForm>),
    RemovedMany(Vec<Vec<RunForm>>),
}

impl AnsweredForm {
    /// The form of `answered`; new replica ids get a place in `ids`.
    pub fn new(ids: &mut Ids, answered: &Answered) -> Self {
        let mut runs = |list: &TagList| -> Vec<RunForm> {
            list.runs().map(|(first, count)| (ids.place(first.replica), first.seq.0, count)).collect()
        };
        let answer = match &answered.answer {
            Answer::Added(list) => {
                let (place, seq, _) = runs(list).first().copied().expect("an add has one tag");
                AnswerForm::Added((place, seq))
            }
            Answer::AddedMany(list) => AnswerForm::AddedMany(runs(list)),
            Answer::Removed(list) => AnswerForm::Removed(runs(list)),
            Answer::RemovedMany(lists) => AnswerForm::RemovedMany(lists.iter().map(runs).collect()),
        };
        Self { key: answered.key.to_bytes(), asked: answered.asked.0, answer }
    }

    /// What it says.
    ///
    /// # Errors
    /// If it cannot have been answered.
    pub fn meaning(self, ids: &KnownIds) -> Result<Answered, Meaningless> {
        let list = |runs: Vec<RunForm>| {
            let run = |(place, seq, count): RunForm| Ok((ids.dot((place, seq))?, count));
            let runs: Vec<_> = runs.into_iter().map(run).collect::<Result<_, Meaningless>>()?;
            TagList::from_runs(runs).ok_or(Meaningless("tags that cannot be"))
        };
        let answer = match self.answer {
            AnswerForm::Added((place, seq)) => Answer::Added(list(vec![(place, seq, 1)])?),
            AnswerForm::AddedMany(runs) => Answer::AddedMany(list(runs)?),
            AnswerForm::Removed(runs) => Answer::Removed(list(runs)?),
            AnswerForm::RemovedMany(lists) => {
                Answer::RemovedMany(lists.into_iter().map(list).collect::<Result<_, _>>()?)
            }
        };
        if !answer.is_possible() {
            return Err(Meaningless("an answer that cannot have been given"));
        }
        Ok(Answered { key: RequestKey::from_bytes(self.key), asked: AskedHash(self.asked), answer })
    }
}
