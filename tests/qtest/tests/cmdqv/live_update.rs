// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A live update of QEMU (cpr-transfer, cpr-exec) is blocked by queues in hardware, and by nothing
//! else of the SMMU.

use serde_json::json;
use smmuv3_qtest::{assigned::Bench, qemu};

use crate::bench::{setup, HOST};

/// Returns the reasons of SMMUs that block a mode of migration.
#[track_caller]
fn reasons(bench: &Bench, mode: &str) -> Vec<String> {
    let machine = bench.machine();
    machine.qmp("migrate-set-parameters", json!({ "mode": mode }));
    let state = machine.qmp("query-migrate", json!({}));
    let reasons = state["blocked-reasons"].as_array();
    reasons
        .into_iter()
        .flatten()
        .filter_map(|reason| reason.as_str())
        .filter(|reason| reason.contains("arm-smmuv3"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn live_update_with_cmdqv_is_blocked() {
    for cmdqv in ["on", "auto"] {
        let bench = setup(&qemu(), HOST, cmdqv).assign("d0", 1).start();
        for mode in ["cpr-transfer", "cpr-exec"] {
            let found = reasons(&bench, mode);
            assert_eq!(found.len(), 1, "{mode}: {found:?}");
            assert!(found[0].contains("CMDQ virtualization"), "{found:?}");
        }
        // the guest keeps its queues without a device
        bench.unplug("d0", 1);
        assert_eq!(reasons(&bench, "cpr-transfer").len(), 1);
        bench.finish();
    }
}

#[test]
fn live_update_without_cmdqv_is_not_blocked() {
    let hosts = [(HOST, "off"), ("smmu a", "auto")];
    for (host, cmdqv) in hosts {
        let bench = setup(&qemu(), host, cmdqv).assign("d0", 1).start();
        for mode in ["cpr-transfer", "cpr-exec"] {
            assert_eq!(reasons(&bench, mode), [""; 0], "{host}, {mode}");
        }
        assert_eq!(reasons(&bench, "normal").len(), 1);
        bench.finish();
    }
}

/// A host that refuses the interface leaves no blocker behind.
#[test]
fn live_update_without_vintf_is_not_blocked() {
    let host = "smmu a cmdqv=vintfs:0,vcmdqs:1,sids:4,version:1";
    let bench = setup(&qemu(), host, "auto").assign("d0", 1).start();
    assert_eq!(reasons(&bench, "cpr-exec"), [""; 0]);
    bench.finish_with_errors();
}
