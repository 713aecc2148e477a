// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Events of another thread's accesses, and what a `CMD_SYNC` says of them
//! (4.7.3).

use smmuv3_qtest::{smmu::reg, translated::Stages};

use crate::disk::{machine, Disk, REQUESTS};

const ROUNDS: u16 = 60;

const ALL: [Stages; 3] = [Stages::One, Stages::Two, Stages::Both];

/// Records so far.
fn events(disk: &Disk<'_>) -> u32 {
    disk.smmu.read(reg::EVENTQ_PROD)
}

/// The driver has read all records.
fn acknowledge(disk: &Disk<'_>) {
    disk.smmu.write(reg::EVENTQ_CONS, events(disk));
}

/// The device has seen its access abort: the record of that is there when a
/// `CMD_SYNC` completes.
#[test]
fn an_event_is_there_when_a_cmd_sync_completes() {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        for round in 0..ROUNDS {
            let request = round % REQUESTS;
            disk.unmap_data(request);
            let before = events(&disk);
            disk.read();
            disk.settles();
            disk.submit(&[]);
            assert_ne!(events(&disk), before, "{stages:?}, round {round}");
            acknowledge(&disk);
            disk.remap_data(request);
            disk.restart();
        }
    }
}

/// A page that is mapped when a `CMD_SYNC` completes is not reported as missing
/// after it, even if it was when the access began.
#[test]
fn no_event_of_what_was_invalidated_comes_after_a_cmd_sync() {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        for round in 0..ROUNDS {
            // one of the last, so that the thread gets there about when it is mapped
            let request = REQUESTS - 1 - round % 8;
            disk.unmap_data(request);
            disk.read();
            disk.remap_data(request);
            let before = events(&disk);
            disk.settles();
            disk.submit(&[]);
            assert_eq!(events(&disk), before, "{stages:?}, round {round}");
            acknowledge(&disk);
            disk.restart();
        }
    }
}
