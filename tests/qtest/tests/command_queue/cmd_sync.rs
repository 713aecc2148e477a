// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The completion signals of `CMD_SYNC`.

use smmuv3_qtest::{
    command::{sync_msi, SYNC, SYNC_IRQ},
    machine::RAM,
    qemu,
    smmu::cerror,
    Builder,
};

use crate::bench::{
    with_queue, with_queue_of, Interrupts,
    Queue::{Idle, Stopped},
    Steps, PROFILE,
};

/// `CMD_SYNC` with an event as completion signal.
const SYNC_EVENT: [u64; 2] = [0x2046, 0];
/// `CMD_SYNC` with a signal that is Reserved.
const SYNC_CS_3: [u64; 2] = [0x3046, 0];

#[test]
fn cmd_sync_signals_by_cs() {
    with_queue(4, |smmu| {
        let mut cons = 0;
        for (what, syncs, interrupts) in [
            ("CS 0: no signal", &[SYNC][..], 0),
            ("CS 1: interrupt", &[SYNC_IRQ], 1),
            ("CS 2: an event, IDR0.SEV has none", &[SYNC_EVENT], 0),
            ("one for each", &[SYNC_IRQ, SYNC, SYNC_IRQ], 2),
        ] {
            smmu.submit(syncs);
            cons += syncs.len() as u32;
            smmu.expect_both(what, Idle(cons), Interrupts::of(interrupts, 0));
        }
        smmu.push_and_ring(&[SYNC_CS_3]);
        smmu.expect_both("CS 3: illegal", Stopped(6, cerror::ILL), Interrupts::ERROR);
    });
}

#[test]
fn cmd_sync_writes_no_msi_without_idr0_msi() {
    let machine = Builder::virt(qemu()).smmu(&format!("{PROFILE},msi=off"));
    with_queue_of(machine, 4, |smmu| {
        let target = RAM + 0x1_0000;
        smmu.machine().write32(target, 0x1111_1111);
        smmu.submit(&[sync_msi(target, 0x2222_2222)]);
        assert_eq!(smmu.machine().read32(target), 0x1111_1111);
        smmu.expect_interrupts("instead of the MSI", Interrupts::SYNC);
    });
}
