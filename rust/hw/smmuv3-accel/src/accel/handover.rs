// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update of QEMU: assigned devices pass from one QEMU to another, with their nested
//! translation, while their DMA goes on.
//!
//! Objects of iommufd belong to its file, which both QEMUs have. So the new one adopts them by
//! their IDs, all or none, and calls the host for none of them: nothing can be refused, and no
//! device sees a change. There are three rules:
//!
//! * Until it has adopted them, the new QEMU has no vIOMMU, so that no reset, register or plugging
//!   of a device leads to the host.
//! * From the moment at which the state is saved until the machine starts again, devices are
//!   parked, in both QEMUs: whichever of them starts goes on with them, and the other one ends
//!   without having touched them.
//! * Once the machine has stopped, no event is read from the host, because the interrupt
//!   controller may be saved already. The events are read by the QEMU that starts.

use std::{
    collections::HashSet,
    sync::{atomic::Ordering, Arc},
};

use qemu_ext::{cpr, event_file::EventFile, iommufd::HostObject};
use smmuv3::{
    batch::{EioReport, FlushPolicy, Granules},
    features::Features,
};
use util::{ensure, Error, Result};

use super::{
    host_caps::HostInfo,
    saved::{SavedAccel, MAX_STREAMS},
    target::Target,
    veventq::{self, VeventQ},
    viommu::AdoptError,
    Accel, Devices, Stream, Viommu,
};
use crate::{eventq::PendingEvent, state::GuestState};

/// Most drains of the vEVENTQ when the machine stops: each reads a part of what the host keeps.
/// What is left is read when the machine starts.
const MAX_DRAINS: usize = 4;

/// What has to be done about events when the machine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventsAtStart {
    /// Nothing
    Keep,
    /// Report that events were lost: their file has not come with the others
    Lost,
    /// Drop what the vEVENTQ has, and report that: the guest has disabled its queue since
    Discard,
}

/// The result of a start of the machine.
#[derive(Debug)]
pub struct Resumed {
    /// Events to be recorded
    pub events: Vec<PendingEvent>,
    /// The system was reset while the devices were parked: they are to be reset now
    pub was_reset: bool,
}

/// Returns the difference of ID registers, as users know it.
fn difference(before: &Features, now: &Features) -> Option<String> {
    let on_off = |is_on: bool| if is_on { "on" } else { "off" }.to_owned();
    let shown = |it: &Features| {
        [
            ("ats", on_off(it.ats())),
            ("ril", on_off(it.ril())),
            ("msi", on_off(it.msi())),
            ("cd2l", on_off(it.cd2l())),
            ("vax", on_off(it.vax() > 0)),
            ("oas", it.oas_bits().to_string()),
            ("ssidsize", it.ssidsize().to_string()),
        ]
    };
    let pairs = shown(before).into_iter().zip(shown(now));
    for ((property, was), (_, is)) in pairs {
        if was != is {
            return Some(format!("{property} was {was} and is {is}"));
        }
    }
    for (number, (was, is)) in before.idr.iter().zip(&now.idr).enumerate() {
        if was != is {
            return Some(format!("IDR{number} was {was:#x} and is {is:#x}"));
        }
    }
    let has_others = (before.iidr, before.aidr) != (now.iidr, now.aidr);
    has_others.then(|| "IIDR or AIDR has changed".to_owned())
}

fn damaged(field: &str) -> Error {
    Error::msg(format!(
        "the state of its assigned devices is damaged: {field}"
    ))
}

impl SavedAccel {
    /// Returns the ID registers that the guest has read.
    const fn features(&self) -> Features {
        Features {
            idr: self.idr,
            iidr: self.iidr,
            aidr: self.aidr,
        }
    }

    /// Returns the first field with a value that is never saved.
    fn damage(&self) -> Option<&'static str> {
        let shared = [
            ("viommu_id", self.viommu_id),
            ("abort_id", self.abort_id),
            ("bypass_id", self.bypass_id),
            ("stage2_id", self.stage2_id),
        ];
        // all or none; a vIOMMU has devices, and devices have one
        let has_devices = !self.streams().is_empty();
        if let Some((field, _)) = shared.into_iter().find(|(_, id)| (*id != 0) != has_devices) {
            return Some(field);
        }
        if !has_devices && (self.veventq_id, self.busy_veventq_id) != (0, 0) {
            return Some("veventq_id");
        }
        if let Some(field) = self.streams().iter().find_map(Stream::damage) {
            return Some(field);
        }
        // Each number is that of one object, which is destroyed once.
        let mut known = HashSet::new();
        let of_streams = self
            .streams()
            .iter()
            .flat_map(|stream| [stream.device_id, stream.vdevice_id, stream.hwpt_id]);
        let all = shared
            .map(|(_, id)| id)
            .into_iter()
            .chain([self.veventq_id, self.busy_veventq_id])
            .chain(of_streams);
        let mut is_repeated = |id: u32| id != 0 && !known.insert(id);
        all.into_iter().any(&mut is_repeated).then_some("object ID")
    }
}

