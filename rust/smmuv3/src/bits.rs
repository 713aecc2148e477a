// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bit fields of registers, commands and table entries.

/// Field of `width` bits at bit `low` of a 32-bit register.
#[inline]
pub const fn field32(value: u32, low: u32, width: u32) -> u32 {
    (value >> low) & mask32(0, width)
}

/// Field of `width` bits at bit `low` of a 64-bit word.
#[inline]
pub const fn field64(value: u64, low: u32, width: u32) -> u64 {
    (value >> low) & mask64(0, width)
}

/// `value` with the field of `width` bits at bit `low` replaced by `field`.
#[inline]
#[must_use]
pub const fn with_field32(value: u32, low: u32, width: u32, field: u32) -> u32 {
    let mask = mask32(low, width);
    (value & !mask) | ((field << low) & mask)
}

/// `width` ones from bit `low` upwards. `low + width` is at most 32.
#[inline]
pub const fn mask32(low: u32, width: u32) -> u32 {
    if width == 0 {
        0
    } else {
        (u32::MAX >> (32 - width)) << low
    }
}

/// `width` ones from bit `low` upwards. `low + width` is at most 64.
#[inline]
pub const fn mask64(low: u32, width: u32) -> u64 {
    if width == 0 {
        0
    } else {
        (u64::MAX >> (64 - width)) << low
    }
}

/// Bit `bit` of a 32-bit register.
#[inline]
pub const fn bit32(value: u32, bit: u32) -> bool {
    (value >> bit) & 1 != 0
}

/// Bit `bit` of a 64-bit word.
#[inline]
pub const fn bit64(value: u64, bit: u32) -> bool {
    (value >> bit) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_reach_from_nothing_to_the_whole_word() {
        assert_eq!(mask32(0, 0), 0);
        assert_eq!(mask32(0, 32), u32::MAX);
        assert_eq!(mask32(31, 1), 1 << 31);
        assert_eq!(mask64(0, 0), 0);
        assert_eq!(mask64(0, 64), u64::MAX);
        assert_eq!(mask64(12, 44), 0x00ff_ffff_ffff_f000);
    }

    #[test]
    fn a_field_written_is_the_field_read() {
        for low in 0..28 {
            let word = with_field32(0xa5a5_a5a5, low, 4, 0b1010);
            assert_eq!(field32(word, low, 4), 0b1010);
            assert_eq!(word & !mask32(low, 4), 0xa5a5_a5a5 & !mask32(low, 4));
        }
    }
}
