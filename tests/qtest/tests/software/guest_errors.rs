// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The log of guest errors (`-d guest_errors`), which must be rate-limited, because a
//! guest can cause any number of them.

use std::{
    env, fs, process,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use smmuv3_qtest::{smmu::reg, Access};

use crate::{
    bench::{machine, Bench, IOVA},
    entries::Entry,
};

/// The guest errors of one run of QEMU.
pub struct GuestErrors {
    lines: Vec<String>,
    /// The most lines that one a second permits
    limit: usize,
}

impl GuestErrors {
    /// Returns the guest errors that `provoke` causes on a machine with stage 1.
    pub fn of(provoke: impl FnOnce(&Bench<'_>)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = env::temp_dir().join(format!("smmuv3-guest-errors-{}-{number}", process::id()));
        let machine = machine("1")
            .args(["-d", "guest_errors"])
            .arg("-D")
            .arg(&log)
            .start();
        let bench = Bench::new(&machine);
        let started = Instant::now();
        provoke(&bench);
        let limit = started.elapsed().as_secs() as usize + 1;
        machine.quit();
        let text = fs::read_to_string(&log).expect("the log");
        let _ = fs::remove_file(&log);
        Self {
            lines: text.lines().map(str::to_owned).collect(),
            limit,
        }
    }

    /// Checks that the log has no more than one line a second for which `is_expected`
    /// returns true, but at least one.
    #[track_caller]
    pub fn assert_limited(&self, is_expected: impl Fn(&str) -> bool) {
        let (lines, limit) = (&self.lines, self.limit);
        let expected = lines.iter().filter(|line| is_expected(line)).count();
        assert!(
            (1..=limit).contains(&expected),
            "{expected} lines, at most {limit} are permitted: {lines:#?}"
        );
    }
}

#[test]
fn fault_is_logged_at_bounded_rate() {
    let mut expected = String::new();
    let log = GuestErrors::of(|bench| {
        let sid = bench.edu.sid();
        expected = format!("smmuv3.1: no translation of {IOVA:#x} for StreamID {sid:#x}: ");
        bench.install(Entry::default());
        for _ in 0..200 {
            bench.edu.access(Access::Read, IOVA);
        }
    });
    log.assert_limited(|line| line.starts_with(&expected));
}

#[test]
fn forbidden_write_is_logged_at_bounded_rate() {
    let log = GuestErrors::of(|bench| {
        // CR0.CMDQEN guards it
        for low in 0..1000 {
            bench.smmu.write(reg::CMDQ_BASE, low << 5);
        }
    });
    log.assert_limited(|line| {
        line.starts_with("smmuv3.1: write to a register") && line.contains(" to 0x90)")
    });
}
