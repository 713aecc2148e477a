// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Invalidations on their way to the host, in batches.

/// What the host answered to a batch it did not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError {
    /// Positive error number, as Linux counts them.
    pub errno: i32,
    /// How many entries the host says it handled.
    pub entry_num: u32,
}

/// How this host reports the illegal command of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EioReport {
    /// `entry_num` is the index of the illegal command.
    #[default]
    Offender,
    /// `entry_num` names the batch at best. The command is found by submitting
    /// halves.
    BlockStart,
}

/// What is done when the host does not accept a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// How often a batch that timed out is submitted again.
    pub timeout_retries: u32,
    /// How often a command is submitted again that the host has no memory for.
    /// Waiting in between is the host's affair.
    pub memory_retries: u32,
    /// Submit TLBI and CFGI twice (erratum T264-SMMU-3).
    pub repeat_tlbi_cfgi: bool,
    /// What `entry_num` means when a command is illegal.
    pub eio: EioReport,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            timeout_retries: 1,
            memory_retries: 3,
            repeat_tlbi_cfgi: false,
            eio: EioReport::Offender,
        }
    }
}
