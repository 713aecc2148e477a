// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Snapshots of a guest with assigned devices, by `savevm` and `loadvm`.

use serde_json::json;
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest},
    command::TLBI_NSNH_ALL,
    journal::On,
    smmu::{reg, SMMUEN},
    Smmu,
};

use super::{boot, goes_on, machine, start, BOOTED};
use crate::{
    snapshots::{add_disk, snapshot, try_snapshot},
    stream::TemporaryFile,
};

/// Returns a machine with a disk for snapshots. The file has to live as long.
#[track_caller]
fn with_disk() -> (Bench, TemporaryFile) {
    let file = TemporaryFile::new();
    let bench = machine().start();
    add_disk(bench.machine(), &file, true);
    (bench, file)
}

#[test]
fn snapshot_with_assigned_devices_is_loaded_twice() {
    let (bench, _file) = with_disk();
    let smmu = boot(&bench);
    bench.mark();
    // as many commands as a batch, in front of the stop
    smmu.push(&[TLBI_NSNH_ALL; 40]);
    smmu.ring();
    snapshot(bench.machine(), "snapshot-save");
    assert_eq!(bench.machine().status(), "running");
    bench.expect_only_as_configured("while it was saved");
    let states = bench.journal().migration_states("d0").join(" ");
    assert_eq!(
        states,
        "RUNNING_P2P STOP STOP_COPY STOP RUNNING_P2P RUNNING"
    );
    goes_on(&bench, "after the snapshot");

    for round in 1..=2 {
        let now = Smmu::find(bench.machine());
        now.adopt_queue();
        now.install(sid(1), ste::BYPASS);
        now.install(sid(2), ste::FIRST);
        bench.expect(
            "another guest",
            &[("d0", On::Bypass), ("d1", On::Nested(ste::FIRST))],
        );
        now.disable(SMMUEN);
        bench.mark();
        snapshot(bench.machine(), "snapshot-load");
        bench.expect(&format!("load {round}"), &BOOTED);
        // the guest knows nothing of the translations that it has had since
        let order = bench.journal().order().join(" ");
        let first = order.find("HWPT_INVALIDATE").expect("an invalidation");
        let attached = order.rfind("HWPT_ALLOC").expect("stage 1");
        assert!(first < attached, "{order}");
        assert_eq!(bench.journal().batches()[0], [TLBI_NSNH_ALL]);
        if bench.machine().status() != "running" {
            start(&bench);
        }
        bench.expect_as_configured("after the load");
        goes_on(&bench, "after the load");
    }
    bench.finish_migratable();
}

/// While the guest runs on stage 1, as a user's `loadvm` finds it.
#[test]
fn snapshot_is_loaded_over_a_running_guest() {
    let (bench, _file) = with_disk();
    let smmu = boot(&bench);
    snapshot(bench.machine(), "snapshot-save");
    smmu.install(sid(1), ste::SECOND);
    bench.mark();
    snapshot(bench.machine(), "snapshot-load");
    let history = bench.journal().history("d0");
    let expected = [On::Bypass, On::Nested(ste::FIRST)];
    assert_eq!(history, expected, "through what a reset says");
    if bench.machine().status() != "running" {
        start(&bench);
    }
    goes_on(&bench, "after the load");
    bench.finish_migratable();
}

/// A host that refuses stops the load. The machine stays stopped, as after a reset.
#[test]
fn snapshot_that_the_host_refuses_leaves_machine_stopped() {
    let (bench, _file) = with_disk();
    let smmu = boot(&bench);
    snapshot(bench.machine(), "snapshot-save");
    bench.script("fail ATTACH device=d1 kind=nested errno=ENOMEM");
    let error = try_snapshot(bench.machine(), "snapshot-load");
    assert!(!error.is_null(), "it was loaded");
    assert_ne!(bench.machine().status(), "running");
    bench.expect_message(
        "cannot load this state: the host refuses the translation of vfio-pci 'd1'",
    );
    assert_eq!(smmu.read(reg::CR0), 0);
    bench.expect(
        "as after a reset",
        &[("d0", On::Bypass), ("d1", On::Bypass)],
    );
    bench.script("clear");
    // VFIO loads the state of a device again when that has run
    bench.machine().system_reset();
    start(&bench);
    snapshot(bench.machine(), "snapshot-load");
    bench.expect("the second time", &BOOTED);
    bench.end();
}

/// The mode of a live update is a parameter that stays set. It does not concern snapshots.
#[test]
fn snapshot_in_live_update_mode_is_a_snapshot() {
    let (bench, _file) = with_disk();
    boot(&bench);
    let mode = |mode| {
        let parameters = json!({ "mode": mode });
        bench.machine().qmp("migrate-set-parameters", parameters);
    };
    mode("cpr-exec");
    let error = try_snapshot(bench.machine(), "snapshot-save");
    mode("normal");
    if error.is_null() {
        goes_on(&bench, "after the snapshot");
        snapshot(bench.machine(), "snapshot-load");
        bench.expect("loaded", &BOOTED);
    }
    bench.end();
}
