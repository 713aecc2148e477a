// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration, snapshots and live updates of QEMU (cpr-transfer, cpr-exec) are blocked by queues in
//! hardware, and by nothing else of the SMMU.

use serde_json::json;
use smmuv3_qtest::{assigned::Bench, qemu};

use crate::bench::{setup, HOST};

/// All modes of migration.
const MODES: [&str; 4] = ["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"];

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
fn migration_and_live_update_with_cmdqv_are_blocked() {
    for cmdqv in ["on", "auto"] {
        let bench = setup(&qemu(), HOST, cmdqv).assign("d0", 1).start();
        for mode in MODES {
            let found = reasons(&bench, mode);
            assert_eq!(found.len(), 1, "{mode}: {found:?}");
            assert!(found[0].contains("CMDQ virtualization"), "{found:?}");
        }
        // the guest keeps its queues without a device
        bench.unplug("d0", 1);
        for mode in MODES {
            assert_eq!(reasons(&bench, mode).len(), 1, "{mode}");
        }
        bench.finish();
    }
}

#[test]
fn migration_and_live_update_without_cmdqv_are_not_blocked() {
    let hosts = [(HOST, "off"), ("smmu a", "auto")];
    for (host, cmdqv) in hosts {
        let bench = setup(&qemu(), host, cmdqv).assign("d0", 1).start();
        for mode in MODES {
            assert_eq!(reasons(&bench, mode), [""; 0], "{host}, {mode}");
        }
        bench.finish();
    }
}

/// With an emulated endpoint the guest has no queues in hardware. But the host has made a vIOMMU
/// for them, which no other QEMU can adopt.
#[test]
fn unused_cmdqv_blocks_live_update_only() {
    let bench = setup(&qemu(), HOST, "auto")
        .assign("d0", 1)
        .slot(2)
        .device("edu,bus=slot2")
        .start();
    for mode in MODES {
        let expected = usize::from(mode.starts_with("cpr-") && mode != "cpr-reboot");
        assert_eq!(reasons(&bench, mode).len(), expected, "{mode}");
    }
    bench.finish();
}

/// A guest that was started without queues in hardware does not get them by its migration.
#[test]
fn guest_without_cmdqv_does_not_load_where_it_is() {
    let state = std::env::temp_dir().join(format!("smmuv3-cmdqv-state-{}", std::process::id()));
    let uri = format!("file:{}", state.display());
    let migrate = |bench: &Bench, command: &str, arguments: serde_json::Value| {
        bench.machine().qmp(command, arguments);
        smmuv3_qtest::until("the end of the migration", || {
            let now = bench.machine().qmp("query-migrate", json!({}));
            let status = now["status"].as_str()?.to_owned();
            ["completed", "failed"]
                .contains(&&*status)
                .then_some(status)
        })
    };
    let machine = |host: &str, cmdqv: &str| {
        setup(&qemu(), host, cmdqv).assign_migratable("d0", 1, "stop-copy,p2p")
    };
    let source = machine("smmu a", "auto").start();
    let parameters = json!({ "downtime-limit": 2_000_000, "max-bandwidth": 1_u64 << 40 });
    source.machine().qmp("migrate-set-parameters", parameters);
    assert_eq!(
        migrate(&source, "migrate", json!({ "uri": uri })),
        "completed"
    );
    source.finish_migratable();
    let incoming = json!({ "uri": uri, "exit-on-error": false });
    for (cmdqv, outcome) in [("auto", "failed"), ("off", "completed")] {
        let target = machine(HOST, cmdqv).incoming().start();
        let result = migrate(&target, "migrate-incoming", incoming.clone());
        assert_eq!(result, outcome, "{cmdqv}: {:?}", target.messages());
        if outcome == "failed" {
            target.expect_message("the guest was started without CMDQ virtualization (cmdqv)");
        }
        target.end();
    }
    let _ = std::fs::remove_file(state);
}

/// A host that refuses the interface leaves no blocker behind.
#[test]
fn live_update_without_vintf_is_not_blocked() {
    let host = "smmu a cmdqv=vintfs:0,vcmdqs:1,sids:4,version:1";
    let bench = setup(&qemu(), host, "auto").assign("d0", 1).start();
    assert_eq!(reasons(&bench, "cpr-exec"), [""; 0]);
    bench.finish_with_errors();
}
