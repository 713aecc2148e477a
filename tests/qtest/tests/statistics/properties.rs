// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The properties as such: names, types, and how they are read.

use std::collections::BTreeSet;

use serde_json::{json, Value};
use smmuv3_docs::page;
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Setup, EXPLICIT},
    qemu, qemu_c,
    smmu::{reg, PATH, SMMUEN},
    Builder, Machine, Smmu,
};

const PAGE: &str = "statistics.md";

/// The properties and their types.
const PROPERTIES: [(&str, &str); 4] = [
    ("implementation", "string"),
    ("statistics", "Smmuv3Statistics"),
    ("streams", "Smmuv3Streams"),
    ("id-registers", "Smmuv3IdRegisters"),
];

fn machine(options: &str) -> Machine {
    Builder::virt(qemu()).smmu(options).start()
}

/// Returns the names in the first cells of the tables below a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let rows = page::rows(&page::text(PAGE), heading);
    let names: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            page::code(row.cell(0))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let unique: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(names.len(), unique.len(), "{heading}: a name occurs twice");
    unique
}

fn members(value: &Value) -> BTreeSet<String> {
    let object = value.as_object().expect("an object");
    object.keys().cloned().collect()
}

#[test]
fn statistics_page_lists_every_member() {
    let bench = Bench::with_one_device();
    bench.translating(&[ste::FIRST]);
    let machine = bench.machine();
    let statistics = machine.qom_get(PATH, "statistics");
    let groups = statistics.as_object().expect("an object");
    assert_eq!(groups.len(), 6);
    for (group, value) in groups {
        assert_eq!(
            members(value),
            documented(&format!("### `{group}`")),
            "{group}"
        );
    }
    let streams = machine.qom_get(PATH, "streams");
    assert_eq!(members(&streams[0]), documented("## Streams"));
    let registers = machine.qom_get(PATH, "id-registers");
    assert_eq!(members(&registers), documented("## ID registers"));
    bench.finish();
}

/// The example is what the statistics look like.
#[test]
fn statistics_page_example_has_every_member() {
    let text = page::text(PAGE);
    let example = text.split("```json").nth(1).expect("an example");
    let example = example.split("```").next().unwrap_or_default();
    let example: Value = serde_json::from_str(example).expect("JSON");
    let actual = machine("").qom_get(PATH, "statistics");
    for (group, value) in actual.as_object().expect("an object") {
        assert_eq!(members(value), members(&example[group]), "{group}");
    }
}

#[test]
fn properties_have_a_type_and_no_setter() {
    let machine = machine("");
    let listed = machine.qmp("qom-list", json!({ "path": PATH }));
    let listed = listed.as_array().expect("a list");
    for (name, type_name) in PROPERTIES {
        let entry = listed.iter().find(|entry| entry["name"] == name);
        assert_eq!(entry.expect(name)["type"], type_name);
        let arguments = json!({ "path": PATH, "property": name, "value": 1 });
        let error = machine.try_qmp("qom-set", arguments).expect_err(name);
        assert_eq!(error.class, "GenericError");
    }
}

/// Users distinguish the two devices by this property.
#[test]
fn implementation_is_named_by_the_rust_device_only() {
    assert_eq!(
        machine("").qom_get(PATH, "implementation"),
        "smmuv3-accel (Rust)"
    );
    let c = Builder::virt(qemu_c()).smmu("").start();
    let arguments = json!({ "path": PATH, "property": "implementation" });
    c.try_qmp("qom-get", arguments)
        .expect_err("no property of the C device");
}

/// The type's properties are those of the C device: `introspection` compares them.
#[test]
fn properties_belong_to_the_instance_only() {
    let machine = machine("");
    for command in ["device-list-properties", "qom-list-properties"] {
        let listed = machine.qmp(command, json!({ "typename": "arm-smmuv3" }));
        for (name, _) in PROPERTIES {
            let listed = listed.as_array().expect("a list");
            assert!(listed.iter().all(|entry| entry["name"] != name), "{name}");
        }
    }
}

