// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Event records (7.3): 32 bytes that tell why a transaction was terminated
//! or stalled.

use crate::{
    bits::{field64, mask64},
    StreamId,
};

/// Size of an event record in bytes.
pub const EVENT_BYTES: usize = 32;

/// Event numbers (7.3).
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

/// Every event number that the specification gives a meaning.
const TYPES: [EventType; 19] = [
    EventType::UnsupportedTransaction,
    EventType::BadStreamId,
    EventType::SteFetch,
    EventType::BadSte,
    EventType::BadAtsRequest,
    EventType::StreamDisabled,
    EventType::TranslatedForbidden,
    EventType::BadSubstreamId,
    EventType::CdFetch,
    EventType::BadCd,
    EventType::WalkAbort,
    EventType::Translation,
    EventType::AddressSize,
    EventType::Access,
    EventType::Permission,
    EventType::TlbConflict,
    EventType::ConfigConflict,
    EventType::PageRequest,
    EventType::VmsFetch,
];

impl EventType {
    /// The event with this number, if the specification names one.
    pub fn from_number(number: u8) -> Option<Self> {
        TYPES.into_iter().find(|event| *event as u8 == number)
    }
}

/// An event record: four words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub [u64; 4]);

/// `SSV`, bit 11 of word 0.
const SSV: u64 = mask64(11, 1);
/// `Stall`, bit 31 of word 1.
const STALL: u64 = mask64(31, 1);
/// `RnW`, bit 35 of word 1 (99 of the record).
const READ: u64 = mask64(35, 1);
/// `S2`, bit 39 of word 1.
const STAGE2: u64 = mask64(39, 1);
/// `TTRnW`, bit 44 of word 1.
const TABLE_READ: u64 = mask64(44, 1);

/// `CLASS`: what the SMMU was doing when a translation faulted (7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Fetching a Context descriptor.
    Cd = 0b00,
    /// Fetching a descriptor of a stage 1 translation table.
    Tt = 0b01,
    /// Translating the address of the transaction.
    In = 0b10,
}

impl Event {
    /// A record of this type about a stream; everything else is 0.
    pub const fn new(event: EventType, sid: StreamId) -> Self {
        Self([event as u64 | ((sid as u64) << 32), 0, 0, 0])
    }

    /// The same with a `SubstreamID`, of which the low 20 bits count.
    #[must_use]
    pub const fn with_ssid(mut self, ssid: u32) -> Self {
        self.0[0] &= !(mask64(12, 20) | SSV);
        self.0[0] |= SSV | (((ssid as u64) << 12) & mask64(12, 20));
        self
    }

    /// The same about a read, or else about a write.
    #[must_use]
    pub const fn with_read(mut self, read: bool) -> Self {
        self.0[1] &= !READ;
        if read {
            self.0[1] |= READ;
        }
        self
    }

    /// The same with an input address.
    #[must_use]
    pub const fn with_input_address(mut self, address: u64) -> Self {
        self.0[2] = address;
        self
    }

    /// The same with `FetchAddr` or `IPA`, whichever the type has.
    #[must_use]
    pub const fn with_second_address(mut self, address: u64) -> Self {
        self.0[3] = address;
        self
    }

    /// The same about a fault of stage 2, or else of stage 1.
    #[must_use]
    pub const fn with_stage2(mut self, stage2: bool) -> Self {
        self.0[1] &= !STAGE2;
        if stage2 {
            self.0[1] |= STAGE2;
        }
        self
    }

    /// The same about an operation of this class.
    #[must_use]
    pub const fn with_class(mut self, class: Class) -> Self {
        self.0[1] = (self.0[1] & !mask64(40, 2)) | ((class as u64) << 40);
        self
    }

    /// The same where reading a stage 1 descriptor was not permitted (`TTRnW`).
    #[must_use]
    pub const fn with_table_read(mut self) -> Self {
        self.0[1] |= TABLE_READ;
        self
    }

