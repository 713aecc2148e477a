// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The backend of the Command queue with assigned devices: commands go to iommufd, and to the
//! SMMU's own caches if it has emulated devices, too.

use hwcore::prelude::*;
use qemu_ext::{error::report, object::ObjectExt, qapi_events, qdev::DeviceExt};
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
    viommu::{CallTimes, Viommu},
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

/// The host, for one run of the consumer, beside the SMMU's own caches `L`.
pub struct AccelBackend<'a, L> {
    accel: &'a Accel,
    state: &'a GuestState,
    /// For its name only
    smmu: &'a DeviceState,
    own: L,
    slice: TimeSlice,
    /// Duration of the last call of the host in nanoseconds, if there was one
    last_call: Option<u64>,
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
        }
    }

    fn with<R>(&self, function: impl FnOnce(&mut [Stream], &mut Viommu) -> R) -> Option<R> {
        self.accel.with_parts(function)
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

    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        // without a device nothing is cached that is used, and a later vIOMMU is invalidated first
        self.last_call = None;
        let (slice, last_call) = (&mut self.slice, &mut self.last_call);
        let result = self.accel.with_parts(|_, viommu| {
            let (result, times) = viommu.invalidate(commands);
            if let Some(CallTimes { begun, ended }) = times {
                // the slice begins with the first call, if nothing has begun it
                slice.note(begun);
                slice.note(ended);
                *last_call = Some(ended.since(begun));
            }
            result
        });
        result.unwrap_or(Ok(()))
    }

    fn call_ns(&mut self) -> Option<u64> {
        self.last_call
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
        // nothing is cached for a stream that is attached to abort, and a device whose
        // ATS does not answer would make every flush wait for it
        self.with(|streams, _| {
            streams
                .iter()
                .any(|stream| stream.has_vdevice(sid) && !stream.is_quarantined())
        })
        .unwrap_or(false)
    }

    fn set_stream(&mut self, sid: u32, config: &StreamConfig) -> bool {
        self.slice.note_delay();
        self.accel.clear_quarantine_if(|stream_id| stream_id == sid);
        self.accel.attach_stream(self.state, sid, config)
    }

    fn quarantine(&mut self, sid: u32) {
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
        let is_new = self.has_unquarantined(|_| true);
        self.quarantine_streams(Quarantine::Held, |_| true);
        if is_new {
            self.with(|_, viommu| count(&mut viommu.counters.failed_closed));
            qapi_events::failed_closed(&self.path());
        }
    }

    fn is_exhausted(&mut self) -> bool {
        self.with(|_, viommu| viommu.is_exhausted())
            .unwrap_or(false)
    }

    fn give_up(&mut self) -> bool {
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
        self.slice.is_over() || self.own.has_used_slice()
    }

    fn is_gone(&mut self) -> bool {
        self.with(|_, _| ()).is_none()
    }
}
