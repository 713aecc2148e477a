// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Time slices: a doorbell consumes one slice of the queue, the main loop the
//! rest.

use smmuv3_qtest::{
    command,
    command::{sync_msi, RESERVED, SYNC, SYNC_IRQ},
    machine::RAM,
    smmu::{cerror, reg, CMDQEN},
    until, Builder, Smmu,
};

use crate::bench::{
    machine, with_queue_of, Interrupts,
    Queue::{Idle, Stopped},
    Steps,
};

/// log2 of the entries of the largest queue.
const LARGEST: u32 = 19;

/// The most commands that are consumed before a doorbell returns.
const SLICE: u32 = 4096;

/// Runs a test on a machine with a full queue of the largest size, before the
/// doorbell.
#[track_caller]
fn with_largest_queue_of(machine: Builder, test: impl FnOnce(&Smmu<'_>)) {
    with_queue_of(machine, LARGEST, |smmu| {
        fill(smmu);
        test(smmu);
    });
}

/// Fills the queue: invalidations, and a `CMD_SYNC` with interrupt at the end.
#[track_caller]
fn fill(smmu: &Smmu<'_>) {
    let mut commands = vec![command::tlbi_nh_va(1, 0x1000); 1 << LARGEST];
    commands[(1 << LARGEST) - 1] = SYNC_IRQ;
    smmu.push(&commands);
}

/// Starts a machine that traces each command, which is slow enough to be
/// observed.
fn slow_machine() -> Builder {
    machine().args(["-trace", "smmuv3_cmdq_opcode", "-D", "/dev/null"])
}

/// Makes writes that start a full queue and returns `CMDQ_CONS.RD` in the same
/// batch of requests, when exactly one slice has been consumed.
#[track_caller]
fn slice_after(smmu: &Smmu<'_>, writes: &[(u64, u32)]) -> u32 {
    let writes: Vec<(u64, u32)> = writes
        .iter()
        .map(|(register, value)| (smmu.base() + register, *value))
        .collect();
    let cons = smmu
        .machine()
        .write32_then_read32(&writes, smmu.base() + reg::CMDQ_CONS)
        & 0xf_ffff;
    let start = smmu.prod() ^ (1 << LARGEST);
    let consumed = cons.wrapping_sub(start) % (2 << LARGEST);
    assert!(0 < consumed && consumed <= SLICE, "CONS.RD = {cons:#x}");
    cons
}

#[test]
fn doorbell_returns_after_one_time_slice() {
    with_queue_of(machine(), LARGEST, |smmu| {
        for lap in 0..4 {
            fill(smmu);
            slice_after(smmu, &[(reg::CMDQ_PROD, smmu.prod())]);
            smmu.wait_consumed();
            let end = if lap % 2 == 0 { 1 << LARGEST } else { 0 };
            smmu.expect_both(format_args!("lap {lap}"), Idle(end), Interrupts::SYNC);
        }
    });
}

/// Where MSIs are written, behind the queue.
const MAILBOXES: u64 = RAM + (16 << 20);

/// Fills the queue with nothing but `CMD_SYNC`s that have an MSI: the words at
/// [`MAILBOXES`] become 1, 2, and so on.
#[track_caller]
fn fill_with_msis(smmu: &Smmu<'_>) {
    let msis: Vec<_> = (0..1 << LARGEST)
        .map(|number| sync_msi(MAILBOXES + 4 * number, number as u32 + 1))
        .collect();
    smmu.push(&msis);
}

#[track_caller]
fn expect_msis(smmu: &Smmu<'_>) {
    let bytes = smmu.machine().read_memory(MAILBOXES, 4 << LARGEST);
    for (number, word) in (1_u32..).zip(bytes.chunks_exact(4)) {
        assert_eq!(word, number.to_le_bytes(), "CMD_SYNC {number}");
    }
}

#[test]
fn largest_cmdq_of_msis_is_consumed_in_slices() {
    with_queue_of(machine(), LARGEST, |smmu| {
        fill_with_msis(smmu);
        slice_after(smmu, &[(reg::CMDQ_PROD, smmu.prod())]);
        smmu.expect_running("while the queue is consumed");
        smmu.wait_consumed();
        smmu.expect_both("all are consumed", Idle(1 << LARGEST), Interrupts::NONE);
        expect_msis(smmu);
    });
}

/// A vCPU's doorbells come while the queue is consumed because of another vCPU's.
#[test]
fn doorbells_during_run_complete_every_msi() {
    with_queue_of(machine(), LARGEST, |smmu| {
        fill_with_msis(smmu);
        let step = 1 << 12;
        for prod in (step..=1 << LARGEST).step_by(step as usize) {
            smmu.write(reg::CMDQ_PROD, prod);
        }
        smmu.wait_consumed();
        smmu.expect_both("all are consumed", Idle(1 << LARGEST), Interrupts::NONE);
        expect_msis(smmu);
    });
}

#[test]
fn qmp_answers_while_largest_cmdq_is_consumed() {
    with_largest_queue_of(slow_machine(), |smmu| {
        smmu.ring();
        let mut answers = 0;
        until("consumption", || {
            smmu.expect_running("while the queue is consumed");
            let done = smmu.cons() == smmu.prod();
            answers += u32::from(!done);
            done.then_some(())
        });
        assert!(answers > 0, "QMP answered only when all was consumed");
    });
}

#[test]
fn cmdqen_clear_stops_between_slices() {
    with_largest_queue_of(machine(), |smmu| {
        let cons = slice_after(smmu, &[(reg::CMDQ_PROD, smmu.prod()), (reg::CR0, 0)]);
        for _ in 0..10 {
            smmu.machine().status();
            assert_eq!(
                smmu.cons(),
                cons,
                "nothing is consumed while the queue is disabled"
            );
        }
        smmu.enable(CMDQEN);
        smmu.wait_consumed();
        smmu.expect_interrupts("enabled", Interrupts::SYNC);
    });
}

/// Commands that were fetched before the queue was disabled are not executed
/// after it (§3.21.2).
#[test]
fn commands_rewritten_between_slices_are_refetched() {
    with_largest_queue_of(machine(), |smmu| {
        let cons = slice_after(smmu, &[(reg::CMDQ_PROD, smmu.prod()), (reg::CR0, 0)]);
        smmu.write_slots(cons, &[SYNC_IRQ; 8]);
        smmu.enable(CMDQEN);
        smmu.wait_consumed();
        smmu.expect_interrupts("eight more than there were", Interrupts::of(9, 0));
    });
}

#[test]
fn reset_between_slices_empties_cmdq() {
    with_largest_queue_of(slow_machine(), |smmu| {
        smmu.ring();
        smmu.machine().system_reset();
        // even if the reset was late
        smmu.pulses();
        for _ in 0..10 {
            let pointers = (smmu.read(reg::CMDQ_CONS), smmu.read(reg::CMDQ_PROD));
            assert_eq!(pointers, (0, 0));
            smmu.machine().status();
        }
        smmu.expect_interrupts("after reset", Interrupts::NONE);
        smmu.expect_usable();
    });
}

#[test]
fn error_deep_in_largest_cmdq_has_its_index() {
    with_largest_queue_of(machine(), |smmu| {
        let bad = SLICE * 70 + 17;
        smmu.write_slots(bad, &[RESERVED]);
        smmu.ring();
        until("error", || smmu.error().then_some(()));
        let when = "deep in the queue";
        smmu.expect_both(when, Stopped(bad, cerror::ILL), Interrupts::ERROR);
        smmu.write_slots(bad, &[SYNC]);
        smmu.acknowledge();
        smmu.wait_consumed();
        smmu.expect_interrupts("repaired", Interrupts::SYNC);
    });
}
