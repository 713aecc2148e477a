// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The layouts of the specification: registers, commands, table entries, event
//! records and translation table descriptors, field by field.
//!
//! There are only types here. A rule, such as when an entry is ILLEGAL, belongs to
//! the module that applies it.
//!
//! A layout has one type for each register or 64-bit word, with the fields in the
//! order of the specification, lowest bit first. Fields are named as in the
//! specification, in lower case; those that are Reserved are called `reserved`. Only
//! the total width is checked by the compiler, so each layout has a test that compares
//! the positions of its fields with the specification's.

// bilge generates constructors without documentation, and has no way to give them
// some. A review must see to the documentation of everything else here.
#![allow(missing_docs)]

pub mod cd;
pub mod cmdqv;
pub mod command;
pub mod event;
pub mod register;
pub mod ste;
pub mod vmsa;

use crate::address::low_bits;

/// Name and width of a field.
pub(crate) type Field = (&'static str, u32);

/// The name of a field that the specification reserves.
const RESERVED: &str = "reserved";

/// Declares a layout: a bitfield whose raw value, masks and Reserved bits are
/// constants, too.
///
/// A field's type is a single identifier. So it cannot be an array, for which bilge
/// would generate `unsafe` code that `forbid(unsafe_code)` does not see.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        $name:ident: $raw:ident [$bits:tt] {
            $($(#[$field_meta:meta])* $field:ident: $ty:ident,)+
        }
    ) => {
        $(#[$meta])*
        #[bitsize($bits)]
        #[derive(Clone, Copy, PartialEq, Eq, FromBits, DebugBits)]
        pub struct $name {
            // bilge hands attributes on to getter and setter, which are called from
            // inlined functions in other crates.
            $($(#[$field_meta])* #[inline] pub $field: $ty,)+
        }

        impl $name {
            const FIELDS: &'static [$crate::spec::Field] =
                &[$((stringify!($field), <$ty as Bitsized>::BITS as u32),)+];

            /// The bits that are not Reserved. Which of them exist depends on the
            /// ID registers.
            pub const DEFINED: $raw = $crate::spec::defined(Self::FIELDS) as $raw;

            /// The layout over a raw value.
            #[inline]
            pub const fn of(raw: $raw) -> Self {
                Self { value: raw }
            }

            /// The layout over a raw value, without its Reserved bits.
            #[inline]
            pub const fn scrubbed(raw: $raw) -> Self {
                Self::of(raw & Self::DEFINED)
            }

            /// The raw value.
            #[inline]
            pub const fn raw(self) -> $raw {
                self.value
            }

            /// The bits of a field, for `mask!`.
            // Evaluated by the compiler only: inlined, it has no machine code.
            #[inline]
            pub const fn mask_of(field: &str) -> $raw {
                $crate::spec::mask_of(Self::FIELDS, field) as $raw
            }

            /// Compares the fields, as `(name, highest bit, lowest bit)`, with the
            /// positions that the specification gives.
            #[cfg(test)]
            fn check(positions: &[(&str, u32, u32)]) {
                $crate::spec::tests::check(stringify!($name), $bits, Self::FIELDS, positions);
                for (field, high, low) in positions {
                    let mask = $crate::address::low_bits(high + 1 - low) << low;
                    assert_eq!(u64::from(Self::mask_of(field)), mask, "{field}");
                }
            }
        }
    };
}

/// The bits of fields of a layout, as a constant: `mask!(Cr0: smmuen | cmdqen)`. A
/// name that is no field's does not compile.
macro_rules! mask {
    ($layout:ident: $($field:ident)|+) => {
        const { $(<$layout>::mask_of(stringify!($field)))|+ }
    };
}

pub(crate) use {layout, mask};

/// The field under `mask`, which is one field's.
#[inline]
pub(crate) const fn get(value: u32, mask: u32) -> u32 {
    (value & mask) >> mask.trailing_zeros()
}

/// `value` with `field` under `mask`; bits that the field lacks are dropped.
#[inline]
pub(crate) const fn set(value: u32, mask: u32, field: u32) -> u32 {
    (value & !mask) | ((field << mask.trailing_zeros()) & mask)
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

/// The bits of the field called `name`. Evaluated by the compiler only, which stops
/// at a name that no field has.
#[inline]
const fn mask_of(fields: &[Field], name: &str) -> u64 {
    let (mut index, mut low) = (0, 0);
    while index < fields.len() {
        let (field, width) = fields[index];
        if is_same(field, name) {
            return low_bits(width) << low;
        }
        low += width;
        index += 1;
    }
    panic!("no field has this name")
}

/// The bits of all fields but the Reserved ones.
const fn defined(fields: &[Field]) -> u64 {
    let (mut index, mut low, mut bits) = (0, 0, 0);
    while index < fields.len() {
        let (field, width) = fields[index];
        if !is_same(field, RESERVED) {
            bits |= low_bits(width) << low;
        }
        low += width;
        index += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use bilge::prelude::*;

    use super::*;

    /// Every field of a layout stands where `positions` says, and there is no other.
    pub fn check(layout: &str, bits: u32, fields: &[Field], positions: &[(&str, u32, u32)]) {
        let mut low = 0;
        let mut declared = Vec::new();
        for (name, width) in fields {
            if *name != RESERVED {
                declared.push((*name, low + width - 1, low));
            }
            low += width;
        }
        assert_eq!(declared, positions, "{layout}");
        assert_eq!(low, bits, "{layout}");
    }

    layout! {
        /// A layout with fields at both ends.
        Sample: u32 [32] {
            low: u3,
            reserved: u5,
            middle: u8,
            reserved: u15,
            high: bool,
        }
    }

    #[test]
    fn layout_masks_match_field_positions() {
        Sample::check(&[("low", 2, 0), ("middle", 15, 8), ("high", 31, 31)]);
        assert_eq!(Sample::DEFINED, 0x8000_ff07);
        assert_eq!(mask!(Sample: low | high), 0x8000_0007);
    }

    #[test]
    fn layout_accessors_match_masks() {
        let sample = Sample::of(mask!(Sample: middle));
        assert_eq!((sample.low(), sample.middle()), (u3::new(0), 0xff));
        assert!(!sample.high());
        let mut other = Sample::of(0);
        other.set_high(true);
        other.set_low(u3::new(7));
        assert_eq!(other.raw(), mask!(Sample: low | high));
    }

    #[test]
    fn field_write_then_read_returns_value() {
        let mask = mask!(Sample: middle);
        let word = set(0xa5a5_a5a5, mask, 0x1ff);
        assert_eq!((get(word, mask), word & !mask), (0xff, 0xa5a5_a5a5 & !mask));
        assert_eq!(set(word, mask, 0xa5), 0xa5a5_a5a5);
    }
}
