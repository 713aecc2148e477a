// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The delay before a failed call of the host is repeated.

use std::time::{Duration, Instant};

use super::saved::SavedBackoff;

/// The next attempt after one or more that failed.
///
/// Attempts run under the Big QEMU Lock, so the share of the time that slow ones take
/// is bounded: [`Self::SHARE`] times the duration of the last one passes before the next.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    failures: u32,
    ended: Instant,
    took: Duration,
    is_urgent: bool,
}

impl Backoff {
    /// Delay after the first attempt; it doubles with each.
    const FIRST: Duration = Duration::from_millis(10);
    /// The delay does not grow beyond this, unless the attempts take long.
    const LONGEST: Duration = Duration::from_secs(5);
    /// Multiple of an attempt's duration that passes before the next one.
    const SHARE: u32 = 10;
    /// Attempts that take less than this are made whenever the guest asks.
    const QUICK: Duration = Duration::from_millis(10);
    /// Number of failures after which the timer does not retry: two minutes of them.
    const LAST: u32 = 32;

    /// Notes that an attempt failed which began at `begun`; `before` are those that
    /// failed earlier.
    pub fn after(before: Option<Self>, begun: Instant) -> Self {
        let ended = Instant::now();
        Self {
            failures: before
                .map_or(0, |backoff| backoff.failures)
                .saturating_add(1),
            ended,
            took: ended.saturating_duration_since(begun),
            is_urgent: false,
        }
    }

    /// Returns the state that another QEMU takes over.
    pub fn save(backoff: Option<Self>) -> SavedBackoff {
        backoff.map_or_else(SavedBackoff::default, |backoff| SavedBackoff {
            failures: backoff.failures,
            took: u64::try_from(backoff.took.as_nanos()).unwrap_or(u64::MAX),
            is_urgent: backoff.is_urgent,
        })
    }

    /// Returns what another QEMU has saved, as though the last attempt had ended now; `None` if
    /// nothing has failed.
    pub fn restored(saved: &SavedBackoff) -> Option<Self> {
        (saved.failures > 0).then(|| Self {
            failures: saved.failures,
            ended: Instant::now(),
            took: Duration::from_nanos(saved.took).min(Self::LONGEST),
            is_urgent: saved.is_urgent,
        })
    }

    /// Returns the same, without a limit of the timer's attempts if `is_urgent`.
    #[must_use]
    pub const fn urgent(self, is_urgent: bool) -> Self {
        Self { is_urgent, ..self }
    }

    /// Returns the timer's delay from `now` on; `None` after its last attempt: then
    /// only the guest's next command retries.
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        if self.failures > Self::LAST && !self.is_urgent {
            return None;
        }
        let doublings = 1_u32 << (self.failures - 1).min(16);
        let delay = Self::FIRST
            .saturating_mul(doublings)
            .min(Self::LONGEST)
            .max(self.took.saturating_mul(Self::SHARE));
        Some(delay.saturating_sub(now.saturating_duration_since(self.ended)))
    }

    /// Returns whether an attempt that the guest asks for may be made at `now`.
    pub fn permits(&self, now: Instant) -> bool {
        self.took < Self::QUICK
            || now.saturating_duration_since(self.ended) >= self.took.saturating_mul(Self::SHARE)
    }
}
