// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Assigned devices behind the SMMU: the host's SMMU walks the guest's stage 1.
//!
//! The invariant: at every moment, an assigned device is translated as the guest's registers and
//! Stream table say, or it is aborted. So every change of their meaning (CR0.SMMUEN, GBPA,
//! configuration commands, reset, hot-plug) ends in [`Accel::reattach_all`] or a function for
//! some of the devices, and an attachment that the host refuses is replaced by abort.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

use bql::BqlRefCell;
use qemu_ext::{
    error::report,
    iommufd::{HostDevice, HostObject, IommufdBackend},
    object::ObjectExt,
    pci::{OwnedPciFunction, PciFunction},
    runstate::is_machine_ready,
    timer::TimerExt,
};
use qom::prelude::*;
use smmuv3::{
    batch::FlushPolicy, cmdqv::SIDS, event::Event, features::Features, ste::StreamConfig,
    stream_table, translation::BadConfig,
};
use util::{
    ensure,
    timer::{Timer, CLOCK_REALTIME},
    Error, Result,
};

use crate::{
    eventq::PendingEvent, memory::GuestRam, properties::SmmuProperties, state::GuestState,
};

mod backoff;
pub mod cmdq;
mod counters;
mod handover;
mod host_caps;
mod migration;
mod rate_limit;
mod saved;
mod stage2;
mod stream;
mod target;
mod veventq;
mod vintf;
mod viommu;

use backoff::Backoff;
pub use counters::{AttachCounters, StreamStatus};
use handover::EventsAtStart;
use host_caps::{HostInfo, When};
pub use rate_limit::ErrorRateLimit;
pub use saved::{SavedAccel, SavedFeatures};
use stream::Stream;
use target::Target;
use veventq::Drained;
pub use veventq::{Received, VcmdqErrors, VeventQ};
pub use vintf::{probe as probe_cmdqv, Vintf, VintfRequest};
use viommu::Leftover;
pub use viommu::Viommu;

::trace::include_trace!("hw_arm");

/// The assigned devices behind one SMMU.
pub struct Accel {
    /// The way of the guest's commands to the vIOMMU, without the Big QEMU Lock
    target: Arc<Target>,
    /// None before the SMMU is realized, and none with accel=off
    devices: BqlRefCell<Option<Devices>>,
    /// Retries attachments that the host has refused for now
    pub retry: Timer,
    /// The machine has stopped: nothing that the guest can see may happen. Atomic for the same reason
    /// as the next field.
    is_stopped: AtomicBool,
    /// [`Self::begin_commands`] has something to do. Atomic, because that costs a doorbell less
    /// than a check that the BQL is held.
    is_pending: AtomicBool,
}

/// The guest's SMMU, as users know it.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its ID, or its path if it has none: the beginning of each message
    pub name: Arc<str>,
    /// Its path in QOM
    pub path: String,
}

/// The devices, and what they have in common.
#[derive(Debug)]
struct Devices {
    owner: Owner,
    properties: SmmuProperties,
    /// The `auto` properties have the values of the first host
    resolved: bool,
    /// Dropped before the vIOMMU, whose children its members are
    streams: Vec<Stream>,
    /// Open while there is a vIOMMU and the guest's Event queue is enabled
    veventq: Option<VeventQ>,
    /// A closed vEVENTQ that the host has not destroyed
    busy_veventq: Option<HostObject>,
    /// A failure to open one was reported: once, because the guest can cause any number
    veventq_reported: bool,
    /// The next attempt to destroy [`Self::busy_veventq`], if a vEVENTQ is wanted
    veventq_backoff: Option<Backoff>,
    /// Another QEMU may have the devices: none of them is touched before the machine starts
    is_parked: bool,
    /// The system was reset while they were parked
    has_missed_reset: bool,
    /// What has to be done about events then
    at_start: EventsAtStart,
    /// The guest's state was loaded, and the machine has not started since
    is_loaded: bool,
    /// Allocated as long as there is a stream
    viommu: Option<Viommu>,
    /// Earlier ones that the host has not destroyed
    leftovers: Vec<Leftover>,
    /// Counters of vEVENTQs, and of devices and vIOMMUs that are gone
    counters: AttachCounters,
}

impl Devices {
    fn new(owner: Owner, properties: SmmuProperties) -> Self {
        Self {
            owner,
            properties,
            resolved: false,
            streams: Vec::new(),
            veventq: None,
            busy_veventq: None,
            veventq_reported: false,
            veventq_backoff: None,
            is_parked: false,
            has_missed_reset: false,
            at_start: EventsAtStart::Keep,
            is_loaded: false,
            viommu: None,
            leftovers: Vec::new(),
            counters: AttachCounters::default(),
        }
    }

