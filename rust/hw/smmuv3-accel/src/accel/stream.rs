// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! One assigned device: its HWPT, its vDEVICE, and retries.

use std::{fmt, sync::Arc, time::Instant};

use qemu_ext::{
    error::report,
    iommufd::{HostDevice, HostFailure, HostObject},
    object::ObjectExt,
    pci::{OwnedPciFunction, PciFunction},
    qdev::DeviceExt,
};
use qom::prelude::*;
use smmuv3::ste::StreamConfig;
use util::{Error, Result};

use super::{
    backoff::Backoff,
    counters::{count, AttachCounters, StreamStatus},
    rate_limit::ErrorRateLimit,
    saved::SavedStream,
    viommu::{hwpt_data, Viommu},
};

::trace::include_trace!("hw_arm");

/// The attachment of a device in the host.
#[derive(Debug)]
enum Attachment {
    /// VFIO's stage-2 HWPT: the guest's memory, untranslated. Only until
    /// [`Stream::attach_initial`].
    Stage2,
    /// As another QEMU has left it, which this one was started to take over from. Only until
    /// [`Stream::adopt`].
    Inherited,
    /// Nothing: the host blocks every transaction
    Blocked,
    /// The vIOMMU's abort HWPT
    Abort,
    /// The vIOMMU's bypass HWPT
    Bypass,
    /// Stage 1 as these words of the STE say, nested in stage 2
    Stage1 {
        object: HostObject,
        ste: [u64; 2],
        /// Noted by the host on attachment, for the events that it reports
        stream_id: u32,
    },
}

/// The host's record of the `StreamID` under which the guest knows the device.
#[derive(Debug)]
struct Vdevice {
    stream_id: u32,
    object: HostObject,
}

/// Values of [`SavedStream::attachment`]
const ON_NOTHING: u8 = 0;
const ON_ABORT: u8 = 1;
const ON_BYPASS: u8 = 2;
const ON_STAGE1: u8 = 3;

/// Values of [`SavedStream::wanted`]
const WANTS_ABORT: u8 = 0;
const WANTS_BYPASS: u8 = 1;
const WANTS_STAGE1: u8 = 2;

/// Values of [`SavedStream::quarantine`]
const QUARANTINE_NONE: u8 = 0;
const QUARANTINE_BRIEF: u8 = 1;
const QUARANTINE_HELD: u8 = 2;

/// An assigned device behind the SMMU. The fields are dropped in this order.
#[derive(Debug)]
pub struct Stream {
    attachment: Attachment,
    vdevice: Option<Vdevice>,
    device: Owned<HostDevice>,
    function: OwnedPciFunction,
    /// The SMMU's name in messages
    smmu: Arc<str>,
    /// The `StreamID` whose STE decided on the attachment, since the last reset.
    /// The host may have refused the vDEVICE of it.
    attached_sid: Option<u32>,
    /// Another device has the `StreamID`
    is_waiting: bool,
    /// The configuration by the guest's registers and tables at their last evaluation
    wanted: StreamConfig,
    /// A vDEVICE is to be bound regardless of the attachment
    wants_vdevice: bool,
    /// Aborted regardless of the guest's tables
    quarantine: Quarantine,
    /// The device is not attached as wanted, and another attempt follows
    backoff: Option<Backoff>,
    attaching: ErrorRateLimit,
    binding: ErrorRateLimit,
    blocking: ErrorRateLimit,
    /// Set while the guest's state is loaded: what the host refuses fails that, and is not reported
    /// here
    loading: Option<Refusal>,
    /// Counters of this device
    pub counters: AttachCounters,
}

/// The first refusal by the host, if there was one.
type Refusal = Option<String>;

/// A quarantine: the device's transactions are aborted regardless of the guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// The device is not quarantined
    None,
    /// Other devices did not answer, so this one was not asked: until the next attempt
    Brief,
    /// Its invalidations did not complete (§3.9.1.4): until the guest
    /// configures it again
    Held,
}

