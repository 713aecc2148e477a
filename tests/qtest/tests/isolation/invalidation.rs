// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Invalidations that are sent to the host: batches, and hosts that fail.

use std::time::{Duration, Instant};

use smmuv3_qtest::{
    command::{self, Command},
    smmu::{cerror, irq, reg, CMDQEN, SMMUEN},
    until, Smmu,
};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    journal::On,
};

const STAGE1: [u64; 2] = ste::stage1(0x4100_0000);

/// Returns `count` distinct commands, so that each can be found in the log.
pub fn tlbis(count: u64) -> Vec<Command> {
    (0..count)
        .map(|page| command::tlbi_nh_va(5, 0x1000 * (page + 1)))
        .collect()
}

/// Attaches a device to stage 1 and sets the log's mark after that.
#[track_caller]
pub fn translating(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), STAGE1);
    bench.expect("stage 1", &[("d0", On::Nested(STAGE1))]);
    bench.mark();
    smmu
}

/// Returns how many commands each call has passed.
pub fn sizes(bench: &Bench) -> Vec<usize> {
    bench.journal().batches().iter().map(Vec::len).collect()
}

/// Returns commands as the host issues them for a guest whose VMID in the host
/// is 1.
fn as_issued(commands: &[Command]) -> Vec<Command> {
    let issued = |[word0, word1]: &Command| [word0 | (1 << 32), *word1];
    commands.iter().map(issued).collect()
}

/// Returns all commands that the host's SMMU has completed since the mark.
pub fn completed(bench: &Bench) -> Vec<Command> {
    bench.journal().issued("a").concat()
}

/// Submits commands that the host must fail, and returns the error code and
/// CONS.RD.
#[track_caller]
fn fails(smmu: &Smmu<'_>, commands: &[Command]) -> (u32, u32) {
    let start = smmu.prod();
    smmu.push(commands);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    (smmu.cons_err(), smmu.cons() - start)
}

/// Only TLBIs on both sides of a `CMD_SYNC` may be one batch.
#[test]
fn cmd_sync_flushes_one_batch() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    let cfgi = [command::cfgi_cd_all(sid(1))];
    let second = [&cfgi[..], &tlbis(3)].concat();
    let all = [
        &tlbis(5)[..],
        &[command::SYNC],
        &second,
        &[command::SYNC],
        &tlbis(2),
    ];
    smmu.commands(&all.concat());
    assert_eq!(bench.journal().batches(), [tlbis(5), second, tlbis(2)]);
    bench.finish();
}

#[test]
fn batch_has_at_most_63_commands() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    for (count, expected) in [
        (1, vec![1]),
        (62, vec![62]),
        (63, vec![63]),
        (64, vec![63, 1]),
        (126, vec![63, 63]),
        (200, vec![63, 63, 63, 11]),
    ] {
        bench.mark();
        smmu.commands(&tlbis(count));
        assert_eq!(sizes(&bench), expected);
        assert_eq!(completed(&bench), as_issued(&tlbis(count)));
    }
    bench.finish();
}

#[test]
fn cmd_sync_alone_makes_no_ioctl() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.commands(&[command::SYNC, command::SYNC_IRQ]);
    assert_eq!(sizes(&bench), [0; 0]);
    bench.finish();
}

#[test]
fn cmd_sync_waits_for_slow_host() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.intercept_irqs();
    bench.script("fail HWPT_INVALIDATE delay_ms=200 count=1");
    let start = Instant::now();
    smmu.push(&[&tlbis(3)[..], &[command::SYNC_IRQ]].concat());
    smmu.ring();
    until("CMD_SYNC", || {
        (smmu.pulses()[irq::CMD_SYNC as usize] == 1).then_some(())
    });
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(completed(&bench), as_issued(&tlbis(3)));
    assert_eq!(smmu.cons(), smmu.prod());
    bench.finish();
}

