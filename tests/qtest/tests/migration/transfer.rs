// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration between the two devices, in every direction.

use std::{path::PathBuf, thread, time::Duration};

use serde_json::json;
use smmuv3_qtest::{
    command::{sync_msi, CFGI_ALL, RESERVED, SYNC, SYNC_IRQ, TLBI_NSNH_ALL},
    machine::RAM,
    qemu, qemu_c,
    smmu::{self, irq, reg, CMDQEN, EVENTQEN, GERROR_IRQEN, MSI_CMDQ_ABT_ERR, SMMUEN},
    until, Builder, Machine, RootPort, Smmu,
};

use crate::{
    guest::{registers, ste, Form, Guest, Table, IOVA},
    stream::{field, Stream},
};

/// Migrates a guest along `way`, compares its registers after every migration,
/// and resumes it after the last one.
#[track_caller]
fn migrates(form: Form, way: &[fn() -> PathBuf]) {
    for table in [Table::Linear, Table::TwoLevels] {
        let guest = Guest { form, table };
        let mut machine = form.builder(way[0]()).start();
        guest.run_to_state(&machine);
        let before = registers(&machine);
        for (number, station) in way.iter().enumerate().skip(1) {
            let stream = Stream::save(machine);
            machine = stream.load(form.builder(station()));
            assert_eq!(registers(&machine), before, "station {number}, {guest:?}");
        }
        guest.resume(&machine);
        assert_eq!(machine.quit().stderr, "", "log");
    }
}

#[test]
fn machine_smmu_migrates_from_c_to_rust() {
    migrates(Form::Machine, &[qemu_c, qemu]);
}

#[test]
fn machine_smmu_migrates_from_rust_to_c() {
    migrates(Form::Machine, &[qemu, qemu_c]);
}

#[test]
fn machine_smmu_migrates_from_c_to_rust_to_c() {
    migrates(Form::Machine, &[qemu_c, qemu, qemu_c]);
}

#[test]
fn machine_smmu_migrates_from_rust_to_rust() {
    migrates(Form::Machine, &[qemu, qemu]);
}

#[test]
fn user_smmu_migrates_from_c_to_rust() {
    migrates(Form::Device, &[qemu_c, qemu]);
}

#[test]
fn user_smmu_migrates_from_rust_to_c() {
    migrates(Form::Device, &[qemu, qemu_c]);
}

#[test]
fn user_smmu_migrates_from_c_to_rust_to_c() {
    migrates(Form::Device, &[qemu_c, qemu, qemu_c]);
}

#[test]
fn user_smmu_migrates_from_rust_to_rust() {
    migrates(Form::Device, &[qemu, qemu]);
}

/// Both directions between the devices.
const WAYS: [[fn() -> PathBuf; 2]; 2] = [[qemu_c, qemu], [qemu, qemu_c]];

/// The C device would consume the rest at the next doorbell only, which does
/// not come.
#[test]
fn pending_commands_are_consumed_before_migration() {
    const LARGEST: u32 = 19;
    // trace each command, which is slow enough not to be done before QEMU saves
    let slow = ["-trace", "smmuv3_cmdq_opcode", "-D", "/dev/null"];
    let source = Form::Device.builder(qemu()).args(slow).start();
    let smmu = Smmu::find(&source);
    smmu.setup_queue(RAM + (16 << 20), LARGEST);
    smmu.push(&vec![TLBI_NSNH_ALL; 1 << LARGEST]);
    // Only the doorbell's slice is consumed when QEMU is stopped.
    let prod = smmu.prod();
    let doorbell = [(smmu.base() + reg::CMDQ_PROD, prod)];
    let cons = source.write32_then_read32(&doorbell, smmu.base() + reg::CMDQ_CONS);
    assert!(cons < prod, "no command is pending");
    let machine = Stream::save(source).load(Form::Device.builder(qemu_c()));
    assert_eq!(Smmu::find(&machine).cons(), prod);
}