impl Stream {
    /// Starts managing a VFIO device behind the SMMU that messages call `smmu`. It stays attached to VFIO's stage-2 HWPT until
    /// [`attach_initial`](Self::attach_initial); callers must call that before the guest can
    /// use the device.
    pub fn new(smmu: Arc<str>, function: OwnedPciFunction, device: Owned<HostDevice>) -> Self {
        Self {
            attachment: Attachment::Stage2,
            vdevice: None,
            device,
            function,
            smmu,
            attached_sid: None,
            is_waiting: false,
            wanted: StreamConfig::Abort,
            wants_vdevice: false,
            quarantine: Quarantine::None,
            backoff: None,
            attaching: ErrorRateLimit::default(),
            binding: ErrorRateLimit::default(),
            blocking: ErrorRateLimit::default(),
            loading: None,
            counters: AttachCounters::default(),
        }
    }

    /// Starts managing a device that another QEMU uses, and which [`adopt`](Self::adopt) takes
    /// over from it. The host is not called before that.
    pub fn inherited(
        smmu: Arc<str>,
        function: OwnedPciFunction,
        device: Owned<HostDevice>,
    ) -> Self {
        Self {
            attachment: Attachment::Inherited,
            ..Self::new(smmu, function, device)
        }
    }

    /// Returns whether the device is another QEMU's.
    pub const fn is_inherited(&self) -> bool {
        matches!(self.attachment, Attachment::Inherited)
    }

    /// Returns the state that another QEMU takes over.
    pub fn save(&self) -> SavedStream {
        let mut saved = SavedStream {
            device_id: self.device.id(),
            stream_id: self.stream_id(),
            is_waiting: self.is_waiting,
            wants_vdevice: self.wants_vdevice,
            quarantine: match self.quarantine {
                Quarantine::None => QUARANTINE_NONE,
                Quarantine::Brief => QUARANTINE_BRIEF,
                Quarantine::Held => QUARANTINE_HELD,
            },
            backoff: Backoff::save(self.backoff),
            ..SavedStream::NONE
        };
        if let Some(vdevice) = &self.vdevice {
            saved.vdevice_id = vdevice.object.id();
            saved.vdevice_sid = vdevice.stream_id;
        }
        if let Some(stream_id) = self.attached_sid {
            saved.is_attached = true;
            saved.attached_sid = stream_id;
        }
        saved.attachment = match &self.attachment {
            Attachment::Stage2 | Attachment::Inherited | Attachment::Blocked => ON_NOTHING,
            Attachment::Abort => ON_ABORT,
            Attachment::Bypass => ON_BYPASS,
            Attachment::Stage1 {
                object,
                ste,
                stream_id,
            } => {
                saved.hwpt_id = object.id();
                saved.hwpt_sid = *stream_id;
                saved.ste = *ste;
                ON_STAGE1
            }
        };
        saved.wanted = match self.wanted {
            // all of them are attached to abort
            StreamConfig::Abort
            | StreamConfig::Bad(_)
            | StreamConfig::Stage2(_)
            | StreamConfig::Nested { .. } => WANTS_ABORT,
            StreamConfig::Bypass => WANTS_BYPASS,
            StreamConfig::Stage1 { ste } => {
                saved.wanted_ste = ste;
                WANTS_STAGE1
            }
        };
        saved
    }

