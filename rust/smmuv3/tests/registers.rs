// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file beyond the vectors: guards, masks, access sizes, and
//! states that are restored.

use crate::common::vector_features;
use proptest::prelude::*;
use smmuv3::{
    gerror::{CMDQ_ERR, EVENTQ_ABT_ERR},
    registers::SIZE,
    Effects, Features, Registers,
};

const CR0: u64 = 0x20;
const GBPA: u64 = 0x44;
const IRQ_CTRL: u64 = 0x50;
const GERRORN: u64 = 0x64;

/// Returns whether writes of a guest can have led to this state: no RES0 bit is set.
fn is_clean(registers: &Registers, features: &Features) -> bool {
    let mut clean = registers.clone();
    clean.clear_reserved(features);
    clean == *registers
}

struct Smmu(Registers, Features);

impl Smmu {
    fn new(features: Features) -> Self {
        Self(Registers::reset(&features), features)
    }

    fn write(&mut self, offset: u64, value: u64) -> Effects {
        self.0.write(&self.1, offset, value, 4)
    }

    fn read(&self, offset: u64) -> u64 {
        self.0.read(&self.1, offset, 4)
    }

    /// The value of a register after ones were written to it.
    fn ones(&mut self, offset: u64) -> u64 {
        self.write(offset, 0xffff_ffff);
        self.read(offset)
    }
}

#[test]
fn register_reset_values() {
    let smmu = Smmu::new(Features::arm_smmuv3());
    for offset in (0x20..0xfd0).step_by(4) {
        let expected = match offset {
            GBPA => 0x1000,
            0x90 | 0xa0 => 19,
            _ => 0,
        };
        assert_eq!(smmu.read(offset), expected, "{offset:#x}");
    }
    assert!(is_clean(&smmu.0, &smmu.1));
}

#[test]
fn id_register_values() {
    let smmu = Smmu::new(Features::arm_smmuv3());
    let read = |offset| smmu.read(offset);
    assert_eq!([read(0), read(4)], [0x0d44_101a, 0x0273_0010]);
    assert_eq!([read(0x18), read(0x1c)], [0, 1]);
    assert_eq!(smmu.0.read(&smmu.1, 0, 8), 0x0273_0010_0d44_101a);
    let ids: Vec<_> = (0xfd0..0x1000).step_by(4).map(read).collect();
    assert_eq!(
        ids,
        [0x04, 0, 0, 0, 0x84, 0xb4, 0xf0, 0x10, 0x0d, 0xf0, 0x05, 0xb1]
    );
}

#[test]
fn register_page1_aliases_page0() {
    let mut smmu = Smmu::new(vector_features());
    smmu.write(0x100a8, 0x12);
    assert_eq!(smmu.read(0xa8), 0x12);
    smmu.write(0xac, 0x13);
    assert_eq!(smmu.read(0x100ac), 0x13);
    assert_eq!(smmu.read(0x10000), smmu.read(0));
    assert_eq!(smmu.read(SIZE), 0);
    assert_eq!(smmu.read(!3), 0);
}

#[test]
fn unsupported_access_size_has_no_effect() {
    let mut smmu = Smmu::new(vector_features());
    let before = smmu.0.clone();
    for (offset, size) in [
        (CR0, 1),
        (CR0, 2),
        (CR0 + 2, 4),
        (0x94, 8),
        (CR0, 0),
        (0x90, 16),
    ] {
        let effects = smmu.0.write(&smmu.1, offset, u64::MAX, size);
        assert!(effects.guest_error.is_some());
        assert_eq!(smmu.0.read(&smmu.1, offset, size), 0);
    }
    assert_eq!(smmu.0, before);
}

#[test]
fn access64_reaches_two_32_bit_registers() {
    let mut smmu = Smmu::new(vector_features());
    smmu.0.write(&smmu.1, 0x98, 0x3_0000_0005, 8);
    assert_eq!((smmu.read(0x98), smmu.read(0x9c)), (5, 3));
    assert_eq!(smmu.0.read(&smmu.1, 0x98, 8), 0x3_0000_0005);
    smmu.0.write(&smmu.1, 0x28, 0x2_0000_0fff, 8);
    assert_eq!((smmu.read(0x28), smmu.read(0x2c)), (0xfff, 0x2));
}

/// Checks the values that registers read after ones were written to each, out of reset.
fn check_ones(features: Features, expected: &[(u64, u64)]) {
    for (offset, value) in expected {
        let read = Smmu::new(features).ones(*offset);
        assert_eq!(read, *value, "{offset:#x}");
    }
}

