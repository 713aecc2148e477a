// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation of MSIs of a `PCIe` root port, the only emulated initiator that
//! may be behind an accelerated SMMU. It writes an MSI when it reports an
//! error.

use smmuv3_qtest::{
    command::{self, SYNC},
    machine::RAM,
    qemu,
    smmu::{reg, CMDQEN, SMMUEN},
    Builder, Machine, Random, RootPort, Smmu,
};

/// Bus 8, device 1
const SID: u32 = 0x808;

/// Guest physical addresses of tables and of the port's MSIs.
const QUEUE: u64 = RAM;
const STREAM_TABLE: u64 = RAM + (1 << 20);
const LOG2SIZE: u32 = 12;
const SECOND_LEVEL: u64 = RAM + (2 << 20);
const CONTEXT: u64 = RAM + (3 << 20);
const TRANSLATION: u64 = RAM + (4 << 20);
const PAGE: u64 = RAM + (32 << 20);
/// The address of the port's MSIs, in RAM for the case without translation.
const IOVA: u64 = RAM + (64 << 20) + 0x340;

fn start() -> Machine {
    Builder::virt(qemu())
        .smmu("accel=on,ats=off,ril=on,ssidsize=4,oas=44")
        .device("pcie-root-port,id=rp1,bus=pcie.1,addr=1,chassis=1")
        .start()
}

/// Word 0 of a Stream table entry (§5.2).
mod ste {
    pub const ABORT: u64 = 1;
    pub const BYPASS: u64 = 1 | (0b100 << 1);

    pub const fn stage1(context: u64) -> u64 {
        context | 1 | (0b101 << 1)
    }
}

/// Writes the entry of the port's stream into a linear table.
fn set_ste(machine: &Machine, word0: u64) {
    machine.write64(STREAM_TABLE + 64 * u64::from(SID), word0);
}

/// Sets up queue and Stream table, and enables the SMMU.
fn enable(machine: &Machine) -> Smmu<'_> {
    let smmu = Smmu::find(machine);
    smmu.setup_queue(QUEUE, 4);
    smmu.setup_stream_table(STREAM_TABLE, LOG2SIZE);
    smmu.enable(SMMUEN);
    smmu
}

/// Invalidates the STE, like a driver that has changed it.
fn invalidate(smmu: &Smmu<'_>) {
    smmu.submit(&[command::cfgi_ste(SID), SYNC]);
}

/// A Context descriptor (§5.4) for a lower half of 39 bits.
struct Context {
    granule: u64,
    size: u64,
    ips: u64,
    table: u64,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            granule: 0,
            size: 64 - 39,
            ips: 0b100,
            table: TRANSLATION,
        }
    }
}

impl Context {
    const fn words(&self) -> [u64; 2] {
        let epd1_v = 3 << 30;
        let aa64 = 1 << 41;
        let record_abort = 3 << 45;
        let word0 = self.size
            | (self.granule << 6)
            | epd1_v
            | (self.ips << 32)
            | aa64
            | record_abort
            | (7 << 48);
        [word0, self.table]
    }

    fn write(&self, machine: &Machine) {
        let words = self.words();
        machine.write64(CONTEXT, words[0]);
        machine.write64(CONTEXT + 8, words[1]);
    }
}

/// Bits of descriptors in translation tables.
const TABLE: u64 = 3;
const BLOCK: u64 = 1;
const LEAF: u64 = 3;
/// `AP[1]`: unprivileged accesses, which those of PCI functions are (§13.7).
const USER: u64 = 1 << 6;
/// `AF` and `AP[1]`.
const ACCESS: u64 = (1 << 10) | USER;
const READ_ONLY: u64 = 1 << 7;

/// Writes a descriptor for `iova` into the table of a level, 4 KiB granule.
fn set_descriptor(machine: &Machine, table: u64, level: u32, iova: u64, descriptor: u64) {
    let index = (iova >> (39 - 9 * level)) & 0x1ff;
    machine.write64(table + 8 * index, descriptor);
}

