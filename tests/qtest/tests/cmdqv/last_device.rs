// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The VINTF goes with the last device, and comes with the next one.

use smmuv3_qtest::{
    assigned::{vfio_pci, Bench},
    cmdqv::{Cmdqv, CmdqvHardware, Register},
    command::{self, SYNC},
    qemu,
};

use crate::{
    bench::{executors, setup, HOST},
    failures::consumed,
};

/// Bench with the device "d0", and `count` others for the slot 2.
fn with_spares(host: &str, count: usize) -> (Bench, Vec<i32>) {
    let mut machine = setup(&qemu(), host, "on").slot(1).slot(2);
    let fd = machine.spare("d0", "a");
    let device = vfio_pci("d0", fd, "slot1");
    machine = machine.device(&device);
    let spares = (0..count).map(|at| machine.spare(&format!("s{at}"), "a"));
    let spares = spares.collect();
    let bench = machine.start();
    bench.number_buses();
    (bench, spares)
}

/// The guest goes on in software while there is no device, and in hardware with
/// the next one. C does not let the first device go.
#[test]
fn last_device_may_leave_and_another_one_come() {
    let (bench, spares) = with_spares(HOST, 1);
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    let mut hardware = CmdqvHardware::of(&bench);
    cmdqv.submit(0, &[command::tlbi_nh_asid(1), SYNC]);
    assert_eq!(hardware.step().len(), 2);
    assert_eq!(executors(&bench), [2, 0]);
    bench.unplug("d0", 1);
    assert!(!cmdqv.page_is_mapped());
    bench.expect_objects("nothing of the VINTF is left", &[]);
    assert_eq!(executors(&bench), [0, 2]);
    assert_eq!(cmdqv.get(0, Register::Cons), 2, "it keeps its index");
    cmdqv.submit(0, &[command::tlbi_nh_asid(2), SYNC]);
    consumed(&cmdqv, 0);
    bench.plug("s0", spares[0], 2).expect("a VINTF is free");
    assert_eq!(executors(&bench), [2, 0]);
    assert!(cmdqv.page_is_mapped());
    let mut next = CmdqvHardware::of(&bench);
    assert_eq!(next.get(0, Register::Cons), 4);
    cmdqv.submit(0, &[command::tlbi_nh_asid(3), SYNC]);
    assert_eq!(next.step().len(), 2);
    bench.finish();
}

/// The host keeps a queue when the last device leaves. Its vIOMMU is kept, and
/// goes when the host lets it. The next device has a VINTF of its own.
#[test]
fn vintf_that_cannot_go_is_kept_and_retried() {
    let (bench, spares) = with_spares(HOST, 2);
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.script("fail DESTROY kind=hwqueue errno=EBUSY");
    bench.unplug("d0", 1);
    let viommus = |kind: &str| bench.journal().all(kind).count();
    assert_eq!(viommus("cmdqv-viommu"), 1, "its queue is there");
    assert_eq!(viommus("hwqueue"), 2);
    bench.script("clear");
    bench.plug("s0", spares[0], 2).expect("a VINTF is free");
    assert_eq!(executors(&bench), [2, 0]);
    assert_eq!(viommus("cmdqv-viommu"), 1, "the old one is gone");
    assert_eq!(viommus("hwqueue"), 2);
    bench.script("fail DESTROY kind=hwqueue errno=EIO");
    bench.unplug("s0", 2);
    bench.plug("s1", spares[1], 2).expect("a VINTF is free");
    assert_eq!(viommus("cmdqv-viommu"), 2);
    assert_eq!(executors(&bench), [2, 0]);
    bench.script("clear");
    bench.machine().system_reset();
    assert_eq!(viommus("cmdqv-viommu"), 1, "the reset has tried again");
    cmdqv.boot();
    assert_eq!(executors(&bench), [2, 0]);
    bench.finish_with_errors();
}

/// The kept VINTF goes while the next one has the same place in QEMU's memory,
/// and its errors are not reported: a file that is not read keeps the main loop busy.
#[test]
fn kept_vintf_does_not_disturb_the_next_one() {
    let (bench, spares) = with_spares(HOST, 1);
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.script("fail DESTROY kind=hwqueue errno=EBUSY");
    bench.unplug("d0", 1);
    let count = |kind: &str| bench.journal().all(kind).count();
    assert_eq!(count("cmdqv-viommu"), 1, "its queue is there");
    assert_eq!(count("cmdqv-veventq"), 0, "its errors are not read");
    bench.plug("s0", spares[0], 2).expect("a VINTF is free");
    assert_eq!(count("cmdqv-viommu"), 2);
    bench.script("clear");
    bench.machine().system_reset();
    assert_eq!(count("cmdqv-viommu"), 1, "the reset has tried again");
    cmdqv.boot();
    let mut hardware = CmdqvHardware::of(&bench);
    assert!(hardware.is_mapped());
    cmdqv.submit(0, &[SYNC]);
    assert_eq!(hardware.step().len(), 1, "the doorbell is the hardware's");
    bench.finish_with_errors();
}

/// The guest does not ring again for commands that hardware has not executed.
#[test]
fn commands_in_a_queue_continue_when_the_last_device_leaves() {
    let (bench, _) = with_spares(HOST, 0);
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    for slot in [0, 1] {
        cmdqv.submit(slot, &[command::tlbi_nh_asid(1), SYNC]);
    }
    bench.unplug("d0", 1);
    for slot in [0, 1] {
        consumed(&cmdqv, slot);
        assert!(!cmdqv.error(slot), "{slot}");
    }
    bench.finish();
}

/// The parts of a vIOMMU that is not completed go before it.
#[test]
fn incomplete_vintf_leaves_nothing_behind() {
    for line in [
        "fail HWPT_ALLOC kind=abort errno=ENOMEM",
        "fail HWPT_ALLOC kind=bypass errno=ENOMEM",
        "fail MMAP errno=ENOMEM skip=1",
        "fail VEVENTQ_ALLOC kind=cmdqv-veventq errno=ENOMEM",
    ] {
        let (bench, spares) = with_spares(HOST, 2);
        bench.unplug("d0", 1);
        bench.script(line);
        bench.plug("s0", spares[0], 2).expect_err(line);
        assert_eq!(bench.journal().failures_of(&["DESTROY"]), 0, "{line}");
        bench.expect_objects(line, &[]);
        bench.script("clear");
        bench.plug("s1", spares[1], 2).expect("nothing fails");
        let cmdqv = Cmdqv::find(bench.machine());
        cmdqv.boot();
        assert!(CmdqvHardware::of(&bench).is_mapped(), "{line}");
        assert!(cmdqv.page_is_mapped(), "{line}");
        bench.finish();
    }
}

/// A host whose VINTFs are used up when the next device comes: with `on` the
/// device is refused, and the guest's queues stay in software.
#[test]
fn device_after_the_last_is_refused_without_vintf() {
    let (bench, spares) = with_spares(HOST, 2);
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.unplug("d0", 1);
    bench.script("fail VIOMMU_ALLOC errno=ENOSPC");
    let error = bench.plug("s0", spares[0], 2).expect_err("cmdqv=on");
    assert!(error.contains("cmdqv=on"), "{error}");
    bench.expect_objects("nothing is left", &[]);
    cmdqv.submit(1, &[command::tlbi_nh_asid(2), SYNC]);
    consumed(&cmdqv, 1);
    bench.script("clear");
    bench.plug("s1", spares[1], 2).expect("a VINTF is free");
    assert_eq!(executors(&bench), [2, 0]);
    bench.finish();
}
