//! Requests with a `request_id` on a simulated disk: a repeated one gets the first answer and changes nothing, whatever
//! comes between the two.

mod support;

use std::path::Path;

use orset::crdt::{
    Dot, Element, Entry, Incarnation, JoinCommit, JoinId, JoinPart, NodeId, ReplicaId, RequestKey, Seq, VersionVector,
};
use orset::repair::salvage::{Plan, salvage};
use orset::replica::{ErrorCode, Outgoing, Replica, ReplicaConfig, Reply, Request, Style, Ticket, Write};
use orset::sim::slot;
use orset::storage::disk::MemDisk;
use orset::storage::{IndexSource, MemorySource, NoIndex, Replay, Store, StoreError, StoreLimits};
use support::on_disk::{DIR, options};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn element(n: usize) -> Element {
    Element::from_canonical(n.to_string().as_bytes())
}

/// So small that a few requests fill a segment, and a few segments make a snapshot due.
const SMALL: StoreLimits = StoreLimits { index_slack_bytes: 4 << 20, ..slot::SMALL };

/// A node on a disk. `seed` is another one for each start.
struct Client {
    replica: Replica,
    asked: i64,
}

impl Client {
    fn try_start(disk: &MemDisk, seed: u128) -> Result<Self, StoreError> {
        // With an index in every other start.
        let source: &mut dyn IndexSource = if seed.is_multiple_of(2) { &mut MemorySource } else { &mut NoIndex };
        let (store, recovery) = Store::open(options(disk, seed << 64, SMALL), source)?;
        let config = ReplicaConfig { catch_up_ms: 0, ..ReplicaConfig::default() };
        Ok(Self { replica: Replica::new(store, &recovery, config, 7, 1), asked: 0 })
    }

    fn start(disk: &MemDisk, seed: u128) -> Self {
        Self::try_start(disk, seed).unwrap()
    }

    /// Asks without waiting for an answer; gives back the number of the request.
    fn asks(&mut self, request: Request) -> Result<i64, StoreError> {
        self.asked += 1;
        let ticket = Ticket { client: "c1".into(), msg_id: self.asked, style: Style::OrSet, arrived_ms: 1 };
        self.replica.client(ticket, request, 1)?;
        Ok(self.asked)
    }

    /// What has been answered since the last time.
    fn hears(&mut self) -> Result<Vec<(i64, Reply)>, StoreError> {
        let messages = self.replica.commit(1)?.into_iter();
        Ok(messages
            .filter_map(|message| match message {
                Outgoing::Reply { ticket, reply } => Some((ticket.msg_id, reply)),
                Outgoing::Peer { .. } => None,
            })
            .collect())
    }

    fn ask(&mut self, request: Request) -> Reply {
        let asked = self.asks(request).unwrap();
        let replies = self.hears().unwrap();
        replies.into_iter().find(|(id, _)| *id == asked).expect("it is answered at once").1
    }

    fn once(&mut self, name: &str, write: Write) -> Reply {
        self.ask(Request::Once(RequestKey::of(name), write))
    }

    fn tags_of(&self, n: usize) -> usize {
        self.replica.store().tags(&element(n)).unwrap().len()
    }

    /// Feeds the index and compacts, if that is due.
    fn background(&mut self) -> Result<(), StoreError> {
        let store = self.replica.store_mut();
        for batch in store.take_feed() {
            store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
            store.index_noted(batch.position.lsn);
        }
        store.maintain();
        if let Some(plan) = store.plan_compaction()? {
            let snapshot = plan.run()?;
            store.install(snapshot)?;
        }
        Ok(())
    }
}

fn is_malformed(reply: &Reply) -> bool {
    matches!(reply, Reply::Error { code: ErrorCode::MalformedRequest, .. })
}

