// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Fault events of the host over a live update: each is recorded once.

use std::os::unix::net::UnixDatagram;

use smmuv3_qtest::{
    assigned::{sid, ste, Bench},
    machine::RAM,
    smmu::{reg, EVENTQEN},
    until, Smmu,
};

use crate::bench::{adopted, one_device, start, statistic, take, wait_running, Prepared};

/// Guest physical address of the Event queue, and its size.
const QUEUE: u64 = RAM + 0x80_0000;
const LOG2: u32 = 3;

/// Returns an `F_TRANSLATION` (§7.3.12) of a page.
const fn fault(page: u64) -> [u64; 4] {
    [0x10 | ((sid(1) as u64) << 32), 0, page << 12, 0]
}

/// Has the host report a fault with this sequence number.
#[track_caller]
pub fn report_fault(bench: &Bench, sequence: u32, page: u64) {
    let mut bytes = Vec::new();
    bytes.extend(
        [0, sequence]
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes()),
    );
    bytes.extend(fault(page).iter().flat_map(|word| word.to_le_bytes()));
    let id = bench.journal().id("veventq").expect("a queue in the host");
    let path = bench.file(&format!("veventq-iommufd0-{id}"));
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(&bytes, &path).expect("an event");
    // Linux returns 0, not EAGAIN, when there is nothing more to read
    socket.send_to(&[], &path).expect("the end");
}

/// Enables an empty Event queue.
#[track_caller]
pub fn open_eventq(smmu: &Smmu<'_>) {
    smmu.write64(reg::EVENTQ_BASE, QUEUE | u64::from(LOG2));
    smmu.write(reg::EVENTQ_PROD, 0);
    smmu.write(reg::EVENTQ_CONS, 0);
    smmu.enable(EVENTQEN);
}

/// Has "d0" translated, with the Event queue enabled.
#[track_caller]
pub fn with_eventq(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.translating(&[ste::FIRST]);
    open_eventq(&smmu);
    smmu
}

/// Waits until the fault of `page` is the last record, in `slot`.
#[track_caller]
pub fn is_recorded(smmu: &Smmu<'_>, slot: u32, page: u64) {
    let prod = || smmu.read(reg::EVENTQ_PROD) & 0xf_ffff;
    until("an event", || (prod() == slot + 1).then_some(()));
    let at = QUEUE + 32 * u64::from(slot);
    assert_eq!(smmu.machine().read64(at), fault(0)[0], "type and StreamID");
    assert_eq!(smmu.machine().read64(at + 16) >> 12, page);
}

/// One before, one while neither QEMU runs the guest, and one afterwards.
#[test]
fn events_over_live_update_are_recorded_once() {
    let old = start(one_device);
    let smmu = with_eventq(&old);
    let id = old.journal().id("veventq");
    report_fault(&old, 0, 1);
    is_recorded(&smmu, 0, 1);
    let prepared = Prepared::beside(&old, one_device);
    report_fault(&old, 1, 2);
    is_recorded(&smmu, 1, 2);
    let (new, state) = prepared.stop(&old);
    report_fault(&old, 2, 3);
    take(&new, state);
    wait_running(&new);
    let updated = adopted(&new);
    is_recorded(&updated, 2, 3);
    assert_eq!(statistic(&old, "events", "from-host"), 2);
    old.finish();
    report_fault(&new, 3, 4);
    is_recorded(&updated, 3, 4);
    assert_eq!(statistic(&new, "events", "from-host"), 2);
    assert_eq!(statistic(&new, "events", "lost-by-host"), 0);
    assert_eq!(new.journal().id("veventq"), id, "it is another one");
    new.finish();
}

/// The sequence number goes on where the old QEMU has stopped.
#[test]
fn event_lost_between_qemus_is_noticed() {
    let old = start(one_device);
    let smmu = with_eventq(&old);
    report_fault(&old, 0, 1);
    is_recorded(&smmu, 0, 1);
    let (new, state) = Prepared::beside(&old, one_device).stop(&old);
    take(&new, state);
    wait_running(&new);
    old.finish();
    let updated = adopted(&new);
    report_fault(&new, 2, 3);
    is_recorded(&updated, 1, 3);
    assert_eq!(statistic(&new, "events", "lost-by-host"), 1);
    new.finish();
}

/// The old QEMU has stopped to read events, and reads them again.
#[test]
fn events_of_refused_live_update_are_recorded_by_old_qemu() {
    let old = start(one_device);
    let smmu = with_eventq(&old);
    let (new, state) = Prepared::beside(&old, one_device).stop(&old);
    report_fault(&old, 0, 1);
    drop((new, state));
    assert_eq!(
        smmu.read(reg::EVENTQ_PROD),
        0,
        "recorded while it is stopped"
    );
    crate::bench::resume(&old);
    is_recorded(&smmu, 0, 1);
    report_fault(&old, 1, 2);
    is_recorded(&smmu, 1, 2);
    old.finish();
}
