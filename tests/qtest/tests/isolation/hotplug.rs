// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Hot-plug and hot-unplug: the attachment of a new device, and the objects
//! that an old one leaves.

use serde_json::json;
use smmuv3_qtest::{command, smmu::SMMUEN};

use crate::{
    bench::{sid, ste, vfio_pci, Bench, Guest, Setup, EXPLICIT, GBPA_ABORT, VIOMMU},
    journal::On,
};

/// Returns the host objects of a vIOMMU and `n` devices on stage 1.
fn viommu_and_nested(n: usize) -> Vec<(&'static str, usize)> {
    [&VIOMMU[..], &[("nested", n), ("vdevice", n)]].concat()
}

#[test]
fn cold_plugged_devices_share_one_viommu() {
    let bench = Setup::new(EXPLICIT)
        .assign("d0", 1)
        .assign("d1", 2)
        .assign("d2", 3)
        .start();
    for name in ["d0", "d1", "d2"] {
        bench.expect("at start", &[(name, On::Bypass)]);
        let history = bench.journal().history(name);
        let stage2 = history.iter().filter(|on| **on == On::Stage2).count();
        assert_eq!(stage2, 1, "{name} was on {history:?}");
    }
    bench.expect_objects("three devices share a vIOMMU", &VIOMMU);
    bench.finish();
}

/// Returns a started machine, and the descriptor of a device `name` to plug in.
#[track_caller]
fn with_spare(name: &str, mut setup: Setup) -> (Bench, i32) {
    let fd = setup.spare(name, "a");
    (setup.start(), fd)
}

/// Returns a machine with "d0" in slot 1, and slot 2 free for "d1".
#[track_caller]
fn with_a_free_slot() -> (Bench, i32) {
    with_spare("d1", Setup::new(EXPLICIT).assign("d0", 1).slot(2))
}

/// Returns a machine with slot 1 free for "d0".
#[track_caller]
fn with_only_a_free_slot() -> (Bench, i32) {
    with_spare("d0", Setup::new(EXPLICIT).slot(1))
}

/// Returns a machine with "d0" in slot 1, and "d1" to replace it there.
#[track_caller]
fn with_a_successor() -> (Bench, i32) {
    with_spare("d1", Setup::new(EXPLICIT).assign("d0", 1))
}

#[test]
fn hot_plug_without_smmuen_attaches_by_gbpa() {
    for (gbpa, on) in [(0, On::Bypass), (GBPA_ABORT, On::Abort)] {
        let (bench, fd) = with_a_free_slot();
        let smmu = bench.smmu();
        smmu.gbpa(gbpa);
        bench.plug("d1", fd, 2).expect("plugged");
        bench.expect("plugged", &[("d0", on), ("d1", on)]);
        bench.finish();
    }
}

#[test]
fn hot_plug_with_smmuen_attaches_by_ste() {
    for (entry, on) in [
        (ste::INVALID, On::Abort),
        (ste::ABORT, On::Abort),
        (ste::BYPASS, On::Bypass),
        (ste::FIRST, On::Nested(ste::FIRST)),
    ] {
        let (bench, fd) = with_a_free_slot();
        let smmu = bench.smmu();
        smmu.write_ste(sid(2), entry);
        smmu.enable(SMMUEN);
        bench.expect("before", &[("d0", On::Abort)]);
        bench.plug("d1", fd, 2).expect("plugged");
        bench.expect("plugged", &[("d0", On::Abort), ("d1", on)]);
        bench.finish();
    }
}

#[test]
fn first_device_can_be_hot_plugged() {
    let (bench, fd) = with_only_a_free_slot();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    bench.expect_objects("no device yet", &[]);
    bench.plug("d0", fd, 1).expect("plugged");
    bench.expect("an empty table", &[("d0", On::Abort)]);
    smmu.install(sid(1), ste::FIRST);
    bench.expect("configured", &[("d0", On::Nested(ste::FIRST))]);
    bench.finish();
}