    /// Returns the streams, and the vIOMMU that they are nested in, unless they are parked.
    fn parts(&mut self) -> Option<(&mut [Stream], &mut Viommu)> {
        if self.is_parked {
            return None;
        }
        let viommu = self.viommu.as_mut()?;
        Some((&mut self.streams, viommu))
    }

    /// Closes the vEVENTQ.
    fn close_veventq(&mut self) {
        if let Some(veventq) = self.veventq.take() {
            self.busy_veventq = veventq.close();
        }
    }

    /// Destroys an earlier vEVENTQ, because a vIOMMU has one of a type. Returns false if the host
    /// does not: while QEMU is updated, another process has its file open.
    fn destroy_busy_veventq(&mut self) -> bool {
        let Some(object) = self.busy_veventq.take() else {
            return true;
        };
        let begun = Instant::now();
        let Err(object) = object.try_destroy() else {
            self.veventq_backoff = None;
            return true;
        };
        self.busy_veventq = Some(object);
        self.veventq_backoff = Some(Backoff::after(self.veventq_backoff, begun).urgent(true));
        if !std::mem::replace(&mut self.veventq_reported, true) {
            report(&Error::msg(format!(
                "{}: the guest sees no fault events until another process closes the vEVENTQ that they were in",
                self.owner.name
            )));
        }
        false
    }

    fn report_no_events(&self, error: &Error) {
        report(&Error::msg(format!(
            "{}: the host reports no more fault events to the guest: {error}",
            self.owner.name
        )));
    }

    fn position(&self, function: PciFunction<'_>) -> Option<usize> {
        self.streams
            .iter()
            .position(|stream| stream.function() == function)
    }
}

impl Accel {
    /// Returns the component of an SMMU that is not realized. `retry` must call
    /// [`Self::retry_due`].
    pub fn new(retry: Timer) -> Self {
        Self {
            target: Arc::default(),
            devices: BqlRefCell::new(None),
            retry,
            is_stopped: AtomicBool::new(false),
            is_pending: AtomicBool::new(false),
        }
    }

    /// Enables assigned devices behind the SMMU `owner`.
    pub fn enable(&self, owner: Owner, properties: SmmuProperties) {
        *self.devices.borrow_mut() = Some(Devices::new(owner, properties));
    }

    /// Returns whether the `auto` properties are resolved.
    pub fn is_resolved(&self) -> bool {
        let devices = self.devices.borrow();
        devices.as_ref().is_some_and(|devices| devices.resolved)
    }

    /// Returns the sums of all counters.
    pub fn counters(&self) -> AttachCounters {
        let devices = self.devices.borrow();
        let Some(devices) = devices.as_ref() else {
            return AttachCounters::default();
        };
        let streams = devices.streams.iter().map(|stream| &stream.counters);
        let viommu = devices.viommu.iter().map(|viommu| &viommu.counters);
        streams
            .chain(viommu)
            .fold(devices.counters, AttachCounters::plus)
    }

    /// Returns the state of each device that users see, ordered by `StreamID`.
    pub fn status(&self) -> Vec<StreamStatus> {
        let devices = self.devices.borrow();
        let streams = devices.iter().flat_map(|devices| &devices.streams);
        let mut status: Vec<_> = streams.map(Stream::status).collect();
        status.sort_by_key(|stream| stream.stream_id);
        status
    }

    /// Calls `function` with the streams and their vIOMMU, if there are any.
    #[inline]
    fn with_parts<R>(&self, function: impl FnOnce(&mut [Stream], &mut Viommu) -> R) -> Option<R> {
        let mut devices = self.devices.borrow_mut();
        let (streams, viommu) = devices.as_mut().and_then(Devices::parts)?;
        Some(function(streams, viommu))
    }

    /// Calls `function` with the vIOMMU, if there is one.
    pub fn with_viommu<R>(&self, function: impl FnOnce(Option<&mut Viommu>) -> R) -> R {
        let mut devices = self.devices.borrow_mut();
        function(devices.as_mut().and_then(|devices| devices.viommu.as_mut()))
    }

