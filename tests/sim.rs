//! `orset sim` as its users see it.

mod support;

use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(support::binary()).arg("sim").args(args).output().expect("the binary can be started")
}

#[test]
fn a_good_run_is_summed_up_and_its_last_line_is_the_verdict() {
    let output = sim(&["--seed", "3", "--seeds", "4", "--nodes", "3", "--steps", "30"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{text}");
    let figure = |what: &str| text.lines().find_map(|line| line.strip_prefix(what)?.trim().parse::<u64>().ok());
    assert_eq!(figure("seeds"), Some(4), "{text}");
    assert!(figure("client operations").is_some_and(|figure| figure > 100), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.starts_with("all is well: 4 seeds")), "{text}");
}

#[test]
fn the_same_seeds_give_the_same_figures_on_any_number_of_threads() {
    let figures = |threads| {
        let output = sim(&["--seeds", "6", "--steps", "25", "--threads", threads]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.contains("a minute") && !line.contains(" s")).collect::<Vec<_>>().join("\n")
    };
    let alone = figures("1");
    assert!(alone.contains("messages"), "{alone}");
    assert_eq!(figures("3"), alone);
}

#[test]
fn without_faults_there_are_none() {
    let all = "weather,late,cut,partition,lag,stop,kill,power,crash-at-io,power-after-start,write-error,short-write,\
               failed-sync,disk-full,damage,wipe,rollback,copy";
    let output = sim(&["--seeds", "3", "--nodes", "3", "--steps", "40", "--without", all]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for what in ["kills", "power cuts", "wipes", "failed syncs"] {
        assert!(text.lines().any(|line| line.starts_with(what) && line.ends_with(" 0")), "{what}: {text}");
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [&["--nodes", "1"][..], &["--without", "gremlins"], &["--seeds", "0"], &["--seed", "x"]] {
        assert_eq!(sim(args).status.code(), Some(2), "{args:?}");
    }
}
