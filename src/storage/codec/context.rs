//! Bytes of the causal context: the same in the headers of segments and of snapshots.

use bincode::{Decode, Encode};

use super::{DotForm, Ids, KnownIds, Meaningless, config};
use crate::crdt::{Incarnations, VersionVector};

/// A replica id and how much is held of it, with what its `Start` said if that is held.
#[derive(Encode, Decode, Clone, PartialEq, Eq, Debug)]
struct ContextForm {
    ids: Vec<u128>,
    vv: Vec<DotForm>,
    floor: Vec<DotForm>,
    incarnations: Vec<(u32, String, Option<DotForm>)>,
}

/// The causal context in headers: version vector, floor, incarnations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// What is held.
    pub vv: VersionVector,
    /// Below this there is no log.
    pub floor: VersionVector,
    /// The incarnations held.
    pub incarnations: Incarnations,
}

impl Context {
    /// Appends the encoded context to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut ids = Ids::default();
        let entries = |ids: &mut Ids, vv: &VersionVector| vv.iter().map(|(r, s)| (ids.place(r), s.0)).collect();
        let (vv, floor) = (entries(&mut ids, &self.vv), entries(&mut ids, &self.floor));
        let incarnations = self
            .incarnations
            .iter()
            .map(|(id, i)| (ids.place(id), i.node.as_str().to_owned(), i.parent.map(|dot| ids.dot(dot))))
            .collect();
        let form = ContextForm { ids: ids.0, vv, floor, incarnations };
        bincode::encode_into_std_write(form, out, config()).expect("a Vec takes everything");
    }

    /// Decodes a context from the start of `bytes`, and says how many it took.
    ///
    /// # Errors
    /// If they are no context.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), Meaningless> {
        let (form, length): (ContextForm, usize) =
            bincode::decode_from_slice(bytes, config()).map_err(|_| Meaningless("the context cannot be decoded"))?;
        let ids = KnownIds::new(&form.ids)?;
        let vector = |entries: Vec<DotForm>| {
            entries
                .into_iter()
                .map(|dot| ids.dot(dot).map(|d| (d.replica, d.seq)))
                .collect::<Result<VersionVector, _>>()
        };
        let incarnation = |(id, node, parent): &(u32, String, Option<DotForm>)| ids.incarnation((*id, node, *parent));
        let incarnations = form.incarnations.iter().map(incarnation).collect::<Result<_, _>>()?;
        Ok((Self { vv: vector(form.vv)?, floor: vector(form.floor)?, incarnations }, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::{Dot, Incarnation, NodeId, ReplicaId, Seq};

    fn id(n: u128) -> ReplicaId {
        ReplicaId::from_random(n << 60 | n)
    }

    #[test]
    fn a_context_comes_back_as_it_went_in() {
        let vv: VersionVector = [(id(1), Seq(3)), (id(2), Seq(9))].into_iter().collect();
        let incarnation = Incarnation { node: NodeId::new("n1").unwrap(), parent: Some(Dot::new(id(2), Seq(9))) };
        let context = Context { vv: vv.clone(), floor: vv, incarnations: [(id(1), incarnation)].into_iter().collect() };
        let mut bytes = Vec::new();
        context.encode(&mut bytes);
        let length = bytes.len();
        bytes.push(7);
        assert_eq!(Context::decode(&bytes).unwrap(), (context, length));
    }
}
