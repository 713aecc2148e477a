// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration is blocked with accel=on.

use serde_json::json;

use crate::bench::machine;

#[test]
fn accel_migration_is_blocked_with_reason() {
    let machine = machine().start();
    let error = machine
        .try_qmp("migrate", json!({ "uri": "file:/dev/null" }))
        .expect_err("migration began");
    for words in ["arm-smmuv3 'smmuv3.1' with accel=on", "use accel=off"] {
        assert!(error.description.contains(words), "{words}: {error}");
    }
    let state = machine.qmp("query-migrate", json!({}));
    assert!(
        state["blocked-reasons"].to_string().contains("accel=on"),
        "{state}"
    );
    assert_eq!(machine.status(), "running");
}
