// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file through MMIO. Expected values follow §6.1 to §6.3, not the
//! device's own tables.

use smmuv3_qtest::{
    command,
    machine::RAM,
    qemu, qemu_c, smmu,
    smmu::{reg, CMDQEN, CMDQ_ERR, EVENTQEN, EVENTQ_IRQEN, GERROR_IRQEN, SMMUEN},
    Builder, Machine, Random, Smmu,
};

/// IDR0.ATS = 0, IDR0.MSI = 0, IDR3.RIL = 1, IDR1.SSIDSIZE = 0, IDR5.OAS = 44 bits.
const PROFILE: &str = "accel=on,ats=off,ril=on,ssidsize=0,oas=44,msi=off";

/// The same for the C device.
const C_PROFILE: &str = "accel=on,ats=off,ril=on,ssidsize=0,oas=44";

/// `IDR0.MSI`
const MSI: u32 = 1 << 13;

fn start(options: &str) -> Machine {
    Builder::virt(qemu()).smmu(options).start()
}

/// A 32-bit word of the register file that is not always zero.
struct Word {
    name: &'static str,
    offset: u64,
    /// After power-on and reset
    reset: u32,
    /// The bits that a write changes while everything is disabled
    writable: u32,
}

const fn word(name: &'static str, offset: u64, reset: u32, writable: u32) -> Word {
    Word {
        name,
        offset,
        reset,
        writable,
    }
}

/// The words of page 0 with [`PROFILE`]; all others are RES0.
const WORDS: &[Word] = &[
    word("IDR0", 0x00, 0x0d44_101a, 0),
    word("IDR1", 0x04, 0x0273_0010, 0),
    word("IDR3", 0x0c, 0x0000_1404, 0),
    word("IDR5", 0x14, 0x0000_0074, 0),
    word("AIDR", 0x1c, 1, 0),
    word("CR1", 0x28, 0, 0x0000_0fff),
    // no E2H without Hyp, no PTM without BTM, no REC_CFG_ATS without ATSRECERR
    word("CR2", 0x2c, 0, 0x0000_0002),
    word("IRQ_CTRL", 0x50, 0, 0x0000_0005),
    word("IRQ_CTRLACK", 0x54, 0, 0),
    word("GERRORN", 0x64, 0, 0x0000_0105),
    word("STRTAB_BASE", 0x80, 0, 0xffff_ffc0),
    word("STRTAB_BASE (high)", 0x84, 0, 0x4000_0fff),
    word("STRTAB_BASE_CFG", 0x88, 0, 0x0003_07ff),
    word("CMDQ_BASE", 0x90, 19, 0xffff_ffff),
    word("CMDQ_BASE (high)", 0x94, 0, 0x4000_0fff),
    word("CMDQ_PROD", 0x98, 0, 0x000f_ffff),
    word("CMDQ_CONS", 0x9c, 0, 0x000f_ffff),
    word("EVENTQ_BASE", 0xa0, 19, 0xffff_ffff),
    word("EVENTQ_BASE (high)", 0xa4, 0, 0x4000_0fff),
    word("EVENTQ_PROD", 0xa8, 0, 0x800f_ffff),
    word("EVENTQ_CONS", 0xac, 0, 0x800f_ffff),
    word("GBPA", 0x44, 0x1000, 0),
    // CoreSight, as an MMU-600
    word("PIDR4", 0xfd0, 0x04, 0),
    word("PIDR0", 0xfe0, 0x84, 0),
    word("PIDR1", 0xfe4, 0xb4, 0),
    word("PIDR2", 0xfe8, 0xf0, 0),
    word("PIDR3", 0xfec, 0x10, 0),
    word("CIDR0", 0xff0, 0x0d, 0),
    word("CIDR1", 0xff4, 0xf0, 0),
    word("CIDR2", 0xff8, 0x05, 0),
    word("CIDR3", 0xffc, 0xb1, 0),
];

