// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The reason that a transaction is terminated, and the event that records it (§7.3).

use crate::{
    event::{Class, Event, EventType},
    registers::Registers,
    spec::event::{IpaWord, WalkFetchAddr},
    StreamId,
};

/// A transaction is terminated with an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The type of the event.
    pub event: EventType,
    /// `FetchAddr` or `IPA`, whichever the event has; 0 if it has neither.
    pub address: u64,
    /// A fault of stage 2.
    pub stage2: bool,
    /// The access that failed.
    pub class: Class,
    /// The configuration wants it recorded (`CD.R`, `STE.S2R`; §5.5).
    pub recorded: bool,
}

impl Fault {
    /// Returns a fault of the configuration, before any translation.
    pub(super) const fn configuration(event: EventType) -> Self {
        Self::fetch(event, 0)
    }

    /// Returns the fault of an aborted access to a configuration structure at `address`.
    pub(super) const fn fetch(event: EventType, address: u64) -> Self {
        Self {
            event,
            address,
            stage2: false,
            class: Class::Cd,
            recorded: true,
        }
    }

    /// Returns the fault of an address above IAS that bypasses stage 1 (§3.4). It is
    /// recorded, because there is no descriptor that could prevent that.
    pub(super) const fn bypassed_address_size() -> Self {
        Self {
            event: EventType::AddressSize,
            address: 0,
            stage2: false,
            class: Class::In,
            recorded: true,
        }
    }

    /// Returns whether an event is recorded, if the Event queue takes any.
    pub fn is_recorded(&self, registers: &Registers) -> bool {
        let wanted = self.event != EventType::BadStreamId || registers.records_bad_stream_id();
        wanted && self.recorded
    }

    /// Returns the record about the transaction of `sid` at `input`: a read, or else a
    /// write.
    pub fn record(&self, sid: StreamId, input: u64, read: bool) -> Event {
        let event = Event::new(self.event, sid);
        let address = match self.event {
            EventType::WalkAbort => self.address & WalkFetchAddr::DEFINED,
            EventType::Translation
            | EventType::AddressSize
            | EventType::Access
            | EventType::Permission => self.address & IpaWord::DEFINED,
            _ => return event.with_second_address(self.address),
        };
        let event = event
            .with_input_address(input)
            .with_second_address(address)
            .with_stage2(self.stage2)
            .with_class(self.class)
            .with_read(read);
        if self.event == EventType::Permission && self.class == Class::Tt {
            event.with_table_read()
        } else {
            event
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_record_has_only_fields_of_its_type() {
        let bad = Fault::configuration(EventType::BadCd).record(7, 0x1000, true);
        assert_eq!(bad, Event::new(EventType::BadCd, 7));

        let fetch = Fault::fetch(EventType::SteFetch, 0x8000_0040).record(7, 0x1000, true);
        assert_eq!(fetch.0, [0x7_0000_0003, 0, 0, 0x8000_0040]);

        let walk = Fault {
            event: EventType::Permission,
            address: 0xff12_3456_789a_bcde,
            stage2: true,
            class: Class::Tt,
            recorded: true,
        };
        let record = walk.record(7, 0xffff_0000_0000_1234, false);
        assert_eq!(record.0[2], 0xffff_0000_0000_1234);
        assert_eq!(record.0[3], 0x0012_3456_789a_b000);
        assert_eq!(record.0[1], (1 << 39) | (0b01 << 40) | (1 << 44));

        let abort = Fault {
            event: EventType::WalkAbort,
            stage2: false,
            ..walk
        };
        let aborted = abort.record(7, 0, true);
        assert_eq!(aborted.0[3], 0x0012_3456_789a_bcd8);
        assert_eq!(aborted.0[1], (1 << 35) | (0b01 << 40));
    }
}
