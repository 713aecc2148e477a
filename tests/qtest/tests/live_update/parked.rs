// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A guest that runs in neither QEMU: both have left the devices alone since the state was saved.

use std::os::fd::RawFd;

use serde_json::json;
use smmuv3_qtest::{
    assigned::{ste, Bench, Setup},
    journal::On,
    smmu::EVENTQEN,
};

use crate::{
    bench::{adopted, host_changes, one_device, start, streams, wait_running, Prepared},
    events::with_eventq,
};

/// Pauses the guest of `old`, and updates it to a QEMU that has spare devices. Returns that, and the
/// numbers of their descriptors.
#[track_caller]
fn updated_while_paused(old: &Bench) -> (Bench, [RawFd; 2]) {
    old.machine().qmp("stop", json!({}));
    old.mark();
    let mut fds = [-1; 2];
    let devices = |setup: Setup| {
        let mut setup = one_device(setup).slot(2);
        fds = ["d1", "d2"].map(|name| setup.spare(name, "a"));
        setup
    };
    let new = Prepared::beside(old, devices).finish(old);
    assert_eq!(new.machine().status(), "paused");
    (new, fds)
}

#[test]
fn plug_before_updated_guest_runs_is_refused() {
    let old = start(|setup| one_device(setup).slot(2));
    old.translating(&[ste::FIRST]);
    let (new, [d1, d2]) = updated_while_paused(&old);
    let refusal = new.plug("d1", d1, 2).expect_err("it was plugged in");
    let reason = "arm-smmuv3 'smmuv3.1' takes part in a live update of QEMU: plug the device in when that has ended and the guest runs";
    assert!(refusal.contains(reason), "{refusal}");
    new.expect("as before", &[("d0", On::Nested(ste::FIRST))]);
    new.machine().qmp("cont", json!({}));
    // VFIO has closed the other one
    new.plug("d2", d2, 2).expect("the guest runs");
    new.expect("by its STE", &[("d2", On::Abort)]);
    old.finish();
    new.finish();
}

/// The devices are reset when the guest runs, and not before.
#[test]
fn reset_before_updated_guest_runs_is_done_at_start() {
    let old = start(|setup| one_device(setup).slot(2));
    old.translating(&[ste::FIRST]);
    let (new, _) = updated_while_paused(&old);
    let users_saw = streams(&old);
    new.machine().system_reset();
    assert_eq!(adopted(&new).read(smmuv3_qtest::smmu::reg::CR0), 0);
    new.expect("not yet", &[("d0", On::Nested(ste::FIRST))]);
    assert_eq!(host_changes(&old), [""; 0]);
    assert_eq!(streams(&new)[0]["translation"], users_saw[0]["translation"]);
    new.machine().qmp("cont", json!({}));
    wait_running(&new);
    new.expect("at the start", &[("d0", On::Bypass)]);
    old.finish();
    new.finish();
}

/// The old QEMU has saved its state, and may be the one that continues.
#[test]
fn parked_old_qemu_leaves_devices_alone() {
    let old = start(|setup| one_device(setup).slot(2));
    let smmu = with_eventq(&old);
    old.mark();
    let (new, state) = Prepared::beside(&old, |setup| one_device(setup).slot(2)).stop(&old);
    smmu.disable(EVENTQEN);
    old.machine().system_reset();
    old.expect("not yet", &[("d0", On::Nested(ste::FIRST))]);
    assert_eq!(host_changes(&old), [""; 0]);
    drop((new, state));
    old.machine().qmp("cont", json!({}));
    wait_running(&old);
    old.expect("at the start", &[("d0", On::Bypass)]);
    old.finish();
}
