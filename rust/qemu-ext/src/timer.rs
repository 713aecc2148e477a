// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Extensions of [`util::timer::Timer`].
//!
//! ```no_run
//! use qemu_ext::timer::TimerExt;
//! use util::timer::{Timer, CLOCK_VIRTUAL};
//!
//! /// The timer expires in a millisecond, or earlier if it was to.
//! fn within_a_millisecond(timer: &Timer) {
//!     timer.anticipate_in_ns(&CLOCK_VIRTUAL, 1_000_000);
//! }
//! ```

use util::timer::{ClockType, Timer};

/// Methods of [`Timer`].
pub trait TimerExt {
    /// Has the timer expire `delay` nanoseconds from now on, or earlier if it is set to.
    ///
    /// `clock` is the one that the timer was initialized with. Needs no lock.
    fn anticipate_in_ns(&self, clock: &ClockType, delay: u64);
}

impl TimerExt for Timer {
    fn anticipate_in_ns(&self, clock: &ClockType, delay: u64) {
        let expiry = clock.get_ns().saturating_add(delay);
        let expiry = i64::try_from(expiry).unwrap_or(i64::MAX);
        // SAFETY: the timer is pinned, because only methods that take a Pin<&mut Self>
        // initialize one; any thread may modify it
        unsafe { util::bindings::timer_mod_anticipate_ns(self.as_mut_ptr(), expiry) }
    }
}
