// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The guest when the host refuses a step.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use smmuv3_qtest::{
    assigned::{sid, ste, vfio_pci, Guest, VIOMMU as PLAIN_VIOMMU},
    cmdqv::{cerror, reg, Cmdqv, CmdqvHardware, Register, ENABLE},
    command::{self, SYNC},
    journal::On,
    qemu,
    smmu::SMMUEN,
    until,
};

use crate::bench::{executors, setup, start, HOST, VIOMMU};

/// A host that has no CMDQV, or one that the device does not support.
const NO_CMDQV: [&str; 6] = [
    "smmu a",
    "smmu a cmdqv=version:2",
    "smmu a cmdqv=vcmdqs:0",
    "smmu a cmdqv=sids:3",
    "smmu a cmdqv=type:2",
    "fail GET_HW_INFO kind=cmdqv errno=EIO",
];

/// A host that has one, and does not give it to this guest.
const REFUSED: [&str; 8] = [
    "smmu a cmdqv=vintfs:0",
    "smmu a cmdqv=page:4096",
    "smmu a cmdqv=page:131072",
    "fail VIOMMU_ALLOC kind=cmdqv-viommu errno=EOPNOTSUPP",
    "fail VIOMMU_ALLOC kind=cmdqv-viommu errno=ENOMEM",
    "fail VIOMMU_ALLOC kind=cmdqv-viommu errno=ETIMEDOUT",
    "fail MMAP errno=ENOMEM",
    "fail VEVENTQ_ALLOC kind=cmdqv-veventq errno=ENOMEM",
];

#[test]
fn cmdqv_on_is_refused_with_the_reason() {
    for line in NO_CMDQV.iter().chain(&REFUSED) {
        let refusal = setup(&qemu(), HOST, "on")
            .script(line)
            .assign("d0", 1)
            .refuse();
        let text = refusal.refusal().to_lowercase();
        assert!(text.contains("cmdqv"), "{line}\n{refusal}");
        assert!(!text.contains("busy"), "{line}\n{refusal}");
    }
}

#[test]
fn cmdqv_auto_goes_without_on_a_host_that_has_none() {
    for line in NO_CMDQV {
        let bench = setup(&qemu(), HOST, "auto")
            .script(line)
            .assign("d0", 1)
            .start();
        bench.expect_objects(line, &PLAIN_VIOMMU);
        assert!(Cmdqv::try_find(bench.machine()).is_none(), "{line}");
        bench.finish();
    }
}

/// C refuses the device when the host has no VINTF left.
#[test]
fn cmdqv_auto_goes_without_if_the_host_refuses() {
    for line in REFUSED {
        let bench = setup(&qemu(), HOST, "auto")
            .script(line)
            .assign("d0", 1)
            .start();
        bench.expect_objects(line, &PLAIN_VIOMMU);
        assert!(Cmdqv::try_find(bench.machine()).is_none(), "{line}");
        let smmu = bench.translating(&[ste::FIRST]);
        smmu.commands(&[command::TLBI_NSNH_ALL]);
        let finished = bench.end();
        assert_eq!(finished.error_lines().len(), 1, "{line}\n{finished}");
    }
}

#[test]
fn cmdqv_auto_follows_the_host() {
    let bench = setup(&qemu(), HOST, "auto").assign("d0", 1).start();
    bench.expect_objects("auto", &VIOMMU);
    Cmdqv::find(bench.machine()).boot();
    assert_eq!(CmdqvHardware::of(&bench).queues().len(), 2);
    bench.finish();
}

#[test]
fn cmdqv_off_does_not_ask_the_host() {
    let bench = setup(&qemu(), HOST, "off").assign("d0", 1).start();
    bench.expect_objects("off", &PLAIN_VIOMMU);
    assert!(Cmdqv::try_find(bench.machine()).is_none());
    bench.finish();
}

/// The region of a device that is plugged in later would not be in the ACPI
/// tables: C's is at the address -1 after a reboot.
#[test]
fn first_device_must_be_cold_plugged() {
    let refusal = setup(&qemu(), HOST, "on").slot(1).refuse();
    let text = refusal.refusal();
    assert!(text.contains("cmdqv"), "{refusal}");

    let mut setup = setup(&qemu(), HOST, "auto").slot(1);
    let fd = setup.spare("d0", "a");
    let bench = setup.start();
    bench.plug("d0", fd, 1).expect("without CMDQV");
    bench.expect_objects("hot-plugged", &PLAIN_VIOMMU);
    assert!(Cmdqv::try_find(bench.machine()).is_none());
    bench.machine().system_reset();
    bench.finish();
}

/// Waits until a queue is empty.
#[track_caller]
pub fn consumed(cmdqv: &Cmdqv<'_>, slot: u32) {
    until("consumption", || {
        let prod = cmdqv.get(slot, Register::Prod);
        // ERR keeps the reason of the last error
        (cmdqv.get(slot, Register::Cons) & 0xf_ffff == prod).then_some(())
    });
}