    /// Event number, known or not.
    pub const fn number(&self) -> u8 {
        self.0[0] as u8
    }

    /// Event type, if the specification names it.
    pub fn event_type(&self) -> Option<EventType> {
        EventType::from_number(self.number())
    }

    /// `StreamID`.
    pub const fn sid(&self) -> StreamId {
        (self.0[0] >> 32) as StreamId
    }

    /// `SubstreamID`, if there was one.
    pub fn ssid(&self) -> Option<u32> {
        (self.0[0] & SSV != 0).then(|| field64(self.0[0], 12, 20) as u32)
    }

    /// Whether the transaction is stalled, to be resumed by `STAG` (4.7.1).
    pub fn stalled(&self) -> Option<u16> {
        (self.0[1] & STALL != 0).then_some(self.0[1] as u16)
    }

    /// `RnW`: a read, or else a write.
    pub const fn is_read(&self) -> bool {
        self.0[1] & READ != 0
    }

    /// `S2`: the fault is one of stage 2.
    pub const fn is_stage2(&self) -> bool {
        self.0[1] & STAGE2 != 0
    }

    /// `CLASS` as encoded.
    pub const fn class(&self) -> u8 {
        field64(self.0[1], 40, 2) as u8
    }

    /// `InputAddr`.
    pub const fn input_address(&self) -> u64 {
        self.0[2]
    }

    /// `FetchAddr` or `IPA`, whichever the type has.
    pub const fn second_address(&self) -> u64 {
        self.0[3]
    }

    /// The same about another stream: a host's record on its way to a guest
    /// that knows the device by its own `StreamID`.
    #[must_use]
    pub const fn with_sid(mut self, sid: StreamId) -> Self {
        self.0[0] = (self.0[0] & mask64(0, 32)) | ((sid as u64) << 32);
        self
    }

    /// The record as it lies in memory, little-endian.
    pub fn to_bytes(self) -> [u8; EVENT_BYTES] {
        let mut bytes = [0; EVENT_BYTES];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// A record as it lies in memory, little-endian.
    pub fn from_bytes(bytes: &[u8; EVENT_BYTES]) -> Self {
        let mut words = [0; 4];
        for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = eight
                .iter()
                .rev()
                .fold(0, |high, byte| (high << 8) | u64::from(*byte));
        }
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lies_in_memory_as_specified() {
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
    fn fields_are_read_as_they_were_written() {
        let event = Event::new(EventType::SteFetch, 8)
            .with_second_address(0x8000_0040)
            .with_sid(9);
        assert_eq!(event.event_type(), Some(EventType::SteFetch));
        assert_eq!(
            (event.sid(), event.ssid(), event.stalled()),
            (9, None, None)
        );
        assert_eq!(event.second_address(), 0x8000_0040);
        assert!(!event.is_read() && !event.is_stage2());
        let walk = event
            .with_stage2(true)
            .with_class(Class::In)
            .with_table_read();
        assert_eq!(walk.0[1], (1 << 39) | (0b10 << 40) | (1 << 44));
        let cd = walk.with_class(Class::Cd).with_stage2(false);
        assert_eq!((walk.class(), cd.class(), cd.is_stage2()), (2, 0, false));
        assert_eq!(event.with_ssid(0).ssid(), Some(0));
        assert_eq!(event.with_ssid(u32::MAX).ssid(), Some(0xf_ffff));
        let stalled = Event([0x10, 0x8000_1234 | (1 << 39), 0, 0]);
        assert_eq!(stalled.stalled(), Some(0x1234));
        assert!(stalled.is_stage2());
    }

    #[test]
    fn every_number_is_either_named_or_not() {
        let named = (0..=u8::MAX).filter_map(EventType::from_number);
        assert!(named.eq(TYPES));
        assert_eq!(Event([0xe0, 0, 0, 0]).event_type(), None);
    }
}
