//! Numbers for distinct values, in the order in which they come.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
};

/// A value that is seen again gets the number that it has. The hash only finds candidates.
pub(super) struct Index<T> {
    hasher: RandomState,
    numbers: HashMap<u64, Vec<u32>>,
    items: Vec<T>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            numbers: HashMap::new(),
            items: Vec::new(),
        }
    }
}

impl<T: Eq + Hash> Index<T> {
    /// The number of a value: a new one, the next from 0, if it has none.
    pub fn number(&mut self, item: T) -> u32 {
        let candidates = self.numbers.entry(self.hasher.hash_one(&item)).or_default();
        if let Some(known) = candidates
            .iter()
            .find(|known| self.items[**known as usize] == item)
        {
            return *known;
        }
        let number = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        candidates.push(number);
        self.items.push(item);
        number
    }

    /// By number.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    pub fn into_items(self) -> Vec<T> {
        self.items
    }
}
