// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Where devices have to be, by what the guest has said.

use smmuv3_qtest::{assigned::ste, journal::On};

/// Slots that devices are in.
pub const SLOTS: usize = 2;

/// What the guest has said of one slot.
#[derive(Clone, Debug)]
struct Slot {
    /// The device in it
    device: Option<String>,
    /// Which entry is the slot's by the numbers of the buses
    entry: usize,
    /// What was made of the entry then
    installed: On,
    /// What may have been made of it since
    since: Vec<On>,
    /// The host has failed: the device may be on less
    degraded: bool,
}

/// What the guest has said.
#[derive(Debug)]
pub struct Model {
    pub enabled: bool,
    pub gbpa_abort: bool,
    /// The host fails
    pub failing: bool,
    /// Registers and tables are unknown
    pub wild: bool,
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
            wild: false,
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

    /// What an entry makes of a device's stream.
    fn meaning(entry: [u64; 2]) -> On {
        match entry[0] & 0b1111 {
            0b1001 => On::Bypass,
            0b1011 => On::Nested(entry),
            _ => On::Abort,
        }
    }

    pub fn device(&self, slot: usize) -> Option<&str> {
        self.slots[slot].device.as_deref()
    }

    /// Which entry is that of a slot.
    pub fn entry(&self, slot: usize) -> usize {
        self.slots[slot].entry
    }

    /// Where the device of a slot may be.
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
            // it has been looked at anew, which is always permitted
            allowed.push(Self::meaning(self.table[entry]));
            allowed.extend(since);
        }
        allowed
    }

    fn look(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.installed = Self::meaning(self.table[slot.entry]);
        slot.since.clear();
        slot.degraded = self.failing;
    }

    /// A command names the stream of one entry. What was aborted for not completing
    /// its invalidations stays so until it is named itself.
    pub fn configure(&mut self, entry: usize) {
        self.look_where(|slot| slot.entry == entry);
    }

    fn look_again_where(&mut self, applies: impl Fn(&Slot) -> bool) {
        let degraded = self.slots.clone().map(|slot| slot.degraded);
        self.look_where(applies);
        for (slot, was) in self.slots.iter_mut().zip(degraded) {
            slot.degraded |= was;
        }
    }

    fn look_where(&mut self, applies: impl Fn(&Slot) -> bool) {
        for slot in 0..SLOTS {
            if self.enabled && applies(&self.slots[slot]) {
                self.look(slot);
            }
        }
    }

    /// A command names all streams.
    pub fn configure_all(&mut self) {
        self.look_where(|_| true);
    }

    pub fn enable(&mut self) {
        self.enabled = true;
        self.look_again_where(|_| true);
    }

    /// The host has failed in a way that may show in any device.
    pub fn degrade(&mut self) {
        for slot in &mut self.slots {
            slot.degraded = true;
        }
    }

    /// The buses swap their numbers: each device has the other's entry at once.
    pub fn swap(&mut self) {
        let [first, second] = &mut self.slots;
        std::mem::swap(&mut first.entry, &mut second.entry);
        self.look_again_where(|_| true);
    }

    /// A device comes into a slot.
    pub fn plug(&mut self, slot: usize, name: &str) {
        self.slots[slot].device = Some(name.to_owned());
        self.look(slot);
    }

    /// A device has not come. The others may have made room for it.
    pub fn refuse(&mut self) {
        for slot in &mut self.slots {
            slot.since.push(Self::meaning(self.table[slot.entry]));
        }
    }

    pub fn unplug(&mut self, slot: usize) {
        self.slots[slot].device = None;
    }

    /// Out of reset.
    pub fn reset(&mut self) {
        self.enabled = false;
        self.gbpa_abort = false;
        self.wild = false;
        for (number, slot) in self.slots.iter_mut().enumerate() {
            slot.entry = number;
            slot.since.clear();
            slot.degraded = self.failing;
        }
    }
}
