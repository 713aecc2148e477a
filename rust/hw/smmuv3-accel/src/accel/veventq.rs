// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Fault events of assigned devices: from the host's vEVENTQ to the guest's
//! Event queue.

use qemu_ext::{
    error::report,
    event_file::EventFile,
    iommufd::{HostObject, ViommuType},
};
use smmuv3::event::Event;
use util::{Error, Result};

use super::Accel;
use crate::{device::Smmuv3, events::Entry};

/// Events that the host keeps until they are read. A guest's queue may be
/// larger; the memory is the host kernel's.
const DEPTH: u32 = 4096;

/// `struct iommufd_vevent_header`: flags and sequence number.
const HEADER_BYTES: usize = 8;
/// `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`: no event follows, some were lost.
const FLAG_LOST_EVENTS: u32 = 1 << 0;
/// Sequence numbers run from 0 to `INT_MAX`, and begin again.
const SEQUENCE_MASK: u32 = i32::MAX as u32;

/// Reads in one wakeup: the main loop comes back if there is more.
const MAX_READS: usize = 16;
/// Wakeups in a row that leave the file readable although it has nothing, before
/// it is given up on: it would keep the main loop busy for ever.
const MAX_IDLE_WAKEUPS: u32 = 1000;

/// The host's queue of one vIOMMU. The file is closed before the object goes.
#[derive(Debug)]
pub struct VeventQ {
    file: EventFile,
    object: HostObject,
    /// Sequence number that comes next, once one was seen
    expected: Option<u32>,
    /// Wakeups in a row after which the file was readable, but empty
    idle_wakeups: u32,
}

impl VeventQ {
    /// Opens a queue of [`DEPTH`] events, and has [`Smmuv3::read_events`] called
    /// when there are any.
    pub fn new(device: &Smmuv3, viommu: &HostObject) -> Result<Self> {
        let (object, file) = viommu.allocate_veventq(ViommuType::ArmSmmuv3, DEPTH)?;
        Ok(Self {
            file: file.watch(device, &Smmuv3::read_events)?,
            object,
            expected: None,
            idle_wakeups: 0,
        })
    }

    /// Closes the queue, with what it holds. Gives the object back if the host
    /// does not destroy it now.
    pub fn close(self) -> Option<HostObject> {
        drop(self.file);
        self.object.try_destroy().err()
    }

    /// Parses what one read returned; the rest after a short or unknown entry is dropped.
    fn parse(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Entry)) {
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let [a, b, c, d, e, f, g, h] = *header;
            let flags = u32::from_ne_bytes([a, b, c, d]);
            let sequence = u32::from_ne_bytes([e, f, g, h]) & SEQUENCE_MASK;
            if flags & FLAG_LOST_EVENTS != 0 {
                // the number after it is not known
                self.expected = None;
                sink(Entry::Lost);
                bytes = rest;
                continue;
            }
            if self.expected.is_some_and(|expected| expected != sequence) {
                sink(Entry::Lost);
            }
            self.expected = Some(sequence.wrapping_add(1) & SEQUENCE_MASK);
            let Some((event, next)) = rest.split_first_chunk() else {
                return;
            };
            sink(Entry::Event(Event::from_bytes(event)));
            bytes = next;
        }
    }
}

/// What a wakeup found.
enum Drained {
    /// Entries, in order; the queue is empty or the main loop will call again
    Entries(Vec<Entry>),
    /// The queue is of no more use
    Dead(Vec<Entry>, Error),
}

impl VeventQ {
    fn drain(&mut self) -> Drained {
        let mut entries = Vec::new();
        let mut buffer = [0_u8; 4096];
        for _ in 0..MAX_READS {
            match self.file.read(&mut buffer) {
                // Linux has nothing more: it does not say EAGAIN
                Ok(0) => break,
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.parse(bytes, |entry| entries.push(entry));
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOMEM) => break,
                    Some(libc::EINTR) => {}
                    _ => return Drained::Dead(entries, error.into()),
                },
            }
        }
        Drained::Entries(entries)
    }

    /// Drains the queue because the main loop has found the file readable.
    ///
    /// Another drain can come first, as the one before a `CMD_SYNC` does: the wakeup
    /// then finds nothing through no fault of the kernel's, and is not counted. So
    /// what counts is that the file is still readable after nothing was read.
    fn drain_ready(&mut self) -> Drained {
        let drained = self.drain();
        let Drained::Entries(entries) = drained else {
            return drained;
        };
        self.idle_wakeups = if entries.is_empty() && self.file.is_readable() {
            self.idle_wakeups.saturating_add(1)
        } else {
            0
        };
        if self.idle_wakeups > MAX_IDLE_WAKEUPS {
            return Drained::Dead(entries, Error::msg("it is ready, but there is nothing"));
        }
        Drained::Entries(entries)
    }
}

impl Smmuv3 {
    /// The host has events: passes all of them on.
    pub fn read_events(&self) {
        self.pass_events(VeventQ::drain_ready);
    }

    /// Passes on what the host has by now: before a `CMD_SYNC` completes, not when
    /// the main loop comes to it (section 4.7.3).
    pub fn look_for_events(&self) {
        self.pass_events(VeventQ::drain);
    }

    fn pass_events(&self, drain: impl FnOnce(&mut VeventQ) -> Drained) {
        let drained = {
            let mut accel_cell = self.accel_state.borrow_mut();
            let Some(veventq) = accel_cell.as_mut().and_then(|accel| accel.veventq.as_mut()) else {
                return;
            };
            drain(veventq)
        };
        let entries = match drained {
            Drained::Entries(entries) => entries,
            Drained::Dead(entries, error) => {
                report(&Error::msg(format!(
                    "arm-smmuv3: the host reports no more fault events: {error}"
                )));
                // or the main loop would call without end
                if let Some(accel) = self.accel_state.borrow_mut().as_mut() {
                    accel.close_veventq();
                }
                entries
            }
        };
        for entry in entries {
            self.record(entry);
        }
    }

    /// CR0.EVENTQEN changed, or there is a vIOMMU now: the host has a queue while
    /// the guest has one. What the host held when the guest's was disabled is gone.
    pub fn evaluate_events(&self) {
        let wanted = self.shared().registers.eventq_enabled();
        let mut accel_cell = self.accel_state.borrow_mut();
        let Some(accel) = accel_cell.as_mut() else {
            return;
        };
        if !wanted {
            accel.close_veventq();
            return;
        }
        if accel.veventq.is_some() {
            return;
        }
        // a vIOMMU has one queue of a kind: if there still is an old one, try again
        accel.busy_veventq = None;
        let Some(viommu) = accel.viommu.as_ref() else {
            return;
        };
        match VeventQ::new(self, &viommu.object) {
            Ok(veventq) => accel.veventq = Some(veventq),
            Err(_) if accel.veventq_reported => {}
            Err(error) => {
                accel.veventq_reported = true;
                report(&Error::msg(format!(
                    "arm-smmuv3: the guest will see no fault events: {error}"
                )));
            }
        }
    }
}

impl Accel {
    /// Closes the host's queue.
    pub fn close_veventq(&mut self) {
        if let Some(veventq) = self.veventq.take() {
            self.busy_veventq = veventq.close();
        }
    }
}
