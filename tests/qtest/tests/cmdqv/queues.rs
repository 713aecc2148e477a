// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which hardware queues the host has, and what the guest sees of them.

use smmuv3_qtest::{
    assigned::Bench,
    cmdqv::{reg, Cmdqv, CmdqvHardware, HwQueue, Register, View, ALLOC, CMDQ_INIT_ERR, ENABLE},
    command::{self, SYNC},
    qemu,
    smmu::reg::IDR1,
    Smmu,
};

use crate::bench::{setup, start, HOST};

/// Returns the slots of the host's queues.
fn slots(bench: &Bench) -> Vec<u32> {
    let queues = CmdqvHardware::of(bench).queues();
    queues.iter().map(|queue| queue.slot).collect()
}

/// The writes that a queue needs, in the order that Linux makes them, and those
/// that undo each.
const NEEDED: usize = 4;

fn grant(cmdqv: &Cmdqv<'_>, what: usize) {
    match what {
        0 => cmdqv.write(reg::CONFIG, cmdqv.read(reg::CONFIG) | ENABLE),
        1 => cmdqv.write(reg::VINTF_CONFIG, ENABLE),
        2 => cmdqv.set_alloc(0, Cmdqv::allocation(0)),
        _ => cmdqv.set_direct_base(0, Cmdqv::ring_base(0)),
    }
}

fn deny(cmdqv: &Cmdqv<'_>, what: usize) {
    match what {
        0 => cmdqv.write(reg::CONFIG, cmdqv.read(reg::CONFIG) & !ENABLE),
        1 => cmdqv.write(reg::VINTF_CONFIG, 0),
        2 => cmdqv.set_alloc(0, 0),
        _ => cmdqv.set_direct_base(0, 0),
    }
}

/// A queue needs all of `CMDQV_EN`, `ENABLE`, `ALLOC` and a base, whichever
/// comes last. C keeps the queue of a base that becomes 0.
#[test]
fn hardware_queue_exists_while_all_registers_want_it() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    deny(&cmdqv, 0);
    for last in 0..NEEDED {
        for what in (0..NEEDED).filter(|what| *what != last) {
            grant(&cmdqv, what);
        }
        assert_eq!(slots(&bench), [0; 0], "without {last}");
        grant(&cmdqv, last);
        assert_eq!(slots(&bench), [0], "with {last}");
        deny(&cmdqv, last);
        assert_eq!(slots(&bench), [0; 0], "again without {last}");
        grant(&cmdqv, last);
        assert_eq!(slots(&bench), [0], "again with {last}");
        for what in 0..NEEDED {
            deny(&cmdqv, what);
        }
    }
    assert_eq!(
        bench.journal().failures_of(&["DESTROY", "HW_QUEUE_ALLOC"]),
        0
    );
    bench.finish();
}

/// C drops the handle of queue 0, which the host still has and executes.
#[test]
fn base_rewritten_below_live_queue_replaces_both() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    let mut hardware = CmdqvHardware::of(&bench);
    cmdqv.submit(1, &[SYNC; 3]);
    assert_eq!(hardware.step().len(), 3);
    bench.mark();
    let other = Cmdqv::ring(4);
    cmdqv.set_base(0, other | u64::from(Cmdqv::LOG2));
    let changes = bench.journal().queue_changes().join(", ");
    assert_eq!(changes, "gone 1, gone 0, new 0, new 1");
    let expected = [(0, other), (1, Cmdqv::ring(1))].map(|(slot, iova)| HwQueue {
        slot,
        iova,
        length: 4096,
    });
    assert_eq!(hardware.queues(), expected);
    // queue 1 goes on where it was
    for register in [Register::Prod, Register::Cons] {
        assert_eq!(hardware.get(1, register), 3, "{register:?}");
    }
    assert_eq!(hardware.get(1, Register::Config), ENABLE);
    cmdqv.submit(1, &[SYNC]);
    assert_eq!(hardware.step().len(), 1);
    assert_eq!(
        bench.journal().failures_of(&["DESTROY", "HW_QUEUE_ALLOC"]),
        0
    );
    bench.finish();
}

