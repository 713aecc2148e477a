// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bursts of invalidations while an I/O thread translates. The mappings do not
//! change, so no request may fail and no event may be recorded.
//!
//! `BURST=30000 cargo test --package smmuv3-qtest --test iothreads burst --
//! --nocapture` prints a table of 40 rounds of that many commands.

use std::env;

use smmuv3_qtest::{
    command::{self, Command, CFGI_ALL, SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    smmu::reg,
    translated::{Stages, ASID, VMID},
};

use crate::disk::{machine, Disk, REQUESTS, SID};

/// Default number of commands of a burst, and of rounds.
const BURST: u32 = 3000;
const ROUNDS: u32 = 3;
/// Rounds of a burst of `BURST` commands.
const LONG_ROUNDS: u32 = 40;

/// Commands for each doorbell: Linux has 64, the last is all at once.
const PER_DOORBELL: [u32; 6] = [1, 8, 64, 257, 513, u32::MAX];

/// log2 of the entries of the Command queue.
const LOG2SIZE: u32 = 15;
/// Guest physical address of the Command queue, above the memory of [`Disk`].
const QUEUE: u64 = RAM + (120 << 20);

/// The commands of a burst.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Invalidations of another VMID and ASID
    Foreign,
    /// Invalidations of the same VMID and another ASID, or of other addresses
    /// where there is no ASID
    Neighbours,
    /// Invalidations of the disk's pages
    Own,
    /// Invalidations of everything
    All,
}

impl Kind {
    fn command(self, stages: Stages, number: u32) -> Command {
        let elsewhere = 0x7000_0000 + (u64::from(number) << 12);
        let own = Disk::data(number as u16 % REQUESTS) + (u64::from(number / 16 % 16) << 12);
        match (self, stages) {
            (Self::Foreign, Stages::Two) => command::tlbi_s2_ipa(VMID + 1, elsewhere),
            (Self::Foreign, _) => {
                command::with_vmid(command::tlbi_nh_va(ASID + 1, elsewhere), VMID + 1)
            }
            (Self::Neighbours, Stages::Two) => command::tlbi_s2_ipa(VMID, elsewhere),
            (Self::Neighbours, _) => {
                command::with_vmid(command::tlbi_nh_va(ASID + 1, own), stages.vmid())
            }
            (Self::Own, Stages::Two) => command::tlbi_s2_ipa(VMID, own),
            (Self::Own, _) => command::with_vmid(command::tlbi_nh_va(ASID, own), stages.vmid()),
            (Self::All, _) => match number % 3 {
                0 => TLBI_NSNH_ALL,
                1 => CFGI_ALL,
                _ => command::cfgi_ste(SID),
            },
        }
    }
}

/// Results of the rounds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// The disk needed a reset
    broken: u32,
    /// There was an event
    events: u32,
    /// The Event queue has overflowed
    overflows: u32,
}

/// Reads the disk while `burst` is consumed, `per_doorbell` commands at a time.
#[track_caller]
fn round(disk: &mut Disk<'_>, burst: &[Command], per_doorbell: u32, outcome: &mut Outcome) {
    let machine = disk.machine;
    disk.make_available();
    disk.submit(&[TLBI_NSNH_ALL, CFGI_ALL]);
    let pointers = 2 << LOG2SIZE;
    let start = disk.smmu.prod();
    disk.smmu.push(burst);
    let doorbell = disk.smmu.base() + reg::CMDQ_PROD;
    let mut requests = vec![disk.notify_request()];
    let total = burst.len() as u32;
    let mut done = 0_u32;
    while done < total {
        done = done.saturating_add(per_doorbell).min(total);
        let prod = (start + done) % pointers;
        requests.push(format!("writel {doorbell:#x} {prod:#x}"));
    }
    // not more at once than the socket holds replies for
    for some in requests.chunks(256) {
        machine.requests(some);
    }
    disk.smmu.wait_consumed();
    disk.settles();
    let prod = disk.smmu.read(reg::EVENTQ_PROD);
    let cons = disk.smmu.read(reg::EVENTQ_CONS);
    outcome.overflows += (prod ^ cons) >> 31;
    outcome.events += u32::from((prod ^ cons) << 1 != 0);
    disk.smmu.write(reg::EVENTQ_CONS, prod);
    if disk.is_idle() {
        disk.arrives();
    } else {
        outcome.broken += 1;
        disk.restart();
    }
}

#[track_caller]
fn bursts(kind: Kind) {
    let asked = env::var("BURST").ok().and_then(|text| text.parse().ok());
    let (count, rounds) = asked.map_or((BURST, ROUNDS), |count| (count, LONG_ROUNDS));
    for stages in [Stages::One, Stages::Two, Stages::Both] {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        disk.smmu.setup_queue(QUEUE, LOG2SIZE);
        let commands = (0..count).map(|number| kind.command(stages, number));
        let burst: Vec<Command> = commands.chain([SYNC]).collect();
        for per_doorbell in PER_DOORBELL {
            let mut outcome = Outcome::default();
            for _ in 0..rounds {
                round(&mut disk, &burst, per_doorbell, &mut outcome);
            }
            println!(
                "{kind:?}, {stages:?}, {count} commands, {} at a time, {rounds} rounds: {outcome:?}",
                per_doorbell.min(count)
            );
            assert_eq!(
                outcome,
                Outcome::default(),
                "{kind:?} {stages:?} {per_doorbell}"
            );
        }
    }
}

#[test]
fn burst_of_foreign_invalidations_aborts_nothing() {
    bursts(Kind::Foreign);
}

#[test]
fn burst_of_neighbouring_invalidations_aborts_nothing() {
    bursts(Kind::Neighbours);
}

#[test]
fn burst_of_own_invalidations_aborts_nothing() {
    bursts(Kind::Own);
}

#[test]
fn burst_of_all_invalidations_aborts_nothing() {
    bursts(Kind::All);
}
