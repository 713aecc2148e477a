// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Division of an address range into naturally aligned blocks.

use proptest::prelude::*;
use smmuv3::translation::Range;

proptest! {
    #[test]
    fn range_blocks_cover_without_gaps(one: u64, other: u64, shift in 0..64_u32) {
        let (one, other) = (one >> shift, other >> shift);
        let (first, last) = (one.min(other), one.max(other));
        let mut next = Some(first);
        let blocks: Vec<_> = Range { first, last }.blocks().collect();
        prop_assert!(blocks.len() < 128);
        for (base, mask) in blocks {
            prop_assert_eq!(Some(base), next);
            prop_assert_eq!(base & mask, 0);
            prop_assert_eq!(mask & mask.wrapping_add(1), 0);
            next = base.checked_add(mask).and_then(|end| end.checked_add(1));
        }
        prop_assert_eq!(next, last.checked_add(1));
    }
}
