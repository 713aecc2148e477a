// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Event records (§7.3): 32 bytes that say why a transaction was terminated
//! or stalled.

use bilge::prelude::*;

pub use crate::spec::event::Class;
use crate::{
    address::words,
    spec::event::{EventWord0, EventWord1},
    StreamId,
};

/// Size of an event record in bytes.
pub const EVENT_BYTES: usize = 32;

/// Event numbers (§7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventType {
    /// `F_UUT`: unsupported transaction.
    UnsupportedTransaction = 0x01,
    /// `C_BAD_STREAMID`: outside the Stream table.
    BadStreamId = 0x02,
    /// `F_STE_FETCH`: reading the Stream table aborted.
    SteFetch = 0x03,
    /// `C_BAD_STE`: invalid or ILLEGAL Stream table entry.
    BadSte = 0x04,
    /// `F_BAD_ATS_TREQ`: ATS Translation Request disallowed.
    BadAtsRequest = 0x05,
    /// `F_STREAM_DISABLED`: not without, or not with this, `SubstreamID`.
    StreamDisabled = 0x06,
    /// `F_TRANSL_FORBIDDEN`: Translated traffic disallowed.
    TranslatedForbidden = 0x07,
    /// `C_BAD_SUBSTREAMID`: outside the table of Context descriptors.
    BadSubstreamId = 0x08,
    /// `F_CD_FETCH`: reading a Context descriptor aborted.
    CdFetch = 0x09,
    /// `C_BAD_CD`: invalid or ILLEGAL Context descriptor.
    BadCd = 0x0a,
    /// `F_WALK_EABT`: reading a translation table aborted.
    WalkAbort = 0x0b,
    /// `F_TRANSLATION`: no translation.
    Translation = 0x10,
    /// `F_ADDR_SIZE`: an output address is too large.
    AddressSize = 0x11,
    /// `F_ACCESS`: the Access flag is clear.
    Access = 0x12,
    /// `F_PERMISSION`: the access is not permitted.
    Permission = 0x13,
    /// `F_TLB_CONFLICT`.
    TlbConflict = 0x20,
    /// `F_CFG_CONFLICT`.
    ConfigConflict = 0x21,
    /// `E_PAGE_REQUEST`: a speculative hint.
    PageRequest = 0x24,
    /// `F_VMS_FETCH`: reading a Virtual Machine structure aborted.
    VmsFetch = 0x25,
}

/// An event record: four words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub [u64; 4]);

impl Event {
    /// Returns a record of this type about a stream; everything else is 0.
    pub fn new(event: EventType, sid: StreamId) -> Self {
        let mut word0 = EventWord0::of(0);
        word0.set_number(event as u8);
        word0.set_sid(sid);
        Self([word0.raw(), 0, 0, 0])
    }

    /// Returns the same with a `SubstreamID`, of which the low 20 bits count.
    #[must_use]
    pub fn with_ssid(self, ssid: u32) -> Self {
        self.with_word0(|word0| {
            word0.set_ssv(true);
            word0.set_ssid(u20::extract_u32(ssid, 0));
        })
    }

    /// Returns the same about a read, or else about a write.
    #[must_use]
    pub fn with_read(self, read: bool) -> Self {
        self.with_word1(|word1| word1.set_rnw(read))
    }

    /// Returns the same with an input address.
    #[must_use]
    pub const fn with_input_address(mut self, address: u64) -> Self {
        self.0[2] = address;
        self
    }

    /// Returns the same with `FetchAddr` or `IPA`, whichever the type has.
    #[must_use]
    pub const fn with_second_address(mut self, address: u64) -> Self {
        self.0[3] = address;
        self
    }

    /// Returns the same about a fault of stage 2, or else of stage 1.
    #[must_use]
    pub fn with_stage2(self, stage2: bool) -> Self {
        self.with_word1(|word1| word1.set_s2(stage2))
    }

    /// Returns the same about an operation of this class.
    #[must_use]
    pub fn with_class(self, class: Class) -> Self {
        self.with_word1(|word1| word1.set_class(class))
    }

    /// Returns the same where reading a stage 1 descriptor was not permitted (`TTRnW`).
    #[must_use]
    pub fn with_table_read(self) -> Self {
        self.with_word1(|word1| word1.set_ttrnw(true))
    }

    /// Returns the same about another stream: a host's record on its way to a guest
    /// in which the device has another `StreamID`.
    #[must_use]
    pub fn with_sid(self, sid: StreamId) -> Self {
        self.with_word0(|word0| word0.set_sid(sid))
    }

    fn with_word0(mut self, set: impl FnOnce(&mut EventWord0)) -> Self {
        let mut word0 = EventWord0::of(self.0[0]);
        set(&mut word0);
        self.0[0] = word0.raw();
        self
    }

    fn with_word1(mut self, set: impl FnOnce(&mut EventWord1)) -> Self {
        let mut word1 = EventWord1::of(self.0[1]);
        set(&mut word1);
        self.0[1] = word1.raw();
        self
    }

    /// Returns the event number, known or not.
    pub fn number(&self) -> u8 {
        EventWord0::of(self.0[0]).number()
    }

    /// Returns `StreamID`.
    pub fn sid(&self) -> StreamId {
        EventWord0::of(self.0[0]).sid()
    }

    /// Returns the record as it lies in memory, little-endian.
    pub fn to_bytes(self) -> [u8; EVENT_BYTES] {
        let mut bytes = [0; EVENT_BYTES];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// A record as it lies in memory, little-endian.
    pub fn from_bytes(bytes: &[u8; EVENT_BYTES]) -> Self {
        Self(words(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_record_is_little_endian_words() {
        let event = Event::new(EventType::Translation, 0x1234_5678)
            .with_ssid(0xabcde)
            .with_read(true)
            .with_input_address(0x1122_3344_5566_7788);
        let bytes = event.to_bytes();
        assert_eq!(bytes[..8], [0x10, 0xe8, 0xcd, 0xab, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!(bytes[8..16], [0, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(bytes[16], 0x88);
        assert_eq!(Event::from_bytes(&bytes), event);
    }

    #[test]
    fn event_fields_round_trip() {
        let event = Event::new(EventType::SteFetch, 8)
            .with_second_address(0x8000_0040)
            .with_sid(9);
        assert_eq!((event.number(), event.sid()), (0x03, 9));
        assert_eq!(event.0, [0x9_0000_0003, 0, 0, 0x8000_0040]);
        let walk = event
            .with_stage2(true)
            .with_class(Class::In)
            .with_table_read();
        assert_eq!(walk.0[1], (1 << 39) | (0b10 << 40) | (1 << 44));
        let cd = walk.with_class(Class::Cd).with_stage2(false);
        assert_eq!(cd.0[1], 1 << 44);
        let ssid = |ssid| EventWord0::of(event.with_ssid(ssid).0[0]);
        assert!(ssid(0).ssv() && ssid(0).ssid().value() == 0);
        assert_eq!(ssid(u32::MAX).ssid().value(), 0xf_ffff);
        assert_eq!(event.with_ssid(u32::MAX).with_ssid(0), event.with_ssid(0));
    }
}
