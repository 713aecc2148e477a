// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The properties `cd2l` and `vax`: what the guest is shown, what reaches the host, and what is
//! translated here for an emulated device.

use serde_json::Value;
use smmuv3_qtest::{
    command::{CFGI_ALL, TLBI_NSNH_ALL},
    edu, pci,
    smmu::reg,
    tables::Allow,
    translated::{Stages, Translated, FREE},
    Edu,
};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup},
    journal::On,
};

/// All properties that are auto by default.
const OTHERS: &str = "accel=on,ats=on,ril=on,oas=44,ssidsize=8";
/// A host with 52-bit virtual addresses, whose other registers are those of tests/simhost.
const VAX_HOST: &str = "smmu a idr5=0x475";

/// `StreamID` of the emulated device, in slot 3.
const EMULATED: u32 = sid(3);
/// The Context descriptor of [`Translated`].
const CONTEXT: u64 = 0x4040_0000;
/// Where the device's page is.
const DATA: u64 = FREE + (16 << 20);
/// Level 1 of a Context descriptor table.
const L1CDS: u64 = FREE + (9 << 20);
/// Tables of the 64KB granule.
const TABLES: u64 = FREE + (10 << 20);

/// `S1Fmt` and `S1CDMax`: a table of two levels, the second one of 4KB or of 64KB, for 8 bits.
const TWO_LEVELS_4K: u64 = (0b01 << 4) | (8 << 59);
const TWO_LEVELS_64K: u64 = (0b10 << 4) | (8 << 59);
/// `S1DSS`: transactions without a `SubstreamID` use the Context descriptor of number 0.
const SUBSTREAM_0: u64 = 0b10;

const C_BAD_STE: u64 = 0x04;
const C_BAD_CD: u64 = 0x0a;

/// Returns `IDR0.CD2L` and `IDR5.VAX`.
fn shown(bench: &Bench) -> (u32, u32) {
    let smmu = bench.smmu();
    let (idr0, idr5) = (smmu.read(reg::IDR0), smmu.read(reg::IDR5));
    ((idr0 >> 19) & 1, (idr5 >> 10) & 0b11)
}

fn resolved(bench: &Bench) -> [Value; 2] {
    let registers = bench
        .machine()
        .qom_get("/machine/peripheral/smmuv3.1", "id-registers");
    ["cd2l", "vax"].map(|name| registers[name].clone())
}

#[test]
fn cd2l_and_vax_are_shown_if_asked_for() {
    for (host, given, expected) in [
        (VAX_HOST, "", (0, 0)),
        (VAX_HOST, ",cd2l=on,vax=on", (1, 1)),
        (VAX_HOST, ",cd2l=auto,vax=auto", (1, 1)),
        // 56 bits
        ("smmu a idr5=0x875", ",cd2l=off,vax=auto", (0, 1)),
        // neither
        ("smmu a idr0=0x0d44143b", ",cd2l=auto,vax=auto", (0, 0)),
    ] {
        let properties = format!("{OTHERS}{given}");
        let bench = Setup::on_host(host, &properties).assign("d0", 1).start();
        assert_eq!(shown(&bench), expected, "{given} on {host}");
        let (cd2l, vax) = expected;
        assert_eq!(resolved(&bench), [cd2l == 1, vax == 1], "{given} on {host}");
        bench.finish();
    }
}

#[test]
fn two_level_cd_table_reaches_host_with_cd2l() {
    for (cd2l, format) in [("off", 0b00), ("on", 0b01), ("on", 0b10)] {
        let properties = format!("{OTHERS},cd2l={cd2l}");
        let bench = Setup::new(&properties).assign("d0", 1).start();
        let smmu = bench.translating(&[]);
        for wanted in [0b00, 0b01, 0b10] {
            let [word0, word1] = ste::stage1(0x4300_0000);
            let entry = [word0 | (wanted << 4) | (8 << 59), word1 | SUBSTREAM_0];
            smmu.install(sid(1), entry);
            let is_legal = wanted == 0b00 || format != 0b00;
            let on = if is_legal {
                On::Nested(entry)
            } else {
                On::Abort
            };
            bench.expect(&format!("S1Fmt {wanted:#b}, cd2l={cd2l}"), &[("d0", on)]);
        }
        bench.finish();
    }
}