#[test]
fn control_registers_store_implemented_bits() {
    const CR2: u64 = 0x2c;
    let base = Features::arm_smmuv3();
    check_ones(
        base,
        &[
            (CR0, 0xd),
            (0x28, 0xfff),
            (CR2, 0x2),
            (GBPA, 0x001f_3f1f),
            (IRQ_CTRL, 0x5),
            (GERRORN, 0x105),
        ],
    );
    check_ones(base.with_ats(true), &[(CR0, 0x1d)]);
    check_ones(base.with_pri(true), &[(CR0, 0xf), (IRQ_CTRL, 0x7)]);
    check_ones(base.with_vmw(true), &[(CR0, 0x1cd)]);
    check_ones(base.with_dpt(true), &[(CR0, 0x40d)]);
    check_ones(base.with_hyp(true), &[(CR2, 0x3)]);
    check_ones(base.with_btm(true), &[(CR2, 0x6)]);
    check_ones(base.with_atsrecerr(true), &[(CR2, 0xa)]);
}

#[test]
fn base_registers_store_implemented_bits() {
    let base = Features::arm_smmuv3();
    check_ones(
        base,
        &[
            (0x80, 0xffff_ffc0),
            (0x84, 0x4000_0fff),
            (0x88, 0x307ff),
            (0x90, 0xffff_ffff),
            (0x94, 0x4000_0fff),
            (0x98, 0xf_ffff),
            (0x9c, 0xf_ffff),
            (0xa0, 0xffff_ffff),
            (0xa4, 0x4000_0fff),
            (0xa8, 0x800f_ffff),
            (0xac, 0x800f_ffff),
        ],
    );
    check_ones(base.with_oas(6), &[(0x84, 0x400f_ffff)]);
    check_ones(base.with_st_level(0), &[(0x88, 0x3f)]);
}

#[test]
fn msi_registers_res0_without_idr0_msi() {
    let values = [0xffff_fffc, 0xfff, 0xffff_ffff, 0x3f];
    for first in [0x68_u64, 0xb0] {
        for (offset, value) in (first..).step_by(4).zip(values) {
            check_ones(vector_features(), &[(offset, 0)]);
            check_ones(vector_features().with_msi(true), &[(offset, value)]);
        }
    }
}

#[test]
fn guarded_registers_read_only_while_enabled() {
    // Register, enable in CR0.
    let guarded = [
        (0x2c, 0x1),
        (0x80, 0x1),
        (0x84, 0x1),
        (0x88, 0x1),
        (0x90, 0x8),
        (0x94, 0x8),
        (0x9c, 0x8),
        (0xa0, 0x4),
        (0xa4, 0x4),
        (0xa8, 0x4),
    ];
    for (offset, enable) in guarded {
        let mut smmu = Smmu::new(vector_features());
        smmu.write(CR0, enable);
        let before = smmu.read(offset);
        assert!(smmu.write(offset, 0xffff_ffff).guest_error.is_some());
        assert_eq!(smmu.read(offset), before, "{offset:#x}");
        // Every other enable does not matter.
        smmu.write(CR0, 0xd & !enable);
        assert!(smmu.write(offset, 0xffff_ffff).guest_error.is_none());
        assert_ne!(smmu.read(offset), before, "{offset:#x}");
    }
    for (offset, enable) in [(0x68, 1), (0x74, 1), (0xb0, 4), (0xbc, 4)] {
        let mut smmu = Smmu::new(vector_features().with_msi(true));
        smmu.write(IRQ_CTRL, enable);
        assert_eq!(smmu.ones(offset), 0, "{offset:#x}");
        smmu.write(IRQ_CTRL, 5 & !enable);
        assert_ne!(smmu.ones(offset), 0, "{offset:#x}");
    }
}

#[test]
fn preset_bases_are_read_only() {
    let mut smmu = Smmu::new(
        vector_features()
            .with_queues_preset(true)
            .with_tables_preset(true),
    );
    for offset in [0x80, 0x84, 0x88, 0x90, 0x94, 0xa0, 0xa4] {
        let before = smmu.read(offset);
        assert_eq!(smmu.ones(offset), before, "{offset:#x}");
    }
    assert_eq!(smmu.ones(0x98), 0xf_ffff);
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut smmu = Smmu::new(vector_features());
    let before = smmu.0.clone();
    for offset in (0..0x20)
        .step_by(4)
        .chain([0x24, 0x40, 0x54, 0x60, 0xfd0, 0xffc])
    {
        assert_eq!(smmu.write(offset, 0xffff_ffff), Effects::default());
    }
    assert_eq!(smmu.0, before);
}

#[test]
fn write_effects_match_changes() {
    let mut smmu = Smmu::new(vector_features());
    let none = Effects::default();
    let streams = Effects {
        streams: true,
        ..none
    };
    let eventq = Effects {
        eventq: true,
        ..none
    };
    assert_eq!(smmu.write(GBPA, 0x8010_0000), streams);
    assert!(smmu.0.gbpa_abort());
    assert_eq!(smmu.write(GBPA, 0x8010_0000), none);
    assert_eq!(smmu.write(CR0, 0x1), streams);
    assert_eq!(smmu.write(GBPA, 0x8000_0000), none);
    assert_eq!(smmu.write(CR0, 0x5), eventq);
    assert_eq!(smmu.write(CR0, 0x5), none);
    assert_eq!(smmu.write(CR0, 0x0), streams.and(eventq));
    assert_eq!(smmu.write(CR0, 0x8), none);
    let cmdq = Effects { cmdq: true, ..none };
    assert_eq!(smmu.write(0x98, 1), cmdq);
    assert_eq!(smmu.write(CR0, 0x0), none);
    assert_eq!(smmu.write(CR0, 0x9), streams.and(cmdq));
    smmu.0.activate_errors(CMDQ_ERR);
    assert_eq!(smmu.write(0x98, 2), none);
    assert_eq!(smmu.write(GERRORN, 1), cmdq);
}

