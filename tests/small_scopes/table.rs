//! Things that are one if they have the same name, and a number for each.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// A number in a [`Table`].
pub type Number = u32;

/// See the module's text. Of the names only 128 bits are kept: that two of some million names share them has a chance of less
/// than one in 10^20.
pub struct Table<T> {
    numbers: HashMap<u128, Number>,
    things: Vec<Arc<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), things: Vec::new() }
    }
}

impl<T> Table<T> {
    /// The thing with that number.
    pub fn get(&self, number: Number) -> &Arc<T> {
        &self.things[number as usize]
    }

    /// The number of the thing with that name, if there is one.
    pub fn find(&self, name: &[u8]) -> Option<Number> {
        self.numbers.get(&fingerprint(name)).copied()
    }

    /// The number of the thing with that name; a new one if there is none.
    pub fn number(&mut self, name: &[u8], thing: impl FnOnce() -> T) -> Number {
        *self.numbers.entry(fingerprint(name)).or_insert_with(|| {
            self.things.push(Arc::new(thing()));
            Number::try_from(self.things.len() - 1).expect("fewer than 2^32 things fit into memory")
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.things.len()
    }
}

/// 128 bits of a name.
pub fn fingerprint(name: &[u8]) -> u128 {
    let [mut one, mut two] = [DefaultHasher::new(), DefaultHasher::new()];
    two.write_u8(1);
    one.write(name);
    two.write(name);
    u128::from(one.finish()) << 64 | u128::from(two.finish())
}
