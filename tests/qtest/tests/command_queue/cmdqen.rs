// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Enabling and disabling the queue.

use smmuv3_qtest::{
    command::{RESERVED, SYNC_IRQ, TLBI_NSNH_ALL},
    machine::RAM,
    smmu::{cerror, reg, CMDQEN},
};

use crate::bench::{
    with_queue, Interrupts,
    Queue::{Idle, Stopped},
    Steps, NOWHERE,
};

#[test]
fn cmdqen_consumes_queued_commands() {
    with_queue(4, |smmu| {
        smmu.disable(CMDQEN);
        smmu.push_and_ring(&[TLBI_NSNH_ALL, SYNC_IRQ]);
        smmu.expect_both("disabled", Idle(0), Interrupts::NONE);
        smmu.enable(CMDQEN);
        smmu.expect_both("enabled", Idle(2), Interrupts::SYNC);
    });
}

/// Vector C03.
#[test]
fn disabled_cmdq_reports_no_error() {
    with_queue(4, |smmu| {
        for (base, error) in [(RAM, cerror::ILL), (NOWHERE, cerror::ABT)] {
            smmu.new_queue(RAM, 4);
            smmu.write_slots(0, &[RESERVED]);
            smmu.disable(CMDQEN);
            smmu.write64(reg::CMDQ_BASE, base | 4);
            smmu.write(reg::CMDQ_PROD, 1);
            smmu.expect_both("disabled", Idle(0), Interrupts::NONE);
            smmu.enable(CMDQEN);
            smmu.expect_both("enabled", Stopped(0, error), Interrupts::ERROR);
        }
    });
}

#[test]
fn cmdq_base_moves_while_disabled() {
    with_queue(4, |smmu| {
        for round in 0..20_u32 {
            smmu.setup_queue(RAM + (u64::from(round) << 12), round % 6);
            smmu.submit(&[SYNC_IRQ]);
            smmu.expect_both(round, Idle(1), Interrupts::SYNC);
        }
    });
}
