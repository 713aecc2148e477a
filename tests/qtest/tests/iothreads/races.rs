// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Requests that race with a driver's accesses to the SMMU.

use std::{
    thread,
    time::{Duration, Instant},
};

use smmuv3_qtest::{
    command::{self, Command, CFGI_ALL, SYNC, TLBI_NSNH_ALL},
    smmu::{reg, SMMUEN},
    translated::{Stages, ASID, VMID},
    until, Random, TIMEOUT,
};

use crate::disk::{machine, yield_to_the_main_thread, Disk, REQUESTS, SID};

const ROUNDS: u32 = 60;

const ALL: [Stages; 3] = [Stages::One, Stages::Two, Stages::Both];

/// Returns invalidations that change no translation.
fn no_op_invalidations(stages: Stages) -> Vec<Command> {
    let vmid = u64::from(VMID) << 32;
    let mut commands = vec![
        command::cfgi_ste(SID),
        TLBI_NSNH_ALL,
        CFGI_ALL,
        command::cfgi_ste_range(SID, 3),
    ];
    if stages != Stages::Two {
        commands.extend([
            command::cfgi_cd(SID, 0),
            [0x11 | vmid | (u64::from(ASID) << 48), 0],
            [0x10 | vmid, 0],
            [0x12 | vmid | (u64::from(ASID) << 48), Disk::data(3) | 1],
        ]);
    }
    if stages != Stages::One {
        commands.extend([[0x28 | vmid, 0], [0x2a | vmid, Disk::data(5) | 1]]);
    }
    commands
}

#[test]
fn iothread_requests_complete_with_every_stage() {
    for stages in ALL {
        let machine = machine(stages);
        let disk = Disk::new(&machine, stages);
        for _ in 0..3 {
            disk.read();
            disk.arrives();
        }
    }
}

#[test]
fn io_survives_concurrent_tlbi() {
    for stages in ALL {
        let machine = machine(stages);
        let disk = Disk::new(&machine, stages);
        let commands = no_op_invalidations(stages);
        let (mut rounds, mut at_once) = (0, 0);
        while rounds < ROUNDS || at_once < ROUNDS {
            assert!(rounds < 50 * ROUNDS, "{at_once}: they hardly ever meet");
            disk.read();
            let start = Instant::now();
            while !disk.is_idle() {
                assert!(start.elapsed() < *TIMEOUT, "no end of the requests");
                disk.submit(&commands);
                at_once += 1;
            }
            disk.arrives();
            rounds += 1;
        }
        assert_eq!(disk.smmu.read(reg::EVENTQ_PROD), 0, "an event");
    }
}

/// After a TLBI and `CMD_SYNC` no thread uses the old translation.
#[test]
fn unmapped_page_is_not_written_after_sync() {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        for round in 0..ROUNDS {
            disk.read();
            disk.arrives();
            let request = (round % u32::from(REQUESTS)) as u16;
            let page = Disk::data(request);
            disk.input().unmap(page);
            let by_address = if stages == Stages::Two { 0x2a } else { 0x13 };
            disk.submit(&[[by_address | (u64::from(VMID) << 32), page | 1]]);
            disk.read();
            disk.settles();
            disk.is_untouched(request);
            disk.map_data(request);
            disk.restart();
        }
    }
}

/// SMMUEN and STEs change in the middle of requests, and the I/O thread records
/// events. Requests fail; QEMU does not crash or hang.
#[test]
fn racy_guest_does_not_crash_qemu() {
    for stages in ALL {
        let machine = machine(stages);
        let mut disk = Disk::new(&machine, stages);
        for round in 0..ROUNDS {
            disk.read();
            let entry = disk.entry();
            disk.write_entry([1, 0, 0, 0]);
            disk.submit(&[CFGI_ALL]);
            disk.smmu.disable(SMMUEN);
            disk.smmu.write(reg::GBPA, 0x8010_0000);
            disk.smmu.enable(SMMUEN);
            disk.write_entry([0; 4]);
            disk.submit(&[command::cfgi_ste(SID)]);
            disk.smmu.write(reg::GBPA, 0x8000_0000);
            disk.write_entry(entry);
            disk.submit(&[CFGI_ALL, TLBI_NSNH_ALL]);
            let prod = disk.smmu.read(reg::EVENTQ_PROD);
            disk.smmu.write(reg::EVENTQ_CONS, prod);
            if round % 8 == 7 {
                machine.system_reset();
                disk = Disk::new(&machine, stages);
            } else {
                disk.restart();
            }
        }
        disk.read();
        disk.arrives();
    }
}

/// Longest time that the I/O thread runs before it is preempted.
const LONGEST: u64 = 400;

/// All pages are unmapped while the I/O thread walks their tables and is
/// preempted at a random point. It may use stale pages for the current access,
/// but must not cache them once other pages are mapped there.
#[test]
fn walk_racing_tlbi_is_not_cached() {
    for stages in ALL {
        let machine = machine(stages);
        yield_to_the_main_thread(&machine);
        let mut disk = Disk::new(&machine, stages);
        let mut random = Random::new(1);
        let table = disk.table_of_data();
        let descriptors = machine.read_memory(table, 4096);
        let elsewhere = Disk::remapped(&descriptors);
        let mut halfway = 0;
        for round in 0..4 * ROUNDS {
            disk.make_available();
            disk.smmu.push(&[TLBI_NSNH_ALL, SYNC]);
            let doorbell = disk.smmu.base() + reg::CMDQ_PROD;
            let unmap = [
                format!("memset {table:#x} 0x1000 0"),
                format!("writel {doorbell:#x} {:#x}", disk.smmu.prod()),
            ];
            machine.requests(&[disk.notify_request()]);
            let microseconds = (random.next() >> 11) % LONGEST;
            thread::sleep(Duration::from_micros(microseconds));
            machine.requests(&unmap);
            disk.smmu.wait_consumed();
            disk.settles();
            let touched = disk.touched();
            halfway += u32::from((1..Disk::pages()).contains(&touched));
            disk.restart();
            machine.write_memory(table, &elsewhere);
            disk.read();
            until("end of the requests", || disk.is_idle().then_some(()));
            assert_eq!(disk.touched(), 0, "{stages:?}, round {round}");
            machine.write_memory(table, &descriptors);
            disk.submit(&[TLBI_NSNH_ALL]);
        }
        assert_ne!(halfway, 0, "{stages:?}: it was never in the midst of it");
    }
}