/// A guest that polls memory sees the MSI only when the host has invalidated.
#[test]
fn sync_msi_waits_for_slow_host() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    bench.script("fail HWPT_INVALIDATE delay_ms=200 count=1");
    let start = Instant::now();
    smmu.push(&tlbis(3));
    let slot = smmu.slot(smmu.prod());
    smmu.push(&[command::sync_msi(slot, 0)]);
    smmu.ring();
    until("MSI", || (smmu.machine().read32(slot) == 0).then_some(()));
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(completed(&bench), as_issued(&tlbis(3)));
    assert_eq!(smmu.cons(), smmu.prod());
    bench.finish();
}

#[test]
fn invalidations_without_device_complete_at_once() {
    let bench = Setup::new(EXPLICIT).start();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.commands(&tlbis(100));
    smmu.commands(&[
        command::atc_inv_all(sid(1)),
        command::cfgi_cd_all(sid(1)),
        command::CFGI_ALL,
    ]);
    assert_eq!(sizes(&bench), [0; 0]);
    bench.finish();
}

#[test]
fn commands_for_unbound_stream_are_not_forwarded() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    let unknown = [sid(2), 0x1_0000 | sid(1), 0xffff_ffff];
    for stream in unknown {
        smmu.commands(&[
            command::cfgi_cd_all(stream),
            command::cfgi_cd(stream, 0),
            command::atc_inv_all(stream),
        ]);
    }
    assert_eq!(sizes(&bench), [0; 0]);
    smmu.commands(&[command::atc_inv_all(sid(1))]);
    assert_eq!(bench.journal().batches(), [[command::atc_inv_all(sid(1))]]);
    bench.finish();
}

/// Preceding commands are complete then, and all others once it is replaced.
#[test]
fn host_rejected_command_is_cerror_ill() {
    for at in [0, 1, 3, 4] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        let commands = tlbis(5);
        bench.script(&format!(
            "fail HWPT_INVALIDATE errno=EIO entry_num={at} count=1"
        ));
        let result = fails(&smmu, &[&commands[..], &[command::SYNC]].concat());
        assert_eq!(result, (cerror::ILL, at as u32));
        assert_eq!(
            completed(&bench),
            as_issued(&commands[..at]),
            "preceding ones only"
        );
        // the guest's driver overwrites the command and resumes
        smmu.write_slots(smmu.cons(), &[command::SYNC]);
        smmu.acknowledge();
        smmu.wait_consumed();
        assert!(!smmu.error());
        let rest = [&commands[..at], &commands[at + 1..]].concat();
        assert_eq!(completed(&bench), as_issued(&rest), "all but that one");
        bench.finish();
    }
}

/// Runs batches of 1 to 130 commands with an offending command at every index.
/// CONS must be at its index with all preceding commands complete, and the
/// following commands must complete once it is replaced.
#[track_caller]
fn check_offending_command(contract: &str) {
    let bench = Setup::on_host(&format!("smmu a\ncontract {contract}"), EXPLICIT)
        .assign("d0", 1)
        .start();
    let smmu = translating(&bench);
    let offending = command::tlbi_nh_vaa(0x9000);
    bench.script("smmu a refuses=0x13");
    for count in 1..=130 {
        for at in 0..count {
            let case = format!("{contract}: {at} of {count}");
            let mut commands = tlbis(count);
            commands[at as usize] = offending;
            bench.mark();
            let start = smmu.prod();
            smmu.push(&[&commands[..], &[command::SYNC]].concat());
            smmu.ring();
            until("a command error", || smmu.error().then_some(()));
            let pointers = 2 << 8;
            let place = (start + at as u32) % pointers;
            assert_eq!(
                (smmu.cons_err(), smmu.cons()),
                (cerror::ILL, place),
                "{case}"
            );
            let (preceding, following) = (&commands[..at as usize], &commands[at as usize + 1..]);
            assert_eq!(completed(&bench), as_issued(preceding), "{case}");
            smmu.write_slots(place, &[command::SYNC]);
            smmu.acknowledge();
            smmu.wait_consumed();
            let good = [preceding, following].concat();
            assert_eq!(completed(&bench), as_issued(&good), "{case}");
        }
    }
    assert!(!smmu.error());
    bench.finish();
}

