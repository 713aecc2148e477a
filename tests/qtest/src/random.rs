// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Pseudo-random numbers that are the same in each run, so that a failure can
//! be repeated.

/// A xorshift generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns a generator for `seed`, which must not be 0.
    pub const fn new(seed: u64) -> Self {
        assert!(seed != 0, "xorshift never leaves 0");
        Self(seed)
    }

    /// Returns the next number.
    #[allow(clippy::should_implement_trait)] // it has no end
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns one of `choices`.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() as usize % choices.len()]
    }
}
