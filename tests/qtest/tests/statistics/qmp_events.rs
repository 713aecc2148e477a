// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QMP events of an SMMU with assigned devices.

use std::collections::BTreeSet;

use serde_json::{json, Value};
use smmuv3_docs::page;
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest},
    command::{self, SYNC, TLBI_NSNH_ALL},
    smmu::PATH,
    until, Smmu,
};

const QUARANTINED: &str = "ARM_SMMUV3_STREAM_QUARANTINED";
const FAILED_CLOSED: &str = "ARM_SMMUV3_FAILED_CLOSED";
const LOST: &str = "ARM_SMMUV3_HOST_LOST";
const RECOVERED: &str = "ARM_SMMUV3_HOST_RECOVERED";

/// The interval of QEMU's limit, on the virtual clock under qtest.
const SECOND: u64 = 1_000_000_000;

/// Returns the SMMU's events since the last call, name and data.
fn events(bench: &Bench) -> Vec<(String, Value)> {
    let events = bench.machine().take_events().into_iter();
    events
        .filter_map(|event| {
            let name = event["event"].as_str()?.to_owned();
            name.starts_with("ARM_SMMUV3")
                .then(|| (name, event["data"].clone()))
        })
        .collect()
}

/// Returns their names.
fn names(bench: &Bench) -> Vec<String> {
    events(bench).into_iter().map(|(name, _)| name).collect()
}

/// Submits a `CMD_ATC_INV` that times out, and takes the error away.
#[track_caller]
fn time_out(bench: &Bench, smmu: &Smmu<'_>, slot: u32) {
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=2");
    smmu.push(&[command::atc_inv_all(sid(slot)), SYNC]);
    smmu.ring();
    until("CERROR_ATC_INV_SYNC", || smmu.error().then_some(()));
    smmu.acknowledge();
    smmu.wait_consumed();
}

/// Waits until the queue is consumed, however many errors that takes.
#[track_caller]
fn drive(smmu: &Smmu<'_>) {
    smmu.push(&[TLBI_NSNH_ALL, SYNC]);
    smmu.ring();
    until("the queue's end", || {
        if smmu.error() {
            smmu.acknowledge();
        }
        (smmu.cons() == smmu.prod()).then_some(())
    });
}

#[test]
fn statistics_page_lists_every_qmp_event() {
    let bench = Bench::with_one_device();
    let schema = bench.machine().qmp("query-qmp-schema", json!({}));
    let known: BTreeSet<&str> = schema
        .as_array()
        .expect("a list")
        .iter()
        .filter(|entry| entry["meta-type"] == "event")
        .filter_map(|entry| entry["name"].as_str())
        .filter(|name| name.starts_with("ARM_SMMUV3"))
        .collect();
    let text = page::text("statistics.md");
    let rows = page::rows(&text, "## QMP events");
    let documented: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| page::code(row.cell(0)))
        .collect();
    assert_eq!(known, documented);
    bench.finish();
}

#[test]
fn quarantine_sends_one_event() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    assert_eq!(names(&bench), [""; 0]);
    time_out(&bench, &smmu, 1);
    let data = json!({
        "qom-path": "/machine/peripheral/d0", "smmu": PATH, "stream-id": sid(1),
    });
    assert_eq!(events(&bench), [(QUARANTINED.to_owned(), data)]);
    bench.finish();
}

/// A guest that has its device quarantined again and again sends one event a second; other
/// devices are not affected.
#[test]
fn quarantine_events_are_limited_per_device() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    for _ in 0..5 {
        time_out(&bench, &smmu, 1);
        smmu.install(sid(1), ste::FIRST);
    }
    assert_eq!(names(&bench), [QUARANTINED]);
    time_out(&bench, &smmu, 2);
    assert_eq!(names(&bench), [QUARANTINED]);
    bench.machine().clock_step(2 * SECOND);
    assert_eq!(names(&bench), [QUARANTINED], "the last of the first device");
    bench.finish();
}

#[test]
fn failed_closed_sends_one_event() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    bench.script("fail HWPT_INVALIDATE errno=EFAULT count=2");
    smmu.fails(TLBI_NSNH_ALL);
    let data = json!({ "qom-path": PATH });
    assert_eq!(events(&bench), [(FAILED_CLOSED.to_owned(), data)]);
    bench.script("clear");
    smmu.acknowledge();
    bench.finish();
}

#[test]
fn lost_and_recovered_host_send_events() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail HWPT_INVALIDATE errno=ENOMEM");
    drive(&smmu);
    let sent = events(&bench);
    let data = json!({ "qom-path": PATH });
    assert!(sent.contains(&(LOST.to_owned(), data.clone())), "{sent:?}");
    bench.script("clear");
    until("the host's return", || {
        smmu.install(sid(1), ste::FIRST);
        events(&bench)
            .contains(&(RECOVERED.to_owned(), data.clone()))
            .then_some(())
    });
    bench.finish_with_errors();
}
