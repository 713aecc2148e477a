// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Assigned devices behind the SMMU: the host's SMMU walks the guest's stage 1.
//!
//! The promise kept here: at every moment, an assigned device is translated by
//! what the guest's registers and Stream table say, and by nothing else. So
//! whatever changes their meaning (CR0.SMMUEN, GBPA, configuration commands,
//! reset, hot-plug) ends in [`Smmuv3::evaluate_streams`] or its like, and what
//! the host refuses becomes abort.

use std::time::{Duration, Instant};

use qemu_ext::{
    iommufd::{HostDevice, HostObject},
    pci::{OwnedPciFunction, PciFunction},
    qdev::DeviceExt,
    runstate::is_machine_ready,
    timer::TimerExt,
};
use qom::prelude::*;
use smmuv3::{invalidation::FlushPolicy, ste::StreamConfig, stream_table};
use util::{ensure, timer::CLOCK_REALTIME, Result};

use crate::{
    device::Smmuv3,
    memory::GuestRam,
    properties::{Choice, Choices},
};

mod backoff;
mod compat;
mod host;
mod stage2;
mod stream;
mod veventq;
mod viommu;

pub use compat::HostInfo;
pub use host::Host;
use stream::Stream;
use veventq::VeventQ;
use viommu::Viommu;

::trace::include_trace!("hw_arm");

/// The accelerated side of one SMMU.
#[derive(Debug)]
pub struct Accel {
    choices: Choices,
    /// `auto` was replaced by what the first host has
    resolved: bool,
    /// Dropped before the vIOMMU, whose children its members are
    streams: Vec<Stream>,
    /// There is one while there is a vIOMMU and the guest's Event queue is enabled
    veventq: Option<VeventQ>,
    /// One that was closed, and that the host has not destroyed
    busy_veventq: Option<HostObject>,
    /// A failure to get one was reported: the guest can cause as many as it likes
    veventq_reported: bool,
    /// There is one as long as there is a stream
    viommu: Option<Viommu>,
}

impl Accel {
    /// No devices yet.
    pub const fn new(choices: Choices) -> Self {
        Self {
            choices,
            resolved: false,
            streams: Vec::new(),
            veventq: None,
            busy_veventq: None,
            veventq_reported: false,
            viommu: None,
        }
    }

    /// Are the `auto` properties resolved?
    pub const fn is_resolved(&self) -> bool {
        self.resolved
    }

    /// The streams, and the vIOMMU that they are nested in.
    fn parts(&mut self) -> Option<(&mut [Stream], &mut Viommu)> {
        let viommu = self.viommu.as_mut()?;
        Some((&mut self.streams, viommu))
    }

    fn position(&self, function: PciFunction<'_>) -> Option<usize> {
        self.streams
            .iter()
            .position(|stream| stream.function() == function)
    }
}

impl Smmuv3 {
    /// Will the guest be shown PASIDs?
    pub fn wants_pasid(&self) -> bool {
        match self.ssidsize.choice() {
            Choice::Given(bits) => bits > 0,
            Choice::Auto => self.features().ssidsize() > 0,
        }
    }

    /// A device that VFIO has bound to iommufd is plugged in behind this SMMU.
    pub fn plug(&self, function: PciFunction<'_>, device: Owned<HostDevice>) -> Result<()> {
        let (choices, resolved) = {
            let accel_cell = self.accel_state.borrow();
            let Some(accel) = accel_cell.as_ref() else {
                return Ok(());
            };
            if let Some(position) = accel.position(function) {
                let known = accel
                    .streams
                    .get(position)
                    .is_some_and(|stream| stream.device().id() == device.id());
                ensure!(
                    known,
                    "another device is already at {:#x} behind this arm-smmuv3",
                    function.devfn()
                );
                return Ok(());
            }
            (accel.choices, accel.resolved)
        };

        let info = HostInfo::of(&device)?;
        let mut features = self.features();
        if !resolved && !is_machine_ready() {
            features = choices.resolve(features, &info);
        }
        compat::check(&features, &info)?;

        let (_, registers) = self.snapshot();
        // its StreamID may still be another device's in the host
        self.attach_streams(|_| false);
        let stream_id = function.requester_id().into();
        let config = stream_table::evaluate(&registers, &features, &mut GuestRam, stream_id);

        let mut accel_cell = self.accel_state.borrow_mut();
        let Some(accel) = accel_cell.as_mut() else {
            return Ok(());
        };
        let mut fresh = match &accel.viommu {
            Some(viommu) => {
                ensure!(
                    viommu.shares_iommufd(&device),
                    "devices behind one arm-smmuv3 must use the same iommufd object"
                );
                None
            }
            None => Some(Viommu::new(&device, &info, &self.name())?),
        };
        let policy = fresh.as_ref().map(|viommu| FlushPolicy {
            repeat_tlbi_cfgi: info.repeats_invalidations(),
            eio: viommu.probe_eio_report(),
            defer_remainder: true,
            ..FlushPolicy::default()
        });

        let mut stream = Stream::new(function.to_owned(), device);
        if let Some(viommu) = fresh.as_mut().or(accel.viommu.as_mut()) {
            if registers.smmu_enabled() {
                // without it the device works, but its faults are not reported
                let _ = stream.identify(viommu);
            }
            // on failure the device is blocked, and a fresh vIOMMU goes with this frame
            stream.adopt(viommu, stream_id, &config)?;
        }

        trace::trace_smmuv3_accel_set_iommu_device(
            i32::from(function.devfn()),
            stream.device().id(),
        );
        accel.streams.push(stream);
        if let Some(viommu) = fresh {
            accel.viommu = Some(viommu);
        }
        if !accel.resolved {
            accel.resolved = true;
            self.shared().features = features;
        }
        drop(accel_cell);
        if let Some(policy) = policy {
            if let Some(cmdq) = self.cmdq.borrow_mut().as_mut() {
                cmdq.set_policy(policy);
            }
            self.evaluate_events();
        }
        Ok(())
    }

