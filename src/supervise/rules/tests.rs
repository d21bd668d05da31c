//! The rules, one after the other, in a time of their own.

use super::*;

const PLAN: Plan = Plan {
    kill_interval_ms: 1000,
    kill_after_ms: 5000,
    kill_until_ms: 60_000,
    max_down_ms: 400,
    hold: false,
    reinit: true,
    reply_deadline_ms: 4500,
    drain_ms: 10_000,
};
const HOLD: Plan = Plan { hold: true, ..PLAN };

const INIT: &str = r#"{"src":"c0","dest":"n0","body":{"type":"init","msg_id":1,"node_id":"n0","node_ids":["n0"]}}"#;
const INIT_OK: &str = r#"{"src":"n0","dest":"c0","body":{"type":"init_ok","in_reply_to":1}}"#;

/// The rules with a clock, and what they say as words.
struct Session {
    rules: Rules,
    now_ms: u64,
}

impl Session {
    fn new(plan: Plan) -> Self {
        Self { rules: Rules::new(plan, 7), now_ms: 0 }
    }

    /// One that has seen `init` and its answer.
    fn initialised(plan: Plan) -> Self {
        let mut session = Self::new(plan);
        assert_eq!(session.above(INIT), [deliver(INIT)]);
        assert_eq!(session.child(INIT_OK), [emit(INIT_OK)]);
        session
    }

    /// One whose child has just been killed and has not ended.
    fn dying(plan: Plan) -> Self {
        let mut session = Self::initialised(plan);
        assert_eq!(session.next(), [Do::Kill]);
        session
    }

    fn tell(&mut self, tell: impl FnOnce(&mut Rules, u64, &mut Vec<Do>)) -> Vec<Do> {
        let mut todo = Vec::new();
        tell(&mut self.rules, self.now_ms, &mut todo);
        todo
    }

    fn above(&mut self, line: &str) -> Vec<Do> {
        self.tell(|rules, now_ms, todo| rules.from_above(line.into(), now_ms, todo))
    }

    fn child(&mut self, line: &str) -> Vec<Do> {
        self.tell(|rules, now_ms, todo| rules.from_child(line.into(), now_ms, todo))
    }

    fn above_ends(&mut self) -> Vec<Do> {
        self.tell(Rules::above_ended)
    }

    fn child_ends(&mut self, undelivered: &[&str]) -> Vec<Do> {
        let undelivered = undelivered.iter().map(|line| line.as_bytes().to_vec()).collect();
        self.tell(|rules, now_ms, todo| rules.child_ended(true, undelivered, now_ms, todo))
    }

    /// Goes on to the next time at which there is something to do.
    fn next(&mut self) -> Vec<Do> {
        self.now_ms = self.rules.next_wakeup_ms().expect("there is something to do").max(self.now_ms);
        self.tell(Rules::tick)
    }
}

fn deliver(line: &str) -> Do {
    Do::Deliver(line.into())
}

fn emit(line: &str) -> Do {
    Do::Emit(line.into())
}

fn restart() -> [Do; 2] {
    [Do::Start, deliver(INIT)]
}

