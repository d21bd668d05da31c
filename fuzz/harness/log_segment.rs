//! A segment of the log: as it stands, as payloads or a header's body that get good checksums, or damage to a sound one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orset::crdt::{
    Answer, Answered, AskedHash, Dot, Element, EmptyBase, Entry, Incarnation, JoinCommit, JoinId, JoinPart, LiveBits,
    NodeId, Op, OpBody, ReplicaId, RequestKey, Seq, State, Tag, TagList, VersionVector,
};
use orset::storage::codec::{self, Frame};
use orset::storage::disk::MemDisk;
use orset::storage::envelope::{self, FORMAT_VERSION};
use orset::storage::log::segment::{encode_frame, file_name};
use orset::storage::log::{SegmentBytes, SegmentHeader};
use orset::storage::manifest::{CleanEnd, Manifest};
use orset::storage::replay::log_dir;
use orset::storage::{IndexPosition, Lsn, Replay, StoreError};

use super::sealed::{DIR, damaged, pieces, put};

const MAGIC: [u8; 8] = *b"ORSETLOG";
const NONCE: u128 = 0x5eed;
const OWN: ReplicaId = ReplicaId::from_random(7);

/// See the table in the module above.
pub fn log_segment(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else { return };
    match form % 4 {
        0 => as_it_stands(rest),
        1 => payloads(&pieces(rest)),
        2 => header(rest),
        _ => damage(rest),
    }
}

fn path_of(counter: u64) -> PathBuf {
    log_dir(Path::new(DIR)).join(file_name(counter))
}

fn node() -> NodeId {
    NodeId::new("n1").expect("a node id")
}

/// The manifest of a store with these segments and no snapshot.
fn manifest(segments: &[u64]) -> Manifest {
    let next_segment = segments.last().map_or(1, |last| last.saturating_add(1));
    Manifest { segments: segments.to_vec(), next_segment, ..Manifest::new(node()) }
}

fn read(disk: &MemDisk, manifest: &Manifest) -> Result<Replay, StoreError> {
    let outcome = Replay::read(disk, Path::new(DIR), manifest.clone(), None, None);
    if let Err(error) = &outcome {
        assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Newer { .. }), "{error}");
    }
    outcome
}

type Live = BTreeMap<Tag, Element>;

fn live(state: &State) -> Live {
    let records = state.records(&EmptyBase, &[]).map(|record| record.expect("nothing below can fail"));
    records.map(|record| (record.tag(), record.element())).collect()
}

/// What must hold of every state that anything folds to.
fn sound(state: &State) {
    for tag in live(state).keys() {
        assert!(state.vv.covers(*tag), "{tag} is live and not covered");
    }
    assert!(state.floor.is_within(&state.vv), "the floor is above what is held");
}

/// The only segment of a store.
fn only_segment(bytes: &[u8], counter: u64) {
    let disk = MemDisk::default();
    put(&disk, &path_of(counter), bytes);
    if let Ok(replay) = read(&disk, &manifest(&[counter])) {
        sound(&replay.state);
    }
}

fn as_it_stands(bytes: &[u8]) {
    let Ok(segment) = SegmentBytes::new(path_of(1), bytes.to_vec()) else { return };
    let mut at = segment.frames_start as u64;
    for frame in segment.frames() {
        assert_eq!(frame.offset, at, "a gap between frames");
        let mut again = Vec::new();
        encode_frame(&mut again, segment.header.nonce, frame.offset, frame.payload);
        assert_eq!(again, bytes[frame.offset as usize..frame.end as usize], "a frame written anew is another");
        at = frame.end;
    }
    only_segment(bytes, segment.header.counter.max(1));
}

/// A header whose frames are to follow.
fn plain_header(counter: u64) -> SegmentHeader {
    SegmentHeader { counter, nonce: NONCE, previous: None, lsn: Lsn(0), vv: VersionVector::new(), repeats: false }
}

