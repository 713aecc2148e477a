// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Trace events of translation have the format of the C device's.

use std::path::PathBuf;

use smmuv3_qtest::{
    command, qemu, qemu_c,
    smmu::{reg, SMMUEN},
    Access,
};

use crate::{
    bench::{install_stage2, machine_of, Bench, Stage1, DATA, IOVA, SID},
    entries::ste,
    tables::Granule,
};

/// An address of RAM, for untranslated accesses.
const ADDRESS: u64 = DATA + 0x5_0340;

/// Returns the trace of a device while `drive` uses it.
fn trace(binary: PathBuf, stage: &str, drive: impl Fn(&Bench<'_>)) -> Vec<String> {
    let machine = machine_of(binary, stage)
        .args(["-trace", "smmuv3_*", "-trace", "smmu_*"])
        .start();
    drive(&Bench::new(&machine));
    let finished = machine.quit();
    let lines = finished.error_lines();
    lines
        .into_iter()
        // without stage 2 the C device has no VMID, and this one 0
        .map(|line| line.trim_end().replace("vmid=-1", "vmid=0"))
        .collect()
}

/// Returns the lines of one event.
fn lines(trace: &[String], event: &str) -> Vec<String> {
    trace
        .iter()
        .filter(|line| line.split(' ').next() == Some(event))
        .map(|line| essence(line))
        .collect()
}

/// Returns a line without the fields in which the C device is wrong: the
/// direction of untranslated accesses, and the `StreamIDs` of `CFGI_ALL`.
fn essence(line: &str) -> String {
    let line = line.split(" is_write=").next().unwrap_or_default();
    line.replace("0xffffffff", "0xffff")
}

/// Checks that both devices trace the same lines of these events, and at least
/// one of each.
#[track_caller]
fn same(stage: &str, events: &[&str], drive: impl Fn(&Bench<'_>)) {
    let [rust, c] = [qemu(), qemu_c()].map(|binary| trace(binary, stage, &drive));
    let mut differences = Vec::new();
    for event in events {
        let both = (lines(&rust, event), lines(&c, event));
        if both.0 != both.1 || both.1.is_empty() {
            differences.push(format!("{event}:\n  Rust {:#?}\n  C {:#?}", both.0, both.1));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

const TRANSLATING: [&str; 7] = [
    "smmu_add_mr",
    "smmuv3_translate_success",
    "smmuv3_config_cache_hit",
    "smmuv3_config_cache_miss",
    "smmu_iotlb_insert",
    "smmu_ptw_level",
    "smmu_get_pte",
];
const LOOKING_UP: [&str; 2] = ["smmu_iotlb_lookup_hit", "smmu_iotlb_lookup_miss"];

#[test]
fn stage1_trace_events_match_c_device() {
    let events = [&TRANSLATING[..], &LOOKING_UP].concat();
    same("1", &events, |bench| {
        let _stage1 = Stage1::new(bench, Granule::K4, 39);
        bench.writes(IOVA, DATA);
        bench.writes(IOVA, DATA);
    });
}

#[test]
fn stage2_trace_events_match_c_device() {
    same("2", &TRANSLATING, |bench| {
        install_stage2(bench, Granule::K4, 39);
        bench.writes(IOVA, DATA);
        bench.writes(IOVA, DATA);
    });
}

#[test]
fn bypass_and_abort_trace_events_match_c_device() {
    let events = [
        "smmuv3_translate_abort",
        "smmuv3_translate_bypass",
        "smmuv3_translate_disable",
        "smmuv3_propagate_event",
    ];
    same("1", &events, |bench| {
        bench.install(ste::bypass());
        bench.writes(ADDRESS, ADDRESS);
        bench.install(ste::abort());
        bench.aborts(Access::Write, ADDRESS);
        let _stage1 = Stage1::new(bench, Granule::K4, 39);
        bench.refused(Access::Read, IOVA + 0x1000);
        bench.smmu.disable(SMMUEN);
        bench.edu.write(ADDRESS);
        bench.smmu.write(reg::GBPA, (1 << 31) | (1 << 20));
        bench.edu.write(ADDRESS);
    });
}

#[test]
fn tlbi_trace_events_match_c_device() {
    let events = [
        "smmuv3_cmdq_cfgi_ste",
        "smmuv3_cmdq_cfgi_ste_range",
        "smmuv3_cmdq_cfgi_cd",
        "smmuv3_cmdq_tlbi_nsnh",
        "smmuv3_cmdq_tlbi_nh",
        "smmuv3_cmdq_tlbi_nh_asid",
        "smmuv3_cmdq_tlbi_s12_vmid",
        "smmuv3_range_inval",
        "smmu_config_cache_inv",
        "smmu_configs_inv_sid_range",
        "smmu_iotlb_inv_all",
        "smmu_iotlb_inv_asid_vmid",
        "smmu_iotlb_inv_vmid",
        "smmu_iotlb_inv_vmid_s1",
    ];
    same("nested", &events, |bench| {
        bench.install(ste::bypass());
        bench.writes(ADDRESS, ADDRESS);
        for command in [
            command::cfgi_ste(SID),
            command::cfgi_ste_range(SID, 3),
            command::CFGI_ALL,
            command::cfgi_cd(SID, 0),
            command::cfgi_cd_all(SID),
            command::TLBI_NSNH_ALL,
            command::tlbi_nh_all(3),
            command::with_vmid(command::tlbi_nh_asid(5), 3),
            command::with_vmid(command::tlbi_nh_va(5, IOVA), 3),
            command::with_vmid(command::tlbi_nh_vaa(IOVA), 3),
            command::tlbi_s12_vmall(3),
            command::tlbi_s2_ipa(3, IOVA),
        ] {
            bench.commands(&[command]);
        }
    });
}
