// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Limits: of lines in a log, and of the time for which commands hold up the machine.

use std::time::{Duration, Instant};

use qemu_ext::runstate::is_replay_enabled;

/// Limits lines in a log that a guest can cause: one a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit(Option<Instant>);

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Returns whether a line may be written now, and counts it if so.
    pub fn permits(&mut self) -> bool {
        let permitted = self.0.is_none_or(|last| last.elapsed() >= Self::INTERVAL);
        if permitted {
            self.0 = Some(Instant::now());
        }
        permitted
    }
}

/// When a visit of the Command queue has lasted long enough.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The time that the Big QEMU Lock may be held for commands at a time.
    const SLICE: Duration = Duration::from_millis(2);

    /// For a visit that begins now. It never ends where the host's time must not be
    /// seen.
    pub fn of_a_slice() -> Self {
        let ends = !is_replay_enabled();
        Self(ends.then(|| Instant::now() + Self::SLICE))
    }

    /// Is it over?
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }
}
