// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Base, size and wrap of the Command queue.

use smmuv3_qtest::{
    command,
    command::{SYNC_IRQ, TLBI_NSNH_ALL},
    machine::RAM,
    smmu::{reg, CMDQEN},
};

use crate::bench::{with_queue, Interrupts, Queue::Idle, Steps};

#[test]
fn every_cmdq_size_works_across_both_wraps() {
    with_queue(0, |smmu| {
        for log2size in 0..=19 {
            let entries = 1_u32 << log2size;
            let burst = entries.min(40);
            let mut commands = vec![command::tlbi_nh_asid(7); burst as usize];
            commands[burst as usize - 1] = SYNC_IRQ;
            for start in [entries - 1, 2 * entries - 1, 0] {
                smmu.setup_queue_at(RAM, log2size, start);
                smmu.submit(&commands);
                smmu.expect_both(
                    format_args!("LOG2SIZE {log2size} from {start:#x}"),
                    Idle((start + burst) % (2 * entries)),
                    Interrupts::SYNC,
                );
            }
        }
    });
}

#[test]
fn full_cmdq_is_consumed_from_every_index() {
    with_queue(3, |smmu| {
        for start in 0..16 {
            smmu.setup_queue_at(RAM, 3, start);
            smmu.submit(&[SYNC_IRQ; 8]);
            smmu.expect_both(start, Idle(start ^ 8), Interrupts::of(8, 0));
        }
    });
}

/// Vectors V05 and V14.
#[test]
fn cmdq_base_is_aligned_to_queue_size() {
    with_queue(4, |smmu| {
        for (base, aligned) in [
            (RAM + 0x20, RAM + 0x20),
            (RAM + 0x21, RAM + 0x20),
            (RAM + 0x1228, RAM + 0x1000),
            (RAM + 0x8_00e4, RAM + 0x8_0000),
        ] {
            smmu.machine().fill_memory(RAM, 0x2000, 0);
            smmu.machine()
                .write_memory(aligned, &command::to_bytes(&[SYNC_IRQ]));
            smmu.consume_one_at(base);
            let when = format!("CMDQ_BASE {base:#x}");
            smmu.expect_both(when, Idle(1), Interrupts::SYNC);
        }
    });
}

/// Vector V11 with IDR1.CMDQS 19.
#[test]
fn cmdq_size_above_idr1_is_capped() {
    with_queue(4, |smmu| {
        smmu.setup_queue_at(RAM, 19, 0x7_fffe);
        smmu.disable(CMDQEN);
        smmu.write64(reg::CMDQ_BASE, RAM | 31);
        smmu.enable(CMDQEN);
        smmu.submit(&[TLBI_NSNH_ALL, TLBI_NSNH_ALL, SYNC_IRQ]);
        smmu.expect_both("across the wrap", Idle(0x8_0001), Interrupts::SYNC);
        assert_eq!(smmu.read64(reg::CMDQ_BASE), RAM | 31);
    });
}

/// The wrap flag is another bit then; index bits beyond the new size are
/// dropped.
#[test]
fn cmdq_resize_truncates_indexes() {
    with_queue(8, |smmu| {
        for (before, start, after, expected) in [(8, 0x1ab, 4, 0x0b), (4, 0x13, 8, 0x13)] {
            smmu.setup_queue_at(RAM, before, start);
            smmu.disable(CMDQEN);
            smmu.write64(reg::CMDQ_BASE, RAM | after);
            let when = format!("from {before} to {after}");
            smmu.expect(&when, Idle(expected));
            let slot = RAM + 16 * u64::from(expected);
            smmu.machine()
                .write_memory(slot, &command::to_bytes(&[SYNC_IRQ]));
            smmu.write(reg::CMDQ_PROD, expected + 1);
            smmu.enable(CMDQEN);
            smmu.expect_both(when, Idle(expected + 1), Interrupts::SYNC);
        }
    });
}

/// Vector V15.
#[test]
fn cmdq_base_above_oas_is_truncated() {
    with_queue(4, |smmu| {
        smmu.write_slots(0, &[SYNC_IRQ]);
        smmu.consume_one_at((1 << 52) | RAM | 4);
        smmu.expect_both("bit 52 of the base", Idle(1), Interrupts::SYNC);
    });
}

/// Vector V12.
#[test]
fn cmdq_prod_ignores_bits_above_wrap() {
    with_queue(4, |smmu| {
        smmu.push(&[TLBI_NSNH_ALL, SYNC_IRQ]);
        smmu.write(reg::CMDQ_PROD, 0xffff_ffe2);
        smmu.expect("PROD is 2", Idle(2));
        assert_eq!(smmu.read(reg::CMDQ_PROD) >> 20, 0);
    });
}

/// Vector V16: CONSTRAINED UNPREDICTABLE; nothing is consumed.
#[test]
fn inconsistent_cmdq_is_not_consumed() {
    with_queue(4, |smmu| {
        smmu.setup_queue_at(RAM, 4, 5);
        smmu.push(&[SYNC_IRQ; 2]);
        for prod in [3, 0, 4, 0x16, 0x1f] {
            smmu.write(reg::CMDQ_PROD, prod);
            smmu.expect(format_args!("PROD {prod:#x}"), Idle(5));
        }
        smmu.expect_interrupts("inconsistent", Interrupts::NONE);
        smmu.ring();
        smmu.expect_both("consistent", Idle(7), Interrupts::of(2, 0));
    });
}
