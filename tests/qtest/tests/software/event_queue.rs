// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Event queue: records, interrupts and overflow.

use smmuv3_qtest::{
    command::{RESERVED, SYNC},
    smmu::{reg, EVENTQEN, EVENTQ_IRQEN, GERROR_IRQEN, MSI_EVENTQ_ABT_ERR},
    Access,
};

use crate::{
    bench::{machine, Bench, Stage1, DATA, EVENT_LOG2SIZE, EVENT_QUEUE, IOVA, NOWHERE},
    record::{Kind, Record},
    tables::Granule,
};

/// `GERROR.EVENTQ_ABT_ERR`
const EVENTQ_ABT_ERR: u32 = 1 << 2;
/// `EVENTQ_PROD.OVFLG`, `EVENTQ_CONS.OVACKFLG`
const OVERFLOW: u32 = 1 << 31;

/// Causes the `number`th fault and returns its record.
fn fault(bench: &Bench<'_>, number: u64) -> Record {
    let iova = IOVA + 0x1000 * (number + 1);
    bench.edu.access(Access::Write, iova);
    bench.fault1(Kind::Translation, Access::Write, iova)
}

/// Runs a test with an Event queue of 2^`log2size` entries and stage 1.
#[track_caller]
fn with_queue(log2size: u32, test: impl FnOnce(&Bench<'_>)) {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    bench.setup_event_queue(EVENT_QUEUE, log2size);
    // no stale bytes are part of a record
    machine.fill_memory(EVENT_QUEUE, 32 << EVENT_LOG2SIZE, 0xff);
    test(&bench);
}

#[track_caller]
fn expect_pointers(bench: &Bench<'_>, prod: u32, cons: u32) {
    let smmu = &bench.smmu;
    let actual = [reg::EVENTQ_PROD, reg::EVENTQ_CONS].map(|register| smmu.read(register));
    assert_eq!(actual, [prod, cons], "EVENTQ_PROD, EVENTQ_CONS");
    assert_eq!(smmu.read(reg::GERROR), smmu.read(reg::GERRORN));
}

#[test]
fn event_records_wrap_around_eventq() {
    for log2size in [0, 1, 3] {
        with_queue(log2size, |bench| {
            let entries = 1 << log2size;
            let pointers = 2 * entries;
            for number in 0..3 * pointers {
                let record = fault(bench, u64::from(number));
                let next = (number + 1) % pointers;
                expect_pointers(bench, next, number % pointers);
                assert_eq!(bench.record(number % entries), record);
                bench.smmu.write(reg::EVENTQ_CONS, next);
            }
            let behind = EVENT_QUEUE + 32 * u64::from(entries);
            assert_eq!(bench.machine.read64(behind), u64::MAX, "behind the queue");
        });
    }
}

#[test]
fn eventq_raises_irq_when_no_longer_empty() {
    with_queue(3, |bench| {
        let smmu = &bench.smmu;
        smmu.intercept_irqs();
        smmu.write(reg::IRQ_CTRL, EVENTQ_IRQEN | GERROR_IRQEN);
        smmu.pulses();
        let expect = |when, count| assert_eq!(smmu.pulses(), [count, 0, 0, 0], "{when}");
        fault(bench, 0);
        expect("the first", 1);
        fault(bench, 1);
        fault(bench, 2);
        expect("more", 0);
        smmu.write(reg::EVENTQ_CONS, 2);
        fault(bench, 3);
        expect("one is still there", 0);
        smmu.write(reg::EVENTQ_CONS, 4);
        fault(bench, 4);
        expect("all have been taken", 1);
        smmu.write(reg::EVENTQ_CONS, 5);
        smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
        fault(bench, 5);
        expect("the interrupt is disabled", 0);
        expect_pointers(bench, 6, 5);
    });
}

/// Where MSIs are written.
const MSIS: u64 = DATA + 0x10_0000;

/// Runs a test with an Event queue that has an MSI to `target`, and GERROR with one to
/// [`MSIS`] + 4.
#[track_caller]
fn with_msi(target: u64, test: impl FnOnce(&Bench<'_>)) {
    let machine = machine("1,msi=on").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    let smmu = &bench.smmu;
    smmu.setup_msi(reg::EVENTQ_IRQ_CFG0, target, 0x4711);
    smmu.setup_msi(reg::GERROR_IRQ_CFG0, MSIS + 4, 0x815);
    smmu.intercept_irqs();
    smmu.write(reg::IRQ_CTRL, EVENTQ_IRQEN | GERROR_IRQEN);
    smmu.pulses();
    test(&bench);
}

#[test]
fn eventq_msi_is_written_when_no_longer_empty() {
    with_msi(MSIS, |bench| {
        let (smmu, machine) = (&bench.smmu, bench.machine);
        let record = fault(bench, 0);
        assert_eq!(bench.record(0), record);
        assert_eq!(smmu.pulses(), [1, 0, 0, 0], "the line as well");
        assert_eq!(machine.read32(MSIS), 0x4711);
        machine.write32(MSIS, 0);
        fault(bench, 1);
        assert_eq!(machine.read32(MSIS), 0, "it is not empty");
        smmu.write(reg::EVENTQ_CONS, 2);
        fault(bench, 2);
        assert_eq!(machine.read32(MSIS), 0x4711);
        smmu.write(reg::EVENTQ_CONS, 3);
        machine.write32(MSIS, 0);
        smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
        fault(bench, 3);
        assert_eq!(machine.read32(MSIS), 0, "the interrupt is disabled");
        assert_eq!(smmu.errors(), 0);
    });
}

#[test]
fn aborted_eventq_msi_is_gerror_and_records_continue() {
    with_msi(NOWHERE, |bench| {
        let (smmu, machine) = (&bench.smmu, bench.machine);
        let record = fault(bench, 0);
        assert_eq!(bench.record(0), record);
        assert_eq!(smmu.pulses(), [1, 0, 0, 1]);
        assert_eq!(smmu.errors(), MSI_EVENTQ_ABT_ERR);
        assert_eq!(machine.read32(MSIS + 4), 0x815, "GERROR's own MSI");
        machine.write32(MSIS + 4, 0);
        smmu.write(reg::EVENTQ_CONS, 1);
        let second = fault(bench, 1);
        assert_eq!(bench.record(1), second);
        assert_eq!(smmu.pulses(), [1, 0, 0, 0], "the error is active already");
        assert_eq!(machine.read32(MSIS + 4), 0);
    });
}

/// An MSI can reach any register of the SMMU that sends it.
#[test]
fn eventq_msi_to_own_registers_does_not_crash_qemu() {
    let machine = machine("1,msi=on").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    let smmu = &bench.smmu;
    for offset in (0..0x100).step_by(4).chain([reg::EVENTQ_PROD]) {
        smmu.push(&[SYNC, RESERVED]);
        for data in [0, u32::MAX, smmu.prod()] {
            smmu.write(reg::IRQ_CTRL, 0);
            smmu.setup_msi(reg::EVENTQ_IRQ_CFG0, smmu.base() + offset, data);
            smmu.setup_msi(reg::GERROR_IRQ_CFG0, smmu.base() + reg::CMDQ_PROD, data);
            smmu.write(reg::IRQ_CTRL, EVENTQ_IRQEN | GERROR_IRQEN);
            bench.setup_event_queue(EVENT_QUEUE, EVENT_LOG2SIZE);
            bench.edu.access(Access::Write, IOVA + 0x5000);
            assert_eq!(machine.status(), "running", "{offset:#x}");
        }
        machine.system_reset();
        assert_eq!(smmu.errors(), 0);
        bench.edu.program();
        bench.program();
    }
    fault(&bench, 0);
    assert!(machine.quit().status.success());
}

/// An overflow is no global error.
#[test]
fn eventq_overflow_toggles_ovflg_once() {
    with_queue(1, |bench| {
        let records = [fault(bench, 0), fault(bench, 1)];
        expect_pointers(bench, 2, 0);
        for number in 2..5 {
            fault(bench, number);
            expect_pointers(bench, OVERFLOW | 2, 0);
        }
        assert_eq!([bench.record(0), bench.record(1)], records);
    });
}

#[test]
fn acknowledged_overflow_toggles_ovflg_again() {
    with_queue(1, |bench| {
        let cons = |value| bench.smmu.write(reg::EVENTQ_CONS, value);
        for number in 0..3 {
            fault(bench, number);
        }
        expect_pointers(bench, OVERFLOW | 2, 0);
        cons(OVERFLOW | 2);
        let record = fault(bench, 3);
        expect_pointers(bench, OVERFLOW | 3, OVERFLOW | 2);
        assert_eq!(bench.record(0), record);
        fault(bench, 4);
        expect_pointers(bench, OVERFLOW, OVERFLOW | 2);
        fault(bench, 5);
        expect_pointers(bench, 0, OVERFLOW | 2);
    });
}

/// The overflow need not be acknowledged for that.
#[test]
fn overflowed_eventq_records_while_there_is_room() {
    with_queue(1, |bench| {
        for number in 0..3 {
            fault(bench, number);
        }
        bench.smmu.write(reg::EVENTQ_CONS, 2);
        let record = fault(bench, 3);
        expect_pointers(bench, OVERFLOW | 3, 2);
        assert_eq!(bench.record(0), record);
        fault(bench, 4);
        fault(bench, 5);
        // a second overflow is not visible before the first is acknowledged
        expect_pointers(bench, OVERFLOW, 2);
    });
}

#[test]
fn eventq_overflow_raises_no_irq() {
    with_queue(0, |bench| {
        let smmu = &bench.smmu;
        fault(bench, 0);
        smmu.intercept_irqs();
        smmu.write(reg::IRQ_CTRL, EVENTQ_IRQEN | GERROR_IRQEN);
        smmu.pulses();
        fault(bench, 1);
        expect_pointers(bench, OVERFLOW | 1, 0);
        assert_eq!(smmu.pulses(), [0; 4]);
    });
}

#[test]
fn disabled_eventq_neither_records_nor_overflows() {
    with_queue(1, |bench| {
        let smmu = &bench.smmu;
        smmu.disable(EVENTQEN);
        for number in 0..4 {
            fault(bench, number);
        }
        expect_pointers(bench, 0, 0);
        assert_eq!(bench.machine.read64(EVENT_QUEUE), u64::MAX);
        smmu.enable(EVENTQEN);
        fault(bench, 4);
        expect_pointers(bench, 1, 0);
        fault(bench, 5);
        smmu.disable(EVENTQEN);
        fault(bench, 6);
        expect_pointers(bench, 2, 0);
    });
}

#[test]
fn unrecorded_faults_still_abort() {
    with_queue(0, |bench| {
        bench.smmu.disable(EVENTQEN);
        bench.machine.write32(DATA, 1);
        let iova = IOVA + 0x1000;
        for enabled in [false, true, true] {
            if enabled {
                bench.smmu.enable(EVENTQEN);
            }
            bench.edu.write(iova);
            bench.edu.read(iova, 4);
            assert_eq!(bench.machine.read32(DATA), 1);
        }
    });
}

/// See §7.2.2.
#[test]
fn eventq_outside_ram_is_gerror() {
    with_queue(1, |bench| {
        let smmu = &bench.smmu;
        smmu.intercept_irqs();
        smmu.write(reg::IRQ_CTRL, EVENTQ_IRQEN | GERROR_IRQEN);
        bench.setup_event_queue(NOWHERE, 1);
        smmu.pulses();
        fault(bench, 0);
        let error = || smmu.read(reg::GERROR) ^ smmu.read(reg::GERRORN);
        assert_eq!(error(), EVENTQ_ABT_ERR);
        assert_eq!(smmu.pulses(), [0, 0, 0, 1]);
        assert_eq!(smmu.read(reg::EVENTQ_PROD), 0);
        // it stays active and does not toggle again
        fault(bench, 1);
        assert_eq!(error(), EVENTQ_ABT_ERR);
        assert_eq!(smmu.pulses(), [0; 4]);
        smmu.acknowledge();
        assert_eq!(error(), 0);
        fault(bench, 2);
        assert_eq!(error(), EVENTQ_ABT_ERR);
        assert_eq!(smmu.pulses(), [0, 0, 0, 1]);
    });
}

/// The queue is not writable before the error is acknowledged (§7.2.1).
#[test]
fn active_eventq_abt_err_prevents_records() {
    with_queue(1, |bench| {
        bench.setup_event_queue(NOWHERE, 1);
        fault(bench, 0);
        bench.setup_event_queue(EVENT_QUEUE, 1);
        for number in 1..4 {
            fault(bench, number);
        }
        let prod = bench.smmu.read(reg::EVENTQ_PROD);
        assert_eq!(prod, 0, "EVENTQ_PROD");
        bench.smmu.acknowledge();
        let record = fault(bench, 4);
        expect_pointers(bench, 1, 0);
        assert_eq!(bench.record(0), record);
    });
}
