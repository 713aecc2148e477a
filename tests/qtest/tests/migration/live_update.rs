// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update (`cpr-transfer`) of an SMMU with accel=on, without a device of the host: the stream
//! passes through the test, which can damage it. If the new QEMU refuses it, the old one goes on.

use serde_json::{json, Value};
use smmuv3_qtest::{
    command::{SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    until,
    update::{
        builder,
        field::{IDR3, IS_PRESENT, STREAM_COUNT, VEVENTQ_ID, VIOMMU_ID},
        State, Update,
    },
    Builder, Machine, Smmu,
};

use crate::guest::registers;

/// Properties that no host has to decide.
const EXPLICIT: &str = "accel=on,ril=on,ats=off,oas=44,ssidsize=0";

fn machine_with(smmu: &str) -> Builder {
    builder().smmu(smmu)
}

/// Starts a QEMU with `options` of the SMMU, which gets the files of `old`. Returns it, and the
/// state of `old`.
#[track_caller]
fn begin(old: &Machine, options: &str) -> (Machine, State) {
    let update = Update::new();
    let setup = machine_with(options).args(update.arguments());
    let new = setup.try_start_with(|| update.send_files(old));
    let new = new.unwrap_or_else(|finished| panic!("the new QEMU did not start\n{finished}"));
    let state = update.state(old, &new).expect("the old QEMU sends it");
    (new, state)
}

/// Sends `state` to `new`, which must take it.
#[track_caller]
fn finish(new: &Machine, state: State) {
    assert_eq!(state.send(new), Ok(()), "{}", new.stderr());
}

/// Waits until the guest runs in the new QEMU.
#[track_caller]
fn wait_running(new: &Machine) {
    until("the new QEMU runs", || {
        (new.status() == "running").then_some(())
    });
}

/// Returns a machine whose guest uses the SMMU.
fn started(options: &str) -> Machine {
    let machine = machine_with(options).start();
    let smmu = Smmu::find(&machine);
    smmu.setup_queue(RAM + (16 << 20), 4);
    smmu.submit(&[TLBI_NSNH_ALL, SYNC]);
    machine
}

/// Checks that the guest continues in this QEMU.
#[track_caller]
fn continues(machine: &Machine) {
    if machine.status() != "running" {
        machine.qmp("cont", json!({}));
    }
    let smmu = Smmu::find(machine);
    smmu.adopt_queue();
    smmu.submit(&[TLBI_NSNH_ALL, SYNC]);
    assert!(!smmu.error());
}

/// Updates to a QEMU with other `options` of the SMMU, after `damage`. The new QEMU must
/// refuse that with `words`, and the guest continue in the old one.
#[track_caller]
fn refused(options: &str, words: &str, damage: impl FnOnce(&mut State)) {
    let old = started(EXPLICIT);
    let (new, mut state) = begin(&old, options);
    damage(&mut state);
    let reason = state.send(&new).expect_err("it was accepted");
    let finished = new.quit();
    assert!(finished.status.success(), "{finished}");
    assert!(
        finished.stderr.contains(words) || reason.contains(words),
        "no {words:?} in\n{reason}\n{finished}"
    );
    continues(&old);
    assert_eq!(old.quit().stderr, "", "the old QEMU's log");
}

#[test]
fn live_update_hands_registers_over() {
    let old = started(EXPLICIT);
    let before = registers(&old);
    let (new, state) = begin(&old, EXPLICIT);
    assert_eq!(state.subsections().len(), 1, "no state of assigned devices");
    finish(&new, state);
    assert_eq!(old.status(), "postmigrate");
    assert_eq!(registers(&new), before);
    assert!(old.quit().status.success(), "the old QEMU's end");
    wait_running(&new);
    continues(&new);
    assert_eq!(new.quit().stderr, "");
}

/// Commands that the old QEMU has not consumed are consumed by the new one.
#[test]
fn live_update_leaves_pending_commands_to_new_qemu() {
    let old = machine_with(EXPLICIT).start();
    let smmu = Smmu::find(&old);
    smmu.setup_queue(RAM + (16 << 20), 4);
    old.qmp("stop", json!({}));
    smmu.push(&[TLBI_NSNH_ALL, SYNC]);
    smmu.ring();
    assert_eq!(smmu.cons(), 0, "consumed while the machine is stopped");
    let (new, state) = begin(&old, EXPLICIT);
    finish(&new, state);
    assert_eq!(smmu.cons(), 0, "consumed after the state was saved");
    assert_eq!(Smmu::find(&new).cons(), 0, "consumed before the start");
    new.qmp("cont", json!({}));
    Smmu::find(&new).wait_cons(2);
}

/// Without accel nothing is added to the C device's stream.
#[test]
fn live_update_without_accel_has_no_device_state() {
    let old = started("");
    let (new, state) = begin(&old, "");
    assert_eq!(state.subsections(), [0; 0]);
    finish(&new, state);
}

#[test]
fn live_update_to_other_ril_is_refused() {
    let other = "accel=on,ril=off,ats=off,oas=44,ssidsize=0";
    refused(other, "ril was on and is off", |_| {});
}

#[test]
fn live_update_to_other_oas_is_refused() {
    let other = "accel=on,ril=on,ats=off,oas=48,ssidsize=0";
    refused(other, "oas was 44 and is 48", |_| {});
}

#[test]
fn live_update_with_other_id_register_is_refused() {
    refused(EXPLICIT, "IDR3 was ", |state| {
        let other = state.byte(IDR3) ^ 0x80;
        state.replace(0, IDR3, &[other]);
    });
}

/// The old QEMU may be one without this feature.
#[test]
fn live_update_without_device_state_is_refused() {
    refused(EXPLICIT, "has sent no state of assigned devices", |state| {
        state.replace(0, IS_PRESENT, &[0]);
    });
}

#[test]
fn live_update_with_device_state_needs_accel() {
    refused("", "the stream is that of a live update", |_| {});
}

#[test]
fn live_update_with_object_of_no_device_is_refused() {
    for (field, offset) in [("viommu_id", VIOMMU_ID), ("veventq_id", VEVENTQ_ID)] {
        refused(EXPLICIT, &format!("damaged: {field}"), |state| {
            state.replace(0, offset, &7_u32.to_be_bytes());
        });
    }
}

/// A count beyond what there is room for stops QEMU before it reads a device.
#[test]
fn live_update_with_too_many_devices_is_refused() {
    for count in [257, u32::MAX] {
        refused(EXPLICIT, "stream_count", |state| {
            state.replace(0, STREAM_COUNT, &count.to_be_bytes());
        });
    }
}

#[test]
fn live_update_with_missing_devices_is_refused() {
    refused(EXPLICIT, "", |state| {
        // what follows is taken for a device
        state.replace(0, STREAM_COUNT, &1_u32.to_be_bytes());
    });
}

#[test]
fn live_update_with_truncated_state_is_refused() {
    for kept in [0, 1, IDR3, VIOMMU_ID + 2, STREAM_COUNT + 3] {
        refused(EXPLICIT, "", |state| state.truncate(kept));
    }
}

/// The new QEMU ends before it has the state.
#[test]
fn live_update_to_qemu_that_ends_leaves_old_one_running() {
    let old = started(EXPLICIT);
    drop(begin(&old, EXPLICIT));
    continues(&old);
    assert_eq!(old.quit().stderr, "");
}

/// A guest can be updated any number of times.
#[test]
fn live_update_works_ten_times() {
    let mut machine = started(EXPLICIT);
    let before = registers(&machine);
    for turn in 0..10 {
        let (new, state) = begin(&machine, EXPLICIT);
        finish(&new, state);
        assert_eq!(registers(&new), before, "turn {turn}");
        assert!(machine.quit().status.success(), "turn {turn}");
        wait_running(&new);
        machine = new;
    }
    continues(&machine);
}

#[test]
fn accel_permits_every_mode_of_migration() {
    let machine = started(EXPLICIT);
    for mode in ["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"] {
        machine.qmp("migrate-set-parameters", json!({ "mode": mode }));
        let state = machine.qmp("query-migrate", json!({}));
        assert_eq!(state["blocked-reasons"], Value::Null, "{mode}");
    }
}
