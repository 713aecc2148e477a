// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a guest does not get, whatever it does.

use std::time::{Duration, Instant};

use smmuv3_qtest::{
    cmdqv::{reg, Cmdqv, CmdqvHardware, Register, ENABLE, HYP_OWN, SIZE, SLOT, VINTF_PAGE},
    command::SYNC,
    qemu, Random,
};

use crate::bench::{setup, start, VIOMMU};

/// One VINTF, two queues and 16 streams, whatever the host has.
#[test]
fn guest_sees_one_vintf_with_two_queues() {
    for host in [
        "smmu a cmdqv=vintfs:3,vcmdqs:1,sids:4",
        "smmu a cmdqv=vintfs:63,vcmdqs:3,sids:4",
    ] {
        let bench = setup(&qemu(), host, "on").assign("d0", 1).start();
        let cmdqv = Cmdqv::find(bench.machine());
        cmdqv.write(reg::PARAM, !0);
        assert_eq!(cmdqv.read(reg::PARAM), 0x4011, "{host}");
        // a third queue does not exist
        cmdqv.boot();
        bench.mark();
        cmdqv.set_alloc(2, Cmdqv::allocation(2));
        cmdqv.set_base(2, Cmdqv::ring_base(2));
        assert_eq!(bench.journal().queue_changes().len(), 0, "{host}");
        assert_eq!(cmdqv.read(reg::CMDQ_ALLOC_MAP + 8), 0);
        bench.finish();
    }
}

#[test]
fn hyp_own_cannot_be_set() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    for value in [HYP_OWN, HYP_OWN | ENABLE, !0] {
        cmdqv.write(reg::VINTF_CONFIG, value);
        assert_eq!(cmdqv.read(reg::VINTF_CONFIG) & HYP_OWN, 0, "{value:#x}");
    }
    bench.finish();
}

/// C keeps `SID_MATCH` and `SID_REPLACE`.
#[test]
fn reset_restores_every_register() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    let registers = || -> Vec<u32> {
        let configuration = (0..0x34).chain(0x200..0x208).chain(0x1000..0x10d0);
        let queues = [0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000]
            .into_iter()
            .flat_map(|page| page..page + 2 * SLOT);
        let offsets = configuration.chain(queues).filter(|offset| offset % 4 == 0);
        offsets.map(|offset| cmdqv.read(offset)).collect()
    };
    let before = registers();
    cmdqv.boot();
    for index in 0..16 {
        cmdqv.write(reg::SID_MATCH + 4 * index, !0);
        cmdqv.write(reg::SID_REPLACE + 4 * index, !0);
    }
    cmdqv.write(reg::VI_INT_MASK, 1);
    bench.machine().system_reset();
    assert_eq!(registers(), before);
    bench.expect_objects("reset", &VIOMMU);
    bench.finish();
}

/// What the page says is the guest's, or that of a broken host.
#[test]
fn page_contents_do_not_hold_the_device_up() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    let hardware = CmdqvHardware::of(&bench);
    for value in [!0, 0x000f_ffff, 0x8000_0001] {
        for slot in [0, 1] {
            for register in [
                Register::Cons,
                Register::Prod,
                Register::Config,
                Register::Status,
                Register::Gerror,
                Register::Gerrorn,
            ] {
                hardware.set(slot, register, value);
            }
        }
        let start = Instant::now();
        // STATUS stays set: the hardware does not stop
        cmdqv.set_base(0, Cmdqv::ring_base(4));
        cmdqv.set_base(0, Cmdqv::ring_base(0));
        cmdqv.read(reg::LVCMDQ_ERR_MAP);
        assert!(start.elapsed() < Duration::from_secs(2), "{value:#x}");
        assert_eq!(hardware.queues().len(), 2, "{value:#x}");
    }
    bench.machine().system_reset();
    bench.expect_objects("reset", &VIOMMU);
    bench.finish();
}

/// C frees the region while the old view of memory is still in use.
#[test]
fn vintf_toggled_often_leaves_nothing_behind() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    for _ in 0..100 {
        cmdqv.write(reg::VINTF_CONFIG, 0);
        cmdqv.write(reg::VINTF_CONFIG, ENABLE);
    }
    let mut hardware = CmdqvHardware::of(&bench);
    assert!(cmdqv.page_is_mapped());
    cmdqv.set(0, Register::Config, ENABLE);
    cmdqv.submit(0, &[SYNC]);
    assert_eq!(hardware.step().len(), 1);
    bench.machine().system_reset();
    bench.expect_objects("reset", &VIOMMU);
    bench.finish();
}

/// Whatever a guest writes: the host has no queue while VINTF 0 is disabled,
/// and none after a reset.
#[test]
fn random_accesses_leave_no_queue_behind() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    let mut random = Random::new(0x5eed);
    let mut below = |bound: u64| random.next() % bound;
    for round in 0..30 {
        for _ in 0..40 {
            let offset = match below(4) {
                0 => below(SIZE / 8) * 8,
                1 => reg::CMDQ_ALLOC_MAP + 4 * below(2),
                2 => VINTF_PAGE + 0x1_0000 + SLOT * below(2),
                _ => [reg::CONFIG, reg::VINTF_CONFIG][below(2) as usize],
            };
            let value = match below(4) {
                0 => u64::MAX,
                1 => Cmdqv::ring_base(below(8) as u32),
                2 => below(4),
                _ => 1,
            };
            let at = cmdqv.base() + offset;
            if below(3) == 0 {
                bench.machine().read64(at);
            } else if offset >= VINTF_PAGE + 0x1_0000 {
                bench.machine().write64(at, value);
            } else {
                bench.machine().write32(at, value as u32);
            }
        }
        cmdqv.write(reg::VINTF_CONFIG, 0);
        let queues = bench.journal().all("hwqueue").count();
        assert_eq!(queues, 0, "round {round}");
        assert!(!cmdqv.page_is_mapped(), "round {round}");
        if round % 5 == 0 {
            bench.machine().system_reset();
        }
    }
    bench.machine().system_reset();
    bench.expect_objects("reset", &VIOMMU);
    cmdqv.boot();
    assert_eq!(CmdqvHardware::of(&bench).queues().len(), 2);
    assert_eq!(bench.journal().failures_of(&["DESTROY"]), 0);
    bench.end();
}