/// A segment with these payloads in sound frames.
pub fn segment_of<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = plain_header(1).encode();
    for payload in payloads {
        let offset = bytes.len() as u64;
        encode_frame(&mut bytes, NONCE, offset, payload);
    }
    bytes
}

fn payloads(payloads: &[&[u8]]) {
    for payload in payloads {
        let Ok(frame) = codec::decode_frame(payload) else { continue };
        let mut again = Vec::new();
        match &frame {
            Frame::Batch(batch) => codec::encode_batch(&mut again, batch.first, batch.own, &batch.entries),
            Frame::Clean(index) => codec::encode_clean(&mut again, *index),
        }
        assert_eq!(codec::decode_frame(&again).expect("just written"), frame, "a frame comes out otherwise");
    }
    only_segment(&segment_of(payloads.iter().copied()), 1);
}

/// The body of a header, alone and as the successor of a sound segment.
fn header(body: &[u8]) {
    let mut bytes = Vec::new();
    envelope::wrap(&mut bytes, MAGIC, FORMAT_VERSION, body);
    let Ok((header, _)) = SegmentHeader::decode(&bytes, &path_of(1)) else { return };
    let again = header.encode();
    let (decoded, length) = SegmentHeader::decode(&again, &path_of(1)).expect("just written");
    assert_eq!((&decoded, length), (&header, again.len()), "a header comes out otherwise");
    only_segment(&bytes, header.counter);
    let store = sound_store(&[1, 5, 0, 9]);
    put(&store.disk, &path_of(header.counter.max(2)), &bytes);
    for segments in [&[1, header.counter.max(2)][..], &[1]] {
        if let Ok(replay) = read(&store.disk, &manifest(segments)) {
            sound(&replay.state);
        }
    }
}

/// A store with one segment, and the sets after each of its frames.
pub struct SoundStore {
    /// Its files.
    pub disk: MemDisk,
    segment: Vec<u8>,
    history: Vec<Live>,
    /// How it ends if it was closed in good order.
    pub clean: CleanEnd,
}

/// A store whose operations are as `plan` says: a byte each, the end of a frame, a remove, or an add of one of a few
/// elements. The last frame is a Clean.
pub fn sound_store(plan: &[u8]) -> SoundStore {
    let (mut state, mut history) = (State::default(), vec![Live::new()]);
    let (mut payloads, mut batch, mut lsn) = (Vec::new(), Vec::new(), Lsn(0));
    let bodies = plan.iter().take(64).map(|byte| (byte % 4, byte / 4 % 8));
    let apply = |state: &mut State, body| {
        let entry = Entry::Op(Op { dot: Dot::new(OWN, state.vv.get(OWN).next()), body });
        state.apply(&EmptyBase, &entry).expect("it follows");
        entry
    };
    batch.push(apply(&mut state, OpBody::Start { node: node(), parent: None }));
    for (what, n) in bodies.chain([(0, 0)]) {
        let element = Element::from_canonical(n.to_string().as_bytes());
        let tags = state.tags(&EmptyBase, &element).expect("nothing below can fail");
        match what {
            0 if batch.is_empty() => {}
            0 => {
                let mut payload = Vec::new();
                codec::encode_batch(&mut payload, lsn.next(), Some(OWN), &batch);
                lsn = Lsn(lsn.0 + batch.len() as u64);
                payloads.push(payload);
                batch.clear();
                history.push(live(&state));
            }
            2 if tags.is_empty() => {}
            2 => batch.push(apply(&mut state, OpBody::Remove { element, tags })),
            _ => batch.push(apply(&mut state, OpBody::Add(element))),
        }
    }
    let mut payload = Vec::new();
    codec::encode_clean(&mut payload, IndexPosition { lsn: Lsn(0), checksum: 0 });
    payloads.push(payload);
    let segment = segment_of(payloads.iter().map(Vec::as_slice));
    let disk = MemDisk::default();
    put(&disk, &path_of(1), &segment);
    let last = SegmentBytes::new(path_of(1), segment.clone()).expect("sound").frames().last().map(|f| f.checksum);
    let clean = CleanEnd { counter: 1, length: segment.len() as u64, checksum: last.expect("a Clean"), index: false };
    SoundStore { disk, segment, history, clean }
}