    /// Attaches a device that VFIO has bound to iommufd and that is plugged in behind the SMMU.
    ///
    /// `vintf` is the request for CMDQ virtualization, if it is wanted.
    ///
    /// Returns what is new if it is the first device; then a vEVENTQ can be opened.
    pub fn plug(
        &self,
        state: &GuestState,
        function: PciFunction<'_>,
        device: Owned<HostDevice>,
        vintf: Option<&VintfRequest<'_>>,
    ) -> Result<Option<NewHost>> {
        let (owner, properties, resolved) = {
            let devices = self.devices.borrow();
            let Some(devices) = devices.as_ref() else {
                return Ok(None);
            };
            let is_handed_over =
                devices.is_parked || devices.streams.iter().any(Stream::is_inherited);
            ensure!(
                !is_handed_over || (handover::is_incoming() && !devices.is_parked),
                "arm-smmuv3 '{}' takes part in a live update of QEMU: plug the device in when that has ended and \
                 the guest runs",
                devices.owner.name
            );
            if let Some(position) = devices.position(function) {
                let known = devices
                    .streams
                    .get(position)
                    .is_some_and(|stream| stream.device().id() == device.id());
                ensure!(
                    known,
                    "another device has address {} behind arm-smmuv3 '{}' already: give this one another addr=",
                    function.slot_and_function(),
                    devices.owner.name
                );
                return Ok(None);
            }
            (devices.owner.clone(), devices.properties, devices.resolved)
        };

        let info = HostInfo::of(&device)?;
        let mut features = state.features();
        if !resolved && !is_machine_ready() {
            features = properties.resolve(features, &info.features());
        }
        host_caps::check(&owner.name, &features, &info, When::Plug)?;
        if handover::is_incoming() {
            self.inherit(state, function, device, features);
            return Ok(None);
        }

        let (registers, _) = state.stream_table();
        // The host may still have this StreamID bound to another device's vDEVICE.
        self.attach_streams(state, None, |_| false);
        let stream_id = function.requester_id().into();
        let config = stream_table::evaluate(&registers, &features, &mut GuestRam, stream_id);
        report_bad_ste(state, stream_id, &config);

        let mut cell = self.devices.borrow_mut();
        let Some(devices) = cell.as_mut() else {
            return Ok(None);
        };
        devices.leftovers.retain_mut(|viommu| !viommu.is_released());
        let mut fresh = match &devices.viommu {
            Some(viommu) => {
                ensure!(
                    viommu.vintf.is_none() || devices.streams.len() < SIDS,
                    "arm-smmuv3 '{}' has CMDQ virtualization and can have {SIDS} assigned devices: put this one \
                     behind another arm-smmuv3, or set cmdqv=off",
                    owner.name
                );
                ensure!(
                    viommu.shares_iommufd(&device),
                    "the device uses iommufd '{}', but the others behind arm-smmuv3 '{}' use '{}': \
                     give all of them the same iommufd=ID",
                    id_of(&device.backend()),
                    owner.name,
                    id_of(&viommu.backend)
                );
                if let Some(other) = devices.streams.first() {
                    // Stage 2 is that of the first device, whose I/O address space ends with the last
                    // device that VFIO has put into it: this one would go on without memory.
                    ensure!(
                        device.ioas_id()? == other.device().ioas_id()?,
                        "the host has refused to attach the device to the stage 2 of the others behind arm-smmuv3 '{}', \
                         so VFIO has given it an I/O address space of its own: plug it in again",
                        owner.name
                    );
                }
                None
            }
            None => Some(Viommu::new(&device, &info, &owner, vintf, &self.target)?),
        };
        let new = fresh.as_mut().map(|viommu| NewHost {
            policy: FlushPolicy {
                repeat_tlbi_cfgi: info.repeats_invalidations(),
                eio: viommu.probe_eio_report(),
                defer_remainder: true,
                // a call costs more than the commands in it
                collect_across_sync: true,
                merge_ranges: viommu.granules_to_merge(&features, &info),
                ..FlushPolicy::default()
            },
            vintf_cmdqs: viommu.vintf.as_ref().map(|_| info.features().cmdqs()),
        });

        let mut stream = Stream::new(owner.name, function.to_owned(), device);
        if let Some(viommu) = fresh.as_mut().or(devices.viommu.as_mut()) {
            let wants_vdevice = registers.smmu_enabled;
            // on failure the device is blocked, and a new vIOMMU is dropped with this frame
            if let Err(error) = stream.attach_initial(viommu, stream_id, &config, wants_vdevice) {
                // copied, because the vIOMMU has to outlive the stream
                let fresh = fresh.as_ref().map(|made| made.counters);
                let counters = devices.counters.plus(&stream.counters);
                devices.counters = counters.plus(&fresh.unwrap_or_default());
                return Err(error);
            }
        }

        trace::trace_smmuv3_accel_set_iommu_device(
            i32::from(function.devfn()),
            stream.device().id(),
        );
        devices.streams.push(stream);
        if let Some(viommu) = fresh {
            devices.viommu = Some(viommu);
        }
        if !devices.resolved {
            devices.resolved = true;
            state.lock().features = features;
        }
        drop(cell);
        self.schedule_retry();
        Ok(new)
    }

