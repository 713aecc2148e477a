// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Waiting with a time limit.

use std::{
    env,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use crate::binary::is_debugged;

/// The time limit of every wait: the seconds in the variable `PATIENCE`, or by
/// default enough for a busy machine, and a day with a debugger.
pub static TIMEOUT: LazyLock<Duration> = LazyLock::new(|| {
    let default = if is_debugged() { 24 * 60 * 60 } else { 60 };
    let seconds = env::var("PATIENCE").map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("PATIENCE is no number: {value}"))
    });
    Duration::from_secs(seconds)
});

/// Calls `probe` until it returns a value.
///
/// # Panics
///
/// After [`TIMEOUT`]; the message names `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            start.elapsed() < *TIMEOUT,
            "no {what} within {:?}",
            *TIMEOUT
        );
        thread::sleep(Duration::from_millis(1));
    }
}
