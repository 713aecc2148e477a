// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that answers as its test requests.

use std::collections::{BTreeSet, VecDeque};

use smmuv3::{Backend, HostError, Invalidation, LocalEffect, StreamConfig, StreamId};

use super::log::{Event, Log};

pub const ENOENT: i32 = 2;
pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const EBADF: i32 = 9;
pub const EAGAIN: i32 = 11;
pub const ENOMEM: i32 = 12;
pub const EFAULT: i32 = 14;
pub const EINVAL: i32 = 22;
pub const ENOTTY: i32 = 25;
pub const E2BIG: i32 = 7;
pub const EOPNOTSUPP: i32 = 95;
pub const ETIMEDOUT: i32 = 110;

/// The host's answer to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Error { errno: i32, entry_num: u32 },
}

impl Answer {
    pub const fn error(errno: i32, entry_num: u32) -> Self {
        Self::Error { errno, entry_num }
    }
}

/// Computes the answer to a call from its number and its commands.
pub type Behaviour = Box<dyn FnMut(usize, &[[u64; 2]]) -> Answer>;

#[derive(Default)]
pub struct TestHost {
    /// Answers to the next calls; then `afterwards`, then success.
    pub answers: VecDeque<Answer>,
    /// The answer when `answers` is empty.
    pub afterwards: Option<Answer>,
    /// Asked when neither has an answer.
    pub behaviour: Option<Behaviour>,
    /// `StreamIDs` that have a device.
    pub streams: BTreeSet<StreamId>,
    /// Those of them that the host does not know.
    pub unknown: BTreeSet<StreamId>,
    /// Those of them that go away as soon as the host refuses a command.
    pub vanishing: BTreeSet<StreamId>,
    /// Whether reinstalling an entry leaves Context descriptors behind.
    pub caches_cds: bool,
    /// The result of [`Backend::is_gone`].
    pub is_gone: bool,
    /// Whether one call uses up the time slice of a run of the Command queue.
    pub is_slow: bool,
    /// Every call in order.
    pub calls: Vec<Vec<[u64; 2]>>,
    /// What those calls that failed have answered.
    pub errors: Vec<i32>,
    /// Whether the last [`Backend::invalidate`] was such a call.
    pub was_called: bool,
    /// Events, in order.
    pub log: Log,
    pub installed: Vec<StreamId>,
    pub quarantined: Vec<StreamId>,
    /// Those of them whose devices were not asked.
    pub suspended: Vec<StreamId>,
    pub failed_closed: usize,
    /// After how many calls that failed [`Backend::is_exhausted`] says so.
    pub patience: Option<usize>,
    /// Calls that failed since one succeeded.
    pub failures: usize,
    /// A stream that can be taken off stage 1 by nothing.
    pub is_stuck: bool,
    /// How often [`Backend::give_up`] was called.
    pub given_up: usize,
    /// Nothing is on stage 1: commands complete without a call.
    pub is_local: bool,
    /// Commands that completed so.
    pub waived: BTreeSet<[u64; 2]>,
    /// Whether the SMMU has caches of its own beside the host.
    pub has_caches: bool,
    /// Whether a command about them uses up the time slice.
    pub is_slow_locally: bool,
    /// Commands that were executed in them, in order.
    pub local: Vec<[u64; 2]>,
    /// Those of them that can be forwarded, and pages of ranges of theirs.
    pub may_be_forwarded: BTreeSet<[u64; 2]>,
}

/// Nanoseconds that a call takes here: different ones for different calls.
fn nanoseconds((number, call): (usize, &Vec<[u64; 2]>)) -> u64 {
    (1000 * call.len() + number % 7) as u64
}

/// A command and, if it is a range of 4KB granules, the commands for its pages. Ranges of
/// other granules come with it, and are about the same pages.
pub fn pages(command: &[u64; 2]) -> Vec<[u64; 2]> {
    const RANGE: u64 = 0x3f1_f000;
    let [word0, word1] = *command;
    let (num, scale) = ((word0 >> 12) & 0x1f, (word0 >> 20) & 0x3f);
    let mut pages = vec![*command];
    // A guest's own ranges may be long.
    let is_range = matches!(word0 as u8, 0x12 | 0x13) && word1 & 0xf00 == 0x400;
    if is_range && scale < 10 {
        let page = |n| {
            let address = (word1 & !0xfff).wrapping_add(n << 12);
            [word0 & !RANGE, address | (word1 & 1)]
        };
        pages.extend((0..(num + 1) << scale).map(page));
    }
    pages
}

