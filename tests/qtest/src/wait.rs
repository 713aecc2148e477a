// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Waiting, never for ever.

use std::{
    env,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// How long anything may take: as many seconds as the variable `PATIENCE` says.
/// Without it, more than enough: the machine may be busy.
pub static TIMEOUT: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = env::var("PATIENCE").map_or(60, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("PATIENCE is no number: {value}"))
    });
    Duration::from_secs(seconds)
});

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
        assert!(
            start.elapsed() < *TIMEOUT,
            "no {what} within {:?}",
            *TIMEOUT
        );
        thread::sleep(Duration::from_millis(1));
    }
}
