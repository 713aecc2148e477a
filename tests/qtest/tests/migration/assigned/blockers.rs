// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The SMMU blocks no migration. VFIO blocks that of devices that cannot be migrated, and says why.

use serde_json::json;
use smmuv3_qtest::{
    assigned::{vfio_pci, Bench, Setup, EXPLICIT},
    qemu, Builder,
};

use super::{boot, machine};

#[track_caller]
fn reasons(bench: &Bench, mode: &str) -> Vec<String> {
    let machine = bench.machine();
    machine.qmp("migrate-set-parameters", json!({ "mode": mode }));
    let state = machine.qmp("query-migrate", json!({}));
    let reasons = state["blocked-reasons"].as_array();
    let texts = reasons.into_iter().flatten();
    texts
        .map(|reason| reason.as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn migration_with_assigned_devices_is_not_blocked() {
    let bench = machine().start();
    for mode in ["normal", "cpr-reboot"] {
        assert_eq!(reasons(&bench, mode), [""; 0], "{mode}");
    }
    boot(&bench);
    assert_eq!(reasons(&bench, "normal"), [""; 0]);
    bench.finish_migratable();
}

#[test]
fn assigned_devices_with_only_migratable_are_accepted() {
    let bench = machine().args(["-only-migratable", "-nodefaults"]).start();
    bench.finish_migratable();
}

/// What operators see who have not read docs/migration.md.
#[test]
fn vfio_names_its_reasons_against_migration() {
    let cases = [
        // the kernel's driver of the device cannot
        ("", "", "migration is not supported in kernel"),
        // the defaults: no dirty tracking is to be had on Arm
        (
            "migration=stop-copy,p2p",
            "",
            "doesn't support device and IOMMU dirty tracking",
        ),
        // the device's own tracking is by IOVA
        (
            "migration=stop-copy,p2p,dma-logging",
            ",enable-migration=on",
            "Migration is currently not supported with vIOMMU enabled",
        ),
    ];
    for (fields, options, words) in cases {
        let mut setup = Setup::new(EXPLICIT).slot(1);
        let fd = setup.spare_with("d0", "a", fields);
        let device = format!("{}{options}", vfio_pci("d0", fd, "slot1"));
        if options.contains("=on") {
            let refused = setup.device(&device).refuse();
            assert!(refused.stderr.contains(words), "{refused}");
            continue;
        }
        let bench = setup.device(&device).start();
        let found = reasons(&bench, "normal").join("; ");
        assert!(found.contains(words), "{found}");
        assert!(!found.contains("arm-smmuv3"), "{found}");
        bench.finish();
    }
}

#[test]
fn devices_without_p2p_do_not_migrate_together() {
    let refused = Setup::new(EXPLICIT)
        .assign_migratable("d0", 1, "stop-copy")
        .assign_migratable("d1", 2, "stop-copy")
        .refuse();
    let words =
        "Multiple VFIO devices migration is supported only if all of them support P2P migration";
    assert!(refused.stderr.contains(words), "{refused}");
}

/// Without an assigned device there is nothing of the host in the guest's state.
#[test]
fn accel_without_assigned_device_migrates() {
    let builder = || Builder::virt(qemu()).smmu("accel=on,ats=off,ril=on,oas=44,ssidsize=0");
    let stream = crate::stream::Stream::save(builder().start());
    assert_eq!(stream.load(builder()).quit().stderr, "");
}
