// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Event records as the specification has them (§7.3), all 32 bytes.

use std::fmt;

use smmuv3_qtest::Access;

/// Event numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    BadStreamId = 0x02,
    SteFetch = 0x03,
    BadSte = 0x04,
    CdFetch = 0x09,
    BadCd = 0x0a,
    WalkAbort = 0x0b,
    Translation = 0x10,
    AddressSize = 0x11,
    AccessFlag = 0x12,
    Permission = 0x13,
}

const KINDS: [Kind; 10] = [
    Kind::BadStreamId,
    Kind::SteFetch,
    Kind::BadSte,
    Kind::CdFetch,
    Kind::BadCd,
    Kind::WalkAbort,
    Kind::Translation,
    Kind::AddressSize,
    Kind::AccessFlag,
    Kind::Permission,
];

/// The class of the address that faulted (`CLASS`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// A Context descriptor
    Cd = 0,
    /// A descriptor of stage 1
    Table = 1,
    /// The transaction
    Input = 2,
}

const READ: u64 = 1 << 35;
const STAGE_2: u64 = 1 << 39;
/// `TTRnW`: the read of a descriptor was not permitted
const TABLE_READ: u64 = 1 << 44;

/// An event record.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Record(pub [u64; 4]);

impl Record {
    /// Returns the record of a configuration error, the base of other records.
    pub const fn new(kind: Kind, sid: u32) -> Self {
        Self([kind as u64 | ((sid as u64) << 32), 0, 0, 0])
    }

    /// Returns the record with the physical address of a failed fetch.
    pub const fn fetching(mut self, address: u64) -> Self {
        self.0[3] = address;
        self
    }

    /// Returns the record for an access to `iova`.
    pub const fn of(mut self, access: Access, iova: u64) -> Self {
        if matches!(access, Access::Read) {
            self.0[1] |= READ;
        }
        self.0[2] = iova;
        self
    }

    /// Returns the record of a stage-1 fault.
    pub const fn stage1(mut self, class: Class) -> Self {
        self.0[1] |= (class as u64) << 40;
        self
    }

    /// Returns the record of a stage-2 fault.
    pub const fn stage2(mut self, class: Class) -> Self {
        self.0[1] |= STAGE_2 | ((class as u64) << 40);
        self
    }

    /// Returns the record with the page of an IPA.
    pub const fn ipa(mut self, ipa: u64) -> Self {
        self.0[3] = ipa & !0xfff;
        self
    }

    /// Returns the record with `TTRnW`.
    pub const fn reading_table(mut self) -> Self {
        self.0[1] |= TABLE_READ;
        self
    }

    /// Returns its number.
    pub const fn number(&self) -> u64 {
        self.0[0] & 0xff
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|kind| **kind as u64 == self.number());
        let word1 = self.0[1];
        write!(
            f,
            "{{{} sid={:#x} {} stage={} class={} input={:#x} second={:#x} {:x?}}}",
            kind.map_or_else(|| "?".into(), |kind| format!("{kind:?}")),
            self.0[0] >> 32,
            if word1 & READ == 0 { "write" } else { "read" },
            if word1 & STAGE_2 == 0 { 1 } else { 2 },
            (word1 >> 40) & 3,
            self.0[2],
            self.0[3],
            self.0
        )
    }
}
