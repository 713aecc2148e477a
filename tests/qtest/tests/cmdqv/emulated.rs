// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Emulated endpoints behind an SMMU with CMDQ virtualization: commands in queues that hardware
//! executes do not come to QEMU, so there are none while such an endpoint is there. The C device
//! refuses all of them.

use serde_json::json;
use smmuv3_qtest::{
    assigned::{vfio_pci, Bench, Ecam, Setup, EXPLICIT},
    cmdqv::{Cmdqv, CmdqvHardware, Register},
    command::{self, SYNC},
    edu, fw_cfg, qemu, until,
};

use crate::{
    bench::{executors, setup, HOST},
    failures::consumed,
};

/// Adds an emulated endpoint in slot 2.
fn with_endpoint(setup: Setup) -> Setup {
    setup
        .slot(2)
        .device(&format!("{},id=edu,bus=slot2", edu::DEVICE))
}

#[track_caller]
fn has_cmdqv(bench: &Bench) -> bool {
    let tables = fw_cfg::file(bench.machine(), "etc/acpi/tables");
    let in_tables = tables.windows(8).any(|window| window == b"NVDA200C");
    assert_eq!(in_tables, Cmdqv::try_find(bench.machine()).is_some());
    in_tables
}

#[test]
fn cmdqv_auto_with_emulated_endpoint_goes_without() {
    let before = with_endpoint(setup(&qemu(), HOST, "auto")).assign("d0", 1);
    let behind = with_endpoint(setup(&qemu(), HOST, "auto").assign("d0", 1));
    let before_smmu = with_endpoint(Setup::of(&qemu(), HOST))
        .smmu(&format!("{EXPLICIT},cmdqv=auto"))
        .assign("d0", 1);
    for setup in [before, behind, before_smmu] {
        let bench = setup.start();
        assert!(!has_cmdqv(&bench));
        bench.finish();
    }
    let without = setup(&qemu(), HOST, "auto").assign("d0", 1).start();
    assert!(has_cmdqv(&without));
    without.finish();
}

/// Words of the refusal: endpoint, SMMU, reason and remedy.
const REFUSAL: [&str; 4] = [
    "emulated endpoint edu 'edu'",
    "'smmuv3.1'",
    "cmdqv=on",
    "cmdqv=auto",
];

#[test]
fn cmdqv_on_refuses_emulated_endpoint() {
    let behind = with_endpoint(setup(&qemu(), HOST, "on").assign("d0", 1));
    let alone = with_endpoint(setup(&qemu(), HOST, "on"));
    let before_smmu = with_endpoint(Setup::of(&qemu(), HOST)).smmu(&format!("{EXPLICIT},cmdqv=on"));
    for setup in [behind, alone, before_smmu] {
        let finished = setup.refuse();
        let refusal = finished.refusal();
        for word in REFUSAL {
            assert!(refusal.contains(word), "no {word:?} in {refusal}");
        }
    }
}

fn plug(bench: &Bench) -> Result<(), String> {
    let arguments = json!({ "driver": "edu", "id": "edu", "bus": "slot2" });
    let result = bench.machine().try_qmp("device_add", arguments);
    result.map(drop).map_err(|error| error.description)
}

