// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Events of accesses in an I/O thread, and the guarantees of a `CMD_SYNC` for
//! them (§4.7.3).

use smmuv3_qtest::{
    command::SYNC,
    smmu::{reg, EVENTQEN},
    translated::Stages,
};

use crate::disk::{machine, Disk, REQUESTS};

const ROUNDS: u16 = 60;

const ALL: [Stages; 3] = [Stages::One, Stages::Two, Stages::Both];

/// Returns the number of records so far.
fn events(disk: &Disk<'_>) -> u32 {
    disk.smmu.read(reg::EVENTQ_PROD)
}

/// Acknowledges all records.
fn acknowledge(disk: &Disk<'_>) {
    disk.smmu.write(reg::EVENTQ_CONS, events(disk));
}

/// The device has seen its access abort, so the record must be in the Event
/// queue when a `CMD_SYNC` completes.
#[test]
fn iothread_fault_is_recorded_before_sync_completes() {
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

/// QEMU translates when it maps a page for a request, and again when it copies
/// from the bounce buffer: two records, not one for every 4 bytes.
#[test]
fn unmapped_page_of_request_is_two_records() {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        for round in 0..4 {
            disk.unmap_data(round);
            let before = events(&disk);
            disk.read();
            disk.settles();
            disk.submit(&[]);
            let count = events(&disk).wrapping_sub(before) & 0x1f;
            let addresses: Vec<u64> = (0..count)
                .map(|next| disk.event(before + next)[2])
                .collect();
            assert_eq!(
                addresses,
                [Disk::data(round); 2],
                "{stages:?}, round {round}"
            );
            acknowledge(&disk);
            disk.remap_data(round);
            disk.restart();
        }
    }
}

/// A page that is mapped when a `CMD_SYNC` completes is not reported as missing
/// after it, even if it was when the access began.
#[test]
fn no_event_of_invalidated_mapping_after_sync() {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        for round in 0..ROUNDS {
            // one of the last, so that the thread accesses it about when it is
            // mapped
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

/// A qtest request that only takes some milliseconds.
const WAIT: &str = "memset 0x44000000 0x1000000 0";

/// Makes the disk fault, then writes to registers before QEMU's main loop runs,
/// which would record pending events. The record must be in the queue; the I/O
/// thread may be late, but not every time.
#[track_caller]
fn a_record_is_there_after(writes: impl Fn(&Disk<'_>) -> Vec<(u64, u32)>) {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        let mut in_time = 0;
        for round in 0..ROUNDS {
            let request = round % REQUESTS;
            disk.unmap_data(request);
            let before = events(&disk);
            disk.make_available();
            let at = |register| disk.smmu.base() + register;
            let mut requests = vec![disk.notify_request(), WAIT.into()];
            for (register, value) in writes(&disk) {
                requests.push(format!("writel {:#x} {value:#x}", at(register)));
            }
            requests.push(format!("readl {:#x}", at(reg::EVENTQ_PROD)));
            let answers = machine.requests(&requests);
            in_time += u32::from(answers.last().copied() != Some(before.into()));
            disk.smmu.enable(EVENTQEN);
            disk.settles();
            disk.submit(&[]);
            acknowledge(&disk);
            disk.remap_data(request);
            disk.restart();
        }
        assert_ne!(in_time, 0, "{stages:?}: events that came in time");
    }
}

#[test]
fn cmd_sync_records_events_without_main_loop() {
    a_record_is_there_after(|disk| {
        disk.smmu.push(&[SYNC]);
        vec![(reg::CMDQ_PROD, disk.smmu.prod())]
    });
}

#[test]
fn eventqen_clear_keeps_earlier_records() {
    a_record_is_there_after(|disk| {
        let cr0 = disk.smmu.read(reg::CR0);
        vec![(reg::CR0, cr0 & !EVENTQEN)]
    });
}