/// Maps the page of `IOVA` to `PAGE` through three levels.
fn map_page(machine: &Machine, attributes: u64) {
    let level2 = TRANSLATION + 0x1000;
    let level3 = TRANSLATION + 0x2000;
    set_descriptor(machine, TRANSLATION, 1, IOVA, level2 | TABLE);
    set_descriptor(machine, level2, 2, IOVA, level3 | TABLE);
    set_descriptor(machine, level3, 3, IOVA, PAGE | attributes | LEAF);
}

/// Sets up an SMMU that translates the port's page.
fn translating(machine: &Machine) -> Smmu<'_> {
    map_page(machine, ACCESS);
    Context::default().write(machine);
    set_ste(machine, ste::stage1(CONTEXT));
    enable(machine)
}

const TRANSLATED: u64 = PAGE + (IOVA & 0xfff);

#[test]
fn port_msi_follows_gbpa_without_smmuen() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = Smmu::find(&machine);
    port.arrives(IOVA, IOVA);
    smmu.write(reg::GBPA, 0x8010_0000);
    port.is_aborted(IOVA, &[IOVA]);
    smmu.write(reg::GBPA, 0x8000_0000);
    port.arrives(IOVA, IOVA);
}

#[test]
fn port_msi_follows_ste_with_smmuen() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    set_ste(&machine, 0);
    let smmu = enable(&machine);
    port.is_aborted(IOVA, &[IOVA]);
    set_ste(&machine, ste::BYPASS);
    invalidate(&smmu);
    port.arrives(IOVA, IOVA);
    for word0 in [
        ste::ABORT,
        0b100 << 1,
        1 | (0b110 << 1),
        1 | (0b111 << 1),
        1 | (0b001 << 1),
    ] {
        set_ste(&machine, word0);
        invalidate(&smmu);
        port.is_aborted(IOVA, &[IOVA]);
    }
    smmu.disable(SMMUEN);
    port.arrives(IOVA, IOVA);
}

#[test]
fn port_msi_ignores_gbpa_with_smmuen() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    set_ste(&machine, ste::BYPASS);
    let smmu = enable(&machine);
    smmu.write(reg::GBPA, 0x8010_0000);
    port.arrives(IOVA, IOVA);
    smmu.disable(SMMUEN);
    port.is_aborted(IOVA, &[IOVA]);
}

#[test]
fn port_msi_of_stream_outside_strtab_aborts() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    set_ste(&machine, ste::BYPASS);
    let smmu = enable(&machine);
    port.arrives(IOVA, IOVA);
    // 0x808 needs 12 bits
    smmu.setup_stream_table(STREAM_TABLE, 11);
    port.is_aborted(IOVA, &[IOVA]);
    smmu.setup_stream_table(STREAM_TABLE, LOG2SIZE);
    port.arrives(IOVA, IOVA);
}

#[test]
fn port_msi_with_unreadable_strtab_aborts() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    port.arrives(IOVA, IOVA);
    let smmu = enable(&machine);
    for base in [0x6000_0000, smmu.base(), (1 << 44) - (1 << 20), 0x3eff_0000] {
        smmu.setup_stream_table(base, LOG2SIZE);
        port.is_aborted(IOVA, &[IOVA]);
        assert_eq!(machine.status(), "running", "table at {base:#x}");
    }
}

/// Writes a two-level table in which the port's stream bypasses.
fn two_levels(smmu: &Smmu<'_>, split: u32, span: u64) {
    let machine = smmu.machine();
    let index = u64::from(SID >> split);
    let leaf = u64::from(SID & ((1 << split) - 1));
    machine.fill_memory(STREAM_TABLE, 0x1_0000, 0);
    machine.fill_memory(SECOND_LEVEL, 0x1_0000, 0);
    machine.write64(STREAM_TABLE + 8 * index, SECOND_LEVEL | span);
    machine.write64(SECOND_LEVEL + 64 * leaf, ste::BYPASS);
    smmu.disable(SMMUEN);
    smmu.write64(reg::STRTAB_BASE, STREAM_TABLE);
    smmu.write(reg::STRTAB_BASE_CFG, (1 << 16) | (split << 6) | 16);
    smmu.enable(SMMUEN);
}

