// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A model of each device's attachment, by the guest's configuration.

use smmuv3_qtest::{assigned::ste, journal::On};

/// Number of slots with devices.
pub const SLOTS: usize = 2;

/// The configuration of one slot.
#[derive(Clone, Debug)]
struct Slot {
    /// The device in it
    device: Option<String>,
    /// Index of the slot's STE, by the bus numbers
    entry: usize,
    /// The attachment that the STE selected when it was last read
    installed: On,
    /// Attachments that may have been made since
    since: Vec<On>,
    /// The host has failed: the device may be attached to less
    degraded: bool,
}

/// The guest's configuration.
#[derive(Debug)]
pub struct Model {
    pub enabled: bool,
    pub gbpa_abort: bool,
    /// The host fails
    pub failing: bool,
    /// Registers and tables are random
    pub random_state: bool,
    /// Entries in memory
    pub table: [[u64; 2]; SLOTS],
    slots: [Slot; SLOTS],
}

impl Model {
    pub fn new(devices: [&str; SLOTS]) -> Self {
        let mut entry = 0..;
        Self {
            enabled: false,
            gbpa_abort: false,
            failing: false,
            random_state: false,
            table: [ste::INVALID; SLOTS],
            slots: devices.map(|name| {
                let entry = entry.next().unwrap_or_default();
                Slot {
                    device: Some(name.to_owned()),
                    entry,
                    installed: On::Abort,
                    since: Vec::new(),
                    degraded: false,
                }
            }),
        }
    }

    /// Returns the attachment that an STE selects.
    fn attachment(entry: [u64; 2]) -> On {
        match entry[0] & 0b1111 {
            0b1001 => On::Bypass,
            0b1011 => On::Nested(entry),
            _ => On::Abort,
        }
    }

    pub fn device(&self, slot: usize) -> Option<&str> {
        self.slots[slot].device.as_deref()
    }

    /// Returns the index of a slot's STE.
    pub fn entry(&self, slot: usize) -> usize {
        self.slots[slot].entry
    }

    /// Returns the permitted attachments of the device of a slot.
    pub fn allowed(&self, slot: usize) -> Vec<On> {
        let Slot {
            entry,
            installed,
            ref since,
            degraded,
            ..
        } = self.slots[slot];
        let wanted = match (self.enabled, self.gbpa_abort) {
            (true, _) => installed,
            (false, true) => On::Abort,
            (false, false) => On::Bypass,
        };
        if !degraded && !self.failing {
            return vec![wanted];
        }
        let mut allowed = vec![wanted, On::Abort, On::Nothing];
        if self.enabled {
            // it may have been reattached, which is always permitted
            allowed.push(Self::attachment(self.table[entry]));
            allowed.extend(since);
        }
        allowed
    }

    fn reattach(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.installed = Self::attachment(self.table[slot.entry]);
        slot.since.clear();
        slot.degraded = self.failing;
    }

    /// Handles a command for the stream of one STE. A quarantined stream stays
    /// on abort until a command names it.
    pub fn configure(&mut self, entry: usize) {
        self.reattach_where(|slot| slot.entry == entry);
    }

    fn reattach_keeping_quarantine(&mut self, applies: impl Fn(&Slot) -> bool) {
        let degraded = self.slots.clone().map(|slot| slot.degraded);
        self.reattach_where(applies);
        for (slot, was) in self.slots.iter_mut().zip(degraded) {
            slot.degraded |= was;
        }
    }

    fn reattach_where(&mut self, applies: impl Fn(&Slot) -> bool) {
        for slot in 0..SLOTS {
            if self.enabled && applies(&self.slots[slot]) {
                self.reattach(slot);
            }
        }
    }

    /// Handles a command for all streams.
    pub fn configure_all(&mut self) {
        self.reattach_where(|_| true);
    }

    pub fn enable(&mut self) {
        self.enabled = true;
        self.reattach_keeping_quarantine(|_| true);
    }

    /// Records a host failure that may affect any device.
    pub fn degrade(&mut self) {
        for slot in &mut self.slots {
            slot.degraded = true;
        }
    }

    /// Swaps the bus numbers: each device is reattached by the other's STE at
    /// once.
    pub fn swap(&mut self) {
        let [first, second] = &mut self.slots;
        std::mem::swap(&mut first.entry, &mut second.entry);
        self.reattach_keeping_quarantine(|_| true);
    }

    /// Plugs a device into a slot.
    pub fn plug(&mut self, slot: usize, name: &str) {
        self.slots[slot].device = Some(name.to_owned());
        self.reattach(slot);
    }

    /// Records a refused hot-plug, for which other devices may have been
    /// reattached.
    pub fn refuse(&mut self) {
        for slot in &mut self.slots {
            slot.since.push(Self::attachment(self.table[slot.entry]));
        }
    }

    pub fn unplug(&mut self, slot: usize) {
        self.slots[slot].device = None;
    }

    /// Resets the model.
    pub fn reset(&mut self) {
        self.enabled = false;
        self.gbpa_abort = false;
        self.random_state = false;
        for (number, slot) in self.slots.iter_mut().enumerate() {
            slot.entry = number;
            slot.since.clear();
            slot.degraded = self.failing;
        }
    }
}
