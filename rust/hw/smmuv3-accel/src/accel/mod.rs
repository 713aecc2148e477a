// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Assigned devices behind the SMMU: the host's SMMU walks the guest's stage 1.
//!
//! The promise kept here: at every moment, an assigned device is translated by
//! what the guest's registers and Stream table say, and by nothing else. So
//! whatever changes their meaning (CR0.SMMUEN, GBPA, configuration commands,
//! reset, hot-plug) ends in [`Smmuv3::evaluate_streams`] or its like, and what
//! the host refuses becomes abort.

use qom::prelude::*;
use smmuv3::{invalidation::FlushPolicy, stream_table};
use util::{ensure, Result};

use crate::{
    device::Smmuv3,
    ffi::machine_is_ready,
    pci::PciFunction,
    properties::{Choice, Choices},
};

mod compat;
pub mod ffi;
mod platform;
mod stream;
mod trace_names;
mod veventq;
mod viommu;

use ffi::HostDevice;
pub use platform::{GuestRam, Host, Lines};
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
            veventq_reported: false,
            viommu: None,
        }
    }

    /// Are the `auto` properties resolved?
    pub const fn is_resolved(&self) -> bool {
        self.resolved
    }

    /// The streams, and the vIOMMU that they are nested in.
    fn parts(&mut self) -> Option<(&mut [Stream], &Viommu)> {
        let viommu = self.viommu.as_ref()?;
        Some((&mut self.streams, viommu))
    }

    fn position(&self, function: PciFunction) -> Option<usize> {
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
    pub fn plug(&self, function: PciFunction, device: Owned<HostDevice>) -> Result<()> {
        let mut accel_cell = self.accel_state.borrow_mut();
        let Some(accel) = accel_cell.as_mut() else {
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

        let info = device.info()?;
        let mut features = self.features();
        if !accel.resolved && !machine_is_ready() {
            features = accel.choices.resolve(features, &info);
        }
        compat::check(&features, &info)?;

        let fresh = match &accel.viommu {
            Some(viommu) => {
                ensure!(
                    viommu.shares_iommufd(&device),
                    "devices behind one arm-smmuv3 must use the same iommufd object"
                );
                None
            }
            None => Some(Viommu::new(&device, &info)?),
        };
        let policy = fresh.as_ref().map(|viommu| FlushPolicy {
            repeat_tlbi_cfgi: info.repeats_invalidations(),
            eio: viommu.probe_eio_report(),
            defer_remainder: true,
            ..FlushPolicy::default()
        });

        let registers = self.shared().registers.clone();
        let mut stream = Stream::new(function, device);
        if let Some(viommu) = fresh.as_ref().or(accel.viommu.as_ref()) {
            let config =
                stream_table::evaluate(&registers, &features, &mut GuestRam, function.stream_id());
            if registers.smmu_enabled() {
                stream.identify(viommu);
            }
            // on failure the device is blocked, and a fresh vIOMMU goes with this frame
            stream.adopt(viommu, &config)?;
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
    pub fn unplug(&self, function: PciFunction) {
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
            accel.veventq = None;
            accel.viommu = None;
        }
    }

    /// Attaches every device to what registers and Stream table say now.
    pub fn evaluate_streams(&self) {
        let shared = self.shared().clone();
        let mut accel_cell = self.accel_state.borrow_mut();
        if let Some((streams, viommu)) = accel_cell.as_mut().and_then(Accel::parts) {
            for stream in streams.iter_mut() {
                stream.forget_old_stream_id();
            }
            for stream in streams {
                let config = stream_table::evaluate(
                    &shared.registers,
                    &shared.features,
                    &mut GuestRam,
                    stream.stream_id(),
                );
                if shared.registers.smmu_enabled() {
                    stream.identify(viommu);
                }
                stream.apply(viommu, &config);
            }
        }
    }

    /// System reset: registers have their reset values again.
    pub fn reset_streams(&self) {
        if let Some(accel) = self.accel_state.borrow_mut().as_mut() {
            for stream in &mut accel.streams {
                stream.release();
            }
        }
        self.evaluate_streams();
        if let Some(accel) = self.accel_state.borrow_mut().as_mut() {
            for stream in &mut accel.streams {
                stream.forget_stream_id();
            }
        }
    }
}
