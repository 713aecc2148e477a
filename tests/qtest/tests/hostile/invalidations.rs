// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A ledger of distinct invalidations: each that CONS passes must have been
//! executed by the host.

use std::collections::{HashSet, VecDeque};

use smmuv3_qtest::{
    command::{self, Command},
    journal::Journal,
};

/// The ASID that marks these invalidations.
const ASID: u16 = 0x5a5a;
/// The bits that are compared: the host inserts its VMID.
const WORD0: u64 = !(0xffff << 32);

/// Opcode that the host issues for `CMD_TLBI_NSNH_ALL`: `CMD_TLBI_NH_ALL` of
/// one VMID.
const EVERYTHING: u8 = 0x10;

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
    /// Pages whose invalidation the host has executed
    issued: HashSet<u64>,
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

    /// Records a command in the slot of `queue` that `pointer` names.
    pub fn queued(&mut self, queue: usize, pointer: u32, command: Command) {
        self.queued[queue].push_back(Queued {
            pointer,
            page: Self::page(command),
        });
    }

    /// Returns the number of commands in `queue`.
    pub fn waiting(&self, queue: usize) -> u32 {
        self.queued[queue].len() as u32
    }

    /// Drops the commands of a queue that was replaced.
    pub fn drop_queue(&mut self, queue: usize) {
        self.queued[queue].clear();
    }

    /// Records a command that hardware has executed without the host's kernel.
    pub fn executed(&mut self, command: Command) {
        self.issued.extend(Self::page(command));
    }

    /// Records the invalidations that the host has executed. It must execute these only
    /// if there `is_use`: a device on stage 1, whose transactions use the
    /// host's caches.
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
                let executed = self.issued.remove(&page) || page <= self.flushed;
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
            first.page = None;
        }
    }
}