#[test]
fn unplug_frees_objects_and_keeps_others_attached() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    let d1 = On::Nested(ste::SECOND);
    bench.expect("both", &[("d0", On::Nested(ste::FIRST)), ("d1", d1)]);
    bench.expect_objects("two devices", &viommu_and_nested(2));
    bench.unplug("d0", 1);
    bench.expect("d0 is gone", &[("d0", On::Nothing), ("d1", d1)]);
    bench.expect_objects("one device", &viommu_and_nested(1));
    smmu.commands(&[command::cfgi_ste(sid(1))]);
    bench.unplug("d1", 2);
    bench.expect("d1 is gone", &[("d0", On::Nothing), ("d1", On::Nothing)]);
    bench.expect_objects("the last device takes all with it", &[]);
    smmu.commands(&[command::TLBI_NSNH_ALL]);
    bench.finish();
}

#[test]
fn unplugged_device_is_never_on_bypass() {
    let bench = Bench::with_one_device();
    bench.translating(&[ste::FIRST]);
    bench.mark();
    bench.unplug("d0", 1);
    let history = bench.journal().history("d0");
    let forbidden = |on: &On| matches!(on, On::Stage2 | On::Bypass);
    assert!(
        !history.iter().any(forbidden),
        "it went by way of {history:?}"
    );
    bench.finish();
}

#[test]
fn hot_plug_after_last_unplug_works() {
    let (bench, fd) = with_a_successor();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.unplug("d0", 1);
    bench.expect_objects("nothing is left", &[]);
    bench.plug("d1", fd, 1).expect("plugged");
    let on = On::Nested(ste::FIRST);
    bench.expect("the STE is still there", &[("d1", on)]);
    smmu.install(sid(1), ste::ABORT);
    bench.expect("d1 is configured", &[("d1", On::Abort)]);
    bench.finish();
}

#[test]
fn repeated_ste_changes_leak_no_objects() {
    let bench = Bench::with_two_devices();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    for round in 0..20 {
        smmu.install(sid(1), ste::stage1(0x4100_0000 + 0x1000 * round));
        smmu.install(
            sid(2),
            if round % 2 == 0 {
                ste::BYPASS
            } else {
                ste::SECOND
            },
        );
    }
    let last = ste::stage1(0x4100_0000 + 0x1000 * 19);
    bench.expect(
        "at the end",
        &[("d0", On::Nested(last)), ("d1", On::Nested(ste::SECOND))],
    );
    bench.expect_objects("two devices", &viommu_and_nested(2));
    bench.finish();
}

#[test]
fn commands_for_unplugged_device_are_not_forwarded() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    bench.unplug("d0", 1);
    bench.mark();
    smmu.commands(&[
        command::cfgi_cd_all(sid(1)),
        command::atc_inv_all(sid(1)),
        command::cfgi_cd_all(sid(2)),
    ]);
    assert_eq!(bench.journal().batches(), [[command::cfgi_cd_all(sid(2))]]);
    bench.finish();
}

#[test]
fn assigned_device_before_smmu_is_refused() {
    let refusal = Setup::without_smmu("smmu a")
        .assign("d0", 1)
        .smmu(EXPLICIT)
        .refuse();
    assert!(refusal.refusal().contains("vfio-pci 'd0'"), "{refusal}");
}

#[test]
fn two_iommufds_behind_one_smmu_are_refused() {
    let mut setup = Setup::new(EXPLICIT)
        .iommufd("other")
        .assign("d0", 1)
        .slot(2);
    let fd = setup.spare("d1", "a");
    let refusal = setup
        .device(&format!("vfio-pci,id=d1,fd={fd},iommufd=other,bus=slot2"))
        .refuse();
    for words in ["d1", "'other'", "'iommufd0'", "'smmuv3.1'"] {
        assert!(refusal.refusal().contains(words), "{words}: {refusal}");
    }
}

