// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Ranges of input addresses.

use super::entry::within;

/// Input addresses from `first` to `last`, both included, so that a range can
/// end with the address space.
///
/// Virtual addresses are canonical: bits 63:56 are copies of bit 55. Those of
/// an IPA are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The lowest address.
    pub first: u64,
    /// The highest address.
    pub last: u64,
}

impl Range {
    /// Every address.
    pub const ALL: Self = Self {
        first: 0,
        last: u64::MAX,
    };

    /// Returns the page or block of 2^`log2_bytes` bytes that `address` lies in.
    #[inline]
    pub const fn page(address: u64, log2_bytes: u8) -> Self {
        Self {
            first: address & !within(log2_bytes),
            last: address | within(log2_bytes),
        }
    }

    /// Returns whether some address is in both.
    #[inline]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Returns the same, made up of whole pages of 2^`log2_bytes` bytes.
    ///
    /// A command without a granule names 4KB of a page that may be larger:
    /// a caller that has the granule of the tables gets the page by this.
    #[must_use]
    pub const fn aligned(self, log2_bytes: u8) -> Self {
        Self {
            first: Self::page(self.first, log2_bytes).first,
            last: Self::page(self.last, log2_bytes).last,
        }
    }

    /// Returns the smallest naturally aligned block that has all of it.
    #[must_use]
    pub const fn enclosing(self) -> Self {
        let different = self.first ^ self.last;
        let within = match different.leading_zeros() {
            64 => 0,
            zeros => u64::MAX >> zeros,
        };
        Self {
            first: self.first & !within,
            last: self.last | within,
        }
    }

    /// Returns the same as naturally aligned blocks, as an IOMMU notifier takes them:
    /// the first address, and the mask of the address bits within. There are
    /// less than 128 of them.
    ///
    /// None of them is the whole address space: vhost counts its bytes in 64
    /// bits, and what has a length of 0 is refused by some kernels and ignored
    /// by some processes.
    pub fn blocks(self) -> impl Iterator<Item = (u64, u64)> {
        let mut rest = Some(self);
        core::iter::from_fn(move || {
            let Self { first, last } = rest?;
            let aligned = within(first.trailing_zeros() as u8);
            // All ones up to the highest bit of the length; one bit less if
            // the length is not such a number itself.
            let length = last.checked_sub(first)?;
            let fitting = within((64 - length.leading_zeros()) as u8);
            let fitting = if length == fitting {
                fitting
            } else {
                fitting >> 1
            };
            let mask = aligned & fitting & (u64::MAX >> 1);
            rest = (first | mask)
                .checked_add(1)
                .map(|next| Self { first: next, last });
            Some((first, mask))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(first: u64, last: u64) -> Vec<(u64, u64)> {
        Range { first, last }.blocks().collect()
    }

    #[test]
    fn range_splits_into_aligned_blocks() {
        assert_eq!(blocks(0x1000, 0x1fff), [(0x1000, 0xfff)]);
        assert_eq!(
            blocks(0x1000, 0x5fff),
            [(0x1000, 0xfff), (0x2000, 0x1fff), (0x4000, 0x1fff)]
        );
        let half = u64::MAX >> 1;
        assert_eq!(blocks(0, u64::MAX), [(0, half), (half + 1, half)]);
        assert_eq!(blocks(u64::MAX, u64::MAX), [(u64::MAX, 0)]);
        assert_eq!(blocks(1, 0), []);
        assert_eq!(blocks(1, u64::MAX - 1).len(), 126);
    }

    #[test]
    fn range_alignment_covers_whole_pages() {
        let range = Range {
            first: 0x1_1000,
            last: 0x2_0fff,
        };
        let whole = |first, last| Range { first, last };
        assert_eq!(range.aligned(12), range);
        assert_eq!(range.aligned(16), whole(0x1_0000, 0x2_ffff));
        assert_eq!(range.aligned(63), whole(0, u64::MAX >> 1));
        assert_eq!(range.aligned(255), Range::ALL);
    }

    #[test]
    fn range_has_one_enclosing_block() {
        let range = |first, last| Range { first, last };
        assert_eq!(range(5, 5).enclosing(), range(5, 5));
        assert_eq!(range(0x1000, 0x2fff).enclosing(), range(0, 0x3fff));
        assert_eq!(range(0x4000, 0x7fff).enclosing(), range(0x4000, 0x7fff));
        assert_eq!(range(1, u64::MAX).enclosing(), Range::ALL);
    }

    #[test]
    fn range_overlap_of_one_address_counts() {
        let page = Range::page(0x1234, 12);
        for (first, last, overlap) in [
            (0, 0xfff, false),
            (0, 0x1000, true),
            (0x1fff, 0x1fff, true),
            (0x2000, u64::MAX, false),
            (0, u64::MAX, true),
        ] {
            let other = Range { first, last };
            assert_eq!(page.overlaps(&other), overlap);
            assert_eq!(other.overlaps(&page), overlap);
        }
        assert!(Range::page(u64::MAX, 12).overlaps(&Range::ALL));
    }
}
