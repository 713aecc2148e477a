// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Introspection of `arm-smmuv3`: but for one more property, the Rust device must be
//! indistinguishable from the C device for users, libvirt and old machine types.

use std::path::PathBuf;

use serde_json::{json, Value};
use smmuv3_qtest::{
    qemu, qemu_c,
    smmu::{reg, PATH},
    Builder, Machine, Smmu,
};

/// Checks that `ask` returns the same value for both binaries, and returns it.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(ask: impl Fn(PathBuf) -> T) -> T {
    let (rust, c) = (ask(qemu()), ask(qemu_c()));
    assert_eq!(rust, c, "left: the Rust device, right: the C device");
    rust
}

/// Starts an empty machine for introspection.
fn bare(binary: PathBuf) -> Machine {
    Builder::new(binary).args(["-machine", "none"]).start()
}

/// Returns the output of `-device ARGUMENT`.
fn help(binary: PathBuf, argument: &str) -> Vec<String> {
    let finished = Builder::new(binary)
        .args(["-machine", "virt", "-device", argument])
        .run();
    finished.output().lines().map(str::to_owned).collect()
}

/// The properties that the C device lacks.
const OWN: [&str; 3] = ["cd2l", "msi", "vax"];

fn is_own(property: &Value) -> bool {
    property["name"]
        .as_str()
        .is_some_and(|name| OWN.contains(&name))
}

/// Returns `device-list-properties` by name.
fn properties(binary: PathBuf) -> Vec<Value> {
    let answer = bare(binary).qmp(
        "device-list-properties",
        json!({ "typename": "arm-smmuv3" }),
    );
    let mut properties = answer.as_array().expect("a list").clone();
    properties.sort_by_key(|property| property["name"].to_string());
    properties
}

#[test]
fn device_help_matches_c_device() {
    let lines = same(|binary| {
        let mut lines = help(binary.clone(), "arm-smmuv3,help");
        let before = lines.len();
        lines.retain(|line| {
            let is_own = |name: &&str| {
                line.trim_start()
                    .starts_with(&format!("{name}=<OnOffAuto>"))
            };
            !OWN.iter().any(is_own)
        });
        let own = if binary == qemu() { OWN.len() } else { 0 };
        assert_eq!(before - lines.len(), own, "{OWN:?}");
        lines
    });
    assert!(lines
        .iter()
        .any(|line| line.contains("ssidsize=<SsidSizeMode>")));
}

#[test]
fn device_list_line_matches_c_device() {
    let lines = same(|binary| {
        let mut lines = help(binary, "help");
        lines.retain(|line| line.contains("smmu"));
        lines
    });
    assert_eq!(lines, ["name \"arm-smmuv3\", bus System"]);
}