/// VFIO tries the stage 2 of the other devices, and if the host refuses it, it makes another I/O
/// address space. The vIOMMU has the stage 2 of the first device, and would lose its memory with that.
#[test]
fn device_in_address_space_of_its_own_is_refused() {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1).slot(2);
    let spares = ["EINTR", "EBUSY", "ENOMEM"].map(|errno| (errno, setup.spare(errno, "a")));
    let last = setup.spare("d1", "a");
    let bench = setup.start();
    bench.translating(&[ste::FIRST]);
    for (errno, fd) in spares {
        bench.script(&format!("fail ATTACH device={errno} errno={errno} count=1"));
        let refusal = bench.plug(errno, fd, 2).expect_err(errno);
        assert!(
            refusal.contains("I/O address space of its own: plug it in again"),
            "{errno}: {refusal}"
        );
        bench.expect(errno, &[("d0", On::Nested(ste::FIRST))]);
    }
    bench.plug("d1", last, 2).expect("plugged");
    bench.mark();
    bench.unplug("d0", 1);
    let unmapped = bench.journal().calls("IOAS_UNMAP");
    let unmapped: Vec<_> = unmapped
        .iter()
        .filter(|call| call.result() == "ok")
        .collect();
    assert!(unmapped.is_empty(), "{unmapped:?}");
    bench.finish();
}

#[test]
fn quarantined_device_can_be_replaced() {
    let (bench, fd) = with_a_successor();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT");
    smmu.fails(command::atc_inv_all(sid(1)));
    bench.script("clear");
    bench.expect("quarantine", &[("d0", On::Abort)]);
    bench.unplug("d0", 1);
    bench.expect_objects("nothing is left", &[]);
    bench.plug("d1", fd, 1).expect("plugged");
    bench.expect("another device", &[("d1", On::Nested(ste::FIRST))]);
    smmu.acknowledge();
    smmu.wait_consumed();
    bench.finish();
}

/// The device fails after the SMMU has attached it.
#[test]
fn failed_realize_frees_device_objects() {
    let (bench, fd) = with_only_a_free_slot();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    bench.mark();
    let arguments = json!({
        "driver": "vfio-pci", "id": "d0", "fd": fd.to_string(), "iommufd": "iommufd0",
        "bus": "slot1", "display": "on",
    });
    let result = bench.machine().try_qmp("device_add", arguments);
    assert!(result.is_err(), "it has no display");
    let history = bench.journal().history("d0");
    assert!(
        history.contains(&On::Abort),
        "it was taken over: {history:?}"
    );
    bench.expect("failed", &[("d0", On::Nothing)]);
    bench.expect_objects("failed", &[]);
    smmu.commands(&[command::TLBI_NSNH_ALL]);
    bench.finish();
}

/// Requests behind a conventional bridge carry the bridge's `StreamID`, so no
/// vDEVICE can be bound for the device.
#[test]
fn assigned_device_behind_conventional_bridge_is_refused() {
    for (bridge, bus) in [
        ("pcie-pci-bridge", "slot1"),
        ("i82801b11-bridge", "pcie.1"),
        ("pci-bridge,chassis_nr=7,shpc=off", "pcie.1"),
    ] {
        let mut setup = Setup::new(EXPLICIT).slot(1);
        let fd = setup.spare("d1", "a");
        let refusal = setup
            .device(&format!("{bridge},id=conventional,bus={bus}"))
            .device(&format!("{},addr=1", vfio_pci("d1", fd, "conventional")))
            .refuse();
        let line = refusal.refusal();
        for word in ["'d1'", "'conventional'", "accel=on", "PCI Express port"] {
            assert!(line.contains(word), "no {word:?} in: {line}");
        }
    }
}

#[test]
fn hot_plug_of_assigned_behind_bridge_is_refused() {
    let mut setup = Setup::new(EXPLICIT).slot(1);
    let fd = setup.spare("d1", "a");
    let bench = setup
        .device("pcie-pci-bridge,id=conventional,bus=slot1")
        .start();
    let plug = json!({
        "driver": "vfio-pci", "id": "d1", "fd": fd.to_string(), "iommufd": "iommufd0",
        "bus": "conventional", "addr": "0x1",
    });
    let error = bench
        .machine()
        .try_qmp("device_add", plug)
        .expect_err("a refusal");
    assert!(error.description.contains("'conventional'"), "{error}");
    bench.expect_objects("d1 was not even opened", &[]);
    bench.finish();
}