fn reset_value(offset: u64) -> u32 {
    WORDS
        .iter()
        .find(|word| word.offset == offset)
        .map_or(0, |word| word.reset)
}

/// The part of a page that has registers; the rest is RES0 (§6.1).
const REGISTERS: u64 = 0x1000;

/// Returns all 32-bit words of the registers of page 0.
fn snapshot(smmu: &Smmu<'_>) -> Vec<u32> {
    (0..REGISTERS)
        .step_by(4)
        .map(|offset| smmu.read(offset))
        .collect()
}

/// Formats the words that differ.
fn differences(left: &[u32], right: &[u32]) -> Vec<String> {
    left.iter()
        .zip(right)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(index, (a, b))| format!("{:#x}: {a:#x} and {b:#x}", 4 * index))
        .collect()
}

#[track_caller]
fn assert_same(left: &[u32], right: &[u32]) {
    assert_eq!(differences(left, right), Vec::<String>::new());
}

#[test]
fn power_on_values_of_both_pages() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    let bytes = machine.read_memory(smmu.base(), smmu::SIZE as usize);
    for (index, word) in bytes.chunks_exact(4).enumerate() {
        let offset = 4 * index as u64;
        let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        assert_eq!(value, reset_value(offset % smmu::PAGE1), "at {offset:#x}");
    }
}

#[test]
fn register_write_changes_only_implemented_bits() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    let before = snapshot(&smmu);
    for word in WORDS.iter().filter(|word| word.writable != 0) {
        smmu.write(word.offset, u32::MAX);
        let mut expected = before.clone();
        expected[word.offset as usize / 4] = word.writable;
        if word.offset == reg::IRQ_CTRL {
            expected[reg::IRQ_CTRLACK as usize / 4] = word.writable;
        }
        assert_eq!(
            differences(&snapshot(&smmu), &expected),
            Vec::<String>::new(),
            "{}",
            word.name
        );
        smmu.write(word.offset, 0);
        assert_eq!(smmu.read(word.offset), 0, "{}", word.name);
        smmu.write(word.offset, word.reset);
    }
    assert_same(&snapshot(&smmu), &before);
}

#[test]
fn mmio_page1_aliases_page0() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for word in WORDS.iter().filter(|word| word.writable != 0) {
        smmu.write(smmu::PAGE1 + word.offset, u32::MAX);
        assert_eq!(
            smmu.read(word.offset),
            word.writable,
            "{} on page 0",
            word.name
        );
        assert_eq!(
            smmu.read(smmu::PAGE1 + word.offset),
            word.writable,
            "{} on page 1",
            word.name
        );
        smmu.write(word.offset, word.reset);
        assert_eq!(
            smmu.read(smmu::PAGE1 + word.offset),
            word.reset,
            "{} on page 1",
            word.name
        );
    }
}

#[test]
fn read_only_and_undefined_offsets_ignore_writes() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    let before = snapshot(&smmu);
    let enables = [reg::CR0];
    for value in [u32::MAX, 0x5555_5555, 0] {
        for offset in (0..smmu::SIZE).step_by(4) {
            let register = offset % smmu::PAGE1;
            let writable = WORDS
                .iter()
                .any(|word| word.offset == register && word.writable != 0);
            // GBPA is written with Update
            if !writable && !enables.contains(&register) && register != reg::GBPA {
                smmu.write(offset, value);
            }
        }
        assert_same(&snapshot(&smmu), &before);
    }
    // vectors M10 and M11: words that depend on the profile
    for offset in [
        reg::IDR6,
        0x4000,
        0x8000,
        0x803c,
        reg::PRIQ_BASE,
        0xc8,
        0xcc,
        0x100,
        0x200,
    ] {
        smmu.write64(offset & !7, u64::MAX);
        assert_eq!(smmu.read64(offset & !7), 0, "at {offset:#x}");
    }
}

