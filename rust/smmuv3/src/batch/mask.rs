// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A set of commands of a batch.

use crate::address::low_bits;

/// Commands of one batch, by index: bit n is command n.
///
/// Indexes are below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommandMask(pub(super) u64);

impl CommandMask {
    /// Returns the first `count` commands.
    #[inline]
    pub(super) const fn first_n(count: usize) -> Self {
        Self(low_bits(count as u32))
    }

    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns whether there are two or more commands. Counting them all takes longer on
    /// hosts without an instruction for it.
    #[inline]
    pub(super) const fn has_several(self) -> bool {
        self.0 & self.0.wrapping_sub(1) != 0
    }

    /// Returns the index of the first command; 64 if there is none.
    pub(super) const fn first(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// Returns the commands also in `other`.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the commands not in `other`.
    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns the commands that precede `index`.
    pub(super) const fn before(self, index: u32) -> Self {
        self.and(Self(low_bits(index)))
    }

    /// Returns the commands that follow `index`.
    pub(super) const fn after(self, index: u32) -> Self {
        self.without(Self(low_bits(index + 1)))
    }

    /// Returns the index of the command that `n` others of the set precede.
    pub(super) fn nth(self, n: u32) -> Option<u32> {
        self.iter().nth(n as usize)
    }

    /// Returns the preceding and the following half.
    pub(super) fn halves(self) -> (Self, Self) {
        let middle = self.nth(self.len() / 2).unwrap_or(0);
        let older = self.before(middle);
        (older, self.without(older))
    }

    /// Returns the first commands, up to the one that is in `class` while the first is
    /// not, or the other way round.
    pub(super) const fn leading_run(self, class: Self) -> Self {
        let inside = self.and(class);
        let outside = self.without(class);
        if inside.first() < outside.first() {
            inside.before(outside.first())
        } else {
            outside.before(inside.first())
        }
    }

    /// Returns the indexes, in order.
    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let index = rest.trailing_zeros();
            rest &= rest - 1;
            Some(index)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_halves_are_ordered_and_complete() {
        let set = CommandMask(0b1011_0110);
        let (older, newer) = set.halves();
        assert_eq!(
            (older, newer),
            (CommandMask(0b0000_0110), CommandMask(0b1011_0000))
        );
        assert_eq!(
            CommandMask(0b110).halves(),
            (CommandMask(0b010), CommandMask(0b100))
        );
    }

    #[test]
    fn batch_run_ends_where_class_changes() {
        let class = CommandMask(0b0011_0100);
        assert_eq!(CommandMask(0xff).leading_run(class), CommandMask(0b011));
        assert_eq!(CommandMask(0xfc).leading_run(class), CommandMask(0b100));
        assert_eq!(CommandMask(0xf8).leading_run(class), CommandMask(0b1000));
        assert_eq!(
            CommandMask(0xf0).leading_run(class),
            CommandMask(0b0011_0000)
        );
        assert_eq!(CommandMask(0xc0).leading_run(class), CommandMask(0xc0));
        assert_eq!(CommandMask(0).leading_run(class), CommandMask(0));
    }

    #[test]
    fn batch_is_split_at_index() {
        let set = CommandMask::first_n(63);
        assert_eq!(set.len(), 63);
        assert_eq!(set.before(2), CommandMask(0b11));
        assert_eq!(set.after(60), CommandMask(0b11 << 61));
        assert!(set.after(62).is_empty() && set.before(0).is_empty());
        assert_eq!(set.nth(62), Some(62));
        assert_eq!(set.nth(63), None);
    }
}