    /// Returns the first field of `saved` with a value that is never saved.
    pub fn damage(saved: &SavedStream) -> Option<&'static str> {
        let is_on_stage1 = saved.attachment == ON_STAGE1;
        [
            ("attachment", saved.attachment > ON_STAGE1),
            ("hwpt_id", is_on_stage1 != (saved.hwpt_id != 0)),
            ("wanted", saved.wanted > WANTS_STAGE1),
            ("quarantine", saved.quarantine > QUARANTINE_HELD),
        ]
        .into_iter()
        .find_map(|(field, is_bad)| is_bad.then_some(field))
    }

    /// Takes the device over as another QEMU has left it. `saved` has no
    /// [`damage`](Self::damage). The host is not called.
    pub fn adopt(&mut self, saved: &SavedStream) {
        let backend = self.device.backend();
        self.vdevice = (saved.vdevice_id != 0).then(|| Vdevice {
            stream_id: saved.vdevice_sid,
            object: HostObject::adopt(backend.clone(), saved.vdevice_id),
        });
        self.attachment = match saved.attachment {
            ON_STAGE1 => Attachment::Stage1 {
                object: HostObject::adopt(backend, saved.hwpt_id),
                ste: saved.ste,
                stream_id: saved.hwpt_sid,
            },
            ON_BYPASS => Attachment::Bypass,
            ON_ABORT => Attachment::Abort,
            _ => Attachment::Blocked,
        };
        self.attached_sid = saved.is_attached.then_some(saved.attached_sid);
        self.is_waiting = saved.is_waiting;
        self.wanted = match saved.wanted {
            WANTS_STAGE1 => StreamConfig::Stage1 {
                ste: saved.wanted_ste,
            },
            WANTS_BYPASS => StreamConfig::Bypass,
            _ => StreamConfig::Abort,
        };
        self.wants_vdevice = saved.wants_vdevice;
        self.quarantine = match saved.quarantine {
            QUARANTINE_HELD => Quarantine::Held,
            QUARANTINE_BRIEF => Quarantine::Brief,
            _ => Quarantine::None,
        };
        self.backoff = Backoff::restored(&saved.backoff);
        count(&mut self.counters.adopted);
    }

    /// Gives the device up without calling the host, because another QEMU has it.
    pub fn abandon(mut self) {
        if let Some(vdevice) = self.vdevice.take() {
            vdevice.object.abandon();
        }
        if let Attachment::Stage1 { object, .. } =
            std::mem::replace(&mut self.attachment, Attachment::Inherited)
        {
            object.abandon();
        }
    }

    /// Returns the function on the guest's bus.
    pub fn function(&self) -> PciFunction<'_> {
        self.function.borrow()
    }

    /// Returns the device in the host.
    pub fn device(&self) -> &HostDevice {
        &self.device
    }

    /// Returns the `StreamID` by the guest's current bus numbers.
    pub fn stream_id(&self) -> u32 {
        self.function().requester_id().into()
    }

    /// Returns whether the host has a vDEVICE of the device for `stream_id`.
    pub fn has_vdevice(&self, stream_id: u32) -> bool {
        self.vdevice
            .as_ref()
            .is_some_and(|vdevice| vdevice.stream_id == stream_id)
    }

    /// Returns the path of the device in QOM.
    pub fn path(&self) -> String {
        let device = self.function().device();
        device
            .and_then(|device| device.canonical_path())
            .unwrap_or_default()
    }

    /// Reports a failure, with the names of the SMMU and of the device, and with the
    /// `StreamID`, by which the guest's log has the device.
    fn report(&self, message: fmt::Arguments<'_>) {
        let (smmu, device, stream_id) = (&self.smmu, self.user_name(), self.stream_id());
        report(&Error::msg(format!(
            "{smmu}: {device}, StreamID {stream_id:#x}: {message}"
        )));
    }

    /// Returns the device as users know it.
    fn user_name(&self) -> String {
        let device = self.function().device();
        // none while it is being unplugged
        device.map_or_else(|| "a device".to_owned(), |device| device.type_and_id())
    }

    /// Prepares for an attachment by the guest's state that is being loaded: nothing of a quarantine
    /// or of stage 1 is left. The device behind a destination has an empty ATC.
    pub fn begin_load(&mut self, viommu: &Viommu) {
        self.loading = Some(None);
        self.clear_quarantine();
        if self.may_use_stage1() {
            // a reset that came first has attached it to bypass, unless the host has refused that
            self.abort(viommu);
        }
    }

    /// Ends [`Self::begin_load`].
    ///
    /// # Errors
    ///
    /// The host has refused to attach the device as the state says. It is attached to abort.
    pub fn end_load(&mut self) -> Result<()> {
        match self.loading.take().flatten() {
            None => Ok(()),
            Some(refusal) => Err(Error::msg(format!(
                "{}: cannot load this state: the host refuses the translation of {}, StreamID {:#x}: {refusal}",
                self.smmu,
                self.user_name(),
                self.stream_id()
            ))),
        }
    }

    /// Notes a refusal while the guest's state is loaded. Returns false at any other time.
    fn note_refusal(&mut self, failure: &HostFailure) -> bool {
        let Some(refusal) = &mut self.loading else {
            return false;
        };
        refusal.get_or_insert_with(|| failure.to_string());
        true
    }

    /// Returns the state of the device that users see.
    pub fn status(&self) -> StreamStatus {
        let (translation, ste) = match &self.attachment {
            Attachment::Stage2 => ("stage2", None),
            Attachment::Inherited => ("inherited", None),
            Attachment::Blocked => ("blocked", None),
            Attachment::Abort => ("abort", None),
            Attachment::Bypass => ("bypass", None),
            Attachment::Stage1 { ste, .. } => ("stage1", Some(*ste)),
        };
        let stream_id = self.stream_id();
        StreamStatus {
            stream_id,
            device: self.path(),
            host_device_id: self.device.id(),
            translation,
            ste,
            is_quarantined: self.is_quarantined(),
            has_vdevice: self.has_vdevice(stream_id),
        }
    }

    /// Quarantines the device, for as long as `how` says.
    pub fn quarantine(&mut self, viommu: &Viommu, how: Quarantine) {
        if !self.is_quarantined() {
            count(&mut self.counters.quarantines);
        }
        if self.quarantine != Quarantine::Held {
            self.quarantine = how;
        }
        let begun = Instant::now();
        self.abort(viommu);
        let is_exposed = self.is_exposed();
        if self.quarantine == Quarantine::Brief || is_exposed {
            self.backoff = Some(Backoff::after(self.backoff, begun).urgent(is_exposed));
        }
    }

    /// Clears the quarantine, because the guest configures the stream, enables or disables the
    /// SMMU, or the system is reset.
    pub fn clear_quarantine(&mut self) {
        self.quarantine = Quarantine::None;
    }

    /// Drops the vDEVICE if its `StreamID` is no longer the device's: the guest has
    /// renumbered its buses, and another device may have it now. Returns whether the device
    /// is attached by the STE of another `StreamID` than it has.
    pub fn drop_stale_vdevice(&mut self) -> bool {
        let stream_id = self.stream_id();
        self.vdevice = self
            .vdevice
            .take()
            .filter(|vdevice| vdevice.stream_id == stream_id);
        self.attached_sid
            .is_some_and(|decided| decided != stream_id)
    }

    /// Returns whether the device's transactions are aborted regardless of the guest's tables.
    pub const fn is_quarantined(&self) -> bool {
        !matches!(self.quarantine, Quarantine::None)
    }

    /// Returns whether the device may be translated by stage 1.
    pub const fn may_use_stage1(&self) -> bool {
        matches!(self.attachment, Attachment::Stage1 { .. })
    }

    /// Returns whether the device is attached to an HWPT although it was to be blocked.
    const fn is_exposed(&self) -> bool {
        !matches!(self.attachment, Attachment::Abort | Attachment::Blocked)
    }

    /// Returns the delay of the next attempt to attach the device as wanted, if the
    /// attempts so far have failed and another one follows.
    pub const fn backoff(&self) -> Option<&Backoff> {
        self.backoff.as_ref()
    }

    /// Drops the vDEVICE and the `StreamID`, because the guest is about to renumber its buses.
    pub fn drop_stream_id(&mut self) {
        self.vdevice = None;
        self.attached_sid = None;
    }

    /// Binds a vDEVICE for the device's `StreamID` before the device is attached
    /// to anything but stage 1: without it the host reports no events of the device.
    ///
    /// # Errors
    ///
    /// A failure, which was reported.
    pub fn bind_vdevice(&mut self, viommu: &Viommu) -> std::result::Result<(), HostFailure> {
        match self.ensure_vdevice(viommu) {
            Ok(()) => {
                self.binding.success();
                Ok(())
            }
            Err(failure) => {
                if !self.note_refusal(&failure) && self.binding.failure() {
                    self.report(format_args!(
                        "{failure}; the host will not report its faults"
                    ));
                }
                Err(failure)
            }
        }
    }

    /// Attaches the device as `config`, the configuration of `stream_id`, says. If the
    /// host refuses, the device is attached to abort: it never keeps its previous
    /// attachment. After a transient failure there is a [`retry`](Self::retry).
    ///
    /// Returns whether stage 1 now translates.
    pub fn apply(
        &mut self,
        viommu: &mut Viommu,
        stream_id: u32,
        config: &StreamConfig,
        wants_vdevice: bool,
    ) -> bool {
        self.attached_sid = Some(stream_id);
        self.wanted = *config;
        self.wants_vdevice = wants_vdevice;
        self.backoff = None;
        self.attach_wanted(viommu)
    }

    /// Attaches the device to abort until no other device has its `StreamID`: a vIOMMU
    /// has one vDEVICE for each.
    pub fn wait_for_stream_id(&mut self, viommu: &Viommu) {
        self.attached_sid = None;
        self.is_waiting = true;
        self.wanted = StreamConfig::Abort;
        self.wants_vdevice = false;
        let begun = Instant::now();
        self.abort(viommu);
        self.backoff = self
            .is_exposed()
            .then(|| Backoff::after(self.backoff, begun).urgent(true));
    }

    /// Notes whether the device has the `StreamID` of another one.
    pub fn set_waiting(&mut self, is_waiting: bool) {
        self.is_waiting = is_waiting;
    }

    /// Returns whether the device waits until no other one has its `StreamID`.
    pub const fn waits_for_stream_id(&self) -> bool {
        self.is_waiting
    }

    /// Retries the last attachment that the guest wanted and the host refused.
    pub fn retry(&mut self, viommu: &mut Viommu) {
        if self.quarantine == Quarantine::Brief {
            self.quarantine = Quarantine::None;
        }
        self.attach_wanted(viommu);
    }

    fn attach_wanted(&mut self, viommu: &mut Viommu) -> bool {
        let begun = Instant::now();
        let (mut is_transient, mut is_exposed) = (false, false);
        if self.wants_vdevice {
            let bound = self.bind_vdevice(viommu);
            is_transient |= bound.is_err_and(|failure| failure.is_transient());
        }
        let result = match self.wanted {
            _ if self.is_quarantined() => self.attach_abort(viommu).map(|()| false),
            // a guest with assigned devices has no stage 2: such entries are ILLEGAL
            StreamConfig::Abort
            | StreamConfig::Bad(_)
            | StreamConfig::Stage2(_)
            | StreamConfig::Nested { .. } => self.attach_abort(viommu).map(|()| false),
            StreamConfig::Bypass => self.bypass(viommu).map(|()| false),
            StreamConfig::Stage1 { ste } => self.stage1(viommu, ste).map(|()| true),
        };
        let translates = match result {
            Ok(translates) => {
                self.attaching.success();
                translates
            }
            Err(failure) => {
                count(&mut self.counters.refused);
                is_transient |= failure.is_transient();
                self.report_attach_error(&failure);
                self.abort(viommu);
                // a device that could be neither aborted nor blocked is retried without end
                is_exposed = self.is_exposed();
                false
            }
        };
        self.backoff = (is_transient || is_exposed)
            .then(|| Backoff::after(self.backoff, begun).urgent(is_exposed));
        translates
    }

    /// Attaches a device that is being plugged, as [`apply`](Self::apply) does. A refusal
    /// leaves the device blocked, and the caller reports it. Without a vDEVICE the device works,
    /// but its faults are not reported; after a transient failure there is a
    /// [`retry`](Self::retry) for it.
    pub fn attach_initial(
        &mut self,
        viommu: &mut Viommu,
        stream_id: u32,
        config: &StreamConfig,
        wants_vdevice: bool,
    ) -> Result<()> {
        self.attached_sid = Some(stream_id);
        self.wanted = *config;
        self.wants_vdevice = wants_vdevice;
        let begun = Instant::now();
        let is_transient = wants_vdevice
            && self
                .bind_vdevice(viommu)
                .is_err_and(|failure| failure.is_transient());
        viommu.permit_attempt();
        let result = match config {
            StreamConfig::Abort
            | StreamConfig::Bad(_)
            | StreamConfig::Stage2(_)
            | StreamConfig::Nested { .. } => self.attach_abort(viommu),
            StreamConfig::Bypass => self.bypass(viommu),
            StreamConfig::Stage1 { ste } => self.stage1(viommu, *ste),
        };
        if result.is_err() {
            count(&mut self.counters.refused);
            self.block();
        } else if is_transient {
            self.backoff = Some(Backoff::after(None, begun));
        }
        Ok(result?)
    }

    /// Detaches the device from its HWPT so that the host blocks all its DMA.
    pub fn block(&mut self) {
        if let Err(failure) = self.device.detach() {
            // the HWPT cannot be destroyed while the device uses it, but the guest
            // chose it: the device has no more access than before
            if self.blocking.failure() {
                self.report(format_args!(
                    "the host does not block the device: {failure}"
                ));
            }
            return;
        }
        self.blocking.success();
        count(&mut self.counters.blocked);
        self.attachment = Attachment::Blocked;
    }

    fn abort(&mut self, viommu: &Viommu) {
        if let Err(failure) = self.attach_abort(viommu) {
            count(&mut self.counters.refused);
            self.report_attach_error(&failure);
            self.block();
        }
    }

    fn attach_abort(&mut self, viommu: &Viommu) -> std::result::Result<(), HostFailure> {
        if matches!(self.attachment, Attachment::Abort) {
            count(&mut self.counters.unchanged);
        } else {
            self.device.attach(viommu.abort.id())?;
            self.attachment = Attachment::Abort;
            count(&mut self.counters.abort);
        }
        self.trace(c"abort", viommu.abort.id());
        Ok(())
    }

    fn bypass(&mut self, viommu: &Viommu) -> std::result::Result<(), HostFailure> {
        if matches!(self.attachment, Attachment::Bypass) {
            count(&mut self.counters.unchanged);
        } else {
            self.device.attach(viommu.bypass.id())?;
            self.attachment = Attachment::Bypass;
            count(&mut self.counters.bypass);
        }
        self.trace(c"bypass", viommu.bypass.id());
        Ok(())
    }

    /// Attaches the device to stage 1. One stage 1 replaces another in a single step,
    /// without abort in between: some devices do not recover from an abort.
    fn stage1(
        &mut self,
        viommu: &mut Viommu,
        ste: [u64; 2],
    ) -> std::result::Result<(), HostFailure> {
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
                count(&mut self.counters.unchanged);
                return Ok(());
            }
        }
        viommu.invalidate_stale()?;
        let object = self
            .device
            .allocate_nested(&viommu.object, &hwpt_data(ste))?;
        count(&mut self.counters.hwpts);
        self.device.attach(object.id())?;
        count(&mut self.counters.stage1);
        trace::trace_smmuv3_accel_translate_ste(stream_id, object.id(), ste[1], ste[0]);
        self.trace(c"translate", object.id());
        // drops the HWPT that was attached before
        self.attachment = Attachment::Stage1 {
            object,
            ste,
            stream_id,
        };
        Ok(())
    }

    /// Binds a vDEVICE for the device's present `StreamID`, unless there is one.
    fn ensure_vdevice(&mut self, viommu: &Viommu) -> std::result::Result<(), HostFailure> {
        let stream_id = self.stream_id();
        if self.has_vdevice(stream_id) {
            return Ok(());
        }
        self.vdevice = None;
        let object = self
            .device
            .allocate_vdevice(&viommu.object, stream_id.into())?;
        count(&mut self.counters.vdevices);
        self.vdevice = Some(Vdevice { stream_id, object });
        Ok(())
    }

    fn report_attach_error(&mut self, failure: &HostFailure) {
        if !self.note_refusal(failure) && self.attaching.failure() {
            self.report(format_args!("{failure}; its transactions are aborted"));
        }
    }

    fn trace(&self, kind: &std::ffi::CStr, id: u32) {
        trace::trace_smmuv3_accel_install_ste(self.stream_id(), kind, id);
    }
}
