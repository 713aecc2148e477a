// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Snapshots by `savevm` and `loadvm`: the state is loaded into a device that
//! was used since.

use std::path::PathBuf;

use serde_json::json;
use smmuv3_qtest::{
    command::{self, SYNC},
    machine::RAM,
    qemu, qemu_c,
    smmu::{reg, SMMUEN},
    until, Machine, RootPort, Smmu,
};

use crate::{
    guest::{registers, ste, Form, Guest, Table, IOVA},
    stream::TemporaryFile,
};

/// Waits until a job has succeeded.
#[track_caller]
fn finish_job(machine: &Machine) {
    let error = end_job(machine);
    assert!(error.is_null(), "{error}");
}

/// Waits until a job has ended, and returns its error.
#[track_caller]
fn end_job(machine: &Machine) -> serde_json::Value {
    let error = until("end of the job", || {
        let jobs = machine.qmp("query-jobs", json!({}));
        let job = jobs.as_array()?.first()?;
        (job["status"] == "concluded").then(|| job["error"].clone())
    });
    machine.qmp("job-dismiss", json!({ "id": "job" }));
    error
}

#[track_caller]
fn create_image(machine: &Machine, options: &serde_json::Value) {
    machine.qmp(
        "blockdev-create",
        json!({ "job-id": "job", "options": options }),
    );
    finish_job(machine);
}

/// Adds a disk for snapshots, which no device uses.
#[track_caller]
pub fn add_disk(machine: &Machine, file: &TemporaryFile, new: bool) {
    if new {
        create_image(
            machine,
            &json!({ "driver": "file", "filename": file.path(), "size": 0 }),
        );
    }
    machine.qmp(
        "blockdev-add",
        json!({ "driver": "file", "node-name": "file", "filename": file.path() }),
    );
    if new {
        create_image(
            machine,
            &json!({ "driver": "qcow2", "file": "file", "size": 1 << 20 }),
        );
    }
    machine.qmp(
        "blockdev-add",
        json!({ "driver": "qcow2", "node-name": "disk", "file": "file" }),
    );
}

#[track_caller]
pub fn snapshot(machine: &Machine, command: &str) {
    let error = try_snapshot(machine, command);
    assert!(error.is_null(), "{error}");
}

/// Saves or loads a snapshot, and returns the error.
#[track_caller]
pub fn try_snapshot(machine: &Machine, command: &str) -> serde_json::Value {
    machine.qmp(
        command,
        json!({ "job-id": "job", "tag": "then", "vmstate": "disk", "devices": ["disk"] }),
    );
    end_job(machine)
}

/// Checks that `to`, where another guest has run, loads a snapshot of a machine
/// in `from`.
#[track_caller]
fn loads(form: Form, from: fn() -> PathBuf, to: fn() -> PathBuf) {
    for (table, other) in [
        (Table::Linear, Table::TwoLevels),
        (Table::TwoLevels, Table::Linear),
    ] {
        let file = TemporaryFile::new();
        let guest = Guest { form, table };
        let source = form.builder(from()).start();
        add_disk(&source, &file, true);
        guest.run_to_state(&source);
        let before = registers(&source);
        snapshot(&source, "snapshot-save");
        assert_eq!(registers(&source), before, "the source keeps running");
        assert!(source.quit().status.success());

        let machine = form.builder(to()).start();
        add_disk(&machine, &file, false);
        Guest { form, table: other }.run_to_state(&machine);
        snapshot(&machine, "snapshot-load");
        assert_eq!(registers(&machine), before, "{guest:?}");
        guest.resume(&machine);
        assert_eq!(machine.quit().stderr, "", "log");
    }
}

#[test]
fn snapshot_loads_from_c_to_rust() {
    loads(Form::Machine, qemu_c, qemu);
    loads(Form::Device, qemu_c, qemu);
}

#[test]
fn snapshot_loads_from_rust_to_c() {
    loads(Form::Machine, qemu, qemu_c);
    loads(Form::Device, qemu, qemu_c);
}

#[test]
fn snapshot_loads_from_rust_to_rust() {
    loads(Form::Machine, qemu, qemu);
    loads(Form::Device, qemu, qemu);
}

/// Guest memory is restored, so every cached entry that was read later is
/// stale.
#[test]
fn snapshot_load_flushes_caches() {
    let table = RAM + (4 << 20);
    let file = TemporaryFile::new();
    let machine = Form::Device.builder(qemu()).start();
    add_disk(&machine, &file, true);
    let sid = Form::Device.sid();
    let entry = table + 64 * u64::from(sid);
    let smmu = Smmu::find(&machine);
    let mut port = RootPort::new(&machine, sid);
    smmu.setup_queue(RAM, 4);
    smmu.setup_stream_table(table, 12);
    machine.write64(entry, ste::BYPASS);
    smmu.enable(SMMUEN);
    port.arrives(IOVA, IOVA);
    snapshot(&machine, "snapshot-save");

    machine.write64(entry, 0);
    smmu.submit(&[command::cfgi_ste(sid), SYNC]);
    port.is_aborted(IOVA, &[IOVA]);
    smmu.disable(SMMUEN);
    smmu.write(reg::GBPA, 0x8010_0000);
    port.is_aborted(IOVA, &[IOVA]);

    snapshot(&machine, "snapshot-load");
    assert_eq!(smmu.read(reg::GBPA), 0x1000);
    port.arrives(IOVA, IOVA);
    smmu.disable(SMMUEN);
    port.arrives(IOVA, IOVA);
}