#[test]
fn qmp_properties_match_c_device() {
    let properties = same(|binary| {
        let all = properties(binary.clone());
        let (own, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(is_own);
        assert_eq!(own.len(), if binary == qemu() { OWN.len() } else { 0 });
        assert!(own.iter().all(|property| property["type"] == "OnOffAuto"));
        rest
    });
    assert!(properties.len() > 10);
}

#[test]
fn qom_types_match_c_device() {
    let types = same(|binary| {
        let machine = bare(binary);
        let mut types: Vec<String> = machine
            .qmp("qom-list-types", json!({ "abstract": true }))
            .as_array()
            .expect("a list")
            .iter()
            .filter(|entry| {
                entry["name"]
                    .as_str()
                    .is_some_and(|name| name.contains("smmu"))
            })
            .map(Value::to_string)
            .collect();
        types.sort();
        types
    });
    assert!(types.iter().any(|entry| entry.contains("\"arm-smmuv3\"")));
}

#[test]
fn qom_properties_match_c_device() {
    same(|binary| {
        let answer =
            bare(binary.clone()).qmp("qom-list-properties", json!({ "typename": "arm-smmuv3" }));
        let mut lines: Vec<String> = answer
            .as_array()
            .expect("a list")
            .iter()
            .filter(|property| !is_own(property) || binary != qemu())
            .map(Value::to_string)
            .collect();
        lines.sort();
        lines
    });
}

/// Returns the description of the device's state.
fn vmstate(binary: PathBuf) -> Value {
    let finished = Builder::new(binary)
        .args(["-machine", "virt", "-dump-vmstate", "/dev/stdout"])
        .run();
    let dump: Value = serde_json::from_str(finished.output()).expect("JSON");
    dump["arm-smmuv3"].clone()
}

/// Returns the subsections of a description.
fn subsections(section: &mut Value) -> &mut Vec<Value> {
    let subsections = section["Description"]["Subsections"].as_array_mut();
    subsections.expect("subsections")
}

/// The C device has neither migration nor live update with accel=on, whose subsections are in no
/// other stream.
#[test]
fn vmstate_fields_match_c_device() {
    let is_added = |subsection: &Value| {
        let name = subsection["name"].as_str();
        name.is_some_and(|name| ["smmuv3/accel", "smmuv3/cpr"].contains(&name))
    };
    let section = same(|binary| {
        let mut section = vmstate(binary);
        subsections(&mut section).retain(|subsection| !is_added(subsection));
        section
    });
    assert_eq!(section["Description"]["name"], "smmuv3");
    let mut ours = vmstate(qemu());
    let added = subsections(&mut ours).iter().filter(|it| is_added(it));
    assert_eq!(added.count(), 2);
}

#[test]
fn libvirt_probe_finds_device_and_properties() {
    let machine = bare(qemu());
    let types = machine.qmp("qom-list-types", json!({ "implements": "device" }));
    let listed = |name: &str| {
        let types = types.as_array().expect("a list");
        types.iter().any(|entry| entry["name"] == name)
    };
    assert!(listed("arm-smmuv3"));
    let properties = properties(qemu());
    for (name, json_type) in [
        ("smmu_per_bus", "bool"),
        ("accel", "bool"),
        ("cmdqv", "OnOffAuto"),
        ("primary-bus", "link<PCI>"),
        ("ats", "OnOffAuto"),
        ("ril", "OnOffAuto"),
        ("ssidsize", "SsidSizeMode"),
        ("oas", "OasMode"),
    ] {
        let found = properties.iter().find(|property| property["name"] == name);
        let Some(property) = found else {
            panic!("no property {name}");
        };
        assert_eq!(property["type"], json_type, "{name}");
    }
}

#[test]
fn repeated_introspection_does_not_crash_qemu() {
    // each reply instantiates the type and frees the instance
    let machine = bare(qemu());
    let ask = || {
        machine.qmp(
            "device-list-properties",
            json!({ "typename": "arm-smmuv3" }),
        )
    };
    let first = ask();
    for _ in 0..100 {
        assert_eq!(ask(), first);
    }
    let finished = machine.quit();
    assert_eq!(finished.stderr, "");
}

/// Returns the values of the user's properties of the SMMU of a machine.
fn values(machine: &Machine) -> Value {
    let names = [
        "accel",
        "ats",
        "ril",
        "ssidsize",
        "oas",
        "cmdqv",
        "stage",
        "smmu_per_bus",
        "bus_num",
        "primary-bus",
        "memory",
        "secure-memory",
    ];
    let pairs = names.map(|name| (name.to_owned(), machine.qom_get(PATH, name)));
    Value::Object(pairs.into_iter().collect())
}

/// Returns a `machine` with an SMMU with `options`.
fn instance(binary: PathBuf, machine: &str, options: &str) -> Machine {
    let machine = format!("{machine},accel=qtest");
    Builder::new(binary)
        .args(["-machine", &machine, "-bios", "/dev/null"])
        .device("pxb-pcie,id=pcie.1,bus_nr=8,bus=pcie.0")
        .smmu(options)
        .start()
}

#[test]
fn old_machine_type_fixes_properties() {
    for machine in ["virt-11.0", "virt-10.2", "virt-10.0"] {
        let rust = values(&instance(qemu(), machine, "accel=on"));
        let c = values(&instance(qemu_c(), machine, "accel=on"));
        assert_eq!(
            rust, c,
            "{machine}; left: the Rust device, right: the C device"
        );
        assert_eq!(rust["ats"], "off");
        assert_eq!(rust["ril"], "on");
        assert_eq!(rust["ssidsize"], "0");
        assert_eq!(rust["oas"], "44");
    }
}

/// The C device has no such property, which old machine types must not mind.
#[test]
fn old_machine_type_has_no_msi() {
    let msi = |machine: &str, options: &str| {
        let machine = instance(qemu(), machine, options);
        let value = machine.qom_get(PATH, "msi");
        let shown = Smmu::find(&machine).read(reg::IDR0) & (1 << 13) != 0;
        (value, shown)
    };
    let fixed = "accel=on,ats=off,ril=on,ssidsize=0,oas=44";
    for machine in ["virt-11.0", "virt-10.2", "virt-10.0"] {
        assert_eq!(msi(machine, fixed), (json!("off"), false), "{machine}");
        let given = format!("{fixed},msi=on");
        assert_eq!(msi(machine, &given), (json!("on"), true), "{machine}");
        instance(qemu_c(), machine, "accel=off");
    }
    assert_eq!(msi("virt", fixed), (json!("auto"), true));
    assert_eq!(msi("virt", "accel=off"), (json!("auto"), false));
}

#[test]
fn user_overrides_old_machine_type_properties() {
    let machine = instance(
        qemu(),
        "virt-11.0",
        "accel=on,ats=on,ril=off,ssidsize=20,oas=48",
    );
    let values = values(&machine);
    assert_eq!(values["ats"], "on");
    assert_eq!(values["ril"], "off");
    assert_eq!(values["ssidsize"], "20");
    assert_eq!(values["oas"], "48");
}

#[test]
fn newest_machine_type_fixes_no_property() {
    // properties that the user does not set are auto
    let fixed = [
        ("ats", "off"),
        ("ril", "on"),
        ("ssidsize", "0"),
        ("oas", "44"),
    ];
    let given: Vec<String> = fixed
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let rust = values(&instance(
        qemu(),
        "virt",
        &format!("accel=on,{}", given.join(",")),
    ));
    let mut c = values(&instance(qemu_c(), "virt", "accel=off"));
    for (name, value) in fixed {
        assert_eq!(c[name], "auto", "{name}");
        c[name] = json!(value);
    }
    c["accel"] = json!(true);
    assert_eq!(rust, c, "left: the Rust device, right: the C device");
}
