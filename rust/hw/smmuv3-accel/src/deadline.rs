// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The time that commands may hold up the machine.

use std::time::{Duration, Instant};

use qemu_ext::runstate::is_replay_enabled;

/// The time for which the Big QEMU Lock may be held for commands at once.
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice(Option<Instant>);

impl TimeSlice {
    const LENGTH: Duration = Duration::from_millis(2);

    /// Returns a slice that begins now. It has no end where the host's time must not be
    /// seen.
    pub fn begin() -> Self {
        Self((!is_replay_enabled()).then(|| Instant::now() + Self::LENGTH))
    }

    /// Returns whether the slice is used up.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }
}
