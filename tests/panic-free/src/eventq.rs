// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Event records and the Event queue (§7).

use smmuv3::{
    event::{Class, EventType, EVENT_BYTES},
    eventq::{self, Recorded},
    fragment::Fragment,
    registers::EventqRun,
    Event, Features, GuestMemory, Registers, StreamId,
};

use crate::surroundings::Memory;

/// Records an event.
#[inline(never)]
pub fn record(run: &mut EventqRun, memory: &mut dyn GuestMemory, event: &Event) -> Recorded {
    eventq::record(run, &mut Memory(memory), event)
}

/// Notes that one was lost.
#[inline(never)]
pub fn overflow(run: &mut EventqRun) -> Recorded {
    eventq::overflow(run)
}

/// Takes the Event queue's state out of the registers.
#[inline(never)]
pub fn begin(registers: &Registers, features: &Features) -> EventqRun {
    registers.begin_eventq(features)
}

/// Puts it back.
#[inline(never)]
pub fn finish(registers: &mut Registers, run: EventqRun) -> u32 {
    registers.finish_eventq(run)
}

/// Makes a record.
#[inline(never)]
pub fn event(event: EventType, sid: StreamId, ssid: u32, class: Class, flag: bool) -> Event {
    Event::new(event, sid)
        .with_ssid(ssid)
        .with_read(flag)
        .with_stage2(flag)
        .with_class(class)
        .with_table_read()
}

/// Replaces the stream of a host's record.
#[inline(never)]
pub fn forwarded(bytes: &[u8; EVENT_BYTES], sid: StreamId) -> (u8, StreamId, [u8; EVENT_BYTES]) {
    let event = Event::from_bytes(bytes);
    let forwarded = event.with_sid(sid);
    (event.number(), event.sid(), forwarded.to_bytes())
}

/// Joins the pieces of a transaction.
#[inline(never)]
pub fn fragment(event: Event, address: u64, is_read: bool, before: &Fragment) -> Option<Fragment> {
    Fragment::first(event, address, is_read).behind(before)
}
