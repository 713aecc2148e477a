// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Events on their way to the guest's Event queue.
//!
//! Transactions fault on whatever thread a device runs on. Writing a record and
//! raising an interrupt takes the Big QEMU Lock, so without it events wait, in
//! order, for a bottom half.

use std::{
    cell::Cell,
    collections::VecDeque,
    ptr,
    sync::{Mutex, PoisonError},
};

use smmuv3::{
    event::Event,
    eventq::{self, Recorded},
    fragment::Fragment,
};

use crate::{
    device::{Interrupt, Shared, Smmuv3},
    memory::GuestRam,
    trace_names,
};

::trace::include_trace!("hw_arm");

/// Events that wait at most. More than that within one pass of the main loop
/// are lost, which the guest is told as of a full queue (section 7.4).
const CAPACITY: usize = 1024;

/// What goes into the Event queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record
    Event(Event),
    /// Some were lost
    Lost,
}

/// Events that wait for the Big QEMU Lock.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<VecDeque<Entry>>);

impl Waiting {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn with<R>(&self, function: impl FnOnce(&mut VecDeque<Entry>) -> R) -> R {
        // nothing panics while it is locked, and if it did, every value is valid
        function(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, entry: Entry) {
        self.with(|entries| match entries.len() {
            CAPACITY.. => {}
            length if length + 1 == CAPACITY => entries.push_back(Entry::Lost),
            _ => entries.push_back(entry),
        });
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.with(VecDeque::clear);
    }
}

/// The last access that this thread made, if it faulted and was recorded.
///
/// QEMU's core translates an access as a whole first. What is aborted it treats as an
/// access to a device that does not answer, which it splits into pieces of 4 bytes at
/// most (`flatview_read_continue_step()`, `flatview_write_continue_step()`, and
/// `memory_access_size()` of `unassigned_mem_ops`), each of which is translated again.
/// All ways of DMA come to these: `dma_memory_rw()`, the copies of the bounce buffers
/// of `address_space_map()`, and the caches of virtio's rings; they differ in threads
/// only, and an access is made by one.
///
/// The core ignores the page of an `IOMMU_NONE` entry, so it cannot be told that all
/// of it aborts.
#[derive(Clone, Copy)]
struct LastFault {
    /// The device that recorded it
    device: *const Smmuv3,
    /// Its [`Shared::separations`] at that time
    separations: u64,
    fragment: Fragment,
}

thread_local! {
    static LAST_FAULT: Cell<Option<LastFault>> = const { Cell::new(None) };
}

/// Notes that this thread makes an access that leaves no record: what faults next is
/// no piece of what has faulted before.
#[inline]
pub fn end_access() {
    LAST_FAULT.set(None);
}

impl Smmuv3 {
    /// Queues the event of an access, or of a piece of one, to be recorded by
    /// [`record_in_time`](Self::record_in_time); returns whether there is something
    /// to record. No command is executed between what the caller has checked in
    /// `shared` and the event. May be called without the Big QEMU Lock.
    pub fn queue_event(&self, shared: &Shared, event: Event, address: u64, is_read: bool) -> bool {
        if !shared.registers.eventq_enabled() {
            end_access();
            return false;
        }
        let device = ptr::from_ref(self);
        let separations = shared.separations;
        let first = Fragment::first(event, address, is_read);
        let before = LAST_FAULT
            .get()
            .filter(|last| ptr::eq(last.device, device) && last.separations == separations);
        let behind = before.and_then(|last| first.behind(&last.fragment));
        LAST_FAULT.set(Some(LastFault {
            device,
            separations,
            fragment: behind.unwrap_or(first),
        }));
        if behind.is_none() {
            self.waiting_events.push(Entry::Event(event));
        }
        behind.is_none()
    }

    /// Notes that the guest has done something that separates accesses: no access
    /// after it is a piece of one before it.
    pub fn separate_accesses(&self) {
        let mut shared = self.shared();
        shared.separations = shared.separations.wrapping_add(1);
    }

    /// Records the events that are queued: at once with the Big QEMU Lock, or else from
    /// the main loop.
    pub fn record_in_time(&self) {
        if bql::is_locked() {
            self.record_waiting();
        } else {
            self.record_soon();
        }
    }

    /// Records the events that wait. What a record's address leads to may be a
    /// register of this device: the ones that wait then are left to the caller.
    pub fn record_waiting(&self) {
        if self.recording.replace(true) {
            return;
        }
        let mut emptied = false;
        // others may come meanwhile, without end
        for _ in 0..CAPACITY {
            let Some(entry) = self.waiting_events.with(VecDeque::pop_front) else {
                emptied = true;
                break;
            };
            self.write_entry(entry);
        }
        self.recording.set(false);
        if !emptied {
            self.record_soon();
        }
    }

    /// Records an entry behind those that wait. Where a record's address leads to may
    /// bring about more of them, which the outermost caller then records.
    pub fn record(&self, entry: Entry) {
        self.waiting_events.push(entry);
        self.record_waiting();
    }

    /// Puts an entry into the guest's queue.
    fn write_entry(&self, entry: Entry) {
        // A copy: `shared` is not locked across an access to guest memory.
        let (features, mut registers) = self.snapshot();
        let gerror = registers.gerror;
        let recorded = match entry {
            Entry::Event(event) => {
                trace::trace_smmuv3_propagate_event(
                    trace_names::event(event.number()),
                    event.sid(),
                );
                eventq::record(&mut registers, &features, &mut GuestRam, &event)
            }
            Entry::Lost => eventq::overflow(&mut registers),
        };
        {
            let mut current = self.shared();
            current.registers.eventq.prod = registers.eventq.prod;
            current.registers.gerror ^= registers.gerror ^ gerror;
        }
        match recorded {
            Recorded::Written { interrupt: true } => self.pulse(Interrupt::EventQ),
            Recorded::Aborted { interrupt } => {
                let toggled = registers.gerror ^ gerror;
                if toggled != 0 {
                    trace::trace_smmuv3_write_gerror(toggled, registers.gerror);
                }
                if interrupt {
                    self.pulse(Interrupt::Gerror);
                }
            }
            _ => {}
        }
    }
}