impl Devices {
    /// Returns the state for another QEMU, which may adopt the devices from now on.
    fn park(&mut self, saved: &mut SavedAccel) -> Result<()> {
        ensure!(
            self.streams.len() <= MAX_STREAMS,
            "arm-smmuv3 '{}' has {} assigned devices, and a live update takes {MAX_STREAMS}",
            self.owner.name,
            self.streams.len()
        );
        for (stream, place) in self.streams.iter().zip(&mut saved.streams) {
            *place = stream.save();
            saved.stream_count += 1;
        }
        if let Some(viommu) = &self.viommu {
            viommu.save(saved);
        }
        if let Some(veventq) = &self.veventq {
            saved.veventq_id = veventq.id();
            saved.has_sequence = veventq.expected().is_some();
            saved.sequence = veventq.expected().unwrap_or(0);
        }
        saved.busy_veventq_id = self.busy_veventq.as_ref().map_or(0, HostObject::id);
        self.is_parked = true;
        Ok(())
    }

    /// Checks that the devices of another QEMU are those of this one.
    fn match_streams(&self, saved: &SavedAccel) -> Result<()> {
        let (there, here) = (saved.streams().len(), self.streams.len());
        ensure!(
            there == here,
            "the other QEMU has {} assigned devices behind it, this one {}: start this one with the same devices",
            there,
            here
        );
        let backend = self.streams.first().map(|it| it.device().backend_address());
        for stream in &self.streams {
            let device = stream.device();
            let (id, stream_id) = (device.id(), stream.stream_id());
            ensure!(
                saved
                    .streams()
                    .iter()
                    .any(|it| (it.device_id, it.stream_id) == (id, stream_id)),
                "the other QEMU has no assigned device {} with StreamID {:#x}: start this one with the same \
                 addresses of devices",
                id,
                stream_id
            );
            ensure!(
                Some(device.backend_address()) == backend,
                "its assigned devices use different iommufd objects here: give all of them the same iommufd=ID"
            );
        }
        Ok(())
    }

    /// Adopts all objects of another QEMU, or none.
    fn adopt(
        &mut self,
        saved: &SavedAccel,
        target: &Arc<Target>,
        open: impl FnOnce(HostObject, EventFile, Option<u32>) -> Result<VeventQ>,
    ) -> Result<Option<FlushPolicy>> {
        if let Some(field) = saved.damage() {
            return Err(damaged(field));
        }
        self.match_streams(saved)?;
        let Some(first) = self.streams.first() else {
            return Ok(None);
        };
        let info = HostInfo::of(first.device())?;
        let of_vfio = |stream: &&Stream| stream.device().stage2_id() == saved.stage2_id;
        let with_stage2 = self.streams.iter().find(of_vfio);
        let device = with_stage2.unwrap_or(first).device();
        if with_stage2.is_some() != saved.is_stage2_vfios {
            return Err(damaged("stage2_id"));
        }
        let viommu =
            Viommu::adopt(device, &info, &self.owner, saved, target).map_err(|error| match error {
                AdoptError::OfAnother(other) => Error::msg(format!(
                    "the stage 2 of its assigned devices is that of '{other}' here: put the same devices behind \
                     each arm-smmuv3"
                )),
                AdoptError::Failed(error) => error,
            })?;
        let backend = viommu.backend.clone();
        let events_id = if saved.veventq_id == 0 {
            saved.busy_veventq_id
        } else {
            saved.veventq_id
        };
        let key = veventq::file_key(&self.owner.path, events_id).filter(|_| events_id != 0);
        match key.and_then(EventFile::inherited) {
            Some(file) => {
                let expected = saved.has_sequence.then_some(saved.sequence);
                match open(
                    HostObject::adopt(backend.clone(), events_id),
                    file,
                    expected,
                ) {
                    Ok(veventq) => self.veventq = Some(veventq),
                    Err(error) => {
                        viommu.abandon();
                        return Err(error);
                    }
                }
                if saved.veventq_id == 0 {
                    self.at_start = EventsAtStart::Discard;
                }
            }
            None if events_id != 0 => {
                // The guest had it opened after the files had gone over. It is the other QEMU's
                // until that ends.
                self.busy_veventq = Some(HostObject::adopt(backend.clone(), events_id));
                if saved.veventq_id != 0 {
                    self.at_start = EventsAtStart::Lost;
                }
            }
            None => {}
        }
        if saved.veventq_id != 0 && saved.busy_veventq_id != 0 {
            self.busy_veventq
                .get_or_insert_with(|| HostObject::adopt(backend, saved.busy_veventq_id));
        }
        for stream in &mut self.streams {
            let device_id = stream.device().id();
            let mut all = saved.streams().iter();
            if let Some(of_stream) = all.find(|it| it.device_id == device_id) {
                stream.adopt(of_stream);
            }
        }
        self.viommu = Some(viommu);
        Ok(Some(FlushPolicy {
            repeat_tlbi_cfgi: info.repeats_invalidations(),
            eio: if saved.points_at_offender {
                EioReport::Offender
            } else {
                EioReport::BlockStart
            },
            defer_remainder: true,
            collect_across_sync: true,
            merge_ranges: saved.merges_ranges.then(|| Granules::of(&saved.features())),
            ..FlushPolicy::default()
        }))
    }