    /// The device at `function` goes.
    pub fn unplug(&self, function: PciFunction<'_>) {
        let mut accel_cell = self.accel_state.borrow_mut();
        let Some(accel) = accel_cell.as_mut() else {
            return;
        };
        let Some(position) = accel.position(function) else {
            return;
        };
        let mut stream = accel.streams.swap_remove(position);
        stream.block();
        trace::trace_smmuv3_accel_unset_iommu_device(
            i32::from(function.devfn()),
            stream.device().id(),
        );
        drop(stream);
        if accel.streams.is_empty() {
            accel.close_veventq();
            accel.busy_veventq = None;
            accel.viommu = None;
        }
    }

    /// Attaches every device to what registers and Stream table say now.
    pub fn evaluate_streams(&self) {
        self.attach_streams(|_| true);
    }

    /// Attaches the streams that `select` picks by their `StreamID`, and those
    /// whose `StreamID` is another than before, to what registers and Stream table
    /// say now. Returns whether stage 1 translates one of those picked.
    pub fn attach_streams(&self, select: impl Fn(u32) -> bool) -> bool {
        let (guest_features, registers) = self.snapshot();
        let wanted: Vec<(OwnedPciFunction, u32)> = {
            let mut accel_cell = self.accel_state.borrow_mut();
            let Some((streams, _)) = accel_cell.as_mut().and_then(Accel::parts) else {
                return false;
            };
            // of all first: two devices may have swapped their numbers
            streams
                .iter_mut()
                .filter_map(|stream| {
                    let renamed = stream.forget_old_stream_id() || stream.waits_for_stream_id();
                    let stream_id = stream.stream_id();
                    (renamed || select(stream_id))
                        .then(|| (stream.function().to_owned(), stream_id))
                })
                .collect()
        };
        // Nothing is borrowed here: the tables lie where the guest says, and what
        // is read there may be a device.
        let configs: Vec<(OwnedPciFunction, u32, StreamConfig)> = wanted
            .into_iter()
            .map(|(function, stream_id)| {
                let config =
                    stream_table::evaluate(&registers, &guest_features, &mut GuestRam, stream_id);
                (function, stream_id, config)
            })
            .collect();

        let mut accel_cell = self.accel_state.borrow_mut();
        let Some((streams, viommu)) = accel_cell.as_mut().and_then(Accel::parts) else {
            return false;
        };
        let mut translates = false;
        for (function, stream_id, config) in configs {
            let function = function.borrow();
            // While a guest exchanges the numbers of two buses, two devices have one
            // StreamID, and the host gives it to one of them. The other waits.
            let is_taken = streams
                .iter()
                .any(|other| other.function() != function && other.has_vdevice(stream_id));
            let Some(stream) = streams
                .iter_mut()
                .find(|stream| stream.function() == function)
            else {
                continue;
            };
            let is_selected = select(stream_id);
            if is_taken && !is_selected {
                stream.wait_for_stream_id(viommu);
                continue;
            }
            let wants_vdevice = registers.smmu_enabled();
            translates |= stream.apply(viommu, stream_id, &config, wants_vdevice) && is_selected;
            stream.set_waiting(is_taken);
        }
        drop(accel_cell);
        self.schedule_retry();
        translates
    }

    /// Tries again to attach the streams that the host has refused for now: from a
    /// timer.
    pub fn retry_streams(&self) {
        self.retry_streams_if(|stream, now| {
            let delay = stream.backoff().and_then(|backoff| backoff.delay(now));
            delay == Some(Duration::ZERO)
        });
        // QEMU's clock may run ahead of the one that is looked at here
        self.schedule_retry();
    }

    /// The same because the guest has commands for the SMMU: it may know that a
    /// device has been reset, and wait for it.
    pub fn retry_streams_now(&self) {
        self.retry_streams_if(|stream, now| {
            stream.backoff().is_some_and(|backoff| backoff.permits(now))
        });
    }

    fn retry_streams_if(&self, select: impl Fn(&Stream, Instant) -> bool) {
        if let Some((streams, viommu)) = self
            .accel_state
            .borrow_mut()
            .as_mut()
            .and_then(Accel::parts)
        {
            for stream in streams {
                if stream.backoff().is_some() && select(stream, Instant::now()) {
                    stream.retry(viommu);
                }
            }
        }
    }

    /// Sets the timer for the next attempt to attach a stream, if there is to be one.
    pub fn schedule_retry(&self) {
        let now = Instant::now();
        let delay = self.accel_state.borrow().as_ref().and_then(|accel| {
            let backoffs = accel.streams.iter().filter_map(Stream::backoff);
            backoffs.filter_map(|backoff| backoff.delay(now)).min()
        });
        if let Some(delay) = delay {
            let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
            self.retry.anticipate_in_ns(&CLOCK_REALTIME, delay);
        }
    }

    /// Ends the quarantine of the streams that `select` picks by their `StreamID`,
    /// because the guest configures them.
    pub fn release_streams(&self, select: impl Fn(u32) -> bool) {
        if let Some(accel) = self.accel_state.borrow_mut().as_mut() {
            for stream in &mut accel.streams {
                if select(stream.stream_id()) {
                    stream.release();
                }
            }
        }
    }

    /// System reset: registers have their reset values again.
    pub fn reset_streams(&self) {
        self.release_streams(|_| true);
        self.evaluate_streams();
        if let Some(accel) = self.accel_state.borrow_mut().as_mut() {
            for stream in &mut accel.streams {
                stream.forget_stream_id();
            }
        }
    }
}
