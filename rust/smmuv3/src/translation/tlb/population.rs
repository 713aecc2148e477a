// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! How many entries there are of each kind and size: a size that no entry has
//! need not be looked for.

/// What an entry matches by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// VMID and IPA: stage 2 alone.
    Ipa = 0,
    /// VMID, ASID and virtual address.
    Private = 1,
    /// The same, but invalidated whatever the ASID.
    Global = 2,
}

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

    /// Whether there are entries of this kind.
    #[inline]
    pub(super) const fn has(&self, kind: Kind) -> bool {
        self.present[kind as usize] != 0
    }

    /// log2 of the sizes that entries of this kind have, smallest first.
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
    pub(super) fn add(&mut self, kind: Kind, log2_bytes: u8) {
        let size = usize::from(log2_bytes) % SIZES;
        let count = &mut self.counts[kind as usize][size];
        *count = count.saturating_add(1);
        self.present[kind as usize] |= 1 << size;
    }

    #[inline]
    pub(super) fn remove(&mut self, kind: Kind, log2_bytes: u8) {
        let size = usize::from(log2_bytes) % SIZES;
        let count = &mut self.counts[kind as usize][size];
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.present[kind as usize] &= !(1 << size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_present_as_long_as_an_entry_has_it() {
        let mut population = Population::EMPTY;
        for size in [21, 12, 63, 12] {
            population.add(Kind::Private, size);
        }
        let sizes = |population: &Population, kind| population.sizes(kind).collect::<Vec<_>>();
        assert_eq!(sizes(&population, Kind::Private), [12, 21, 63]);
        assert!(!population.has(Kind::Ipa) && !population.has(Kind::Global));
        population.remove(Kind::Private, 12);
        assert_eq!(sizes(&population, Kind::Private), [12, 21, 63]);
        for size in [12, 63, 21] {
            assert!(population.has(Kind::Private));
            population.remove(Kind::Private, size);
        }
        assert!(!population.has(Kind::Private));
    }
}
