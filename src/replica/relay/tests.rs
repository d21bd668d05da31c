//! Each rule by itself, in virtual time: F 300 ms, W 0, six nodes.

use super::*;
use crate::crdt::{Element, OpBody, Seq};

const F: u64 = 300;
const PATIENCE: u64 = 2 * F + 200;

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn process(n: u128) -> ReplicaId {
    ReplicaId::from_random(n)
}

fn vector(entries: &[(u128, u64)]) -> VersionVector {
    entries.iter().map(|(replica, seq)| (process(*replica), Seq(*seq))).collect()
}

/// Operation `seq` of the process `replica`.
fn op(replica: u128, seq: u64) -> Op {
    Op { dot: Dot::new(process(replica), Seq(seq)), body: OpBody::Add(Element::from_canonical(b"1")) }
}

fn end(ops: usize) -> OpCursor {
    OpCursor::default().after(ops)
}

/// The relay of node `me` of six.
fn at(me: usize) -> Relay {
    let mut relay = Relay::new(&ReplicaConfig::default(), &VersionVector::new());
    relay.set_nodes(&node(me), &(0..6).map(node).collect::<Vec<_>>());
    relay
}

fn hear(relay: &mut Relay, from: usize, now_ms: u64) {
    relay.heard(Place(from), process(from as u128), now_ms, end(0));
}

/// Ticks, and gives what is to be said.
fn tick(relay: &mut Relay, now_ms: u64) -> Vec<(usize, Sign)> {
    relay.tick(now_ms, end(0), || 0);
    relay.take_words().into_iter().map(|(place, sign)| (place.0, sign)).collect()
}

/// Suspects some.
fn suspect(relay: &mut Relay, places: &[usize], now_ms: u64) {
    places.iter().for_each(|place| relay.suspect(Place(*place), now_ms, 0));
    relay.elect();
}

#[test]
fn the_first_node_that_is_not_suspected_is_the_relay_oneself_included() {
    let mut relay = at(3);
    assert_eq!(relay.leader(), Place(0));
    suspect(&mut relay, &[0, 1], 1);
    assert_eq!(relay.leader(), Place(2));
    suspect(&mut relay, &[2, 4, 5], 1);
    assert!(relay.leads());
    hear(&mut relay, 4, 2);
    assert!(relay.leads(), "a later one changes nothing");
    hear(&mut relay, 1, 2);
    assert_eq!(relay.leader(), Place(1));
}

#[test]
fn a_leaf_pushes_at_once_and_then_not_before_its_pause() {
    let mut relay = at(3);
    assert!(relay.push_is_due(1_000));
    relay.pushed(&[op(3, 1)], end(1), 1_000);
    assert!(!relay.push_is_due(1_003));
    assert_eq!(relay.pushing.wakeup_ms, Some(1_010));
    assert!(relay.push_is_due(1_010));
}

#[test]
fn a_relay_flushes_at_once_when_idle_and_then_after_its_interval() {
    let mut relay = at(0);
    let interval = relay.timers().flush(5);
    let vv = Arc::new(vector(&[(1, 1)]));
    assert_eq!(relay.flush_is_due(end(1), 1_000), Flush::Everything);
    relay.flushed(&vv, end(1), true, 1_000);
    assert_eq!(relay.flush_is_due(end(1), 1_001), Flush::Nothing);
    assert_eq!(relay.next_wakeup_ms(), None, "there is nothing to wait for");
    assert_eq!(relay.flush_is_due(end(2), 1_001), Flush::Nothing);
    assert_eq!(relay.next_wakeup_ms(), Some(1_000 + interval));
    assert_eq!(relay.flush_is_due(end(2), 1_000 + interval), Flush::Everything);
}

#[test]
fn who_has_pushed_what_is_known_is_owed_an_acknowledgement_all_the_same() {
    let mut relay = at(0);
    relay.pushed_here(Place(4), false, 1_000, 0);
    assert_eq!(relay.flush_is_due(end(0), 1_000), Flush::Everything);
}

/// Leaves that echoed what was flushed to them would double the messages.
#[test]
fn what_a_relay_has_flushed_is_spread_and_not_pushed_back() {
    let mut relay = at(3);
    relay.flushed_here(Place(0), &vector(&[(1, 2)]), true, 1_000, 0);
    let ops = [op(1, 1), op(1, 2), op(3, 1)];
    assert!(relay.is_spread(ops[1].dot) && !relay.is_spread(ops[2].dot));
    relay.settle(Some(ops.iter()), end(3));
    assert_eq!(relay.unsent_from(Place(0)), end(2));
}

