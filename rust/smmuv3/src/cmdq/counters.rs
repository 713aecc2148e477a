// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Counters of the Command queue, for users to read while the machine runs.
//!
//! All of them grow, wrap around at 2^64, and are 0 in a new [`Cmdq`](super::Cmdq):
//! a reset of the SMMU does not change them. A command costs one increment, and what
//! follows from that is computed when the counters are read.

use crate::{batch::MAX_BATCH, command::opcode::*};

/// Number of counters of [`HostCounters::sizes`].
pub const SIZES: usize = MAX_BATCH.ilog2() as usize + 1;

/// Counters of one Command queue, at one moment.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Legal commands that were fetched, by opcode.
    pub(super) legal: [u64; 256],
    /// Fetched commands that are ILLEGAL.
    pub(super) illegal: u64,
    /// Legal invalidations that are of no effect.
    pub(super) idle_invalidations: u64,
    /// Other legal commands that are of no effect.
    pub(super) idle_others: u64,
    /// Commands that `CMDQ_CONS` has passed.
    pub(super) consumed: u64,
    /// Runs and errors of the queue.
    pub queue: QueueCounters,
    /// Calls of the host.
    pub host: HostCounters,
}

/// Fetched commands by kind. A command that is fetched again, after an error, counts
/// again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCounters {
    /// Commands that `CMDQ_CONS` has passed: each once.
    pub consumed: u64,
    /// `CMD_CFGI_STE`.
    pub cfgi_ste: u64,
    /// `CMD_CFGI_STE_RANGE` and `CMD_CFGI_ALL`.
    pub cfgi_range: u64,
    /// `CMD_CFGI_CD` and `CMD_CFGI_CD_ALL`.
    pub cfgi_cd: u64,
    /// `CMD_TLBI_*`.
    pub tlbi: u64,
    /// `CMD_ATC_INV`.
    pub atc_inv: u64,
    /// `CMD_SYNC`.
    pub sync: u64,
    /// `CMD_PREFETCH_*`.
    pub prefetch: u64,
    /// Other legal commands.
    pub other: u64,
    /// ILLEGAL commands (`CERROR_ILL`).
    pub illegal: u64,
    /// Invalidations that were forwarded to the backend.
    pub forwarded: u64,
    /// Legal commands that are of no effect: hints, those out of range, those for
    /// streams without a device.
    pub without_effect: u64,
}

/// Runs and errors of the Command queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Runs in which the queue was enabled, not empty and without an active error.
    pub runs: u64,
    /// Runs that ended because their budget or time slice was used up.
    pub slices: u64,
    /// Runs that left commands in the queue for others to come.
    pub deferred: u64,
    /// `CERROR_ILL`.
    pub errors_ill: u64,
    /// `CERROR_ABT`.
    pub errors_abt: u64,
    /// `CERROR_ATC_INV_SYNC`.
    pub errors_atc_inv_sync: u64,
}

/// Calls of the host ([`Backend::invalidate`](crate::Backend::invalidate), as far as it calls a host).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Calls.
    pub calls: u64,
    /// Commands in them, of which a range that replaces several of the guest's is one. One
    /// that is submitted again counts again.
    pub commands: u64,
    /// Nanoseconds that they took.
    pub time_ns: u64,
    /// Nanoseconds that the longest took.
    pub longest_ns: u64,
    /// Calls by size: the first counts those of 1 command, the next those of 2 to
    /// 3, then 4 to 7, and so on.
    pub sizes: [u64; SIZES],
    /// Calls that repeat one that failed.
    pub retries: u64,
    /// Batches that were divided into halves.
    pub bisections: u64,
    /// Calls that failed with `EIO`: a command is ILLEGAL to the host.
    pub eio: u64,
    /// Calls that failed with `ENOMEM`.
    pub enomem: u64,
    /// Calls that failed with `ETIMEDOUT`.
    pub etimedout: u64,
    /// Calls that were interrupted: `EINTR` or `EAGAIN`.
    pub eintr: u64,
    /// Calls that failed with another error.
    pub other: u64,
}

impl HostCounters {
    /// Adds the counters of another queue.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (counter, count) in [
            (&mut self.calls, other.calls),
            (&mut self.commands, other.commands),
            (&mut self.time_ns, other.time_ns),
            (&mut self.retries, other.retries),
            (&mut self.bisections, other.bisections),
            (&mut self.eio, other.eio),
            (&mut self.enomem, other.enomem),
            (&mut self.etimedout, other.etimedout),
            (&mut self.eintr, other.eintr),
            (&mut self.other, other.other),
        ] {
            add(counter, count);
        }
        for (counter, count) in self.sizes.iter_mut().zip(other.sizes) {
            add(counter, count);
        }
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            legal: [0; 256],
            illegal: 0,
            idle_invalidations: 0,
            idle_others: 0,
            consumed: 0,
            queue: QueueCounters::default(),
            host: HostCounters::default(),
        }
    }
}

/// Adds `count` to a counter.
#[inline]
fn add(counter: &mut u64, count: u64) {
    *counter = counter.wrapping_add(count);
}

impl Counters {
    /// Returns the commands by kind.
    pub fn commands(&self) -> CommandCounters {
        let mut commands = CommandCounters {
            consumed: self.consumed,
            illegal: self.illegal,
            without_effect: self.idle_invalidations.wrapping_add(self.idle_others),
            ..CommandCounters::default()
        };
        for (opcode, count) in (0..=u8::MAX).zip(self.legal) {
            let kind = match opcode {
                CFGI_STE => &mut commands.cfgi_ste,
                CFGI_STE_RANGE => &mut commands.cfgi_range,
                CFGI_CD | CFGI_CD_ALL => &mut commands.cfgi_cd,
                TLBI_NH_ALL..=TLBI_NSNH_ALL => &mut commands.tlbi,
                ATC_INV => &mut commands.atc_inv,
                SYNC => &mut commands.sync,
                PREFETCH_CONFIG | PREFETCH_ADDR => &mut commands.prefetch,
                _ => &mut commands.other,
            };
            add(kind, count);
        }
        commands.forwarded = [commands.cfgi_cd, commands.tlbi, commands.atc_inv]
            .into_iter()
            .fold(0, u64::wrapping_add)
            .wrapping_sub(self.idle_invalidations);
        commands
    }
}
