// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's vEVENTQs: fault events of assigned devices, and errors of VCMDQs.

use std::marker::PhantomData;

use common::callbacks::FnCall;
use qemu_ext::{
    cpr::FileKey,
    event_file::EventFile,
    iommufd::{HostObject, ViommuType},
};
use qom::prelude::*;
use smmuv3::event::Event;
use util::{Error, Result};

/// `struct iommufd_vevent_header`: flags and sequence number.
const HEADER_BYTES: usize = 8;
/// `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`: no event follows, some were lost.
const FLAG_LOST_EVENTS: u32 = 1 << 0;
/// Sequence numbers run from 0 to `INT_MAX` and wrap around.
const SEQUENCE_MASK: u32 = i32::MAX as u32;

/// Maximum number of reads in one wakeup: the main loop calls again if there is more.
const MAX_READS: usize = 16;
/// Maximum number of consecutive wakeups that leave the file readable, but empty.
/// After these it is closed, because it would keep the main loop busy for ever.
const MAX_IDLE_WAKEUPS: u32 = 1000;

/// The data of an event.
pub trait Entry: Sized {
    /// The vIOMMU whose events they are
    const VIOMMU: ViommuType;
    /// Events that the host keeps until they are read; the memory is the host kernel's
    const DEPTH: u32;
    /// Splits the data of an event off the front, unless it is short.
    fn split_off(bytes: &[u8]) -> Option<(Self, &[u8])>;
}

impl Entry for Event {
    const VIOMMU: ViommuType = ViommuType::ArmSmmuv3;
    /// A guest's queue may be larger.
    const DEPTH: u32 = 4096;

    fn split_off(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (event, rest) = bytes.split_first_chunk()?;
        Some((Self::from_bytes(event), rest))
    }
}

/// Errors of VCMDQs (`struct iommu_vevent_tegra241_cmdqv`): the words of `LVCMDQ_ERR_MAP` at
/// the host's interrupt, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcmdqErrors(pub [u64; 2]);

impl Entry for VcmdqErrors {
    const VIOMMU: ViommuType = ViommuType::Tegra241Cmdqv;
    /// A queue stops at an error, so there are few; a lost one is an interrupt, too.
    const DEPTH: u32 = 64;

    fn split_off(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (low, rest) = bytes.split_first_chunk()?;
        let (high, rest) = rest.split_first_chunk()?;
        Some((
            Self([low, high].map(|word| u64::from_le_bytes(*word))),
            rest,
        ))
    }
}

/// What the host reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<E> {
    /// An event
    Event(E),
    /// One or more events were lost before the next one
    Lost,
}

/// Returns the key under which a new QEMU finds the file of vEVENTQ `id` of the SMMU at `path`.
///
/// A guest can have its queue closed and another one opened after the new QEMU got the files. The
/// ID distinguishes them.
pub fn file_key(path: &str, id: u32) -> Option<FileKey> {
    FileKey::new(&format!("{path}/veventq"), id)
}

/// The host's queue of one vIOMMU. The file is closed before the object goes.
#[derive(Debug)]
pub struct VeventQ<E = Event> {
    entry: PhantomData<E>,
    file: EventFile,
    object: HostObject,
    /// The next sequence number, once one was read
    expected: Option<u32>,
    /// Consecutive wakeups after which the file was readable, but empty
    idle_wakeups: u32,
    /// The last drain has left entries
    has_more: bool,
}

