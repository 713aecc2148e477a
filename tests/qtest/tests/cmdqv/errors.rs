// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Errors of hardware queues, from the host to the guest.

use smmuv3_qtest::{
    assigned::Bench,
    cmdqv::{reg, Cmdqv, CmdqvHardware, Register},
    command::{self, SYNC},
    qemu, until, Smmu,
};

use crate::bench::start;

/// `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`
const LOST: u32 = 1;

/// Boots a machine that reports its interrupts.
#[track_caller]
fn booted(bench: &Bench) -> (Cmdqv<'_>, CmdqvHardware<'_>) {
    Smmu::find(bench.machine()).intercept_irqs();
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    let mut hardware = CmdqvHardware::of(bench);
    hardware.step();
    (cmdqv, hardware)
}

/// Waits for one interrupt.
#[track_caller]
fn interrupt(cmdqv: &Cmdqv<'_>) {
    until("an interrupt", || (cmdqv.interrupts() == 1).then_some(()));
}

fn maps(cmdqv: &Cmdqv<'_>) -> [u32; 3] {
    [reg::VI_ERR_MAP, reg::CMDQ_ERR_MAP, reg::LVCMDQ_ERR_MAP].map(|map| cmdqv.read(map))
}

/// C never clears the maps.
#[test]
fn error_maps_show_errors_that_are_active() {
    let bench = start(&qemu());
    let (cmdqv, mut hardware) = booted(&bench);
    for slot in [0, 1, 0] {
        assert_eq!(maps(&cmdqv), [0; 3]);
        cmdqv.submit(slot, &[command::TLBI_NSNH_ALL]);
        assert_eq!(hardware.step(), []);
        interrupt(&cmdqv);
        assert_eq!(maps(&cmdqv), [1, 1 << slot, 1 << slot]);
        let map = bench.machine().read64(cmdqv.base() + reg::LVCMDQ_ERR_MAP);
        assert_eq!(map, 1 << slot, "as one word of 64 bits");
        let cons = cmdqv.get(slot, Register::Cons) & 0xf_ffff;
        let at = Cmdqv::ring(slot) + command::BYTES * u64::from(cons);
        let machine = bench.machine();
        machine.write_memory(at, &command::to_bytes(&[SYNC]));
        cmdqv.acknowledge(slot);
        assert_eq!(hardware.step().len(), 1);
    }
    assert_eq!(maps(&cmdqv), [0; 3]);
    bench.finish();
}

#[test]
fn both_queues_can_have_an_error() {
    let bench = start(&qemu());
    let (cmdqv, mut hardware) = booted(&bench);
    for slot in [0, 1] {
        cmdqv.submit(slot, &[command::TLBI_NSNH_ALL]);
    }
    hardware.step();
    interrupt(&cmdqv);
    assert_eq!(maps(&cmdqv), [1, 3, 3]);
    cmdqv.acknowledge(0);
    assert_eq!(maps(&cmdqv), [1, 2, 2]);
    bench.finish();
}

#[test]
fn masked_interrupt_is_raised_when_unmasked() {
    let bench = start(&qemu());
    let (cmdqv, mut hardware) = booted(&bench);
    cmdqv.write(reg::VI_INT_MASK, 1);
    cmdqv.submit(0, &[command::TLBI_NSNH_ALL]);
    hardware.step();
    until("the error", || (maps(&cmdqv)[0] == 1).then_some(()));
    // the main loop has read the event when it answers the second time
    bench.machine().status();
    bench.machine().status();
    assert_eq!(cmdqv.interrupts(), 0, "masked");
    cmdqv.write(reg::VI_INT_MASK, 0);
    interrupt(&cmdqv);
    cmdqv.write(reg::VI_INT_MASK, 1);
    cmdqv.acknowledge(0);
    cmdqv.write(reg::VI_INT_MASK, 0);
    assert_eq!(cmdqv.interrupts(), 0, "no error");
    bench.finish();
}

/// C compares the first number with one that is not initialized.
#[test]
fn event_sequence_may_begin_anywhere_and_wrap() {
    let bench = start(&qemu());
    let (cmdqv, mut hardware) = booted(&bench);
    for first in [5, i32::MAX as u32] {
        bench.machine().system_reset();
        cmdqv.boot();
        hardware.step();
        cmdqv.interrupts();
        hardware.set_sequence(first);
        cmdqv.submit(0, &[command::TLBI_NSNH_ALL]);
        hardware.step();
        interrupt(&cmdqv);
        hardware.set_sequence(if first == 5 { 6 } else { 0 });
        hardware.report();
        interrupt(&cmdqv);
    }
    bench.finish();
}

/// What was lost may have been an error.
#[test]
fn lost_event_raises_the_interrupt() {
    let bench = start(&qemu());
    let (cmdqv, mut hardware) = booted(&bench);
    hardware.report_as(LOST, &[]);
    interrupt(&cmdqv);
    cmdqv.submit(0, &[command::TLBI_NSNH_ALL]);
    hardware.step();
    interrupt(&cmdqv);
    assert_eq!(maps(&cmdqv), [1, 1, 1]);
    bench.finish();
}

/// The maps are the queues' own: an event is no source of them.
#[test]
fn forged_event_does_not_show_errors() {
    let bench = start(&qemu());
    let (cmdqv, mut hardware) = booted(&bench);
    hardware.report_as(0, &[u64::MAX, u64::MAX]);
    interrupt(&cmdqv);
    assert_eq!(maps(&cmdqv), [0; 3]);
    bench.finish();
}
