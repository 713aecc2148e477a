// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Accesses of an SMMU to its own registers.
//!
//! Addresses in queues, tables and MSIs are the guest's, so they may lead to the registers of
//! the SMMU that accesses them. QEMU refuses such an access, but its guard is one for all threads, and
//! off for registers that several vCPUs access at once. This one is each thread's.

use std::cell::Cell;

/// SMMUs that one thread can be in at once: one in whose run an access leads to the next.
const MAX_DEPTH: usize = 4;

thread_local! {
    /// Addresses of the SMMUs that this thread is in, which are only compared
    static ENGAGED: Cell<[usize; MAX_DEPTH]> = const { Cell::new([0; MAX_DEPTH]) };
}

/// Returns whether an access of this thread to the registers of `smmu` comes from outside.
#[inline]
pub fn is_from_outside<T>(smmu: &T) -> bool {
    let engaged = ENGAGED.get();
    let last = engaged.last().copied().unwrap_or(0);
    last == 0 && !engaged.contains(&address(smmu))
}

#[inline]
fn address<T>(smmu: &T) -> usize {
    std::ptr::from_ref(smmu) as usize
}

/// As long as it exists, this thread is in an SMMU.
pub struct Engaged {
    before: [usize; MAX_DEPTH],
}

impl Engaged {
    /// Enters `smmu`.
    #[inline]
    pub fn enter<T>(smmu: &T) -> Self {
        let before = ENGAGED.get();
        let [first, second, third, _] = before;
        ENGAGED.set([address(smmu), first, second, third]);
        Self { before }
    }
}

impl Drop for Engaged {
    #[inline]
    fn drop(&mut self) {
        ENGAGED.set(self.before);
    }
}
