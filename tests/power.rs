//! Power cuts on the real binary: the file system that forgets, against a real one; our node on it; that nodes which
//! sync too little are caught; and that nothing stays mounted.

mod support;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use orset::bench::power::{self, Forgetting, Machine, Tree};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;
use support::bench::{bench, bench_command, faulty_node};
use support::node::Node;
use support::{binary, temp_dir, wait_until};

/// Whether power can be cut here; says so if not.
fn power_can_be_cut() -> bool {
    match power::check() {
        Ok(()) => true,
        Err(why) => {
            println!("skipped: {why}");
            false
        }
    }
}

/// A machine that is switched on, in a directory of its own.
fn machine() -> Option<(Machine, tempfile::TempDir)> {
    if !power_can_be_cut() {
        return None;
    }
    let dir = temp_dir();
    let mut machine = Machine::new(&dir.path().join("disk")).unwrap();
    machine.power_on().unwrap();
    Some((machine, dir))
}

fn cut(machine: &mut Machine, forgetting: Forgetting) {
    machine.cut(forgetting, &mut fastrand::Rng::with_seed(1), || Ok(())).unwrap();
    machine.power_on().unwrap();
}

fn sync_dir(dir: &Path) {
    File::open(dir).unwrap().sync_all().unwrap();
}

/// What an operation gave, as text, so that two can be compared.
fn told<T: std::fmt::Debug>(outcome: io::Result<T>) -> String {
    outcome.map_or_else(|error| format!("error {:?}", error.raw_os_error()), |value| format!("{value:?}"))
}

/// Does one operation of those that are drawn below a directory, and gives what came of it.
fn operate(root: &Path, open: &mut Vec<File>, random: &mut fastrand::Rng) -> String {
    let mut path = || root.join(["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "b/a"][random.usize(..8)]);
    let (one, other) = (path(), path());
    let handle = |open: &Vec<File>, random: &mut fastrand::Rng| {
        let count = open.len();
        (count > 0).then(|| open[random.usize(..count)].try_clone().unwrap())
    };
    let data = vec![random.u8(..); random.usize(..3000)];
    let offset = random.u64(..5000);
    match random.u32(..18) {
        0 | 1 => told(OpenOptions::new().read(true).write(true).create_new(true).open(one).map(|f| open.push(f))),
        2 => told(OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(one).map(|f| open.push(f))),
        3 => told(fs::write(one, data)),
        4 => told(fs::read(one)),
        5 => told(fs::create_dir(one)),
        6 => told(fs::remove_dir(one)),
        7 => told(fs::remove_file(one)),
        8 => told(fs::rename(one, other)),
        9 => told(fs::hard_link(one, other)),
        10 => told(fs::remove_dir_all(one)),
        11 => told(fs::metadata(one).map(|found| (found.is_dir(), found.mode(), found.nlink()))),
        12 => told(fs::read_dir(one).map(|entries| {
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        })),
        13 if open.len() > 3 => told(Ok(open.swap_remove(random.usize(..open.len())).metadata().unwrap().nlink())),
        choice => match handle(open, random) {
            None => String::new(),
            Some(file) => match choice {
                14 => told(file.set_len(offset)),
                15 => told(fallocate(&file, FallocateFlags::empty(), offset, 700).map_err(io::Error::from)),
                16 => {
                    let mut buffer = vec![0; 1000];
                    told(file.read_at(&mut buffer, offset).map(|length| buffer[..length].to_vec()))
                }
                _ => told(file.write_all_at(&data, offset).and_then(|()| (&file).write_all(&data))),
            },
        },
    }
}

#[test]
fn it_behaves_as_a_real_file_system() {
    let Some((machine, dir)) = machine() else { return };
    let seed = support::seed("power");
    for round in 0..40 {
        let name = format!("round-{round}");
        let (here, there) = (machine.point().join(&name), dir.path().join(&name));
        let mut randoms = [seed + round, seed + round].map(fastrand::Rng::with_seed);
        let mut open = [Vec::new(), Vec::new()];
        for root in [&here, &there] {
            fs::create_dir(root).unwrap();
        }
        for step in 0..150 {
            let ours = operate(&here, &mut open[0], &mut randoms[0]);
            let real = operate(&there, &mut open[1], &mut randoms[1]);
            assert_eq!(ours, real, "seed {seed}, round {round}, step {step}");
        }
        assert_eq!(Tree::read(&here).unwrap(), Tree::read(&there).unwrap(), "seed {seed}, round {round}");
        // The kernel's view and the disk's are one.
        assert_eq!(machine.tree(name.as_ref()), Some(Tree::read(&here).unwrap()));
    }
}

/// Syncs everything at and below a path.
fn sync_all_of(path: &Path) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| sync_all_of(&entry.unwrap().path()));
    }
    File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn a_cut_takes_back_everything_since_the_sync_or_a_part_of_it() {
    let Some((mut machine, _dir)) = machine() else { return };
    let seed = support::seed("power");
    for round in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed + round);
        let name = format!("round-{round}");
        let root = machine.point().join(&name);
        fs::create_dir(&root).unwrap();
        let mut open = Vec::new();
        (0..80).for_each(|_| drop(operate(&root, &mut open, &mut random)));
        sync_all_of(machine.point());
        let synced = machine.tree(name.as_ref());
        (0..40).for_each(|_| drop(operate(&root, &mut open, &mut random)));
        let forgetting = if round % 2 == 0 { Forgetting::All } else { Forgetting::draw(&mut random) };
        machine.cut(forgetting, &mut random, || Ok(())).unwrap();
        machine.power_on().unwrap();
        let left = machine.tree(name.as_ref());
        if forgetting == Forgetting::All {
            assert_eq!(left, synced, "seed {seed}, round {round}");
        }
        // What the kernel shows is what is left, and it can be worked on.
        assert_eq!(left, Some(Tree::read(&root).unwrap()), "seed {seed}, round {round}, {forgetting:?}");
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn files_are_locked_and_programs_run_from_it() {
    let Some((machine, _dir)) = machine() else { return };
    let path = machine.point().join("LOCK");
    let (first, second) = (File::create(&path).unwrap(), File::open(&path).unwrap());
    first.try_lock().unwrap();
    assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
    drop(first);
    second.try_lock().unwrap();
    // A program is mapped into memory.
    let program = machine.point().join("true");
    fs::copy("/bin/true", &program).unwrap();
    assert!(Command::new(program).status().unwrap().success());
}