    /// Notes a device that another QEMU uses, behind an SMMU with these `features`. It stays as
    /// it is until its state is loaded.
    fn inherit(
        &self,
        state: &GuestState,
        function: PciFunction<'_>,
        device: Owned<HostDevice>,
        features: Features,
    ) {
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return;
        };
        let smmu = devices.owner.name.clone();
        let stream = Stream::inherited(smmu, function.to_owned(), device);
        devices.streams.push(stream);
        if !std::mem::replace(&mut devices.resolved, true) {
            state.lock().features = features;
        }
    }

    /// Detaches the device at `function`, which is being unplugged. Calls `withdraw` if the
    /// vIOMMU is about to go with it.
    pub fn unplug(&self, function: PciFunction<'_>, withdraw: impl FnOnce(&mut Viommu)) {
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return;
        };
        let Some(position) = devices.position(function) else {
            return;
        };
        let is_inherited = |stream: &Stream| stream.is_inherited();
        if devices.is_parked || devices.streams.get(position).is_some_and(is_inherited) {
            devices.streams.swap_remove(position).abandon();
            if devices.streams.is_empty() {
                devices.abandon();
            }
            return;
        }
        if let (1, Some(viommu)) = (devices.streams.len(), devices.viommu.as_mut()) {
            withdraw(viommu);
        }
        let mut stream = devices.streams.swap_remove(position);
        stream.block();
        trace::trace_smmuv3_accel_unset_iommu_device(
            i32::from(function.devfn()),
            stream.device().id(),
        );
        devices.counters = devices.counters.plus(&stream.counters);
        drop(stream);
        if devices.streams.is_empty() {
            devices.close_veventq();
            devices.busy_veventq = None;
            if let Some(viommu) = devices.viommu.take() {
                devices.counters = devices.counters.plus(&viommu.counters);
                devices
                    .leftovers
                    .retain_mut(|earlier| !earlier.is_released());
                devices.leftovers.extend(Leftover::of(viommu));
            }
        }
    }

    /// Attaches every device as registers and Stream table say now.
    pub fn reattach_all(&self, state: &GuestState) {
        self.attach_streams(state, None, |_| true);
    }

    /// Attaches the stream `sid` as registers and Stream table say now. Returns whether stage 1
    /// translates it.
    pub fn reattach_stream(&self, state: &GuestState, sid: u32) -> bool {
        self.attach_streams(state, None, |stream_id| stream_id == sid)
    }

    /// Attaches the devices whose `StreamID` has changed as registers and Stream table say now.
    pub fn reattach_renumbered(&self, state: &GuestState) {
        self.attach_streams(state, None, |_| false);
    }

    /// Attaches the stream `sid` as `config` says, and the devices whose `StreamID` has changed as
    /// registers and Stream table say now. Returns whether stage 1 translates the stream.
    pub fn attach_stream(&self, state: &GuestState, sid: u32, config: &StreamConfig) -> bool {
        self.attach_streams(state, Some(config), |stream_id| stream_id == sid)
    }

    /// Attaches the streams that `select` picks by their `StreamID`, and those whose `StreamID` has
    /// changed, as registers and Stream table say now. `known` is the configuration of those
    /// picked, if it is given. Returns whether stage 1 translates one of those picked.
    fn attach_streams(
        &self,
        state: &GuestState,
        known: Option<&StreamConfig>,
        select: impl Fn(u32) -> bool,
    ) -> bool {
        let (registers, features) = state.stream_table();
        let wanted = self.with_parts(|streams, _| {
            // Drop stale vDEVICEs of all streams before binding new ones: two devices may have
            // swapped StreamIDs.
            streams
                .iter_mut()
                .filter_map(|stream| {
                    let renumbered = stream.drop_stale_vdevice() || stream.waits_for_stream_id();
                    let stream_id = stream.stream_id();
                    (renumbered || select(stream_id))
                        .then(|| (stream.function().to_owned(), stream_id))
                })
                .collect::<Vec<(OwnedPciFunction, u32)>>()
        });
        // Nothing is borrowed here, because the guest chooses the addresses of its tables, and a
        // read may lead to a device.
        let configs: Vec<(OwnedPciFunction, u32, StreamConfig)> = wanted
            .into_iter()
            .flatten()
            .map(|(function, stream_id)| {
                let known = known.filter(|_| select(stream_id)).copied();
                let config = known.unwrap_or_else(|| {
                    stream_table::evaluate(&registers, &features, &mut GuestRam, stream_id)
                });
                report_bad_ste(state, stream_id, &config);
                (function, stream_id, config)
            })
            .collect();

        let translates = self.with_parts(|streams, viommu| {
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
                let wants_vdevice = registers.smmu_enabled;
                translates |=
                    stream.apply(viommu, stream_id, &config, wants_vdevice) && is_selected;
                stream.set_waiting(is_taken);
            }
            translates
        });
        if translates.is_some() {
            self.schedule_retry();
        }
        translates.unwrap_or(false)
    }

    /// Retries attachments that the host has refused for now: called by the timer.
    pub fn retry_due(&self) {
        if self.is_stopped() {
            // a start of the machine sets the timer again
            return;
        }
        self.retry_if(|stream, now| {
            let delay = stream.backoff().and_then(|backoff| backoff.delay(now));
            delay == Some(Duration::ZERO)
        });
        // QEMU's clock may run ahead of the one that `delay` uses
        self.schedule_retry();
    }

    /// Returns whether [`Self::begin_commands`] has something to do.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// Prepares for commands of the guest. Retries refused attachments, because the guest may
    /// know that a device has been reset, and wait for it. Returns the events that the host is
    /// known to have: they are recorded before a `CMD_SYNC` completes, not when the main loop
    /// finds the vEVENTQ readable (§4.7.3).
    ///
    /// The host may be about to report other events. A drain for them here would guarantee
    /// nothing, because the host's thread that reports them waits for no command of ours, and
    /// would cost a system call for each doorbell.
    pub fn begin_commands(&self) -> Vec<PendingEvent> {
        self.retry_if(|stream, now| stream.backoff().is_some_and(|backoff| backoff.permits(now)));
        let events = self.drain_by(|veventq| {
            if veventq.has_more() {
                veventq.drain()
            } else {
                Drained::Entries(Vec::new())
            }
        });
        self.note_pending();
        events
    }

    /// Notes whether there is something to do before commands are executed, so that a doorbell
    /// only has to read a flag.
    fn note_pending(&self) {
        let is_pending = self.devices.borrow().as_ref().is_some_and(|devices| {
            devices.veventq.as_ref().is_some_and(VeventQ::has_more)
                || devices
                    .streams
                    .iter()
                    .any(|stream| stream.backoff().is_some())
        });
        self.is_pending.store(is_pending, Ordering::Relaxed);
    }

    fn retry_if(&self, select: impl Fn(&Stream, Instant) -> bool) {
        self.with_parts(|streams, viommu| {
            for stream in streams {
                if stream.backoff().is_some() && select(stream, Instant::now()) {
                    stream.retry(viommu);
                }
            }
        });
    }

    /// Sets the timer for the next attempt to attach a stream, if there is to be one.
    fn schedule_retry(&self) {
        let now = Instant::now();
        let delay = self.devices.borrow().as_ref().and_then(|devices| {
            let backoffs = devices.streams.iter().filter_map(Stream::backoff);
            let backoffs = backoffs.chain(&devices.veventq_backoff);
            backoffs.filter_map(|backoff| backoff.delay(now)).min()
        });
        if let Some(delay) = delay {
            let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
            self.retry.anticipate_in_ns(&CLOCK_REALTIME, delay);
        }
        self.note_pending();
    }

    /// Clears the quarantine of all streams, because the guest enables or disables the SMMU, or
    /// the system is reset.
    pub fn clear_quarantines(&self) {
        self.clear_quarantine_if(|_| true);
    }

    /// Clears the quarantine of the streams that `select` picks by their `StreamID`, because the
    /// guest configures them.
    fn clear_quarantine_if(&self, select: impl Fn(u32) -> bool) {
        if let Some(devices) = self.devices.borrow_mut().as_mut() {
            for stream in &mut devices.streams {
                if select(stream.stream_id()) {
                    stream.clear_quarantine();
                }
            }
        }
    }

    /// Follows a system reset: registers have their reset values again.
    pub fn reset(&self, state: &GuestState) {
        if let Some(devices) = self.devices.borrow_mut().as_mut() {
            if devices.is_parked {
                devices.has_missed_reset = true;
                return;
            }
        }
        self.clear_quarantines();
        self.reattach_all(state);
        if let Some(devices) = self.devices.borrow_mut().as_mut() {
            for stream in &mut devices.streams {
                stream.drop_stream_id();
            }
            devices.leftovers.retain_mut(|viommu| !viommu.is_released());
        }
    }
}

