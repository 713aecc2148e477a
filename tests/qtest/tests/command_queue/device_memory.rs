// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Queues and tables in device memory.

use smmuv3_qtest::{
    command,
    command::{SYNC, SYNC_IRQ, TLBI_NSNH_ALL},
    machine::RAM,
    smmu,
    smmu::{cerror, reg, CMDQEN, EVENTQEN, MSI_CMDQ_ABT_ERR, SMMUEN},
    Smmu,
};

use crate::bench::{
    machine, with_queue, with_queue_of, Interrupts,
    Queue::{Idle, Stopped},
    Steps, NOWHERE, PROFILE,
};

#[test]
fn cmdq_outside_ram_is_cerror_abt() {
    with_queue(4, |smmu| {
        for log2size in [0, 4, 8, 19] {
            smmu.queue_at(NOWHERE, log2size);
            smmu.expect_both(
                format_args!("LOG2SIZE {log2size}"),
                Stopped(0, cerror::ABT),
                Interrupts::ERROR,
            );
        }
        smmu.expect_usable();
    });
}

#[test]
fn cmdq_leaving_ram_stops_at_its_end() {
    // RAM ends 1 MiB behind an address that is aligned for a queue of 2 MiB
    with_queue_of(machine().args(["-m", "129"]), 4, |smmu| {
        let base = RAM + (128 << 20);
        let inside = (1_u32 << 20) / 16;
        smmu.setup_queue_at(base, 17, inside - 3);
        smmu.push(&[SYNC_IRQ, TLBI_NSNH_ALL, SYNC_IRQ]);
        smmu.write(reg::CMDQ_PROD, inside + 10);
        smmu.expect_both(
            "the commands before the end of RAM have run",
            Stopped(inside, cerror::ABT),
            Interrupts::of(2, 1),
        );
        smmu.write(reg::CMDQ_PROD, inside);
        smmu.acknowledge();
        smmu.expect("nothing behind the end of RAM", Idle(inside));
    });
}

#[test]
fn cmdq_in_own_registers_does_not_crash_qemu() {
    with_queue(4, |smmu| {
        for log2size in [0, 1, 4, 8, 12, 13] {
            smmu.queue_at(smmu.base(), log2size);
            assert!(smmu.error(), "LOG2SIZE {log2size}");
            smmu.expect_running(log2size);
        }
        smmu.expect_usable();
    });
}

/// The content of device memory may or may not be legal commands; QEMU must not
/// crash or hang.
#[test]
fn cmdq_in_any_device_does_not_crash_qemu() {
    let machine = machine()
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(format!("arm-smmuv3,primary-bus=pcie.2,{PROFILE}"))
        .start();
    let bases = smmu::bases(&machine);
    let smmu = Smmu::at(&machine, bases[0]);
    for base in [
        bases[1],       // another SMMU
        0x0800_0000,    // interrupt distributor
        0x0801_0000,    // CPU interface or ITS
        0x0900_0000,    // UART
        0x0901_0000,    // real-time clock
        0x0902_0000,    // firmware configuration
        0x0903_0000,    // GPIO
        0x0a00_0000,    // virtio-mmio
        0x0c00_0000,    // platform bus
        0x1000_0000,    // PCIe memory window
        0x3eff_0000,    // PCIe port window
        0x40_1000_0000, // PCIe configuration space
        0x80_0000_0000, // high PCIe memory window
        NOWHERE,
    ] {
        for log2size in [0, 6, 12] {
            smmu.queue_at(base, log2size);
            smmu.expect_running(format_args!("a queue at {base:#x}"));
        }
    }
    smmu.expect_usable();
}

/// What the devices make of the words does not matter; QEMU must not crash or hang.
#[test]
fn msi_to_any_device_does_not_crash_qemu() {
    let machine = machine()
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(format!("arm-smmuv3,primary-bus=pcie.2,{PROFILE}"))
        .start();
    let bases = smmu::bases(&machine);
    let smmu = Smmu::at(&machine, bases[0]);
    for base in [
        0,
        bases[0],
        bases[1],
        0x0800_0000,
        0x0801_0000,
        0x0808_0000,
        0x0900_0000,
        0x0901_0000,
        0x0902_0000,
        0x0a00_0000,
        0x0c00_0000,
        0x1000_0000,
        0x3eff_0000,
        0x40_1000_0000,
        0x80_0000_0000,
        NOWHERE,
    ] {
        smmu.new_queue(RAM, 8);
        let offsets = (0..0x100).step_by(4).filter(|offset| *offset != 0);
        let msis: Vec<_> = offsets
            .map(|offset| command::sync_msi(base + offset, 0x1111 * offset as u32))
            .collect();
        smmu.submit(&msis);
        smmu.expect_running(format_args!("MSIs to {base:#x}"));
    }
    smmu.expect_usable();
}

#[test]
fn smmus_ringing_each_other_by_msi_stop() {
    let machine = machine()
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(format!("arm-smmuv3,primary-bus=pcie.2,{PROFILE}"))
        .start();
    let bases = smmu::bases(&machine);
    let [one, two] = [bases[0], bases[1]].map(|base| Smmu::at(&machine, base));
    one.setup_queue(RAM, 4);
    two.setup_queue(RAM + 0x1_0000, 4);
    two.push(&[command::sync_msi(one.base() + reg::CMDQ_PROD, 7), SYNC]);
    let doorbell = command::sync_msi(two.base() + reg::CMDQ_PROD, two.prod());
    one.push_and_ring(&[doorbell, SYNC]);
    one.expect("the first", Idle(2));
    two.expect("the second", Idle(2));
    assert_eq!(one.errors(), 0);
    // the first is at work, so its registers cannot be reached
    assert_eq!(two.errors(), MSI_CMDQ_ABT_ERR);
    assert_eq!(one.read(reg::CMDQ_PROD), one.prod());
}

#[test]
fn cmdq_in_empty_flash_is_illegal() {
    with_queue(4, |smmu| {
        smmu.queue_at(0, 4);
        smmu.expect("empty flash", Stopped(0, cerror::ILL));
    });
}

/// An invalid Stream table is no Command queue error (§7.2).
#[test]
fn strtab_outside_ram_is_no_cmdq_error() {
    with_queue(4, |smmu| {
        let highest = (1 << 44) - (1 << 20);
        for base in [NOWHERE, smmu.base(), 0, 0x0900_0000, RAM, highest] {
            for config in [0, 16, 0x3f, 0x1_0188, 0x1_03bf, 0x3_07ff] {
                smmu.write(reg::CR0, CMDQEN);
                smmu.write64(reg::STRTAB_BASE, base);
                smmu.write(reg::STRTAB_BASE_CFG, config);
                smmu.enable(SMMUEN | EVENTQEN);
                smmu.submit(&[
                    command::cfgi_ste(0x800),
                    command::cfgi_ste_range(0, 15),
                    command::CFGI_ALL,
                    SYNC,
                ]);
                smmu.expect(
                    format_args!("table at {base:#x}, configuration {config:#x}"),
                    Idle(smmu.prod()),
                );
            }
        }
        smmu.expect_running("after all");
    });
}
