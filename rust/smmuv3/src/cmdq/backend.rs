// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The executor of invalidations, which also attaches streams.

use crate::{
    batch::{HostError, MAX_BATCH},
    command::Invalidation,
    ste::StreamConfig,
    StreamId,
};

/// The effect of a command on caches of this SMMU's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEffect {
    /// There are none.
    None,
    /// It was executed.
    Executed,
    /// It was executed, and may have taken its time, so the deadline is to be checked.
    Waited,
}

/// The side of the SMMU that the Command queue acts on: a host SMMU, or the caches of
/// this one.
pub trait Backend {
    /// Executes a command in caches of this SMMU's own, which it has beside those of a
    /// host, before the command is pending for the host.
    ///
    /// Called once for each command that is executed, in their order, however often the
    /// host is asked for it. A command that the host refuses then has invalidated here all
    /// the same, which is permitted (§4.4).
    fn invalidate_locally(&mut self, command: &Invalidation) -> LocalEffect {
        let _ = command;
        LocalEffect::None
    }

    /// Executes 1 to 63 commands and waits until they are complete.
    ///
    /// # Errors
    ///
    /// The host's error.
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError>;

    /// Returns the number of nanoseconds for which the last
    /// [`invalidate`](Self::invalidate) has waited for the host, or `None` if it has
    /// called no host.
    fn call_ns(&mut self) -> Option<u64> {
        None
    }

    /// Returns the lowest `StreamID` in `first..=last` that has a device, whether the
    /// host knows it by that already or not.
    fn next_stream(&mut self, first: StreamId, last: StreamId) -> Option<StreamId>;

    /// Returns whether the host has a vDEVICE with this `StreamID`: only then are
    /// commands that name it forwarded, and only then can it answer to them.
    fn has_vdevice(&mut self, sid: StreamId) -> bool {
        self.next_stream(sid, sid) == Some(sid)
    }

    /// Invalidates what is cached outside the host of the configuration of the
    /// streams in `first..=last` (§4.3).
    fn invalidate_configurations(&mut self, first: StreamId, last: StreamId) {
        let _ = (first, last);
    }

    /// Attaches the device with this `StreamID` as `config` says.
    ///
    /// Returns whether the host may hold Context descriptors cached through this
    /// stream, so that they must be invalidated, too.
    fn set_stream(&mut self, sid: StreamId, config: &StreamConfig) -> bool;

    /// An invalidation of this stream's did not complete: takes it to abort
    /// (§3.9.1.4).
    fn quarantine(&mut self, sid: StreamId);

    /// Takes a stream to abort whose device was not asked to invalidate, because others
    /// had taken too long. Its translations by ATS may be stale, so
    /// they must not be used; that the device does not answer is not known, so it is
    /// attached again, with an empty ATC, as soon as that can be done.
    fn suspend(&mut self, sid: StreamId) {
        self.quarantine(sid);
    }

    /// Takes every stream to abort after an error that no working host reports.
    fn fail_closed(&mut self);

    /// Returns whether calls that failed have held up the machine for as long as
    /// can be afforded. Asked after each call that failed.
    fn is_exhausted(&mut self) -> bool {
        false
    }

    /// Takes every stream off stage 1, because the host cannot be brought to
    /// complete invalidations.
    ///
    /// Returns whether no stream is left on stage 1. Then no transaction uses what
    /// the host has cached, so [`invalidate`](Self::invalidate) completes without
    /// the host, and everything is invalidated in the host before stage 1
    /// translates again.
    fn give_up(&mut self) -> bool {
        false
    }

    /// Returns the maximum number of commands for [`invalidate`](Self::invalidate): 63
    /// if they are executed together. A host that takes its time for each of them wants
    /// fewer, because the deadline is checked between calls only.
    fn batch_limit(&self) -> usize {
        MAX_BATCH
    }

    /// Returns whether the time slice is used up. A single call of the host can take a
    /// second, so this is asked after each.
    fn deadline_expired(&mut self) -> bool {
        false
    }

    /// Returns whether the device itself has taken down what the commands are sent to,
    /// so that nothing is left to invalidate.
    fn is_gone(&mut self) -> bool;
}
