// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Emulated endpoints beside the assigned devices: one that stays, and one that comes and goes.

use serde_json::json;
use smmuv3_qtest::{
    assigned::{sid, Bench, Guest, Setup, TABLE},
    edu, pci, Access, Edu, Random, Smmu,
};

use crate::generator::{self, below, once_in};

/// The slot of the one that stays.
const FIXED: u32 = 5;
/// Its `StreamID`.
const STREAM: u32 = sid(FIXED);
/// The slot of the other one.
const SLOT: u32 = 4;

/// Adds the device that stays, and the slots.
pub fn add(setup: Setup) -> Setup {
    setup
        .slot(SLOT)
        .slot(FIXED)
        .device(&format!("{},bus=slot{FIXED}", edu::DEVICE))
}

/// Gives the root port of the device that stays a window for memory.
fn open_slot(bench: &Bench) {
    let config = pci::config(pci::sid(8, FIXED));
    bench.machine().write32(config + 0x20, 0x1000_1000);
    bench.machine().write_sized(config + 4, 6, 2);
}

pub struct Endpoints<'a> {
    bench: &'a Bench,
    edu: Edu<'a>,
    /// Number of the one that is plugged in, and of those that were
    plugged: Option<u64>,
    count: u64,
}

impl<'a> Endpoints<'a> {
    /// Returns the endpoints of a machine whose SMMU is disabled.
    pub fn of(bench: &'a Bench) -> Self {
        open_slot(bench);
        Self {
            bench,
            edu: Edu::new(bench.machine(), STREAM, 0),
            plugged: None,
            count: 0,
        }
    }

    /// Programs the device again after a reset.
    pub fn program(&self) {
        self.bench.number_buses();
        open_slot(self.bench);
        self.edu.program();
    }

    /// Does something and returns a description, and whether an endpoint has come or gone.
    pub fn operate(&mut self, smmu: &Smmu<'_>, random: &mut Random) -> (String, bool) {
        let choice = below(random, 8);
        let text = match choice {
            0 => self.plug_or_unplug(),
            1 => {
                let [first, second, rest @ ..] = generator::entry(random);
                smmu.write_ste(STREAM, [first, second]);
                let at = TABLE + 64 * u64::from(STREAM) + 16;
                for (index, word) in (0..).zip(rest) {
                    self.bench.machine().write64(at + 8 * index, word);
                }
                format!("STE of the emulated device: {first:#x}")
            }
            _ => {
                let iova = generator::iova(random);
                let access = if once_in(random, 2) {
                    Access::Read
                } else {
                    Access::Write
                };
                self.edu.access(access, iova);
                format!("the emulated device: {access:?} {iova:#x}")
            }
        };
        (text, choice == 0)
    }

    fn plug_or_unplug(&mut self) -> String {
        if let Some(number) = self.plugged.take() {
            self.bench.unplug(&format!("e{number}"), SLOT);
            return format!("e{number} is unplugged");
        }
        self.count += 1;
        let plug = json!({
            "driver": "edu", "id": format!("e{}", self.count), "bus": format!("slot{SLOT}"),
        });
        self.bench.machine().qmp("device_add", plug);
        self.plugged = Some(self.count);
        format!("e{} is plugged in", self.count)
    }

    /// Unplugs the device that was plugged in.
    pub fn leave(&mut self) {
        if self.plugged.is_some() {
            self.plug_or_unplug();
        }
    }
}