#[test]
fn offending_command_found_by_unvalidated_contract() {
    check_offending_command("unvalidated");
}

#[test]
fn offending_command_found_by_validating_contract() {
    check_offending_command("validating");
}

#[test]
fn offending_command_found_by_block_start_contract() {
    check_offending_command("block-start");
}

/// No invalidation may be lost.
#[test]
fn entry_num_beyond_batch_is_ignored() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    let commands = tlbis(8);
    bench.script("fail HWPT_INVALIDATE errno=EIO entry_num=1000 count=1");
    smmu.commands(&commands);
    assert_eq!(completed(&bench), as_issued(&commands), "nothing is lost");
    bench.finish();
}

#[test]
fn interrupted_invalidate_is_retried() {
    for errno in ["EINTR", "EAGAIN"] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        bench.script(&format!("fail HWPT_INVALIDATE errno={errno} count=3"));
        smmu.commands(&tlbis(4));
        assert_eq!(sizes(&bench), [4, 4, 4, 4]);
        assert_eq!(completed(&bench), as_issued(&tlbis(4)));
        bench.finish();
    }
}

/// After a timeout `entry_num` does not show which commands have completed.
#[test]
fn timeout_retries_whole_batch() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=1");
    smmu.commands(&tlbis(4));
    assert_eq!(sizes(&bench), [4, 4]);
    assert_eq!(completed(&bench), as_issued(&tlbis(4)));
    bench.finish();
}

#[test]
fn enomem_makes_batches_smaller() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    bench.script("fail HWPT_INVALIDATE errno=ENOMEM count=1");
    smmu.commands(&tlbis(8));
    assert_eq!(sizes(&bench), [8, 4, 4]);
    assert_eq!(completed(&bench), as_issued(&tlbis(8)));
    bench.finish();
}

/// The error is at the oldest incomplete command, and every command completes
/// after its acknowledgement.
#[test]
fn persistent_errno_is_cerror_abt_and_loses_nothing() {
    for errno in ["ENOMEM", "ETIMEDOUT", "EINTR", "EAGAIN"] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        smmu.commands(&[&tlbis(3)[..], &[command::SYNC]].concat());
        bench.script(&format!("fail HWPT_INVALIDATE errno={errno}"));
        let commands = [&tlbis(4)[..], &[command::SYNC]].concat();
        assert_eq!(fails(&smmu, &commands), (cerror::ABT, 0), "{errno}");
        assert_eq!(completed(&bench), as_issued(&tlbis(3)), "{errno}");
        bench.expect(errno, &[("d0", On::Nested(STAGE1))]);
        bench.script("clear");
        smmu.acknowledge();
        smmu.wait_consumed();
        assert!(!smmu.error(), "{errno}");
        let all = [tlbis(3), tlbis(4)].concat();
        assert_eq!(completed(&bench), as_issued(&all), "{errno}");
        bench.finish();
    }
}

#[test]
fn unexpected_errno_attaches_all_devices_to_abort() {
    for errno in [
        "EFAULT",
        "EINVAL",
        "E2BIG",
        "EOPNOTSUPP",
        "EBADF",
        "ENOTTY",
        "ENOENT",
        "EPERM",
        "ENODEV",
    ] {
        let bench = Bench::with_two_devices();
        let smmu = translating(&bench);
        smmu.install(sid(2), ste::BYPASS);
        bench.expect("before", &[("d0", On::Nested(STAGE1)), ("d1", On::Bypass)]);
        bench.script(&format!("fail HWPT_INVALIDATE errno={errno}"));
        let result = fails(&smmu, &[&tlbis(2)[..], &[command::SYNC]].concat());
        assert_eq!(result, (cerror::ABT, 0), "{errno}");
        bench.expect(errno, &[("d0", On::Abort), ("d1", On::Abort)]);
        bench.script("clear");
        smmu.acknowledge();
        smmu.wait_consumed();
        assert!(!smmu.error(), "{errno}");
        smmu.install(sid(1), STAGE1);
        bench.expect(
            "configured again",
            &[("d0", On::Nested(STAGE1)), ("d1", On::Abort)],
        );
        bench.finish();
    }
}

