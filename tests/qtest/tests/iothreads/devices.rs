// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tables that are registers of devices. A thread without the Big QEMU Lock leaves
//! those alone, or it could wait for who waits for it: to the guest that is an
//! external abort, which the specification permits of any address.

use smmuv3_qtest::{command::CFGI_ALL, smmu::reg, translated::Stages, until};

use crate::disk::{machine, Disk};

/// The machine's real-time clock, whose registers read as something.
const CLOCK: u64 = 0x0901_0000;

/// `F_CD_FETCH` (7.3.10), `F_WALK_EABT` (7.3.12)
const F_CD_FETCH: u64 = 0x09;
const F_WALK_EABT: u64 = 0x0b;

/// The number of the first event that a read of the disk leaves behind.
#[track_caller]
fn event_of_a_read(disk: &Disk<'_>) -> u64 {
    let before = disk.smmu.read(reg::EVENTQ_PROD);
    disk.read();
    until("an event", || {
        (disk.smmu.read(reg::EVENTQ_PROD) != before).then_some(())
    });
    disk.event(before)[0] & 0xff
}

#[test]
fn a_table_of_pages_in_a_device_is_an_external_abort() {
    for stages in [Stages::One, Stages::Two] {
        let machine = machine(stages);
        let disk = Disk::new(&machine, stages);
        disk.lead_data(CLOCK);
        assert_eq!(event_of_a_read(&disk), F_WALK_EABT, "{stages:?}");
    }
}

#[test]
fn a_context_descriptor_in_a_device_is_an_external_abort() {
    let machine = machine(Stages::One);
    let disk = Disk::new(&machine, Stages::One);
    let [word0, rest @ ..] = disk.entry();
    let config = word0 & 0x3f;
    disk.write_entry([CLOCK | config, rest[0], rest[1], rest[2]]);
    disk.submit(&[CFGI_ALL]);
    assert_eq!(event_of_a_read(&disk), F_CD_FETCH);
}