#[test]
fn cmdqv_on_refuses_hot_plug_of_emulated_endpoint() {
    let bench = setup(&qemu(), HOST, "on").assign("d0", 1).slot(2).start();
    bench.number_buses();
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    for _ in 0..2 {
        let error = plug(&bench).expect_err("a refusal");
        for word in REFUSAL {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
        assert_eq!(executors(&bench), [2, 0]);
    }
    bench.finish();
}

/// Starts a machine with `cmdqv=auto`, "d0" in slot 1, and slots 2 and 3. All queues are in
/// hardware.
fn booted() -> Bench {
    let bench = setup(&qemu(), HOST, "auto")
        .assign("d0", 1)
        .slot(2)
        .slot(3)
        .start();
    bench.number_buses();
    Cmdqv::find(bench.machine()).boot();
    assert_eq!(executors(&bench), [2, 0]);
    bench
}

#[test]
fn hot_plugged_endpoint_moves_queues_to_software_and_back() {
    let bench = booted();
    let cmdqv = Cmdqv::find(bench.machine());
    let mut hardware = CmdqvHardware::of(&bench);
    cmdqv.submit(0, &[command::tlbi_nh_asid(1), SYNC]);
    assert_eq!(hardware.step().len(), 2);
    for round in 1..=2 {
        plug(&bench).expect("an emulated endpoint");
        assert_eq!(executors(&bench), [0, 2]);
        assert!(!cmdqv.page_is_mapped());
        bench.mark();
        cmdqv.submit(0, &[command::tlbi_nh_asid(2), SYNC]);
        consumed(&cmdqv, 0);
        let batches = bench.journal().batches();
        assert_eq!(batches, [[command::tlbi_nh_asid(2)]], "{round}");
        bench.unplug("edu", 2);
        until("queues in hardware", || {
            (executors(&bench) == [2, 0]).then_some(())
        });
        assert!(cmdqv.page_is_mapped());
        Ecam::of(bench.machine()).power_on(8, 2 << 3);
    }
    let mut next = CmdqvHardware::of(&bench);
    assert_eq!(next.get(0, Register::Cons), 6);
    cmdqv.submit(0, &[command::tlbi_nh_asid(3), SYNC]);
    assert_eq!(next.step().len(), 2);
    bench.finish();
}

/// Commands that were in a queue when it moved are executed, too.
#[test]
fn pending_commands_are_executed_when_endpoint_is_plugged() {
    let bench = booted();
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.submit(0, &[command::tlbi_nh_asid(1), SYNC]);
    bench.mark();
    plug(&bench).expect("an emulated endpoint");
    consumed(&cmdqv, 0);
    assert_eq!(bench.journal().batches(), [[command::tlbi_nh_asid(1)]]);
    bench.finish();
}

#[test]
fn queues_return_when_the_last_of_two_endpoints_leaves() {
    let bench = booted();
    let second = json!({ "driver": "edu", "id": "second", "bus": "slot3" });
    plug(&bench).expect("an emulated endpoint");
    bench.machine().qmp("device_add", second);
    bench.unplug("edu", 2);
    assert_eq!(executors(&bench), [0, 2]);
    bench.unplug("second", 3);
    assert_eq!(executors(&bench), [2, 0]);
    bench.finish();
}

/// A queue that the host keeps is disabled and hidden: the endpoint is served.
#[test]
fn endpoint_is_plugged_though_host_keeps_queues() {
    let bench = booted();
    let cmdqv = Cmdqv::find(bench.machine());
    bench.script("fail DESTROY kind=hwqueue errno=EBUSY");
    plug(&bench).expect("an emulated endpoint");
    assert_eq!(executors(&bench), [0, 2]);
    assert!(!cmdqv.page_is_mapped());
    cmdqv.submit(0, &[command::tlbi_nh_asid(1), SYNC]);
    consumed(&cmdqv, 0);
    bench.script("clear");
    bench.unplug("edu", 2);
    assert_eq!(executors(&bench), [2, 0]);
    bench.finish_with_errors();
}

/// The next assigned device gets a VINTF, which waits for the endpoint to leave.
#[test]
fn queues_of_next_device_wait_for_the_endpoint() {
    let mut setup = setup(&qemu(), HOST, "auto").slot(1).slot(2).slot(3);
    let fds = ["d0", "s0"].map(|name| setup.spare(name, "a"));
    let bench = setup.device(&vfio_pci("d0", fds[0], "slot1")).start();
    bench.number_buses();
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    plug(&bench).expect("an emulated endpoint");
    bench.unplug("d0", 1);
    bench.plug("s0", fds[1], 3).expect("a VINTF is free");
    assert_eq!(executors(&bench), [0, 2]);
    bench.unplug("edu", 2);
    assert_eq!(executors(&bench), [2, 0]);
    bench.finish();
}
