// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Arithmetic of addresses.

/// `count` ones from bit 0 upwards; 64 at most.
#[inline]
pub const fn low_bits(count: u32) -> u64 {
    match count {
        0 => 0,
        1..=63 => u64::MAX >> (64 - count),
        _ => u64::MAX,
    }
}

/// Returns whether `address` has a bit above the lowest `bits`.
#[inline]
pub const fn exceeds(address: u64, bits: u32) -> bool {
    address & !low_bits(bits) != 0
}

/// `address` without the bits above the lowest `bits`.
#[inline]
pub const fn truncate(address: u64, bits: u32) -> u64 {
    address & low_bits(bits)
}

/// `address` aligned down to `2^log2_bytes` bytes.
#[inline]
pub const fn align_down(address: u64, log2_bytes: u32) -> u64 {
    address & !low_bits(log2_bytes)
}

/// Returns the address of entry `index` of an array of entries of `2^log2_bytes` bytes,
/// which wraps at the end of the address space.
#[inline]
pub const fn entry(base: u64, index: u64, log2_bytes: u32) -> u64 {
    base.wrapping_add(index << log2_bytes)
}

/// `bytes`, a multiple of 8, as words in CPU order: everything in memory is
/// little-endian (§2.5).
#[inline]
pub fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = eight
            .iter()
            .rev()
            .fold(0, |high, byte| (high << 8) | u64::from(*byte));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_covers_zero_to_64_bits() {
        assert_eq!(low_bits(0), 0);
        assert_eq!(low_bits(1), 1);
        assert_eq!(low_bits(44), 0x0fff_ffff_ffff);
        assert_eq!(low_bits(63), u64::MAX >> 1);
        assert_eq!([low_bits(64), low_bits(255)], [u64::MAX; 2]);
    }

    #[test]
    fn address_is_truncated_at_bit() {
        assert!(exceeds(1 << 44, 44) && !exceeds((1 << 44) - 1, 44));
        assert!(!exceeds(u64::MAX, 64));
        assert_eq!(truncate(u64::MAX, 12), 0xfff);
        assert_eq!(align_down(u64::MAX, 12), !0xfff);
        assert_eq!(align_down(u64::MAX, 64), 0);
    }

    #[test]
    fn array_entry_address_wraps_at_end() {
        assert_eq!(entry(0x4000_0000, 3, 6), 0x4000_00c0);
        assert_eq!(entry(u64::MAX - 7, 1, 3), 0);
    }
}
