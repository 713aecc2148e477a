// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Resources that a QEMU process holds.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use smmuv3_qtest::{sanitizer, Machine};

use crate::report::Report;

/// Makes malloc return freed memory to the kernel at once, except for small
/// blocks. Otherwise memory that waits for RCU at a bad moment stays with the
/// process for good.
pub const RETURNING: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1024");

/// Tolerated growth of QEMU's memory, in KiB. Only the memory that malloc holds
/// can be counted, which includes memory that waits for RCU. A soak test does
/// thousands of operations, so a leak in one of them is still visible.
const TOLERANCE: u64 = 8 << 10;
/// KiB that QEMU itself leaks with each `vfio-pci` that is plugged in and out:
/// 35, with any SMMU or none.
const LOST_BY_PLUGGING: u64 = 40;
/// Time limit for an RCU grace period on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Memory of the guest, in KiB.
const GUEST: u64 = 128 << 10;

/// The resources of one QEMU process at a time.
#[derive(Debug)]
pub struct Resources {
    /// The targets of its descriptors, with the number of descriptors of each
    files: BTreeMap<String, usize>,
    /// Anonymous memory without the guest's, in KiB
    memory: u64,
}

impl Resources {
    #[track_caller]
    pub fn of(machine: &Machine) -> Self {
        let process = format!("/proc/{}", machine.pid());
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(format!("{process}/fd")).expect("descriptors") {
            let target = entry.and_then(|entry| fs::read_link(entry.path()));
            let Ok(target) = target else { continue };
            let name = target.to_string_lossy().into_owned();
            // a spare device's descriptor is open until the device is plugged
            // in
            if !name.contains("simhost-device-") {
                // sockets and similar files have numbers
                let kind = name.split('[').next().unwrap_or_default().to_owned();
                *files.entry(kind).or_default() += 1;
            }
        }
        let maps = fs::read_to_string(format!("{process}/smaps")).expect("its memory");
        // AddressSanitizer keeps freed memory in quarantine
        let counts = sanitizer().is_none();
        Self {
            files,
            memory: if counts { anonymous(&maps) } else { 0 },
        }
    }

    /// Checks that nothing leaked since, except for what QEMU itself leaks with
    /// so many devices `plugged` in and out.
    #[track_caller]
    pub fn return_to(&self, machine: &Machine, plugged: u64, report: &mut Report) {
        let tolerance = TOLERANCE + LOST_BY_PLUGGING * plugged;
        let start = Instant::now();
        let growth = loop {
            let now = Self::of(machine);
            let growth = now.memory.saturating_sub(self.memory);
            let over = now.files != self.files || growth > tolerance;
            if !over {
                break growth;
            }
            if start.elapsed() > PATIENCE {
                assert_eq!(now.files, self.files, "files that are left open");
                panic!("{growth} KiB of memory are left, with {plugged} devices plugged in");
            }
            thread::sleep(Duration::from_millis(20));
        };
        report.growth = report.growth.max(growth);
        report.counted += 1;
    }
}

/// Returns the KiB of anonymous memory without the guest's.
fn anonymous(maps: &str) -> u64 {
    let field = |line: &str, name: &str| {
        let value = line.strip_prefix(name)?.trim_start_matches([':', ' ']);
        value.split(' ').next()?.parse::<u64>().ok()
    };
    let mut size = 0;
    let mut sum = 0;
    for line in maps.lines() {
        if let Some(value) = field(line, "Size:") {
            size = value;
        } else if let Some(value) = field(line, "Anonymous:") {
            sum += if size == GUEST { 0 } else { value };
        }
    }
    sum
}
