// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Where emulated endpoints behind an accelerated SMMU may be: before it on the command line,
//! hot-plugged, and behind conventional bridges, whose `StreamID` they share. Each is translated.

use serde_json::json;
use smmuv3_qtest::{
    assigned::Ecam,
    command::TLBI_NSNH_ALL,
    edu,
    emulated::ACCEL,
    pci, qemu,
    smmu::reg,
    tables::Allow,
    translated::{Stages, Translated, FREE},
    Builder, Edu, Machine,
};

const IOVA: u64 = 0x1234_5000;
const DATA: u64 = FREE + (16 << 20);
const OTHER: u64 = DATA + (1 << 20);

const SMMU: &str = "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0";

fn smmu() -> String {
    format!("{SMMU},{ACCEL}")
}

fn device(bus: &str) -> String {
    format!("{},id=edu,{bus}", edu::DEVICE)
}

/// Checks that the device's accesses are translated by the tables of `stream`, and that nothing is
/// cached past a `CMD_SYNC`.
#[track_caller]
fn translates(machine: &Machine, edu: &Edu<'_>, stream: u32) {
    let translated = Translated::new(machine, Stages::One, stream);
    let arrives = |at: u64| {
        machine.write32(at, 0);
        let word = edu.write(IOVA);
        machine.read32(at) == word
    };
    for at in [DATA, OTHER] {
        translated.stage1.map(IOVA, at, Allow::ReadWrite);
        translated.submit(&[TLBI_NSNH_ALL]);
        assert!(arrives(at), "{at:#x}");
    }
    translated.stage1.unmap(IOVA);
    translated.submit(&[TLBI_NSNH_ALL]);
    assert!(!arrives(OTHER));
    assert_eq!(translated.smmu.read(reg::EVENTQ_PROD), 1);
    assert_eq!(translated.event(0)[0] >> 32, u64::from(stream));
}

/// Gives the bridge `sid` the bus 1 and a window for memory.
#[track_caller]
fn open(machine: &Machine, sid: u32) {
    let config = pci::config(sid);
    machine.write32(config + 0x18, 0x0001_0100);
    machine.write32(config + 0x20, 0x1000_1000);
    machine.write_sized(config + 4, 6, 2);
}

#[test]
fn endpoint_before_accelerated_smmu_is_translated() {
    let machine = Builder::virt(qemu())
        .device(device("bus=pcie.0,addr=4"))
        .device(smmu())
        .start();
    let edu = Edu::new(&machine, pci::sid(0, 4), 0);
    translates(&machine, &edu, pci::sid(0, 4));
    assert_eq!(machine.quit().stderr, "");
}

#[test]
fn endpoint_in_port_before_accelerated_smmu_is_translated() {
    let machine = Builder::virt(qemu())
        .device("pcie-root-port,id=rp1,bus=pcie.0,addr=7,chassis=1")
        .device(device("bus=rp1"))
        .device(smmu())
        .start();
    open(&machine, pci::sid(0, 7));
    let edu = Edu::new(&machine, pci::sid(1, 0), 0);
    translates(&machine, &edu, pci::sid(1, 0));
    assert_eq!(machine.quit().stderr, "");
}

/// Conventional bridges, and the `StreamID` of devices behind each at `pcie.0`, address 5: a
/// PCIe-to-PCI bridge puts in that of its secondary bus, any other its own.
const BRIDGES: [(&str, u32); 3] = [
    ("pcie-pci-bridge", 0x100),
    ("i82801b11-bridge", 5 << 3),
    ("pci-bridge,chassis_nr=7", 5 << 3),
];

fn bridge(name: &str) -> String {
    format!("{name},id=conventional,bus=pcie.0,addr=5")
}

