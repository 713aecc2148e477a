// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host gets the guest's commands in the same form from the new QEMU, which has not probed it.

use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Setup, EXPLICIT},
    command::{self, Command, CFGI_ALL, SYNC, TLBI_NSNH_ALL},
    until, Smmu,
};

use crate::bench::{adopted, update};

/// The batches that the host has got, and the position of the command error.
type Seen = (Vec<Vec<Command>>, Option<u32>);

/// Pages of an unmap, which can be a range.
const PAGES: u64 = 40;

/// Submits commands. Returns their effects, the position counted from the first one.
#[track_caller]
fn submit(bench: &Bench, smmu: &Smmu<'_>) -> Seen {
    let pages = (0..PAGES).map(|page| command::tlbi_nh_va(3, page << 12));
    let mut commands = vec![command::tlbi_nh_asid(3)];
    commands.extend(pages);
    commands.extend([
        command::cfgi_cd_all(sid(1)),
        command::tlbi_nh_vaa(0x1000),
        CFGI_ALL,
        TLBI_NSNH_ALL,
        SYNC,
    ]);
    bench.mark();
    let first = smmu.prod();
    smmu.push(&commands);
    smmu.ring();
    let error = until("the end, or an error", || {
        if smmu.error() {
            return Some(Some(smmu.cons() - first));
        }
        (smmu.cons() == smmu.prod()).then_some(None)
    });
    (bench.journal().batches(), error)
}

/// Checks that commands reach the host `lines` from the new QEMU as from the old one. Returns them.
#[track_caller]
fn alike(lines: &str, properties: &str) -> Seen {
    let devices = |setup: Setup| setup.smmu(properties).assign("d0", 1);
    let old = devices(Setup::updatable(lines)).start();
    let smmu = old.translating(&[ste::FIRST]);
    let seen = submit(&old, &smmu);
    // the guest starts again, without an error
    old.machine().system_reset();
    assert!(!old.translating(&[ste::FIRST]).error());
    let new = update(&old, devices);
    assert_eq!(submit(&new, &adopted(&new)), seen, "{lines}");
    seen
}

#[test]
fn commands_reach_host_alike_after_live_update() {
    let (plain, error) = alike("smmu a", EXPLICIT);
    assert_eq!(error, None);
    // erratum T264-SMMU-3
    let (repeated, _) = alike("smmu a flags=1", EXPLICIT);
    assert_eq!(repeated.concat().len(), 2 * plain.concat().len());
    let without_ranges = "accel=on,ats=on,ril=off,oas=44,ssidsize=0";
    let (merged, _) = alike("smmu a", without_ranges);
    assert!(merged.concat().len() < plain.concat().len(), "{merged:x?}");
}

/// The kernels point at an illegal command in different ways.
#[test]
fn illegal_command_is_found_alike_after_live_update() {
    for contract in ["validating", "block-start"] {
        let lines = format!("smmu a refuses=0x13\ncontract {contract}");
        let (_, error) = alike(&lines, EXPLICIT);
        let position = Some(PAGES as u32 + 2);
        assert_eq!(error, position, "{contract}: TLBI_NH_VAA");
    }
}
