//! Lines to operations: what the checkers look at.

use std::io::BufRead;

use serde_json::Value;

use super::{Answer, End, Event, FORMAT, FaultAction, FaultKind, Line, NodeChange, Phase, Request, Run};

/// A place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Index of the line: this orders moments exactly.
    pub index: usize,
    /// Nanoseconds since the run began.
    pub time_ns: u64,
}

impl Moment {
    /// The number of the line in `history.jsonl`, from 1, as an editor counts.
    #[must_use]
    pub fn line(self) -> usize {
        self.index + 1
    }
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client.
    pub process: String,
    /// Place of the node in [`Run::nodes`].
    pub node: usize,
    /// The part of the run in which it was invoked.
    pub phase: Phase,
    /// What was asked.
    pub request: Request,
    /// When. Its index names the operation.
    pub invoked: Moment,
    /// When it was asked for again, if it was: the last time.
    pub again: Option<Moment>,
    /// When it was answered a second time, and not as the first time.
    pub contradicted: Option<Moment>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an operation.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The node answered, perhaps late.
    Ok(Moment, Answer),
    /// It never happened: when the client knew, the code and the text.
    Fail(Moment, i64, String),
    /// Nobody knows: when the client gave up, and why. `None`: the history ends before.
    Unknown(Option<(Moment, String)>),
}

impl Operation {
    /// When it was answered well.
    #[must_use]
    pub fn ok(&self) -> Option<(Moment, &Answer)> {
        match &self.outcome {
            Outcome::Ok(at, answer) => Some((*at, answer)),
            _ => None,
        }
    }

    /// Whether it may have happened without an answer.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }

    /// When its client was done with it.
    #[must_use]
    pub fn completed(&self) -> Option<Moment> {
        match &self.outcome {
            Outcome::Ok(at, _) | Outcome::Fail(at, ..) | Outcome::Unknown(Some((at, _))) => Some(*at),
            Outcome::Unknown(None) => None,
        }
    }

    /// The answer of an acknowledged add, remove or read, in one form.
    #[must_use]
    pub fn acknowledged(&self) -> Option<(Moment, Acknowledged<'_>)> {
        let (at, answer) = self.ok()?;
        let acknowledged = match (&self.request, answer) {
            (Request::Add { element }, Answer::Add { tag }) => Acknowledged::Add(element, tag.as_deref()),
            (Request::Remove { element }, Answer::Remove { tags }) => Acknowledged::Remove(element, tags),
            (Request::Read, Answer::Read { elements }) => Acknowledged::Read(elements),
            _ => return None,
        };
        Some((at, acknowledged))
    }
}

/// An acknowledged operation on the set.
#[derive(Clone, Copy, Debug)]
pub enum Acknowledged<'a> {
    /// The element, and the tag if the workload has tags.
    Add(&'a Value, Option<&'a str>),
    /// The element, and the tags that went.
    Remove(&'a Value, &'a [String]),
    /// What the set held.
    Read(&'a [Value]),
}

/// Something that happened to a node's process.
#[derive(Clone, Debug)]
pub struct Life {
    /// When.
    pub at: Moment,
    /// Place of the node in [`Run::nodes`].
    pub node: usize,
    /// What.
    pub change: NodeChange,
}

/// A fault in force.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// For people.
    pub text: String,
    /// The nodes' ids; empty: all.
    pub nodes: Vec<String>,
    /// When it began.
    pub begin: Moment,
    /// When it ended; `None`: it never did.
    pub end: Option<Moment>,
    number: u64,
}

/// A history, folded.
#[derive(Clone, Debug)]
pub struct History {
    /// What was run.
    pub run: Run,
    /// Every operation, in the order of invocation.
    pub operations: Vec<Operation>,
    /// What happened to the nodes' processes, in order.
    pub lives: Vec<Life>,
    /// Every fault, in the order in which they began.
    pub faults: Vec<Fault>,
    /// Where the phases after the first begin.
    pub phases: Vec<(Moment, Phase)>,
    /// The last line; `None`: the run was cut off.
    pub end: Option<(Moment, End)>,
    /// Place of the next line.
    pub next: Moment,
}

/// Why a file is not a history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    /// A line is not an event.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// It holds nothing.
    #[error("it is empty")]
    Empty,
}

