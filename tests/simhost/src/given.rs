// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The descriptors that the host has given to the process, readable without the host's lock.
//!
//! QEMU's main loop polls and reads descriptors all the time. If it waited for a call of another
//! thread that the host simulates, that call would hold up QEMU, which a kernel's call does not.

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// Bits of a word.
const BITS: usize = 64;
/// Words of the set; a descriptor beyond it counts as given.
const WORDS: usize = 64;

static GIVEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// Other processes can hand over descriptors that their host has given them.
static MAY_BE_ANY: AtomicBool = AtomicBool::new(false);

fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(fd).ok()?;
    Some((GIVEN.get(number / BITS)?, 1 << (number % BITS)))
}

/// Notes a descriptor that the host gives to the process. It stays noted when it is closed.
pub fn note(fd: RawFd) {
    if let Some((word, bit)) = place(fd) {
        word.fetch_or(bit, Ordering::Release);
    }
}

/// Notes that any descriptor can be one of the host's.
pub fn note_any() {
    MAY_BE_ANY.store(true, Ordering::Release);
}

/// Returns false for a descriptor that the host has not given to the process.
pub fn may_be(fd: RawFd) -> bool {
    fd >= 0
        && (MAY_BE_ANY.load(Ordering::Acquire)
            || place(fd).is_none_or(|(word, bit)| word.load(Ordering::Acquire) & bit != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noted_descriptor_may_be_of_host() {
        assert!(!may_be(3000));
        note(3000);
        assert!(may_be(3000));
        assert!(!may_be(3001));
        assert!(!may_be(-1));
        assert!(may_be(BITS as RawFd * WORDS as RawFd), "beyond the set");
    }
}
