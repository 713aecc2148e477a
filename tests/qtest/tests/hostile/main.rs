// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Randomized malicious guests with host fault injection. QEMU must not crash
//! or hang, no invalidation may be lost, every device must be attached as
//! registers, tables and commands select, and no file, host object or memory
//! may leak.
//!
//! `SEED=N` repeats one guest, `TIME=N` is the number of seconds for new
//! guests, `STEPS=N` the number of operations of each.

mod assigned;
mod emulated;
mod generator;
mod host;
mod invalidations;
mod model;
mod report;
mod resources;

use std::{
    env,
    panic::{catch_unwind, resume_unwind, AssertUnwindSafe},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use report::Report;

/// Seeds of guests that run every time.
const KNOWN: [u64; 4] = [1, 2, 3, 4];
/// Default number of operations of each guest.
const STEPS: u64 = 150;
/// Default time for new guests, in seconds.
const TIME: u64 = 4;

/// Returns the number in an environment variable.
#[track_caller]
fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    let digits = value.strip_prefix("0x");
    let number = digits.map_or_else(|| value.parse(), |digits| u64::from_str_radix(digits, 16));
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Runs guests of a kind: `guest` gets a seed, the number of steps, and the
/// statistics.
#[track_caller]
fn run(kind: &str, guest: impl Fn(u64, u64, &mut Report)) {
    let mut report = Report::default();
    let steps = variable("STEPS").unwrap_or(STEPS);
    let mut one = |seed: u64| {
        println!("{kind}: SEED={seed:#x} STEPS={steps}");
        let one_guest = AssertUnwindSafe(|| guest(seed, steps, &mut report));
        if let Err(panic) = catch_unwind(one_guest) {
            println!("{kind}, up to SEED={seed:#x} STEPS={steps}:\n{report}");
            resume_unwind(panic);
        }
        report.guests += 1;
    };
    if let Some(seed) = variable("SEED") {
        one(seed);
    } else {
        KNOWN.into_iter().for_each(&mut one);
        let time = Duration::from_secs(variable("TIME").unwrap_or(TIME));
        let start = Instant::now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut fresh = since_1970.map_or(0, |since| since.as_nanos() as u64);
        while start.elapsed() < time {
            // so that the seeds of one run are unrelated
            fresh = fresh.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            one(fresh);
        }
    }
    println!("{kind}:\n{report}");
}

#[test]
fn hostile_guest_with_assigned_devices_is_contained() {
    run("assigned devices", assigned::run);
}

#[test]
fn hostile_guest_with_cmdqv_is_contained() {
    run("CMDQ virtualization", assigned::run_with_cmdqv);
}

#[test]
fn hostile_guest_with_emulated_devices_is_contained() {
    run("emulated devices", emulated::run);
}
