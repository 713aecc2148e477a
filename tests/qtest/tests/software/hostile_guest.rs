// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Malicious tables and registers: QEMU does not crash or hang, and the SMMU is
//! usable afterwards.

use smmuv3_qtest::{
    command::{self, SYNC},
    machine::RAM,
    smmu::{reg, CMDQEN, EVENTQEN, SMMUEN},
    Access, Random,
};

use crate::{
    bench::{
        machine, Bench, Nested, Stage1, CONTEXT, DATA, EVENT_QUEUE, IOVA, IPA, IPA_OFFSET, NOWHERE,
        SID, STREAM_TABLE,
    },
    entries::{cd, ste, Entry},
    tables::{bits::TABLE, Granule, Tables},
};

/// Checks that the SMMU works after a new initialization.
#[track_caller]
fn still_works(bench: &Bench<'_>) {
    let smmu = &bench.smmu;
    assert_eq!(bench.machine.status(), "running");
    smmu.disable(SMMUEN | EVENTQEN | CMDQEN);
    smmu.write(reg::GBPA, 1 << 31);
    smmu.acknowledge();
    bench.free_tables();
    bench.program();
    bench.machine.fill_memory(STREAM_TABLE, 0x4_0000, 0);
    bench.records();
    Stage1::new(bench, Granule::K4, 39);
    bench.passes(IOVA, DATA);
}

/// Returns addresses that are not RAM: nothing, flash, the SMMU, the interrupt
/// controller, a UART, PCI configuration space and windows, and the end of the
/// address space.
fn places(bench: &Bench<'_>) -> Vec<u64> {
    vec![
        NOWHERE,
        0,
        0x0400_0000,
        bench.smmu.base(),
        bench.smmu.base() + 0x1_0000,
        0x0800_0000,
        0x0808_0000,
        0x0900_0000,
        0x1000_0000,
        0x3eff_0000,
        0x40_1000_0000,
        0x80_0000_0000,
        0xfff_ffff_0000,
    ]
}

fn try_both(bench: &Bench<'_>) {
    for access in [Access::Read, Access::Write] {
        for iova in [IOVA, 0, !3, 1 << 47] {
            bench.edu.access(access, iova);
        }
    }
    bench.records();
}

#[test]
fn page_tables_in_mmio_do_not_crash_qemu() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for place in places(&bench) {
        bench.free_tables();
        let nested = Nested::new(&bench, [Granule::K4; 2], 39);
        let stage1 = nested.context.with_address(cd::TTB0, place);
        // stage 1 alone, its table there, then the next one
        bench.install_stage1(stage1);
        try_both(&bench);
        let alone = Tables::stage1(&bench, Granule::K4, 39);
        alone.set(IOVA, 1, place | TABLE);
        bench.install_stage1(cd::lower(&alone));
        try_both(&bench);
        // the Context descriptor
        bench.install(ste::stage1(place));
        try_both(&bench);
        // stage 2, for everything
        let entry = ste::nested(CONTEXT + IPA_OFFSET, &nested.stage2);
        bench.set_cd(nested.context);
        bench.install(entry.with_address(ste::S2_TTB, place));
        try_both(&bench);
        bench.install(ste::stage2(&nested.stage2).with_address(ste::S2_TTB, place));
        try_both(&bench);
        // through stage 2
        nested.stage2.map(IPA + 0x10_0000, place);
        bench.install(ste::nested(IPA + 0x10_0000, &nested.stage2));
        try_both(&bench);
        bench.install_nested(
            nested.context.with_address(cd::TTB0, IPA + 0x10_0000),
            &nested.stage2,
        );
        try_both(&bench);
        // and the transaction itself
        bench.install_nested(nested.context, &nested.stage2);
        nested.stage2.map(IPA, place);
        bench.invalidate();
        bench.edu.read(IOVA, 4);
        bench.records();
        still_works(&bench);
    }
}

#[test]
fn strtab_in_mmio_does_not_crash_qemu() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for place in places(&bench) {
        for format in [6, 12, (1 << 16) | (6 << 6) | 12, (1 << 16) | (10 << 6) | 32] {
            bench.smmu.disable(SMMUEN);
            bench.smmu.write64(reg::STRTAB_BASE, place);
            bench.smmu.write(reg::STRTAB_BASE_CFG, format);
            bench.smmu.enable(SMMUEN);
            bench.invalidate();
            try_both(&bench);
        }
        still_works(&bench);
    }
}

/// Records may be written to the SMMU's own registers: `CMDQ_PROD`, `CR0`, the
/// Event queue's.
#[test]
fn eventq_in_mmio_does_not_crash_qemu() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let base = bench.smmu.base();
    let own = (0..0x100).step_by(0x20).map(|offset| base + offset);
    let all: Vec<u64> = own.chain(places(&bench)).collect();
    for place in all {
        Stage1::new(&bench, Granule::K4, 39);
        for log2size in [0, 3] {
            bench.setup_event_queue(place, log2size);
            for number in 1..5 {
                bench.edu.access(Access::Write, IOVA + 0x1000 * number);
            }
            let smmu = &bench.smmu;
            smmu.write(reg::CR0, smmu.read(reg::CR0) & !EVENTQEN);
        }
        still_works(&bench);
    }
}

