//! Peers' messages: whatever a replica may say comes out as it went in.

use orset::crdt::{
    ChunkHashes, Dot, Incarnation, LiveBits, MAX_REMOVE_TAGS, NodeId, Op, OpBody, ReplicaId, Seq, VersionVector,
};
use orset::maelstrom::{Decoder, Incoming, Limits, canonical, encode, op_size_hint};
use orset::replica::{Outgoing, PeerBody, PeerMessage, Purpose, Sign, StateContent, StateKey, StateOffset};
use orset::storage::Lsn;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn replica() -> impl Strategy<Value = ReplicaId> {
    // Few, so that they repeat; and some of all.
    prop_oneof![3 => (0_u128..4).prop_map(ReplicaId::from_random), 1 => any::<u128>().prop_map(ReplicaId::from_random)]
}

fn seq(from: u64) -> impl Strategy<Value = Seq> {
    prop_oneof![3 => from..from + 20, 1 => from..=Seq::MAX.0, 1 => Just(Seq::MAX.0)].prop_map(Seq)
}

fn dot(from: u64) -> impl Strategy<Value = Dot> {
    (replica(), seq(from)).prop_map(|(replica, seq)| Dot::new(replica, seq))
}

fn vector() -> impl Strategy<Value = VersionVector> {
    vec((replica(), seq(1)), 0..6).prop_map(VersionVector::from_iter)
}

fn element() -> impl Strategy<Value = orset::crdt::Element> {
    let text = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
    let other =
        proptest::sample::select(vec![r#"{"k":[1.0,{}],"a":null}"#, "-0", "1e5", "123456789012345678901", "[[]]"]);
    let json = prop_oneof![text, other.prop_map(str::to_owned)];
    json.prop_map(|json| canonical(&json, &Limits::default()).unwrap())
}

fn node() -> impl Strategy<Value = NodeId> {
    "[a-z0-9_-][a-z0-9._-]{0,9}".prop_map(|name| NodeId::new(&name).unwrap())
}

fn body() -> impl Strategy<Value = OpBody> {
    let tags = prop_oneof![9 => vec(dot(2), 1..5), 1 => vec(dot(2), MAX_REMOVE_TAGS)];
    prop_oneof![
        (node(), option::of(dot(1))).prop_map(|(node, parent)| OpBody::Start { node, parent }),
        element().prop_map(OpBody::Add),
        (element(), tags).prop_map(|(element, tags)| OpBody::Remove { element, tags }),
    ]
}

/// Operations in stretches of consecutive ones; the impossible ones are left out.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let run = (dot(1), vec(body(), 0..6)).prop_map(|(first, bodies)| {
        let dots = (first.seq.0..).map(move |seq| Dot::new(first.replica, Seq(seq)));
        dots.zip(bodies).map(|(dot, body)| Op { dot, body }).filter(|op| op.check().is_ok()).collect::<Vec<_>>()
    });
    vec(run, 0..5).prop_map(|runs| runs.concat())
}

fn key() -> impl Strategy<Value = StateKey> {
    (replica(), any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(sender, lsn, checksum, digest_hash)| StateKey {
        sender,
        snapshot: Lsn(lsn),
        checksum,
        digest_hash,
    })
}

fn offset() -> impl Strategy<Value = StateOffset> {
    any::<(u8, u32, u32)>().prop_map(|(stage, block, item)| StateOffset { stage, block, item })
}

fn hashes() -> impl Strategy<Value = ChunkHashes> {
    (replica(), seq(1), vec(any::<[u8; 6]>(), 1..9)).prop_map(|(replica, first, hashes)| ChunkHashes {
        replica,
        first,
        hashes: hashes.concat(),
    })
}

fn content() -> impl Strategy<Value = StateContent> {
    let incarnation = (replica(), node(), option::of(dot(1))).prop_map(|(replica, node, parent)| {
        (replica, Incarnation { node, parent: parent.filter(|parent| parent.replica != replica) })
    });
    let live = (replica(), 1_u64..1 << 40, vec(any::<u8>(), 0..40)).prop_map(|(replica, first, bits)| LiveBits {
        replica,
        first: Seq(first),
        bits,
    });
    (vec(incarnation, 0..4), vec((element(), dot(2)), 0..6), vec(live, 0..4))
        .prop_map(|(incarnations, records, live)| StateContent { incarnations, records, live })
}