#[test]
fn after_a_cut_there_is_what_was_synced_and_no_cache_shows_more() {
    let Some((mut machine, _dir)) = machine() else { return };
    let root = machine.point().to_owned();
    let file = |name: &str| root.join(name);
    for name in ["kept", "renamed", "no name synced"] {
        fs::write(file(name), b"synced").unwrap();
        File::open(file(name)).unwrap().sync_data().unwrap();
        if name == "renamed" {
            sync_dir(&root);
        }
    }
    let inode = fs::metadata(file("kept")).unwrap().ino();
    OpenOptions::new().append(true).open(file("kept")).unwrap().write_all(b", not synced").unwrap();
    fs::rename(file("renamed"), file("no dir synced")).unwrap();
    // All of it is in the kernel's caches.
    assert_eq!(fs::read(file("kept")).unwrap(), b"synced, not synced");
    let open = File::open(file("kept")).unwrap();
    cut(&mut machine, Forgetting::All);
    assert_eq!(fs::read(file("kept")).unwrap(), b"synced");
    assert_eq!(fs::read(file("renamed")).unwrap(), b"synced");
    assert!(!file("no dir synced").exists() && !file("no name synced").exists());
    assert_eq!(fs::metadata(file("kept")).unwrap().ino(), inode, "a disk does not number its files anew");
    assert_eq!(open.sync_all().unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
}

#[test]
fn who_writes_at_the_moment_of_the_cut_gets_nothing_through_afterwards() {
    let Some((mut machine, _dir)) = machine() else { return };
    let script = "i=0; while :; do i=$((i+1)); echo $i >> log; sync log; echo $i; done";
    for _ in 0..10 {
        let mut writer = Command::new("/bin/sh");
        let writer =
            writer.args(["-c", script]).current_dir(machine.point()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut writer = Writer(writer.spawn().unwrap());
        let mut stdout = io::BufReader::new(writer.0.stdout.take().unwrap());
        let mut line = String::new();
        for _ in 0..20 {
            line.clear();
            io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        }
        sync_dir(machine.point());
        machine.cut(Forgetting::All, &mut fastrand::Rng::with_seed(1), || writer.0.kill()).unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(writer.0.wait().unwrap().signal(), Some(9));
        machine.power_on().unwrap();
        let acknowledged = (line + &rest).lines().last().unwrap().parse::<u64>().unwrap();
        let log = fs::read_to_string(machine.point().join("log")).unwrap();
        let written = log.lines().last().unwrap().parse::<u64>().unwrap();
        // It is killed between a sync and its word about it at worst.
        assert!(written == acknowledged || written == acknowledged + 1, "{written} written, {acknowledged} heard");
        fs::remove_file(machine.point().join("log")).unwrap();
    }
}

/// A child that does not outlive the test.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_same_seed_forgets_the_same() {
    let work = |seed: u64, forgetting: Forgetting| {
        let access = power::Access { mode: 0o600, uid: 0, gid: 0 };
        let mut disk = power::Disk::default();
        let dir = disk.make_dir(power::ROOT, "store".as_ref(), access).unwrap();
        disk.sync_dir(power::ROOT).unwrap();
        for (n, name) in ["a", "b", "c", "d", "e", "f", "g", "h"].iter().enumerate() {
            let file = disk.make_file(dir, name.as_ref(), access).unwrap();
            disk.write(file, 100, &vec![n as u8 + 1; 5000]).unwrap();
        }
        let cut = disk.cut(forgetting, &mut fastrand::Rng::with_seed(seed));
        (cut, disk.tree("store".as_ref()).unwrap())
    };
    for forgetting in [Forgetting::All, Forgetting::AfterAPoint, Forgetting::ASubset] {
        assert_eq!(work(7, forgetting), work(7, forgetting));
    }
    assert_eq!(work(1, Forgetting::All).1, Tree::Dir { mode: 0o600, entries: std::collections::BTreeMap::new() });
    let subsets: Vec<Tree> = (0..5).map(|seed| work(seed, Forgetting::ASubset).1).collect();
    assert!(subsets.windows(2).any(|pair| pair[0] != pair[1]), "{subsets:?}");
}

/// Starts our node on its store, has it read once and stop, and gives what it said on stdout and on stderr.
fn start(data: &Path, boot_id: &str) -> (String, String) {
    let mut command = Command::new(binary());
    command.args([OsStr::new("serve"), "--data-dir".as_ref(), data.as_ref(), "--node-id".as_ref(), "n1".as_ref()]);
    command.env("ORSET_BOOT_ID", boot_id).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let read = br#"{"src":"c1","dest":"n1","body":{"type":"or_set_read","msg_id":1}}"#;
    child.stdin.take().unwrap().write_all(read).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// Found by this file system: the name of the store's own directory was never synced, nor those of the directories that
/// were made for it, so that a power cut soon after the first start took everything.
#[test]
fn a_new_store_outlives_a_power_cut_with_its_directories() {
    for forgetting in [Forgetting::All, Forgetting::AfterAPoint, Forgetting::ASubset] {
        let Some((mut machine, _dir)) = machine() else { return };
        let data = machine.point().join("made/by/the node");
        let mut node = Node::start(&data, "n1", &[]);
        node.add("\"apple\"");
        machine
            .cut(forgetting, &mut fastrand::Rng::with_seed(3), || {
                node.process.signal(Signal::KILL);
                Ok(())
            })
            .unwrap();
        node.process.kill();
        machine.power_on().unwrap();
        let (said, _) = start(&data, "second");
        assert!(said.contains(r#"["apple"]"#), "{forgetting:?}: {said}");
    }
}

#[test]
fn after_a_power_cut_an_index_is_trusted_only_if_it_was_closed() {
    for (clean, word) in [(true, "index trusted"), (false, "index rebuilt")] {
        let Some((mut machine, _dir)) = machine() else { return };
        let data = machine.point().to_owned();
        let mut node = Node::start(&data, "n1", &[]);
        node.add("\"apple\"");
        if clean {
            node.stop();
        } else {
            // sled has it, and `index.state` says so; neither was synced.
            wait_until("the index is noted", || data.join("n1/index.state").exists());
            node.process.kill();
            let (said, words) = start(&data, "first");
            assert!(said.contains(r#"["apple"]"#) && words.contains("index rebuilt"), "{words}");
            let mut node = Node::start(&data, "n1", &[]);
            node.add("\"banana\"");
            node.process.kill();
        }
        machine.cut(Forgetting::AfterAPoint, &mut fastrand::Rng::with_seed(4), || Ok(())).unwrap();
        machine.power_on().unwrap();
        let (said, words) = start(&data, "second");
        assert!(said.contains(r#""apple""#) && words.contains(word), "{words}");
    }
}

fn with_bug(bug: &str, nemesis: &str) -> support::bench::Run {
    let node = faulty_node();
    let options = "--node-count 3 --time-limit 5 --rate 150 --elements 20 --concurrency 3n --recovery 1 \
                   --nemesis-interval 1 --seed 6";
    bench(&format!("--bin {} {options} --nemesis {nemesis} -- {bug} {{data}}/{{node}}", node.display()))
}

#[test]
fn a_node_that_syncs_what_it_must_is_valid_under_power_cuts() {
    if power_can_be_cut() {
        with_bug("none", "power,power-all").is_valid();
    }
}

#[test]
fn a_node_that_acknowledges_before_it_syncs_is_caught_by_power_cuts_alone() {
    if power_can_be_cut() {
        with_bug("acks-before-sync", "kill,kill-all").is_valid();
        with_bug("acks-before-sync", "power,power-all").is_caught("acks-before-sync", &["lost-tag"]);
    }
}

#[test]
fn a_node_that_does_not_sync_the_directory_after_a_rename_is_caught_by_power_cuts_alone() {
    if power_can_be_cut() {
        with_bug("forgets-dir-sync", "kill,kill-all").is_valid();
        with_bug("forgets-dir-sync", "power,power-all").is_caught("forgets-dir-sync", &["lost-tag"]);
    }
}

/// The mount points under a directory.
fn mounts_under(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.canonicalize().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(&dir)).collect()
}

#[test]
fn our_node_is_valid_under_power_cuts_beside_all_other_faults() {
    if !power_can_be_cut() {
        return;
    }
    let run = bench(
        "--time-limit 8 --rate 150 --recovery 8 --nemesis-interval 1 --seed 8 \
         --nemesis power,power-all,kill,pause,partition,loss,duplicate,slow,wipe,rollback",
    );
    run.is_valid();
    assert!(run.node_figure("power_cuts") >= 20, "{}", run.said());
    for lost_or_not in ["unsynced_kept", "unsynced_forgotten"] {
        assert!(run.node_figure(lost_or_not) > 0, "{lost_or_not}");
    }
    let logs: String = (0..5).map(|node| run.node_log(&format!("n{node}"))).collect();
    assert!(logs.contains("index trusted") && logs.contains("index rebuilt"), "{logs}");
    assert!(!run.latest().join("machines").exists());
    assert_eq!(mounts_under(&run.latest()), Vec::<PathBuf>::new());
    for node in 0..5 {
        let store = run.latest().join("data").join(format!("n{node}"));
        let dump = Command::new(binary()).arg("dump").arg(store).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    }
}

/// Starts a run, waits until its disks are mounted, and sends it a signal.
fn signalled(signal: Signal) -> (Option<i32>, tempfile::TempDir) {
    let (mut command, dir) = bench_command("--nemesis power --time-limit 600 --node-count 2 --nemesis-interval 1");
    let mut child = Writer(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_until("both disks are mounted", || mounts_under(dir.path()).len() == 2);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), signal).unwrap();
    (child.0.wait().unwrap().code(), dir)
}

#[test]
fn nothing_stays_mounted_when_a_run_is_interrupted_or_killed() {
    if !power_can_be_cut() {
        return;
    }
    let (code, dir) = signalled(Signal::INT);
    assert_eq!(code, Some(2), "interrupted: unknown");
    assert_eq!(mounts_under(dir.path()), Vec::<PathBuf>::new());
    assert!(dir.path().join("store/latest/data/n0").is_dir(), "the stores are laid out all the same");
    let (code, dir) = signalled(Signal::KILL);
    assert_eq!(code, None);
    wait_until("a shell has unmounted them", || mounts_under(dir.path()).is_empty());
}

#[test]
fn without_fuse_the_run_refuses_the_nemesis_before_any_node_is_started() {
    // In a mount namespace of its own, in which the device is another one.
    let (bench, dir) = bench_command("--nemesis kill,power --time-limit 1");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind /dev/null /dev/fuse && exec \"$@\" || exit 77", "sh"]);
    command.arg(bench.get_program()).args(bench.get_args());
    let Ok(output) = command.output() else { return println!("skipped: there is no unshare") };
    let said = String::from_utf8_lossy(&output.stderr);
    if !matches!(output.status.code(), Some(0 | 2 | 3)) {
        return println!("skipped: this process may not hide /dev/fuse: {said}");
    }
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("power needs FUSE") && said.contains("/dev/fuse"), "{said}");
    assert!(!dir.path().join("store").exists(), "nothing was begun");
}

#[test]
fn power_can_be_cut_by_a_user_who_is_not_root() {
    let nobody = 65534;
    // Where that user gets at everything: the build need not lie in such a place.
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(nobody), Some(nobody)).unwrap();
    let program = dir.path().join("orset");
    fs::copy(binary(), &program).unwrap();
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let as_nobody = |program: &OsStr, args: &str| {
        let mut command = Command::new("setpriv");
        command.args(user).arg(program).args(args.split_ascii_whitespace()).current_dir(dir.path()).output()
    };
    if !as_nobody(program.as_ref(), "--version").is_ok_and(|output| output.status.success()) {
        return support::skipped("this process may not become another user by setpriv");
    }
    if !as_nobody("fusermount3".as_ref(), "--version").is_ok_and(|output| output.status.success()) {
        return support::skipped("there is no fusermount3");
    }
    let options =
        "test --nemesis power,wipe,rollback --nemesis-interval 1 --time-limit 4 --node-count 3 --recovery 4 --seed 9";
    let output = as_nobody(program.as_ref(), options).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if said.contains("cannot mount a file system") {
        return support::skipped(&format!("fusermount3 does not mount here: {said}"));
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(" cuts; "), "{said}");
    assert_eq!(mounts_under(dir.path()), Vec::<PathBuf>::new());
}
