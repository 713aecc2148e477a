// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Invalidations on their way to the host, in batches.
//!
//! One batch is one call of the host and holds no more commands than the host
//! driver puts before one `CMD_SYNC` of its own. So an accepted batch is
//! complete, and of a batch with an illegal command nothing was executed. Nothing else
//! is assumed of the host: every command in doubt is submitted again, which is
//! harmless because invalidating twice is (§4.4).

mod bisect;
mod commands;
pub(crate) mod errno;
mod mask;
mod ranges;

pub use self::{bisect::submit, commands::Batch, ranges::Granules};
use crate::gerror::CommandError;

/// Most commands in one call of the host.
pub const MAX_BATCH: usize = 63;

/// The host's answer to a batch that it did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError {
    /// Positive error number, as Linux counts them.
    pub errno: i32,
    /// Number of entries that the host reports as handled. Believed for `EIO` only.
    pub entry_num: u32,
}

/// The command at which a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its position in the Command queue. Every preceding command is complete.
    pub position: u32,
    /// Its opcode.
    pub opcode: u8,
    /// The error that is reported to the guest.
    pub error: CommandError,
}

/// The form in which this host reports the illegal command of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EioReport {
    /// `entry_num` is the index of the illegal command.
    #[default]
    Offender,
    /// `entry_num` names the batch at best. The command is found by submitting
    /// halves.
    BlockStart,
}

/// The policy for submitting batches, and for those that the host does not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Number of retries of a batch that timed out. Each attempt can keep the host
    /// busy for a second.
    pub timeout_retries: u32,
    /// Number of retries of a single command that the host has no memory for.
    /// Backing off between retries is up to the [`Backend`](crate::Backend).
    pub memory_retries: u32,
    /// Number of errors of the host at one command, without progress in between,
    /// after which every stream is taken off stage 1 so that invalidations need no
    /// host: see [`Backend::give_up`](crate::Backend::give_up).
    pub max_errors: u32,
    /// Submit TLBI and CFGI twice and apart from `CMD_ATC_INV` (erratum
    /// T264-SMMU-3).
    pub repeat_tlbi_cfgi: bool,
    /// The meaning of `entry_num` when a command is illegal.
    pub eio: EioReport,
    /// Leave commands behind the last full batch in the queue for a while if no
    /// `CMD_SYNC` waits for them: see
    /// [`Progress::Deferred`](crate::Progress::Deferred).
    pub defer_remainder: bool,
    /// Submit TLB invalidations together that `CMD_SYNC`s separate, and complete
    /// these afterwards, in order. For a backend of which a call costs more than a
    /// command: several vCPUs that unmap at once queue a TLBI and a `CMD_SYNC` each.
    pub collect_across_sync: bool,
    /// Submit runs of `CMD_TLBI_NH_VA` or `CMD_TLBI_NH_VAA` as ranges, one for each of
    /// these granules: for a guest without range invalidation (`IDR3.RIL` = 0) on a
    /// host with it. With `defer_remainder`, commands are also left in the queue that
    /// fill a batch, because they may be the beginning of a longer run.
    pub merge_ranges: Option<Granules>,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            timeout_retries: 1,
            memory_retries: 3,
            max_errors: 8,
            repeat_tlbi_cfgi: false,
            eio: EioReport::Offender,
            defer_remainder: false,
            collect_across_sync: false,
            merge_ranges: None,
        }
    }
}