fn request(msg_id: i64) -> String {
    format!(r#"{{"src":"c1","dest":"n0","body":{{"type":"add","msg_id":{msg_id},"element":{msg_id}}}}}"#)
}

fn reply(to: i64) -> String {
    format!(r#"{{"src":"n0","dest":"c1","body":{{"type":"add_ok","in_reply_to":{to}}}}}"#)
}

#[test]
fn init_is_sent_again_first_of_all_and_only_the_first_answer_leaves() {
    let mut session = Session::dying(PLAN);
    for _ in 0..5 {
        assert_eq!(session.child_ends(&[]), []);
        assert_eq!(session.next(), restart());
        assert_eq!(session.child(INIT_OK), []);
        assert_eq!(session.child(INIT_OK), [], "nor one that nobody has asked for");
        assert_eq!(session.next(), [Do::Kill]);
        assert_eq!(session.child(INIT_OK), [], "nor a dead one's");
    }
    assert_eq!(session.rules.counters(), Counters { kills: 6, ..Counters::default() });
}

#[test]
fn without_reinit_everything_reaches_the_child_at_once() {
    let mut session = Session::dying(Plan { reinit: false, ..HOLD });
    session.above("one");
    session.child_ends(&["zero"]);
    assert_eq!(session.next(), [Do::Start, deliver("zero"), deliver("one")]);
    assert_eq!(session.above("two"), [deliver("two")]);
    assert_eq!(session.child(INIT_OK), []);
}

#[test]
fn after_a_restart_nothing_reaches_the_child_before_its_init_ok() {
    let mut session = Session::dying(PLAN);
    session.child_ends(&[]);
    assert_eq!(session.next(), restart());
    assert_eq!(session.above("one"), []);
    assert_eq!(session.child("words before the answer"), [emit("words before the answer")]);
    assert_eq!(session.above("two"), []);
    assert_eq!(session.child(INIT_OK), [deliver("one"), deliver("two")]);
    assert_eq!(session.above("three"), [deliver("three")]);
    assert_eq!(session.rules.counters().lost, 0);
}

#[test]
fn nothing_is_dropped_and_nobody_killed_before_the_first_init_ok() {
    let mut session = Session::new(PLAN);
    assert_eq!(session.above("from a peer"), [deliver("from a peer")]);
    assert_eq!(session.above(INIT), [deliver(INIT)]);
    assert_eq!(session.above(&request(1)), [deliver(&request(1))]);
    assert_eq!(session.rules.next_wakeup_ms(), None);
    session.now_ms = 100_000;
    assert_eq!(session.tell(Rules::tick), []);
    assert_eq!(session.child(&reply(1)), [emit(&reply(1))]);
    assert_eq!(session.child(INIT_OK), [emit(INIT_OK)]);
}

#[test]
fn kills_begin_after_the_setup_keep_their_interval_and_end_in_time() {
    for seed in 0..50 {
        let mut session = Session::new(PLAN);
        session.rules.rng = fastrand::Rng::with_seed(seed);
        session.now_ms = 1000;
        session.above(INIT);
        session.child(INIT_OK);
        let mut started_ms = 6000;
        while session.rules.next_wakeup_ms().is_some() {
            assert_eq!(session.next(), [Do::Kill]);
            assert!((started_ms + 500..=started_ms + 1500).contains(&session.now_ms), "seed {seed}");
            assert!(session.now_ms < 61_000, "seed {seed}");
            session.now_ms += 1;
            let died_ms = session.now_ms;
            session.child_ends(&[]);
            assert_eq!(session.next(), restart());
            assert!((died_ms..=died_ms + 400).contains(&session.now_ms), "seed {seed}");
            session.child(INIT_OK);
            started_ms = session.now_ms;
        }
        assert!(started_ms > 59_000, "seed {seed}: the last start was at {started_ms}");
    }
}

#[test]
fn the_same_seed_makes_the_same_choices_and_another_one_others() {
    let times = |seed| {
        let mut session = Session::initialised(PLAN);
        session.rules.rng = fastrand::Rng::with_seed(seed);
        let mut times = Vec::new();
        for _ in 0..20 {
            session.next();
            times.push(session.now_ms);
            session.child_ends(&[]);
            session.next();
            times.push(session.now_ms);
        }
        times
    };
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
}

#[test]
fn what_comes_while_the_child_is_down_is_lost() {
    let mut session = Session::dying(PLAN);
    assert_eq!(session.above("one"), []);
    assert_eq!(session.child_ends(&["zero"]), []);
    assert_eq!(session.above("two"), []);
    assert_eq!(session.next(), restart());
    assert_eq!(session.child(INIT_OK), []);
    assert_eq!(session.rules.counters(), Counters { kills: 1, lost: 3, ..Counters::default() });
}

#[test]
fn what_waits_for_init_ok_is_lost_with_the_child_that_it_waits_for() {
    let mut session = Session::dying(PLAN);
    session.child_ends(&[]);
    session.next();
    session.above("one");
    assert_eq!(session.rules.waiting_bytes(), 3);
    assert_eq!(session.next(), [Do::Kill]);
    assert_eq!(session.child_ends(&[INIT]), []);
    assert_eq!(session.next(), restart());
    assert_eq!(session.child(INIT_OK), []);
    assert_eq!(session.rules.counters(), Counters { kills: 2, lost: 1, ..Counters::default() });
    assert_eq!(session.rules.waiting_bytes(), 0);
}

#[test]
fn with_hold_it_is_kept_in_order_with_what_the_dead_child_had_not_taken() {
    let mut session = Session::dying(HOLD);
    session.above("three");
    session.child_ends(&["one", "two"]);
    session.above("four");
    assert_eq!(session.next(), restart());
    session.above("five");
    // Killed before it has even taken its init.
    assert_eq!(session.next(), [Do::Kill]);
    session.above("six");
    session.child_ends(&[INIT]);
    assert_eq!(session.next(), restart());
    assert_eq!(session.child(INIT_OK), ["one", "two", "three", "four", "five", "six"].map(deliver));
    assert_eq!(session.rules.counters(), Counters { kills: 2, held: 5, ..Counters::default() });
    assert_eq!(session.rules.waiting_bytes(), 0);
}

#[test]
fn replies_to_clients_that_have_given_up_are_dropped() {
    let mut session = Session::initialised(PLAN);
    session.above(&request(1));
    session.now_ms = 4500;
    session.above(&request(2));
    assert_eq!(session.child(&reply(1)), [emit(&reply(1))]);
    session.now_ms = 4501;
    assert_eq!(session.child(&reply(1)), []);
    assert_eq!(session.child(&reply(2)), [emit(&reply(2))]);
    assert_eq!(session.rules.counters(), Counters { late: 1, ..Counters::default() });
}

#[test]
fn a_held_request_is_as_old_as_its_arrival() {
    let mut session = Session::dying(HOLD);
    session.above(&request(1));
    session.now_ms += 4501;
    session.child_ends(&[]);
    assert_eq!(session.next(), restart());
    assert_eq!(session.child(INIT_OK), [deliver(&request(1))]);
    assert_eq!(session.child(&reply(1)), []);
    assert_eq!(session.rules.counters().late, 1);
}

#[test]
fn what_a_dying_child_has_written_still_leaves() {
    let mut session = Session::initialised(PLAN);
    session.now_ms = 4000;
    session.above(&request(1));
    session.next();
    assert_eq!(session.child(&reply(1)), [emit(&reply(1))]);
}

#[test]
fn the_end_of_the_input_closes_the_childs_and_stops_the_kills() {
    let mut session = Session::initialised(PLAN);
    assert_eq!(session.above_ends(), [Do::CloseInput]);
    assert_eq!(session.rules.next_wakeup_ms(), Some(10_000));
    assert_eq!(session.child_ends(&[]), [Do::EndAsChild]);
    assert_eq!(session.rules.next_wakeup_ms(), None);
}

#[test]
fn at_the_end_of_the_input_a_child_that_is_down_comes_back_at_once_for_what_is_held() {
    let mut session = Session::dying(HOLD);
    session.above("one");
    session.child_ends(&[]);
    let before_ms = session.now_ms;
    assert_eq!(session.above_ends(), []);
    assert_eq!(session.next(), restart());
    assert_eq!(session.now_ms, before_ms);
    assert_eq!(session.child(INIT_OK), [deliver("one"), Do::CloseInput]);
    assert_eq!(session.child_ends(&[]), [Do::EndAsChild]);
    assert_eq!(session.rules.counters().kills, 1);
}

#[test]
fn the_same_when_the_input_ends_while_it_dies() {
    let mut session = Session::dying(HOLD);
    assert_eq!(session.above_ends(), []);
    session.child_ends(&["one"]);
    let before_ms = session.now_ms;
    assert_eq!(session.next(), restart());
    assert_eq!(session.now_ms, before_ms);
    assert_eq!(session.child(INIT_OK), [deliver("one"), Do::CloseInput]);
}

#[test]
fn a_child_that_does_not_end_is_not_waited_for_for_ever() {
    let mut session = Session::initialised(PLAN);
    session.above_ends();
    assert!(matches!(&session.next()[..], [Do::Fail(_)]));
    assert_eq!(session.now_ms, 10_000);
    assert_eq!(session.rules.next_wakeup_ms(), None);
}

#[test]
fn a_child_that_ends_of_itself_is_not_started_again() {
    for mut session in [Session::new(PLAN), Session::initialised(PLAN)] {
        assert_eq!(session.child_ends(&[]), [Do::EndAsChild]);
        assert_eq!(session.rules.next_wakeup_ms(), None);
        assert_eq!(session.tell(Rules::tick), []);
    }
}

#[test]
fn a_crash_just_before_a_kill_is_not_taken_for_it() {
    let mut session = Session::dying(PLAN);
    let todo = session.tell(|rules, now_ms, todo| rules.child_ended(false, Vec::new(), now_ms, todo));
    assert_eq!(todo, [Do::EndAsChild]);
}

#[test]
fn a_restarted_child_that_refuses_init_is_the_end() {
    let mut session = Session::dying(PLAN);
    session.child_ends(&[]);
    session.next();
    let other = r#"{"src":"n0","dest":"c0","body":{"type":"error","in_reply_to":2,"code":22}}"#;
    session.above(r#"{"src":"c0","dest":"n0","body":{"type":"topology","msg_id":2}}"#);
    assert_eq!(session.child(other), [emit(other)]);
    let refusal = r#"{"src":"n0","dest":"c0","body":{"type":"error","in_reply_to":1,"code":22}}"#;
    assert!(matches!(&session.child(refusal)[..], [Do::Fail(why)] if why.contains(refusal)));
}
