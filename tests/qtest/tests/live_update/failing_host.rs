// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update while the host fails: what was to be repeated or must not be done goes on in the new
//! QEMU.

use std::{thread, time::Duration};

use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest},
    command::{self, SYNC, TLBI_NSNH_ALL},
    journal::On,
    smmu::{cerror, SMMUEN},
    until, Smmu,
};

use crate::bench::{
    adopted, host_changes, one_device, start, statistic, streams, two_devices, update,
};

/// Long enough for several attempts of the timer.
const A_WHILE: Duration = Duration::from_millis(200);

#[track_caller]
fn until_on(bench: &Bench, name: &str, on: On) {
    until("the device to be attached", || {
        let device = bench.journal().device(name);
        device.is_some_and(|device| device.on == on).then_some(())
    });
}

/// The host recovers "d0" and refuses to attach it meanwhile. The guest does nothing more.
#[test]
fn refused_attach_is_retried_after_live_update() {
    let old = start(one_device);
    let smmu = old.translating(&[ste::FIRST]);
    old.script("recover d0");
    smmu.install(sid(1), ste::SECOND);
    old.expect("while the host recovers it", &[("d0", On::Nothing)]);
    let new = update(&old, one_device);
    let finished = old.end();
    assert!(
        finished.stderr.contains("transactions are aborted"),
        "{finished}"
    );
    new.mark();
    new.script("recovered d0");
    until_on(&new, "d0", On::Nested(ste::SECOND));
    let history = new.journal().history("d0");
    assert!(!history.contains(&On::Nested(ste::FIRST)), "{history:?}");
    let attempts = new.journal().calls("ATTACH");
    let by = Some(new.machine().pid());
    assert!(attempts.iter().all(|call| call.process() == by));
    // the attempts that were made while the host recovered the device
    new.end();
}

/// An attempt that is due while the devices are parked is made by the QEMU that starts.
#[test]
fn parked_qemu_retries_no_attach() {
    let old = start(one_device);
    let smmu = old.translating(&[ste::FIRST]);
    old.script("fail ATTACH kind=nested errno=EBUSY");
    smmu.install(sid(1), ste::SECOND);
    old.expect("refused", &[("d0", On::Abort)]);
    let (new, state) = crate::bench::Prepared::beside(&old, one_device).stop(&old);
    old.script("clear");
    old.mark();
    thread::sleep(A_WHILE);
    assert_eq!(host_changes(&old), [""; 0], "while it is parked");
    crate::bench::take(&new, state);
    until_on(&new, "d0", On::Nested(ste::SECOND));
    old.end();
    new.finish();
}

/// Submits a `CMD_ATC_INV` of "d0", which times out.
#[track_caller]
fn time_out(bench: &Bench, smmu: &Smmu<'_>, commands: &[command::Command]) {
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=2");
    smmu.push(commands);
    smmu.ring();
}

#[test]
fn quarantine_outlives_live_update() {
    let old = start(two_devices);
    let smmu = old.translating(&[ste::FIRST, ste::SECOND]);
    time_out(&old, &smmu, &[command::atc_inv_all(sid(1)), SYNC]);
    until("CERROR_ATC_INV_SYNC", || smmu.error().then_some(()));
    smmu.acknowledge();
    let quarantined = [("d0", On::Abort), ("d1", On::Nested(ste::SECOND))];
    old.expect("d0 has timed out", &quarantined);
    let users_saw = streams(&old);
    assert_eq!(users_saw[0]["quarantined"], true);
    old.mark();
    let new = update(&old, two_devices);
    assert_eq!(host_changes(&old), [""; 0]);
    assert_eq!(streams(&new), users_saw);
    old.finish();
    let updated = adopted(&new);
    new.mark();
    updated.commands(&[TLBI_NSNH_ALL]);
    thread::sleep(A_WHILE);
    // a device without ATC entries is not asked to invalidate them
    updated.commands(&[command::atc_inv_all(sid(1)), command::tlbi_nh_asid(3)]);
    let batches = new.journal().batches().concat();
    assert_eq!(batches, [TLBI_NSNH_ALL, command::tlbi_nh_asid(3)]);
    new.expect("it was retried", &quarantined);
    updated.install(sid(1), ste::FIRST);
    new.expect("configured", &[("d0", On::Nested(ste::FIRST))]);
    new.finish();
}

