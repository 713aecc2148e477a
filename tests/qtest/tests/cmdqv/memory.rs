// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Memory under a queue: the host pins it, so only memory that cannot be unplugged may be there.

use smmuv3_qtest::{
    assigned::{Bench, Setup},
    cmdqv::{Cmdqv, Register, ENABLE},
    command::{self, SYNC},
    machine::RAM,
    pci, qemu,
};

use crate::{
    bench::{executors, setup, HOST},
    failures::consumed,
};

/// A shared memory device in slot 4 of the root bus that the SMMU does not serve.
const IVSHMEM: u32 = pci::sid(0, 4);
const IVSHMEM_IDENTITY: u32 = 0x1110_1af4;
/// The size of its BAR 2.
const BAR_SIZE: &str = "1M";
/// Two addresses for the BAR.
const BARS: [u64; 2] = [pci::VIRT.window + 0x10_0000, pci::VIRT.window + 0x20_0000];

fn with_shared_memory() -> Setup {
    setup(&qemu(), HOST, "on")
        .args([
            "-object",
            &format!("memory-backend-ram,id=shared,size={BAR_SIZE}"),
        ])
        .device("ivshmem-plain,memdev=shared,bus=pcie.0,addr=4")
        .assign("d0", 1)
}

/// Enables the shared memory device with its BARs 0 and 2.
#[track_caller]
fn enable(bench: &Bench, bar2: u64) {
    let machine = bench.machine();
    pci::VIRT.enable(machine, IVSHMEM, IVSHMEM_IDENTITY, pci::VIRT.window);
    move_bar(bench, bar2);
}

/// Moves BAR 2 to another address.
#[track_caller]
fn move_bar(bench: &Bench, to: u64) {
    let bar = pci::config(IVSHMEM) + 0x18;
    bench.machine().write32(bar, to as u32);
    bench.machine().write32(bar + 4, (to >> 32) as u32);
}

/// Sets up and enables queue 0 with its memory at `ring`.
#[track_caller]
fn boot_at(cmdqv: &Cmdqv<'_>, ring: u64) {
    cmdqv.reset();
    cmdqv.set_alloc(0, Cmdqv::allocation(0));
    for register in [Register::Prod, Register::Cons] {
        cmdqv.set(0, register, 0);
    }
    let gerror = cmdqv.get(0, Register::Gerror);
    cmdqv.set(0, Register::Gerrorn, gerror);
    cmdqv.set_base(0, ring | u64::from(Cmdqv::LOG2));
    cmdqv.set(0, Register::Config, ENABLE);
}

/// A host that has its memory pinned refuses to unmap it, and then VFIO ends QEMU as soon as something
/// else is mapped there: a guest can bring that about with a BAR that is RAM.
#[test]
fn queue_in_a_bar_does_not_hold_its_memory() {
    let bench = with_shared_memory().start();
    enable(&bench, BARS[0]);
    let cmdqv = Cmdqv::find(bench.machine());
    boot_at(&cmdqv, BARS[0]);
    assert_eq!(executors(&bench), [0, 1]);
    cmdqv.submit_at(0, BARS[0], &[command::tlbi_nh_asid(7), SYNC]);
    consumed(&cmdqv, 0);
    assert!(!cmdqv.error(0));

    // away, and back to where it was
    for bar in [BARS[1], BARS[0], BARS[1]] {
        bench.mark();
        move_bar(&bench, bar);
        let journal = bench.journal();
        for operation in ["IOAS_UNMAP", "IOAS_MAP"] {
            let calls = journal.calls(operation);
            assert!(!calls.is_empty(), "{operation}");
        }
        assert_eq!(journal.failures(), 0, "{bar:#x}");
    }
    // the queue is gone: an abort, and no more than that
    cmdqv.submit_at(0, RAM, &[SYNC]);
    assert!(cmdqv.error(0));
    let finished = bench.end();
    assert_eq!(finished.error_lines().len(), 1, "{finished}");
}

/// Returns a machine whose boot memory is 128 MiB, with `arguments`.
fn with_memory(arguments: &[[&str; 2]]) -> Bench {
    let mut setup = setup(&qemu(), HOST, "on").assign("d0", 1);
    for pair in arguments {
        setup = setup.args(*pair);
    }
    setup.start()
}

const DIMM: [[&str; 2]; 3] = [
    ["-m", "128M,slots=1,maxmem=1G"],
    ["-object", "memory-backend-ram,id=dimm,size=128M"],
    ["-device", "pc-dimm,id=dimm0,memdev=dimm"],
];

#[test]
fn queue_in_memory_that_can_be_unplugged_is_in_software() {
    let bench = with_memory(&DIMM);
    let devices = bench
        .machine()
        .qmp("query-memory-devices", serde_json::json!({}));
    let address = devices[0]["data"]["addr"].as_u64().expect("an address");
    let cmdqv = Cmdqv::find(bench.machine());
    boot_at(&cmdqv, address);
    assert_eq!(executors(&bench), [0, 1], "in the DIMM");
    cmdqv.submit_at(0, address, &[command::tlbi_nh_asid(7), SYNC]);
    consumed(&cmdqv, 0);
    assert!(!cmdqv.error(0));
    boot_at(&cmdqv, Cmdqv::ring(0));
    assert_eq!(executors(&bench), [1, 0], "in boot memory beside it");
    let finished = bench.end();
    let errors = finished.error_lines();
    assert_eq!(errors.len(), 1, "{finished}");
    assert!(errors[0].contains("own RAM"), "{finished}");
}

#[test]
fn queue_in_memory_of_a_numa_node_is_in_hardware() {
    let bench = with_memory(&[
        ["-m", "256M"],
        ["-object", "memory-backend-ram,id=node0,size=128M"],
        ["-object", "memory-backend-ram,id=node1,size=128M"],
        ["-numa", "node,memdev=node0"],
        ["-numa", "node,memdev=node1"],
    ]);
    let cmdqv = Cmdqv::find(bench.machine());
    for ring in [RAM + 0x20_0000, RAM + (128 << 20) + 0x20_0000] {
        boot_at(&cmdqv, ring);
        assert_eq!(executors(&bench), [1, 0], "{ring:#x}");
    }
    bench.finish();
}

/// Addresses at which there is no RAM: flash, registers, beyond the RAM, nothing.
#[test]
fn queue_without_memory_is_not_asked_for() {
    let bench = with_memory(&[["-m", "128M"]]);
    let cmdqv = Cmdqv::find(bench.machine());
    let smmu = cmdqv.base();
    for ring in [0x1000, smmu & !0xfff, RAM + (128 << 20), (1 << 47) - 0x1000] {
        bench.mark();
        boot_at(&cmdqv, ring);
        assert_eq!(executors(&bench)[0], 0, "{ring:#x}");
        let journal = bench.journal();
        assert!(journal.calls("HW_QUEUE_ALLOC").is_empty(), "{ring:#x}");
    }
    bench.finish_with_errors();
}
