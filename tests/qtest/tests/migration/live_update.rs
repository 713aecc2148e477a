// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update (`cpr-transfer`) of an SMMU with accel=on, without a device of the host: the stream
//! passes through the test, which can damage it. If the new QEMU refuses it, the old one goes on.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread,
};

use serde_json::{json, Value};
use smmuv3_qtest::{
    command::{SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    qemu, smmu, until, Builder, Machine, Smmu,
};

use crate::{
    guest::registers,
    stream::{outcome, TemporaryFile},
};

/// Properties that no host has to decide.
const EXPLICIT: &str = "accel=on,ril=on,ats=off,oas=44,ssidsize=0";

/// The header of the subsection: its mark, its name with the length, version 1.
const HEADER: &[u8] = b"\x05\x0asmmuv3/cpr\0\0\0\x01";

/// Offsets of fields in the subsection.
const IS_PRESENT: usize = 0;
const IDR3: usize = 1 + 3 * 4;
const VIOMMU_ID: usize = 1 + 8 * 4 + 3;
const VEVENTQ_ID: usize = VIOMMU_ID + 4 * 4 + 3 + 2 * 8 + 13;
const STREAM_COUNT: usize = VEVENTQ_ID + 4 + 1 + 4 + 4;

fn machine_with(smmu: &str) -> Builder {
    Builder::virt_with(qemu(), "memory-backend=ram,aux-ram-share=on")
        .args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"])
        .smmu(smmu)
}

fn channel(kind: &str, file: &TemporaryFile) -> Value {
    json!({
        "channel-type": kind,
        "addr": { "transport": "socket", "type": "unix", "path": file.path() },
    })
}

/// A live update under way: the old QEMU's state has come to the test.
struct Update {
    old: Machine,
    new: Machine,
    state: Vec<u8>,
    to_new: UnixStream,
}

impl Update {
    /// Starts a QEMU with `options` of the SMMU, and has `source` send it its files.
    #[track_caller]
    fn begin(source: Machine, options: &str) -> Self {
        let (files, from_old, to_new) = (
            TemporaryFile::new(),
            TemporaryFile::new(),
            TemporaryFile::new(),
        );
        let incoming = channel("cpr", &files).to_string();
        let builder = machine_with(options).args(["-incoming", "defer", "-incoming", &incoming]);
        let listener = UnixListener::bind(from_old.path()).expect("a socket");
        source.qmp("migrate-set-parameters", json!({ "mode": "cpr-transfer" }));
        let channels = json!({ "channels": [channel("main", &from_old), channel("cpr", &files)] });
        let sending = thread::spawn(move || {
            // fails until the new QEMU listens
            until("the new QEMU", || {
                source.try_qmp("migrate", channels.clone()).ok()
            });
            source
        });
        // It does not answer before it has got the files.
        let new = builder.start();
        let old = sending.join().expect("the old QEMU sends its files");
        let uri = format!("unix:{}", to_new.path().display());
        new.qmp(
            "migrate-incoming",
            json!({ "uri": uri, "exit-on-error": false }),
        );
        let to_new = UnixStream::connect(to_new.path()).expect("a connection");
        let mut state = Vec::new();
        let (mut connection, _) = listener.accept().expect("the old QEMU connects");
        connection.read_to_end(&mut state).expect("the state");
        assert_eq!(outcome(&old), Ok(()));
        Self {
            old,
            new,
            state,
            to_new,
        }
    }

    /// Returns the offset of the subsection's fields.
    fn fields(&self) -> Option<usize> {
        let mut windows = self.state.windows(HEADER.len());
        windows
            .position(|window| window == HEADER)
            .map(|at| at + HEADER.len())
    }

    /// Replaces bytes of the subsection.
    #[track_caller]
    fn replace(&mut self, offset: usize, bytes: &[u8]) {
        let at = self.fields().expect("the subsection") + offset;
        self.state[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Sends the state to the new QEMU. Returns whether that takes it.
    #[track_caller]
    fn finish(mut self) -> (Machine, Machine, Result<(), String>) {
        // The new QEMU may close the connection in the middle.
        let _ = self.to_new.write_all(&self.state);
        drop(self.to_new);
        let result = outcome(&self.new);
        (self.old, self.new, result)
    }
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
fn refused(options: &str, words: &str, damage: impl FnOnce(&mut Update)) {
    let mut update = Update::begin(started(EXPLICIT), options);
    damage(&mut update);
    let (old, new, result) = update.finish();
    let reason = result.expect_err("it was accepted");
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
    let source = started(EXPLICIT);
    let before = registers(&source);
    let update = Update::begin(source, EXPLICIT);
    assert!(update.fields().is_some(), "no state of assigned devices");
    let (old, new, result) = update.finish();
    assert_eq!(result, Ok(()), "{}", new.stderr());
    assert_eq!(old.status(), "postmigrate");
    assert_eq!(registers(&new), before);
    assert!(old.quit().status.success(), "the old QEMU's end");
    until("the new QEMU runs", || {
        (new.status() == "running").then_some(())
    });
    continues(&new);
    assert_eq!(new.quit().stderr, "");
}

/// Commands that the old QEMU has not consumed are consumed by the new one.
#[test]
fn live_update_leaves_pending_commands_to_new_qemu() {
    let source = machine_with(EXPLICIT).start();
    let smmu = Smmu::find(&source);
    smmu.setup_queue(RAM + (16 << 20), 4);
    source.qmp("stop", json!({}));
    smmu.push(&[TLBI_NSNH_ALL, SYNC]);
    smmu.ring();
    assert_eq!(smmu.cons(), 0, "consumed while the machine is stopped");
    let (old, new, result) = Update::begin(source, EXPLICIT).finish();
    assert_eq!(result, Ok(()), "{}", new.stderr());
    assert_eq!(
        Smmu::find(&old).cons(),
        0,
        "consumed after the state was saved"
    );
    assert_eq!(Smmu::find(&new).cons(), 0, "consumed before the start");
    new.qmp("cont", json!({}));
    Smmu::find(&new).wait_cons(2);
}

/// Without accel nothing is added to the C device's stream.
#[test]
fn live_update_without_accel_has_no_device_state() {
    let update = Update::begin(started(""), "");
    assert_eq!(update.fields(), None);
    let (_, new, result) = update.finish();
    assert_eq!(result, Ok(()), "{}", new.stderr());
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
    refused(EXPLICIT, "IDR3 was ", |update| {
        let at = update.fields().expect("the subsection") + IDR3;
        let old = update.state[at];
        update.replace(IDR3, &[old ^ 0x80]);
    });
}

/// The old QEMU may be one without this feature.
#[test]
fn live_update_without_device_state_is_refused() {
    refused(
        EXPLICIT,
        "has sent no state of assigned devices",
        |update| {
            update.replace(IS_PRESENT, &[0]);
        },
    );
}

#[test]
fn live_update_with_device_state_needs_accel() {
    refused("", "the stream is that of a live update", |_| {});
}

#[test]
fn live_update_with_object_of_no_device_is_refused() {
    for (field, offset) in [("viommu_id", VIOMMU_ID), ("veventq_id", VEVENTQ_ID)] {
        refused(EXPLICIT, &format!("damaged: {field}"), |update| {
            update.replace(offset, &7_u32.to_be_bytes());
        });
    }
}

/// A count beyond what there is room for stops QEMU before it reads a device.
#[test]
fn live_update_with_too_many_devices_is_refused() {
    for count in [257, u32::MAX] {
        refused(EXPLICIT, "stream_count", |update| {
            update.replace(STREAM_COUNT, &count.to_be_bytes());
        });
    }
}

#[test]
fn live_update_with_missing_devices_is_refused() {
    refused(EXPLICIT, "", |update| {
        // what follows is taken for a device
        update.replace(STREAM_COUNT, &1_u32.to_be_bytes());
    });
}

#[test]
fn live_update_with_truncated_state_is_refused() {
    for kept in [0, 1, IDR3, VIOMMU_ID + 2, STREAM_COUNT + 3] {
        refused(EXPLICIT, "", |update| {
            let at = update.fields().expect("the subsection") + kept;
            update.state.truncate(at);
        });
    }
}

/// The new QEMU ends before it has the state.
#[test]
fn live_update_to_qemu_that_ends_leaves_old_one_running() {
    let update = Update::begin(started(EXPLICIT), EXPLICIT);
    drop(update.new);
    continues(&update.old);
    assert_eq!(update.old.quit().stderr, "");
}

/// A guest can be updated any number of times.
#[test]
fn live_update_works_ten_times() {
    let mut machine = started(EXPLICIT);
    let before = registers(&machine);
    for turn in 0..10 {
        let (old, new, result) = Update::begin(machine, EXPLICIT).finish();
        assert_eq!(result, Ok(()), "turn {turn}: {}", new.stderr());
        assert_eq!(registers(&new), before, "turn {turn}");
        assert!(old.quit().status.success(), "turn {turn}");
        until("the new QEMU runs", || {
            (new.status() == "running").then_some(())
        });
        machine = new;
    }
    continues(&machine);
}

/// Other migration stays blocked, in the words of the blocker.
#[test]
fn accel_permits_live_update_only() {
    let machine = started(EXPLICIT);
    let file = TemporaryFile::new();
    for mode in ["normal", "cpr-reboot"] {
        machine.qmp("migrate-set-parameters", json!({ "mode": mode }));
        let refusal = machine.try_qmp("migrate", json!({ "uri": file.uri() }));
        let text = refusal.expect_err("migrated").to_string();
        assert!(text.contains("with accel=on cannot be migrated"), "{text}");
    }
    assert!(fs::metadata(file.path()).is_err(), "there is a file");
    assert_eq!(smmu::bases(&machine).len(), 1);
}
