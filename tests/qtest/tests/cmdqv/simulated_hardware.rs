// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated host and the hardware that a test plays, with the C device.

use smmuv3_qtest::{
    cmdqv::{cerror, reg, Cmdqv, CmdqvHardware, Executed, HwQueue, Register, View, ENABLE},
    command::{self, SYNC},
    qemu_c, until, Smmu,
};

use crate::bench::{setup, start, HOST, VIOMMU};

#[test]
fn c_device_gets_vintf_and_maps_its_page() {
    let bench = start(&qemu_c());
    bench.expect_objects("the machine has a device", &VIOMMU);
    let hardware = CmdqvHardware::of(&bench);
    assert!(hardware.is_mapped());
    let cmdqv = Cmdqv::find(bench.machine());
    assert_eq!(cmdqv.read(reg::PARAM), 0x4011);
    assert!(!cmdqv.page_is_mapped(), "VINTF 0 is disabled");
    bench.finish();
}

#[test]
fn c_device_gives_queues_to_the_hardware() {
    let bench = start(&qemu_c());
    let cmdqv = Cmdqv::find(bench.machine());
    let mut hardware = CmdqvHardware::of(&bench);
    cmdqv.boot();
    assert!(cmdqv.page_is_mapped());
    let queue = |slot| HwQueue {
        slot,
        iova: Cmdqv::ring(slot),
        length: 4096,
    };
    assert_eq!(hardware.queues(), [queue(0), queue(1)]);
    assert_eq!(hardware.step(), []);
    for slot in [0, 1] {
        assert_eq!(hardware.get(slot, Register::Config), ENABLE);
        assert_eq!(cmdqv.get(slot, Register::Status), ENABLE);
    }
    cmdqv.submit(0, &[command::tlbi_nh_asid(7), SYNC]);
    cmdqv.submit(1, &[SYNC]);
    let vmid = bench.journal().all("s2").next().map(|it| it.number("vmid"));
    let tlbi = command::tlbi_nh_asid(7)[0] | (vmid.expect("a stage 2") << 32);
    let executed = |slot, command| Executed { slot, command };
    let expected = [executed(0, [tlbi, 0]), executed(0, SYNC), executed(1, SYNC)];
    assert_eq!(hardware.step(), expected);
    assert_eq!(cmdqv.get(0, Register::Cons), 2);
    let direct = cmdqv.at(View::Direct, 1, Register::Cons);
    assert_eq!(bench.machine().read32(direct), 1, "it is forwarded");
    // around the end of the queue
    for _ in 0..300 {
        cmdqv.submit(0, &[SYNC, SYNC]);
        assert_eq!(hardware.step().len(), 2);
    }
    assert_eq!(cmdqv.get(0, Register::Cons), 602 % 512);
    bench.finish();
}

#[test]
fn hardware_refuses_what_a_guest_may_not_do() {
    let bench = start(&qemu_c());
    Smmu::find(bench.machine()).intercept_irqs();
    let cmdqv = Cmdqv::find(bench.machine());
    let mut hardware = CmdqvHardware::of(&bench);
    cmdqv.boot();
    for (command, code) in [
        (command::tlbi_nh_all(0), cerror::ILL_OPCODE),
        (command::TLBI_NSNH_ALL, cerror::ILL_OPCODE),
        (command::cfgi_ste(8), cerror::ILL_OPCODE),
        (command::SYNC_IRQ, cerror::ILL_OPCODE),
        (command::atc_inv_all(8), cerror::ILL_ACCESS),
    ] {
        let cons = cmdqv.get(1, Register::Prod);
        cmdqv.submit(1, &[command, SYNC]);
        assert_eq!(hardware.step(), [], "{command:x?}");
        assert!(cmdqv.error(1));
        assert_eq!(cmdqv.get(1, Register::Cons), cons | (code << 24));
        until("an interrupt", || (cmdqv.interrupts() == 1).then_some(()));
        assert_eq!(cmdqv.read(reg::VI_ERR_MAP), 1);
        assert_eq!(cmdqv.read(reg::LVCMDQ_ERR_MAP), 1 << 1);
        assert_eq!(hardware.step(), [], "it is stopped");
        // what the driver does with it
        let at = Cmdqv::ring(1) + command::BYTES * u64::from(cons);
        let machine = bench.machine();
        machine.write_memory(at, &command::to_bytes(&[SYNC]));
        cmdqv.acknowledge(1);
        assert_eq!(hardware.step().len(), 2);
    }
    bench.finish();
}

#[test]
fn c_device_frees_queues_descending_at_reset() {
    let bench = start(&qemu_c());
    let cmdqv = Cmdqv::find(bench.machine());
    for _ in 0..2 {
        bench.mark();
        cmdqv.boot();
        assert_eq!(bench.journal().queue_changes(), ["new 0", "new 1"]);
        bench.mark();
        bench.machine().system_reset();
        assert_eq!(bench.journal().queue_changes(), ["gone 1", "gone 0"]);
        assert!(!cmdqv.page_is_mapped());
        let destroyed = bench.journal().calls("DESTROY");
        assert!(destroyed.iter().all(|call| call.result() == "ok"));
    }
    bench.expect_objects("after a reset", &VIOMMU);
    bench.finish();
}

/// The C device unmaps the page on this path, so that nothing holds the vIOMMU.
#[test]
fn vintf_is_free_again_after_munmap() {
    let mut setup = setup(&qemu_c(), HOST, "on").slot(1);
    let fd = setup.spare("d0", "a");
    let bench = setup
        .script("fail HWPT_ALLOC kind=abort errno=ENOMEM count=1")
        .start();
    bench.plug("d0", fd, 1).expect_err("no abort HWPT");
    assert_eq!(bench.journal().calls("MMAP").len(), 1);
    bench.expect_objects("refused", &[]);
    bench.finish();
}

/// The refusals of the host reach QEMU, which is the reason for its own.
#[test]
fn scripted_refusals_reach_qemu() {
    for line in [
        "smmu a",
        "smmu a cmdqv=version:2",
        "smmu a cmdqv=vcmdqs:0",
        "smmu a cmdqv=sids:3",
        "smmu a cmdqv=type:2",
        "smmu a cmdqv=vintfs:0",
        "fail GET_HW_INFO kind=cmdqv errno=EIO",
        "fail VIOMMU_ALLOC kind=cmdqv-viommu errno=ETIMEDOUT",
        "fail MMAP errno=ENOMEM",
        "fail VEVENTQ_ALLOC kind=cmdqv-veventq errno=ENOMEM",
    ] {
        let refusal = setup(&qemu_c(), HOST, "on")
            .script(line)
            .assign("d0", 1)
            .refuse();
        assert!(!refusal.error_lines().is_empty(), "{line}\n{refusal}");
    }
    let bench = start(&qemu_c());
    bench.script("fail HW_QUEUE_ALLOC index=1 errno=EFAULT");
    Cmdqv::find(bench.machine()).boot();
    let hardware = CmdqvHardware::of(&bench);
    let slots: Vec<u32> = hardware.queues().iter().map(|queue| queue.slot).collect();
    assert_eq!(slots, [0]);
    bench.finish_with_errors();
}
