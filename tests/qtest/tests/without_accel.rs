// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Command lines with accel=off: those that the C device accepts are accepted
//! with the same registers; those that it refuses are refused with exit status
//! 1 and one line that names the same property.

use std::path::PathBuf;

use serde_json::json;
use smmuv3_qtest::{qemu, qemu_c, smmu, smmu::reg, Builder, Machine, Smmu};

/// The ID registers.
const IDENTITY: [u64; 8] = [
    reg::IDR0,
    reg::IDR1,
    reg::IDR2,
    reg::IDR3,
    reg::IDR4,
    reg::IDR5,
    reg::IIDR,
    reg::AIDR,
];

/// `IDR0.S2P`, `IDR0.S1P`
const STAGES: u32 = 3;
const STAGE_1: u32 = 2;
const STAGE_2: u32 = 1;

/// Returns the ID registers of a machine's only SMMU, and checks that QEMU logs
/// nothing.
#[track_caller]
fn identity(machine: Machine) -> [u32; 8] {
    let found = Smmu::find(&machine);
    let registers = IDENTITY.map(|register| found.read(register));
    let finished = machine.quit();
    assert!(finished.status.success(), "{finished}");
    assert_eq!(finished.stderr, "");
    registers
}

/// Checks that both binaries start with the same ID registers, and returns
/// `IDR0`.
#[track_caller]
fn accepted(builder: impl Fn(PathBuf) -> Builder) -> u32 {
    let rust = identity(builder(qemu()).start());
    let c = identity(builder(qemu_c()).start());
    assert_eq!(rust, c, "the Rust device's registers, and the C device's");
    rust[0]
}

/// Checks that both binaries refuse the command line, with all of `words`.
#[track_caller]
fn refused(words: &[&str], builder: impl Fn(PathBuf) -> Builder) {
    for binary in [qemu(), qemu_c()] {
        let finished = builder(binary).run();
        let line = finished.refusal();
        for word in words {
            assert!(line.contains(word), "no {word:?} in: {line}");
        }
        assert!(
            !line.contains('{'),
            "a message that is not complete: {line}"
        );
    }
}

/// Returns a machine with `-device arm-smmuv3`.
fn with(options: &str) -> impl Fn(PathBuf) -> Builder + '_ {
    move |binary| Builder::virt(binary).smmu(options)
}

/// Returns a `sbsa-ref` machine.
fn sbsa(binary: PathBuf) -> Builder {
    Builder::new(binary)
        .args(["-machine", "sbsa-ref,accel=qtest"])
        // a ROM that is not part of the build
        .args(["-global", "bochs-display.romfile="])
}

#[test]
fn user_smmu_starts_with_every_stage() {
    for (options, stages) in [
        ("", STAGE_1),
        ("accel=off", STAGE_1),
        ("stage=1", STAGE_1),
        ("stage=2", STAGE_2),
        ("stage=nested", STAGES),
    ] {
        assert_eq!(accepted(with(options)) & STAGES, stages, "{options}");
    }
}

/// Any value other than "2" and "nested" selects stage 1, like in the C device.
#[test]
fn unknown_stage_is_stage1() {
    for stage in ["foo", "", "3", "Nested", "1 "] {
        let idr0 = accepted(with(&format!("stage={stage}")));
        assert_eq!(idr0 & STAGES, STAGE_1, "{stage:?}");
    }
}

/// Without accel a property may be set to the value that it has anyway.
#[test]
fn accel_property_with_default_value_is_accepted() {
    for options in [
        "ats=off",
        "ats=auto",
        "ril=on",
        "ril=auto",
        "oas=44",
        "oas=auto",
        "ssidsize=0",
        "ssidsize=auto",
        "cmdqv=off",
        "cmdqv=auto",
        "identifier=9",
        "msi-gpa=0x8090040",
        "ats=off,ril=on,oas=44,ssidsize=0,cmdqv=off,stage=nested",
    ] {
        accepted(with(options));
    }
}