fn purpose() -> impl Strategy<Value = Purpose> {
    let all = [Purpose::Push, Purpose::Flush, Purpose::Part, Purpose::LastOfMany, Purpose::Last];
    proptest::sample::select(all.to_vec())
}

fn sign() -> impl Strategy<Value = Sign> {
    proptest::sample::select(vec![Sign::Ping, Sign::Pong, Sign::Ack, Sign::Hello])
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let body = prop_oneof![
        (vector(), any::<bool>(), any::<bool>()).prop_map(|(vv, full, answer)| PeerBody::Digest { vv, full, answer }),
        (vector(), ops(), purpose()).prop_map(|(vv, ops, purpose)| PeerBody::Ops { vv, ops, purpose }),
        (vector(), sign()).prop_map(|(vv, sign)| PeerBody::Sign { vv, sign }),
        (key(), vector()).prop_map(|(key, vv)| PeerBody::Offer { key, vv }),
        (key(), option::of(vector()), vec(hashes(), 0..3), offset())
            .prop_map(|(key, digest, have, offset)| PeerBody::Pull { key, digest, have, offset }),
        (key(), offset(), option::of(offset()), content()).prop_map(|(key, offset, next, content)| PeerBody::Part {
            key,
            offset,
            next,
            content
        }),
        key().prop_map(|key| PeerBody::Gone { key }),
    ];
    (replica(), body).prop_map(|(from, body)| PeerMessage { from, body })
}

fn encoded(message: &PeerMessage) -> Vec<u8> {
    let mut line = Vec::new();
    let [n1, n2] = ["n1", "n2"].map(|name| NodeId::new(name).unwrap());
    encode(&mut line, &n1, 3, &Outgoing::Peer { to: n2, message: message.clone() });
    line
}

