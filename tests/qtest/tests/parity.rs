// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Checks that each property and trace event that QEMU lists has a row in
//! `docs/parity.md`.

use std::collections::BTreeSet;

use serde_json::{json, Value};
use smmuv3_docs::page;
use smmuv3_qtest::{qemu, qemu_c, Builder, Machine};

const PAGE: &str = "parity.md";

/// Returns the names in the first cells of the table below a heading.
fn listed(heading: &str) -> Vec<String> {
    page::rows(&page::text(PAGE), heading)
        .iter()
        .flat_map(|row| {
            page::code(row.cell(0))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Returns the names in a QMP reply.
fn names(answer: &Value) -> BTreeSet<String> {
    let entries = answer.as_array().expect("a list").iter();
    entries
        .map(|entry| entry["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[track_caller]
fn expect_listed_once(heading: &str, ask: impl Fn(&Machine) -> BTreeSet<String>) {
    let machines =
        [qemu(), qemu_c()].map(|binary| Builder::new(binary).args(["-machine", "none"]).start());
    let listed = listed(heading);
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(
        listed.len(),
        unique.len(),
        "{heading}: something is there twice"
    );
    for machine in &machines {
        assert_eq!(ask(machine), unique, "left: QEMU, right: {PAGE}, {heading}");
    }
}

#[test]
fn parity_properties_have_one_row() {
    expect_listed_once("## Properties", |machine| {
        let arguments = json!({ "typename": "arm-smmuv3" });
        let mut found = names(&machine.qmp("device-list-properties", arguments));
        // those that the C device lacks
        found.extend(["cd2l", "msi", "vax"].map(str::to_owned));
        // property of every sysbus device
        found.retain(|name| !name.starts_with("sysbus-irq"));
        found
    });
}

#[test]
fn parity_trace_events_have_one_row() {
    expect_listed_once("## Trace events", |machine| {
        ["smmu_*", "smmuv3_*"]
            .iter()
            .flat_map(|pattern| {
                names(&machine.qmp("trace-event-get-state", json!({ "name": pattern })))
            })
            .collect()
    });
}