#[test]
fn port_msi_two_level_strtab_every_split() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = enable(&machine);
    for split in [6, 8, 10] {
        let span = u64::from(split) + 1;
        two_levels(&smmu, split, span);
        port.arrives(IOVA, IOVA);
        two_levels(&smmu, split, 0);
        port.is_aborted(IOVA, &[IOVA]);
        // 2^(span - 1) entries: 0x808 is entry 8 of its leaf
        two_levels(&smmu, split, 5);
        port.arrives(IOVA, IOVA);
        two_levels(&smmu, split, 4);
        port.is_aborted(IOVA, &[IOVA]);
    }
}

/// Vector M13.
#[test]
fn port_msi_strtab_changed_to_linear() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = enable(&machine);
    two_levels(&smmu, 8, 9);
    port.arrives(IOVA, IOVA);
    machine.fill_memory(STREAM_TABLE, 0x1_0000, 0);
    set_ste(&machine, ste::ABORT);
    smmu.setup_stream_table(STREAM_TABLE, LOG2SIZE);
    port.is_aborted(IOVA, &[IOVA]);
    set_ste(&machine, ste::BYPASS);
    invalidate(&smmu);
    port.arrives(IOVA, IOVA);
}

#[test]
fn port_msi_stage1_translates() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    port.arrives(IOVA, TRANSLATED);
    port.is_aborted(IOVA + 0x1000, &[IOVA + 0x1000, TRANSLATED + 0x1000]);
    port.is_aborted(IOVA | (1 << 40), &[IOVA, TRANSLATED]);
    smmu.disable(SMMUEN);
    port.arrives(IOVA, IOVA);
}

#[test]
fn port_msi_stage1_permissions() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    for attributes in [ACCESS | READ_ONLY, ACCESS & !USER, USER, 0, READ_ONLY] {
        map_page(&machine, attributes);
        smmu.submit(&[command::TLBI_NSNH_ALL, SYNC]);
        port.is_aborted(IOVA, &[IOVA, TRANSLATED]);
    }
    map_page(&machine, ACCESS);
    smmu.submit(&[command::TLBI_NSNH_ALL, SYNC]);
    port.arrives(IOVA, TRANSLATED);
}

#[test]
fn port_msi_remap_applies_after_tlbi() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    port.arrives(IOVA, TRANSLATED);
    let level3 = TRANSLATION + 0x2000;
    for page in 1..10_u64 {
        let target = PAGE + (page << 12);
        set_descriptor(&machine, level3, 3, IOVA, target | ACCESS | LEAF);
        smmu.submit(&[command::tlbi_nh_va(7, IOVA), SYNC]);
        port.arrives(IOVA, target + (IOVA & 0xfff));
    }
    set_descriptor(&machine, level3, 3, IOVA, 0);
    smmu.submit(&[command::tlbi_nh_va(7, IOVA), SYNC]);
    port.is_aborted(IOVA, &[IOVA, TRANSLATED]);
}

#[test]
fn port_msi_block_translates() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    let level2 = TRANSLATION + 0x1000;
    let block = RAM + (96 << 20);
    set_descriptor(&machine, level2, 2, IOVA, block | ACCESS | BLOCK);
    smmu.submit(&[command::TLBI_NSNH_ALL, SYNC]);
    port.arrives(IOVA, block + (IOVA & 0x1f_ffff));
}

/// Maps the page of `IOVA` to `PAGE` with another granule, through two levels
/// of tables whose indexes begin at `shift` bits.
fn map_in_two_levels(machine: &Machine, context: &Context, shift: [u32; 2]) {
    let leaf = context.table + 0x1_0000;
    let entries = 1_u64 << (shift[0] - shift[1]);
    machine.write64(context.table + 8 * (IOVA >> shift[0]), leaf | TABLE);
    let index = (IOVA >> shift[1]) % entries;
    machine.write64(leaf + 8 * index, PAGE | ACCESS | LEAF);
    context.write(machine);
}

