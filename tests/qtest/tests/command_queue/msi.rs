// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Message Signalled Interrupts: the completion of a `CMD_SYNC`, and global errors.
//! With accel=on `msi=auto` means on; without, a user can turn them on.

use smmuv3_qtest::{
    command,
    command::{sync_msi, Command, RESERVED, SYNC, SYNC_IRQ},
    machine::RAM,
    qemu,
    smmu::{reg, CMDQ_ERR, GERROR_IRQEN, MSI_CMDQ_ABT_ERR, MSI_GERROR_ABT_ERR},
    Builder, Smmu,
};

use crate::bench::{
    machine, with_queue_of, Interrupts,
    Queue::{Idle, Stopped},
    Steps, NOWHERE,
};

/// Guest physical address of words that are not in the queue.
const MAILBOX: u64 = RAM + 0x10_0000;

/// Runs a test with a queue of 2^`log2size` entries on a machine of each kind.
#[track_caller]
fn with_queues(log2size: u32, test: impl Fn(&Smmu<'_>)) {
    with_queue_of(machine(), log2size, &test);
    with_queue_of(Builder::virt(qemu()).smmu("msi=on"), log2size, &test);
}

fn tlbi(number: u64) -> Command {
    command::tlbi_nh_va(1, number << 12)
}

/// Linux: the MSI zeroes the first word of its own slot, and `CMDQ_CONS` is not read.
#[test]
fn guest_polling_slot_sees_each_completion() {
    with_queues(3, |smmu| {
        for number in 0..40 {
            smmu.push(&[tlbi(number)]);
            let slot = smmu.slot(smmu.prod());
            smmu.push(&[sync_msi(slot, 0)]);
            assert_ne!(smmu.machine().read32(slot), 0);
            smmu.ring();
            assert_eq!(smmu.machine().read32(slot), 0, "unmap {number}");
            // the rest of the slot is as it was
            assert_eq!(smmu.machine().read32(slot + 8), slot as u32);
        }
        smmu.expect_both("in the end", Idle(0), Interrupts::NONE);
    });
}

/// Guests that do not look at `IDR0.MSI`: Xen, firmware, a Linux without MSIs.
#[test]
fn guest_polling_cons_completes_with_idr0_msi() {
    with_queues(4, |smmu| {
        let sev = [0x2046, MAILBOX];
        for signal in [SYNC, sev, [0x46, MAILBOX]] {
            smmu.submit(&[tlbi(1), signal]);
        }
        smmu.expect_both("no signal", Idle(6), Interrupts::NONE);
        assert_eq!(smmu.machine().read32(MAILBOX), 0);
    });
}

#[test]
fn guest_waiting_for_wired_irq_completes_with_idr0_msi() {
    with_queues(4, |smmu| {
        smmu.submit(&[tlbi(1), SYNC_IRQ]);
        smmu.expect_interrupts("no address: the line", Interrupts::SYNC);
        // bits 1:0 and 63:56 are no part of the address
        smmu.submit(&[[0x1046 | (7 << 32), 0xff00_0000_0000_0003]]);
        smmu.expect_interrupts("no address either", Interrupts::SYNC);
        smmu.submit(&[sync_msi(MAILBOX, 7)]);
        smmu.expect_both("an address: the MSI alone", Idle(4), Interrupts::NONE);
        assert_eq!(smmu.machine().read32(MAILBOX), 7);
    });
}

/// FreeBSD: an MSI into the own slot whatever `IDR0` says, and `CMDQ_CONS` before each command.
#[test]
fn guest_always_polling_memory_sees_each_completion() {
    with_queues(4, |smmu| {
        for number in 0..40 {
            for command in [tlbi(number), command::tlbi_nh_asid(1)] {
                assert_eq!(smmu.cons(), smmu.prod());
                smmu.push_and_ring(&[command]);
            }
            let slot = smmu.slot(smmu.prod());
            smmu.push_and_ring(&[sync_msi(slot, 0)]);
            assert_eq!(smmu.machine().read32(slot), 0, "unmap {number}");
        }
        smmu.expect("in the end", Idle(120 % 32));
    });
}

#[test]
fn msis_are_written_in_order_of_their_syncs() {
    with_queues(4, |smmu| {
        let mailboxes = (0..15).map(|number| sync_msi(MAILBOX + 4 * number, number as u32 + 1));
        let last = sync_msi(MAILBOX, 0x99);
        smmu.submit(&mailboxes.chain([last]).collect::<Vec<_>>());
        let bytes = smmu.machine().read_memory(MAILBOX, 60);
        let words: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let expected: Vec<u32> = [0x99].into_iter().chain(2..=15).collect();
        assert_eq!(words, expected);
        smmu.expect_both("only CMD_SYNCs", Idle(16), Interrupts::NONE);
    });
}

#[test]
fn msi_into_fetched_slots_changes_no_command() {
    with_queues(4, |smmu| {
        // the first word of each following command becomes Reserved
        let slots = [smmu.slot(1), smmu.slot(2), smmu.slot(3)];
        smmu.submit(&[
            sync_msi(slots[0], 0xff),
            tlbi(1),
            sync_msi(slots[2], 0xff),
            SYNC_IRQ,
        ]);
        smmu.expect_both("what was fetched", Idle(4), Interrupts::SYNC);
        assert_eq!(smmu.machine().read32(slots[0]), 0xff);
        assert_eq!(smmu.machine().read32(slots[2]), 0xff);
    });
}

#[test]
fn msi_address_above_oas_is_truncated() {
    with_queues(4, |smmu| {
        smmu.submit(&[sync_msi((1 << 44) | (0x801 << 45) | MAILBOX, 0x4711)]);
        smmu.expect_both("44 bits", Idle(1), Interrupts::NONE);
        assert_eq!(smmu.machine().read32(MAILBOX), 0x4711);
        assert_eq!(smmu.errors(), 0);
    });
}

#[test]
fn aborted_sync_msi_is_gerror_and_cmdq_continues() {
    with_queues(6, |smmu| {
        let own = smmu.base() + reg::CMDQ_PROD;
        let highest = (1 << 44) - 4;
        for (what, target) in [
            ("nowhere", NOWHERE),
            ("its own registers", own),
            ("the last address", highest),
        ] {
            let before = smmu.prod();
            let bad = sync_msi(target, 0x3f);
            smmu.submit(&[bad, tlbi(1), bad, sync_msi(MAILBOX, 1), SYNC_IRQ]);
            smmu.expect_both(what, Idle(before + 5), Interrupts::of(1, 1));
            assert_eq!(smmu.errors(), MSI_CMDQ_ABT_ERR, "{what}");
            assert_eq!(smmu.machine().read32(MAILBOX), 1);
            smmu.submit(&[bad]);
            smmu.expect_interrupts("the error is active already", Interrupts::NONE);
            smmu.acknowledge();
            smmu.submit(&[bad]);
            smmu.expect_interrupts("the error is new", Interrupts::ERROR);
            smmu.acknowledge();
            smmu.machine().write32(MAILBOX, 0);
        }
        smmu.write(reg::IRQ_CTRL, 0);
        smmu.submit(&[sync_msi(NOWHERE, 1)]);
        smmu.expect_interrupts("the interrupt is not enabled", Interrupts::NONE);
        assert_eq!(smmu.errors(), MSI_CMDQ_ABT_ERR);
        smmu.acknowledge();
        smmu.expect_usable();
    });
}

/// Sets the GERROR MSI, for which the interrupt is disabled meanwhile.
fn setup_gerror_msi(smmu: &Smmu<'_>, address: u64, data: u32) {
    smmu.write(reg::IRQ_CTRL, 0);
    smmu.setup_msi(reg::GERROR_IRQ_CFG0, address, data);
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
}

#[test]
fn gerror_msi_is_written_besides_wired_irq() {
    with_queues(4, |smmu| {
        setup_gerror_msi(smmu, MAILBOX, 0x4711);
        smmu.push_and_ring(&[SYNC, RESERVED, SYNC]);
        smmu.expect_both("an error", Stopped(1, 1), Interrupts::ERROR);
        assert_eq!(smmu.machine().read32(MAILBOX), 0x4711);
        // rewritten while it is enabled, which has no effect
        smmu.setup_msi(reg::GERROR_IRQ_CFG0, MAILBOX + 8, 0x815);
        smmu.machine().write32(MAILBOX, 0);
        smmu.acknowledge();
        smmu.expect_both("the same again", Stopped(1, 1), Interrupts::ERROR);
        assert_eq!(smmu.machine().read32(MAILBOX), 0x4711);
        assert_eq!(smmu.machine().read32(MAILBOX + 8), 0);
        // an error of another kind
        smmu.write_slots(1, &[sync_msi(NOWHERE, 0)]);
        smmu.machine().write32(MAILBOX, 0);
        smmu.acknowledge();
        smmu.expect_interrupts("an MSI that aborts", Interrupts::ERROR);
        assert_eq!(smmu.errors(), MSI_CMDQ_ABT_ERR);
        assert_eq!(smmu.machine().read32(MAILBOX), 0x4711);
    });
}

#[test]
fn gerror_msi_without_address_is_wired_irq_only() {
    with_queues(4, |smmu| {
        setup_gerror_msi(smmu, 0, 0x4711);
        let before = smmu.machine().read_memory(0, 16);
        smmu.push_and_ring(&[RESERVED]);
        smmu.expect_both("an error", Stopped(0, 1), Interrupts::ERROR);
        assert_eq!(smmu.machine().read_memory(0, 16), before);
        assert_eq!(smmu.errors(), CMDQ_ERR);
    });
}

#[test]
fn aborted_gerror_msi_is_gerror_without_irq() {
    with_queues(4, |smmu| {
        for target in [NOWHERE, smmu.base() + reg::CR0] {
            setup_gerror_msi(smmu, target, 0);
            smmu.push_and_ring(&[RESERVED]);
            smmu.expect_interrupts("of the command alone", Interrupts::ERROR);
            assert_eq!(smmu.errors(), CMDQ_ERR | MSI_GERROR_ABT_ERR);
            // later MSIs are sent all the same
            setup_gerror_msi(smmu, MAILBOX, 0x4711);
            smmu.write(reg::GERRORN, smmu.read(reg::GERRORN) ^ CMDQ_ERR);
            smmu.expect_interrupts("the command again", Interrupts::ERROR);
            assert_eq!(smmu.machine().read32(MAILBOX), 0x4711);
            assert_eq!(smmu.errors(), CMDQ_ERR | MSI_GERROR_ABT_ERR);
            smmu.machine().write32(MAILBOX, 0);
            smmu.new_queue(RAM, 4);
        }
        smmu.expect_usable();
    });
}