fn decoded(line: &[u8]) -> PeerMessage {
    match Decoder::new(Limits::default()).decode(line, 0, uuid::Uuid::new_v4) {
        Ok(Incoming::Peer { from, dest, message }) => {
            assert_eq!((from.as_str(), &*dest), ("n1", "n2"));
            message
        }
        other => panic!("{other:?} from {}", String::from_utf8_lossy(line)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(message in message()) {
        let line = encoded(&message);
        prop_assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        prop_assert_eq!(decoded(&line), message);
    }

    /// Maelstrom parses and prints every line: keys come in another order, and elements' members too.
    #[test]
    fn a_parser_on_the_way_does_no_harm(message in message()) {
        let reads_floats = |line: &[u8]| [b".0", b"e5", b"-0"].iter().any(|number| line.windows(2).any(|w| w == *number))
            || line.windows(21).any(|digits| digits.iter().all(u8::is_ascii_digit));
        let line = encoded(&message);
        prop_assume!(!reads_floats(&line), "serde_json's own numbers are floats");
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(decoded(value.to_string().as_bytes()), message);
    }
}

/// Messages are cut to size before they are written.
#[test]
fn an_operation_takes_no_more_than_its_hint() {
    let replica = |n: u64| ReplicaId::from_random(n.into());
    let element = |n: u64| canonical(&n.to_string(), &Limits::default()).unwrap();
    let far = Seq::MAX.0 - 10_000;
    let start =
        |n: u64| OpBody::Start { node: NodeId::new("n1").unwrap(), parent: Some(Dot::new(replica(n + 1), Seq(far))) };
    let tags = |n: u64| (0..n % 5 + 1).map(|k| Dot::new(replica(n + k), Seq(far))).collect();
    let in_turn = |n: u64, body| Op { dot: Dot::new(replica(n % 90), Seq(far + n)), body };
    let in_a_row = |n: u64, body| Op { dot: Dot::new(replica(0), Seq(far + n)), body };
    for ops in [
        (0..500).map(|n| in_turn(n, OpBody::Add(element(n)))).collect::<Vec<_>>(),
        (0..500).map(|n| in_turn(n, OpBody::Remove { element: element(n), tags: tags(n % 90) })).collect(),
        (0..90).map(|n| Op { dot: Dot::new(replica(n), Seq(1)), body: start(n) }).collect(),
    ] {
        let hint: usize = ops.iter().map(op_size_hint).sum();
        let bytes = bytes_of(ops);
        assert!(bytes <= hint + 22 * 96 + 200, "{bytes} bytes on the wire, a hint of {hint}");
    }
    let ops: Vec<Op> = (0..500).map(|n| in_a_row(n, OpBody::Add(element(n)))).collect();
    let weight: usize = ops.iter().map(Op::weight).sum();
    assert!(bytes_of(ops) <= weight + 200, "consecutive operations share a run");
}

fn bytes_of(ops: Vec<Op>) -> usize {
    let body = PeerBody::Ops { vv: VersionVector::new(), ops, purpose: Purpose::Push };
    encoded(&PeerMessage { from: ReplicaId::from_random(0), body }).len()
}

/// A message of both kinds of long arrays, with operations that repeat themselves as real ones do.
fn long_messages() -> [PeerMessage; 2] {
    let replica = ReplicaId::from_random(3);
    let element = |n: u64| canonical(&format!("\"elt-{n:010}\""), &Limits::default()).unwrap();
    let dot = |n: u64| Dot::new(replica, Seq(n));
    let remove = |n: u64| OpBody::Remove { element: element(7 * n % 1_000), tags: vec![dot(7 * n % 1_000 + 2)] };
    let ops = (0..1_000).map(|n| Op { dot: dot(5_000 + n), body: remove(n) }).collect();
    let live = vec![LiveBits { replica, first: Seq(1), bits: vec![0xff; 30 << 10] }];
    let records = (0..1_000).map(|n| (element(n), dot(n + 2))).collect();
    let key = StateKey { sender: replica, snapshot: Lsn(9), checksum: 1, digest_hash: 2 };
    let offset = StateOffset { stage: 1, block: 0, item: 0 };
    let content = StateContent { incarnations: Vec::new(), records, live };
    [
        PeerBody::Ops { vv: VersionVector::new(), ops, purpose: Purpose::Last },
        PeerBody::Part { key, offset, next: None, content },
    ]
    .map(|body| PeerMessage { from: replica, body })
}

#[test]
fn long_answers_and_parts_go_packed_and_come_out_as_they_went_in() {
    let [answer, part] = long_messages();
    for (message, most) in [(&answer, 9_000), (&part, 9_000)] {
        let line = encoded(message);
        assert!(line.len() <= most, "{} bytes", line.len());
        assert_eq!(decoded(&line), *message);
        let parsed: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(decoded(parsed.to_string().as_bytes()), *message, "by way of a parser");
    }
}

#[test]
fn a_push_is_never_packed() {
    let [answer, _] = long_messages();
    let PeerBody::Ops { vv, ops, .. } = answer.body.clone() else { unreachable!("made so") };
    let push = PeerMessage { from: answer.from, body: PeerBody::Ops { vv, ops, purpose: Purpose::Push } };
    let line = encoded(&push);
    assert!(line.windows(b"[\"elt-".len()).any(|bytes| bytes == b"[\"elt-"), "its elements can be read");
    assert_eq!(decoded(&line), push);
}

/// A text in place of an array that is none: the message is refused, as one with a bad array is.
#[test]
fn a_packed_array_that_is_none_is_refused() {
    let [answer, _] = long_messages();
    let line = String::from_utf8(encoded(&answer)).unwrap();
    let start = line.find("\"runs\": \"").expect("it is packed") + "\"runs\": \"".len();
    for (from, to) in [(start, "!"), (start + 40, "AAAA"), (start, "AAAA")] {
        let mut damaged = line.clone();
        damaged.replace_range(from..from + to.len(), to);
        let outcome = Decoder::new(Limits::default()).decode(damaged.as_bytes(), 0, uuid::Uuid::new_v4);
        assert!(outcome.is_err(), "{damaged:.120}");
    }
}
