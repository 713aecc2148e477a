// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a QEMU holds.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use smmuv3_qtest::{sanitizer, Machine};

use crate::report::Report;

/// Has malloc return what is freed to the kernel at once, but for small pieces:
/// else what waits for RCU at the worst moment is QEMU's for good.
pub const RETURNING: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1024");

/// How much more memory QEMU may have at the end, in KiB. It is not what is in
/// use that can be counted, but what malloc has for it, also for what waits for
/// RCU at the worst moment. A guest of a soak test does thousands of things: what
/// is lost with each shows all the same.
const TOLERANCE: u64 = 8 << 10;
/// What QEMU itself loses with each `vfio-pci` that is plugged in and out, in KiB:
/// 35, with whatever SMMU or none.
const LOST_BY_PLUGGING: u64 = 40;
/// How long RCU may take to have its turn, on a machine that has more to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// The guest's own memory, in KiB.
const GUEST: u64 = 128 << 10;

/// What one QEMU holds at a moment.
#[derive(Debug)]
pub struct Resources {
    /// What its descriptors stand for, and how many there are of each
    files: BTreeMap<String, usize>,
    /// Memory that is no file's and not the guest's, in KiB
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
            // each one that a test may plug in is there until it was
            if !name.contains("simhost-device-") {
                // sockets and the like have numbers
                let kind = name.split('[').next().unwrap_or_default().to_owned();
                *files.entry(kind).or_default() += 1;
            }
        }
        let maps = fs::read_to_string(format!("{process}/smaps")).expect("its memory");
        // AddressSanitizer keeps what is freed, to see who uses it
        let counts = sanitizer().is_none();
        Self {
            files,
            memory: if counts { anonymous(&maps) } else { 0 },
        }
    }

    /// Nothing is left of what has come since, except for what QEMU itself loses
    /// with so many devices `plugged` in and out.
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

/// KiB of anonymous memory but for the guest's.
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
