// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Number of entries of each kind and size. A look-up skips sizes that no entry has.

use super::key::{Key, Kind};

const KINDS: usize = 3;
/// Sizes are powers of two with exponents below this.
const SIZES: usize = 64;

/// Counts entries.
pub(super) struct Population {
    counts: [[u16; SIZES]; KINDS],
    /// Bit n: there are entries of 2^n bytes.
    present: [u64; KINDS],
}

impl Population {
    pub(super) const EMPTY: Self = Self {
        counts: [[0; SIZES]; KINDS],
        present: [0; KINDS],
    };

    /// Returns whether there are entries of this kind.
    #[inline]
    pub(super) const fn has(&self, kind: Kind) -> bool {
        self.present[kind as usize] != 0
    }

    /// Returns log2 of the sizes that entries of this kind have, smallest first.
    #[inline]
    pub(super) fn sizes(&self, kind: Kind) -> impl Iterator<Item = u8> {
        let mut rest = self.present[kind as usize];
        core::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let size = rest.trailing_zeros() as u8;
            rest &= rest - 1;
            Some(size)
        })
    }

    #[inline]
    pub(super) fn add(&mut self, key: Key) {
        let (kind, size) = index(key);
        let count = &mut self.counts[kind][size];
        *count = count.saturating_add(1);
        self.present[kind] |= 1 << size;
    }

    #[inline]
    pub(super) fn remove(&mut self, key: Key) {
        let (kind, size) = index(key);
        let count = &mut self.counts[kind][size];
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.present[kind] &= !(1 << size);
        }
    }
}

#[inline]
fn index(key: Key) -> (usize, usize) {
    (key.kind() as usize, usize::from(key.log2_bytes()) % SIZES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::entry::Tag;

    fn key(log2_bytes: u8) -> Key {
        let tag = Tag {
            vmid: 0,
            asid: Some(1),
        };
        Key::new(1, tag, Kind::Private, 0, log2_bytes)
    }

    #[test]
    fn page_size_present_while_any_entry_has_it() {
        let mut population = Population::EMPTY;
        for size in [21, 12, 55, 12] {
            population.add(key(size));
        }
        let sizes = |all: &Population| all.sizes(Kind::Private).collect::<Vec<_>>();
        assert_eq!(sizes(&population), [12, 21, 55]);
        assert!(!population.has(Kind::Ipa) && !population.has(Kind::Global));
        population.remove(key(12));
        assert_eq!(sizes(&population), [12, 21, 55]);
        for size in [12, 55, 21] {
            assert!(population.has(Kind::Private));
            population.remove(key(size));
        }
        assert!(!population.has(Kind::Private));
    }
}