/// The host of the first device behind an SMMU.
#[derive(Clone, Copy, Debug)]
pub struct NewHost {
    /// The policy for batches
    pub policy: FlushPolicy,
    /// The host's `IDR1.CMDQS`, if the vIOMMU has a VINTF
    pub vintf_cmdqs: Option<u8>,
}

impl From<Received<Event>> for PendingEvent {
    fn from(received: Received<Event>) -> Self {
        match received {
            Received::Event(event) => Self::Event(event),
            Received::Lost => Self::Lost,
        }
    }
}

/// Returns the ID that the user has given an iommufd.
fn id_of(backend: &IommufdBackend) -> String {
    backend.path_component().unwrap_or_default()
}

fn report_bad_ste(state: &GuestState, stream_id: u32, config: &StreamConfig) {
    if let StreamConfig::Bad(reason) = config {
        let reason = BadConfig::Ste(*reason);
        state.guest_errors.bad_config(stream_id, reason);
    }
}

/// The vEVENTQ.
impl Accel {
    /// Returns the host's events, because the main loop has found the vEVENTQ readable.
    pub fn drain_ready_veventq(&self) -> Vec<PendingEvent> {
        if self.is_stopped() {
            return Vec::new();
        }
        let events = self.drain_by(VeventQ::drain_ready);
        self.note_pending();
        events
    }

