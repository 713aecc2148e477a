// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Trace events of the accelerated mode have the format of the C device's.

use std::path::PathBuf;

use smmuv3_qtest::{command, qemu, qemu_c, smmu::SMMUEN};

use crate::bench::{sid, ste, Guest, Setup, EXPLICIT};

/// Returns the trace of a guest that configures and unplugs its device.
fn trace(binary: PathBuf) -> Vec<String> {
    let bench = Setup::of(&binary, "smmu a")
        .smmu(EXPLICIT)
        .trace("smmuv3_accel_*")
        .trace("smmuv3_illegal_config")
        .trace("smmu_reset_exit")
        .assign("d0", 1)
        .start();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    for entry in [ste::ABORT, ste::FIRST, ste::INVALID, ste::BYPASS] {
        smmu.install(sid(1), entry);
    }
    smmu.commands(&[command::TLBI_NSNH_ALL]);
    bench.unplug("d0", 1);
    let finished = bench.end();
    finished
        .error_lines()
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn lines<'a>(trace: &'a [String], event: &str) -> Vec<&'a str> {
    let with_name = |line: &&str| line.split(' ').next() == Some(event);
    trace.iter().map(String::as_str).filter(with_name).collect()
}

#[test]
fn accel_trace_events_match_c_device() {
    let [rust, c] = [qemu(), qemu_c()].map(trace);
    for event in [
        "smmuv3_accel_set_iommu_device",
        "smmuv3_accel_unset_iommu_device",
        "smmuv3_accel_translate_ste",
        "smmu_reset_exit",
    ] {
        assert!(!lines(&c, event).is_empty(), "{event}");
        assert_eq!(
            lines(&rust, event),
            lines(&c, event),
            "left: the Rust device, right: the C device"
        );
    }
    // the C device traces only attachments that a command causes; those are
    // here in the same order
    let mut traced = lines(&rust, "smmuv3_accel_install_ste").into_iter();
    for line in lines(&c, "smmuv3_accel_install_ste") {
        assert!(traced.any(|other| other == line), "{line}: {rust:#?}");
    }
}

#[test]
fn invalidate_ioctls_are_traced_with_outcome() {
    let rust = trace(qemu());
    let batches = lines(&rust, "smmuv3_accel_invalidate_batch");
    assert_eq!(
        batches.last(),
        Some(&"smmuv3_accel_invalidate_batch count=1 errno=0 entry_num=1"),
        "{rust:#?}"
    );
}

/// An assigned device that is aborted gives a driver no event by itself.
#[test]
fn illegal_ste_of_assigned_device_is_traced() {
    let rust = trace(qemu());
    let stream_id = sid(1);
    let line = format!("smmuv3_illegal_config sid={stream_id:#x} STE.V is 0");
    // SMMUEN is set with an empty Stream table; then a command invalidates an STE
    assert_eq!(
        lines(&rust, "smmuv3_illegal_config"),
        [&*line, &*line],
        "{rust:#?}"
    );
}
