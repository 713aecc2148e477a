// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Event records (§7.3): the fields that the types of records share. A field
//! that a type of record does not have is 0.

use bilge::prelude::*;

use super::layout;

/// `CLASS`: the operation that faulted.
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBits)]
pub enum Class {
    /// The fetch of a Context descriptor.
    Cd = 0b00,
    /// The fetch of a stage 1 translation table descriptor.
    Tt = 0b01,
    /// The translation of the transaction's own address.
    In = 0b10,
    /// No class has this encoding.
    Reserved = 0b11,
}

layout! {
    /// Bits 63:0 of a record (§7.3).
    EventWord0: u64 [64] {
        /// Event number.
        number: u8,
        reserved: u3,
        /// `SSV`: there is a `SubstreamID`.
        ssv: bool,
        /// `SubstreamID`.
        ssid: u20,
        /// `StreamID`.
        sid: u32,
    }
}

layout! {
    /// Bits 127:64 of a record of a translation-related fault (§7.3.12 to §7.3.15).
    EventWord1: u64 [64] {
        /// `STAG`.
        stag: u16,
        reserved: u15,
        /// `Stall`.
        stall: bool,
        reserved: u1,
        /// `PnU`.
        pnu: bool,
        /// `InD`.
        ind: bool,
        /// `RnW`.
        rnw: bool,
        /// `NSIPA`.
        nsipa: bool,
        reserved: u2,
        /// `S2`.
        s2: bool,
        /// `CLASS`.
        class: Class,
        reserved: u2,
        /// `TTRnW`, of `F_PERMISSION`.
        ttrnw: bool,
        reserved: u19,
    }
}

layout! {
    /// Bits 255:192 of a record that has a `FetchAddr` of `F_WALK_EABT` (§7.3.11).
    WalkFetchAddr: u64 [64] {
        reserved: u3,
        /// `FetchAddr`, bits 55:3 of the address.
        fetchaddr: u53,
        reserved: u8,
    }
}

layout! {
    /// Bits 255:192 of a record that has an `IPA` (§7.3.12 to §7.3.15).
    IpaWord: u64 [64] {
        reserved: u12,
        /// `IPA`, bits 55:12 of the address.
        ipa: u44,
        reserved: u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_record_field_positions_match_spec() {
        EventWord0::check(&[
            ("number", 7, 0),
            ("ssv", 11, 11),
            ("ssid", 31, 12),
            ("sid", 63, 32),
        ]);
        // bits 127:64 of the record, less 64
        EventWord1::check(&[
            ("stag", 79 - 64, 64 - 64),
            ("stall", 95 - 64, 95 - 64),
            ("pnu", 97 - 64, 97 - 64),
            ("ind", 98 - 64, 98 - 64),
            ("rnw", 99 - 64, 99 - 64),
            ("nsipa", 100 - 64, 100 - 64),
            ("s2", 103 - 64, 103 - 64),
            ("class", 105 - 64, 104 - 64),
            ("ttrnw", 108 - 64, 108 - 64),
        ]);
    }

    #[test]
    fn event_address_positions_match_spec() {
        // bits 255:192 of the record, less 192
        WalkFetchAddr::check(&[("fetchaddr", 247 - 192, 195 - 192)]);
        IpaWord::check(&[("ipa", 247 - 192, 204 - 192)]);
    }
}
