// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The time that commands may hold up the machine.

use qemu_ext::runstate::is_replay_enabled;
use util::timer::CLOCK_REALTIME;

/// A moment of the host's monotonic clock, in nanoseconds.
///
/// Seconds and nanoseconds apart, as `Instant` has them, cost every doorbell a hundred
/// instructions of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Reads the clock.
    #[inline]
    pub fn now() -> Self {
        Self(CLOCK_REALTIME.get_ns())
    }

    /// Returns the nanoseconds since another moment; 0 if that is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    #[inline]
    const fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }
}

/// The time for which the Big QEMU Lock may be held for commands at once.
///
/// It begins when the clock is first read. A clock read costs as much as several commands, so
/// a run without a slow call does not read it at all, and a caller that has read it for another
/// reason passes the time on with [`Self::note`].
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice {
    /// The host's time must not be seen: there is no end
    is_unlimited: bool,
    end: Option<Moment>,
    /// The time, if no slow call was made since the clock was read
    now: Option<Moment>,
}

impl TimeSlice {
    /// In nanoseconds
    const LENGTH: u64 = 2_000_000;

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
            self.end = Some(Moment::now().after(Self::LENGTH));
        }
    }

    /// Notes that it is `now`.
    pub fn note(&mut self, now: Moment) {
        self.now = Some(now);
        self.end.get_or_insert_with(|| now.after(Self::LENGTH));
    }

    /// Returns whether the slice is used up, by the time that was noted since this was last
    /// asked, or by the clock.
    pub fn is_over(&mut self) -> bool {
        if self.is_unlimited {
            return false;
        }
        let now = self.now.take().unwrap_or_else(Moment::now);
        now >= *self.end.get_or_insert_with(|| now.after(Self::LENGTH))
    }
}
