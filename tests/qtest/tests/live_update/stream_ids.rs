// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update of a guest that is about to exchange the numbers of two buses.

use smmuv3_qtest::{
    assigned::{sid, ste, Ecam, Guest},
    journal::On,
};

use crate::bench::{adopted, host_changes, start, two_devices, update};

/// Number of the root bus that the SMMU serves.
const ROOT_BUS: u32 = 8;

/// "d0" has the `StreamID` of "d1", which it waits for in the new QEMU, too.
#[test]
fn live_updated_device_waits_for_its_stream_id() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let [first, second] = [ste::FIRST, ste::SECOND].map(On::Nested);
    Ecam::of(old.machine()).number(ROOT_BUS, 1 << 3, sid(2) >> 8);
    let waiting = [("d0", On::Abort), ("d1", second)];
    old.expect("one StreamID", &waiting);
    old.mark();
    let new = update(&old, two_devices);
    assert_eq!(host_changes(&old), [""; 0]);
    old.finish();
    new.expect("after", &waiting);
    let smmu = adopted(&new);
    new.mark();
    smmu.commands(&[smmuv3_qtest::command::TLBI_NSNH_ALL]);
    new.expect("it is still taken", &waiting);
    Ecam::of(new.machine()).number(ROOT_BUS, 2 << 3, sid(1) >> 8);
    new.expect("exchanged", &[("d0", second), ("d1", first)]);
    new.finish();
}

/// The `StreamID` that a device is adopted with is the one that the host knows.
#[test]
fn live_updated_device_follows_its_bus_number() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let new = update(&old, two_devices);
    old.finish();
    let smmu = adopted(&new);
    smmu.write_ste(12 << 8, ste::SECOND);
    Ecam::of(new.machine()).number(ROOT_BUS, 1 << 3, 12);
    new.expect("by its new StreamID", &[("d0", On::Nested(ste::SECOND))]);
    let reported = new.journal().device("d0").and_then(|device| device.sid);
    assert_eq!(reported, Some(12 << 8), "StreamID of events");
    new.finish();
}
