// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Queues in memory: their registers and index arithmetic (§3.5.1).

use crate::{
    address::{align_down, truncate},
    spec::register::{CmdqProd, QueueBase},
};

/// `PROD.WR` and `CONS.RD` with their wrap flag: at most 20 bits (§6.3.27).
pub const POINTER_MASK: u32 = CmdqProd::DEFINED;

/// Geometry of a queue of `2^log2size` entries, `log2size` at most 19.
///
/// Pointers carry the index in the low `log2size` bits and the wrap flag in
/// the bit above; higher bits are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    address: u64,
    log2size: u32,
    log2_entry: u32,
}

impl QueueLayout {
    /// Returns the ring that a base register describes.
    ///
    /// `max_log2size` is what the identification registers allow,
    /// `oas_bits` the output address size and `log2_entry` the log2 of the
    /// size of an entry in bytes.
    #[inline]
    pub fn new(base: QueueBase, max_log2size: u32, oas_bits: u32, log2_entry: u32) -> Self {
        let log2size = u32::from(base.log2size().value()).min(max_log2size);
        // A queue is aligned to its size but never to less than 32 bytes: the
        // bits below are ignored, not faulted (§6.3.26). An address too large
        // for the SMMU is truncated (§3.4.3).
        let alignment = (log2size + log2_entry).max(5);
        let address = truncate(base.queue(), oas_bits);
        Self {
            address: align_down(address, alignment),
            log2size,
            log2_entry,
        }
    }

    /// Returns log2 of the number of entries.
    #[inline]
    pub const fn log2size(&self) -> u32 {
        self.log2size
    }

    /// Returns the number of entries.
    #[inline]
    pub const fn entries(&self) -> u32 {
        1 << self.log2size
    }

    /// Returns the bits of a pointer that mean something: index and wrap flag.
    #[inline]
    pub const fn pointer_mask(&self) -> u32 {
        (self.entries() << 1) - 1
    }

    /// Returns the index of the entry that `pointer` names.
    #[inline]
    pub const fn index(&self, pointer: u32) -> u32 {
        pointer & (self.entries() - 1)
    }

    /// `pointer` moved on by `count` entries, wrapping as the hardware does.
    #[inline]
    pub const fn advance(&self, pointer: u32, count: u32) -> u32 {
        pointer.wrapping_add(count) & self.pointer_mask()
    }

    /// Returns the number of entries between consumer and producer, or `None` if the
    /// two can not belong to one queue: more entries than there are (§3.5.1).
    #[inline]
    pub const fn used(&self, prod: u32, cons: u32) -> Option<u32> {
        let used = prod.wrapping_sub(cons) & self.pointer_mask();
        if used <= self.entries() {
            Some(used)
        } else {
            None
        }
    }

    /// Returns whether the queue is empty.
    #[inline]
    pub const fn is_empty(&self, prod: u32, cons: u32) -> bool {
        (prod ^ cons) & self.pointer_mask() == 0
    }

    /// Returns whether the queue is full: same index, other wrap flag.
    #[inline]
    pub const fn is_full(&self, prod: u32, cons: u32) -> bool {
        (prod ^ cons) & self.pointer_mask() == self.entries()
    }

    /// Address in memory of the entry that `pointer` names.
    #[inline]
    pub const fn entry_address(&self, pointer: u32) -> u64 {
        self.address
            .wrapping_add((self.index(pointer) as u64) << self.log2_entry)
    }

    /// Returns the number of entries from `pointer` on that are contiguous in memory.
    #[inline]
    pub const fn until_wrap(&self, pointer: u32) -> u32 {
        self.entries() - self.index(pointer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(base: u64) -> QueueLayout {
        QueueLayout::new(QueueBase::of(base), 19, 44, 4)
    }

    /// Checks the pointers of a queue of `2^log2size` entries against numbers that do
    /// not wrap: entry `n` was the `n`th to be written.
    fn check(log2size: u32, consumed: u32, distance: u32) {
        let ring = ring(0x4000_0000 | u64::from(log2size));
        let (entries, pointers) = (1 << log2size, 2 << log2size);
        let (cons, prod) = (consumed % pointers, (consumed + distance) % pointers);
        assert_eq!(
            (ring.entries(), ring.pointer_mask()),
            (entries, pointers - 1)
        );
        assert_eq!(ring.advance(cons, distance), prod);
        assert_eq!(ring.index(cons), consumed % entries);
        assert_eq!(ring.until_wrap(cons), entries - consumed % entries);
        assert_eq!(ring.is_empty(prod, cons), distance % pointers == 0);
        assert_eq!(ring.is_full(prod, cons), distance % pointers == entries);
        let waiting = distance % pointers;
        let used = (waiting <= entries).then_some(waiting);
        assert_eq!(ring.used(prod, cons), used);
    }

    #[test]
    fn queue_arithmetic_all_pointer_pairs() {
        for log2size in 0..=9 {
            let pointers = 2 << log2size;
            for consumed in 0..pointers {
                (0..pointers).for_each(|distance| check(log2size, consumed, distance));
            }
        }
    }

    #[test]
    fn queue_arithmetic_every_size() {
        for log2size in 0..=19 {
            let entries = 1 << log2size;
            for consumed in 0..2 * entries {
                for distance in [0, 1, entries - 1, entries, entries + 1, 2 * entries - 1] {
                    check(log2size, consumed, distance);
                }
            }
        }
    }

    #[test]
    fn queue_ignores_bits_above_wrap() {
        let ring = ring(4);
        assert!(ring.is_empty(0xfff0_0003, 0x0000_0003));
        assert_eq!(ring.used(0xffff_ffe5, 0x0000_0003), Some(2));
    }

    #[test]
    fn queue_base_is_aligned_and_truncated() {
        assert_eq!(ring(0x4000_1228).entry_address(0), 0x4000_1000);
        assert_eq!(ring(0x4000_0020).entry_address(0), 0x4000_0020);
        assert_eq!(ring(0x4000_0021).entry_address(1), 0x4000_0030);
        assert_eq!(ring(0x4000_0022).entry_address(0), 0x4000_0000);
        assert_eq!(ring(0x0010_0000_4000_0004).entry_address(3), 0x4000_0030);
    }

    #[test]
    fn queue_size_is_capped() {
        let base = QueueBase::of(0x4000_001f);
        assert_eq!(QueueLayout::new(base, 8, 44, 4).log2size(), 8);
        assert_eq!(
            QueueLayout::new(base, 19, 44, 4).pointer_mask(),
            POINTER_MASK
        );
    }
}
