// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Merging of the faults of one transaction's pieces into one event.

use proptest::prelude::*;
use smmuv3::{event::EventType, fragment::Fragment, Event};

fn piece(address: u64) -> Fragment {
    let event = Event::new(EventType::Translation, 7).with_input_address(address);
    Fragment::first(event, address, true)
}

/// Into how many events the pieces at these addresses fall.
fn events(addresses: impl IntoIterator<Item = u64>) -> usize {
    let mut last: Option<Fragment> = None;
    let mut events = 0;
    for address in addresses {
        let next = piece(address);
        let behind = last.and_then(|before| next.behind(&before));
        events += usize::from(behind.is_none());
        last = Some(behind.unwrap_or(next));
    }
    events
}

/// Where the pieces of an access begin.
fn pieces(mut address: u64, mut length: u64) -> Vec<u64> {
    let mut begins = Vec::new();
    while length != 0 {
        begins.push(address);
        let aligned = 1 << address.trailing_zeros().min(2);
        let piece = aligned.min(1 << length.ilog2());
        address += piece;
        length -= piece;
    }
    begins
}

proptest! {
    #[test]
    fn fragmented_access_is_one_event_per_page(
        address in 0..0x3000_u64,
        length in 1..0x2100_u64,
    ) {
        let last = address + length - 1;
        let pages = (last >> 12) - (address >> 12) + 1;
        prop_assert_eq!(events(pieces(address, length)) as u64, pages);
    }

    #[test]
    fn repeated_access_is_new_event(address in 0..0x1000_u64, length in 1..16_u64) {
        let once = events(pieces(address, length));
        let twice = pieces(address, length).into_iter().cycle();
        let count = 2 * pieces(address, length).len();
        prop_assert_eq!(events(twice.take(count)), 2 * once);
    }
}

#[test]
fn noncontiguous_address_is_new_event() {
    for (first, second) in [
        (0x1000, 0x1000),
        (0x1000, 0x0ffc),
        (0x1000, 0x1008),
        (0x1000, 0x1003),
        (0x1002, 0x1006),
        (0x1001, 0x1003),
        (0x0ffc, 0x1000),
        (u64::MAX, 0),
    ] {
        assert_eq!(events([first, second]), 2, "{first:#x} {second:#x}");
    }
    // A piece of 2 bytes where 4 would fit leaves 1 at most.
    assert_eq!(events([0x1000, 0x1002, 0x1003]), 1);
    assert_eq!(events([0x1000, 0x1002, 0x1004]), 2);
    assert_eq!(events([0x1000, 0x1001, 0x1002]), 2);
}

#[test]
fn different_fault_or_access_is_new_event() {
    let first = piece(0x1000);
    let next = piece(0x1004);
    assert!(next.behind(&first).is_some());
    let event = |event| Event::new(event, 7).with_input_address(0x1004);
    for other in [
        event(EventType::Permission),
        event(EventType::Translation).with_sid(8),
        event(EventType::Translation).with_ssid(0),
        event(EventType::Translation).with_read(true),
        event(EventType::Translation).with_stage2(true),
        event(EventType::Translation).with_second_address(0x5000),
    ] {
        let other = Fragment::first(other, 0x1004, true);
        assert_eq!(other.behind(&first), None);
    }
    let write = Fragment::first(event(EventType::Translation), 0x1004, false);
    assert_eq!(write.behind(&first), None);
}