/// The registers of MSIs are in the stream, and are dropped where `IDR0.MSI` is 0.
#[test]
fn msi_registers_migrate() {
    const MAILBOX: u64 = RAM + (16 << 20);
    const NOWHERE: u64 = 0x6000_0000;
    let with_msi = || Builder::virt(qemu()).smmu("msi=on");
    let source = with_msi().start();
    let smmu = Smmu::find(&source);
    smmu.setup_msi(reg::GERROR_IRQ_CFG0, MAILBOX, 0x4711);
    smmu.setup_msi(reg::EVENTQ_IRQ_CFG0, MAILBOX + 4, 0x815);
    smmu.write(reg::EVENTQ_IRQ_CFG2, 0x1f);
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    smmu.setup_queue(RAM, 4);
    smmu.submit(&[sync_msi(NOWHERE, 1)]);
    assert_eq!(source.read32(MAILBOX), 0x4711);
    source.write32(MAILBOX, 0);
    let before = registers(&source);
    let stream = Stream::save(source);
    let all = stream.with(field("gerror_irq_cfg0"), u64::MAX);

    let machine = stream.load(with_msi());
    assert_eq!(registers(&machine), before);
    machine.qmp("cont", json!({}));
    let target = Smmu::find(&machine);
    assert_eq!(target.errors(), MSI_CMDQ_ABT_ERR);
    target.adopt_queue();
    target.push(&[sync_msi(MAILBOX + 8, 7), RESERVED]);
    target.ring();
    assert_eq!(machine.read32(MAILBOX + 8), 7);
    assert_eq!(machine.read32(MAILBOX), 0x4711);

    let reserved = all.load(with_msi());
    let cfg0 = Smmu::find(&reserved).read64(reg::GERROR_IRQ_CFG0);
    assert_eq!(cfg0, 0x0fff_ffff_fffc);

    let without = all.load(Builder::virt(qemu()).smmu(""));
    let plain = Smmu::find(&without);
    for register in [reg::GERROR_IRQ_CFG0, reg::EVENTQ_IRQ_CFG0] {
        assert_eq!((plain.read64(register), plain.read64(register + 8)), (0, 0));
    }
    assert_eq!(plain.errors(), 0);
}

