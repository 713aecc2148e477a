// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The SMMU of `sbsa-ref`.

use smmuv3_qtest::{
    command::{self, SYNC},
    edu, pci,
    pci::SBSA_REF,
    qemu,
    smmu::{reg, EVENTQEN, SMMUEN},
    Access, Builder, Edu, Smmu,
};

use crate::{
    entries::{cd, ste, Entry},
    record::{Class, Kind, Record},
    tables::bits::{PAGE, STAGE_1, TABLE},
};

const RAM: u64 = SBSA_REF.ram;
const QUEUE: u64 = RAM + 0x1_0000;
const EVENTS: u64 = RAM + 0x2_0000;
const CONTEXT: u64 = RAM + 0x3_0000;
const TABLES: u64 = RAM + 0x4_0000;
const STREAMS: u64 = RAM + 0x10_0000;
const DATA: u64 = RAM + 0x20_0000;
const IOVA: u64 = 0x1234_5000;

/// Returns a Context descriptor for tables of 4 KiB and addresses of 39 bits.
fn context() -> Entry {
    Entry::default()
        .with(cd::V, 1)
        .with(cd::AA64, 1)
        .with(cd::T0SZ, 64 - 39)
        .with(cd::EPD1, 1)
        .with(cd::IPS, 0b100)
        .with(cd::A, 1)
        .with(cd::R, 1)
        .with_address(cd::TTB0, TABLES)
}

#[test]
fn sbsa_ref_smmu_translates() {
    let machine = Builder::new(qemu())
        .args(["-machine", "sbsa-ref,accel=qtest"])
        // the display's firmware is not part of the build
        .args(["-global", "bochs-display.romfile="])
        .device(format!("{},bus=pcie.0,addr=7", edu::DEVICE))
        .start();
    let sid = pci::sid(0, 7);
    let edu = Edu::of(&SBSA_REF, &machine, sid, 0);
    let smmu = Smmu::find(&machine);
    assert_eq!(smmu.read(reg::IDR0) & 3, 3, "both stages");
    let word = edu.write(DATA);
    assert_eq!(machine.read32(DATA), word, "it is not enabled");

    for (level, descriptor) in [
        (1, (TABLES + 0x1000) | TABLE),
        (2, (TABLES + 0x2000) | TABLE),
        (3, DATA | STAGE_1 | PAGE),
    ] {
        let table = TABLES + 0x1000 * (level - 1);
        let index = (IOVA >> (39 - 9 * level)) % 512;
        machine.write64(table + 8 * index, descriptor);
    }
    machine.write_memory(CONTEXT, &context().to_bytes());
    let entry = ste::stage1(CONTEXT);
    machine.write_memory(STREAMS + 64 * u64::from(sid), &entry.to_bytes());
    smmu.setup_queue(QUEUE, 4);
    smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
    smmu.setup_stream_table(STREAMS, 8);
    smmu.enable(SMMUEN | EVENTQEN);
    smmu.submit(&[command::CFGI_ALL, command::TLBI_NSNH_ALL, SYNC]);

    let translated = edu.write(IOVA + 0x80);
    assert_eq!(machine.read32(DATA + 0x80), translated);
    assert_eq!(smmu.read(reg::EVENTQ_PROD), 0);
    edu.write(DATA);
    let fault = Record::new(Kind::Translation, sid).of(Access::Write, DATA);
    let words = [0, 8, 16, 24].map(|offset| machine.read64(EVENTS + offset));
    assert_eq!(Record(words), fault.stage1(Class::Input));
    assert_eq!(smmu.read(reg::EVENTQ_PROD), 1);
}