/// Starts a machine with "d0" in slot 1 and an emulated device in slot 3.
#[track_caller]
fn with_edu(properties: &str) -> Bench {
    let bench = Setup::on_host(VAX_HOST, &format!("{OTHERS}{properties}"))
        .slot(3)
        .assign("d0", 1)
        .device(&format!("{},id=edu,bus=slot3", edu::DEVICE))
        .start();
    bench.number_buses();
    let config = pci::config(pci::sid(8, 3));
    bench.machine().write32(config + 0x20, 0x1000_1000);
    bench.machine().write_sized(config + 4, 6, 2);
    bench
}

/// Returns whether a write of the device to `iova` comes to [`DATA`].
#[track_caller]
fn arrives(bench: &Bench, edu: &Edu<'_>, iova: u64) -> bool {
    bench.machine().write32(DATA, 0);
    let word = edu.write(iova);
    bench.machine().read32(DATA) == word
}

/// Returns the number of the newest event.
#[track_caller]
fn last_event(translated: &Translated<'_>) -> u64 {
    let prod = translated.smmu.read(reg::EVENTQ_PROD);
    translated.event((prod & 0xf) - 1)[0] & 0xff
}

#[test]
fn emulated_device_uses_two_level_cd_table() {
    const IOVA: u64 = 0x1234_5000;
    for (properties, format, is_legal) in [
        (",cd2l=on", TWO_LEVELS_4K, true),
        (",cd2l=on", TWO_LEVELS_64K, true),
        ("", TWO_LEVELS_4K, false),
    ] {
        let bench = with_edu(properties);
        let edu = Edu::new(bench.machine(), EMULATED, 0);
        let translated = Translated::new(bench.machine(), Stages::One, EMULATED);
        translated.stage1.map(IOVA, DATA, Allow::ReadWrite);
        bench.machine().write64(L1CDS, CONTEXT | 1);
        let [word0, ..] = translated.entry();
        let entry = [(word0 - CONTEXT + L1CDS) | format, SUBSTREAM_0, 0, 0];
        translated.write_entry(entry);
        translated.submit(&[CFGI_ALL]);
        assert_eq!(arrives(&bench, &edu, IOVA), is_legal, "{properties}");
        if !is_legal {
            assert_eq!(last_event(&translated), C_BAD_STE);
        }
        bench.finish();
    }
}

#[test]
fn emulated_device_uses_52_bit_addresses() {
    // the last page of the lower half
    const IOVA: u64 = (1 << 52) - (1 << 16);
    const LEVEL2: u64 = TABLES + (1 << 16);
    const LEVEL3: u64 = TABLES + (2 << 16);
    for (properties, is_legal) in [(",vax=on", true), ("", false)] {
        let bench = with_edu(properties);
        let machine = bench.machine();
        let edu = Edu::new(machine, EMULATED, 0);
        let translated = Translated::new(machine, Stages::One, EMULATED);
        // T0SZ of 12, and the 64KB granule
        let word0 = machine.read64(CONTEXT) & !0xff | 12 | (0b01 << 6);
        machine.write64(CONTEXT, word0);
        machine.write64(CONTEXT + 8, TABLES);
        machine.write64(TABLES + 8 * (IOVA >> 42), LEVEL2 | 3);
        machine.write64(LEVEL2 + 8 * ((IOVA >> 29) & 0x1fff), LEVEL3 | 3);
        let page = LEVEL3 + 8 * ((IOVA >> 16) & 0x1fff);
        // AF, nG, AP[1]
        machine.write64(page, DATA | (1 << 11) | (1 << 10) | (1 << 6) | 3);
        translated.submit(&[CFGI_ALL, TLBI_NSNH_ALL]);
        assert_eq!(arrives(&bench, &edu, IOVA), is_legal, "{properties}");
        if !is_legal {
            assert_eq!(last_event(&translated), C_BAD_CD);
        }
        bench.finish();
    }
}
