// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Invalidations, each of which is another one: those that the guest was told to
//! be complete must have been executed by the host.

use std::collections::{HashSet, VecDeque};

use smmuv3_qtest::{
    command::{self, Command},
    journal::Journal,
};

/// The ASID by which they are known.
const ASID: u16 = 0x5a5a;
/// What is compared: the host puts its VMID into them.
const WORD0: u64 = !(0xffff << 32);

/// What the host makes of `CMD_TLBI_NSNH_ALL`: `CMD_TLBI_NH_ALL` of one VMID.
const EVERYTHING: u8 = 0x10;

/// A command in the queue: its slot, and the page if it is one of these.
#[derive(Clone, Copy)]
struct Queued {
    pointer: u32,
    page: Option<u64>,
}

/// What has become of invalidations.
#[derive(Default)]
pub struct Ledger {
    next: u64,
    queued: VecDeque<Queued>,
    /// What the host has executed
    issued: HashSet<u64>,
    /// No device was on stage 1 when these, and all before them, were in the queue
    excused: u64,
    /// Some of those were not executed: everything must be invalidated before a
    /// device is on stage 1 again
    is_stale: bool,
    /// Everything was invalidated after these, and all before them, had been made
    flushed: u64,
}

impl Ledger {
    /// An invalidation that has not been used.
    pub fn fresh(&mut self) -> Command {
        self.next += 1;
        command::tlbi_nh_va(ASID, self.next << 12)
    }

    fn page([word0, word1]: Command) -> Option<u64> {
        let same = word0 & WORD0 == command::tlbi_nh_va(ASID, 0)[0];
        same.then_some(word1 >> 12)
    }

    /// A command is in the slot that `pointer` names.
    pub fn queued(&mut self, pointer: u32, command: Command) {
        self.queued.push_back(Queued {
            pointer,
            page: Self::page(command),
        });
    }

    /// How many commands are in the queue.
    pub fn waiting(&self) -> u32 {
        self.queued.len() as u32
    }

    /// The queue is another one.
    pub fn forget_queue(&mut self) {
        self.queued.clear();
    }

    /// Looks at what the host has done, which needs it only if there `is_use`: a
    /// device on stage 1, whose transactions use what is cached.
    #[track_caller]
    pub fn observe(&mut self, journal: &Journal, is_use: bool) {
        for command in journal.issued("a").into_iter().flatten() {
            self.issued.extend(Self::page(command));
            if command[0] as u8 == EVERYTHING {
                self.flushed = self.next;
                self.is_stale = false;
            }
        }
        assert!(
            !(is_use && self.is_stale),
            "stage 1 translates by what was not invalidated"
        );
        if !is_use {
            self.excused = self.next;
        }
    }

    /// The guest is told that everything before `cons` is consumed. Gives how
    /// many invalidations that were, and how many of them the host has not
    /// executed.
    pub fn consumed(&mut self, cons: u32) -> (u64, u64) {
        let (mut count, mut lost) = (0, 0);
        while let Some(first) = self.queued.front().copied() {
            if first.pointer == cons {
                break;
            }
            self.queued.pop_front();
            if let Some(page) = first.page {
                let executed = self.issued.remove(&page) || page <= self.flushed;
                let excused = page <= self.excused;
                count += 1;
                lost += u64::from(!executed && !excused);
                self.is_stale |= !executed && excused;
            }
        }
        (count, lost)
    }

    /// The first command is reported to be a bad one; the guest puts another
    /// into its place.
    pub fn replaced(&mut self) {
        if let Some(first) = self.queued.front_mut() {
            first.page = None;
        }
    }
}
