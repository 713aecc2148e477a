// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that refuses attachments for a while: the device retries them and
//! stays blocked until one succeeds.

use std::{thread, time::Duration};

use smmuv3_qtest::{command, smmu::SMMUEN, until};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    journal::On,
};

/// Calls that a new stage 1 needs, as the script names them.
const CALLS: [&str; 3] = [
    "VDEVICE_ALLOC",
    "HWPT_ALLOC kind=nested",
    "ATTACH kind=nested",
];

/// Long enough for several attempts of the timer.
const A_WHILE: Duration = Duration::from_millis(200);

#[track_caller]
fn until_on(bench: &Bench, name: &str, on: On) {
    until("the device to be attached", || {
        let device = bench.journal().device(name);
        device.is_some_and(|device| device.on == on).then_some(())
    });
}

#[test]
fn attach_during_recovery_is_retried_by_the_timer() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("recover d0");
    smmu.install(sid(1), ste::SECOND);
    bench.expect("while the host recovers it", &[("d0", On::Nothing)]);
    thread::sleep(A_WHILE);
    bench.expect("still", &[("d0", On::Nothing)]);
    bench.mark();
    bench.script("recovered d0");
    until_on(&bench, "d0", On::Nested(ste::SECOND));
    let history = bench.journal().history("d0");
    assert!(!history.contains(&On::Nested(ste::FIRST)), "{history:?}");
    bench.finish_with_errors();
}

/// A doorbell retries an attempt that was quick. On a busy machine one can be slow, so the
/// scenario has several tries.
#[test]
fn attach_during_recovery_is_retried_by_a_doorbell() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    let is_retried_at_once = |entry| {
        bench.script("recover d0");
        smmu.install(sid(1), entry);
        // by now the timer's delay is longer than the rest
        thread::sleep(A_WHILE);
        bench.script("recovered d0");
        smmu.commands(&[command::TLBI_NSNH_ALL]);
        let device = bench.journal().device("d0").map(|device| device.on);
        smmu.install(sid(1), ste::FIRST);
        device == Some(On::Nested(entry))
    };
    let tries = [ste::SECOND; 10];
    assert!(tries.into_iter().any(is_retried_at_once));
    bench.finish_with_errors();
}

#[test]
fn revoked_stage1_is_not_restored_by_recovery() {
    for entry in [ste::INVALID, ste::ABORT] {
        let bench = Bench::with_one_device();
        let smmu = bench.translating(&[ste::FIRST]);
        bench.script("recover d0");
        smmu.install(sid(1), entry);
        bench.mark();
        bench.script("recovered d0");
        smmu.commands(&[command::TLBI_NSNH_ALL]);
        thread::sleep(A_WHILE);
        smmu.commands(&[command::TLBI_NSNH_ALL]);
        let history = bench.journal().history("d0");
        let revoked = [On::Nested(ste::FIRST), On::Stage2, On::Bypass];
        assert!(
            history.iter().all(|on| !revoked.contains(on)),
            "{history:?}"
        );
        bench.finish_with_errors();
    }
}

#[test]
fn block_of_exposed_device_is_retried() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail ATTACH kind=abort errno=EIO count=3");
    bench.script("fail DETACH errno=EIO count=3");
    smmu.install(sid(1), ste::ABORT);
    until_on(&bench, "d0", On::Abort);
    bench.finish_with_errors();
}

#[test]
fn transient_attach_errors_are_retried() {
    for call in CALLS {
        for errno in ["EBUSY", "ENOMEM"] {
            let bench = Bench::with_one_device();
            let smmu = bench.smmu();
            bench.script(&format!("fail {call} errno={errno} count=4"));
            smmu.enable(SMMUEN);
            smmu.install(sid(1), ste::FIRST);
            until_on(&bench, "d0", On::Nested(ste::FIRST));
            bench.finish_with_errors();
        }
    }
}

#[test]
fn refused_vdevice_of_plugged_device_is_retried() {
    for entry in [ste::ABORT, ste::BYPASS] {
        let mut setup = Setup::new(EXPLICIT).assign("d0", 1).slot(2);
        let fd = setup.spare("d1", "a");
        let bench = setup.start();
        let smmu = bench.smmu();
        smmu.write_ste(sid(2), entry);
        smmu.enable(SMMUEN);
        bench.script("fail VDEVICE_ALLOC errno=EBUSY count=2");
        bench.plug("d1", fd, 2).expect("plugged");
        until("the host to have both vDEVICEs", || {
            let journal = bench.journal();
            (journal.objects().get("vdevice") == Some(&2)).then_some(())
        });
        bench.finish_with_errors();
    }
}

#[test]
fn interrupted_attach_is_retried_at_once() {
    for call in CALLS {
        for errno in ["EINTR", "EAGAIN"] {
            let bench = Bench::with_one_device();
            let smmu = bench.smmu();
            smmu.enable(SMMUEN);
            smmu.write_ste(sid(1), ste::FIRST);
            bench.script(&format!("fail {call} errno={errno} count=3"));
            smmu.commands(&[command::cfgi_ste(sid(1))]);
            bench.expect(call, &[("d0", On::Nested(ste::FIRST))]);
            bench.finish();
        }
    }
}

#[test]
fn permanent_attach_error_waits_for_guest() {
    for call in CALLS {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        smmu.install(sid(1), ste::ABORT);
        bench.script(&format!("fail {call} errno=EINVAL count=2"));
        smmu.install(sid(1), ste::FIRST);
        let before = bench.journal().device("d0").map(|device| device.on);
        thread::sleep(A_WHILE);
        if call != "VDEVICE_ALLOC" {
            bench.expect(call, &[("d0", On::Abort)]);
            assert_eq!(before, Some(On::Abort));
        }
        bench.script("clear");
        smmu.install(sid(1), ste::FIRST);
        bench.expect("the host can again", &[("d0", On::Nested(ste::FIRST))]);
        bench.end();
    }
}

/// Some devices fail for good after an aborted transaction.
#[test]
fn stage1_change_is_one_attach() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.mark();
    smmu.install(sid(1), ste::SECOND);
    let journal = bench.journal();
    assert_eq!(journal.history("d0"), [On::Nested(ste::SECOND)]);
    assert_eq!(journal.calls("ATTACH").len(), 1);
    assert!(journal.calls("DETACH").is_empty());
    drop(journal);
    bench.finish();
}