#[test]
fn property_needing_accel_is_refused() {
    for (property, value) in [
        ("ats", "on"),
        ("ril", "off"),
        ("oas", "48"),
        ("ssidsize", "1"),
        ("ssidsize", "20"),
        ("cmdqv", "on"),
    ] {
        for stage in ["1", "2", "nested"] {
            let options = format!("stage={stage},{property}={value}");
            refused(&[property, "accel="], with(&options));
        }
    }
}

#[test]
fn unsupported_oas_is_refused() {
    for oas in ["32", "36", "40", "42", "52", "56"] {
        refused(&["44", "48", "auto"], with(&format!("oas={oas}")));
    }
}

#[test]
fn accel_with_stage2_is_refused() {
    for stage in ["2", "nested", "foo"] {
        refused(
            &["accel=on", "stage"],
            with(&format!("accel=on,stage={stage}")),
        );
    }
}

#[test]
fn machine_smmu_starts() {
    let idr0 = accepted(|binary| Builder::virt_with(binary, "iommu=smmuv3"));
    assert_eq!(idr0 & STAGES, STAGES);
    for options in [
        "gic-version=2",
        "gic-version=3",
        "virtualization=on,gic-version=4",
        "secure=on",
        "highmem=off",
        "its=off",
        "acpi=off",
        "default-bus-bypass-iommu=on",
    ] {
        accepted(|binary| Builder::virt_with(binary, &format!("iommu=smmuv3,{options}")));
    }
}

#[test]
fn machine_smmu_starts_in_every_machine_version() {
    for (version, stages) in [
        ("virt-9.0", STAGE_1),
        ("virt-9.1", STAGE_1),
        ("virt-9.2", STAGES),
        ("virt-10.2", STAGES),
        ("virt-11.0", STAGES),
        ("virt-11.1", STAGES),
    ] {
        let idr0 = accepted(|binary| {
            let machine = format!("{version},accel=qtest,iommu=smmuv3");
            Builder::new(binary).args(["-machine", &machine, "-bios", "/dev/null"])
        });
        assert_eq!(idr0 & STAGES, stages, "{version}");
    }
}

#[test]
fn sbsa_ref_smmu_starts() {
    assert_eq!(accepted(sbsa) & STAGES, STAGES);
}

#[test]
fn accel_on_any_machine_smmu_is_refused() {
    let accel = ["-global", "arm-smmuv3.accel=on"];
    refused(&["accel=on", "stage"], |binary| sbsa(binary).args(accel));
    refused(&["accel=on", "stage"], |binary| {
        Builder::virt_with(binary, "iommu=smmuv3").args(accel)
    });
}

#[test]
fn machine_smmu_property_needing_accel_is_refused() {
    for (property, value) in [
        ("ats", "on"),
        ("ril", "off"),
        ("oas", "48"),
        ("ssidsize", "4"),
    ] {
        let global = format!("arm-smmuv3.{property}={value}");
        refused(&[property, "accel="], |binary| {
            sbsa(binary).args(["-global", &global])
        });
        refused(&[property, "accel="], |binary| {
            Builder::virt_with(binary, "iommu=smmuv3").args(["-global", &global])
        });
    }
}

/// Without the overlay, QEMU sets an error over another one here and aborts.
#[test]
fn user_smmu_beside_machine_smmu_is_refused() {
    for options in [
        "",
        "accel=off",
        "accel=on",
        "accel=on,stage=2",
        "stage=nested",
    ] {
        refused(&["already has iommu=smmuv3"], |binary| {
            Builder::virt_with(binary, "iommu=smmuv3").smmu(options)
        });
    }
}

#[test]
fn virtio_iommu_beside_smmu_is_refused() {
    refused(&["multiple IOMMUs"], |binary| {
        Builder::virt_with(binary, "iommu=smmuv3").device("virtio-iommu-pci,bus=pcie.0")
    });
    refused(&["already has virtio-iommu"], |binary| {
        Builder::virt(binary)
            .device("virtio-iommu-pci,bus=pcie.0")
            .smmu("")
    });
}