/// Payloads with a state delta in them: two parts and the commit, then an operation that follows, and the answer to it.
pub fn joins() -> Vec<Vec<u8>> {
    let [other, join] = [ReplicaId::from_random(8), ReplicaId::from_random(9)];
    let element = |n: u64| Element::from_canonical(n.to_string().as_bytes());
    let part = |records, live| Entry::JoinPart(JoinPart { join: JoinId(5), records, live });
    let bits = LiveBits { replica: other, first: Seq(1), bits: vec![0b100] };
    let incarnation = Incarnation { node: node(), parent: None };
    let commit = JoinCommit {
        join: JoinId(5),
        vv: [(other, Seq(9)), (join, Seq(2))].into_iter().collect(),
        incarnations: [(other, incarnation.clone()), (join, incarnation)].into_iter().collect(),
    };
    let tag = Dot::new(join, Seq(2));
    let op = Op { dot: Dot::new(other, Seq(10)), body: OpBody::Remove { element: element(1), tags: vec![tag] } };
    let answer = |answer| {
        let (key, asked) = (RequestKey::of("a name"), AskedHash::of([&b"remove"[..]]));
        Entry::Answered(Answered { key, asked, answer })
    };
    let frames = [
        vec![part(vec![(element(1), Dot::new(join, Seq(2)))], vec![])],
        vec![part(vec![(element(2), Dot::new(other, Seq(4)))], vec![bits]), Entry::JoinCommit(commit)],
        vec![Entry::Op(op), answer(Answer::Removed([tag].into_iter().collect()))],
        vec![answer(Answer::RemovedMany([TagList::default(), [tag].into_iter().collect()].into()))],
    ];
    let mut lsn = Lsn(0);
    let encode = |entries: Vec<Entry>| {
        let mut payload = Vec::new();
        codec::encode_batch(&mut payload, lsn.next(), Some(OWN), &entries);
        lsn = Lsn(lsn.0 + entries.len() as u64);
        payload
    };
    frames.into_iter().map(encode).collect()
}

/// A plan and edits: after an unclean stop, what is read is what was once there, and less of it only with a torn tail or
/// at a frame's end; after a clean one, nothing but what was there.
fn damage(input: &[u8]) {
    let pieces = pieces(input);
    let [plan, edits, ..] = pieces[..] else { return };
    let store = sound_store(plan);
    let bytes = damaged(&store.segment, edits);
    let whole = bytes == store.segment;
    put(&store.disk, &path_of(1), &bytes);
    let frames_end = SegmentBytes::new(path_of(1), bytes.clone()).ok().map(|segment| {
        let end = segment.frames().last().map_or(segment.frames_start as u64, |frame| frame.end);
        end == bytes.len() as u64
    });
    match read(&store.disk, &manifest(&[1])) {
        Ok(replay) => {
            let found = live(&replay.state);
            assert!(store.history.contains(&found), "a set that there never was");
            let told = replay.log.torn_tail_bytes > 0 || frames_end == Some(true);
            assert!(told, "something is missing, and nobody says so");
            assert!(!whole || Some(&found) == store.history.last(), "nothing was wrong with it");
        }
        Err(error) => assert!(!whole, "nothing was wrong with it: {error}"),
    }
    let closed = Manifest { clean: Some(store.clean), ..manifest(&[1]) };
    let outcome = read(&store.disk, &closed);
    assert_eq!(outcome.is_ok(), whole, "after a clean stop every change is damage");
    if let Ok(replay) = outcome {
        assert_eq!(Some(&live(&replay.state)), store.history.last());
        assert!(replay.state.vv.get(OWN) > Seq(0));
    }
}
