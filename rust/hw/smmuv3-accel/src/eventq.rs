// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Events that are pending for the guest's Event queue.
//!
//! Transactions fault on the thread of any device. Writing a record and raising an
//! interrupt takes the Big QEMU Lock (BQL); without it, events are pending, in order, until a
//! bottom half records them.

use std::{
    cell::Cell,
    collections::VecDeque,
    ptr,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Mutex, PoisonError,
    },
};

use bql::BqlCell;
use qemu_ext::bh::BottomHalf;
use smmuv3::{
    event::Event,
    eventq::{self, Recorded},
    fragment::Fragment,
};

use crate::{
    irq::{Interrupt, IrqLines},
    memory::GuestRam,
    state::{GuestState, Locked},
    trace::event_name,
};

::trace::include_trace!("hw_arm");

/// Capacity of the queue of pending events. When it is full, further events are dropped and
/// OVFLG is toggled, as for a full Event queue (§7.4).
const CAPACITY: usize = 1024;

/// An event for the Event queue, or the loss of some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingEvent {
    /// A record
    Event(Event),
    /// Events were lost
    Lost,
}

/// Events that the Event queue does not have yet.
#[derive(Debug, Default)]
pub struct PendingEvents {
    queue: Mutex<VecDeque<PendingEvent>>,
    /// The queue is not empty. Changes while it is locked only
    is_pending: AtomicBool,
    /// Events are being recorded
    is_recording: BqlCell<bool>,
    /// Records events that were raised without the BQL
    pub record_later: BottomHalf,
    counters: BqlCell<EventCounters>,
    /// [`EventCounters::lost_pending`], which grows without the BQL
    lost_pending: AtomicU64,
}

/// Counters of events. They wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Events that the host has reported
    pub from_host: u64,
    /// Reports of the host that it has lost events
    pub lost_by_host: u64,
    /// Records in the Event queue
    pub recorded: u64,
    /// Events that were lost because the Event queue is full
    pub lost_queue_full: u64,
    /// Events that were lost because too many were pending
    pub lost_pending: u64,
    /// Events that were dropped because the Event queue is disabled or has an active error
    pub dropped: u64,
    /// Records whose write has aborted
    pub aborted: u64,
    /// Interrupts of the Event queue
    pub interrupts: u64,
}

/// The last access that this thread made, if it faulted and was recorded.
///
/// QEMU's core translates an access as a whole first. It treats an aborted one as an
/// access to a device that does not answer, which it splits into pieces of 4 bytes at
/// most (`flatview_read_continue_step()`, `flatview_write_continue_step()`, and
/// `memory_access_size()` of `unassigned_mem_ops`), each of which is translated again.
/// All ways of DMA come to these: `dma_memory_rw()`, the copies of the bounce buffers
/// of `address_space_map()`, and the caches of virtio's rings; they differ in threads
/// only, and an access is made by one.
///
/// The core ignores the page of an `IOMMU_NONE` entry, so this device cannot abort all of
/// it at once.
#[derive(Clone, Copy)]
struct LastFault {
    /// The SMMU that recorded it, which is only compared
    smmu: *const GuestState,
    /// Its [`Locked::separations`] at that time
    separations: u64,
    fragment: Fragment,
}

thread_local! {
    static LAST_FAULT: Cell<Option<LastFault>> = const { Cell::new(None) };
}

/// Notes that this thread makes an access that leaves no record: the next fault is no
/// piece of the access that faulted before.
#[inline]
pub fn end_access() {
    LAST_FAULT.set(None);
}

impl PendingEvents {
    fn with_queue<R>(&self, function: impl FnOnce(&mut VecDeque<PendingEvent>) -> R) -> R {
        // nothing panics while it is locked, and if it did, every value is valid
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let result = function(&mut queue);
        self.is_pending.store(!queue.is_empty(), Ordering::Release);
        result
    }

    fn push(&self, event: PendingEvent) {
        self.with_queue(|queue| match queue.len() {
            CAPACITY.. => self.note_lost(),
            length if length + 1 == CAPACITY => {
                self.note_lost();
                queue.push_back(PendingEvent::Lost);
            }
            _ => queue.push_back(event),
        });
    }

