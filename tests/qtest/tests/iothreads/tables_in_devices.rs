// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tables in device memory. A walk without the BQL does not read it, because it
//! could deadlock with the main thread; the guest sees an external abort, which
//! the specification permits for any address.

use smmuv3_qtest::{
    assigned::{self, Setup, IDENTITY, MAPPED},
    command::CFGI_ALL,
    pci,
    smmu::reg,
    translated::Stages,
    until,
};

use crate::disk::{devices, machine, Disk, ARGUMENTS};

/// The machine's real-time clock, whose registers are not zero.
const CLOCK: u64 = 0x0901_0000;

/// `F_CD_FETCH` (§7.3.10), `F_WALK_EABT` (§7.3.12)
const F_CD_FETCH: u64 = 0x09;
const F_WALK_EABT: u64 = 0x0b;

/// Returns the number of the first event that `change` of the tables or a read of the
/// disk after it records. The disk's I/O thread may poll its ring before the read.
#[track_caller]
fn event_of_a_read(disk: &Disk<'_>, change: impl FnOnce()) -> u64 {
    let before = disk.smmu.read(reg::EVENTQ_PROD);
    change();
    disk.read();
    until("an event", || {
        (disk.smmu.read(reg::EVENTQ_PROD) != before).then_some(())
    });
    disk.event(before)[0] & 0xff
}

#[test]
fn page_table_in_device_is_external_abort() {
    for stages in [Stages::One, Stages::Two] {
        let machine = machine(stages);
        let disk = Disk::new(&machine, stages);
        let event = event_of_a_read(&disk, || disk.lead_data(CLOCK));
        assert_eq!(event, F_WALK_EABT, "{stages:?}");
    }
}

#[test]
fn cd_in_device_is_external_abort() {
    let machine = machine(Stages::One);
    let disk = Disk::new(&machine, Stages::One);
    let [word0, rest @ ..] = disk.entry();
    let config = word0 & 0x3f;
    let event = event_of_a_read(&disk, || {
        disk.write_entry([CLOCK | config, rest[0], rest[1], rest[2]]);
        disk.submit(&[CFGI_ALL]);
    });
    assert_eq!(event, F_CD_FETCH);
}

/// The mapped BAR of an assigned device is a RAM region for QEMU, but reading
/// it still accesses the device.
#[test]
fn page_table_in_mapped_bar_is_external_abort() {
    const BAR: u64 = 0x2000_0000;
    for stages in [Stages::One, Stages::Two] {
        let setup = Setup::without_smmu("smmu a").assign(MAPPED, 1);
        let with_arguments = ARGUMENTS.into_iter().fold(setup, Setup::args);
        let bench = devices(stages)
            .iter()
            .fold(with_arguments, |made, device| made.device(device))
            .start();
        let machine = bench.machine();
        bench.number_buses();
        let port = pci::VIRT.config(pci::sid(8, 1));
        // the MMIO window of the bus behind it, and memory decoding
        let window = (BAR >> 16) as u32 & 0xfff0;
        machine.write32(port + 0x20, window | (window << 16));
        machine.write_sized(port + 4, 6, 2);
        pci::VIRT.enable(machine, assigned::sid(1), IDENTITY, BAR);
        let map = machine.monitor("info mtree -f");
        assert!(map.contains("ramd"), "the BAR is mapped: {map}");
        let disk = Disk::new(machine, stages);
        let event = event_of_a_read(&disk, || disk.lead_data(BAR));
        assert_eq!(event, F_WALK_EABT, "{stages:?}");
    }
}