/// Vector M08: without MSIs their registers are RES0.
#[test]
fn irq_cfg_registers_are_res0_without_msi() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for offset in [reg::GERROR_IRQ_CFG0, reg::EVENTQ_IRQ_CFG0, 0xd0] {
        smmu.write64(offset, u64::MAX);
        smmu.write64(offset + 8, u64::MAX);
        assert_eq!(
            (smmu.read64(offset), smmu.read64(offset + 8)),
            (0, 0),
            "at {offset:#x}"
        );
    }
}

/// `auto` follows accel. Nothing else in the ID registers changes.
#[test]
fn msi_property_sets_idr0_msi() {
    let accel = "accel=on,ats=off,ril=on,ssidsize=0,oas=44";
    for (options, with_msi) in [("accel=off", false), (accel, true)] {
        let without = id_registers(&start(&format!("{options},msi=off")));
        let mut expected = without.clone();
        assert_eq!(expected[0] & MSI, 0);
        expected[0] |= MSI;
        assert_eq!(id_registers(&start(&format!("{options},msi=on"))), expected);
        let auto = if with_msi { &expected } else { &without };
        assert_eq!(id_registers(&start(options)), *auto, "{options}");
        assert_eq!(id_registers(&start(&format!("{options},msi=auto"))), *auto);
    }
}

/// Vector M09, and the rest of the registers that only MSIs have.
#[test]
fn irq_cfg_registers_are_guarded_by_their_enables() {
    for options in ["accel=on,ats=off,ril=on,ssidsize=0,oas=44", "msi=on"] {
        let machine = start(options);
        let smmu = Smmu::find(&machine);
        for (cfg0, enable) in [
            (reg::GERROR_IRQ_CFG0, GERROR_IRQEN),
            (reg::EVENTQ_IRQ_CFG0, EVENTQ_IRQEN),
        ] {
            let read = || (smmu.read64(cfg0), smmu.read64(cfg0 + 8));
            smmu.write64(cfg0, u64::MAX);
            smmu.write64(cfg0 + 8, u64::MAX);
            let ones = (0x0000_0fff_ffff_fffc, 0x0000_003f_ffff_ffff);
            assert_eq!(read(), ones, "at {cfg0:#x}, {options}");
            smmu.write(reg::IRQ_CTRL, enable);
            smmu.write64(cfg0, 0);
            smmu.write64(cfg0 + 8, 0);
            assert_eq!(read(), ones, "at {cfg0:#x}, {options}, enabled");
            // the other one's enable guards nothing here
            smmu.write(reg::IRQ_CTRL, (GERROR_IRQEN | EVENTQ_IRQEN) ^ enable);
            smmu.write64(cfg0, 0);
            smmu.write64(cfg0 + 8, 0);
            assert_eq!(read(), (0, 0), "at {cfg0:#x}, {options}");
            smmu.write(reg::IRQ_CTRL, 0);
        }
        smmu.write(reg::GERRORN, 0xffff_fffe);
        assert_eq!(smmu.read(reg::GERRORN), 0x1b4, "{options}");
    }
}

/// Vectors M01 and M02.
#[test]
fn cr0_enables_are_acknowledged_in_cr0ack() {
    for (options, expected) in [
        (PROFILE, 0x0d),
        ("accel=on,ats=on,ril=on,ssidsize=0,oas=44", 0x1d),
    ] {
        let machine = start(options);
        let smmu = Smmu::find(&machine);
        for value in [u32::MAX, 0, expected, SMMUEN, CMDQEN, EVENTQEN, !expected] {
            smmu.write(reg::CR0, value);
            assert_eq!(
                smmu.read(reg::CR0),
                value & expected,
                "CR0 after {value:#x}"
            );
            assert_eq!(
                smmu.read(reg::CR0ACK),
                value & expected,
                "CR0ACK after {value:#x}"
            );
        }
        smmu.write(reg::CR0ACK, u32::MAX);
        assert_eq!(smmu.read(reg::CR0ACK), 0);
    }
}

