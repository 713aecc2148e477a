// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! ACPI tables and device tree must equal those of a machine with the C device
//! byte by byte.

use std::{env, fs, path::PathBuf, process};

use serde_json::json;
use smmuv3_qtest::{fw_cfg, qemu, qemu_c, smmu::PATH, Builder, Machine};

/// Properties that need no host.
const ACCEL: &str = "accel=on,ats=on,ril=on,oas=48,ssidsize=4";
const ACCEL_WITHOUT_ATS: &str = "accel=on,ats=off,ril=off,oas=44,ssidsize=0";

/// A machine: its options, and the properties of the SMMUs of `pcie.1` and of a
/// second bridge.
#[derive(Clone, Copy, Debug)]
struct Case {
    machine: &'static str,
    first: Option<&'static str>,
    second: Option<&'static str>,
}

const fn case(
    machine: &'static str,
    first: Option<&'static str>,
    second: Option<&'static str>,
) -> Case {
    Case {
        machine,
        first,
        second,
    }
}

const CASES: [Case; 15] = [
    case("", None, None),
    case("iommu=smmuv3", None, None),
    case("iommu=smmuv3,gic-version=3,its=off", None, None),
    case("iommu=smmuv3,gic-version=3", None, None),
    case("iommu=smmuv3,acpi=off", None, None),
    case("", Some(""), None),
    case("gic-version=3", Some("stage=2"), None),
    case("", Some("stage=nested"), None),
    case("gic-version=3", Some(""), None),
    case("gic-version=3,its=off", Some(""), Some("")),
    case("gic-version=3", Some(""), Some("stage=nested")),
    case("", Some(ACCEL), None),
    case("gic-version=3", Some(ACCEL_WITHOUT_ATS), None),
    case("gic-version=3,its=off", Some(ACCEL), Some("")),
    case("gic-version=3", Some(ACCEL_WITHOUT_ATS), Some(ACCEL)),
];

impl Case {
    fn start(self, binary: PathBuf) -> Machine {
        let options = format!("dtb-randomness=off,{}", self.machine);
        let mut builder = Builder::virt_with(binary, &options);
        if let Some(first) = self.first {
            builder = builder.smmu(first);
        }
        if let Some(second) = self.second {
            builder = builder
                .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
                .device(format!("arm-smmuv3,id=other,primary-bus=pcie.2,{second}"));
        }
        builder.start()
    }

    fn has_acpi(self) -> bool {
        !self.machine.contains("acpi=off")
    }

    fn smmus(self) -> usize {
        usize::from(self.machine.contains("iommu=smmuv3"))
            + usize::from(self.first.is_some())
            + usize::from(self.second.is_some())
    }

    fn accelerated(self) -> usize {
        [self.first, self.second]
            .iter()
            .flatten()
            .filter(|options| options.contains("accel=on"))
            .count()
    }
}

/// Checks that `ask` returns the same value for both binaries, and returns it.
#[track_caller]
fn same<T: PartialEq>(case: Case, ask: impl Fn(&Machine) -> T) -> T {
    let (rust, c) = (ask(&case.start(qemu())), ask(&case.start(qemu_c())));
    assert!(rust == c, "{case:?}: the two devices differ");
    rust
}

/// Returns the nodes of an IORT: type and bytes of each.
fn nodes(iort: &[u8]) -> Vec<(u8, &[u8])> {
    let word = |at: usize| {
        let bytes = iort[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let (count, mut at) = (word(36), word(40));
    (0..count)
        .map(|_| {
            let length = usize::from(u16::from_le_bytes([iort[at + 1], iort[at + 2]]));
            let node = &iort[at..at + length];
            at += length;
            (node[0], node)
        })
        .collect()
}

const SMMUV3: u8 = 4;
const RESERVED_MEMORY: u8 = 6;

#[test]
fn acpi_tables_match_c_device() {
    for case in CASES.into_iter().filter(|case| case.has_acpi()) {
        let iort = same(case, |machine| {
            let files = ["etc/acpi/tables", "etc/table-loader"];
            let blobs = files.map(|name| fw_cfg::file(machine, name));
            (blobs, fw_cfg::acpi_table(machine, "IORT"))
        })
        .1;
        let iort = iort.expect("an IORT");
        let count = |kind| nodes(&iort).iter().filter(|node| node.0 == kind).count();
        assert_eq!(count(SMMUV3), case.smmus(), "{case:?}");
        assert_eq!(count(RESERVED_MEMORY), case.accelerated(), "{case:?}");
    }
}

#[test]
fn accel_msi_window_is_in_rmr_node() {
    let machine = case("", Some(""), Some(ACCEL)).start(qemu());
    let iort = fw_cfg::acpi_table(&machine, "IORT").expect("an IORT");
    let window = nodes(&iort)
        .into_iter()
        .find(|node| node.0 == RESERVED_MEMORY)
        .expect("a node for reserved memory")
        .1;
    // one range, the last 20 bytes: base, length, Reserved
    let range = &window[window.len() - 20..];
    let number = |at: usize| u64::from_le_bytes(range[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!((number(0), number(8)), (0x800_0000, 0x10_0000));
    // one ID mapping, before it: input base, count, output base, SMMU, flags
    let mapping = &window[window.len() - 40..];
    assert_eq!(mapping[..4], [0, 16, 0, 0], "StreamIDs from bus 16 on");
    let smmu = u32::from_le_bytes(mapping[12..16].try_into().expect("4 bytes")) as usize;
    assert_eq!(iort[smmu], SMMUV3);
}

#[test]
fn device_tree_matches_c_device() {
    for (number, case) in CASES.into_iter().enumerate() {
        let tree = same(case, |machine| {
            let name = format!("smmuv3-tree-{}-{number}", process::id());
            let path = env::temp_dir().join(name);
            machine.qmp("dumpdtb", json!({ "filename": path }));
            let tree = fs::read(&path).expect("the device tree");
            fs::remove_file(&path).expect("the device tree");
            tree
        });
        let found = tree.windows(11).filter(|bytes| *bytes == b"arm,smmu-v3");
        assert_eq!(found.count(), case.smmus(), "{case:?}");
    }
}

#[test]
fn msi_gpa_matches_c_device() {
    for (options, expected) in [
        ("", 0x0802_0040_u64),
        ("gic-version=3", 0x0809_0040),
        ("gic-version=3,its=off", 0),
    ] {
        for properties in ["", ACCEL] {
            let address = same(case(options, Some(properties), None), |machine| {
                machine.qom_get(PATH, "msi-gpa").as_u64()
            });
            let wanted = if properties == ACCEL { expected } else { 0 };
            assert_eq!(address, Some(wanted), "{options} {properties}");
        }
    }
}
