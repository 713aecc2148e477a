// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that does not complete invalidations for a long time, or for ever:
//! the guest keeps running with its assigned devices blocked, and no stale
//! translation is used.

use smmuv3_qtest::{
    command::{self, SYNC, TLBI_NSNH_ALL},
    smmu::SMMUEN,
    until, Smmu,
};

use crate::{
    bench::{sid, ste, Bench, Guest},
    journal::{Journal, On},
};

/// Number of command errors before the host is treated as lost.
const MAX_ERRORS: usize = 8;

/// Opcode that the host issues for `CMD_TLBI_NSNH_ALL`: `CMD_TLBI_NH_ALL` of
/// one VMID.
const EVERYTHING: u8 = 0x10;

/// Waits until the queue is consumed, and acknowledges up to `times` errors as
/// Linux does. Returns the number of errors.
#[track_caller]
fn acknowledge_up_to(smmu: &Smmu<'_>, times: usize) -> usize {
    let mut errors = 0;
    loop {
        let is_error = until("the queue's end, or an error", || {
            let is_error = smmu.error();
            (is_error || smmu.cons() == smmu.prod()).then_some(is_error)
        });
        if !is_error || errors == times {
            return errors;
        }
        errors += 1;
        smmu.acknowledge();
    }
}

/// Returns whether the host has executed an invalidation of everything since
/// the mark.
fn is_flushed(journal: &Journal) -> bool {
    let issued = journal.issued("a");
    let mut commands = issued.iter().flatten();
    commands.any(|words| words[0] as u8 == EVERYTHING)
}

#[test]
fn lost_host_does_not_lock_up_guest() {
    for errno in ["EBADF", "EFAULT", "ENODEV", "ENOTTY", "ETIMEDOUT", "ENOMEM"] {
        let bench = Bench::with_one_device();
        let smmu = bench.translating(&[ste::FIRST]);
        bench.script(&format!("fail HWPT_INVALIDATE errno={errno}"));
        smmu.push(&[command::tlbi_nh_asid(3), SYNC]);
        smmu.ring();
        let errors = acknowledge_up_to(&smmu, 200);
        assert!((1..=MAX_ERRORS).contains(&errors), "{errno}: {errors}");
        bench.expect(errno, &[("d0", On::Abort)]);

        bench.mark();
        smmu.commands(&[TLBI_NSNH_ALL]);
        assert_eq!(bench.journal().batches().len(), 0, "the host is not asked");
        smmu.install(sid(1), ste::FIRST);
        bench.expect("it still fails", &[("d0", On::Abort)]);

        bench.script("clear");
        bench.mark();
        smmu.install(sid(1), ste::FIRST);
        bench.expect("the host can again", &[("d0", On::Nested(ste::FIRST))]);
        assert!(is_flushed(&bench.journal()), "{errno}");
        bench.mark();
        smmu.commands(&[command::tlbi_nh_asid(3)]);
        assert_eq!(
            bench.journal().batches().len(),
            1,
            "the host is asked again"
        );
        bench.finish_with_errors();
    }
}

/// Each of these calls blocks the whole machine.
#[test]
fn slow_lost_host_gets_at_most_three_calls() {
    for errno in ["ETIMEDOUT", "EBADF", "ENOMEM"] {
        let bench = Bench::with_one_device();
        let smmu = bench.translating(&[ste::FIRST]);
        bench.mark();
        bench.script(&format!("fail HWPT_INVALIDATE errno={errno} delay_ms=1000"));
        smmu.push(&[command::tlbi_nh_asid(3), command::tlbi_nh_asid(4), SYNC]);
        smmu.ring();
        acknowledge_up_to(&smmu, 200);
        assert!(!smmu.error(), "{errno}");
        for _ in 0..20 {
            smmu.commands(&[TLBI_NSNH_ALL]);
            smmu.install(sid(1), ste::FIRST);
        }
        let calls = bench.journal().batches().len();
        assert!(calls <= 3, "{errno}: {calls} calls of a second");
        bench.expect(errno, &[("d0", On::Abort)]);
        bench.finish_with_errors();
    }
}

#[test]
fn device_stuck_on_stage1_keeps_cmdq_error() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail HWPT_INVALIDATE errno=EBADF");
    bench.script("fail ATTACH kind=abort errno=EIO");
    bench.script("fail DETACH errno=EIO");
    smmu.push(&[command::tlbi_nh_asid(3), SYNC]);
    smmu.ring();
    assert_eq!(acknowledge_up_to(&smmu, 50), 50);
    bench.expect("nothing works", &[("d0", On::Nested(ste::FIRST))]);
    bench.script("clear");
    bench.mark();
    smmu.acknowledge();
    assert_eq!(acknowledge_up_to(&smmu, 50), 0);
    let executed = bench.journal().issued("a").concat();
    let is_done = executed.iter().any(|words| words[0] as u8 == 0x11);
    let on = bench.journal().device("d0").map(|device| device.on);
    assert!(is_done || on == Some(On::Abort), "{executed:x?}, {on:?}");
    bench.finish_with_errors();
}

/// The guest's commands had no effect while there was no device.
#[test]
fn lost_invalidation_completes_before_device_plug() {
    let mut setup = crate::bench::Setup::new(crate::bench::EXPLICIT).assign("d0", 1);
    let fd = setup.spare("d1", "a");
    let bench = setup.start();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.unplug("d0", 1);
    smmu.commands(&[command::tlbi_nh_asid(7)]);
    bench.mark();
    bench.plug("d1", fd, 1).expect("plugged");
    bench.expect("by its STE", &[("d1", On::Nested(ste::FIRST))]);
    assert!(is_flushed(&bench.journal()));
    bench.finish();
}

/// The guest's attempts wait for ten times the duration of the last one; the user's do
/// not.
#[test]
fn device_is_plugged_at_once_when_a_lost_host_works() {
    let mut setup = crate::bench::Setup::new(crate::bench::EXPLICIT)
        .assign("d0", 1)
        .slot(2);
    let fd = setup.spare("d1", "a");
    let bench = setup.start();
    let smmu = bench.translating(&[ste::FIRST]);
    smmu.install(sid(2), ste::SECOND);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT delay_ms=1000");
    smmu.push(&[command::tlbi_nh_asid(3), SYNC]);
    smmu.ring();
    acknowledge_up_to(&smmu, 200);
    bench.expect("lost", &[("d0", On::Abort)]);
    bench.script("clear");
    bench.mark();
    bench.plug("d1", fd, 2).expect("plugged");
    bench.expect("by its STE", &[("d1", On::Nested(ste::SECOND))]);
    assert!(is_flushed(&bench.journal()));
    bench.finish_with_errors();
}

#[test]
fn first_stage1_waits_for_successful_invalidation() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    bench.script("fail HWPT_INVALIDATE errno=EIO");
    smmu.write_ste(sid(1), ste::FIRST);
    smmu.commands(&[command::cfgi_ste(sid(1))]);
    bench.expect("not invalidated", &[("d0", On::Abort)]);
    bench.script("clear");
    until("the device to be attached", || {
        let device = bench.journal().device("d0");
        device
            .is_some_and(|device| device.on == On::Nested(ste::FIRST))
            .then_some(())
    });
    bench.finish_with_errors();
}