/// One request of each kind, by name; the last one removes what is not there.
fn requests() -> Vec<(&'static str, Write)> {
    vec![
        ("add", Write::Add(element(1))),
        ("add again", Write::Add(element(1))),
        ("add many", Write::AddMany(vec![element(2), element(3), element(2)])),
        ("add none", Write::AddMany(Vec::new())),
        ("remove", Write::Remove(element(1))),
        ("remove many", Write::RemoveMany(vec![element(3), element(2), element(3), element(9)])),
        ("remove nothing", Write::Remove(element(9))),
    ]
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_changes_nothing_also_after_restarts_and_compaction() {
    let mut disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    let first: Vec<Reply> = requests().into_iter().map(|(name, write)| client.once(name, write)).collect();
    assert!(matches!(&first[4], Reply::Removed(tags) if tags.len() == 2), "{first:?}");
    let lengths = |lists: &Vec<Vec<Dot>>| lists.iter().map(Vec::len).collect::<Vec<_>>();
    assert!(matches!(&first[5], Reply::RemovedMany(lists) if lengths(lists) == [1, 2, 0, 0]), "{first:?}");
    // What they removed comes back, so that doing them again would show.
    for n in [1, 2, 3, 9] {
        client.ask(Request::Add(element(n)));
    }
    let mut snapshots = 0;
    for start in 0..6 {
        let (vv, lsn) = (client.replica.store().vv().clone(), client.replica.store().lsn());
        let again: Vec<Reply> = requests().into_iter().map(|(name, write)| client.once(name, write)).collect();
        assert_eq!(again, first, "start {start}");
        let store = client.replica.store();
        assert_eq!((store.vv(), store.lsn()), (&vv, lsn), "start {start}: a repeat is not written");
        for n in 0..40 {
            client.ask(Request::Add(element(1000 * start + 100 + n)));
            client.background().unwrap();
        }
        snapshots += u32::from(client.replica.store().snapshot().is_some());
        if start % 2 == 0 {
            client.replica.store_mut().close(None).unwrap();
        }
        disk = disk.after_kill();
        client = Client::start(&disk, start as u128 + 1);
    }
    assert!(snapshots > 3, "the test wants the first segments gone: {snapshots}");
}

#[test]
fn the_same_name_for_something_else_is_refused_and_changes_nothing() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    let first = client.once("a", Write::Add(element(1)));
    let vv = client.replica.store().vv().clone();
    for other in [
        Write::Add(element(2)),
        Write::Remove(element(1)),
        Write::AddMany(vec![element(1)]),
        Write::RemoveMany(vec![element(1)]),
    ] {
        assert!(is_malformed(&client.once("a", other.clone())), "{other:?}");
    }
    assert_eq!(client.replica.store().vv(), &vv);
    assert_eq!(client.once("a", Write::Add(element(1))), first);
    assert_ne!(client.once("b", Write::Add(element(1))), first, "another name is another request");
}

#[test]
fn a_repeat_beside_the_first_waits_for_the_same_sync() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    let (name, write) = (RequestKey::of("a"), Write::Add(element(1)));
    client.asks(Request::Once(name, write.clone())).unwrap();
    client.asks(Request::Once(name, write)).unwrap();
    assert_eq!(client.tags_of(1), 1);
    let syncs = disk.changes();
    let replies = client.hears().unwrap();
    assert!(disk.changes() > syncs, "both come out of one commit");
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[0].1, replies[1].1);
}

#[test]
fn a_remove_that_sees_nothing_is_written_and_no_operation() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    assert_eq!(client.once("a", Write::Remove(element(1))), Reply::Removed(Vec::new()));
    let store = client.replica.store();
    assert_eq!((store.lsn().0, store.vv()), (1, &VersionVector::new()), "peers have nothing to be told");
    let mut client = Client::start(&disk.after_power_cut(0), 1);
    let tag = client.ask(Request::Add(element(1)));
    assert!(matches!(tag, Reply::Added(tag) if tag.seq == Seq(2)));
    assert_eq!(client.once("a", Write::Remove(element(1))), Reply::Removed(Vec::new()), "as the first time");
    assert_eq!(client.tags_of(1), 1);
}

