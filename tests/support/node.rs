//! The real binary as a child process.
//!
//! [`Process`] is the process with its pipes; what it writes is handed over line by line, from a thread of its own.
//! [`Node`] is a process whose clients are the test: it waits for the reply to what it sent, and keeps other lines.
//!
//! Elements are JSON *texts* throughout (`"\"apple\""`): a parser that rounds a number would hide that the node did.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{PATIENCE, binary};

/// What a process has written to stderr so far. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stderr(Arc<(Mutex<(String, bool)>, Condvar)>);

impl Stderr {
    /// All of it.
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().0.clone()
    }

    /// Waits until `wanted` is in it.
    ///
    /// # Panics
    /// If it never comes: at the end of stderr, or after [`PATIENCE`].
    pub fn wait_for(&self, wanted: &str) {
        let start = Instant::now();
        let mut guard = self.0.0.lock().unwrap();
        while !guard.0.contains(wanted) {
            let left = PATIENCE.saturating_sub(start.elapsed());
            if guard.1 || left.is_zero() {
                let text = guard.0.clone();
                // Not to be held when this panics: the thread that collects needs it.
                drop(guard);
                panic!("no {wanted:?} on stderr:\n{text}");
            }
            guard = self.0.1.wait_timeout(guard, left).unwrap().0;
        }
    }

    fn collect(&self, pipe: impl Read) {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            let ended = !matches!(pipe.read_until(b'\n', &mut line), Ok(n) if n > 0);
            let mut guard = self.0.0.lock().unwrap();
            guard.0.push_str(&String::from_utf8_lossy(&line));
            guard.1 = ended;
            self.0.1.notify_all();
            if ended {
                return;
            }
        }
    }
}

/// A running `orset`, killed when dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Returns what followed the last line's end.
    stdout: Option<JoinHandle<String>>,
    errors: Option<JoinHandle<()>>,
    /// What it says to people.
    pub stderr: Stderr,
}

impl Process {
    /// Starts it with these arguments; `on_line` gets each whole line of stdout, without its end.
    pub fn spawn(args: &[&OsStr], mut on_line: impl FnMut(String) + Send + 'static) -> Self {
        let mut command = Command::new(binary());
        command.args(args).env_remove("ORSET_DATA_DIR").env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let stderr = Stderr::default();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let sink = stderr.clone();
        let errors = std::thread::spawn(move || sink.collect(err));
        let stdout = std::thread::spawn(move || {
            let mut pipe = BufReader::new(out);
            loop {
                let mut line = Vec::new();
                let _ = pipe.read_until(b'\n', &mut line);
                let whole = line.pop_if(|last| *last == b'\n').is_some();
                let text = String::from_utf8(line).expect("stdout is UTF-8");
                if !whole {
                    return text;
                }
                on_line(text);
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, stdout: Some(stdout), errors: Some(errors), stderr }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its stdin; false once nobody reads there.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stdin.as_mut().is_some_and(|stdin| stdin.write_all(bytes).is_ok())
    }

    /// Its stdin, for whoever writes from a thread of their own.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("taken once")
    }

    /// Sends a signal to it and to nothing else.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child was not reaped yet");
    }

    /// SIGKILLs it. On return everything that it had written was handed over.
    pub fn kill(&mut self) -> ExitStatus {
        // It may have ended by itself; the status tells.
        let _ = self.child.kill();
        // A large write may be cut by the kill: half a line is no reply.
        self.reap().0
    }

    /// Ends its input and waits until it has ended.
    pub fn finish(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.wait()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        // std has no wait with a bound, and a hanging node must fail the test rather than hang it.
        while self.child.try_wait().expect("a child can be waited for").is_none() {
            assert!(start.elapsed() < PATIENCE, "it does not end; stderr:\n{}", self.stderr.text());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let (status, rest) = self.reap();
        assert!(rest.is_empty(), "it ended in the middle of a line: {rest:?}");
        status
    }

    /// How it ended, and what it had written after its last whole line.
    fn reap(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("a child can be waited for");
        let rest = self.stdout.take().map(|thread| thread.join().expect("stdout is read without a panic"));
        if let Some(thread) = self.errors.take() {
            thread.join().expect("stderr is read without a panic");
        }
        (status, rest.unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether SIGKILL ended it, rather than itself.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// One line that a node wrote.
#[derive(Clone, Debug)]
pub struct Line {
    /// As written.
    pub text: String,
    /// Whom it is for.
    pub dest: String,
    /// What it says. Numbers here may be rounded, and a field that no [`Value`] can hold is null: see the text.
    pub body: Value,
}

impl Line {
    /// Takes a line apart.
    ///
    /// # Panics
    /// If it is not a message: Maelstrom would never listen to this node again.
    pub fn parse(text: String) -> Self {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            src: String,
            dest: String,
            body: BTreeMap<String, Box<RawValue>>,
        }
        let wire: Wire = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?} is no message: {e}"));
        let value = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Null);
        let body = Value::Object(wire.body.iter().map(|(key, raw)| (key.clone(), value(raw))).collect());
        assert!(body["type"].is_string() && !wire.src.is_empty(), "{text:?} is no message");
        Self { text, dest: wire.dest, body }
    }

    /// The number of the request that it replies to.
    pub fn in_reply_to(&self) -> Option<i64> {
        self.body["in_reply_to"].as_i64()
    }

    /// The UUIDs in a field.
    pub fn tags(&self, field: &str) -> Vec<Uuid> {
        let one = |v: &Value| v.as_str().and_then(|s| s.parse().ok());
        let all = match &self.body[field] {
            Value::Array(items) => items.iter().map(one).collect(),
            item => one(item).map(|tag| vec![tag]),
        };
        all.unwrap_or_else(|| panic!("no tags in {field:?} of {}", self.text))
    }

    /// The elements of a list in a field, each as its JSON text.
    pub fn elements(&self, field: &str) -> Vec<String> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            body: BTreeMap<&'a str, &'a RawValue>,
        }
        let wire: Wire<'_> = serde_json::from_str(&self.text).expect("parsed before");
        let list = wire.body.get(field).unwrap_or_else(|| panic!("no {field:?} in {}", self.text));
        let items: Vec<&RawValue> = serde_json::from_str(list.get()).unwrap_or_else(|e| panic!("{}: {e}", self.text));
        items.into_iter().map(|item| item.get().to_owned()).collect()
    }
}