#[test]
fn endpoint_behind_bridge_uses_the_bridges_stream() {
    for (name, stream) in BRIDGES {
        let endpoint = device("bus=conventional,addr=3");
        let [first, last] = [Builder::virt(qemu()).device(smmu()), Builder::virt(qemu())];
        for builder in [
            first.device(bridge(name)).device(&endpoint),
            last.device(bridge(name)).device(&endpoint).device(smmu()),
        ] {
            let machine = builder.start();
            open(&machine, pci::sid(0, 5));
            let edu = Edu::new(&machine, pci::sid(1, 3), 0);
            translates(&machine, &edu, stream);
            assert_eq!(machine.quit().stderr, "", "{name}");
        }
    }
}

#[test]
fn hot_plugged_endpoint_behind_bridge_is_translated() {
    // an i82801b11-bridge takes no hot-plug
    for (name, stream) in [BRIDGES[0], BRIDGES[2]] {
        let machine = Builder::virt(qemu())
            .device(smmu())
            .device(bridge(name))
            .start();
        open(&machine, pci::sid(0, 5));
        let plug = json!({
            "driver": "edu", "dma_mask": u64::MAX, "id": "edu", "bus": "conventional", "addr": "0x3",
        });
        machine.qmp("device_add", plug);
        let edu = Edu::new(&machine, pci::sid(1, 3), 0);
        translates(&machine, &edu, stream);
    }
}

#[test]
fn endpoint_whose_neighbour_leaves_is_translated() {
    let machine = Builder::virt(qemu())
        .device(smmu())
        .device("pcie-root-port,id=rp1,bus=pcie.0,addr=7,chassis=1")
        .device("pcie-root-port,id=rp2,bus=pcie.0,addr=8,chassis=2")
        .device(device("bus=rp1"))
        .start();
    open(&machine, pci::sid(0, 7));
    let ecam = Ecam::of(&machine);
    ecam.number(0, 8 << 3, 2);
    let plug = json!({ "driver": "edu", "id": "second", "bus": "rp2" });
    machine.qmp("device_add", plug);
    ecam.power_on(0, 8 << 3);
    machine.qmp("device_del", json!({ "id": "second" }));
    ecam.power_off(0, 8 << 3);
    machine.wait_event("DEVICE_DELETED");
    let edu = Edu::new(&machine, pci::sid(1, 0), 0);
    translates(&machine, &edu, pci::sid(1, 0));
}

/// The machine's own network device is behind the SMMU, and before it.
#[test]
fn default_network_device_is_accepted() {
    let machine = Builder::virt(qemu())
        .args(["-global", "virtio-net-pci.romfile="])
        .args(["-nic", "hubport,hubid=0,model=virtio-net-pci"])
        .device(smmu())
        .start();
    assert_eq!(machine.status(), "running");
    assert_eq!(machine.quit().stderr, "");
}

/// `iommu-testdev` keeps the address space that it has when it is realized: an SMMU that comes
/// later would not translate it.
#[test]
fn device_that_keeps_its_address_space_must_follow_smmu() {
    let device = "iommu-testdev,id=early,bus=pcie.0,addr=5";
    let finished = Builder::virt(qemu()).device(device).device(smmu()).run();
    let refusal = finished.refusal();
    for word in ["'early'", "'smmuv3.1'", "must come before"] {
        assert!(refusal.contains(word), "no {word:?} in {refusal}");
    }
    let machine = Builder::virt(qemu()).device(smmu()).device(device).start();
    assert_eq!(machine.quit().stderr, "");
}

#[test]
fn device_of_another_process_with_accel_is_refused() {
    let device = r#"{"driver":"vfio-user-pci","id":"other","bus":"pcie.0","socket":{"type":"unix","path":"/no"}}"#;
    let finished = Builder::virt(qemu()).device(smmu()).device(device).run();
    let refusal = finished.refusal();
    for word in ["vfio-user-pci 'other'", "'smmuv3.1'", "MAP notifiers"] {
        assert!(refusal.contains(word), "no {word:?} in {refusal}");
    }
}
