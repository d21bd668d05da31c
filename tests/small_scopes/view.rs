//! What a state is called when its places and elements change names. Of two states that differ only in those, each has a name
//! under one view that the other has under another; so the least of a state's names is the same for both.

use std::collections::BTreeMap;

use orset::crdt::{Dot, Op, OpBody, VersionVector};

use super::site::{Place, Site, number_of, place_of};
use super::table::fingerprint;

/// A way of looking at a state: which place comes where, and whether the elements change names.
#[derive(Clone, Copy)]
pub struct View {
    /// `order[place]` is where it comes.
    order: [Place; 3],
    swap: bool,
}

/// How many views there are.
pub const VIEWS: usize = 12;
const ORDERS: [[Place; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The fingerprint of something under each view.
pub type Names = [u128; VIEWS];

/// All ways of looking at a state.
pub fn views() -> [View; VIEWS] {
    std::array::from_fn(|n| View { order: ORDERS[n / 2], swap: n % 2 == 1 })
}

/// A site's fingerprint under each view.
pub fn site_names(site: &Site) -> Names {
    views().map(|view| {
        let mut name = Vec::with_capacity(128);
        view.site(site, &mut name);
        fingerprint(&name)
    })
}

/// The fingerprint of all that there ever was, under each view.
pub fn ops_names(ops: &BTreeMap<Dot, Op>) -> Names {
    views().map(|view| {
        let mut ops: Vec<_> = ops.values().map(|op| (view.dot(op.dot), &op.body)).collect();
        ops.sort_by_key(|(dot, _)| *dot);
        let mut name = Vec::with_capacity(64);
        for (dot, body) in ops {
            name.extend(dot);
            view.body(body, &mut name);
        }
        fingerprint(&name)
    })
}

/// The least of a state's names, of which the sites, the operations and whatever has no view to it are given by theirs.
///
/// The parts are random numbers already; each is multiplied by an odd number of its own, so that it matters where it stands.
pub fn least_name(sites: [&Names; 3], ops: &Names, rest: u32) -> u128 {
    const ODD: [u128; 5] = [
        0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835,
        0xc2b2_ae3d_27d4_eb4f_1656_67b1_9e37_79f9,
        0xd6e8_feb8_6659_fd93_a076_1d64_78bd_642f,
        0xe703_7ed1_a0b4_28db_8ebc_6af0_9c88_c6e3,
        0x5899_65cc_7537_4cc3_1d8e_4e27_c47d_124f,
    ];
    let rest = u128::from(rest).wrapping_mul(ODD[4]);
    let name = |n: usize| {
        let mut sum = rest.wrapping_add(ops[n].wrapping_mul(ODD[3]));
        for (place, names) in sites.into_iter().enumerate() {
            sum = sum.wrapping_add(names[n].wrapping_mul(ODD[ORDERS[n / 2][place]]));
        }
        sum
    };
    (0..VIEWS).map(name).min().expect("there are twelve")
}

impl View {
    fn body(&self, body: &OpBody, out: &mut Vec<u8>) {
        match body {
            OpBody::Start { parent, .. } => out.extend(parent.map_or([0, 0], |parent| self.dot(parent))),
            OpBody::Add(element) => out.push(self.number(number_of(element))),
            OpBody::Remove { tags, .. } => {
                let mut tags: Vec<_> = tags.iter().map(|tag| self.dot(*tag)).collect();
                tags.sort_unstable();
                out.extend([2, small(tags.len())]);
                out.extend(tags.concat());
            }
        }
    }

    fn site(&self, site: &Site, out: &mut Vec<u8>) {
        out.push(site.life);
        out.push(site.own.map_or(0, |own| place_of(own).1 + 1));
        self.vector(&site.state.vv, out);
        self.vector(&site.state.floor, out);
        let mut live: Vec<_> = site.live.iter().map(|(tag, number)| (self.dot(*tag), self.number(*number))).collect();
        live.sort_unstable();
        for (tag, number) in live {
            out.extend(tag);
            out.push(number);
        }
        out.push(0xff);
        match &site.snapshot {
            None => out.push(0),
            Some(vv) => {
                out.push(1);
                self.vector(vv, out);
            }
        }
        if let Some(receiving) = &site.receiving {
            out.push(1 + small(receiving.taken));
            out.push(small(self.order[receiving.delta.from]));
            self.vector(&receiving.delta.vv, out);
            self.vector(&receiving.delta.digest, out);
            self.vector(&receiving.claimed, out);
        }
        out.push(0xff);
    }

    fn vector(&self, vv: &VersionVector, out: &mut Vec<u8>) {
        let mut entries: Vec<_> = vv.iter().map(|(replica, seq)| self.dot(Dot::new(replica, seq))).collect();
        entries.sort_unstable();
        out.push(small(entries.len()));
        out.extend(entries.concat());
    }

    fn dot(&self, dot: Dot) -> [u8; 2] {
        let (place, life) = place_of(dot.replica);
        [small(self.order[place]) << 4 | life, small(usize::try_from(dot.seq.0).expect("small"))]
    }

    fn number(&self, number: u8) -> u8 {
        if self.swap { 1 - number } else { number }
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("a small scope")
}