#[test]
fn port_msi_16k_and_64k_granules_translate() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    let other = |granule, size, page: u64| Context {
        granule,
        size,
        table: TRANSLATION + 0x2_0000 * page,
        ..Context::default()
    };
    for (context, shift) in [
        (other(1, 64 - 39, 1), [29, 16]),
        (other(2, 64 - 36, 2), [25, 14]),
    ] {
        map_in_two_levels(&machine, &context, shift);
        smmu.submit(&[command::cfgi_cd_all(SID), command::TLBI_NSNH_ALL, SYNC]);
        port.arrives(IOVA, PAGE + IOVA % (1 << shift[1]));
    }
}

#[test]
fn port_msi_illegal_cd_aborts() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    let good = Context::default().words();
    let not_valid = good[0] & !(1 << 31);
    let aarch32 = good[0] & !(1 << 41);
    let big_endian = good[0] | (1 << 15);
    let too_large = good[0] & !0x3f | 8;
    let too_small = good[0] & !0x3f | 50;
    for word0 in [
        0,
        not_valid,
        aarch32,
        big_endian,
        too_large,
        too_small,
        good[0] | (3 << 6),
    ] {
        machine.write64(CONTEXT, word0);
        smmu.submit(&[command::cfgi_cd_all(SID), SYNC]);
        port.is_aborted(IOVA, &[IOVA, TRANSLATED]);
    }
    machine.write64(CONTEXT, good[0]);
    smmu.submit(&[command::cfgi_cd_all(SID), SYNC]);
    port.arrives(IOVA, TRANSLATED);
    for context in [0x6000_0000, smmu.base(), 1 << 45] {
        set_ste(&machine, ste::stage1(context));
        invalidate(&smmu);
        port.is_aborted(IOVA, &[IOVA, TRANSLATED]);
    }
}

/// The C device aborts QEMU on the Reserved sizes.
#[test]
fn port_msi_every_ips_does_not_crash_qemu() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    for ips in 0..8 {
        Context {
            ips,
            ..Context::default()
        }
        .write(&machine);
        smmu.submit(&[command::cfgi_cd_all(SID), command::TLBI_NSNH_ALL, SYNC]);
        port.arrives(IOVA, TRANSLATED);
    }
}

#[test]
fn port_msi_bypasses_after_reset() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    translating(&machine);
    port.arrives(IOVA, TRANSLATED);
    machine.system_reset();
    port.program();
    port.arrives(IOVA, IOVA);
}

/// Random tables, many of them nearly legal.
#[test]
fn port_msi_random_tables_do_not_crash_qemu() {
    let machine = start();
    let mut port = RootPort::new(&machine, SID);
    let smmu = translating(&machine);
    let mut random = Random::new(0x7ab1e);
    let pointers = [
        TRANSLATION,
        TRANSLATION + 0x1000,
        CONTEXT,
        PAGE,
        0,
        0x6000_0000,
        smmu.base(),
        u64::MAX,
    ];
    let good = Context::default().words()[0];
    for round in 0..2000 {
        let noise = random.next() & random.next() & random.next();
        machine.write64(CONTEXT, good ^ noise);
        machine.write64(CONTEXT + 8, random.of(&pointers) ^ (noise & 0xff));
        for _ in 0..4 {
            let entry = random.next() & 0xff8;
            let at = random.of(&[TRANSLATION, TRANSLATION + 0x1000, TRANSLATION + 0x2000]) + entry;
            machine.write64(at, random.of(&pointers) | random.next() & 0xffff);
        }
        set_ste(
            &machine,
            ste::stage1(CONTEXT) ^ (random.next() & random.next() & 0xffff_0000_0000_00ff),
        );
        smmu.submit(&[
            command::cfgi_ste(SID),
            command::CFGI_ALL,
            command::TLBI_NSNH_ALL,
            SYNC,
        ]);
        port.write(IOVA ^ (noise & 0xffff_ffff_f000));
        assert_eq!(machine.status(), "running", "round {round}");
        assert!(!smmu.error(), "round {round}");
    }
    // and it still works
    translating(&machine);
    map_page(&machine, ACCESS);
    smmu.enable(CMDQEN);
    port.arrives(IOVA, TRANSLATED);
}
