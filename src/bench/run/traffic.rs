//! Messages: to the nodes, and from them.

use std::io;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::clients::{name, number};
use super::super::history::{Event, NodeChange, Outcome, Phase, Request};
use super::super::network::{Packet, Source};
use super::super::wire::{self, FromNode, Reply};
use super::{Control, Runner};
use crate::node::input::Line;

/// So much of a bad line is shown.
const SHOWN_BYTES: usize = 200;

/// A line of `messages.jsonl`.
#[derive(serde::Serialize)]
struct Logged<'a> {
    sent_ns: u64,
    due_ns: u64,
    delivered_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    src: &'a str,
    dest: &'a str,
    body: &'a RawValue,
}

/// What is needed of a line to log it.
#[derive(serde::Deserialize)]
struct Sent<'a> {
    src: String,
    dest: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl Runner<'_> {
    /// Sends a client's message: it is in the node's inbox at once.
    pub(super) fn send_from_client(&mut self, client: u64, node: usize, body: &Value, now_ns: u64) {
        let line = wire::line(self.next_message_id, &name(client), &self.nodes[node].id, body);
        self.next_message_id += 1;
        self.net.client_messages += 1;
        self.net.client_bytes += line.len() as u64;
        let packet = Packet { from: Source::Client, line, sent_ns: now_ns, due_ns: now_ns, duplicate: false };
        self.nodes[node].inbox.push(packet);
    }

    /// Sends a request of the bench's own.
    pub(super) fn send_control(&mut self, node: usize, control: Control, now_ns: u64) {
        let ids: Vec<&str> = self.nodes.iter().map(|node| node.id.as_str()).collect();
        let body = match control {
            Control::Init => json!({"type": "init", "msg_id": 1, "node_id": ids[node], "node_ids": ids}),
            Control::Topology => {
                let neighbours = self.options.topology.neighbours(ids.len());
                let named = neighbours.iter().enumerate().map(|(node, near)| {
                    let near: Vec<&str> = near.iter().map(|near| ids[*near]).collect();
                    (ids[node].to_owned(), json!(near))
                });
                let topology: serde_json::Map<String, Value> = named.collect();
                json!({"type": "topology", "msg_id": 1, "topology": topology})
            }
        };
        let client = self.clients.new_name();
        self.control.push((client, node, control));
        self.send_from_client(client, node, &body, now_ns);
    }

    /// A client sends a request; to a node that is down it does not even leave.
    pub(super) fn request(&mut self, worker: usize, phase: Phase, request: Request, now_ns: u64) -> io::Result<()> {
        let (process, node) = self.clients.worker(worker);
        self.counted[0] += 1;
        let event = Event::Invoke {
            process: process.clone(),
            node: self.nodes[node].id.clone(),
            phase,
            request: request.clone(),
        };
        let op = self.recorder.record(event)?;
        if !self.nodes[node].ready {
            self.counted[2] += 1;
            let text = "node is down".to_owned();
            return self.recorder.record(Event::Fail { op, process, code: 1, text }).map(|_| ());
        }
        let msg_id = self.clients.send(worker, op, request.clone(), now_ns);
        let body = self.body_of(op, &request, msg_id);
        if let Some(client) = number(&process) {
            self.send_from_client(client, node, &body, now_ns);
        }
        Ok(())
    }

    /// Delivers what is due.
    pub(super) fn deliver_all(&mut self) -> io::Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.deliver(node))
    }

    pub(super) fn deliver(&mut self, to: usize) -> io::Result<()> {
        let now_ns = self.recorder.now_ns();
        if !self.nodes[to].is_alive() {
            while let Some((packet, _)) = self.nodes[to].inbox.pop(now_ns) {
                self.net.to_dead += 1;
                self.log(&packet, None, Some("down"))?;
            }
            return Ok(());
        }
        while self.nodes[to].process.as_ref().is_some_and(super::super::node::Process::has_room)
            && let Some((packet, free_ns)) = self.nodes[to].inbox.pop(now_ns)
        {
            match packet.from {
                Source::Node(from) if self.links.is_cut(from, to) => {
                    self.net.partitioned += 1;
                    self.log(&packet, None, Some("partition"))?;
                }
                _ => {
                    if let Some(process) = &mut self.nodes[to].process {
                        process.put(packet, free_ns);
                    }
                }
            }
        }
        let Some(process) = &mut self.nodes[to].process else { return Ok(()) };
        let gone = process.write(now_ns)?;
        let paused = process.paused;
        let now_ns = self.recorder.now_ns();
        for (packet, free_ns) in gone {
            self.net.delivered += 1;
            if !paused {
                self.lateness.add(now_ns.saturating_sub(free_ns));
            }
            self.log(&packet, Some(now_ns), None)?;
        }
        Ok(())
    }

    pub(super) fn log(
        &self,
        packet: &Packet,
        delivered_ns: Option<u64>,
        dropped: Option<&'static str>,
    ) -> io::Result<()> {
        let sent: Sent = serde_json::from_slice(&packet.line)?;
        self.log_sent(&sent, packet, delivered_ns, dropped)
    }

    fn log_sent(
        &self,
        sent: &Sent,
        packet: &Packet,
        delivered_ns: Option<u64>,
        dropped: Option<&'static str>,
    ) -> io::Result<()> {
        let logged = Logged {
            sent_ns: packet.sent_ns,
            due_ns: packet.due_ns,
            delivered_ns,
            dropped,
            duplicate: packet.duplicate,
            src: &sent.src,
            dest: &sent.dest,
            body: sent.body,
        };
        self.messages.put(serde_json::to_vec(&logged)?);
        Ok(())
    }

    /// Reads what a node has said; its end, if it has none to say any more.
    pub(super) fn read_node(&mut self, node: usize) -> io::Result<()> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.read()?;
        let ended = process.lines.has_ended();
        let mut lines = Vec::new();
        while let Some(line) = process.lines.next_line() {
            lines.push(match line {
                Line::Whole(line) => Ok(line.to_vec()),
                Line::Overlong(line) => Err(line.to_vec()),
            });
        }
        let count = lines.len();
        for (place, line) in lines.into_iter().enumerate() {
            // The half line of a process that died in the middle of it.
            let last = ended && place + 1 == count;
            self.hear(node, line, last)?;
        }
        if ended { self.node_ended(node) } else { Ok(()) }
    }

    fn hear(&mut self, node: usize, line: Result<Vec<u8>, Vec<u8>>, may_be_half: bool) -> io::Result<()> {
        let line = match line {
            Ok(line) => line,
            Err(beginning) => return self.bad_line(node, "longer than 64 MiB".to_owned(), &beginning),
        };
        let message = match wire::parse(&line) {
            Err(_) if may_be_half => return Ok(()),
            Err(why) => return self.bad_line(node, why, &line),
            Ok(message) => message,
        };
        if message.src != self.nodes[node].id {
            return self.bad_line(node, format!("src is {:?}", message.src), &line);
        }
        if let Some(to) = self.nodes.iter().position(|other| other.id == message.dest) {
            return self.route(node, to, &line, &message);
        }
        match number(&message.dest) {
            Some(client) => self.answer(node, client, &line, &message),
            None => self.bad_line(node, format!("nobody is called {:?}", message.dest), &line),
        }
    }

    fn bad_line(&mut self, node: usize, text: String, line: &[u8]) -> io::Result<()> {
        let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]).into_owned();
        let change = NodeChange::BadLine { text, line: shown };
        self.note_node(node, change)
    }

    /// A message to a node.
    fn route(&mut self, from: usize, to: usize, line: &[u8], message: &FromNode) -> io::Result<()> {
        let now_ns = self.recorder.now_ns();
        let mut line = line.to_vec();
        line.push(b'\n');
        self.net.server_messages += 1;
        self.net.server_bytes += line.len() as u64;
        let latencies = self.links.send(&mut self.random);
        let packet = |latency_ns: u64, duplicate: bool, line: Vec<u8>| Packet {
            from: Source::Node(from),
            line,
            sent_ns: now_ns,
            due_ns: now_ns + latency_ns,
            duplicate,
        };
        if latencies.is_empty() {
            self.net.lost += 1;
            let sent = Sent { src: message.src.clone(), dest: message.dest.clone(), body: message.body };
            return self.log_sent(&sent, &packet(0, false, Vec::new()), None, Some("loss"));
        }
        for (copy, latency_ns) in latencies.into_iter().enumerate() {
            self.net.duplicated += u64::from(copy > 0);
            self.nodes[to].inbox.push(packet(latency_ns, copy > 0, line.clone()));
        }
        Ok(())
    }

    /// A message to a client.
    fn answer(&mut self, node: usize, client: u64, line: &[u8], message: &FromNode) -> io::Result<()> {
        let now_ns = self.recorder.now_ns();
        self.net.client_messages += 1;
        self.net.client_bytes += line.len() as u64 + 1;
        let packet =
            Packet { from: Source::Node(node), line: Vec::new(), sent_ns: now_ns, due_ns: now_ns, duplicate: false };
        let sent = Sent { src: message.src.clone(), dest: message.dest.clone(), body: message.body };
        self.log_sent(&sent, &packet, Some(now_ns), None)?;
        let body: Value = match serde_json::from_str(message.body.get()) {
            Ok(body) => body,
            // The text is JSON, but nests too deep, holds a number beyond all bounds, or half a surrogate pair.
            Err(error) => return self.bad_line(node, format!("not a message: {error}"), line),
        };
        let Some(msg_id) = body["in_reply_to"].as_u64() else {
            return self.bad_line(node, "a message to a client without in_reply_to".to_owned(), line);
        };
        if let Some(place) = self.control.iter().position(|(asker, asked, _)| *asker == client && *asked == node) {
            let (_, _, control) = self.control.swap_remove(place);
            return self.controlled(node, control, &body, line);
        }
        // A second reply, or one to nobody: Maelstrom's clients ignore it.
        let Some(pending) = self.clients.answered(client, msg_id) else { return Ok(()) };
        let at = self.recorder.history.next;
        let outcome = match wire::reply(self.options.workload, &pending.request, &body) {
            Ok(Reply::Ok(answer)) => Outcome::Ok(at, answer),
            Ok(Reply::Fail(code, text)) => Outcome::Fail(at, code, text),
            Ok(Reply::Info(text)) => Outcome::Unknown(Some((at, text))),
            Err(why) => {
                self.bad_line(node, why.clone(), line)?;
                Outcome::Unknown(Some((at, why)))
            }
        };
        match self.of_several(pending.op, outcome) {
            Some(outcome) => self.complete(name(client), &pending, outcome),
            None => Ok(()),
        }
    }

    fn controlled(&mut self, node: usize, control: Control, body: &Value, line: &[u8]) -> io::Result<()> {
        let expected = format!("{}_ok", control.name());
        if body["type"] != expected {
            return self.bad_line(node, format!("not {expected}"), line);
        }
        // A process that is dying has said it, but takes nothing any more.
        if control == Control::Init && self.nodes[node].is_alive() {
            self.nodes[node].ready = true;
            self.note_node(node, NodeChange::Ready)?;
            if self.wants_topology() {
                let now_ns = self.recorder.now_ns();
                self.send_control(node, Control::Topology, now_ns);
            }
        }
        Ok(())
    }
}
