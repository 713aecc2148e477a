// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A destination whose host refuses what the guest needs refuses the guest, which goes on at the
//! source; and a migration that is cancelled.

use std::{io::Read, os::unix::net::UnixListener};

use serde_json::json;
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    command::{SYNC, TLBI_NSNH_ALL},
    journal::On,
    until, Random, Smmu,
};

use super::{boot, goes_on, load, machine, saved, start, Migration};
use crate::stream::{permit_downtime, Stream, TemporaryFile};

/// Calls of the host that a device on stage 1 needs, as its script names them, and what QEMU says
/// when one of them fails.
const CALLS: [(&str, &str); 5] = [
    ("VDEVICE_ALLOC errno=EEXIST", "cannot allocate a vDEVICE"),
    (
        "HWPT_ALLOC kind=nested errno=ENOMEM",
        "cannot allocate a nested translation",
    ),
    ("ATTACH kind=nested errno=EBUSY", "error attach d0"),
    ("ATTACH kind=nested errno=EINVAL", "error attach d0"),
    (
        "HWPT_INVALIDATE errno=EIO",
        "the host's SMMU does not invalidate its TLB",
    ),
];

#[test]
fn refused_attachment_fails_the_migration() {
    for (call, reason) in CALLS {
        let source = machine().start();
        boot(&source);
        let target = machine().incoming().start();
        target.script(&format!("fail {call}"));
        Migration {
            source: &source,
            target: &target,
        }
        .is_refused(
            "smmuv3.1: cannot load this state: the host refuses the translation of vfio-pci 'd0'",
        );
        target.expect_message(reason);
        target.script("clear");
        target.expect(call, &[("d0", On::Bypass), ("d1", On::Bypass)]);
        target.expect_as_configured(call);
        source.end();
        target.end();
    }
}

/// The first device is not left on stage 1 when the second one is refused.
#[test]
fn refused_second_device_takes_the_first_one_back() {
    let source = machine().start();
    boot(&source);
    let target = machine().incoming().start();
    target.script("fail ATTACH device=d1 kind=nested errno=ENOMEM");
    Migration {
        source: &source,
        target: &target,
    }
    .is_refused("refuses the translation of vfio-pci 'd1', StreamID 0xa00");
    target.expect(
        "as after a reset",
        &[("d0", On::Bypass), ("d1", On::Bypass)],
    );
    let objects = target.journal().objects().get("nested").copied();
    assert_eq!(objects, None, "a translation of stage 1 is left");
    source.end();
    target.end();
}

/// VFIO's own refusals: of the state RESUMING, and of the device's data.
#[test]
fn device_that_does_not_resume_fails_the_migration() {
    for script in [
        "fail MIG_DEVICE_STATE kind=RESUMING errno=EIO",
        "fail MIG_DEVICE_STATE device=d1 kind=RESUMING errno=ENODEV",
    ] {
        let source = machine().start();
        boot(&source);
        let target = machine().incoming().start();
        target.script(script);
        Migration {
            source: &source,
            target: &target,
        }
        .is_refused("");
        source.end();
        target.script("clear");
        target.end();
    }
}

/// Returns the states of a migration's end that are no success, once it has ended.
#[track_caller]
fn unsuccessful_end(source: &Bench) -> String {
    until("the end of the migration", || {
        let state = source.machine().qmp("query-migrate", json!({}));
        let status = state["status"].as_str()?.to_owned();
        assert_ne!(status, "completed");
        ["cancelled", "failed"]
            .contains(&&*status)
            .then_some(status)
    })
}

