// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which commands are consumed, and which are illegal.

use smmuv3_qtest::{
    command,
    command::{SYNC, SYNC_IRQ, TLBI_NSNH_ALL},
    qemu,
    smmu::{cerror, reg, CMDQEN, SMMUEN},
    Builder,
};

use crate::bench::{
    with_queue, with_queue_of, Interrupts,
    Queue::{Idle, Stopped},
    Steps, PROFILE,
};

#[test]
fn commands_are_consumed_with_or_without_smmuen() {
    with_queue(4, |smmu| {
        for (when, cons) in [("disabled", 5), ("enabled", 10)] {
            smmu.submit(&[
                command::cfgi_ste(0x8),
                command::CFGI_ALL,
                command::cfgi_cd_all(0x8),
                command::tlbi_nh_asid(3),
                SYNC_IRQ,
            ]);
            smmu.expect_both(when, Idle(cons), Interrupts::SYNC);
            smmu.enable(SMMUEN);
        }
    });
}

/// Checks that opcodes other than `legal` are illegal on an SMMU with these
/// properties.
#[track_caller]
fn expect_legal(properties: &str, legal: &[u8]) {
    with_queue_of(Builder::virt(qemu()).smmu(properties), 4, |smmu| {
        for opcode in 0..=u8::MAX {
            let end = if legal.contains(&opcode) {
                Idle(3)
            } else {
                Stopped(1, cerror::ILL)
            };
            smmu.expect_of(
                &[TLBI_NSNH_ALL, command::of(opcode), SYNC],
                format_args!("opcode {opcode:#x}, {properties}"),
                end,
            );
        }
    });
}

#[test]
fn every_opcode_is_consumed_or_illegal() {
    // accel=on: commands for EL2 are accepted in software only, because no host
    // takes them
    let always = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x46,
    ];
    expect_legal(PROFILE, &always);
    let with_ats = PROFILE.replace("ats=off", "ats=on");
    expect_legal(&with_ats, &[&always[..], &[0x40]].concat());
}

/// Commands that are IGNORED while SMMUEN is clear (§6.3.9.6) are still checked
/// for being illegal (§4.1.3).
#[test]
fn command_ignored_without_smmuen_can_be_illegal() {
    let with_ats = PROFILE.replace("ats=off", "ats=on");
    with_queue_of(Builder::virt(qemu()).smmu(&with_ats), 4, |smmu| {
        let too_large = [0x40, 53];
        for enables in [CMDQEN, CMDQEN | SMMUEN] {
            smmu.write(reg::CR0, enables);
            let when = format!("CR0 {enables:#x}");
            smmu.expect_of(&[command::atc_inv_all(0x8), SYNC], &when, Idle(2));
            smmu.expect_of(&[SYNC, too_large], &when, Stopped(1, cerror::ILL));
        }
    });
    with_queue(4, |smmu| {
        let when = "without ATS, disabled";
        let stopped = Stopped(0, cerror::ILL);
        smmu.expect_of(&[command::atc_inv_all(0x8)], when, stopped);
    });
}

#[test]
fn illegal_command_parameters_are_cerror_ill() {
    let ssec = 1 << 10;
    let tg_4k = 1 << 10;
    let tg_16k = 2 << 10;
    let ttl_1 = 1 << 8;
    with_queue(4, |smmu| {
        for (what, command) in [
            ("CMD_SYNC with CS 3", [0x3046, 0]),
            ("PREFETCH_CONFIG with SSec", [0x01 | ssec, 0]),
            ("PREFETCH_ADDR with SSec", [0x02 | ssec, 0]),
            ("CFGI_STE with SSec", [0x03 | ssec, 1]),
            ("CFGI_ALL with SSec", [0x04 | ssec, 31]),
            ("CFGI_CD with SSec", [0x05 | ssec, 1]),
            ("CFGI_CD_ALL with SSec", [0x06 | ssec, 0]),
            ("NH_VA with TG only", [0x12, tg_4k]),
            ("NH_VAA with TG only", [0x13, tg_4k]),
            ("NH_VA of 16K with TTL 1 only", [0x12, tg_16k | ttl_1]),
        ] {
            smmu.expect_of(&[command], what, Stopped(0, cerror::ILL));
        }
    });
}

#[test]
fn out_of_range_and_reserved_parameters_are_legal() {
    with_queue(4, |smmu| {
        smmu.submit(&[
            command::cfgi_ste(u32::MAX),
            command::cfgi_ste_range(0xffff_fff0, 30),
            command::cfgi_cd(0x8, 0xf_ffff),
            command::cfgi_cd_all(u32::MAX),
            // VMID on an SMMU without stage 2, addresses that are not canonical
            [0x11 | (0x77 << 32) | (5 << 48), 0],
            [0x12 | (5 << 48), 0xab00_0000_0000_1001],
            // a range: NUM 3, SCALE 1, TG 4K, TTL 3; the same with TTL128
            [0x10_3012 | (5 << 48), 0x1_0701],
            [0x10_3012 | (5 << 48), 0x1_0781],
            // Reserved bits of CMD_TLBI_NSNH_ALL and CMD_SYNC
            [0xffff_ffff_ffff_ff30, u64::MAX],
            [0xffff_ffff_ffff_cf46, u64::MAX],
        ]);
        smmu.expect("all are consumed", Idle(10));
    });
}