/// Vector M03.
#[test]
fn irq_ctrl_enables_are_acknowledged() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for value in [u32::MAX, 0, 4, 1, 2] {
        smmu.write(reg::IRQ_CTRL, value);
        assert_eq!(smmu.read(reg::IRQ_CTRL), value & 5);
        assert_eq!(smmu.read(reg::IRQ_CTRLACK), value & 5);
    }
}

/// Vector M04.
#[test]
fn gerror_is_read_only() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    smmu.intercept_irqs();
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    smmu.write(reg::GERROR, u32::MAX);
    assert_eq!(smmu.read(reg::GERROR), 0);
    assert_eq!(smmu.pulses(), [0; 4]);
}

/// Vector M05.
#[test]
fn gbpa_changes_only_with_update() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    smmu.write(reg::GBPA, 0x0010_0000);
    assert_eq!(smmu.read(reg::GBPA), 0x1000, "without Update");
    smmu.write(reg::GBPA, 0x8010_0000);
    assert_eq!(smmu.read(reg::GBPA), 0x0010_0000, "Update clears itself");
    smmu.write(reg::GBPA, u32::MAX);
    assert_eq!(smmu.read(reg::GBPA), 0x001f_3f1f, "fields that exist");
    smmu.write(reg::GBPA, 0x8000_0000);
    assert_eq!(smmu.read(reg::GBPA), 0);
    // 64-bit write, together with the read-only STATUSR
    smmu.write64(reg::STATUSR, 0x8010_0000_ffff_ffff);
    assert_eq!(smmu.read64(reg::STATUSR), 0x0010_0000_0000_0000);
}

/// Checks that `registers` ignore writes exactly while `enable` is set.
#[track_caller]
fn guarded(enable: u32, registers: &[(u64, u32)]) {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for &(offset, mask) in registers {
        smmu.write(offset, 0);
        smmu.enable(enable);
        smmu.write(offset, mask);
        assert_eq!(smmu.read(offset) & mask, 0, "{offset:#x} is guarded");
        smmu.write64(offset & !7, u64::MAX);
        assert_eq!(
            smmu.read(offset) & mask,
            0,
            "{offset:#x} is guarded from 64-bit writes"
        );
        smmu.disable(enable);
        smmu.write(offset, mask);
        assert_eq!(smmu.read(offset) & mask, mask, "{offset:#x} is free again");
        smmu.write(offset, 0);
    }
}

/// Vector M06.
#[test]
fn cmdqen_guards_cmdq_registers() {
    // index bits beyond LOG2SIZE 0 read as zero
    guarded(
        CMDQEN,
        &[
            (reg::CMDQ_BASE, 0x4000_0006),
            (0x94, 0x1),
            (reg::CMDQ_CONS, 1),
        ],
    );
}

/// Vector M12.
#[test]
fn eventqen_guards_eventq_registers() {
    guarded(
        EVENTQEN,
        &[
            (reg::EVENTQ_BASE, 0x4000_0006),
            (0xa4, 0x1),
            (0xa8, 1),
            (reg::EVENTQ_PROD, 0x8000_0001),
        ],
    );
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    smmu.enable(EVENTQEN);
    smmu.write(reg::EVENTQ_CONS, 0x8000_0003);
    assert_eq!(
        smmu.read(reg::EVENTQ_CONS),
        0x8000_0003,
        "EVENTQ_CONS is always writable"
    );
}

#[test]
fn smmuen_guards_strtab_registers() {
    guarded(
        SMMUEN,
        &[
            (reg::STRTAB_BASE, 0x4000_0040),
            (0x84, 0x1),
            (reg::STRTAB_BASE_CFG, 0x1_0188),
            (reg::CR2, 2),
        ],
    );
}