/// The source is stopped, with its devices, when the user cancels.
#[test]
fn cancelled_migration_goes_on_at_the_source() {
    let source = machine().start();
    boot(&source);
    let target = machine().incoming().start();
    let qemu = source.machine();
    let pause = json!({ "capability": "pause-before-switchover", "state": true });
    qemu.qmp(
        "migrate-set-capabilities",
        json!({ "capabilities": [pause] }),
    );
    source.mark();
    let migration = Migration {
        source: &source,
        target: &target,
    };
    let _socket = migration.begin();
    until("the source is stopped", || {
        let state = qemu.qmp("query-migrate", json!({}));
        (state["status"] == "pre-switchover").then_some(())
    });
    assert_eq!(qemu.status(), "finish-migrate");
    let states = source.journal().migration_states("d0").join(" ");
    assert_eq!(states, "RUNNING_P2P STOP");
    // a doorbell of a vCPU that is about to stop
    let smmu = Smmu::find(qemu);
    smmu.adopt_queue();
    smmu.push(&[TLBI_NSNH_ALL, SYNC]);
    smmu.ring();
    assert_eq!(source.journal().order(), [""; 0], "executed while stopped");
    qemu.qmp("migrate_cancel", json!({}));
    assert_eq!(unsuccessful_end(&source), "cancelled");
    until("the source runs", || {
        (qemu.status() == "running").then_some(())
    });
    smmu.wait_consumed();
    source.expect_only_as_configured("all the time");
    goes_on(&source, "after a cancelled migration");
    source.end();
    target.end();
}

/// The connection breaks while the data of a device is sent.
#[test]
fn broken_migration_goes_on_at_the_source() {
    // more than anything else that is sent, and sent when the device is stopped
    let size = "stop-copy,p2p,size:16777216";
    let source = Setup::new(EXPLICIT)
        .assign_migratable("d0", 1, size)
        .start();
    source.translating(&[ste::FIRST]);
    let socket = TemporaryFile::new();
    let listener = UnixListener::bind(socket.path()).expect("a socket");
    permit_downtime(source.machine());
    let uri = format!("unix:{}", socket.path().display());
    source.mark();
    source.machine().qmp("migrate", json!({ "uri": uri }));
    let (mut connection, _) = listener.accept().expect("QEMU connects");
    let mut part = vec![0; 4 << 20];
    connection
        .read_exact(&mut part)
        .expect("data of the device");
    drop(connection);
    assert_eq!(unsuccessful_end(&source), "failed");
    until("the source runs", || {
        (source.machine().status() == "running").then_some(())
    });
    let states = source.journal().migration_states("d0").join(" ");
    assert!(states.starts_with("RUNNING_P2P STOP STOP_COPY"), "{states}");
    source.expect_only_as_configured("all the time");
    goes_on(&source, "after a broken migration");
    source.end();
}

/// A stream that ends in the SMMU's section, or before.
#[test]
fn cut_stream_with_assigned_devices_is_refused() {
    let source = machine().start();
    boot(&source);
    let stream = saved(source);
    let at = stream.subsection("smmuv3/accel").expect("ID registers");
    let ends = [at - 20, at - 1, at, at + 1, at + 20, at + 32, at + 33];
    for end in ends {
        let target = machine().incoming().start();
        assert!(
            stream.truncated(end).load_into(target.machine()).is_err(),
            "{end}"
        );
        target.expect("bypass", &[("d0", On::Bypass), ("d1", On::Bypass)]);
        target.end();
    }
}

/// What a device is to be attached to is in the guest's memory, so it comes from the stream as
/// well, and any value there leads to an attachment or to abort.
#[test]
fn random_entries_in_the_stream_match_attachments() {
    let source = machine().start();
    let smmu = boot(&source);
    let mut random = Random::new(0x5eed_0015);
    for _ in 0..6 {
        for slot in 1..=2 {
            let any = random.next();
            let word = random.of(&[ste::FIRST[0], ste::BYPASS[0], 1, 0, any]);
            smmu.write_ste(sid(slot), [word, ste::FIRST[1]]);
        }
        let stream = Stream::copy(source.machine());
        let target = machine().incoming().start();
        load(&stream, &target);
        start(&target);
        for (name, slot) in [("d0", 1), ("d1", 2)] {
            let on = target.journal().device(name).expect("a device").on;
            let expected = target.configured(sid(slot));
            assert!(on == expected || on == On::Abort, "{name}: {on:?}");
        }
        target.end();
        start(&source);
    }
    source.end();
}