/// Linux's driver has no fallback: a queue that does not come up takes the
/// IOMMU from the guest. C fails here.
#[test]
fn queue_that_the_host_refuses_is_executed_in_software() {
    for errno in ["EFAULT", "ENOMEM", "EIO", "EINVAL"] {
        for (index, hardware_slots) in [(0, vec![]), (1, vec![0])] {
            let bench = start(&qemu());
            bench.script(&format!("fail HW_QUEUE_ALLOC index={index} errno={errno}"));
            let cmdqv = Cmdqv::find(bench.machine());
            cmdqv.boot();
            let mut hardware = CmdqvHardware::of(&bench);
            hardware.step();
            let slots: Vec<u32> = hardware.queues().iter().map(|it| it.slot).collect();
            assert_eq!(slots, hardware_slots, "{errno}");
            assert!(!cmdqv.page_is_mapped(), "queue {index} is not in the page");
            for slot in [0, 1] {
                assert_eq!(cmdqv.get(slot, Register::Status), ENABLE, "{slot}");
                bench.mark();
                cmdqv.submit(slot, &[command::tlbi_nh_asid(7), SYNC]);
                if slots.contains(&slot) {
                    assert_eq!(hardware.step().len(), 2, "it is forwarded");
                } else {
                    consumed(&cmdqv, slot);
                    assert_eq!(bench.journal().issued("a").concat().len(), 1);
                }
                assert_eq!(cmdqv.get(slot, Register::Cons), 2);
                assert!(!cmdqv.error(slot));
            }
            let finished = bench.end();
            assert_eq!(finished.error_lines().len(), 1, "{errno}\n{finished}");
        }
    }
}

/// The software queue has the hardware's restrictions.
#[test]
fn software_queue_refuses_what_hardware_refuses() {
    let bench = start(&qemu());
    bench.script("fail HW_QUEUE_ALLOC errno=EFAULT");
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    for command in [
        command::tlbi_nh_all(0),
        command::TLBI_NSNH_ALL,
        command::CFGI_ALL,
        command::cfgi_ste(sid(1)),
        command::SYNC_IRQ,
        command::sync_msi(Cmdqv::ring(8), 1),
        command::RESERVED,
    ] {
        let cons = cmdqv.get(0, Register::Prod);
        bench.mark();
        cmdqv.submit(0, &[command, SYNC]);
        until("an error", || cmdqv.error(0).then_some(()));
        let expected = cons | (cerror::ILL_OPCODE << 24);
        assert_eq!(cmdqv.get(0, Register::Cons), expected, "{command:x?}");
        assert_eq!(cmdqv.read(reg::LVCMDQ_ERR_MAP), 1);
        assert_eq!(cmdqv.read(reg::VI_ERR_MAP), 1);
        let journal = bench.journal();
        assert_eq!(journal.calls("HWPT_INVALIDATE").len(), 0, "{command:x?}");
        drop(journal);
        let at = Cmdqv::ring(0) + command::BYTES * u64::from(cons);
        let machine = bench.machine();
        machine.write_memory(at, &command::to_bytes(&[SYNC]));
        cmdqv.acknowledge(0);
        consumed(&cmdqv, 0);
        assert_eq!(cmdqv.read(reg::LVCMDQ_ERR_MAP), 0);
    }
    bench.finish_with_errors();
}

/// A stream of the guest's own is replaced by the host's.
#[test]
fn software_queue_invalidates_ats_of_own_streams() {
    let bench = start(&qemu());
    bench.translating(&[ste::FIRST]);
    bench.script("fail HW_QUEUE_ALLOC errno=EFAULT");
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.mark();
    cmdqv.submit(0, &[command::atc_inv_all(sid(1)), SYNC]);
    consumed(&cmdqv, 0);
    assert!(!cmdqv.error(0));
    let issued = bench.journal().issued("a").concat();
    let [[word0, _]] = issued[..] else {
        panic!("one command was expected: {issued:x?}");
    };
    assert_eq!(word0 & 0xff, 0x40);
    assert_ne!(word0 >> 32, u64::from(sid(1)), "the guest's StreamID");
    bench.finish_with_errors();
}

/// A host that gives queues again is used again.
#[test]
fn hardware_is_used_again_after_a_reset() {
    let bench = start(&qemu());
    bench.script("fail HW_QUEUE_ALLOC errno=EFAULT");
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.script("clear");
    bench.machine().system_reset();
    cmdqv.boot();
    assert_eq!(CmdqvHardware::of(&bench).queues().len(), 2);
    assert!(cmdqv.page_is_mapped());
    bench.finish_with_errors();
}

/// A queue that the host does not give back stays known: the guest does not get
/// at it, works in software, and the device tries again.
#[test]
fn queue_that_cannot_be_destroyed_is_hidden_and_retried() {
    for (errno, index) in [("EBUSY", 0), ("EIO", 0), ("EBUSY", 1), ("EIO", 1)] {
        let bench = start(&qemu());
        let cmdqv = Cmdqv::find(bench.machine());
        cmdqv.boot();
        let line = format!("fail DESTROY kind=hwqueue index={index} errno={errno}");
        bench.script(&line);
        cmdqv.set_base(0, Cmdqv::ring_base(4));
        assert!(!cmdqv.page_is_mapped(), "{line}");
        cmdqv.submit_at(0, Cmdqv::ring(4), &[command::tlbi_nh_asid(3), SYNC]);
        consumed(&cmdqv, 0);
        bench.script("clear");
        bench.machine().system_reset();
        bench.expect_objects(&line, &VIOMMU);
        cmdqv.boot();
        assert_eq!(CmdqvHardware::of(&bench).queues().len(), 2, "{line}");
        assert!(cmdqv.page_is_mapped(), "{line}");
        bench.finish_with_errors();
    }
}