/// Vector M14.
#[test]
fn cr1_fields_are_guarded_by_their_enables() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for (enables, free) in [
        (0, 0xfff),
        (CMDQEN, 0xfc0),
        (EVENTQEN, 0xfc0),
        (SMMUEN, 0x03f),
        (SMMUEN | CMDQEN, 0),
    ] {
        smmu.write(reg::CR0, 0);
        smmu.write(reg::CR1, 0);
        smmu.write(reg::CR0, enables);
        smmu.write(reg::CR1, 0xd75);
        assert_eq!(smmu.read(reg::CR1), 0xd75 & free, "CR0 = {enables:#x}");
    }
}

/// Vector M13, as far as registers show it.
#[test]
fn strtab_format_changes_both_ways() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for value in [0x1_0188, 0x8, 0x3_07ff, 0x1_0208] {
        smmu.write(reg::STRTAB_BASE_CFG, value);
        assert_eq!(smmu.read(reg::STRTAB_BASE_CFG), value);
    }
}

/// Vector M07.
#[test]
fn register_halves_are_written_separately() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for (offset, low, high) in [
        (reg::CMDQ_BASE, 0x4000_0004, 0x1),
        (reg::EVENTQ_BASE, 0x5000_0005, 0x4000_0002),
        (reg::STRTAB_BASE, 0x6000_0040, 0x3),
    ] {
        smmu.write64(offset, 0);
        smmu.write(offset + 4, high);
        smmu.write(offset, low);
        let both = (u64::from(high) << 32) | u64::from(low);
        assert_eq!(smmu.read64(offset), both);
        smmu.write64(offset, 0);
        assert_eq!((smmu.read(offset), smmu.read(offset + 4)), (0, 0));
        smmu.write64(offset, both);
        assert_eq!((smmu.read(offset), smmu.read(offset + 4)), (low, high));
    }
}

#[test]
fn read64_returns_two_32_bit_registers() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for page in [0, smmu::PAGE1] {
        for offset in (page..page + REGISTERS).step_by(8) {
            let both = (u64::from(smmu.read(offset + 4)) << 32) | u64::from(smmu.read(offset));
            assert_eq!(smmu.read64(offset), both, "at {offset:#x}");
        }
    }
}

#[test]
fn write64_reaches_two_32_bit_registers() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    smmu.write64(reg::CR1, 0x0000_0002_0000_0d75);
    assert_eq!((smmu.read(reg::CR1), smmu.read(reg::CR2)), (0xd75, 2));
    smmu.write64(reg::CMDQ_PROD, 0x0000_0003_0000_0003);
    assert_eq!(
        (smmu.read(reg::CMDQ_PROD), smmu.read(reg::CMDQ_CONS)),
        (3, 3)
    );
}

#[test]
fn other_sizes_and_unaligned_accesses_have_no_effect() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    let before = snapshot(&smmu);
    for offset in (0..0x200)
        .chain(0x1_0000..0x1_0100)
        .chain(smmu::SIZE - 16..smmu::SIZE)
    {
        for size in [1, 2] {
            machine.write_sized(smmu.base() + offset, u64::MAX, size);
            machine.read_sized(smmu.base() + offset, size);
        }
        for size in [4, 8] {
            machine.read_sized(smmu.base() + offset, size);
        }
    }
    assert_same(&snapshot(&smmu), &before);
}

#[test]
fn unused_cmdq_index_bits_read_as_zero() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    for log2size in 0..=19 {
        smmu.write64(reg::CMDQ_BASE, RAM | log2size);
        let pointers = (2_u32 << log2size) - 1;
        smmu.write(reg::CMDQ_CONS, u32::MAX);
        assert_eq!(smmu.cons(), pointers, "LOG2SIZE {log2size}");
        smmu.write(reg::CMDQ_PROD, u32::MAX);
        assert_eq!(
            smmu.read(reg::CMDQ_PROD) & 0xfff0_0000,
            0,
            "LOG2SIZE {log2size}"
        );
    }
}

