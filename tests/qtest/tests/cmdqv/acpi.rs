// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The guest finds CMDQV in the DSDT.

use smmuv3_qtest::{fw_cfg, qemu, qemu_c};

use crate::bench::{setup, start, HOST};

/// `_HID` of the device that Linux's driver looks for.
const HID: &[u8] = b"NVDA200C";

/// Returns whether the tables name the device.
fn names_cmdqv(tables: &[u8]) -> bool {
    tables.windows(HID.len()).any(|window| window == HID)
}

#[test]
fn acpi_tables_with_cmdqv_match_c_device() {
    let [rust, c] = [qemu(), qemu_c()].map(|binary| {
        let bench = start(&binary);
        let files = ["etc/acpi/tables", "etc/table-loader"];
        let blobs = files.map(|name| fw_cfg::file(bench.machine(), name));
        bench.finish();
        blobs
    });
    assert!(names_cmdqv(&rust[0]));
    assert_eq!(rust, c);
}

#[test]
fn acpi_tables_without_cmdqv_do_not_name_it() {
    for (cmdqv, host) in [("off", HOST), ("auto", "smmu a")] {
        let bench = setup(&qemu(), host, cmdqv).assign("d0", 1).start();
        let tables = fw_cfg::file(bench.machine(), "etc/acpi/tables");
        assert!(!names_cmdqv(&tables), "{cmdqv}");
        bench.finish();
    }
}