#[test]
fn more_than_one_frame_holds_is_refused_and_changes_nothing() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    let most = Write::AddMany((0..1022).map(element).collect());
    assert!(matches!(client.once("most", most), Reply::AddedMany(tags) if tags.len() == 1022));
    client.ask(Request::Add(element(1022)));
    let vv = client.replica.store().vv().clone();
    let long = |n: usize| Element::from_canonical(vec![b'1'; (1 << 20) - n].as_slice());
    for too_much in [
        Write::AddMany((0..1023).map(element).collect()),
        Write::AddMany((0..5).map(long).collect()),
        Write::RemoveMany((0..1023).map(element).collect()),
    ] {
        assert!(is_malformed(&client.once("too much", too_much)));
    }
    assert_eq!(client.replica.store().vv(), &vv);
    // The name is still free.
    assert!(matches!(client.once("too much", Write::Add(element(1))), Reply::Added(_)));
}

#[test]
fn a_removal_of_very_many_tags_is_refused_under_a_name() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    for _ in 0..17 {
        client.ask(Request::AddMany(vec![element(1); 1000]));
    }
    assert!(is_malformed(&client.once("a", Write::Remove(element(1)))));
    assert_eq!(client.tags_of(1), 17_000);
    assert!(matches!(client.ask(Request::Remove(element(1))), Reply::Removed(tags) if tags.len() == 17_000));
    client.ask(Request::AddMany(vec![element(1); 16_384]));
    assert!(matches!(client.once("a", Write::Remove(element(1))), Reply::Removed(tags) if tags.len() == 16_384));
}

/// The disk stops at every one of its changes; then the process was killed, or the power went.
#[test]
fn whatever_interrupts_a_request_all_of_it_is_there_or_nothing() {
    // Many operations before it in the same batch, so that what it does would lie across the ends of frames.
    let work = |client: &mut Client| -> Result<Option<Reply>, StoreError> {
        client.asks(Request::AddMany((0..1000).map(|n| element(10 + n)).collect()))?;
        let asked = client.asks(Request::Once(RequestKey::of("many"), Write::AddMany(vec![element(1); 300])))?;
        client.asks(Request::Once(RequestKey::of("one"), Write::Remove(element(10))))?;
        Ok(client.hears()?.into_iter().find(|(id, _)| *id == asked).map(|(_, reply)| reply))
    };
    let mut outcomes = [0; 2];
    for stop in 1.. {
        let disk = MemDisk::default();
        disk.stop_at(stop);
        let answered = Client::try_start(&disk, 0).and_then(|mut client| work(&mut client));
        let finished = answered.is_ok();
        let answered = answered.ok().flatten();
        for choice in [None, Some(0), Some(stop), Some(stop + 1000), Some(stop + 2000)] {
            let left = choice.map_or_else(|| disk.after_kill(), |choice| disk.after_power_cut(choice));
            let mut client = Client::start(&left, 1);
            let there = client.tags_of(1);
            assert!(there == 0 || there == 300, "stopped at {stop}: {there} of 300 tags");
            let known = client.replica.store().answered(RequestKey::of("many")).is_some();
            assert_eq!(known, there == 300, "stopped at {stop}: the answer without the operations, or they without it");
            outcomes[usize::from(known)] += 1;
            let again = client.once("many", Write::AddMany(vec![element(1); 300]));
            assert!(answered.is_none() || answered.as_ref() == Some(&again), "stopped at {stop}: another answer");
            assert_eq!(client.tags_of(1), 300, "stopped at {stop}, and asked again");
        }
        if finished {
            break;
        }
    }
    assert!(outcomes.iter().all(|times| *times > 1), "{outcomes:?}");
}