#[test]
fn cons_err_survives_cons_write() {
    let mut smmu = Smmu::new(vector_features());
    smmu.0.cmdq_cons = (2 << 24) | 5;
    smmu.write(0x9c, 0x0100_0003);
    assert_eq!(smmu.read(0x9c), 0x0200_0003);
}

#[test]
fn active_gerror_does_not_toggle_again() {
    let mut smmu = Smmu::new(vector_features());
    assert_eq!(smmu.0.activate_errors(CMDQ_ERR | EVENTQ_ABT_ERR), 0x5);
    assert_eq!(smmu.0.activate_errors(CMDQ_ERR), 0);
    smmu.write(GERRORN, 0x1);
    assert_eq!(smmu.0.active_errors(), EVENTQ_ABT_ERR);
    assert_eq!(smmu.0.activate_errors(CMDQ_ERR), CMDQ_ERR);
    assert_eq!(smmu.read(0x60), 0x4);
}

#[test]
fn invalid_register_state_is_rejected_by_field() {
    let features = vector_features();
    let mut smmu = Smmu::new(features);
    let reset = smmu.0.clone();
    smmu.0.cmdq_base |= 1 << 63;
    assert!(!is_clean(&smmu.0, &features), "bit 63 is RES0");
    smmu.0.clear_reserved(&features);
    assert_eq!(smmu.0, reset);

    smmu.0.cmdq_cons = (4 << 24) | 5;
    assert!(!is_clean(&smmu.0, &features), "no such code");
    smmu.0.clear_reserved(&features);
    assert_eq!(smmu.0.cmdq_cons, 5);
    smmu.0.cmdq_cons = 3 << 24;
    assert!(is_clean(&smmu.0, &features));

    // CR0ACK is CR0, even if another value was saved.
    smmu.0.cr0 = 9;
    assert_eq!((smmu.read(CR0), smmu.read(0x24)), (9, 9));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_writes_keep_state_valid(
        idr in any::<[u32; 6]>(),
        plain in any::<bool>(),
        accesses in prop::collection::vec((0..0x130_u64, any::<u64>(), any::<bool>()), 0..60),
    ) {
        let features = if plain {
            vector_features()
        } else {
            Features { idr, iidr: 0, aidr: 1 }
        };
        let mut smmu = Smmu::new(features);
        for (offset, value, wide) in accesses {
            let size = if wide { 8 } else { 4 };
            smmu.0.write(&features, offset & !3, value, size);
            let read = smmu.0.read(&features, offset & !3, size);
            prop_assert!(wide || read <= u64::from(u32::MAX));
        }
        prop_assert!(is_clean(&smmu.0, &features));
    }

    #[test]
    fn reset_clears_any_restored_state(
        words in any::<[u32; 11]>(),
        wide in any::<[u64; 5]>(),
        pointers in any::<[u32; 4]>(),
    ) {
        let features = vector_features();
        let mut registers = Registers::reset(&features);
        let [cr0, cr1, cr2, statusr, gbpa, irq_ctrl, gerror, gerrorn, cfg1, cfg2, strtab] =
            words;
        registers.cr0 = cr0;
        registers.cr1 = cr1;
        registers.cr2 = cr2;
        registers.statusr = statusr;
        registers.gbpa = gbpa;
        registers.irq_ctrl = irq_ctrl;
        registers.gerror = gerror;
        registers.gerrorn = gerrorn;
        registers.gerror_irq_cfg1 = cfg1;
        registers.eventq_irq_cfg1 = cfg1;
        registers.gerror_irq_cfg2 = cfg2;
        registers.eventq_irq_cfg2 = cfg2;
        registers.strtab_base_cfg = strtab;
        let [table, gerror_irq, eventq_irq, cmdq, eventq] = wide;
        registers.strtab_base = table;
        registers.gerror_irq_cfg0 = gerror_irq;
        registers.eventq_irq_cfg0 = eventq_irq;
        registers.cmdq_base = cmdq;
        registers.eventq_base = eventq;
        registers.cmdq_prod = pointers[0];
        registers.cmdq_cons = pointers[1];
        registers.eventq_prod = pointers[2];
        registers.eventq_cons = pointers[3];
        registers.clear_reserved(&features);
        prop_assert!(is_clean(&registers, &features));
    }
}
