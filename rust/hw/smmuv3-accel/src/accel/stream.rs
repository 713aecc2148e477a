// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! One assigned device: what its transactions are translated by.

use std::time::{Duration, Instant};

use qom::prelude::*;
use smmuv3::ste::StreamConfig;
use util::{Error, Result};

use super::{
    ffi::{HostDevice, HostObject},
    viommu::Viommu,
};
use crate::{machine::report, pci::PciFunction};

::trace::include_trace!("hw_arm");

/// What a device is attached to in the host.
#[derive(Debug)]
enum Attachment {
    /// What VFIO attached it to: the guest's memory, untranslated. Only until
    /// the SMMU has taken the device over.
    Stage2,
    /// Nothing: the host blocks every transaction
    Blocked,
    /// The vIOMMU's abort translation
    Abort,
    /// The vIOMMU's bypass translation
    Bypass,
    /// Stage 1 as these words of the STE say, nested in stage 2
    Stage1 {
        object: HostObject,
        ste: [u64; 2],
        /// The host notes it when it attaches, for the events it reports
        stream_id: u32,
    },
}

/// The host's record of the `StreamID` under which the guest knows the device.
#[derive(Debug)]
struct Vdevice {
    stream_id: u32,
    _object: HostObject,
}

/// An assigned device behind the SMMU. The fields are dropped in this order.
#[derive(Debug)]
pub struct Stream {
    attachment: Attachment,
    vdevice: Option<Vdevice>,
    device: Owned<HostDevice>,
    function: PciFunction,
    /// The `StreamID` whose STE decided on the attachment, since the last reset.
    /// The host may have refused the vDEVICE of it.
    decided_as: Option<u32>,
    /// Aborted because its ATS invalidations do not complete (section 3.9.1.4)
    quarantined: bool,
    attaching: Reports,
    identifying: Reports,
    blocking: Reports,
}

/// Reports of one kind of failure. A guest can cause as many failures as it
/// likes: a row of them is reported once, and rows once a second at most.
#[derive(Debug, Default)]
struct Reports {
    failing: bool,
    last: Option<Instant>,
}

impl Reports {
    const INTERVAL: Duration = Duration::from_secs(1);

    fn success(&mut self) {
        self.failing = false;
    }

    fn failure(&mut self, message: impl FnOnce() -> String) {
        let recent = self
            .last
            .is_some_and(|last| last.elapsed() < Self::INTERVAL);
        if !self.failing && !recent {
            self.last = Some(Instant::now());
            report(&Error::msg(message()));
        }
        self.failing = true;
    }
}

impl Stream {
    /// Takes a device over from VFIO. It stays on what VFIO gave it until
    /// [`apply`](Self::apply) is called, which the caller does at once.
    pub fn new(function: PciFunction, device: Owned<HostDevice>) -> Self {
        Self {
            attachment: Attachment::Stage2,
            vdevice: None,
            device,
            function,
            decided_as: None,
            quarantined: false,
            attaching: Reports::default(),
            identifying: Reports::default(),
            blocking: Reports::default(),
        }
    }

    /// The function on the guest's bus.
    pub const fn function(&self) -> PciFunction {
        self.function
    }

    /// The device in the host.
    pub fn device(&self) -> &HostDevice {
        &self.device
    }

    /// The `StreamID` by the guest's current bus numbers.
    pub fn stream_id(&self) -> u32 {
        self.function.stream_id()
    }

    /// Does the host know the device by `stream_id`?
    pub fn has_vdevice(&self, stream_id: u32) -> bool {
        self.vdevice
            .as_ref()
            .is_some_and(|vdevice| vdevice.stream_id == stream_id)
    }

    /// Takes the device to abort until the guest configures it anew.
    pub fn quarantine(&mut self, viommu: &Viommu) {
        self.quarantined = true;
        self.abort(viommu);
    }

    /// The guest configures the stream, or the system is reset.
    pub fn release(&mut self) {
        self.quarantined = false;
    }

    /// Forgets a `StreamID` that is no longer the device's: the guest has
    /// renumbered its buses, and another device may have it now. Returns whether
    /// the device is attached by the STE of another `StreamID` than it has.
    pub fn forget_old_stream_id(&mut self) -> bool {
        let stream_id = self.stream_id();
        self.vdevice = self
            .vdevice
            .take()
            .filter(|vdevice| vdevice.stream_id == stream_id);
        self.decided_as.is_some_and(|decided| decided != stream_id)
    }

    /// Are the device's transactions aborted whatever the guest's tables say?
    pub const fn is_quarantined(&self) -> bool {
        self.quarantined
    }

    /// Forgets the `StreamID`: bus numbers are about to be assigned anew.
    pub fn forget_stream_id(&mut self) {
        self.vdevice = None;
        self.decided_as = None;
    }

    /// Makes the host know the device's `StreamID` before it is attached to
    /// anything but stage 1: without it the host reports no events for it.
    pub fn identify(&mut self, viommu: &Viommu) {
        let stream_id = self.stream_id();
        match self.ensure_vdevice(viommu) {
            Ok(()) => self.identifying.success(),
            Err(error) => self.identifying.failure(|| {
                format!("arm-smmuv3: StreamID {stream_id:#x}: {error}; the host will not report its faults")
            }),
        }
    }

