// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The time that commands may hold up the machine.

use std::time::{Duration, Instant};

use qemu_ext::runstate::is_replay_enabled;

/// The time for which the Big QEMU Lock may be held for commands at once.
///
/// It begins when the clock is first read. A clock read costs as much as several commands, so
/// a run without a slow call does not read it at all, and a caller that has read it for another
/// reason passes the time on with [`Self::note`].
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice {
    /// The host's time must not be seen: there is no end
    is_unlimited: bool,
    end: Option<Instant>,
    /// The time, if no slow call was made since the clock was read
    now: Option<Instant>,
}

impl TimeSlice {
    const LENGTH: Duration = Duration::from_millis(2);

    /// Returns a slice that has not begun.
    pub fn new() -> Self {
        Self {
            is_unlimited: is_replay_enabled(),
            end: None,
            now: None,
        }
    }

    /// Notes that a slow call follows whose time is not measured.
    pub fn note_delay(&mut self) {
        self.now = None;
        if !self.is_unlimited && self.end.is_none() {
            self.end = Some(Instant::now() + Self::LENGTH);
        }
    }

    /// Notes that it is `now`.
    pub fn note(&mut self, now: Instant) {
        self.now = Some(now);
        self.end.get_or_insert_with(|| now + Self::LENGTH);
    }

    /// Returns whether the slice is used up, by the time that was noted since this was last
    /// asked, or by the clock.
    pub fn is_over(&mut self) -> bool {
        if self.is_unlimited {
            return false;
        }
        let now = self.now.take().unwrap_or_else(Instant::now);
        now >= *self.end.get_or_insert_with(|| now + Self::LENGTH)
    }
}