#[test]
fn a_relay_that_was_silent_for_the_later_part_of_the_patience_is_suspected_and_four_are_pinged() {
    for (heard_ms, silent) in [(999, true), (1_239, true), (1_240, false), (1_700, false)] {
        let mut relay = at(3);
        relay.pushed(&[op(3, 1)], end(1), 1_000);
        hear(&mut relay, 0, heard_ms);
        assert_eq!(tick(&mut relay, 1_000 + PATIENCE - 1), []);
        let words = tick(&mut relay, 1_000 + PATIENCE);
        if silent {
            assert_eq!(relay.leader(), Place(1));
            assert_eq!(words, [1, 2, 4, 5].map(|place| (place, Sign::Ping)));
        } else {
            assert_eq!((relay.leader(), words), (Place(0), vec![]));
        }
        assert_eq!(relay.unsent_from(relay.leader()), end(0), "it is pushed (again)");
        assert!(relay.push_is_due(1_000 + PATIENCE), "at once");
    }
}

/// One candidate after the other would take a patience each.
#[test]
fn candidates_that_do_not_answer_are_suspected_all_at_once() {
    let mut relay = at(3);
    relay.pushed(&[op(3, 1)], end(1), 1_000);
    tick(&mut relay, 1_000 + PATIENCE);
    hear(&mut relay, 2, 2_000);
    tick(&mut relay, 1_000 + PATIENCE + 500);
    assert_eq!(relay.leader(), Place(2), "the first that has answered");
    assert_eq!(relay.present(), [Place(2)]);
}

#[test]
fn only_progress_on_what_was_pushed_starts_the_patience_anew() {
    let mut relay = at(3);
    relay.pushed(&[op(3, 1), op(3, 2)], end(2), 1_000);
    relay.flushed_here(Place(0), &vector(&[(1, 7)]), true, 1_300, 0);
    assert_eq!(relay.pushing.waiting.as_ref().map(|waiting| waiting.since_ms), Some(1_000));
    relay.flushed_here(Place(0), &vector(&[(1, 7), (3, 1)]), true, 1_600, 0);
    assert_eq!(relay.pushing.waiting.as_ref().map(|waiting| waiting.since_ms), Some(1_600));
    assert!(!relay.is_acknowledged());
    relay.flushed_here(Place(0), &vector(&[(1, 7), (3, 2)]), true, 1_900, 0);
    assert!(relay.is_acknowledged());
}

