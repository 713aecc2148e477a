// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which commands there are depends on the stages that there are (4.3, 4.4).

use smmuv3_qtest::{
    command::{self, Command, SYNC},
    machine::RAM,
    smmu::{cerror, CMDQEN},
    Smmu,
};

use crate::bench::{machine, Bench, SID};

/// Those that a stage 1 needs.
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

/// Those that a stage 2 needs.
fn of_stage_2() -> Vec<Command> {
    vec![command::tlbi_s12_vmall(3), command::tlbi_s2_ipa(3, 0x1000)]
}

/// Those that there are with any stage.
fn of_any() -> Vec<Command> {
    vec![
        command::TLBI_NSNH_ALL,
        command::CFGI_ALL,
        command::cfgi_ste(SID),
        command::cfgi_ste_range(SID, 3),
        SYNC,
    ]
}

/// Those of Exception levels that the SMMU does not have.
fn of_none() -> Vec<Command> {
    [0x18, 0x1a, 0x20, 0x21, 0x22, 0x23].map(command::of).into()
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
fn commands_of_stage_2_are_illegal_without_it() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    legal(&bench.smmu, &of_any());
    legal(&bench.smmu, &of_stage_1());
    illegal(&bench.smmu, &of_stage_2());
}

#[test]
fn commands_of_stage_1_are_illegal_without_it() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    legal(&bench.smmu, &of_any());
    legal(&bench.smmu, &of_stage_2());
    illegal(&bench.smmu, &of_stage_1());
}

#[test]
fn commands_of_either_stage_are_legal_with_both() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    legal(&bench.smmu, &of_any());
    legal(&bench.smmu, &of_stage_1());
    legal(&bench.smmu, &of_stage_2());
}

#[test]
fn commands_of_other_exception_levels_are_illegal_with_any_stage() {
    for stage in ["1", "2", "nested"] {
        let machine = machine(stage).start();
        let bench = Bench::new(&machine);
        illegal(&bench.smmu, &of_none());
    }
}

/// A granule without a range and without a level says nothing: Reserved
/// (4.4.1.1).
#[test]
fn a_granule_alone_is_illegal() {
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