impl History {
    /// A history of which only the first line is known.
    #[must_use]
    pub fn new(run: Run) -> Self {
        History {
            run,
            operations: Vec::new(),
            lives: Vec::new(),
            faults: Vec::new(),
            phases: Vec::new(),
            end: None,
            next: Moment { index: 1, time_ns: 0 },
        }
    }

    /// Reads `history.jsonl`.
    ///
    /// # Errors
    /// If a line is not what the runner writes. A last line without a line break is a cut-off one and does not count.
    pub fn read(mut input: impl BufRead) -> Result<Self, HistoryError> {
        let mut history: Option<History> = None;
        let mut text = String::new();
        for number in 1.. {
            text.clear();
            if input.read_line(&mut text)? == 0 || !text.ends_with('\n') {
                break;
            }
            let wrong = |why: String| HistoryError::Line(number, why);
            let line: Line = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            match (&mut history, line.event) {
                (None, Event::Run(run)) if run.format == FORMAT => history = Some(History::new(run)),
                (None, Event::Run(run)) => return Err(wrong(format!("format {}, known is {FORMAT}", run.format))),
                (None, _) => return Err(wrong("the first line must be of type \"run\"".to_owned())),
                (Some(history), event) => {
                    let at = Moment { index: line.index, time_ns: line.time_ns };
                    history.push(at, event).map_err(wrong)?;
                }
            }
        }
        history.ok_or(HistoryError::Empty)
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// If it cannot follow: an index out of order, an unknown node or invocation.
    pub fn push(&mut self, at: Moment, event: Event) -> Result<(), String> {
        if at.index != self.next.index {
            return Err(format!("index {} where {} should be", at.index, self.next.index));
        }
        if at.time_ns < self.next.time_ns {
            return Err(format!("time {} after {}", at.time_ns, self.next.time_ns));
        }
        match event {
            Event::Run(_) => return Err("a second line of type \"run\"".to_owned()),
            Event::Invoke { process, node, phase, request } => {
                let node = self.node(&node)?;
                let outcome = Outcome::Unknown(None);
                let (again, contradicted) = (None, None);
                let operation = Operation { process, node, phase, request, invoked: at, again, contradicted, outcome };
                self.operations.push(operation);
            }
            Event::Ok { op, answer, .. } => {
                let operation = self.operation_mut(op)?;
                if !answers(&operation.request, &answer) {
                    return Err(format!("an answer to another kind of request than operation {op}"));
                }
                match &operation.outcome {
                    Outcome::Ok(_, first) if *first != answer => operation.contradicted = Some(at),
                    Outcome::Ok(..) => {}
                    _ => operation.outcome = Outcome::Ok(at, answer),
                }
            }
            Event::Fail { op, code, text, .. } => self.operation_mut(op)?.outcome = Outcome::Fail(at, code, text),
            Event::Again { op, .. } => self.operation_mut(op)?.again = Some(at),
            Event::Info { op, text, .. } => self.operation_mut(op)?.outcome = Outcome::Unknown(Some((at, text))),
            Event::Node { node, change } => {
                let node = self.node(&node)?;
                self.lives.push(Life { at, node, change });
            }
            Event::Fault { fault, kind, action: FaultAction::Begin, nodes, text } => {
                self.faults.push(Fault { kind, text, nodes, begin: at, end: None, number: fault });
            }
            Event::Fault { fault, action: FaultAction::End, .. } => {
                let begun = self.faults.iter_mut().rev().find(|known| known.number == fault);
                begun.ok_or_else(|| format!("fault {fault} ends and never began"))?.end = Some(at);
            }
            Event::Phase { phase } => self.phases.push((at, phase)),
            Event::End(end) => self.end = Some((at, end)),
        }
        self.next = Moment { index: at.index + 1, time_ns: at.time_ns };
        Ok(())
    }

    /// When a phase began.
    #[must_use]
    pub fn began(&self, phase: Phase) -> Option<Moment> {
        self.phases.iter().find(|(_, begun)| *begun == phase).map(|(at, _)| *at)
    }

    /// When the process that node `node` ran at `since` died; `None`: it lived to the end.
    #[must_use]
    pub fn death(&self, node: usize, since: Moment) -> Option<Moment> {
        let from = self.lives.partition_point(|life| life.at < since);
        let dead =
            |life: &&Life| life.node == node && matches!(life.change, NodeChange::Killed | NodeChange::Exited { .. });
        self.lives[from..].iter().find(dead).map(|life| life.at)
    }

    fn node(&self, id: &str) -> Result<usize, String> {
        self.run.nodes.iter().position(|node| node == id).ok_or_else(|| format!("unknown node {id:?}"))
    }

    /// The operation whose invocation has this index.
    ///
    /// # Errors
    /// If what has it is none.
    pub fn operation(&self, index: usize) -> Result<&Operation, String> {
        self.place(index).map(|place| &self.operations[place])
    }

    fn operation_mut(&mut self, index: usize) -> Result<&mut Operation, String> {
        self.place(index).map(|place| &mut self.operations[place])
    }

    fn place(&self, index: usize) -> Result<usize, String> {
        let place = self.operations.binary_search_by_key(&index, |operation| operation.invoked.index);
        place.map_err(|_| format!("index {index} is not an invocation"))
    }
}

/// Whether an answer is one to this kind of request.
fn answers(request: &Request, answer: &Answer) -> bool {
    matches!(
        (request, answer),
        (Request::Add { .. }, Answer::Add { .. })
            | (Request::Remove { .. }, Answer::Remove { .. })
            | (Request::Read, Answer::Read { .. })
            | (Request::Echo { .. }, Answer::Echo { .. })
            | (Request::Generate, Answer::Generate { .. })
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Workload;
    use super::*;

    fn run() -> Run {
        Run {
            format: FORMAT,
            workload: Workload::OrSet,
            nodes: vec!["n0".to_owned(), "n1".to_owned()],
            seed: 7,
            started: "2026-01-01T00:00:00Z".to_owned(),
            options: [("rate".to_owned(), json!(5.0))].into(),
        }
    }

    fn invoke(process: &str, request: Request) -> Event {
        Event::Invoke { process: process.to_owned(), node: "n1".to_owned(), phase: Phase::Main, request }
    }

    fn text(events: Vec<Event>) -> String {
        let lines = events.into_iter().enumerate().map(|(index, event)| {
            let line = Line { index, time_ns: index as u64 * 10, event };
            let text = serde_json::to_string(&line).expect("an event has a JSON text");
            assert_eq!(serde_json::from_str::<Line>(&text).expect("its own text is read"), line);
            text + "\n"
        });
        lines.collect()
    }

    #[test]
    fn a_late_reply_is_an_answer() {
        let process = || "c0".to_owned();
        let file = text(vec![
            Event::Run(run()),
            invoke("c0", Request::Add { element: json!("x") }),
            Event::Info { op: 1, process: process(), text: "timeout".to_owned() },
            invoke("c1", Request::Read),
            Event::Ok { op: 1, process: process(), answer: Answer::Add { tag: Some("t".to_owned()) } },
            Event::Node { node: "n1".to_owned(), change: NodeChange::Killed },
            Event::End(End::default()),
        ]);
        let history = History::read(file.as_bytes()).expect("a history");
        assert!(matches!(history.operations[0].ok(), Some((Moment { index: 4, time_ns: 40 }, _))));
        assert!(history.operations[1].is_unknown());
        assert_eq!(history.death(1, history.operations[1].invoked).map(|at| at.index), Some(5));
        assert_eq!(history.death(0, history.operations[1].invoked), None);
        // A run that was killed while it wrote: the last line is cut.
        let cut = History::read(&file.as_bytes()[..file.len() - 9]).expect("a history");
        assert!(cut.end.is_none() && cut.lives.len() == 1);
    }

    #[test]
    fn what_cannot_follow_is_refused_with_its_line() {
        let refused = |events: Vec<Event>| History::read(text(events).as_bytes()).expect_err("no history").to_string();
        assert_eq!(refused(vec![]), "it is empty");
        assert!(refused(vec![Event::End(End::default())]).starts_with("line 1: "));
        assert!(refused(vec![Event::Run(Run { format: 9, ..run() })]).contains("format 9"));
        let answer = Answer::Remove { tags: vec![] };
        let wrong_kind = Event::Ok { op: 1, process: "c0".to_owned(), answer };
        assert!(refused(vec![Event::Run(run()), invoke("c0", Request::Read), wrong_kind]).starts_with("line 3: "));
        let nobody = Event::Node { node: "n9".to_owned(), change: NodeChange::Ready };
        assert!(refused(vec![Event::Run(run()), nobody]).contains("unknown node \"n9\""));
    }
}
