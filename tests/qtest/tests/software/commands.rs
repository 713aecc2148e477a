// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which commands are legal depends on the implemented stages (§4.3, §4.4).

use smmuv3_qtest::{
    command::{self, Command, SYNC},
    machine::RAM,
    pci::SBSA_REF,
    qemu,
    smmu::{cerror, reg, CMDQEN},
    Builder, Smmu,
};

use crate::{
    bench::{machine, Bench, IOVA, SID},
    guest_errors::GuestErrors,
};

/// Returns the commands that need stage 1.
fn of_stage_1() -> Vec<Command> {
    vec![
        command::tlbi_nh_all(0),
        command::tlbi_nh_asid(7),
        command::tlbi_nh_va(7, 0x1000),
        command::tlbi_nh_vaa(0x1000),
        command::cfgi_cd(SID, 0),
        command::cfgi_cd_all(SID),
    ]
}

/// Returns the commands that need stage 2.
fn of_stage_2() -> Vec<Command> {
    vec![command::tlbi_s12_vmall(3), command::tlbi_s2_ipa(3, 0x1000)]
}

/// Returns the commands that are legal with any stage.
fn of_any() -> Vec<Command> {
    vec![
        command::TLBI_NSNH_ALL,
        command::CFGI_ALL,
        command::cfgi_ste(SID),
        command::cfgi_ste_range(SID, 3),
        SYNC,
    ]
}

/// Returns the commands that are ILLEGAL with any stage: those for EL3, page
/// requests, stalls and ATS, which are not implemented.
fn of_none() -> Vec<Command> {
    [0x18, 0x1a, 0x40, 0x41, 0x44, 0x45].map(command::of).into()
}

/// Returns the commands for EL2, which firmware issues although `IDR0.Hyp` is
/// 0. By address also with a granule and no range, which is ILLEGAL even with
/// EL2 (§4.4.1.1).
fn of_el2() -> Vec<Command> {
    let operands = [7 << 48, IOVA | 1];
    let granule_alone = [0, IOVA | (1 << 10)];
    [0x20, 0x21, 0x22, 0x23]
        .into_iter()
        .flat_map(|opcode| {
            [[0, 0], operands, granule_alone].map(|[word0, word1]| [word0 | opcode, word1])
        })
        .collect()
}

fn consume(smmu: &Smmu<'_>, command: Command) {
    smmu.disable(CMDQEN);
    smmu.acknowledge();
    smmu.setup_queue(RAM + 0x4_0000, 4);
    smmu.push(&[command, SYNC]);
    smmu.ring();
}

#[track_caller]
fn legal(smmu: &Smmu<'_>, commands: &[Command]) {
    for command in commands {
        consume(smmu, *command);
        assert!(!smmu.error(), "{command:x?} is illegal");
        smmu.wait_consumed();
    }
}

#[track_caller]
fn illegal(smmu: &Smmu<'_>, commands: &[Command]) {
    for command in commands {
        consume(smmu, *command);
        assert!(smmu.error(), "{command:x?} is legal");
        assert_eq!(smmu.cons_err(), cerror::ILL, "{command:x?}");
        assert_eq!(smmu.cons(), 0, "{command:x?}");
    }
}

#[test]
fn stage2_commands_illegal_without_stage2() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    legal(&bench.smmu, &of_any());
    legal(&bench.smmu, &of_stage_1());
    illegal(&bench.smmu, &of_stage_2());
}

#[test]
fn stage1_commands_illegal_without_stage1() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    legal(&bench.smmu, &of_any());
    legal(&bench.smmu, &of_stage_2());
    illegal(&bench.smmu, &of_stage_1());
}

#[test]
fn stage_commands_legal_with_both_stages() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    legal(&bench.smmu, &of_any());
    legal(&bench.smmu, &of_stage_1());
    legal(&bench.smmu, &of_stage_2());
}

#[test]
fn unsupported_commands_illegal_with_every_stage() {
    for stage in ["1", "2", "nested"] {
        let machine = machine(stage).start();
        let bench = Bench::new(&machine);
        illegal(&bench.smmu, &of_none());
    }
}

#[test]
fn el2_tlbi_without_hyp_is_consumed_with_every_stage() {
    for stage in ["1", "2", "nested"] {
        let machine = machine(stage).start();
        let bench = Bench::new(&machine);
        assert_eq!(bench.smmu.read(reg::IDR0) & (1 << 9), 0, "IDR0.Hyp");
        legal(&bench.smmu, &of_el2());
    }
}

/// EDK2's `SmmuDxe` starts like this on `sbsa-ref` and fails if `GERROR` is not
/// 0 then.
#[test]
fn edk2_start_sequence_leaves_no_error() {
    let sbsa_ref = Builder::new(qemu())
        .args(["-machine", "sbsa-ref,accel=qtest"])
        // the display's firmware is not part of the build
        .args(["-global", "bochs-display.romfile="]);
    for (builder, ram) in [(machine("nested"), RAM), (sbsa_ref, SBSA_REF.ram)] {
        let machine = builder.start();
        let smmu = Smmu::find(&machine);
        smmu.setup_queue(ram + 0x4_0000, 8);
        smmu.push(&[
            command::CFGI_ALL,
            command::TLBI_NSNH_ALL,
            command::of(0x20),
            SYNC,
        ]);
        smmu.ring();
        assert_eq!(smmu.read(reg::CMDQ_CONS), 4);
        assert_eq!(smmu.read(reg::GERROR), 0);
    }
}

/// A guest can issue any number of them, so the log must be rate-limited.
#[test]
fn el2_tlbi_without_hyp_is_logged_at_a_bounded_rate() {
    let log = GuestErrors::of(|bench| {
        for _ in 0..20 {
            bench.smmu.setup_queue(RAM + (2 << 20), 12);
            bench.smmu.push(&vec![command::of(0x20); 1 << 12]);
            bench.smmu.ring();
            bench.smmu.wait_consumed();
            bench.smmu.disable(CMDQEN);
        }
    });
    log.assert_limited(|line| line.starts_with("smmuv3.1: ") && line.contains("TLBI_EL2_ALL"));
}

/// TG without a range and without a level is Reserved (§4.4.1.1).
#[test]
fn range_tlbi_with_tg_alone_is_illegal() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for command in [
        command::tlbi_nh_va(7, 0),
        command::tlbi_nh_vaa(0),
        command::tlbi_s2_ipa(3, 0),
    ] {
        for tg in 1..4 {
            let range = |num, scale, ttl| {
                let range = command::Range {
                    tg,
                    num,
                    scale,
                    ttl,
                };
                range.of(command)
            };
            illegal(&bench.smmu, &[range(0, 0, 0)]);
            legal(
                &bench.smmu,
                &[range(1, 0, 0), range(0, 1, 0), range(0, 0, 3)],
            );
        }
    }
}