#[test]
fn single_unexpected_errno_is_retried() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    bench.script("fail HWPT_INVALIDATE errno=EFAULT count=1");
    smmu.commands(&tlbis(2));
    assert_eq!(completed(&bench), as_issued(&tlbis(2)));
    bench.expect("retried", &[("d0", On::Nested(STAGE1))]);
    bench.finish();
}

/// The error is reported at the `CMD_SYNC`, and other devices stay attached.
#[test]
fn atc_timeout_quarantines_until_configured() {
    let bench = Bench::with_two_devices();
    let smmu = translating(&bench);
    smmu.install(sid(2), STAGE1);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT");
    let result = fails(&smmu, &[command::atc_inv_all(sid(1)), command::SYNC_IRQ]);
    assert_eq!(result, (cerror::ATC_INV_SYNC, 1), "at the CMD_SYNC");
    bench.expect(
        "quarantine",
        &[("d0", On::Abort), ("d1", On::Nested(STAGE1))],
    );
    bench.script("clear");
    smmu.acknowledge();
    smmu.wait_consumed();
    assert!(
        !smmu.error(),
        "the CMD_SYNC completes when it is tried again"
    );
    bench.expect(
        "quarantine",
        &[("d0", On::Abort), ("d1", On::Nested(STAGE1))],
    );
    smmu.install(sid(1), STAGE1);
    bench.expect(
        "configured again",
        &[("d0", On::Nested(STAGE1)), ("d1", On::Nested(STAGE1))],
    );
    bench.finish();
}

/// Nor is any command that follows it.
#[test]
fn illegal_guest_command_is_not_forwarded() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    let commands = [
        &tlbis(2)[..],
        &[command::RESERVED],
        &tlbis(5),
        &[command::SYNC],
    ]
    .concat();
    assert_eq!(fails(&smmu, &commands), (cerror::ILL, 2));
    assert_eq!(bench.journal().batches(), [tlbis(2)]);
    bench.finish();
}

/// `CMD_ATC_INV` is sent once.
#[test]
fn repeat_erratum_sends_tlbi_and_cfgi_twice() {
    let bench = Setup::on_host("smmu a flags=1", EXPLICIT)
        .assign("d0", 1)
        .start();
    let smmu = translating(&bench);
    let atc = command::atc_inv_all(sid(1));
    let commands = [
        &tlbis(2)[..],
        &[atc],
        &tlbis(3),
        &[command::cfgi_cd_all(sid(1))],
    ]
    .concat();
    smmu.commands(&commands);
    let second = [&tlbis(3)[..], &[command::cfgi_cd_all(sid(1))]].concat();
    let expected = [tlbis(2), tlbis(2), vec![atc], second.clone(), second];
    assert_eq!(bench.journal().batches(), expected);
    bench.finish();
}

#[test]
fn wrapping_cmdq_is_forwarded_in_order() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.setup_queue_at(crate::bench::QUEUE, 5, 20);
    bench.mark();
    smmu.commands(&tlbis(25));
    assert_eq!(bench.journal().batches(), [tlbis(25)]);
    assert_eq!(smmu.read(reg::CMDQ_CONS), smmu.prod());
    bench.finish();
}

/// Longer than commands without a `CMD_SYNC` are deferred, in nanoseconds.
const LONG: u64 = 20_000_000;

#[test]
fn cons_passes_only_completed_commands() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    // there is no CMD_SYNC, so CONS.RD alone shows completion
    for count in [1, 10, 63, 64, 100, 126] {
        bench.mark();
        let start = smmu.cons();
        smmu.push(&tlbis(count));
        smmu.ring();
        let done = distance(start, smmu.cons());
        assert_eq!(completed(&bench), as_issued(&tlbis(count)[..done]));
        bench.machine().clock_step(LONG);
        smmu.wait_consumed();
        assert_eq!(completed(&bench), as_issued(&tlbis(count)));
    }
    bench.finish();
}