#[test]
fn a_bare_acknowledgement_follows_the_last_flush_or_at_last_the_first() {
    let mut relay = at(3);
    let flush = |relay: &mut Relay, now_ms| relay.flushed_here(Place(0), &vector(&[(1, now_ms)]), true, now_ms, 0);
    flush(&mut relay, 1_000);
    assert_eq!(tick(&mut relay, 1_399), []);
    assert_eq!(tick(&mut relay, 1_400), [(0, Sign::Ack)]);
    assert_eq!(tick(&mut relay, 9_000), [], "once");
    for now_ms in (10_000..11_500).step_by(300) {
        flush(&mut relay, now_ms);
        assert_eq!(tick(&mut relay, now_ms), []);
    }
    assert_eq!(tick(&mut relay, 11_500), [(0, Sign::Ack)]);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_with_back_off_and_after_four_times_its_receiver_is_suspected() {
    let mut relay = at(0);
    let vv = Arc::new(vector(&[(1, 1)]));
    let mut now_ms = 10_000;
    relay.peer_mut(Place(2)).flushed(&vv, now_ms);
    for after_ms in [1_000, 2_000, 4_000, 8_000] {
        tick(&mut relay, now_ms + after_ms - 1);
        assert_eq!(relay.flush_is_due(end(0), now_ms), Flush::Nothing);
        now_ms += after_ms;
        tick(&mut relay, now_ms);
        assert_eq!(relay.flush_is_due(end(0), now_ms), Flush::AgainOnly, "after {after_ms} ms");
        relay.peer_mut(Place(2)).flushed(&vv, now_ms);
    }
    assert!(relay.peer(Place(2)).suspected.is_none());
    tick(&mut relay, now_ms + 8_000);
    assert!(relay.peer(Place(2)).suspected.is_some());
}

#[test]
fn whoever_says_something_is_not_suspected_and_whoever_holds_it_is_not_sent_it_again() {
    let mut relay = at(0);
    let mut now_ms = 10_000;
    relay.peer_mut(Place(2)).flushed(&Arc::new(vector(&[(1, 1)])), now_ms);
    for _ in 0..8 {
        now_ms += 8_000;
        hear(&mut relay, 2, now_ms - 1);
        tick(&mut relay, now_ms);
        relay.peer_mut(Place(2)).flushed(&Arc::new(vector(&[(1, 1)])), now_ms);
    }
    assert!(relay.peer(Place(2)).suspected.is_none());
    relay.peer_mut(Place(2)).holds(vector(&[(1, 1), (2, 5)]));
    assert!(relay.peer(Place(2)).unacknowledged.is_none());
}

#[test]
fn while_flushes_follow_each_other_the_acknowledgement_of_the_one_before_is_enough() {
    let mut relay = at(0);
    for n in 1..40 {
        let now_ms = 10_000 + n * 300;
        relay.peer_mut(Place(2)).flushed(&Arc::new(vector(&[(1, n)])), now_ms);
        relay.peer_mut(Place(2)).holds(vector(&[(1, n - 1)]));
        tick(&mut relay, now_ms);
        assert_eq!(relay.flush_is_due(end(0), now_ms), Flush::Nothing);
    }
}

#[test]
fn a_push_to_me_makes_those_before_me_suspects_unless_they_were_heard_lately() {
    for (heard_ms, leads) in [(9_399, true), (9_400, false)] {
        let mut relay = at(1);
        hear(&mut relay, 0, heard_ms);
        relay.pushed_here(Place(4), true, 10_000, 0);
        assert_eq!(relay.leads(), leads);
        assert_eq!(relay.peer(Place(4)).owed, leads, "who is no relay passes it on");
    }
}

#[test]
fn a_flush_of_a_later_node_makes_those_before_it_suspects_unless_they_were_heard_lately() {
    let mut relay = at(4);
    hear(&mut relay, 1, 9_900);
    relay.flushed_here(Place(2), &vector(&[(1, 1)]), true, 10_000, 0);
    assert_eq!(relay.leader(), Place(1), "that one was heard");
    let mut relay = at(0);
    relay.flushed_here(Place(2), &vector(&[(1, 1)]), true, 10_000, 0);
    assert!(relay.leads() && relay.present().len() == 5, "who is the relay knows better");
}

#[test]
fn suspects_are_probed_more_often_by_the_relay() {
    for (me, after_ms) in [(0, 1_000), (3, 10_000)] {
        let mut relay = at(me);
        suspect(&mut relay, &[5], 1_000);
        assert_eq!(tick(&mut relay, 2_000), [(5, Sign::Ping)]);
        assert_eq!(tick(&mut relay, 2_000 + after_ms - 1), []);
        assert_eq!(tick(&mut relay, 2_000 + after_ms), [(5, Sign::Ping)]);
    }
}

/// Without it a partition heals one node after the other.
#[test]
fn a_relay_that_hears_a_suspect_greets_it_and_all_others_once() {
    let mut relay = at(0);
    suspect(&mut relay, &[2, 3, 5], 1_000);
    relay.heard(Place(3), process(3), 5_000, end(7));
    let mut greeted: Vec<usize> = relay.take_words().into_iter().map(|(place, _)| place.0).collect();
    greeted.sort_unstable();
    assert_eq!(greeted, [2, 3, 5]);
    assert_eq!(relay.unsent_from(Place(2)), end(7), "what there is by now it will ask for");
    for place in [2, 5] {
        hear(&mut relay, place, 5_200);
        assert_eq!(relay.take_words(), [], "they answer the greeting");
    }
    assert!(relay.suspects().next().is_none());
}

#[test]
fn the_first_node_greets_all_when_it_has_caught_up_or_half_a_second_after_its_start() {
    let all = [1, 2, 3, 4, 5].map(|place| (place, Sign::Hello));
    let mut relay = at(0);
    relay.start(1_000);
    assert_eq!(tick(&mut relay, 1_499), []);
    assert_eq!(tick(&mut relay, 1_500), all);
    let mut relay = at(0);
    relay.start(1_000);
    relay.caught_up(1_100);
    assert_eq!(tick(&mut relay, 1_100), all);
    assert_eq!(tick(&mut relay, 1_500), []);
    let mut relay = at(1);
    relay.start(1_000);
    assert_eq!(tick(&mut relay, 1_500), []);
}

#[test]
fn who_greets_or_is_another_process_has_lost_what_it_was_sent() {
    let pushed = || {
        let mut relay = at(3);
        hear(&mut relay, 0, 900);
        relay.pushed(&[op(3, 1)], end(1), 1_000);
        assert_eq!(relay.unsent_from(Place(0)), end(1));
        relay
    };
    let mut relay = pushed();
    relay.forget(Place(0));
    assert_eq!(relay.unsent_from(Place(0)), end(0));
    let mut relay = pushed();
    relay.heard(Place(0), process(77), 1_100, end(1));
    assert_eq!(relay.unsent_from(Place(0)), end(0));
    assert!(relay.push_is_due(1_100));
}

#[test]
fn two_processes_under_one_name_are_not_sent_everything_at_each_of_their_words() {
    let mut relay = at(3);
    relay.heard(Place(0), process(77), 900, end(0));
    relay.heard(Place(0), process(78), 901, end(0));
    relay.pushed(&[op(3, 1)], end(1), 1_000);
    for word in 0..20 {
        relay.heard(Place(0), process(77 + word % 2), 1_001, end(1));
        assert_eq!(relay.unsent_from(Place(0)), end(1), "word {word}");
    }
    relay.heard(Place(0), process(77), 999 + PATIENCE, end(1));
    tick(&mut relay, 1_000 + PATIENCE);
    assert_eq!(relay.unsent_from(Place(0)), end(0), "not acknowledged in time");
}