    /// Attaches the device to what `config`, of `stream_id`, says. If the host
    /// refuses, the device goes to abort: it never stays on what it had.
    ///
    /// Returns whether stage 1 now translates.
    pub fn apply(&mut self, viommu: &Viommu, stream_id: u32, config: &StreamConfig) -> bool {
        self.decided_as = Some(stream_id);
        let wanted = if self.quarantined {
            &StreamConfig::Abort
        } else {
            config
        };
        let result = match wanted {
            // a guest with assigned devices has no stage 2: such entries are ILLEGAL
            StreamConfig::Abort
            | StreamConfig::Bad(_)
            | StreamConfig::Stage2(_)
            | StreamConfig::Nested { .. } => {
                self.abort(viommu);
                return false;
            }
            StreamConfig::Bypass => self.bypass(viommu).map(|()| false),
            StreamConfig::Stage1 { ste } => self.stage1(viommu, *ste).map(|()| true),
        };
        match result {
            Ok(translates) => {
                self.attaching.success();
                translates
            }
            Err(error) => {
                self.complain(&error);
                self.abort(viommu);
                false
            }
        }
    }

    /// As [`apply`](Self::apply), for a device that is being plugged: a refusal
    /// is the caller's to report, and leaves the device blocked.
    pub fn adopt(&mut self, viommu: &Viommu, stream_id: u32, config: &StreamConfig) -> Result<()> {
        self.decided_as = Some(stream_id);
        let result = match config {
            StreamConfig::Abort
            | StreamConfig::Bad(_)
            | StreamConfig::Stage2(_)
            | StreamConfig::Nested { .. } => self.attach_abort(viommu),
            StreamConfig::Bypass => self.bypass(viommu),
            StreamConfig::Stage1 { ste } => self.stage1(viommu, *ste),
        };
        if result.is_err() {
            self.block();
        }
        result
    }

    /// Gives the device back to VFIO, blocked: nothing that the guest says
    /// applies to it any more, and the guest's memory is no longer its own.
    pub fn block(&mut self) {
        if let Err(error) = self.device.detach() {
            // the object cannot be destroyed while the device uses it, but it is
            // the translation that the guest chose: no more than it had
            self.blocking
                .failure(|| format!("arm-smmuv3: cannot block a device: {error}"));
            return;
        }
        self.blocking.success();
        self.attachment = Attachment::Blocked;
    }

    fn abort(&mut self, viommu: &Viommu) {
        if let Err(error) = self.attach_abort(viommu) {
            self.complain(&error);
            self.block();
        }
    }

    fn attach_abort(&mut self, viommu: &Viommu) -> Result<()> {
        if !matches!(self.attachment, Attachment::Abort) {
            self.device.attach(viommu.abort.id())?;
            self.attachment = Attachment::Abort;
        }
        self.trace(c"abort", viommu.abort.id());
        Ok(())
    }

    fn bypass(&mut self, viommu: &Viommu) -> Result<()> {
        if !matches!(self.attachment, Attachment::Bypass) {
            self.device.attach(viommu.bypass.id())?;
            self.attachment = Attachment::Bypass;
        }
        self.trace(c"bypass", viommu.bypass.id());
        Ok(())
    }

    fn stage1(&mut self, viommu: &Viommu, ste: [u64; 2]) -> Result<()> {
        self.ensure_vdevice(viommu)?;
        let stream_id = self.stream_id();
        let ste = viommu.host_ste(ste);
        if let Attachment::Stage1 {
            object,
            ste: current,
            stream_id: known_as,
        } = &self.attachment
        {
            if *current == ste && *known_as == stream_id {
                self.trace(c"translate", object.id());
                return Ok(());
            }
        }
        let object = self.device.allocate_nested(&viommu.object, ste)?;
        self.device.attach(object.id())?;
        trace::trace_smmuv3_accel_translate_ste(stream_id, object.id(), ste[1], ste[0]);
        self.trace(c"translate", object.id());
        // drops what was attached before
        self.attachment = Attachment::Stage1 {
            object,
            ste,
            stream_id,
        };
        Ok(())
    }

    /// Makes the host know the device by its present `StreamID`.
    fn ensure_vdevice(&mut self, viommu: &Viommu) -> Result<()> {
        let stream_id = self.stream_id();
        if self.has_vdevice(stream_id) {
            return Ok(());
        }
        self.vdevice = None;
        let object = self.device.allocate_vdevice(&viommu.object, stream_id)?;
        self.vdevice = Some(Vdevice {
            stream_id,
            _object: object,
        });
        Ok(())
    }

    fn complain(&mut self, error: &Error) {
        let stream_id = self.stream_id();
        self.attaching.failure(|| {
            format!("arm-smmuv3: StreamID {stream_id:#x}: {error}; its transactions are aborted")
        });
    }

    fn trace(&self, kind: &std::ffi::CStr, id: u32) {
        trace::trace_smmuv3_accel_install_ste(self.stream_id(), kind, id);
    }
}
