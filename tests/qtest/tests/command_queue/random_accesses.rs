// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Malicious guests: any register, any value, any command.

use smmuv3_qtest::{
    command,
    command::Command,
    machine::RAM,
    qemu, smmu,
    smmu::{
        reg, CMDQEN, CMDQ_ERR, EVENTQEN, MSI_CMDQ_ABT_ERR, MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR,
        SMMUEN,
    },
    Builder, Random, Smmu,
};

use crate::bench::{Steps, NOWHERE};

/// `GERROR.EVENTQ_ABT_ERR`
const EVENTQ_ABT_ERR: u32 = 1 << 2;
/// `GERROR.MSI_CMDQ_ABT_ERR` and its like
const MSI_ERRORS: u32 = MSI_CMDQ_ABT_ERR | MSI_EVENTQ_ABT_ERR | MSI_GERROR_ABT_ERR;

/// Returns the offset of a random register, more often of one with effects.
fn offset(random: &mut Random) -> u64 {
    match random.next() % 8 {
        0 => random.next() % smmu::SIZE,
        1..=3 => random.of(&[
            reg::CR0,
            reg::GERRORN,
            reg::CMDQ_PROD,
            reg::CMDQ_CONS,
            reg::IRQ_CTRL,
        ]),
        4 => random.of(&[
            reg::CMDQ_BASE,
            reg::STRTAB_BASE,
            reg::EVENTQ_BASE,
            reg::GERROR_IRQ_CFG0,
        ]),
        _ => random.next() % 0x100,
    }
}

/// Returns a random value, more often one with effects.
fn value(smmu: &Smmu<'_>, random: &mut Random) -> u64 {
    let noise = random.next();
    match random.next() % 4 {
        0 => noise,
        1 => noise & 0x1f,
        2 => {
            random.of(&[RAM, NOWHERE, 0, smmu.base(), 0x0900_0000, 0x0801_0000]) | noise & 0xf_ffff
        }
        _ => random.of(&[
            u64::MAX,
            0,
            CMDQEN.into(),
            (CMDQEN | SMMUEN | EVENTQEN).into(),
            1,
        ]),
    }
}

fn access(smmu: &Smmu<'_>, random: &mut Random) {
    let address = smmu.base() + offset(random);
    let value = value(smmu, random);
    match random.next() % 8 {
        0 => drop(smmu.machine().read64(address & !7)),
        1 => drop(smmu.machine().read32(address & !3)),
        2 | 3 => smmu.machine().write64(address & !7, value),
        _ => smmu.machine().write32(address & !3, value as u32),
    }
}

/// Returns random words, often with an opcode that exists.
fn noise(random: &mut Random) -> Command {
    let opcode = random.of(&[0x03, 0x04, 0x05, 0x06, 0x11, 0x12, 0x13, 0x30, 0x40, 0x46]);
    [random.next() & !0xff | opcode, random.next()]
}

fn run_hostile_guest(seed: u64) {
    let machine = Builder::virt(qemu())
        .smmu("accel=on,ats=on,ril=on,ssidsize=20,oas=48")
        .start();
    let smmu = Smmu::find(&machine);
    let mut random = Random::new(seed);
    for _ in 0..40 {
        let commands: Vec<Command> = (0..256).map(|_| noise(&mut random)).collect();
        let place = RAM + (random.next() & 0xf_f000);
        machine.write_memory(place, &command::to_bytes(&commands));
        for _ in 0..500 {
            access(&smmu, &mut random);
        }
        smmu.expect_running(format_args!("seed {seed:#x}"));
        // Service failure mode (§12.3) is never entered.
        let possible = CMDQ_ERR | EVENTQ_ABT_ERR | MSI_ERRORS;
        let errors = smmu.read(reg::GERROR) & !possible;
        assert_eq!(errors, 0, "seed {seed:#x}");
    }
    machine.system_reset();
    smmu.expect_usable();
    let finished = machine.quit();
    assert!(finished.status.success(), "seed {seed:#x}\n{finished}");
    let lines = finished.error_lines().len();
    assert!(lines < 20, "seed {seed:#x}: {lines} lines\n{finished}");
}

#[test]
fn random_register_accesses_do_not_crash_qemu() {
    for seed in [0x1, 0xdead_beef, 0x0123_4567_89ab_cdef, 0x5eed_5eed] {
        run_hostile_guest(seed);
    }
}
