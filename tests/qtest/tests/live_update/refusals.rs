// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live updates that the new QEMU refuses, each with its reason: the host is as before, and the
//! guest continues in the old QEMU.

use smmuv3_qtest::{
    assigned::{sid, ste, vfio_pci, Bench, Ecam, Guest, Setup, EXPLICIT},
    journal::On,
    update::{State, Update},
    Finished,
};

use crate::bench::{
    host_changes, invalidates, one_device, resume, start, two_devices, viommu, Prepared,
};

/// Checks that the guest continues in the old QEMU, and that nothing was done to the host since
/// the mark.
#[track_caller]
pub fn continues(old: &Bench) {
    resume(old);
    assert_eq!(host_changes(old), [""; 0], "by the refused live update");
    let smmu = smmuv3_qtest::Smmu::find(old.machine());
    smmu.adopt_queue();
    old.expect("before", &[("d0", On::Nested(ste::FIRST))]);
    let id = viommu(&old.journal());
    invalidates(old, &smmu, id);
    smmu.install(sid(1), ste::SECOND);
    old.expect("configured", &[("d0", On::Nested(ste::SECOND))]);
}

/// Checks that a QEMU has reported why its `smmu` does not take the devices over.
#[track_caller]
pub fn has_reported(smmu: &str, finished: &Finished, reason: &str) {
    let line = format!("{smmu}: cannot take over from the other QEMU, which can go on: {reason}");
    assert!(
        finished.stderr.contains(&line),
        "no {line:?} in\n{finished}"
    );
}

/// Updates `old`, whose "d0" is translated, to a QEMU with `devices`, which must refuse its state
/// after `damage` for `reason`.
#[track_caller]
fn refused(
    old: &Bench,
    devices: impl FnOnce(Setup) -> Setup,
    reason: &str,
    damage: impl FnOnce(&mut State),
) {
    old.mark();
    let (new, mut state) = Prepared::beside(old, devices).stop(old);
    damage(&mut state);
    state.send(new.machine()).expect_err("it was accepted");
    has_reported("smmuv3.1", &new.end_without_statistics(), reason);
    continues(old);
}

#[test]
fn live_update_without_a_device_is_refused() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let reason = "the other QEMU has 2 assigned devices behind it, this one 1";
    refused(&old, |setup| one_device(setup).slot(2), reason, |_| {});
    old.finish();
}

/// The new QEMU has the device, which the guest releases before it stops.
#[test]
fn live_update_with_released_device_is_refused() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let prepared = Prepared::beside(&old, two_devices);
    Ecam::of(old.machine()).power_off(8, 2 << 3);
    old.machine().wait_event("DEVICE_DELETED");
    old.expect("released", &[("d1", On::Nothing)]);
    old.mark();
    let (new, state) = prepared.stop(&old);
    state.send(new.machine()).expect_err("it was accepted");
    let reason = "the other QEMU has 1 assigned devices behind it, this one 2";
    has_reported("smmuv3.1", &new.end_without_statistics(), reason);
    continues(&old);
    old.finish();
}

#[test]
fn live_update_to_other_address_is_refused() {
    let old = start(|setup| one_device(setup).slot(2));
    old.translating(&[ste::FIRST]);
    let devices = |setup: Setup| setup.smmu(EXPLICIT).slot(1).assign("d0", 2);
    let reason = format!(
        "the other QEMU has no assigned device {} with StreamID {:#x}: start this one with the same addresses",
        old.journal().id("device").expect("d0"),
        sid(2)
    );
    refused(&old, devices, &reason, |_| {});
    old.finish();
}

/// The second iommufd has objects with the IDs of those that "d0" uses in the first one.
#[test]
fn live_update_to_other_iommufd_is_refused() {
    let elsewhere = |setup: Setup, iommufd: &str| {
        let mut setup = setup.iommufd("iommufd1").smmu(EXPLICIT).slot(1).slot(2);
        let [d0, d1, other] = ["d0", "d1", "other"].map(|name| setup.device_fd(name, "a"));
        setup
            .device(&format!(
                "vfio-pci,id=d0,fd={d0},iommufd={iommufd},bus=slot1"
            ))
            .device(&vfio_pci("d1", d1, "slot2"))
            .device(&format!(
                "vfio-pci,id=other,fd={other},iommufd=iommufd1,bus=pcie.0"
            ))
    };
    let old = start(|setup| elsewhere(setup, "iommufd0"));
    old.translating(&[ste::FIRST, ste::SECOND]);
    let reason = "its assigned devices use different iommufd objects here: give all of them the same iommufd=ID";
    refused(&old, |setup| elsewhere(setup, "iommufd1"), reason, |_| {});
    old.finish();
}

#[test]
fn live_update_to_other_features_is_refused() {
    let old = start(one_device);
    old.translating(&[ste::FIRST]);
    let devices = |setup: Setup| {
        let other = "accel=on,ats=on,ril=off,oas=44,ssidsize=0";
        setup.smmu(other).assign("d0", 1)
    };
    let reason = "the guest has seen other features: ril was on and is off";
    refused(&old, devices, reason, |_| {});
    old.finish();
}

/// The new QEMU ends when it is given the device, which it leaves as it is.
#[test]
fn live_update_to_features_host_lacks_is_refused() {
    // IDR3 without RIL
    let old = Setup::updatable("smmu a idr3=0x1004")
        .smmu("accel=on,ats=on,ril=off,oas=44,ssidsize=0")
        .assign("d0", 1)
        .start();
    old.translating(&[ste::FIRST]);
    old.mark();
    let update = Update::new();
    let new = one_device(Setup::taking_over(&old, &update)).try_start_beside(&old, &update);
    let exit = new.err().expect("it was accepted");
    let refusal = exit.refusal();
    assert!(
        refusal.contains("property 'ril' of arm-smmuv3 'smmuv3.1' is on, but"),
        "{refusal}"
    );
    // otherwise the old QEMU waits for a connection
    drop(update);
    continues(&old);
    let finished = old.end();
    let lines = finished.error_lines();
    assert!(
        lines
            .iter()
            .all(|line| line.contains("ram_save_setup failed")),
        "{finished}"
    );
}