    fn note_lost(&self) {
        self.lost_pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counters.
    pub fn counters(&self) -> EventCounters {
        EventCounters {
            lost_pending: self.lost_pending.load(Ordering::Relaxed),
            ..self.counters.get()
        }
    }

    fn note(&self, event: PendingEvent, recorded: &Recorded) {
        let mut counters = self.counters.get();
        let counter = match (event, recorded) {
            (PendingEvent::Event(_), Recorded::Written { interrupt, .. }) => {
                if *interrupt {
                    counters.interrupts = counters.interrupts.wrapping_add(1);
                }
                &mut counters.recorded
            }
            (PendingEvent::Event(_), Recorded::Overflowed) => &mut counters.lost_queue_full,
            (PendingEvent::Event(_), Recorded::Disabled) => &mut counters.dropped,
            (PendingEvent::Event(_), Recorded::Aborted { .. }) => &mut counters.aborted,
            // the event itself was counted when it was lost
            (PendingEvent::Lost, _) => return,
        };
        *counter = counter.wrapping_add(1);
        self.counters.set(counters);
    }

    /// Drops all events.
    pub fn clear(&self) {
        self.with_queue(VecDeque::clear);
    }

    /// Queues the event of an access, or of a piece of one. Returns whether there is something
    /// to record by [`Self::flush_or_schedule`]. Does not need the BQL.
    ///
    /// `locked` is that of `state`: no command is executed between what the caller has checked
    /// in it and the event.
    pub fn queue(
        &self,
        state: &GuestState,
        locked: &Locked,
        event: Event,
        address: u64,
        is_read: bool,
    ) -> bool {
        if !locked.registers.eventq_enabled() {
            end_access();
            return false;
        }
        let smmu = ptr::from_ref(state);
        let separations = locked.separations;
        let first = Fragment::first(event, address, is_read);
        let before = LAST_FAULT
            .get()
            .filter(|last| ptr::eq(last.smmu, smmu) && last.separations == separations);
        let behind = before.and_then(|last| first.behind(&last.fragment));
        LAST_FAULT.set(Some(LastFault {
            smmu,
            separations,
            fragment: behind.unwrap_or(first),
        }));
        if behind.is_none() {
            self.push(PendingEvent::Event(event));
        }
        behind.is_none()
    }

    /// Records the pending events: at once with the BQL, or else from the main loop.
    pub fn flush_or_schedule(&self, state: &GuestState, irqs: &IrqLines) {
        if bql::is_locked() {
            self.flush(state, irqs);
        } else {
            self.record_later.schedule();
        }
    }

    /// Returns whether [`Self::flush`] has something to do. Does not need the BQL.
    #[inline]
    pub fn are_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    /// Records the pending events. The address of a record may lead to a register of this
    /// device; events that are pending then are left to the outermost caller.
    #[inline]
    pub fn flush(&self, state: &GuestState, irqs: &IrqLines) {
        // An event that is queued at this moment comes after this.
        if self.are_pending() && !self.is_recording.replace(true) {
            self.record_pending(state, irqs);
        }
    }

    fn record_pending(&self, state: &GuestState, irqs: &IrqLines) {
        let mut is_empty = false;
        // bounded, because other threads may queue events without end
        for _ in 0..CAPACITY {
            let Some(event) = self.with_queue(VecDeque::pop_front) else {
                is_empty = true;
                break;
            };
            let recorded = write(event, state, irqs);
            self.note(event, &recorded);
        }
        self.is_recording.set(false);
        if !is_empty {
            self.record_later.schedule();
        }
    }

    /// Records an event of the host behind the pending ones.
    pub fn record(&self, event: PendingEvent, state: &GuestState, irqs: &IrqLines) {
        let mut counters = self.counters.get();
        let counter = match event {
            PendingEvent::Event(_) => &mut counters.from_host,
            PendingEvent::Lost => &mut counters.lost_by_host,
        };
        *counter = counter.wrapping_add(1);
        self.counters.set(counters);
        self.push(event);
        self.flush(state, irqs);
    }
}

/// Writes an event into the guest's queue.
fn write(event: PendingEvent, state: &GuestState, irqs: &IrqLines) -> Recorded {
    let (recorded, change) = state.record(|run| match event {
        PendingEvent::Event(event) => {
            trace::trace_smmuv3_propagate_event(event_name(event.number()), event.sid());
            eventq::record(run, &mut GuestRam, &event)
        }
        PendingEvent::Lost => eventq::overflow(run),
    });
    if change.toggled != 0 {
        trace::trace_smmuv3_write_gerror(change.toggled, change.gerror);
    }
    let (eventq, gerror) = match recorded {
        Recorded::Written { interrupt, gerror } => (interrupt, gerror),
        Recorded::Aborted { interrupt } => (false, interrupt),
        Recorded::Disabled | Recorded::Overflowed => (false, false),
    };
    if eventq {
        irqs.pulse(Interrupt::EventQ);
    }
    if gerror {
        irqs.pulse(Interrupt::Gerror);
    }
    recorded
}