    /// Gives up all devices without calling the host, because another QEMU has them.
    pub(super) fn abandon(&mut self) {
        if let Some(veventq) = self.veventq.take() {
            veventq.abandon();
        }
        if let Some(object) = self.busy_veventq.take() {
            object.abandon();
        }
        if let Some(viommu) = self.viommu.take() {
            viommu.abandon();
        }
    }
}

impl Accel {
    /// Follows a stop of the machine. Returns the events that are recorded before its state is
    /// saved.
    pub fn stop(&self) -> Vec<PendingEvent> {
        let mut events = Vec::new();
        for _ in 0..MAX_DRAINS {
            events.extend(self.drain_by(VeventQ::drain));
            if !self.has_more_events() {
                break;
            }
        }
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(devices) = self.devices.borrow().as_ref() {
            if let Some(veventq) = &devices.veventq {
                veventq.pause();
            }
        }
        events
    }

    fn has_more_events(&self) -> bool {
        let devices = self.devices.borrow();
        let veventq = devices.as_ref().and_then(|it| it.veventq.as_ref());
        veventq.is_some_and(VeventQ::has_more)
    }

    /// Returns whether the machine has stopped, so that nothing that the guest can see may happen.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Follows a start of the machine, also that of one whose state has been saved or loaded: the
    /// devices are this QEMU's.
    pub fn start(&self) -> Resumed {
        self.is_stopped.store(false, Ordering::Relaxed);
        let mut resumed = Resumed {
            events: Vec::new(),
            was_reset: false,
        };
        let at_start = {
            let mut devices = self.devices.borrow_mut();
            let Some(devices) = devices.as_mut() else {
                return resumed;
            };
            devices.is_parked = false;
            resumed.was_reset = std::mem::take(&mut devices.has_missed_reset);
            if let Some(veventq) = &devices.veventq {
                if let Err(error) = veventq.resume() {
                    devices.report_no_events(&error);
                    devices.close_veventq();
                }
            }
            std::mem::replace(&mut devices.at_start, EventsAtStart::Keep)
        };
        if at_start == EventsAtStart::Discard {
            for _ in 0..MAX_DRAINS {
                self.drain_by(VeventQ::drain);
                if !self.has_more_events() {
                    break;
                }
            }
        }
        if at_start != EventsAtStart::Keep {
            resumed.events.push(PendingEvent::Lost);
        }
        self.schedule_retry();
        resumed
    }

    /// Returns the state for another QEMU, which may adopt the devices from now on, and this one
    /// does not touch them before the machine starts again.
    pub fn save(&self, state: &GuestState, policy: &FlushPolicy) -> Result<SavedAccel> {
        let features = state.features();
        let mut saved = SavedAccel {
            is_present: true,
            idr: features.idr,
            iidr: features.iidr,
            aidr: features.aidr,
            points_at_offender: policy.eio == EioReport::Offender,
            merges_ranges: policy.merge_ranges.is_some(),
            ..SavedAccel::default()
        };
        if let Some(devices) = self.devices.borrow_mut().as_mut() {
            devices.park(&mut saved)?;
        }
        Ok(saved)
    }

    /// Checks that the guest of another QEMU sees the ID registers here that it has seen there.
    pub fn adopt_features(&self, state: &GuestState, saved: &SavedAccel) -> Result<()> {
        ensure!(
            saved.is_present,
            "the other QEMU has sent no state of assigned devices: both must have arm-smmuv3 with accel=on and live update"
        );
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return Ok(());
        };
        let before = saved.features();
        let mut now = state.features();
        if !devices.resolved {
            now = devices.properties.resolve(now, &before);
        }
        if let Some(difference) = difference(&before, &now) {
            return Err(Error::msg(format!(
                "the guest has seen other features: {difference}; give arm-smmuv3 the properties that it had"
            )));
        }
        devices.resolved = true;
        state.lock().features = before;
        Ok(())
    }

    /// Takes over the devices of another QEMU, all of them or none. The host is not called. `open`
    /// has a vEVENTQ watched. Returns the policy for commands, if there are devices.
    ///
    /// The devices are parked until the machine starts.
    pub fn adopt(
        &self,
        saved: &SavedAccel,
        open: impl FnOnce(HostObject, EventFile, Option<u32>) -> Result<VeventQ>,
    ) -> Result<Option<FlushPolicy>> {
        let mut devices = self.devices.borrow_mut();
        let Some(devices) = devices.as_mut() else {
            return Ok(None);
        };
        let policy = devices.adopt(saved, &self.target, open)?;
        devices.is_parked = true;
        self.is_stopped.store(true, Ordering::Relaxed);
        Ok(policy)
    }
}

/// Returns whether this QEMU will take over the devices of another one.
pub fn is_incoming() -> bool {
    cpr::is_incoming()
}