#[test]
fn qom_list_get_shows_all_properties() {
    let machine = machine("");
    let answer = machine.qmp("qom-list-get", json!({ "paths": [PATH] }));
    let properties = answer[0]["properties"].as_array().expect("a list");
    for (name, _) in PROPERTIES {
        let entry = properties.iter().find(|entry| entry["name"] == name);
        let value = &entry.expect(name)["value"];
        assert_eq!(*value, machine.qom_get(PATH, name), "{name}");
    }
}

#[test]
fn human_monitor_shows_json() {
    let machine = machine("");
    for (name, _) in PROPERTIES {
        let text = machine.monitor(&format!("qom-get {PATH} {name}"));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value, machine.qom_get(PATH, name));
    }
    assert!(machine.monitor("info qtree").contains("arm-smmuv3"));
}

#[test]
fn machine_smmu_has_statistics() {
    let machine = Builder::virt_with(qemu(), "iommu=smmuv3").start();
    let listed = machine.qmp("qom-list", json!({ "path": "/machine/unattached" }));
    let listed = listed.as_array().expect("a list");
    let smmu = listed
        .iter()
        .find(|entry| entry["type"] == "child<arm-smmuv3>")
        .expect("an SMMU");
    let name = smmu["name"].as_str().expect("a name");
    let path = format!("/machine/unattached/{name}");
    let statistics = machine.qom_get(&path, "statistics");
    assert_eq!(statistics["commands"]["consumed"], 0);
}

#[test]
fn id_registers_match_the_register_file() {
    for options in ["", EXPLICIT, "stage=nested"] {
        let machine = machine(options);
        let smmu = Smmu::find(&machine);
        let registers = machine.qom_get(PATH, "id-registers");
        for (name, register) in [
            ("idr0", reg::IDR0),
            ("idr1", reg::IDR1),
            ("idr2", reg::IDR2),
            ("idr3", reg::IDR3),
            ("idr4", reg::IDR4),
            ("idr5", reg::IDR5),
            ("iidr", reg::IIDR),
            ("aidr", reg::AIDR),
        ] {
            assert_eq!(registers[name], smmu.read(register), "{name}, {options}");
        }
        assert_eq!(registers["resolved"], true);
    }
}

#[test]
fn auto_properties_show_their_resolved_values() {
    // SSIDSIZE=4, no RIL, OAS=48, and ATS
    let host = format!(
        "smmu a idr1={:#x} idr3={:#x} idr5={:#x}",
        (19 << 21) | (19 << 16) | (4 << 6) | 32,
        (1 << 2) | (2 << 11),
        0b101 | (0b111 << 4),
    );
    let bench = Setup::on_host(&host, "accel=on").assign("d0", 1).start();
    let machine = bench.machine();
    assert_eq!(machine.qom_get(PATH, "oas"), "auto");
    let registers = machine.qom_get(PATH, "id-registers");
    assert_eq!(registers["oas"], 48);
    assert_eq!(registers["ats"], true);
    assert_eq!(registers["ril"], false);
    assert_eq!(registers["ssidsize"], 4);
    assert_eq!(registers["resolved"], true);
    bench.finish();
}

#[test]
fn streams_are_empty_without_assigned_devices() {
    for options in ["", EXPLICIT] {
        let machine = machine(options);
        assert_eq!(machine.qom_get(PATH, "streams"), json!([]));
    }
}

#[test]
fn streams_show_attachment_and_vdevice() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST]);
    let machine = bench.machine();
    let streams = || machine.qom_get(PATH, "streams");
    let enabled = streams();
    assert_eq!(enabled.as_array().map(Vec::len), Some(2));
    let [first, second] = [&enabled[0], &enabled[1]];
    assert_eq!(first["stream-id"], sid(1));
    assert_eq!(first["device"], "/machine/peripheral/d0");
    assert_eq!(first["translation"], "stage1");
    assert_eq!(first["ste"], json!(ste::FIRST));
    assert_eq!(
        (&first["quarantined"], &first["vdevice"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(second["stream-id"], sid(2));
    assert_eq!(second["translation"], "abort");
    assert_eq!(second.get("ste"), None);
    assert_ne!(first["host-device-id"], second["host-device-id"]);
    smmu.disable(SMMUEN);
    assert_eq!(streams()[0]["translation"], "bypass");
    bench.finish();
}