/// Vector V105 and §6.3.20.
#[test]
fn gerrorn_stores_implemented_errors() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    smmu.write(reg::GERRORN, 0xffff_fffe);
    assert_eq!(smmu.read(reg::GERRORN), 0x104);
    smmu.write(reg::GERRORN, 0);
    assert_eq!(smmu.read(reg::GERRORN), 0);
}

#[test]
fn base_address_above_oas_is_truncated() {
    for (oas, mask) in [("44", 0x4000_0fff_u32), ("48", 0x4000_ffff)] {
        let machine = start(&format!("accel=on,ats=off,ril=on,ssidsize=0,oas={oas}"));
        let smmu = Smmu::find(&machine);
        for offset in [reg::CMDQ_BASE, reg::EVENTQ_BASE, reg::STRTAB_BASE] {
            smmu.write64(offset, u64::MAX);
            assert_eq!(
                (smmu.read64(offset) >> 32) as u32,
                mask,
                "{offset:#x}, oas={oas}"
            );
        }
    }
}

/// Returns the ID registers for these properties.
fn id_registers(machine: &Machine) -> Vec<u32> {
    let smmu = Smmu::find(machine);
    let ids = (reg::IDR0..=reg::AIDR).chain(reg::ID_REGS..REGISTERS);
    ids.step_by(4).map(|offset| smmu.read(offset)).collect()
}

#[test]
fn id_registers_match_c_device() {
    for ats in ["on", "off"] {
        for ril in ["on", "off"] {
            for (ssidsize, oas) in [("0", "44"), ("20", "48"), ("1", "44"), ("16", "48")] {
                let options = format!("accel=on,ats={ats},ril={ril},ssidsize={ssidsize},oas={oas}");
                let rust = start(&format!("{options},msi=off"));
                let c = Builder::virt(qemu_c()).smmu(&options).start();
                assert_eq!(id_registers(&rust), id_registers(&c), "{options}");
            }
        }
    }
}

#[test]
fn power_on_values_match_c_device() {
    let rust = start(PROFILE);
    let c = Builder::virt(qemu_c()).smmu(C_PROFILE).start();
    assert_same(&snapshot(&Smmu::find(&rust)), &snapshot(&Smmu::find(&c)));
}

#[test]
fn reset_restores_power_on_values() {
    let machine = start("accel=on,ats=on,ril=on,ssidsize=20,oas=48");
    let smmu = Smmu::find(&machine);
    let power_on = snapshot(&smmu);
    let mut random = Random::new(0x5eed);
    for round in 0..25 {
        for _ in 0..200 {
            let offset = (random.next() % 0x100) & !3;
            smmu.write(offset, random.next() as u32);
        }
        assert_ne!(
            snapshot(&smmu),
            power_on,
            "round {round} programmed nothing"
        );
        machine.system_reset();
        assert_eq!(
            differences(&snapshot(&smmu), &power_on),
            Vec::<String>::new(),
            "round {round}"
        );
    }
}

#[test]
fn reset_clears_active_cmdq_error() {
    let machine = start(PROFILE);
    let smmu = Smmu::find(&machine);
    let power_on = snapshot(&smmu);
    smmu.intercept_irqs();
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    for _ in 0..3 {
        smmu.setup_queue(RAM, 4);
        smmu.push(&[command::RESERVED]);
        smmu.ring();
        assert_eq!(smmu.read(reg::GERROR), CMDQ_ERR);
        machine.system_reset();
        assert_same(&snapshot(&smmu), &power_on);
        smmu.pulses();
        smmu.setup_queue(RAM, 4);
        smmu.submit(&[command::TLBI_NSNH_ALL, command::SYNC_IRQ]);
        assert_eq!((smmu.pulses(), smmu.error()), ([0, 0, 1, 0], false));
        machine.system_reset();
        smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    }
}
