// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The machines of these tests.

use std::path::Path;

use smmuv3_qtest::assigned::{Bench, Setup, EXPLICIT};

/// A host whose SMMU has three VINTFs for virtual machines.
pub const HOST: &str = "smmu a cmdqv=vintfs:3,vcmdqs:1,sids:4,version:1";

/// The host objects of a vIOMMU with CMDQ virtualization, without hardware
/// queues and those of devices.
pub const VIOMMU: [(&str, usize); 6] = [
    ("ioas", 1),
    ("s2", 1),
    ("cmdqv-viommu", 1),
    ("cmdqv-veventq", 1),
    ("abort", 1),
    ("bypass", 1),
];

/// Returns a machine that `binary` runs, with CMDQ virtualization as `cmdqv`
/// says and without a device.
pub fn setup(binary: &Path, host: &str, cmdqv: &str) -> Setup {
    Setup::of(binary, host).smmu(&format!("{EXPLICIT},cmdqv={cmdqv}"))
}

/// Starts a machine with CMDQ virtualization and the device "d0".
#[track_caller]
pub fn start(binary: &Path) -> Bench {
    setup(binary, HOST, "on").assign("d0", 1).start()
}

/// Numbers of queues that the host and QEMU execute.
pub fn executors(bench: &Bench) -> [u64; 2] {
    let machine = bench.machine();
    let path = machine.smmus().remove(0);
    let statistics = machine.qom_get(&path, "statistics");
    ["in-hardware", "in-software"].map(|member| {
        let value = &statistics["cmdqv"][member];
        value.as_u64().expect("a number")
    })
}