impl TestHost {
    /// The nanoseconds that each call has taken.
    pub fn durations(&self) -> impl Iterator<Item = u64> + '_ {
        self.calls.iter().enumerate().map(nanoseconds)
    }

    fn answer(&mut self, commands: &[[u64; 2]]) -> Answer {
        if let Some(answer) = self.answers.pop_front() {
            return answer;
        }
        if let Some(answer) = self.afterwards {
            return answer;
        }
        let number = self.calls.len() - 1;
        match &mut self.behaviour {
            Some(behaviour) => behaviour(number, commands),
            None => Answer::Done,
        }
    }
}

/// Returns the command that must have been executed locally before the host gets `command`:
/// of a range in place of pages that of its first page, if its granule is 4KB, and none for
/// those about Context descriptors that come with a `CMD_CFGI_STE`.
fn local_part(command: &[u64; 2]) -> Option<[u64; 2]> {
    const RANGE: u64 = 0x3f1_f000;
    const GRANULE: u64 = 0xf00;
    let [word0, word1] = *command;
    match word0 as u8 {
        0x06 => None,
        // Larger granules begin below that page.
        0x12 | 0x13 if (word1 >> 10) & 3 > 1 => None,
        0x12 | 0x13 => Some([word0 & !RANGE, word1 & !GRANULE]),
        _ => Some(*command),
    }
}

impl Backend for TestHost {
    fn invalidate_locally(&mut self, command: &Invalidation) -> LocalEffect {
        if !self.has_caches {
            return LocalEffect::None;
        }
        self.local.push(command.to_words());
        self.may_be_forwarded
            .extend(local_part(&command.to_words()));
        if self.is_slow_locally {
            LocalEffect::Waited
        } else {
            LocalEffect::Executed
        }
    }

    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        let commands: Vec<_> = commands.iter().map(Invalidation::to_words).collect();
        if self.has_caches {
            let mut parts = commands.iter().filter_map(local_part);
            let forwarded_first = parts.find(|part| !self.may_be_forwarded.contains(part));
            assert_eq!(forwarded_first, None, "the host before the own caches");
        }
        assert!(
            (1..=63).contains(&commands.len()),
            "1 to 63 commands a call"
        );
        self.was_called = !self.is_local;
        if self.is_local {
            self.waived.extend(commands.iter().flat_map(pages));
            return Ok(());
        }
        self.calls.push(commands.clone());
        match self.answer(&commands) {
            Answer::Done => {
                self.failures = 0;
                for command in commands.iter().flat_map(pages) {
                    self.log.push(Event::Executed(command));
                }
                Ok(())
            }
            Answer::Error { errno, entry_num } => {
                self.failures += 1;
                self.errors.push(errno);
                if errno == EIO {
                    let vanishing = std::mem::take(&mut self.vanishing);
                    self.streams.retain(|sid| !vanishing.contains(sid));
                }
                Err(HostError { errno, entry_num })
            }
        }
    }

    fn call_ns(&mut self) -> Option<u64> {
        let last = self.calls.iter().enumerate().next_back()?;
        self.was_called.then(|| nanoseconds(last))
    }

    fn next_stream(&mut self, first: StreamId, last: StreamId) -> Option<StreamId> {
        self.streams.range(first..=last).next().copied()
    }

    fn has_vdevice(&mut self, sid: StreamId) -> bool {
        self.streams.contains(&sid) && !self.unknown.contains(&sid)
    }

    fn set_stream(&mut self, sid: StreamId, _: &StreamConfig) -> bool {
        // a stream that is reattached has everything invalidated first
        self.is_local = false;
        self.installed.push(sid);
        self.log.push(Event::Installed(sid));
        self.caches_cds
    }

    fn quarantine(&mut self, sid: StreamId) {
        self.quarantined.push(sid);
        self.log.push(Event::Quarantined(sid));
    }

    fn suspend(&mut self, sid: StreamId) {
        self.suspended.push(sid);
        self.quarantine(sid);
    }

    fn fail_closed(&mut self) {
        self.failed_closed += 1;
        self.log.push(Event::FailedClosed);
    }

    fn is_exhausted(&mut self) -> bool {
        self.patience.is_some_and(|calls| self.failures >= calls)
    }

    fn give_up(&mut self) -> bool {
        self.given_up += 1;
        self.is_local = !self.is_stuck;
        self.is_local
    }

    fn deadline_expired(&mut self) -> bool {
        self.is_slow || self.is_slow_locally
    }

    fn is_gone(&mut self) -> bool {
        self.is_gone
    }
}
