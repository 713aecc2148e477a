// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Limits reports of the host's errors, of which a guest can cause any number.

use std::time::{Duration, Instant};

/// Rate limiter for host errors: consecutive failures are reported once, and at most one
/// report a second.
#[derive(Debug, Default)]
pub struct ErrorRateLimit {
    failing: bool,
    last: Option<Instant>,
}

impl ErrorRateLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Ends a row of failures.
    pub fn success(&mut self) {
        self.failing = false;
    }

    /// Counts a failure, and returns whether it is to be reported.
    pub fn failure(&mut self) -> bool {
        let recent = self
            .last
            .is_some_and(|last| last.elapsed() < Self::INTERVAL);
        let is_reported = !self.failing && !recent;
        if is_reported {
            self.last = Some(Instant::now());
        }
        self.failing = true;
        is_reported
    }
}