    fn drain_by(&self, drain: impl FnOnce(&mut VeventQ) -> Drained<Event>) -> Vec<PendingEvent> {
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return Vec::new();
        };
        let Some(veventq) = devices.veventq.as_mut() else {
            return Vec::new();
        };
        let entries = match drain(veventq) {
            Drained::Entries(entries) => entries,
            Drained::Dead(entries, error) => {
                devices.report_no_events(&error);
                // otherwise the main loop would call without end
                devices.close_veventq();
                entries
            }
        };
        entries.into_iter().map(PendingEvent::from).collect()
    }

    /// Returns whether an earlier vEVENTQ is to be destroyed now, and another one opened.
    pub fn is_veventq_due(&self) -> bool {
        let devices = self.devices.borrow();
        let backoff = devices.as_ref().and_then(|it| it.veventq_backoff);
        !self.is_stopped()
            && backoff.is_some_and(|it| it.delay(Instant::now()) == Some(Duration::ZERO))
    }

    /// Follows CR0.EVENTQEN, or a new vIOMMU: the host has a queue while the guest's is
    /// enabled. Events that the host has when the guest's is disabled are lost. `open` opens
    /// a queue of a vIOMMU.
    pub fn sync_veventq(
        &self,
        is_enabled: bool,
        open: impl FnOnce(&HostObject) -> Result<VeventQ>,
    ) {
        let mut cell = self.devices.borrow_mut();
        let Some(devices) = cell.as_mut() else {
            return;
        };
        if devices.is_parked {
            // a start of the machine calls this again
            return;
        }
        devices.veventq_backoff = devices.veventq_backoff.filter(|_| is_enabled);
        if !is_enabled {
            devices.close_veventq();
            return;
        }
        if devices.veventq.is_some() {
            return;
        }
        if !devices.destroy_busy_veventq() {
            drop(cell);
            self.schedule_retry();
            return;
        }
        let Some(viommu) = devices.viommu.as_ref() else {
            return;
        };
        match open(&viommu.object) {
            Ok(veventq) => {
                counters::count(&mut devices.counters.veventqs);
                if self.is_stopped() {
                    // otherwise an event that is not read yet would keep the main loop busy
                    veventq.pause();
                }
                devices.veventq = Some(veventq.kept_for(&devices.owner.path));
            }
            Err(_) if devices.veventq_reported => {}
            Err(error) => {
                devices.veventq_reported = true;
                report(&Error::msg(format!(
                    "{}: the guest will see no fault events, for which the host needs Linux 6.15 or newer: {error}",
                    devices.owner.name
                )));
            }
        }
    }
}
