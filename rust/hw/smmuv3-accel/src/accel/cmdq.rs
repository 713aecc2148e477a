// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The backend of the Command queue with assigned devices: commands go to iommufd, and to the
//! SMMU's own caches if it has emulated devices, too.

use hwcore::prelude::*;
use qemu_ext::{error::report, lock::BigLock, object::ObjectExt, qapi_events, qdev::DeviceExt};
use smmuv3::{
    batch::{HostError, MAX_BATCH},
    cmdq::{Backend, LocalEffect},
    command::Invalidation,
    ste::StreamConfig,
};
use util::Error;

use super::{
    counters::count,
    stream::{Quarantine, Stream},
    target::Call,
    viommu::Viommu,
    Accel,
};
use crate::{deadline::TimeSlice, state::GuestState};

/// The SMMU's own caches beside those of the host. They execute commands at once and without
/// fail.
pub trait OwnCaches {
    /// Executes a command.
    fn execute(&mut self, command: &Invalidation) -> LocalEffect;

    /// Invalidates the configurations of the streams in `first..=last`.
    fn execute_configurations(&mut self, first: u32, last: u32);

    /// Returns whether the time slice is used up.
    fn has_used_slice(&mut self) -> bool;
}

impl<L: Backend> OwnCaches for L {
    fn execute(&mut self, command: &Invalidation) -> LocalEffect {
        let _ = self.invalidate(&[*command]);
        // fewer at once if each may have to wait for vhost
        if self.batch_limit() < MAX_BATCH {
            LocalEffect::Waited
        } else {
            LocalEffect::Executed
        }
    }

    fn execute_configurations(&mut self, first: u32, last: u32) {
        self.invalidate_configurations(first, last);
    }

    fn has_used_slice(&mut self) -> bool {
        self.deadline_expired()
    }
}

/// No caches. A type of its own, because the doorbell of an SMMU with assigned devices alone
/// must not pay for the others.
pub struct NoCaches;

impl OwnCaches for NoCaches {
    fn execute(&mut self, _command: &Invalidation) -> LocalEffect {
        LocalEffect::None
    }

    fn execute_configurations(&mut self, _first: u32, _last: u32) {}

    fn has_used_slice(&mut self) -> bool {
        false
    }
}

/// The SMMU's own caches, for a run that may not have the Big QEMU Lock (BQL): every command
/// takes it for itself, because it may notify vhost.
pub struct LockingCaches<L>(pub L);

impl<L: OwnCaches> OwnCaches for LockingCaches<L> {
    fn execute(&mut self, command: &Invalidation) -> LocalEffect {
        let _lock = BigLock::acquire();
        self.0.execute(command)
    }

    fn execute_configurations(&mut self, first: u32, last: u32) {
        let _lock = BigLock::acquire();
        self.0.execute_configurations(first, last);
    }

    fn has_used_slice(&mut self) -> bool {
        self.0.has_used_slice()
    }
}

/// The host, for one run of the consumer, beside the SMMU's own caches `L`.
///
/// The run may not have the BQL. A call of the host needs none; everything else takes it for
/// itself, and finds devices as they are then.
pub struct AccelBackend<'a, L> {
    accel: &'a Accel,
    state: &'a GuestState,
    /// For its name only
    smmu: &'a DeviceState,
    own: L,
    slice: TimeSlice,
    /// The last call of the host, if there was one
    last_call: Option<Call>,
    /// A stream that was found to have a vDEVICE, since that was last changed here
    with_vdevice: Option<u32>,
    /// The BQL is held for the whole run, so nothing changes meanwhile
    is_locked: bool,
}

impl<'a, L> AccelBackend<'a, L> {
    /// Returns the host of the devices behind `smmu`, beside its own caches `own`.
    pub fn new(accel: &'a Accel, state: &'a GuestState, smmu: &'a DeviceState, own: L) -> Self {
        Self {
            accel,
            state,
            smmu,
            own,
            slice: TimeSlice::new(),
            last_call: None,
            with_vdevice: None,
            is_locked: bql::is_locked(),
        }
    }

    fn with<R>(&self, function: impl FnOnce(&mut [Stream], &mut Viommu) -> R) -> Option<R> {
        let _lock = BigLock::acquire();
        self.accel.with_parts(function)
    }

    /// Returns whether the vIOMMU of the last call is gone, maybe in favour of another one, which
    /// has nothing to do with that.
    fn has_lost_target(&self) -> bool {
        let generation = self.accel.target.generation();
        self.last_call
            .is_some_and(|call| call.generation != generation)
    }

    fn finds_vdevice(&self, sid: u32) -> bool {
        // nothing is cached for a stream that is attached to abort, and a device whose
        // ATS does not answer would make every flush wait for it
        self.with(|streams, _| {
            streams
                .iter()
                .any(|stream| stream.has_vdevice(sid) && !stream.is_quarantined())
        })
        .unwrap_or(false)
    }

    fn call(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        let (result, call) = self.accel.target.invalidate(commands);
        if let Some(Call { begun, ended, .. }) = call {
            // the slice begins with the first call, if nothing has begun it
            self.slice.note(begun);
            self.slice.note(ended);
        }
        self.last_call = call;
        result
    }

