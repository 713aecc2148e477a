// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Waiting, never for ever.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take. Generous: the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Asks `probe` until it answers.
///
/// # Panics
///
/// After [`TIMEOUT`], with `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < TIMEOUT, "no {what} within {TIMEOUT:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