/// A node whose clients are the test.
pub struct Node {
    /// The process.
    pub process: Process,
    lines: Receiver<String>,
    aside: Vec<Line>,
    id: String,
    next_msg_id: i64,
}

impl Node {
    /// Starts `orset serve --data-dir DATA_DIR ARGS`, as the node `id`, which it is not told yet.
    pub fn spawn(data_dir: &Path, id: &str, args: &[&str]) -> Self {
        let mut all: Vec<&OsStr> = vec!["serve".as_ref(), "--data-dir".as_ref(), data_dir.as_ref()];
        all.extend(args.iter().map(OsStr::new));
        let (sender, lines) = channel();
        // A test that has ended listens no more.
        let process = Process::spawn(&all, move |line| drop(sender.send(line)));
        Self { process, lines, aside: Vec::new(), id: id.to_owned(), next_msg_id: 1 }
    }

    /// Starts the only node of its cluster and waits until it is ready.
    pub fn start(data_dir: &Path, id: &str, args: &[&str]) -> Self {
        let mut node = Self::spawn(data_dir, id, args);
        node.init();
        node
    }

    /// Tells it who it is, and waits for `init_ok`.
    pub fn init(&mut self) {
        let id = self.id.clone();
        let reply = self.call(&format!(r#""type":"init","node_id":"{id}","node_ids":["{id}"]"#));
        assert_eq!(reply.body["type"], "init_ok", "{}", reply.text);
    }

    /// Writes bytes as they are; false once nobody reads them.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.process.write(bytes)
    }

    /// The next request's number and line, for a body without its `msg_id` and braces.
    pub fn line_of(&mut self, body: &str) -> (i64, String) {
        let msg_id = self.next_msg_id;
        self.next_msg_id += 1;
        (msg_id, format!("{{\"src\":\"c1\",\"dest\":\"{}\",\"body\":{{\"msg_id\":{msg_id},{body}}}}}\n", self.id))
    }

    /// Sends a request (a body without its `msg_id` and braces) and returns its number.
    pub fn send(&mut self, body: &str) -> i64 {
        let (msg_id, line) = self.line_of(body);
        assert!(self.write(line.as_bytes()), "it reads no more; stderr:\n{}", self.process.stderr.text());
        msg_id
    }

    /// Waits for the reply to a request.
    ///
    /// # Panics
    /// If none comes: the node has ended, or [`PATIENCE`] has.
    pub fn reply(&mut self, msg_id: i64) -> Line {
        self.reply_to("c1", msg_id)
    }

    /// Waits for the reply to a request of that client.
    pub fn reply_to(&mut self, client: &str, msg_id: i64) -> Line {
        let wanted = |line: &Line| line.dest == client && line.in_reply_to() == Some(msg_id);
        if let Some(place) = self.aside.iter().position(wanted) {
            return self.aside.remove(place);
        }
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(text) => {
                    let line = Line::parse(text);
                    if wanted(&line) {
                        return line;
                    }
                    self.aside.push(line);
                }
                Err(why) => {
                    let ended = if why == RecvTimeoutError::Disconnected { ": it has ended" } else { "" };
                    panic!("no reply to {msg_id}{ended}; stderr:\n{}", self.process.stderr.text());
                }
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub fn call(&mut self, body: &str) -> Line {
        let msg_id = self.send(body);
        self.reply(msg_id)
    }

    /// Adds an element and returns its tag.
    pub fn add(&mut self, element: &str) -> Uuid {
        self.call(&format!(r#""type":"or_set_add","element":{element}"#)).tags("tag")[0]
    }

    /// Removes an element and returns the tags that were removed.
    pub fn remove(&mut self, element: &str) -> Vec<Uuid> {
        self.call(&format!(r#""type":"or_set_remove","element":{element}"#)).tags("tags_removed")
    }

    /// The elements, in the node's order.
    pub fn read(&mut self) -> Vec<String> {
        self.call(r#""type":"or_set_read""#).elements("elements")
    }

    /// The error code of the reply to a request that must fail.
    pub fn refused(&mut self, body: &str) -> i64 {
        let reply = self.call(body);
        assert_eq!(reply.body["type"], "error", "{}", reply.text);
        reply.body["code"].as_i64().unwrap_or_else(|| panic!("no code in {}", reply.text))
    }

    /// The lines that came and were not asked for yet, without waiting; all there will ever be once it has ended.
    pub fn drain(&mut self) -> Vec<Line> {
        let mut lines = std::mem::take(&mut self.aside);
        lines.extend(self.lines.try_iter().map(Line::parse));
        lines
    }

    /// Ends its input; panics unless it then exits with 0.
    pub fn stop(&mut self) {
        let status = self.process.finish();
        assert_eq!(status.code(), Some(0), "stderr:\n{}", self.process.stderr.text());
    }
}