/// Returns the number of commands between two values of a pointer into a queue
/// of 2^8 entries.
const fn distance(from: u32, to: u32) -> usize {
    (to.wrapping_sub(from) & 0x1ff) as usize
}

#[test]
fn failure_without_sync_is_reported() {
    for count in [10, 100] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        let skip = count / 63;
        bench.script(&format!("fail HWPT_INVALIDATE errno=ENOMEM skip={skip}"));
        let start = smmu.cons();
        smmu.push(&tlbis(count));
        smmu.ring();
        bench.machine().clock_step(LONG);
        until("a command error", || smmu.error().then_some(()));
        assert_eq!(smmu.cons_err(), cerror::ABT);
        assert_eq!(distance(start, smmu.cons()) as u64, 63 * skip);
        bench.script("clear");
        smmu.acknowledge();
        bench.machine().clock_step(LONG);
        smmu.wait_consumed();
        assert_eq!(completed(&bench), as_issued(&tlbis(count)));
        bench.finish();
    }
}

#[test]
fn cmdqen_clear_leaves_cons_at_completed() {
    for count in [40, 100] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        let start = smmu.cons();
        smmu.push(&tlbis(count));
        smmu.ring();
        smmu.disable(CMDQEN);
        bench.machine().clock_step(LONG);
        let done = distance(start, smmu.cons());
        assert_eq!(completed(&bench), as_issued(&tlbis(count)[..done]));
        smmu.enable(CMDQEN);
        bench.machine().clock_step(LONG);
        smmu.wait_consumed();
        assert_eq!(completed(&bench), as_issued(&tlbis(count)));
        bench.finish();
    }
}

/// Without SMMUEN nothing translates, so nothing is in an ATC (§6.3.9.6); TLBs
/// may still have their entries.
#[test]
fn atc_inv_not_forwarded_without_smmuen() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.disable(SMMUEN);
    bench.mark();
    let tlbi = tlbis(2);
    smmu.commands(&[tlbi[0], command::atc_inv_all(sid(1)), tlbi[1]]);
    assert_eq!(bench.journal().batches(), [tlbi]);
    smmu.enable(SMMUEN);
    bench.mark();
    smmu.commands(&[command::atc_inv_all(sid(1))]);
    assert_eq!(bench.journal().batches(), [[command::atc_inv_all(sid(1))]]);
    bench.finish();
}

#[test]
fn unplug_after_doorbell_completes_commands() {
    for count in [40, 100] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        smmu.push(&tlbis(count));
        smmu.ring();
        bench.unplug("d0", 1);
        bench.machine().clock_step(LONG);
        smmu.wait_consumed();
        assert!(!smmu.error());
        bench.expect_objects("nothing is left", &[]);
        bench.finish();
    }
}

#[test]
fn reset_after_doorbell_empties_cmdq() {
    for count in [40, 100] {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        smmu.push(&tlbis(count));
        smmu.ring();
        bench.machine().system_reset();
        bench.mark();
        bench.machine().clock_step(LONG);
        assert_eq!((smmu.cons(), smmu.read(reg::CMDQ_PROD)), (0, 0));
        bench.expect("after reset", &[("d0", On::Bypass)]);
        let again = bench.smmu();
        again.commands(&tlbis(3));
        let expected = as_issued(&tlbis(3));
        assert_eq!(completed(&bench), expected, "and no earlier ones");
        bench.finish();
    }
}

#[test]
fn doorbells_share_a_batch() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    // Linux rings after every 64 commands of an invalidation
    let commands = tlbis(200);
    for part in commands.chunks(64) {
        smmu.push(part);
        smmu.ring();
    }
    smmu.commands(&[]);
    assert_eq!(sizes(&bench), [63, 63, 63, 11]);
    assert_eq!(completed(&bench), as_issued(&commands));
    bench.finish();
}