/// The device writes to the SMMU that translates its DMA.
#[test]
fn dma_to_own_smmu_registers_does_not_crash_qemu() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let base = bench.smmu.base();
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for page in [base & !0xfff, (base & !0xfff) + 0x1_0000] {
        stage1.tables.map(IOVA, page);
        bench.invalidate();
        for offset in (0..0x1000).step_by(4).filter(|offset| offset % 16 < 8) {
            bench.edu.access(Access::Write, IOVA + offset);
            bench.edu.access(Access::Read, IOVA + offset);
            assert_eq!(machine.status(), "running", "offset {offset:#x}");
        }
        still_works(&bench);
        stage1.tables.map(IOVA, DATA);
    }
}

/// Returns an entry with random bits flipped.
fn disturbed(random: &mut Random, entry: Entry) -> Entry {
    let Entry(mut words) = entry;
    for word in &mut words[..4] {
        if random.next() % 3 == 0 {
            *word ^= random.next() & random.next() & random.next() & random.next();
        }
    }
    Entry(words)
}

/// Both stages with random granules and sizes, the addresses of the descriptors
/// that are walked, and random addresses for them.
struct Victim<'a> {
    nested: Nested<'a>,
    slots: Vec<u64>,
    pointers: Vec<u64>,
}

impl<'a> Victim<'a> {
    fn new(bench: &'a Bench<'a>, random: &mut Random) -> Self {
        bench.free_tables();
        let granules = [random.of(&Granule::ALL), random.of(&Granule::ALL)];
        let nested = Nested::new(bench, granules, random.of(&[25, 36, 39, 42, 48]));
        let (stage1, stage2) = (&nested.stage1, &nested.stage2);
        let mut slots = Vec::new();
        for level in stage1.start..=3 {
            slots.push(stage1.descriptor(IOVA, level));
        }
        for address in [IPA, CONTEXT + IPA_OFFSET, stage1.base()] {
            for level in stage2.start..=2 {
                slots.push(stage2.descriptor(address, level));
            }
        }
        slots.push(stage2.descriptor(IPA, 3));
        let tables = [stage1.base(), stage2.base()];
        let mut pointers = places(bench);
        pointers.extend(tables);
        pointers.extend(tables.map(|table| table.wrapping_sub(IPA_OFFSET)));
        pointers.extend(tables.map(|table| table + IPA_OFFSET));
        pointers.extend([CONTEXT, STREAM_TABLE, DATA, IPA, RAM, EVENT_QUEUE]);
        Self {
            nested,
            slots,
            pointers,
        }
    }

    /// Changes some descriptors, the CD and the STE.
    fn disturb(&self, bench: &Bench<'_>, random: &mut Random) {
        for _ in 0..3 {
            let noise = random.next() & random.next() & 0xffff_0000_0000_0fff;
            let descriptor = random.of(&self.pointers) ^ noise;
            bench.machine.write64(random.of(&self.slots), descriptor);
        }
        let stage2 = &self.nested.stage2;
        let entry = random.of(&[
            ste::nested(CONTEXT + IPA_OFFSET, stage2),
            ste::stage2(stage2),
            ste::stage1(CONTEXT),
        ]);
        bench.set_ste(SID, disturbed(random, entry));
        bench.set_cd(disturbed(random, self.nested.context));
        let commands = [command::CFGI_ALL, command::TLBI_NSNH_ALL, SYNC];
        bench.smmu.submit(&commands);
    }
}

#[test]
fn random_page_tables_do_not_crash_qemu() {
    for seed in [0x1d0, 0x5eed, 0xc0ffee] {
        let machine = machine("nested").start();
        let bench = Bench::new(&machine);
        let mut random = Random::new(seed);
        for _ in 0..50 {
            let victim = Victim::new(&bench, &mut random);
            for round in 0..6 {
                victim.disturb(&bench, &mut random);
                let noise = random.next();
                let iova = random.of(&[IOVA, IPA, noise, IOVA | (1 << 55)]);
                bench.edu.access(Access::Write, iova);
                bench.edu.access(Access::Read, iova);
                assert_eq!(machine.status(), "running", "round {round} of {seed:#x}");
                assert!(!bench.smmu.error(), "round {round} of {seed:#x}");
                bench.records();
            }
        }
        still_works(&bench);
    }
}

#[test]
fn random_register_values_do_not_crash_qemu() {
    for seed in [0xbad, 0xf00d, 0xdecaf] {
        let machine = machine("nested").start();
        let bench = Bench::new(&machine);
        let mut random = Random::new(seed);
        Stage1::new(&bench, Granule::K4, 39);
        let registers = [
            reg::CR0,
            reg::CR1,
            reg::CR2,
            reg::GBPA,
            reg::IRQ_CTRL,
            reg::GERRORN,
            reg::STRTAB_BASE,
            reg::STRTAB_BASE + 4,
            reg::STRTAB_BASE_CFG,
            reg::CMDQ_BASE,
            reg::CMDQ_PROD,
            reg::CMDQ_CONS,
            reg::EVENTQ_BASE,
            reg::EVENTQ_BASE + 4,
            reg::EVENTQ_PROD,
            reg::EVENTQ_CONS,
        ];
        for round in 0..400 {
            for _ in 0..3 {
                let value = random.next() & random.of(&[u64::MAX, 0xff, 0xffff, 0xfff0_0000]);
                bench.smmu.write(random.of(&registers), value as u32);
            }
            if random.next() % 2 == 0 {
                bench.smmu.write(reg::CR0, SMMUEN | EVENTQEN);
            }
            bench
                .edu
                .access(Access::Write, random.of(&[IOVA, DATA, 0, !0]));
            assert_eq!(machine.status(), "running", "round {round} of {seed:#x}");
        }
        still_works(&bench);
    }
}
