// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Counters of queues, and their state, for users to read.

use smmuv3::cmdqv::{QueueState, QUEUES};

/// Counters of what happens to queues. They wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CmdqvCounters {
    /// Queues that the host was given
    pub allocations: u64,
    /// Queues that the host has refused
    pub refused: u64,
    /// Queues that the host was not asked for, because their memory can be unplugged
    pub outside_ram: u64,
    /// Queues that the host was not asked for: see [`Releases`](super::host::Releases)
    pub postponed: u64,
    /// Queues that the host has released
    pub releases: u64,
    /// Queues that the host has not released when asked
    pub release_failures: u64,
    /// Total duration of releases, in nanoseconds
    pub release_ns: u64,
    /// Duration of the longest one
    pub longest_release_ns: u64,
    /// Number of times that the guest was given the host's page
    pub page_shown: u64,
    /// Errors of queues that the host has reported
    pub events: u64,
    /// Reports of the host that were lost
    pub lost_events: u64,
    /// Interrupts
    pub interrupts: u64,
}

/// The state of the queues, for users to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdqvStatus {
    /// The executor of each queue
    pub queues: [QueueState; QUEUES],
    /// The host has a queue that it has not released
    pub is_stuck: bool,
    /// Everything that is counted
    pub counters: CmdqvCounters,
}

/// Adds one to a counter.
pub fn count(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}
