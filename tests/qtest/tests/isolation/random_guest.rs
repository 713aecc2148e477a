// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Randomized guests: after every step each device is attached as a model of
//! registers, STEs and configuration commands predicts.

use std::env;

use smmuv3_qtest::{command, smmu::SMMUEN, Smmu};

use crate::{
    bench::{prepare, sid, ste, Bench, Ecam, Guest, GBPA_ABORT, QUEUE, TABLE},
    journal::On,
};

const DEVICES: [&str; 2] = ["d0", "d1"];
const STEPS: u32 = 120;

/// xorshift64*: the same guest for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// The guest's configuration.
struct Model {
    enabled: bool,
    gbpa_abort: bool,
    /// STEs in memory
    table: [[u64; 2]; 2],
    /// Index of each device's STE, by the bus numbers
    entry: [usize; 2],
    /// Index of the STE when stage 1 was attached
    under: [usize; 2],
    /// Index of the STE when the device was last attached
    known: [usize; 2],
    /// The attachment that the STEs selected at that time
    installed: [On; 2],
    /// The host has no memory for a new stage 1
    refused: bool,
}

impl Model {
    const fn new() -> Self {
        Self {
            enabled: false,
            gbpa_abort: false,
            table: [ste::INVALID; 2],
            entry: [0, 1],
            under: [0, 1],
            known: [0, 1],
            installed: [On::Abort; 2],
            refused: false,
        }
    }

    fn on(&self, index: usize) -> On {
        match (self.enabled, self.gbpa_abort) {
            (true, _) => self.installed[index],
            (false, true) => On::Abort,
            (false, false) => On::Bypass,
        }
    }

    fn reattach(&mut self, index: usize) {
        let entry = self.table[self.entry[index]];
        let stage1 = On::Nested(entry);
        let same = self.installed[index] == stage1 && self.under[index] == self.entry[index];
        self.installed[index] = match entry[0] & 0b1111 {
            0b1001 => On::Bypass,
            0b1011 if self.refused && !same => On::Abort,
            0b1011 => stage1,
            _ => On::Abort,
        };
        self.under[index] = self.entry[index];
        self.known[index] = self.entry[index];
    }

    /// Handles a command for the stream of one STE.
    fn configure(&mut self, entry: usize) {
        let named = |index: &usize| self.entry[*index] == entry;
        let indices: Vec<usize> = (0..2).filter(named).collect();
        for index in indices {
            self.reattach(index);
        }
    }

    fn enable(&mut self) {
        self.enabled = true;
        // clearing SMMUEN has detached the previous stage 1
        self.installed = [On::Abort; 2];
        (0..2).for_each(|index| self.reattach(index));
    }
}

fn any_ste(random: &mut Random) -> [u64; 2] {
    match random.below(8) {
        0 => ste::INVALID,
        1 => ste::ABORT,
        2 => ste::BYPASS,
        3 => ste::STAGE2,
        page => ste::stage1(0x4100_0000 + 0x1000 * page),
    }
}

/// Makes one step and returns its description.
#[track_caller]
fn step(bench: &Bench, smmu: &Smmu<'_>, model: &mut Model, random: &mut Random) -> String {
    let index = random.below(2) as usize;
    let stream = sid(index as u32 + 1);
    match random.below(15) {
        0..=3 => {
            let entry = any_ste(random);
            smmu.write_ste(stream, entry);
            model.table[index] = entry;
            format!("STE {stream:#x} = {entry:x?}")
        }
        4..=6 => {
            smmu.commands(&[command::cfgi_ste(stream)]);
            if model.enabled {
                model.configure(index);
            }
            format!("CFGI_STE {stream:#x}")
        }
        7 => {
            smmu.commands(&[command::TLBI_NSNH_ALL, command::CFGI_ALL]);
            if model.enabled {
                (0..2).for_each(|each| model.reattach(each));
            }
            "CFGI_ALL".into()
        }
        8 if model.enabled => {
            smmu.disable(SMMUEN);
            model.enabled = false;
            "SMMUEN=0".into()
        }
        8 => {
            smmu.enable(SMMUEN);
            model.enable();
            "SMMUEN=1".into()
        }
        9 => {
            model.gbpa_abort = random.below(2) == 1;
            smmu.gbpa(if model.gbpa_abort { GBPA_ABORT } else { 0 });
            format!("GBPA.ABORT={}", model.gbpa_abort)
        }
        10 => {
            model.refused = !model.refused;
            bench.script("clear");
            if model.refused {
                bench.script("fail HWPT_ALLOC kind=nested errno=EINVAL");
            }
            format!("the host refuses={}", model.refused)
        }
        11 => {
            model.entry.swap(0, 1);
            let ecam = Ecam::of(bench.machine());
            for (slot, entry) in (1..).zip(model.entry) {
                ecam.number(8, slot << 3, sid(entry as u32 + 1) >> 8);
            }
            if model.enabled {
                (0..2).for_each(|each| model.reattach(each));
            }
            "the numbers of the buses are exchanged".into()
        }
        12 => {
            let count = 1 + random.below(150);
            let commands = vec![command::tlbi_nh_asid(7); count as usize];
            smmu.push(&commands);
            smmu.ring();
            if random.below(2) == 0 {
                bench.machine().clock_step(20_000_000);
            }
            format!("{count} invalidations without CMD_SYNC")
        }
        13 => {
            let errno = ["EINTR", "ENOMEM", "ETIMEDOUT"][random.below(3) as usize];
            bench.script(&format!("fail HWPT_INVALIDATE errno={errno} count=1"));
            smmu.commands(&[command::TLBI_NSNH_ALL]);
            format!("an invalidation meets {errno}")
        }
        _ => {
            bench.machine().system_reset();
            let refused = model.refused;
            *model = Model {
                refused,
                ..Model::new()
            };
            for name in DEVICES {
                bench.expect("after reset", &[(name, On::Bypass)]);
            }
            bench.number_buses();
            prepare(smmu, QUEUE, TABLE);
            "system_reset".into()
        }
    }
}

fn run(seed: u64) {
    let bench = Bench::with_two_devices();
    let smmu = bench.smmu();
    let mut model = Model::new();
    let mut random = Random(seed);
    let mut history = Vec::new();
    for _ in 0..STEPS {
        history.push(step(&bench, &smmu, &mut model, &mut random));
        for (index, name) in DEVICES.iter().enumerate() {
            let actual = bench.journal().device(name).map(|device| device.on);
            assert_eq!(
                actual,
                Some(model.on(index)),
                "{name}; ISOLATION_SEED={seed}:\n{}",
                history.join("\n")
            );
        }
    }
    let wanted = (0..2).filter(|index| matches!(model.on(*index), On::Nested(_)));
    let nested = bench.journal().objects().get("nested").copied();
    assert_eq!(nested.unwrap_or(0), wanted.count(), "unused nested HWPTs");
    bench.end();
}

/// Returns the number in an environment variable.
#[track_caller]
fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
    )
}

/// `ISOLATION_SEED` repeats one guest, `ISOLATION_GUESTS` is the number of
/// guests.
#[test]
fn random_guest_devices_match_their_stes() {
    if let Some(seed) = variable("ISOLATION_SEED") {
        return run(seed);
    }
    for number in 1..=variable("ISOLATION_GUESTS").unwrap_or(24) {
        run(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number));
    }
}