impl<E: Entry> VeventQ<E> {
    /// Opens a queue of [`Entry::DEPTH`] events, and has `F` called on `owner` when there are
    /// any. It must call [`Self::drain_ready`].
    pub fn new<T, F>(owner: &T, callback: &F, viommu: &HostObject) -> Result<Self>
    where
        T: IsA<Object>,
        F: for<'a> FnCall<(&'a T,)>,
    {
        let (object, file) = viommu.allocate_veventq(E::VIOMMU, E::DEPTH)?;
        Ok(Self {
            entry: PhantomData,
            file: file.watch(owner, callback)?,
            object,
            expected: None,
            idle_wakeups: 0,
            has_more: false,
        })
    }

    /// Has a new QEMU, which takes over the guest, find the queue's file as that of the SMMU at
    /// `path`.
    #[must_use]
    pub fn kept_for(mut self, path: &str) -> Self {
        if let Some(key) = file_key(path, self.object.id()) {
            self.file = self.file.kept_as(key);
        }
        self
    }

    /// Returns the queue of another QEMU with its `file`. Nothing is read before
    /// [`Self::resume`].
    pub fn adopt<T, F>(
        owner: &T,
        callback: &F,
        object: HostObject,
        file: EventFile,
        expected: Option<u32>,
    ) -> Result<Self>
    where
        T: IsA<Object>,
        F: for<'a> FnCall<(&'a T,)>,
    {
        let file = match file.watch(owner, callback) {
            Ok(file) => file,
            Err(error) => {
                object.abandon();
                return Err(error.into());
            }
        };
        file.pause();
        Ok(Self {
            entry: PhantomData,
            file,
            object,
            expected: expected.map(|sequence| sequence & SEQUENCE_MASK),
            idle_wakeups: 0,
            has_more: false,
        })
    }

    /// Returns the ID of the queue in its iommufd.
    pub const fn id(&self) -> u32 {
        self.object.id()
    }

    /// Returns the number that the next event must have, if it is known.
    pub const fn expected(&self) -> Option<u32> {
        self.expected
    }

    /// Has the main loop leave the queue alone until [`Self::resume`].
    pub fn pause(&self) {
        self.file.pause();
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) -> Result<()> {
        Ok(self.file.resume()?)
    }

    /// Closes the queue without destroying it, because another QEMU has it.
    pub fn abandon(self) {
        drop(self.file);
        self.object.abandon();
    }

    /// Closes the queue and drops its entries. Returns the object if the host does
    /// not destroy it now.
    pub fn close(self) -> Option<HostObject> {
        drop(self.file);
        self.object.try_destroy().err()
    }

    /// Parses the bytes of one read; the rest after a short or unknown entry is dropped.
    fn parse(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Received<E>)) {
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let [a, b, c, d, e, f, g, h] = *header;
            let flags = u32::from_ne_bytes([a, b, c, d]);
            let sequence = u32::from_ne_bytes([e, f, g, h]) & SEQUENCE_MASK;
            if flags & FLAG_LOST_EVENTS != 0 {
                // the number after it is not known
                self.expected = None;
                sink(Received::Lost);
                bytes = rest;
                continue;
            }
            if self.expected.is_some_and(|expected| expected != sequence) {
                sink(Received::Lost);
            }
            self.expected = Some(sequence.wrapping_add(1) & SEQUENCE_MASK);
            let Some((event, next)) = E::split_off(rest) else {
                return;
            };
            sink(Received::Event(event));
            bytes = next;
        }
    }
}

/// The result of a drain.
pub enum Drained<E> {
    /// Entries, in order; the queue is empty or the main loop will call again
    Entries(Vec<Received<E>>),
    /// Entries, and the error after which the queue must be closed
    Dead(Vec<Received<E>>, Error),
}

impl<E: Entry> VeventQ<E> {
    /// Returns whether the queue is known to have entries. Does not call the host.
    pub const fn has_more(&self) -> bool {
        self.has_more
    }

    /// Reads entries until the queue is empty, `MAX_READS` times at most.
    pub fn drain(&mut self) -> Drained<E> {
        let mut entries = Vec::new();
        let mut buffer = [0_u8; 4096];
        self.has_more = false;
        for read in 1..=MAX_READS {
            match self.file.read(&mut buffer) {
                // the queue is empty: Linux does not return EAGAIN
                Ok(0) => break,
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.parse(bytes, |entry| entries.push(entry));
                    self.has_more = read == MAX_READS;
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
    /// Another drain can come first, such as the one before a run of the Command queue. The
    /// wakeup then finds nothing, but the kernel is not at fault. So a wakeup is counted only
    /// if the file is still readable after nothing was read.
    pub fn drain_ready(&mut self) -> Drained<E> {
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
            return Drained::Dead(
                entries,
                Error::msg("the host's vEVENTQ signals events and returns none"),
            );
        }
        Drained::Entries(entries)
    }
}