/// Migrates a machine that ran `run` from `from` to `to`.
#[track_caller]
fn migrated(from: fn() -> PathBuf, to: fn() -> PathBuf, run: impl FnOnce(&Smmu<'_>)) -> Machine {
    let source = Form::Device.builder(from()).start();
    run(&Smmu::find(&source));
    Stream::save(source).load(Form::Device.builder(to()))
}

#[test]
fn unused_smmu_migrates() {
    for [from, to] in WAYS {
        let source = Form::Machine.builder(from()).start();
        let before = registers(&source);
        let machine = Stream::save(source).load(Form::Machine.builder(to()));
        assert_eq!(registers(&machine), before);
        let mut port = RootPort::new(&machine, Form::Machine.sid());
        port.arrives(IOVA, IOVA);
    }
}

#[test]
fn commands_in_disabled_cmdq_are_consumed_after_migration() {
    for [from, to] in WAYS {
        let machine = migrated(from, to, |smmu| {
            smmu.setup_queue(RAM, 4);
            smmu.disable(CMDQEN);
            smmu.push(&[CFGI_ALL, TLBI_NSNH_ALL, SYNC]);
            smmu.ring();
        });
        let smmu = Smmu::find(&machine);
        assert_eq!((smmu.read(reg::CMDQ_PROD), smmu.cons()), (3, 0));
        smmu.enable(CMDQEN);
        smmu.wait_cons(3);
        assert!(!smmu.error());
    }
}

/// The interrupt of a `CMD_SYNC` in the `GICv2` of `virt`: SPI 74 is the SMMU's first.
const CMD_SYNC_INTID: u64 = 32 + 74 + irq::CMD_SYNC as u64;
/// Distributor of the `GICv2` of `virt`
const GICD: u64 = 0x0800_0000;
const GICD_ISPENDR: u64 = GICD + 0x200 + 4 * (CMD_SYNC_INTID / 32);
const GICD_ICFGR: u64 = GICD + 0xc00 + 4 * (CMD_SYNC_INTID / 16);

/// Commands in the loaded state are consumed only when the machine runs: a
/// `GICv2` is loaded after the SMMU and would lose their interrupt.
#[test]
fn pending_sync_keeps_its_interrupt_while_gicv2_is_loaded() {
    let builder = || Builder::virt_with(qemu(), "iommu=smmuv3,gic-version=2");
    let source = builder().start();
    // edge-triggered
    source.write32(GICD_ICFGR, 0b10 << (2 * (CMD_SYNC_INTID % 16)));
    {
        let smmu = Smmu::find(&source);
        smmu.setup_queue(RAM, 4);
        smmu.disable(CMDQEN);
        smmu.push(&[TLBI_NSNH_ALL, SYNC_IRQ]);
        smmu.ring();
    }
    let pending =
        |machine: &Machine| machine.read32(GICD_ISPENDR) & (1 << (CMD_SYNC_INTID % 32)) != 0;
    assert!(!pending(&source));
    // as a device that was stopped in the middle of the queue saves it
    let stream = Stream::save(source)
        .with(field("cr0"), CMDQEN.into())
        .with(field("cr0ack"), CMDQEN.into());

    let machine = builder().args(["-incoming", "defer"]).start();
    let smmu = Smmu::find(&machine);
    stream.load_in_two(&machine, "arm_gic", || {
        until("the SMMU's state", || {
            (smmu.read(reg::CMDQ_PROD) == 2).then_some(())
        });
        thread::sleep(Duration::from_millis(100));
        assert_eq!(smmu.cons(), 0, "consumed while the state is loaded");
    });
    assert_eq!((machine.status(), smmu.cons()), ("paused".into(), 0));
    assert!(!pending(&machine));
    machine.qmp("cont", json!({}));
    smmu.wait_cons(2);
    assert!(pending(&machine), "the interrupt is lost");
}

/// Each SMMU gets its own registers.
#[test]
fn two_smmus_migrate_with_their_registers() {
    let builder = |binary: PathBuf| {
        Builder::virt(binary)
            .smmu("stage=nested")
            .device("arm-smmuv3,primary-bus=pcie.0,stage=2")
            .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
            .device("arm-smmuv3,primary-bus=pcie.2")
    };
    for [from, to] in WAYS {
        let source = builder(from()).start();
        let bases = smmu::bases(&source);
        assert_eq!(bases.len(), 3);
        for (number, base) in (1..).zip(&bases) {
            Smmu::at(&source, *base).setup_queue(RAM + number * 0x1_0000, number as u32);
        }
        let machine = Stream::save(source).load(builder(to()));
        assert_eq!(smmu::bases(&machine), bases);
        for (number, base) in (1..).zip(&bases) {
            let queue = Smmu::at(&machine, *base).read64(reg::CMDQ_BASE);
            assert_eq!(queue, (RAM + number * 0x1_0000) | number, "{number}");
        }
    }
}

#[test]
fn sbsa_ref_smmu_migrates() {
    let builder = |binary: PathBuf| {
        Builder::new(binary)
            .args(["-machine", "sbsa-ref,accel=qtest"])
            // a ROM that is not part of the build
            .args(["-global", "bochs-display.romfile="])
    };
    for [from, to] in WAYS {
        let source = builder(from()).start();
        let smmu = Smmu::find(&source);
        smmu.write(reg::CR1, 0xd75);
        smmu.write64(reg::STRTAB_BASE, 0x100_4000_0000);
        smmu.write(reg::GBPA, 0x8010_1000);
        smmu.write(reg::CR0, EVENTQEN);
        let before = registers(&source);
        let machine = Stream::save(source).load(builder(to()));
        assert_eq!(registers(&machine), before);
    }
}

/// A guest that waits for a `CMD_SYNC` writes no further doorbell, so all
/// commands must be consumed before the machine has stopped: the C device would
/// not resume.
#[test]
fn running_cmdq_is_consumed_before_migration() {
    const LOG2: u32 = 16;
    const ALL: u32 = 1 << LOG2;
    for [from, to] in WAYS {
        let source = Form::Device.builder(from()).start();
        let smmu = Smmu::find(&source);
        smmu.setup_queue(RAM + (4 << 20), LOG2);
        smmu.push(&vec![SYNC; ALL as usize]);
        smmu.ring();
        source.qmp("stop", json!({}));
        assert_eq!(smmu.cons(), ALL, "when the machine has stopped");
        let machine = Stream::save(source).load(Form::Device.builder(to()));
        assert_eq!(Smmu::find(&machine).cons(), ALL, "after the move");
    }
}

/// Caches are not part of the state: the destination walks the tables again.
#[test]
fn migration_does_not_transfer_caches() {
    let table = RAM + (4 << 20);
    for [from, to] in WAYS {
        let machine = migrated(from, to, |smmu| {
            let entry = table + 64 * u64::from(Form::Device.sid());
            smmu.setup_stream_table(table, 12);
            smmu.machine().write64(entry, ste::BYPASS);
            smmu.enable(SMMUEN);
            RootPort::new(smmu.machine(), Form::Device.sid()).arrives(IOVA, IOVA);
            // no CFGI_STE
            smmu.machine().write64(entry, 0);
        });
        let mut port = RootPort::new(&machine, Form::Device.sid());
        port.is_aborted(IOVA, &[IOVA]);
    }
}

/// A full Event queue migrates unchanged and records again when there is room.
#[test]
fn full_eventq_migrates() {
    let pointers = |smmu: &Smmu<'_>| (smmu.read(reg::EVENTQ_PROD), smmu.read(reg::EVENTQ_CONS));
    for [from, to] in WAYS {
        let machine = migrated(from, to, |smmu| {
            smmu.setup_stream_table(RAM + (4 << 20), 12);
            smmu.write64(reg::EVENTQ_BASE, (RAM + (2 << 20)) | 1);
            smmu.enable(SMMUEN | EVENTQEN);
            let mut port = RootPort::new(smmu.machine(), Form::Device.sid());
            port.write(IOVA);
            port.write(IOVA);
            assert_eq!(pointers(smmu), (2, 0));
        });
        let smmu = Smmu::find(&machine);
        assert_eq!(pointers(&smmu), (2, 0));
        smmu.write(reg::EVENTQ_CONS, 1);
        RootPort::new(&machine, Form::Device.sid()).write(IOVA);
        assert_eq!(pointers(&smmu), (3, 1));
    }
}

/// The C device never leaves the two-level format once it was set, and saves it
/// in `features`. `STRTAB_BASE_CFG.FMT` decides (§6.3.25).
#[test]
fn migration_derives_strtab_format_from_register() {
    let table = RAM + (4 << 20);
    let source = Form::Device.builder(qemu_c()).start();
    let smmu = Smmu::find(&source);
    smmu.write64(reg::STRTAB_BASE, table);
    smmu.write(reg::STRTAB_BASE_CFG, (1 << 16) | (8 << 6) | 13);
    smmu.write(reg::STRTAB_BASE_CFG, 12);
    source.write64(table + 64 * u64::from(Form::Device.sid()), ste::BYPASS);
    smmu.enable(SMMUEN);
    let stream = Stream::save(source);
    assert_eq!(stream.get(field("features")), 1, "the C device's habit");
    let machine = stream.load(Form::Device.builder(qemu()));
    let mut port = RootPort::new(&machine, Form::Device.sid());
    port.arrives(IOVA, IOVA);
}
