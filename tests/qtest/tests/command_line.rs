// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Command lines with accel=on: an illegal one exits with status 1 and one line
//! of error, never by a signal; a legal one starts.

use std::path::PathBuf;

use serde_json::json;
use smmuv3_qtest::{qemu, smmu, Builder, Finished};

/// Properties without `auto`, so that no assigned device is needed.
const FIXED: &str = "accel=on,ats=off,ril=on,ssidsize=0,oas=44";

/// Returns a machine with TCG, like that of a user without KVM.
fn tcg(binary: PathBuf) -> Builder {
    Builder::new(binary)
        .args([
            "-machine",
            "virt",
            "-accel",
            "tcg",
            "-S",
            "-bios",
            "/dev/null",
        ])
        .device("pxb-pcie,id=pcie.1,bus_nr=8,bus=pcie.0")
}

/// Checks that the command line is refused with all of `words`.
#[track_caller]
fn refused(builder: Builder, words: &[&str]) {
    let finished: Finished = builder.run();
    let line = finished.refusal();
    for word in words {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
}

/// Checks that QEMU starts, runs and logs nothing.
#[track_caller]
fn accepted(builder: Builder) {
    let machine = builder.start();
    assert!(matches!(machine.status().as_str(), "running" | "prelaunch"));
    assert!(!smmu::bases(&machine).is_empty(), "there is no SMMU");
    let finished = machine.quit();
    assert!(finished.status.success(), "{finished}");
    assert_eq!(finished.stderr, "");
}

#[track_caller]
fn refused_option(option: &str, words: &[&str]) {
    refused(
        Builder::virt(qemu()).smmu(&format!("{FIXED},{option}")),
        words,
    );
}

#[test]
fn accel_stage_other_than_1_is_refused() {
    for stage in ["2", "nested", "3", "all", ""] {
        refused_option(&format!("stage={stage}"), &["accel=on", "stage"]);
    }
}

#[test]
fn accel_unsupported_oas_is_refused() {
    for oas in ["32", "36", "40", "42", "52", "56"] {
        refused_option(&format!("oas={oas}"), &["oas", "44", "48"]);
    }
}

#[test]
fn property_value_of_wrong_type_is_refused() {
    for (property, value) in [
        ("oas", "45"),
        ("oas", "-1"),
        ("oas", ""),
        ("ssidsize", "21"),
        ("ssidsize", "-1"),
        ("ssidsize", "many"),
        ("ril", "maybe"),
        ("ats", "1"),
        ("msi", "maybe"),
        ("cd2l", "2"),
        ("vax", "52"),
        ("cmdqv", "2"),
        ("accel", "maybe"),
        ("accel", "auto"),
        ("smmu_per_bus", "7"),
        ("identifier", "256"),
        ("identifier", "one"),
        ("msi-gpa", "0x10000000000000000"),
        ("bus_num", "-1000"),
    ] {
        refused_option(&format!("{property}={value}"), &[property]);
    }
}

#[test]
fn unknown_property_is_refused() {
    refused_option("warp=9", &["warp"]);
}

#[test]
fn cmdqv_on_is_refused() {
    refused_option("cmdqv=on", &["cmdqv"]);
}

#[test]
fn cd2l_and_vax_need_accel() {
    for property in ["cd2l", "vax"] {
        let builder = Builder::virt(qemu()).smmu(&format!("{property}=on"));
        refused(builder, &[property, "accel=on"]);
    }
}

#[test]
fn accel_without_kvm_is_refused() {
    refused(tcg(qemu()).smmu("accel=on"), &["accel=on", "KVM"]);
    refused(tcg(qemu()).smmu(FIXED), &["accel=on", "KVM"]);
}

#[test]
fn accel_auto_without_assigned_device_is_refused() {
    refused(
        Builder::virt(qemu()).smmu("accel=on"),
        &["'smmuv3.1'", "auto", "vfio-pci"],
    );
    for property in ["ats", "ril", "ssidsize", "oas"] {
        let others: Vec<&str> = FIXED
            .split(',')
            .filter(|option| !option.starts_with(property))
            .collect();
        refused(
            Builder::virt(qemu()).smmu(&others.join(",")),
            &["auto", "vfio-pci"],
        );
    }
    for property in ["cd2l", "vax"] {
        refused(
            Builder::virt(qemu()).smmu(&format!("{FIXED},{property}=auto")),
            &["auto", property, "vfio-pci"],
        );
    }
}

#[test]
fn accel_emulated_endpoint_is_accepted() {
    for endpoint in [
        "e1000e,romfile=",
        "nvme,serial=1,drive=disk",
        "virtio-net-pci,romfile=",
        "qemu-xhci",
        "virtio-blk-pci,drive=disk",
    ] {
        accepted(
            Builder::virt(qemu())
                .args(["-blockdev", "null-co,node-name=disk,read-zeroes=on"])
                .smmu(FIXED)
                .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
                .device(format!("{endpoint},bus=rp1")),
        );
    }
}

/// The PCI core does not ask the SMMU about such an endpoint.
#[test]
fn accel_endpoint_before_smmu_is_accepted() {
    for bus in ["pcie.0", "rp1", "below"] {
        accepted(
            Builder::virt(qemu())
                .device("pcie-root-port,id=rp1,bus=pcie.0,chassis=1")
                .device("pcie-root-port,id=rp2,bus=pcie.0,chassis=2")
                .device("x3130-upstream,id=up,bus=rp2")
                .device("xio3130-downstream,id=below,bus=up,chassis=3")
                .device(format!("e1000e,romfile=,bus={bus}"))
                .device(format!("arm-smmuv3,primary-bus=pcie.0,{FIXED}")),
        );
    }
}

/// Bridges behind which the PCI core passes another function's `devfn`, with
/// the bus `conventional`.
const CONVENTIONAL: [&str; 3] = [
    "pcie-pci-bridge,id=conventional",
    "i82801b11-bridge,id=conventional",
    "pci-bridge,chassis_nr=7,id=conventional",
];

/// Returns a machine with an SMMU and a conventional bridge at `pcie.0`.
fn with_conventional(bridge: &str) -> Builder {
    Builder::virt(qemu())
        .device(format!("arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,{FIXED}"))
        .device(format!("{bridge},bus=pcie.0,addr=5"))
}

#[test]
fn accel_endpoint_behind_conventional_bridge_is_accepted() {
    for bridge in CONVENTIONAL {
        for addr in ["1", "1f.7"] {
            let endpoint = format!("e1000,romfile=,bus=conventional,addr={addr}");
            accepted(with_conventional(bridge).device(endpoint));
        }
    }
}

#[test]
fn accel_endpoint_behind_bridge_of_bridge_is_accepted() {
    for bridge in CONVENTIONAL {
        accepted(
            with_conventional(bridge)
                .device("pci-bridge,chassis_nr=8,id=second,bus=conventional,addr=3")
                .device("e1000,romfile=,bus=second,addr=4"),
        );
    }
}

#[test]
fn accel_endpoint_behind_bridge_of_port_is_accepted() {
    for upstream in ["pcie.1", "pcie.0"] {
        let smmu = format!("arm-smmuv3,id=smmuv3.1,primary-bus={upstream},{FIXED}");
        accepted(
            Builder::virt(qemu())
                .device(smmu)
                .device(format!("pcie-root-port,id=rp1,bus={upstream},chassis=1"))
                .device("pcie-pci-bridge,id=conventional,bus=rp1")
                .device("e1000,romfile=,bus=conventional,addr=2"),
        );
    }
}

/// Their own transactions are MSIs, which are translated in software.
#[test]
fn accel_conventional_bridges_alone_are_accepted() {
    for bridge in CONVENTIONAL {
        accepted(
            with_conventional(bridge)
                .device("pci-bridge,chassis_nr=8,id=second,bus=conventional,addr=3"),
        );
    }
}

#[test]
fn accel_endpoint_behind_bridge_elsewhere_is_accepted() {
    for bridge in CONVENTIONAL {
        accepted(
            Builder::virt(qemu())
                .smmu(FIXED)
                .device(format!("{bridge},bus=pcie.0"))
                .device("e1000,romfile=,bus=conventional,addr=2"),
        );
    }
}

/// libvirt puts the bridges first.
#[test]
fn accel_bridges_before_smmu_are_accepted() {
    accepted(
        Builder::virt(qemu())
            .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
            .device("pcie-root-port,id=rp2,bus=pcie.1,chassis=2")
            .device("x3130-upstream,id=up,bus=rp2")
            .device("xio3130-downstream,id=below,bus=up,chassis=3")
            .smmu(FIXED)
            .device("pcie-root-port,id=rp3,bus=pcie.1,chassis=4"),
    );
}

#[test]
fn accel_emulated_endpoint_elsewhere_is_accepted() {
    accepted(
        Builder::virt(qemu())
            .smmu(FIXED)
            .device("pcie-root-port,id=rp1,bus=pcie.0,chassis=1")
            .device("e1000e,romfile=,bus=rp1"),
    );
}

#[test]
fn accel_hot_plug_of_emulated_endpoint_is_accepted() {
    let machine = Builder::virt(qemu())
        .smmu(FIXED)
        .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
        .start();
    let plug = json!({ "driver": "e1000e", "id": "late", "bus": "rp1", "romfile": "" });
    machine.qmp("device_add", plug);
    assert_eq!(machine.status(), "running");
    assert_eq!(machine.quit().stderr, "");
}

#[test]
fn accel_smmu_hot_plug_is_refused() {
    let machine = Builder::virt(qemu())
        .smmu(FIXED)
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .start();
    let late =
        json!({ "driver": "arm-smmuv3", "id": "late", "primary-bus": "pcie.2", "accel": true });
    let present = json!({ "id": "smmuv3.1" });
    for (command, arguments) in [("device_add", late), ("device_del", present)] {
        let Err(error) = machine.try_qmp(command, arguments) else {
            panic!("{command} succeeded");
        };
        assert!(error.description.contains("hotplug"), "{error}");
    }
    assert_eq!(machine.status(), "running");
}

#[test]
fn accel_beside_machine_smmu_is_refused() {
    refused(
        Builder::virt(qemu())
            .device("virtio-iommu-pci,bus=pcie.0")
            .smmu(FIXED),
        &["already has virtio-iommu"],
    );
}

#[test]
fn accel_on_machine_smmu_is_refused() {
    let builder =
        Builder::virt_with(qemu(), "iommu=smmuv3").args(["-global", "arm-smmuv3.accel=on"]);
    refused(builder, &["accel=on", "stage"]);
}

#[test]
fn accel_missing_or_unsuitable_bus_is_refused() {
    let with_bus = |bus: &str| {
        Builder::virt(qemu())
            .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
            .device(format!("arm-smmuv3,{FIXED}{bus}"))
    };
    refused(with_bus(""), &["PCI bus"]);
    refused(with_bus(",primary-bus=pcie.7"), &["pcie.7"]);
    refused(with_bus(",primary-bus=smmuv3.1"), &["smmuv3.1"]);
    refused(with_bus(",primary-bus=rp1"), &["root complex"]);
}

#[test]
fn accel_second_smmu_on_bus_is_refused() {
    let builder = Builder::virt(qemu())
        .smmu(FIXED)
        .device(format!("arm-smmuv3,primary-bus=pcie.1,{FIXED}"));
    refused(builder, &["arm-smmuv3"]);
}

#[test]
fn accel_bus_with_bypass_iommu_is_refused() {
    let builder = Builder::virt(qemu())
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0,bypass_iommu=on")
        .device(format!("arm-smmuv3,primary-bus=pcie.2,{FIXED}"));
    refused(builder, &["ypass"]);
}

#[test]
fn accel_without_firmware_or_acpi_is_refused() {
    let machine = |options: &str| {
        Builder::new(qemu())
            .args(["-machine", &format!("virt,accel=qtest{options}")])
            .device("pxb-pcie,id=pcie.1,bus_nr=8,bus=pcie.0")
            .smmu(FIXED)
    };
    refused(machine(""), &["accel=on"]);
    refused(
        machine(",acpi=off").args(["-bios", "/dev/null"]),
        &["accel=on"],
    );
}

#[test]
fn accel_with_only_migratable_is_accepted() {
    accepted(Builder::virt(qemu()).smmu(FIXED).arg("-only-migratable"));
}

/// Returns a machine as libvirt describes it.
fn libvirt(smmu: &serde_json::Value) -> Builder {
    Builder::new(qemu())
        .args(["-machine", "virt,accel=qtest", "-bios", "/dev/null"])
        .device(json!({ "driver": "pxb-pcie", "bus_nr": 252, "id": "pci.1", "bus": "pcie.0", "addr": "0x1" }).to_string())
        .device(smmu.to_string())
}

#[test]
fn accel_libvirt_json_is_accepted() {
    let mut smmu = json!({
        "driver": "arm-smmuv3", "primary-bus": "pci.1", "id": "iommu0", "accel": true,
        "ats": "on", "ril": "off", "ssidsize": "20", "oas": "44",
    });
    accepted(libvirt(&smmu));
    for cmdqv in ["off", "auto"] {
        smmu["cmdqv"] = json!(cmdqv);
        accepted(libvirt(&smmu));
    }
    smmu["cmdqv"] = json!("on");
    refused(libvirt(&smmu), &["cmdqv"]);
}

#[test]
fn property_json_of_wrong_type_is_refused() {
    for (property, value) in [
        ("accel", json!("on")),
        ("accel", json!(1)),
        ("ats", json!(true)),
        ("ssidsize", json!(20)),
        ("oas", json!(44)),
        ("primary-bus", json!(1)),
    ] {
        let mut smmu = json!({
            "driver": "arm-smmuv3", "primary-bus": "pci.1", "accel": true,
            "ats": "off", "ril": "on", "ssidsize": "0", "oas": "44",
        });
        smmu[property] = value;
        refused(libvirt(&smmu), &[property]);
    }
}

#[test]
fn accel_every_supported_value_is_accepted() {
    for option in [
        "stage=1",
        "ats=on",
        "ril=off",
        "cmdqv=off",
        "cmdqv=auto",
        "oas=48",
        "identifier=9",
    ] {
        accepted(Builder::virt(qemu()).smmu(&format!("{FIXED},{option}")));
    }
    for ssidsize in 0..=20 {
        accepted(Builder::virt(qemu()).smmu(&format!("{FIXED},ssidsize={ssidsize}")));
    }
}

#[test]
fn accel_starts_with_every_gic() {
    for options in [
        "gic-version=3",
        "gic-version=4,virtualization=on",
        "gic-version=2",
        "msi=gicv2m,gic-version=3",
        "msi=its,gic-version=3",
        "secure=on",
        "highmem=off",
    ] {
        accepted(Builder::virt_with(qemu(), options).smmu(FIXED));
    }
}

#[test]
fn accel_serves_every_root_complex() {
    accepted(Builder::virt(qemu()).device(format!("arm-smmuv3,primary-bus=pcie.0,{FIXED}")));
    accepted(
        Builder::virt(qemu())
            .smmu(FIXED)
            .device(format!("arm-smmuv3,primary-bus=pcie.0,{FIXED}"))
            .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
            .device(format!("arm-smmuv3,primary-bus=pcie.2,{FIXED},ril=off")),
    );
}

/// It sets the properties that would be auto.
#[test]
fn old_machine_type_needs_no_assigned_device() {
    accepted(
        Builder::new(qemu())
            .args(["-machine", "virt-11.0,accel=qtest", "-bios", "/dev/null"])
            .device("pxb-pcie,id=pcie.1,bus_nr=8,bus=pcie.0")
            .smmu("accel=on"),
    );
}

#[test]
fn machine_without_smmu_starts() {
    let machine = tcg(qemu()).start();
    assert_eq!(machine.status(), "prelaunch");
    assert_eq!(machine.quit().stderr, "");
}