    /// Returns whether a stream that `select` picks is not quarantined yet.
    fn has_unquarantined(&self, select: impl Fn(&Stream) -> bool) -> bool {
        self.with(|streams, _| {
            streams
                .iter()
                .any(|stream| !stream.is_quarantined() && select(stream))
        })
        .unwrap_or(false)
    }

    fn path(&self) -> String {
        self.smmu.canonical_path().unwrap_or_default()
    }

    /// Quarantines the streams that `select` picks, for as long as `how` says.
    fn quarantine_streams(&mut self, how: Quarantine, select: impl Fn(&Stream) -> bool) {
        let _lock = BigLock::acquire();
        if self.has_lost_target() {
            return;
        }
        self.with_vdevice = None;
        self.slice.note_delay();
        self.with(|streams, viommu| {
            for stream in streams.iter_mut().filter(|stream| select(stream)) {
                stream.quarantine(viommu, how);
            }
        });
        self.accel.schedule_retry();
    }
}

impl<L: OwnCaches> Backend for AccelBackend<'_, L> {
    #[inline]
    fn invalidate_locally(&mut self, command: &Invalidation) -> LocalEffect {
        self.own.execute(command)
    }

    fn invalidate_configurations(&mut self, first: u32, last: u32) {
        self.own.execute_configurations(first, last);
    }

    #[inline]
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        let Err(error) = self.call(commands) else {
            return Ok(());
        };
        if self.has_lost_target() {
            return Ok(());
        }
        // a command about a device that is gone is illegal to the host, but not the guest's error
        self.with_vdevice = None;
        Err(error)
    }

    fn call_ns(&mut self) -> Option<u64> {
        self.last_call.map(|call| call.ended.since(call.begun))
    }

    fn next_stream(&mut self, first: u32, last: u32) -> Option<u32> {
        self.with(|streams, _| {
            streams
                .iter()
                .map(Stream::stream_id)
                .filter(|sid| (first..=last).contains(sid))
                .min()
        })
        .flatten()
    }

    fn has_vdevice(&mut self, sid: u32) -> bool {
        // one look for a row of commands about one stream
        if self.with_vdevice == Some(sid) {
            return true;
        }
        let found = self.finds_vdevice(sid);
        self.with_vdevice = found.then_some(sid);
        found
    }

    fn set_stream(&mut self, sid: u32, config: &StreamConfig) -> bool {
        let _lock = BigLock::acquire();
        self.with_vdevice = None;
        self.slice.note_delay();
        self.accel.clear_quarantine_if(|stream_id| stream_id == sid);
        if self.is_locked {
            self.accel.attach_stream(self.state, sid, config)
        } else {
            // Registers may have been written since this was read, and the stream attached as
            // they say.
            self.accel.reattach_stream(self.state, sid)
        }
    }

    fn quarantine(&mut self, sid: u32) {
        let _lock = BigLock::acquire();
        let is_new = self.has_unquarantined(|stream| stream.has_vdevice(sid));
        self.quarantine_streams(Quarantine::Held, |stream| stream.has_vdevice(sid));
        if is_new {
            let device = self.with(|streams, _| {
                let mut streams = streams.iter();
                streams
                    .find(|stream| stream.has_vdevice(sid))
                    .map(Stream::path)
            });
            let device = device.flatten().unwrap_or_default();
            qapi_events::stream_quarantined(&device, &self.path(), sid);
        }
    }

    fn suspend(&mut self, sid: u32) {
        self.quarantine_streams(Quarantine::Brief, |stream| stream.has_vdevice(sid));
    }

    fn fail_closed(&mut self) {
        let _lock = BigLock::acquire();
        if self.has_lost_target() {
            return;
        }
        let is_new = self.has_unquarantined(|_| true);
        self.quarantine_streams(Quarantine::Held, |_| true);
        if is_new {
            self.with(|_, viommu| count(&mut viommu.counters.failed_closed));
            qapi_events::failed_closed(&self.path());
        }
    }

    fn is_exhausted(&mut self) -> bool {
        self.accel.target.is_exhausted()
    }

    fn give_up(&mut self) -> bool {
        let _lock = BigLock::acquire();
        if self.has_lost_target() {
            return true;
        }
        self.fail_closed();
        let lost = self.with(|streams, viommu| {
            let is_off_stage1 = !streams.iter().any(Stream::may_use_stage1);
            (is_off_stage1, is_off_stage1 && viommu.give_up())
        });
        // without a device there is nothing on stage 1 either
        let (is_off_stage1, is_new) = lost.unwrap_or((true, false));
        if is_new {
            qapi_events::host_lost(&self.path());
            report(&Error::msg(format!(
                "{}: the host does not complete invalidations; all devices behind this SMMU are blocked \
                 until the guest configures them again and the host works",
                self.smmu.name()
            )));
        }
        is_off_stage1
    }

    fn deadline_expired(&mut self) -> bool {
        self.state.must_stop_cmdq() || self.slice.is_over() || self.own.has_used_slice()
    }

    fn is_gone(&mut self) -> bool {
        !self.accel.target.is_open() || self.has_lost_target()
    }
}