/// The same with ALLOC. Queue 1 cannot be the host's without queue 0, which is
/// no failure of the host: nothing is reported.
#[test]
fn alloc_cleared_below_live_queue_frees_both() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    bench.mark();
    cmdqv.set_alloc(0, 0);
    assert_eq!(bench.journal().queue_changes().join(", "), "gone 1, gone 0");
    assert!(!cmdqv.page_is_mapped(), "queue 1 is not the hardware's");
    cmdqv.set_alloc(0, Cmdqv::allocation(0));
    assert_eq!(slots(&bench), [0, 1]);
    assert!(cmdqv.page_is_mapped());
    bench.finish();
}

#[test]
fn registers_written_before_allocation_reach_hardware() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.set_alloc(0, Cmdqv::allocation(0));
    for (register, value) in [
        (Register::Cons, 2),
        (Register::Prod, 5),
        (Register::Config, ENABLE),
    ] {
        cmdqv.set(0, register, value);
    }
    cmdqv.set_base(0, Cmdqv::ring_base(0));
    cmdqv.write(reg::VINTF_CONFIG, ENABLE);
    let hardware = CmdqvHardware::of(&bench);
    assert_eq!(hardware.get(0, Register::Cons), 2);
    assert_eq!(hardware.get(0, Register::Prod), 5);
    assert_eq!(hardware.get(0, Register::Config), ENABLE);
    bench.finish();
}

/// The guest reads an empty slot where the page has no queue, and its driver
/// fails: the page is mapped only while all allocated queues are in it.
#[test]
fn page_is_mapped_while_all_allocated_queues_are_hardware() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    assert!(!cmdqv.page_is_mapped(), "at reset");
    cmdqv.reset();
    assert!(!cmdqv.page_is_mapped(), "without a queue");
    cmdqv.set_up(0);
    assert!(cmdqv.page_is_mapped(), "queue 0");
    cmdqv.set_alloc(1, Cmdqv::allocation(1));
    assert!(!cmdqv.page_is_mapped(), "queue 1 without a base");
    cmdqv.set_base(1, Cmdqv::ring_base(1));
    assert!(cmdqv.page_is_mapped(), "both");
    cmdqv.write(reg::VINTF_CONFIG, 0);
    assert!(!cmdqv.page_is_mapped(), "VINTF 0 is disabled");
    assert_eq!(slots(&bench), [0; 0]);
    bench.finish();
}

#[test]
fn cmdqv_en_toggled_with_live_queues_frees_and_allocates() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    for _ in 0..3 {
        bench.mark();
        deny(&cmdqv, 0);
        assert!(!cmdqv.page_is_mapped());
        grant(&cmdqv, 0);
        let changes = bench.journal().queue_changes().join(", ");
        assert_eq!(changes, "gone 1, gone 0, new 0, new 1");
        assert!(cmdqv.page_is_mapped());
    }
    bench.finish();
}

/// A kdump kernel finds the queues of the kernel that crashed. The host refuses
/// some of what C does.
#[test]
fn second_boot_without_reset_succeeds() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    for _ in 0..3 {
        cmdqv.boot();
        let mut hardware = CmdqvHardware::of(&bench);
        hardware.step();
        for slot in [0, 1] {
            assert_eq!(cmdqv.get(slot, Register::Status), ENABLE, "{slot}");
            cmdqv.submit(slot, &[command::tlbi_nh_asid(1), SYNC]);
        }
        assert_eq!(hardware.step().len(), 4);
    }
    assert_eq!(
        bench.journal().failures_of(&["DESTROY", "HW_QUEUE_ALLOC"]),
        0
    );
    bench.finish();
}

