// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Reserved register bits. The C device stores and saves all bits that a guest
//! writes; in the Rust device Reserved bits are RES0 (§6.2), so migration drops
//! them.

use smmuv3_qtest::{
    command::SYNC,
    machine::RAM,
    qemu, qemu_c,
    smmu::{reg, SMMUEN},
    Machine, RootPort, Smmu,
};

use crate::{
    guest::{ste, Form, IOVA},
    stream::Stream,
};

/// A register to which a guest has written ones: its value in the C device, and
/// in the Rust device after migration.
struct Row {
    name: &'static str,
    offset: u64,
    kept: u32,
    defined: u32,
}

const fn row(name: &'static str, offset: u64, kept: u32, defined: u32) -> Row {
    Row {
        name,
        offset,
        kept,
        defined,
    }
}

const ALL: u32 = u32::MAX;

/// Registers in the order in which the guest writes them, `CR0` last. The
/// registers of MSIs are RES0, and addresses have 44 bits.
const TABLE: [Row; 25] = [
    row("CR1", reg::CR1, ALL, 0xfff),
    // RECINVSID; no E2H, no PTM without Hyp and BTM
    row("CR2", reg::CR2, ALL, 0x2),
    // Update reads as 0
    row("GBPA", reg::GBPA, ALL >> 1, 0x001f_3f1f),
    // no PRI
    row("IRQ_CTRL", reg::IRQ_CTRL, ALL, 0x5),
    row("IRQ_CTRLACK", reg::IRQ_CTRLACK, ALL, 0x5),
    row("GERROR_IRQ_CFG0", reg::GERROR_IRQ_CFG0, ALL, 0),
    row("GERROR_IRQ_CFG0 high", reg::GERROR_IRQ_CFG0 + 4, ALL, 0),
    row("GERROR_IRQ_CFG1", reg::GERROR_IRQ_CFG1, ALL, 0),
    row("GERROR_IRQ_CFG2", reg::GERROR_IRQ_CFG2, ALL, 0),
    row("STRTAB_BASE", reg::STRTAB_BASE, ALL, 0xffff_ffc0),
    row("STRTAB_BASE high", reg::STRTAB_BASE + 4, ALL, 0x4000_0fff),
    row("STRTAB_BASE_CFG", reg::STRTAB_BASE_CFG, ALL, 0x0003_07ff),
    row("CMDQ_BASE", reg::CMDQ_BASE, ALL, ALL),
    row("CMDQ_BASE high", reg::CMDQ_BASE + 4, ALL, 0x4000_0fff),
    row("CMDQ_PROD", reg::CMDQ_PROD, ALL, 0x000f_ffff),
    // ERR as well: 0x7f is no code
    row("CMDQ_CONS", reg::CMDQ_CONS, ALL, 0x000f_ffff),
    row("EVENTQ_BASE", reg::EVENTQ_BASE, ALL, ALL),
    row("EVENTQ_BASE high", reg::EVENTQ_BASE + 4, ALL, 0x4000_0fff),
    // with OVFLG
    row("EVENTQ_PROD", reg::EVENTQ_PROD, ALL, 0x800f_ffff),
    row("EVENTQ_CONS", reg::EVENTQ_CONS, ALL, 0x800f_ffff),
    // the C device stores it and reads it as zero
    row("EVENTQ_IRQ_CFG0", reg::EVENTQ_IRQ_CFG0, 0, 0),
    row("EVENTQ_IRQ_CFG0 high", reg::EVENTQ_IRQ_CFG0 + 4, 0, 0),
    // CMDQ_ERR, EVENTQ_ABT_ERR, SFM_ERR
    row("GERRORN", reg::GERRORN, ALL, 0x105),
    // no ATS, no PRI, no VMW
    row("CR0", reg::CR0, ALL, 0xd),
    // the C device masks the acknowledged value
    row("CR0ACK", reg::CR0ACK, 0x5df, 0xd),
];

/// Starts a machine with the C device and writes ones to all registers.
fn scribbled() -> Machine {
    let machine = Form::Device.builder(qemu_c()).start();
    let smmu = Smmu::find(&machine);
    for row in TABLE {
        smmu.write(row.offset, ALL);
    }
    machine
}

#[track_caller]
fn shows(machine: &Machine, expected: impl Fn(&Row) -> u32) {
    let smmu = Smmu::find(machine);
    for row in TABLE {
        let (name, value) = (row.name, smmu.read(row.offset));
        assert_eq!(value, expected(&row), "{name} shows {value:#x}");
    }
}

#[test]
fn migration_drops_reserved_bits_of_c_device() {
    let source = scribbled();
    shows(&source, |row| row.kept);
    let migrated = Stream::save(source).load(Form::Device.builder(qemu()));
    shows(&migrated, |row| row.defined);
    let back = Stream::save(migrated).load(Form::Device.builder(qemu_c()));
    shows(&back, |row| row.defined);
}

#[test]
fn driver_uses_smmu_migrated_with_reserved_bits() {
    let source = scribbled();
    let machine = Stream::save(source).load(Form::Device.builder(qemu()));
    let smmu = Smmu::find(&machine);
    let sid = Form::Device.sid();
    let table = RAM + (4 << 20);
    smmu.write(reg::CR0, 0);
    smmu.acknowledge();
    smmu.setup_queue(RAM, 4);
    smmu.setup_stream_table(table, 12);
    machine.write64(table + 64 * u64::from(sid), ste::BYPASS);
    smmu.submit(&[SYNC]);
    smmu.enable(SMMUEN);
    RootPort::new(&machine, sid).arrives(IOVA, IOVA);
}
