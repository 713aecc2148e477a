// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Actions of the guest between the hand-over of the files and the stop, while the new QEMU has its
//! devices already.

use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest},
    command::{self, CFGI_ALL},
    journal::On,
    smmu::{reg, EVENTQEN, SMMUEN},
    until,
};

use crate::{
    bench::{
        adopted, host_changes, invalidates, one_device, start, statistic, two_devices, update,
        viommu, wait_running, Prepared,
    },
    events::{is_recorded, open_eventq, report_fault, with_eventq},
};

/// `EVENTQ_PROD.OVFLG`
const OVERFLOW: u32 = 1 << 31;

/// What the last configuration command said is what counts.
#[test]
fn live_update_does_not_read_stream_table() {
    let old = start(two_devices);
    let smmu = old.translating(&[ste::FIRST, ste::FIRST]);
    smmu.write_ste(sid(1), ste::SECOND);
    smmu.write_ste(sid(2), ste::INVALID);
    old.mark();
    let new = update(&old, two_devices);
    assert_eq!(host_changes(&old), [""; 0]);
    old.finish();
    let unsaid = [
        ("d0", On::Nested(ste::FIRST)),
        ("d1", On::Nested(ste::FIRST)),
    ];
    new.expect("without CFGI_STE", &unsaid);
    let updated = adopted(&new);
    let id = viommu(&new.journal());
    invalidates(&new, &updated, id);
    new.expect("after another command", &unsaid);
    updated.commands(&[command::cfgi_ste(sid(1))]);
    new.expect("d0", &[("d0", On::Nested(ste::SECOND)), unsaid[1]]);
    updated.commands(&[CFGI_ALL]);
    new.expect("all", &[("d0", On::Nested(ste::SECOND)), ("d1", On::Abort)]);
    new.finish();
}

/// The new QEMU has seen neither of these.
#[test]
fn changes_after_files_are_adopted() {
    let old = start(two_devices);
    let smmu = old.translating(&[ste::FIRST, ste::FIRST]);
    let prepared = Prepared::beside(&old, two_devices);
    smmu.install(sid(1), ste::SECOND);
    smmu.install(sid(2), ste::BYPASS);
    old.mark();
    let new = prepared.finish(&old);
    wait_running(&new);
    assert_eq!(host_changes(&old), [""; 0]);
    old.finish();
    new.expect(
        "after",
        &[("d0", On::Nested(ste::SECOND)), ("d1", On::Bypass)],
    );
    let updated = adopted(&new);
    updated.disable(SMMUEN);
    new.expect("GBPA decides", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    new.finish();
}

/// Returns how many vEVENTQs the host has.
fn queues(bench: &Bench) -> usize {
    let journal = bench.journal();
    journal.objects().get("veventq").copied().unwrap_or(0)
}

/// The host keeps the vEVENTQ, because the new QEMU has its file open, and the old one cannot open
/// another one. The new one uses it, without what has come in between.
#[test]
fn eventqen_toggled_after_files_reports_lost_events() {
    let old = start(one_device);
    let smmu = with_eventq(&old);
    let id = old.journal().id("veventq");
    let prepared = Prepared::beside(&old, one_device);
    smmu.disable(EVENTQEN);
    open_eventq(&smmu);
    assert_eq!(old.journal().id("veventq"), id, "the new QEMU has its file");
    report_fault(&old, 0, 1);
    let new = prepared.finish(&old);
    wait_running(&new);
    let finished = old.end();
    let line = "smmuv3.1: the guest sees no fault events until another process closes the vEVENTQ that they were in";
    assert_eq!(finished.error_lines().len(), 1, "{finished}");
    assert!(finished.stderr.contains(line), "{finished}");
    let updated = adopted(&new);
    until("the loss", || {
        (updated.read(reg::EVENTQ_PROD) == OVERFLOW).then_some(())
    });
    assert_eq!(statistic(&new, "events", "lost-by-host"), 1);
    updated.write(reg::EVENTQ_CONS, OVERFLOW);
    report_fault(&new, 1, 2);
    is_recorded(&updated, 0, 2);
    assert_eq!(new.journal().id("veventq"), id);
    new.finish();
}

/// The new QEMU has the file of a vEVENTQ that the guest does not want any more.
#[test]
fn eventqen_cleared_after_files_closes_veventq() {
    let old = start(one_device);
    let smmu = with_eventq(&old);
    let prepared = Prepared::beside(&old, one_device);
    smmu.disable(EVENTQEN);
    assert_eq!(queues(&old), 1, "the new QEMU has its file");
    let new = prepared.finish(&old);
    wait_running(&new);
    assert_eq!(queues(&new), 0);
    old.finish();
    let updated = adopted(&new);
    open_eventq(&updated);
    assert_eq!(queues(&new), 1);
    report_fault(&new, 0, 1);
    is_recorded(&updated, 0, 1);
    new.finish();
}

/// The new QEMU does not have the file. It has the vEVENTQ made again when the old one has ended.
#[test]
fn eventqen_set_after_files_waits_for_old_qemu() {
    let old = start(one_device);
    let smmu = old.translating(&[ste::FIRST]);
    let prepared = Prepared::beside(&old, one_device);
    open_eventq(&smmu);
    let id = old.journal().id("veventq");
    assert!(id.is_some(), "it has none");
    let new = prepared.finish(&old);
    wait_running(&new);
    assert_eq!(new.journal().id("veventq"), id, "the old QEMU has its file");
    let updated = adopted(&new);
    assert_eq!(updated.read(reg::EVENTQ_PROD), OVERFLOW, "a loss");
    updated.write(reg::EVENTQ_CONS, OVERFLOW);
    new.mark();
    old.finish();
    until("another vEVENTQ", || {
        let journal = new.journal();
        let calls = journal.calls("VEVENTQ_ALLOC");
        calls.iter().any(|call| call.result() == "ok").then_some(())
    });
    assert_eq!(queues(&new), 1);
    report_fault(&new, 0, 1);
    is_recorded(&updated, 0, 1);
    let finished = new.end();
    assert_eq!(finished.error_lines().len(), 1, "{finished}");
}