#[test]
fn direct_view_is_an_alias_of_a_hardware_queue() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    let hardware = CmdqvHardware::of(&bench);
    let machine = bench.machine();
    machine.write32(cmdqv.at(View::Direct, 1, Register::Prod), 9);
    assert_eq!(hardware.get(1, Register::Prod), 9);
    hardware.set(1, Register::Cons, 9);
    assert_eq!(machine.read32(cmdqv.at(View::Direct, 1, Register::Cons)), 9);
    // read-only registers
    for register in [Register::Status, Register::Gerror] {
        machine.write32(cmdqv.at(View::Direct, 1, register), 1);
        assert_eq!(hardware.get(1, register), 0, "{register:?}");
    }
    bench.finish();
}

/// C takes the number of a global queue for that in the VINTF.
#[test]
fn global_queue_is_the_logical_one_of_its_map_entry() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.reset();
    cmdqv.set_alloc(1, Cmdqv::allocation(0));
    cmdqv.set_alloc(0, Cmdqv::allocation(1));
    for slot in [0, 1] {
        cmdqv.set_base(slot, Cmdqv::ring_base(slot));
    }
    assert_eq!(slots(&bench), [0, 1]);
    let machine = bench.machine();
    machine.write32(cmdqv.at(View::Direct, 0, Register::Prod), 3);
    let hardware = CmdqvHardware::of(&bench);
    assert_eq!(hardware.get(1, Register::Prod), 3);
    assert_eq!(hardware.get(0, Register::Prod), 0);
    bench.finish();
}

/// There is one VINTF: a queue of another has no owner.
#[test]
fn queue_of_another_vintf_is_not_allocated() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.reset();
    cmdqv.set_base(0, Cmdqv::ring_base(0));
    cmdqv.set_alloc(0, ALLOC | (1 << 15));
    assert_eq!(slots(&bench), [0; 0]);
    bench.finish();
}

/// A base that can never be valid is not given to the host.
#[test]
fn invalid_base_is_an_init_error() {
    let bench = start(&qemu());
    let cmdqv = Cmdqv::find(bench.machine());
    let largest = u64::from(Smmu::find(bench.machine()).read(IDR1) >> 21) & 0x1f;
    cmdqv.reset();
    cmdqv.set_alloc(0, Cmdqv::allocation(0));
    for base in [
        Cmdqv::ring(0) | (largest + 1),
        Cmdqv::ring(0) | 0x1f,
        (Cmdqv::ring(0) + 0x20) | largest,
    ] {
        bench.mark();
        cmdqv.set_base(0, base);
        cmdqv.set(0, Register::Config, ENABLE);
        assert_eq!(
            bench.journal().calls("HW_QUEUE_ALLOC").len(),
            0,
            "{base:#x}"
        );
        assert_eq!(cmdqv.get(0, Register::Status), 0, "{base:#x}");
        let gerror = cmdqv.get(0, Register::Gerror);
        assert_eq!(gerror & CMDQ_INIT_ERR, CMDQ_INIT_ERR, "{base:#x}");
        cmdqv.set(0, Register::Config, 0);
    }
    cmdqv.acknowledge(0);
    cmdqv.set_base(0, Cmdqv::ring(0) | largest);
    assert_eq!(slots(&bench), [0], "the largest size");
    bench.finish();
}

/// A queue must be contiguous in the host, and not larger than its own.
#[test]
fn cmdqs_is_limited_by_page_and_by_host() {
    for (host, expected) in [(19, 8), (7, 7)] {
        // SIDSIZE=32 SSIDSIZE=20 EVENTQS=19
        let idr1: u32 = (host << 21) | (19 << 16) | (20 << 6) | 32;
        let bench = setup(&qemu(), &format!("{HOST} idr1={idr1:#x}"), "on")
            .assign("d0", 1)
            .start();
        let smmu = Smmu::find(bench.machine());
        bench.machine().system_reset();
        assert_eq!((smmu.read(IDR1) >> 21) & 0x1f, expected, "host: {host}");
        bench.finish();
    }
}
