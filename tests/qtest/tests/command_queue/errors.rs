// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Illegal commands stop the queue; acknowledging the error resumes it.

use smmuv3_qtest::{
    command,
    command::{Command, RESERVED, SYNC, SYNC_IRQ},
    machine::RAM,
    smmu::{cerror, reg, CMDQEN, CMDQ_ERR, GERROR_IRQEN},
    Smmu,
};

use crate::bench::{
    with_queue, Interrupts,
    Queue::{self, Idle, Stopped},
    Steps,
};

/// Two legal commands, an illegal one, and two legal ones.
const BAD_THIRD: [Command; 5] = [
    command::tlbi_nh_va(5, 0x1000),
    command::tlbi_nh_va(5, 0x2000),
    RESERVED,
    command::tlbi_nh_va(5, 0x4000),
    SYNC_IRQ,
];

/// The state of the queue when they stop it.
const AT_THIRD: Queue = Stopped(2, cerror::ILL);

/// Runs a test on a queue that [`BAD_THIRD`] has just stopped.
#[track_caller]
fn with_stopped_queue(test: impl FnOnce(&Smmu<'_>)) {
    with_queue(4, |smmu| {
        smmu.push_and_ring(&BAD_THIRD);
        smmu.expect("two are fine", AT_THIRD);
        test(smmu);
    });
}

/// Replaces commands from the illegal one on and acknowledges the error; all
/// must be consumed then.
#[track_caller]
fn repair(smmu: &Smmu<'_>, commands: &[Command]) {
    smmu.write_slots(2, commands);
    smmu.acknowledge();
    smmu.expect("repaired", Idle(5));
}

#[test]
fn illegal_command_stops_cmdq_at_its_index() {
    with_stopped_queue(|smmu| {
        smmu.expect_gerror(CMDQ_ERR, 0);
        smmu.expect_interrupts("stopped", Interrupts::ERROR);
        smmu.ring();
        let when = "an active error is not raised again";
        smmu.expect_both(when, AT_THIRD, Interrupts::NONE);
    });
}

/// Vector V91.
#[test]
fn acknowledged_cmdq_error_resumes() {
    with_stopped_queue(|smmu| {
        repair(smmu, &[SYNC]);
        smmu.expect_gerror(CMDQ_ERR, CMDQ_ERR);
        smmu.expect_interrupts("in all", Interrupts::of(1, 1));
    });
}

/// Vector V93.
#[test]
fn command_still_illegal_is_new_error() {
    with_stopped_queue(|smmu| {
        for (gerrorn, gerror) in [(1, 0), (0, 1), (1, 0)] {
            smmu.expect_interrupts("a new error", Interrupts::ERROR);
            smmu.write(reg::GERRORN, gerrorn);
            smmu.expect("still illegal", AT_THIRD);
            smmu.expect_gerror(gerror, gerrorn);
        }
        repair(smmu, &[SYNC]);
        smmu.expect_gerror(0, 0);
        smmu.expect_interrupts("repaired", Interrupts::of(1, 1));
    });
}

/// Vector V95.
#[test]
fn prod_may_move_back_while_error_is_active() {
    with_stopped_queue(|smmu| {
        smmu.write(reg::CMDQ_PROD, 2);
        smmu.acknowledge();
        smmu.expect_both("taken back", Idle(2), Interrupts::ERROR);
    });
}

/// Vector V97.
#[test]
fn cmdqen_toggle_does_not_acknowledge_error() {
    with_stopped_queue(|smmu| {
        for _ in 0..3 {
            smmu.disable(CMDQEN);
            smmu.enable(CMDQEN);
            smmu.expect("enabled again", AT_THIRD);
        }
        smmu.expect_interrupts("only the first", Interrupts::ERROR);
        repair(smmu, &[SYNC]);
    });
}

/// Vector V99.
#[test]
fn following_commands_are_refetched_after_error() {
    with_stopped_queue(|smmu| {
        repair(smmu, &[SYNC_IRQ, SYNC_IRQ]);
        smmu.expect_interrupts("in all", Interrupts::of(3, 1));
    });
}

/// Vector V103.
#[test]
fn error_behind_wrap_of_full_cmdq_has_its_index() {
    with_queue(4, |smmu| {
        smmu.setup_queue_at(RAM, 4, 0xf);
        let mut commands = [SYNC; 16];
        commands[1] = RESERVED;
        smmu.push_and_ring(&commands);
        smmu.expect("behind the wrap", Stopped(0x10, cerror::ILL));
    });
}

/// Vector C01.
#[test]
fn acknowledgement_does_not_start_disabled_cmdq() {
    with_stopped_queue(|smmu| {
        smmu.disable(CMDQEN);
        smmu.write_slots(2, &[SYNC]);
        smmu.acknowledge();
        smmu.expect_both("acknowledged", Idle(2), Interrupts::ERROR);
        smmu.enable(CMDQEN);
        smmu.expect_both("enabled", Idle(5), Interrupts::SYNC);
    });
}

/// Vector C02.
#[test]
fn commands_queued_during_error_wait_for_acknowledgement() {
    with_stopped_queue(|smmu| {
        smmu.push_and_ring(&[SYNC_IRQ; 3]);
        smmu.expect_both("three more", AT_THIRD, Interrupts::ERROR);
        smmu.write_slots(2, &[SYNC]);
        smmu.acknowledge();
        smmu.expect_both("acknowledged", Idle(8), Interrupts::of(4, 0));
    });
}

#[test]
fn gerror_without_irq_enable_raises_no_irq() {
    with_queue(4, |smmu| {
        smmu.write(reg::IRQ_CTRL, 0);
        smmu.push_and_ring(&[RESERVED]);
        smmu.expect("not enabled", Stopped(0, cerror::ILL));
        smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
        smmu.expect_interrupts("enabling later delivers nothing", Interrupts::NONE);
        smmu.acknowledge();
        smmu.expect_interrupts("the next one is delivered", Interrupts::ERROR);
    });
}

/// Toggling GERRORN without an error makes one active until it is toggled back
/// (§6.3.20).
#[test]
fn spurious_gerrorn_toggle_stops_cmdq() {
    with_queue(4, |smmu| {
        smmu.write(reg::GERRORN, CMDQ_ERR);
        smmu.push_and_ring(&[SYNC_IRQ]);
        assert_eq!(smmu.cons(), 0);
        smmu.write(reg::GERRORN, 0);
        smmu.expect_both("undone", Idle(1), Interrupts::SYNC);
    });
}
