// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A ledger of distinct invalidations: each that CONS passes must have been
//! executed by the host, as it is or as part of a range for each granule.

use std::collections::{BTreeMap, VecDeque};

use smmuv3_qtest::{
    command::{self, Command},
    journal::Journal,
};

/// The ASID that marks these invalidations.
const ASID: u16 = 0x5a5a;
/// The bits that are compared: the host inserts its VMID.
const WORD0: u64 = !(0xffff << 32);

/// `NUM` and `SCALE` of a range.
const RANGE: u64 = (0x1f << 12) | (0x1f << 20);

/// Opcode that the host issues for `CMD_TLBI_NSNH_ALL`: `CMD_TLBI_NH_ALL` of
/// one VMID.
const EVERYTHING: u8 = 0x10;

/// log2 of the granules, in pages of 4 KiB. `TG` of the first is 1.
const GRANULES: [u32; 3] = [0, 2, 4];
/// Every granule, one bit for each.
const ALL_GRANULES: u8 = 0b111;

/// Number of queues: the Command queue, and those of CMDQ virtualization.
const QUEUES: usize = 3;

/// A command in the queue: its slot, and the page of an invalidation of the
/// ledger.
#[derive(Clone, Copy)]
struct Queued {
    pointer: u32,
    page: Option<u64>,
}

/// The Command queue of the SMMU. LVCMDQ *n* is *n* + 1.
pub const COMMAND_QUEUE: usize = 0;

/// The state of all invalidations.
#[derive(Default)]
pub struct Ledger {
    next: u64,
    queued: [VecDeque<Queued>; QUEUES],
    /// Pages of the invalidations in the queues, with the granules whose entries
    /// the host has invalidated since
    pages: BTreeMap<u64, u8>,
    /// Ranges that the host has executed
    ranges: u64,
    /// No device was on stage 1 when these, and all before them, were in the queue
    excused: u64,
    /// Some of those were not executed: everything must be invalidated before a
    /// device is attached to stage 1 again
    is_stale: bool,
    /// Everything was invalidated after these, and all before them, were issued
    flushed: u64,
}

impl Ledger {
    /// Returns an invalidation that has not been used.
    pub fn fresh(&mut self) -> Command {
        self.next += 1;
        command::tlbi_nh_va(ASID, self.next << 12)
    }

    fn page([word0, word1]: Command) -> Option<u64> {
        let same = word0 & WORD0 == command::tlbi_nh_va(ASID, 0)[0];
        same.then_some(word1 >> 12)
    }

    /// Records a command that was executed. One without a granule invalidates the
    /// entries of every granule that have its page, a range those of its own
    /// granule (§4.4.1.1).
    fn record(&mut self, [word0, word1]: Command) {
        let plain = word0 & WORD0 & !RANGE;
        if plain != command::tlbi_nh_va(ASID, 0)[0] {
            return;
        }
        let page = word1 >> 12;
        let tg = (word1 >> 10) & 3;
        if tg == 0 {
            for (number, log2) in GRANULES.into_iter().enumerate() {
                self.mark(page >> log2 << log2, 1 << log2, 1 << number);
            }
        } else {
            let (num, scale) = ((word0 >> 12) & 31, (word0 >> 20) & 31);
            let log2 = GRANULES[tg as usize - 1];
            self.mark(page, (num + 1) << scale << log2, 1 << (tg - 1));
            self.ranges += 1;
        }
    }

    fn mark(&mut self, first: u64, count: u64, granule: u8) {
        for (_, granules) in self.pages.range_mut(first..first + count) {
            *granules |= granule;
        }
    }

    /// Returns the number of ranges that the host has executed.
    pub fn ranges(&self) -> u64 {
        self.ranges
    }

    /// Records a command in the slot of `queue` that `pointer` names.
    pub fn queued(&mut self, queue: usize, pointer: u32, command: Command) {
        let page = Self::page(command);
        self.pages.extend(page.map(|page| (page, 0)));
        self.queued[queue].push_back(Queued { pointer, page });
    }

    /// Returns the number of commands in `queue`.
    pub fn waiting(&self, queue: usize) -> u32 {
        self.queued[queue].len() as u32
    }

    /// Drops the commands of a queue that was replaced.
    pub fn drop_queue(&mut self, queue: usize) {
        for page in self.queued[queue].drain(..).filter_map(|it| it.page) {
            self.pages.remove(&page);
        }
    }

    /// Records a command that hardware has executed without the host's kernel.
    pub fn executed(&mut self, command: Command) {
        self.record(command);
    }

    /// Records the invalidations that the host has executed. It must execute these only
    /// if there `is_use`: a device on stage 1, whose transactions use the
    /// host's caches.
    #[track_caller]
    pub fn observe(&mut self, journal: &Journal, is_use: bool) {
        for command in journal.issued("a").into_iter().flatten() {
            self.record(command);
            if command[0] as u8 == EVERYTHING {
                self.flushed = self.next;
                self.is_stale = false;
            }
        }
        assert!(
            !(is_use && self.is_stale),
            "stage 1 translates by entries that were not invalidated"
        );
        if !is_use {
            self.excused = self.next;
        }
    }

    /// Records that CONS of `queue` has reached `cons`. Returns the number of
    /// invalidations that it passed, and of those that the host has not
    /// executed.
    pub fn consumed(&mut self, queue: usize, cons: u32) -> (u64, u64) {
        let (mut count, mut lost) = (0, 0);
        while let Some(first) = self.queued[queue].front().copied() {
            if first.pointer == cons {
                break;
            }
            self.queued[queue].pop_front();
            if let Some(page) = first.page {
                let granules = self.pages.remove(&page);
                let executed = granules == Some(ALL_GRANULES) || page <= self.flushed;
                let excused = page <= self.excused;
                count += 1;
                lost += u64::from(!executed && !excused);
                self.is_stale |= !executed && excused;
            }
        }
        (count, lost)
    }

    /// Records that the guest has replaced the first command of `queue`, which
    /// was illegal.
    pub fn replaced(&mut self, queue: usize) {
        if let Some(first) = self.queued[queue].front_mut() {
            let page = first.page.take();
            page.and_then(|page| self.pages.remove(&page));
        }
    }
}