/// Devices that were not asked are attached again soon, in whichever QEMU.
#[test]
fn brief_quarantine_ends_after_live_update() {
    let names = ["d0", "d1", "d2", "d3"];
    let devices =
        |setup: smmuv3_qtest::assigned::Setup| two_devices(setup).assign("d2", 3).assign("d3", 4);
    let old = start(devices);
    let smmu = old.smmu();
    smmu.enable(SMMUEN);
    for slot in 1..=4 {
        smmu.install(sid(slot), ste::FIRST);
    }
    // the batch twice, then each device alone until two have timed out
    old.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=4");
    // the two that are not asked stay on abort until the host attaches again
    old.script("fail ATTACH kind=nested errno=EBUSY");
    let commands = [1, 2, 3, 4].map(|slot| command::atc_inv_all(sid(slot)));
    smmu.push(&[&commands[..], &[SYNC]].concat());
    smmu.ring();
    until("CERROR_ATC_INV_SYNC", || smmu.error().then_some(()));
    old.expect("all", &names.map(|name| (name, On::Abort)));
    let new = update(&old, devices);
    old.end();
    new.script("clear");
    for name in ["d2", "d3"] {
        until_on(&new, name, On::Nested(ste::FIRST));
    }
    new.expect("asked", &[("d0", On::Abort), ("d1", On::Abort)]);
    new.end();
}

/// The `CMD_SYNC` that reports it is one for the new QEMU.
#[test]
fn failed_atc_inv_is_reported_after_live_update() {
    let old = start(one_device);
    let smmu = old.translating(&[ste::FIRST]);
    time_out(&old, &smmu, &[command::atc_inv_all(sid(1))]);
    smmu.wait_consumed();
    assert!(!smmu.error());
    let new = update(&old, one_device);
    old.finish();
    let updated = adopted(&new);
    updated.push(&[SYNC]);
    updated.ring();
    until("a command error", || updated.error().then_some(()));
    assert_eq!(updated.cons_err(), cerror::ATC_INV_SYNC);
    updated.acknowledge();
    updated.wait_consumed();
    new.finish();
}

/// A host that was given up on is not asked before it has invalidated everything.
#[test]
fn lost_host_stays_lost_after_live_update() {
    let old = start(one_device);
    let smmu = old.translating(&[ste::FIRST]);
    old.script("fail HWPT_INVALIDATE errno=ENODEV");
    smmu.push(&[command::tlbi_nh_asid(3), SYNC]);
    smmu.ring();
    until("the host is lost", || {
        if smmu.error() {
            smmu.acknowledge();
        }
        (smmu.cons() == smmu.prod()).then_some(())
    });
    old.expect("lost", &[("d0", On::Abort)]);
    assert_eq!(statistic(&old, "attach", "host-lost"), 1);
    let new = update(&old, one_device);
    old.end();
    let updated = adopted(&new);
    new.mark();
    updated.commands(&[TLBI_NSNH_ALL]);
    assert_eq!(new.journal().batches().len(), 0, "the host is not asked");
    updated.install(sid(1), ste::FIRST);
    new.expect("it still fails", &[("d0", On::Abort)]);
    new.script("clear");
    new.mark();
    updated.install(sid(1), ste::FIRST);
    until_on(&new, "d0", On::Nested(ste::FIRST));
    assert_eq!(new.journal().batches()[0], [TLBI_NSNH_ALL], "a flush");
    assert_eq!(statistic(&new, "attach", "host-recovered"), 1);
    new.end();
}

/// Returns how many calls of the host fail until its queue is consumed, with an acknowledgement of
/// each error.
#[track_caller]
fn failing_calls(bench: &Bench, smmu: &Smmu<'_>) -> usize {
    bench.mark();
    until("consumption", || {
        if smmu.error() {
            smmu.acknowledge();
        }
        (smmu.cons() == smmu.prod()).then_some(())
    });
    bench.journal().failures_of(&["HWPT_INVALIDATE"])
}

/// Each of these calls blocks the whole machine. What the old QEMU has waited counts.
#[test]
fn slow_host_is_lost_after_calls_of_both_qemus() {
    let old = start(one_device);
    let smmu = old.translating(&[ste::FIRST]);
    old.script("fail HWPT_INVALIDATE errno=EBADF delay_ms=900");
    smmu.push(&[command::tlbi_nh_asid(3), SYNC]);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    old.expect("failed closed", &[("d0", On::Abort)]);
    let new = update(&old, one_device);
    old.end();
    assert_eq!(failing_calls(&new, &adopted(&new)), 1);
    assert_eq!(statistic(&new, "attach", "host-lost"), 1);
    new.end();
}
