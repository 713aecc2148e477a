// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Runs of `CMD_TLBI_*` by address, and the range commands that replace them (§4.4.1.1).
//!
//! A command without a granule is about one 4KB page, and invalidates every entry that
//! has this page. A range is about the entries of its own granule only, so a run takes
//! one range for each granule that the guest's tables may have.

use crate::{
    address::{align_down, low_bits},
    command::{Invalidation, Tlbi},
    features::Features,
    spec::command::Granule,
};

/// Most commands in a run. What a guest unmaps by more of them it invalidates by ASID.
const MAX_RUN: u32 = 1024;

/// log2 of the largest `NUM` + 1.
const LOG2_MAX_NUM: u32 = 5;

/// Bits of an address that decide which table it is of, and those above.
const TABLE_SHIFT: u32 = 55;

/// The granules that a guest's tables may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granules {
    gran4k: bool,
    gran16k: bool,
    gran64k: bool,
}

impl Granules {
    /// Returns the granules that `IDR5` shows.
    pub const fn of(features: &Features) -> Self {
        Self {
            gran4k: features.gran4k(),
            gran16k: features.gran16k(),
            gran64k: features.gran64k(),
        }
    }

    /// Returns a range that does no harm, to find out whether a host takes ranges; `None`
    /// if there is no granule.
    pub fn probe(self) -> Option<Invalidation> {
        let (tg, _) = self.iter().next()?;
        Some(Invalidation::Tlbi(Tlbi::NH_VA.with_range(tg, 1, 0)))
    }

    /// Returns `TG` of each, and log2 of its size in bytes.
    fn iter(self) -> impl Iterator<Item = (Granule, u32)> {
        let all = [
            (self.gran4k, Granule::Gran4K, 12),
            (self.gran16k, Granule::Gran16K, 14),
            (self.gran64k, Granule::Gran64K, 16),
        ];
        all.into_iter()
            .filter(|(exists, ..)| *exists)
            .map(|(_, tg, shift)| (tg, shift))
    }

    const fn count(self) -> u32 {
        self.gran4k as u32 + self.gran16k as u32 + self.gran64k as u32
    }

    /// Returns the size in bytes of the largest; 0 if there is none.
    const fn largest(self) -> u64 {
        match self {
            Self { gran64k: true, .. } => 1 << 16,
            Self { gran16k: true, .. } => 1 << 14,
            Self { gran4k: true, .. } => 1 << 12,
            _ => 0,
        }
    }
}

/// The extent of a run after its first command: the others are equal to it but for
/// addresses at a constant distance, and at positions one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Distance of two addresses, in bytes.
    stride: u64,
    count: u32,
    granules: Granules,
}

impl Extent {
    /// Of a batch without runs.
    pub(super) const NONE: Self = Self {
        stride: 0,
        count: 1,
        granules: Granules {
            gran4k: false,
            gran16k: false,
            gran64k: false,
        },
    };

    /// Returns the extent of a run of two commands, if they can be one.
    pub(super) fn of_two(first: &Tlbi, next: &Tlbi, granules: Granules) -> Option<Self> {
        let alone = Self {
            stride: next.address().wrapping_sub(first.address()),
            count: 1,
            granules,
        };
        // More than a granule apart, a range would be about mostly other pages.
        let may_begin =
            first.is_by_page() && alone.stride != 0 && alone.stride <= granules.largest();
        may_begin.then_some(alone)?.with(first, next)
    }

    /// Returns the extent with one more command, if that continues the run.
    pub(super) fn with(self, first: &Tlbi, next: &Tlbi) -> Option<Self> {
        let distance = u64::from(self.count) * self.stride;
        let continues = self.count < MAX_RUN
            && first.address().checked_add(distance) == Some(next.address())
            && first.differs_in_address_only(next)
            && is_in_one_table(first.address(), distance);
        continues.then_some(Self {
            count: self.count + 1,
            ..self
        })
    }

    pub(super) const fn count(self) -> u32 {
        self.count
    }

    /// Returns the number of commands that the run is submitted as, at most.
    pub(super) fn cost(self) -> usize {
        self.count.min(self.granules.count()) as usize
    }

    /// Returns the commands of the run, in order.
    pub(super) fn originals(self, first: Tlbi) -> impl Iterator<Item = Tlbi> {
        (0..u64::from(self.count))
            .map(move |n| first.at(first.address().wrapping_add(n * self.stride)))
    }

    /// Calls `push` with the commands that the run is submitted as: [`cost`](Self::cost)
    /// at most.
    pub(super) fn merged(self, first: Tlbi, mut push: impl FnMut(Tlbi)) {
        if self.count <= self.granules.count() {
            self.originals(first).for_each(push);
            return;
        }
        let mut is_page_done = false;
        let last = first
            .address()
            .wrapping_add(u64::from(self.count - 1) * self.stride);
        for (tg, shift) in self.granules.iter() {
            let pages = (last >> shift) - (first.address() >> shift) + 1;
            if pages > 1 {
                push(range(first, tg, shift, pages));
            } else if !is_page_done {
                // One granule is no range (NUM, SCALE and TTL 0 are ILLEGAL), but a
                // command without a granule invalidates it.
                is_page_done = true;
                push(first);
            }
        }
    }
}

/// Returns the range that begins with the granule of `first` and has `pages` granules,
/// which are more than one. It is exact up to 32 of them; otherwise it has less than a
/// sixteenth more.
fn range(first: Tlbi, tg: Granule, shift: u32, pages: u64) -> Tlbi {
    let mut scale = 0;
    while pages.div_ceil(1 << scale) > 1 << LOG2_MAX_NUM {
        scale += 1;
    }
    let num = pages.div_ceil(1 << scale) - 1;
    // Address is aligned to the granule: otherwise it is UNPREDICTABLE what is affected.
    let start = align_down(first.address(), shift);
    first.at(start).with_range(tg, num as u8, scale as u8)
}

/// Returns whether all that the ranges may be about is translated by one table: what
/// goes beyond that need not be affected.
fn is_in_one_table(first: u64, distance: u64) -> bool {
    // The granule that the last page is in, and what rounding adds.
    let beyond = low_bits(17) + distance / 8;
    let last = first
        .checked_add(distance)
        .and_then(|last| last.checked_add(beyond));
    last.is_some_and(|last| (first ^ last) >> TABLE_SHIFT == 0)
}