#[test]
fn unsupported_machine_refuses_smmu() {
    for machine in ["none", "sbsa-ref,accel=qtest", "raspi3b"] {
        refused(&["arm-smmuv3"], |binary| {
            Builder::new(binary)
                .args(["-machine", machine])
                .args(["-global", "bochs-display.romfile="])
                .device("arm-smmuv3,primary-bus=pcie.0")
        });
    }
}

#[test]
fn missing_unsuitable_or_occupied_bus_is_refused() {
    refused(&["PCI bus"], |binary| {
        Builder::virt(binary).device("arm-smmuv3")
    });
    refused(&["pcie.7"], |binary| {
        Builder::virt(binary).device("arm-smmuv3,primary-bus=pcie.7")
    });
    refused(&["root complex"], |binary| {
        Builder::virt(binary)
            .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
            .device("arm-smmuv3,primary-bus=rp1")
    });
    refused(&["arm-smmuv3"], |binary| {
        Builder::virt(binary)
            .smmu("")
            .device("arm-smmuv3,primary-bus=pcie.1")
    });
    refused(&["ypass"], |binary| {
        Builder::virt(binary)
            .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0,bypass_iommu=on")
            .device("arm-smmuv3,primary-bus=pcie.2")
    });
}

/// Emulated devices may precede or follow the SMMU.
#[test]
fn emulated_devices_behind_smmu_are_accepted() {
    for endpoint in [
        "e1000e,romfile=",
        "nvme,serial=1",
        "virtio-rng-pci,iommu_platform=on",
    ] {
        accepted(|binary| {
            Builder::virt(binary)
                .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
                .smmu("")
                .device(format!("{endpoint},bus=rp1"))
        });
        accepted(|binary| {
            Builder::virt(binary)
                .device("pcie-root-port,id=rp1,bus=pcie.1,chassis=1")
                .device(format!("{endpoint},bus=rp1"))
                .smmu("")
        });
    }
}

#[test]
fn every_root_complex_may_have_an_smmu() {
    for binary in [qemu(), qemu_c()] {
        let machine = Builder::virt(binary)
            .smmu("stage=nested")
            .device("arm-smmuv3,primary-bus=pcie.0,stage=2")
            .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
            .device("arm-smmuv3,primary-bus=pcie.2")
            .start();
        let mut stages: Vec<u32> = smmu::bases(&machine)
            .into_iter()
            .map(|base| Smmu::at(&machine, base).read(reg::IDR0) & STAGES)
            .collect();
        stages.sort_unstable();
        assert_eq!(stages, [STAGE_2, STAGE_1, STAGES]);
        assert_eq!(machine.quit().stderr, "");
    }
}

#[test]
fn smmu_hot_plug_is_refused() {
    let machine = Builder::virt(qemu())
        .smmu("")
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .start();
    let late = json!({ "driver": "arm-smmuv3", "id": "late", "primary-bus": "pcie.2" });
    let present = json!({ "id": "smmuv3.1" });
    for (command, arguments) in [("device_add", late), ("device_del", present)] {
        let Err(error) = machine.try_qmp(command, arguments) else {
            panic!("{command} succeeded");
        };
        assert!(error.description.contains("hotplug"), "{error}");
    }
    assert_eq!(machine.status(), "running");
}

/// The JSON that libvirt writes for `<iommu model='smmuv3'>` without accel.
#[test]
fn libvirt_json_is_accepted() {
    accepted(|binary| {
        let bridge = json!({ "driver": "pxb-pcie", "bus_nr": 252, "id": "pci.1", "bus": "pcie.0", "addr": "0x1" });
        let device = json!({ "driver": "arm-smmuv3", "primary-bus": "pci.1", "id": "iommu0", "accel": false });
        Builder::new(binary)
            .args(["-machine", "virt,accel=qtest", "-bios", "/dev/null"])
            .device(bridge.to_string())
            .device(device.to_string())
    });
}