#[test]
fn a_state_delta_takes_no_answers_away_and_brings_none() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    let first = client.once("a", Write::Add(element(1)));
    let (there, join) = (ReplicaId::from_random(99), JoinId(5));
    let record = (element(7), Dot::new(there, Seq(2)));
    let store = client.replica.store_mut();
    store.append_join(Entry::JoinPart(JoinPart { join, records: vec![record], live: Vec::new() })).unwrap();
    let incarnation = Incarnation { node: node("n2"), parent: None };
    let (vv, incarnations) = ([(there, Seq(2))].into_iter().collect(), [(there, incarnation)].into_iter().collect());
    store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations })).unwrap();
    store.commit().unwrap();
    assert_eq!(client.once("a", Write::Add(element(1))), first);
    let mut client = Client::start(&disk.after_power_cut(0), 1);
    assert_eq!((client.once("a", Write::Add(element(1))), client.tags_of(1)), (first, 1));
}

#[test]
fn what_peers_are_sent_has_no_trace_of_a_name() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    client.replica.store_mut().set_nodes(&[node("n1"), node("n2")]).unwrap();
    requests().into_iter().for_each(|(name, write)| drop(client.once(name, write)));
    let store = client.replica.store();
    let delta = store.delta(&VersionVector::new(), 1 << 20).unwrap();
    let sent: u64 = delta.ops.len() as u64;
    assert_eq!(sent, store.vv().iter().map(|(_, seq)| seq.0).sum::<u64>());
    assert_eq!(store.lsn().0, sent + requests().len() as u64, "an answer has an LSN, and no dot");
}

/// A store that was set back does not know what it answered since: the request is done a second time.
#[test]
fn a_store_that_was_set_back_has_forgotten_and_does_it_again() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 0);
    client.once("a", Write::Add(element(1)));
    let image = disk.after_kill();
    let first = client.once("b", Write::Add(element(2)));
    let mut older = Client::start(&image, 1);
    assert!(matches!(older.once("a", Write::Add(element(1))), Reply::Added(_)));
    assert_eq!(older.tags_of(1), 1);
    assert_ne!(older.once("b", Write::Add(element(2))), first);
}

/// Salvage: what is before the first gap counts, and behind it no answer does.
#[test]
fn a_salvaged_store_knows_the_answers_before_the_damage_and_no_others() {
    let disk = MemDisk::default();
    let mut client = Client::start(&disk, 1);
    let first = client.once("before", Write::Add(element(1)));
    for n in 0..8 {
        client.ask(Request::Add(element(100 + n)));
    }
    client.once("behind", Write::Add(element(2)));
    let replay = |disk: &MemDisk| {
        let manifest = orset::storage::manifest::Manifest::read(disk, Path::new(DIR)).unwrap().unwrap();
        Replay::read(disk, Path::new(DIR), manifest, None, None)
    };
    // The frame of one of the adds between the two.
    let log = replay(&disk).unwrap().log.segments[0].clone();
    let offset = disk.files()[&log.path].windows(3).position(|bytes| bytes == b"104").unwrap();
    let broken = disk.after_kill();
    broken.tamper(&log.path, |bytes| bytes[offset] ^= 1);
    assert!(replay(&broken).is_err());
    let new = MemDisk::default();
    let (from, to, at) = (&broken, &new, Path::new(DIR));
    let mut counter = 5_u128 << 64;
    let entropy = &mut || {
        counter += 1;
        counter
    };
    let plan = Plan { from, broken: at, to, new: at, node: None, entropy };
    let mut handed_out = Vec::new();
    salvage(plan, &mut |what, _| {
        handed_out.push(format!("{what:?}"));
        Ok(())
    })
    .unwrap();
    assert!(handed_out.iter().any(|what| what.contains("Answered")), "{handed_out:?}");
    let mut client = Client::start(&new, 9);
    assert_eq!(client.once("before", Write::Add(element(1))), first);
    assert!(client.replica.store().answered(RequestKey::of("behind")).is_none());
}