/// The old queue would execute the old memory for the next guest.
#[test]
fn stuck_queue_stays_hidden_over_a_reset() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.script("fail DESTROY kind=hwqueue errno=EBUSY");
    bench.machine().system_reset();
    assert!(!cmdqv.page_is_mapped());
    cmdqv.boot();
    assert!(!cmdqv.page_is_mapped(), "the host has the old queues");
    let hardware = CmdqvHardware::of(&bench);
    for slot in [0, 1] {
        assert_eq!(hardware.get(slot, Register::Config), 0, "{slot}");
        cmdqv.submit(slot, &[SYNC]);
        consumed(&cmdqv, slot);
    }
    bench.script("clear");
    cmdqv.boot();
    assert!(cmdqv.page_is_mapped(), "the next boot tries again");
    assert_eq!(hardware.queues().len(), 2);
    bench.finish_with_errors();
}

/// A guest that moves its queues all the time does not hold up the machine:
/// after a slow release they stay in software for a while.
#[test]
fn slow_releases_take_a_small_share_of_the_time() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.script("fail DESTROY kind=hwqueue delay_ms=200");
    bench.mark();
    let begun = Instant::now();
    for _ in 0..50 {
        cmdqv.write(reg::VINTF_CONFIG, 0);
        cmdqv.write(reg::VINTF_CONFIG, ENABLE);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "50 moves");
    assert_eq!(bench.journal().calls("DESTROY").len(), 2);
    assert_eq!(executors(&bench), [0, 2]);
    for slot in [0, 1] {
        cmdqv.set(slot, Register::Config, ENABLE);
        cmdqv.submit(slot, &[command::tlbi_nh_asid(1), SYNC]);
        consumed(&cmdqv, slot);
    }
    bench.script("clear");
    sleep(Duration::from_millis(2100));
    cmdqv.boot();
    assert_eq!(executors(&bench), [2, 0], "the time has passed");
    assert!(cmdqv.page_is_mapped());
    bench.finish();
}

/// The VINTF matches no more streams: the device is on abort, not on something
/// that is not the guest's choice.
#[test]
fn stream_without_vdevice_is_on_abort() {
    let bench = start(&qemu());
    let smmu = bench.smmu();
    bench.script("fail VDEVICE_ALLOC errno=ENOSPC");
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::FIRST);
    bench.expect("no vDEVICE", &[("d0", On::Abort)]);
    bench.script("clear");
    smmu.install(sid(1), ste::FIRST);
    bench.expect("a vDEVICE", &[("d0", On::Nested(ste::FIRST))]);
    bench.finish_with_errors();
}

/// QEMU must not spin on a file that fails.
#[test]
fn failing_event_queue_is_closed_and_reported_once() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.script("fail VEVENTQ_READ errno=EIO");
    let mut hardware = CmdqvHardware::of(&bench);
    hardware.report_as(0, &[1, 0]);
    until("the end of the queue", || {
        (bench.journal().all("cmdqv-veventq").count() == 0).then_some(())
    });
    bench.script("clear");
    cmdqv.submit(0, &[SYNC]);
    let finished = bench.end();
    assert_eq!(finished.error_lines().len(), 1, "{finished}");
}

/// C leaves the page mapped and the vEVENTQ open, and QEMU prints EBUSY.
#[test]
fn failed_realize_frees_everything() {
    let mut machine = setup(&qemu(), HOST, "on").slot(1);
    let fd = machine.spare("d0", "a");
    let device = vfio_pci("d0", fd, "slot1");
    let refusal = machine.device(&format!("{device},display=on")).refuse();
    let text = refusal.error_lines().join("\n");
    assert!(text.contains("display"), "{refusal}");
    assert!(!text.contains("busy"), "{refusal}");
    assert_eq!(refusal.status.code(), Some(1), "{refusal}");
}

/// The device that stays keeps its VINTF.
#[test]
fn failed_realize_of_another_device_changes_nothing() {
    let mut machine = setup(&qemu(), HOST, "on").assign("d0", 1).slot(2);
    let fd = machine.spare("d1", "a");
    let bench = machine.start();
    let arguments = serde_json::json!({
        "driver": "vfio-pci", "id": "d1", "fd": fd.to_string(), "iommufd": "iommufd0",
        "bus": "slot2", "display": "on",
    });
    let result = bench.machine().try_qmp("device_add", arguments);
    assert!(result.is_err(), "it has no display");
    bench.expect_objects("d0 is left", &VIOMMU);
    Cmdqv::find(bench.machine()).boot();
    bench.finish();
}
