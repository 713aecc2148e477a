// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What the counters say after a guest has done something.

use serde_json::{json, Value};
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest},
    command::{self, RESERVED, SYNC, TLBI_NSNH_ALL},
    edu, qemu,
    smmu::{reg, PATH, SMMUEN},
    tables::Allow,
    translated::{Stages, Translated, FREE},
    until, Access, Builder, Edu, Machine,
};

/// Returns the members of a group that differ from `before`, with their difference.
fn difference(before: &Value, machine: &Machine, group: &str) -> Value {
    let now = machine.qom_get(PATH, "statistics");
    let pairs = now[group].as_object().expect("a group").iter();
    let changed = pairs.filter_map(|(name, value)| {
        let grown = value.as_u64()? - before[group][name].as_u64()?;
        (grown != 0).then(|| (name.clone(), json!(grown)))
    });
    Value::Object(changed.collect())
}

fn statistics(machine: &Machine) -> Value {
    machine.qom_get(PATH, "statistics")
}

#[test]
fn commands_and_calls_of_a_guest_are_counted() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    let machine = bench.machine();
    let before = statistics(machine);
    bench.mark();
    let mut commands = vec![command::tlbi_nh_va(1, 0x1000); 30];
    commands.push(command::cfgi_cd_all(sid(1)));
    commands.push(command::atc_inv_all(sid(1)));
    commands.push(command::atc_inv_all(sid(7)));
    smmu.commands(&commands);
    assert_eq!(
        difference(&before, machine, "commands"),
        json!({
            "consumed": 34, "tlbi": 30, "cfgi-cd": 1, "atc-inv": 2, "sync": 1, "forwarded": 32,
            "without-effect": 1,
        })
    );
    assert_eq!(
        difference(&before, machine, "queue"),
        json!({ "doorbells": 1, "runs": 1 })
    );
    let host = difference(&before, machine, "host");
    assert_eq!((&host["calls"], &host["commands"]), (&json!(1), &json!(32)));
    let now = statistics(machine);
    let sizes = |from: &Value| from["host"]["sizes"][5].as_u64().expect("a size");
    assert_eq!(sizes(&now) - sizes(&before), 1, "32 to 63 commands");
    assert!(now["host"]["longest-ns"].as_u64() <= now["host"]["time-ns"].as_u64());
    assert_ne!(now["host"]["longest-ns"], 0);
    assert_eq!(bench.journal().batches().len(), 1);
    bench.finish();
}

#[test]
fn slow_call_is_the_longest() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail HWPT_INVALIDATE errno=EINTR delay_ms=50 count=1");
    smmu.commands(&[TLBI_NSNH_ALL]);
    let host = &statistics(bench.machine())["host"];
    let longest = host["longest-ns"].as_u64().expect("a time");
    assert!(longest >= 50_000_000, "{longest} ns");
    assert!(host["time-ns"].as_u64() >= Some(longest));
    assert_eq!((&host["eintr"], &host["retries"]), (&json!(1), &json!(1)));
    bench.finish();
}

#[test]
fn command_error_is_counted() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    let before = statistics(bench.machine());
    smmu.fails(RESERVED);
    assert_eq!(
        difference(&before, bench.machine(), "queue"),
        json!({ "doorbells": 1, "runs": 1, "errors-ill": 1 })
    );
    let commands = difference(&before, bench.machine(), "commands");
    assert_eq!(commands, json!({ "illegal": 1 }));
    bench.finish();
}

#[test]
fn attachments_are_counted_as_the_host_logs_them() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    let machine = bench.machine();
    let before = statistics(machine);
    bench.mark();
    smmu.install(sid(1), ste::SECOND);
    smmu.install(sid(1), ste::SECOND);
    smmu.install(sid(1), ste::ABORT);
    smmu.disable(SMMUEN);
    assert_eq!(
        difference(&before, machine, "attach"),
        json!({ "stage1": 1, "hwpts": 1, "unchanged": 1, "abort": 1, "bypass": 2 })
    );
    assert_eq!(bench.journal().calls("ATTACH").len(), 4);
    bench.finish();
}

#[test]
fn refused_attachment_is_counted() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    let before = statistics(bench.machine());
    bench.script("fail HWPT_ALLOC errno=EINVAL count=1");
    smmu.install(sid(1), ste::SECOND);
    assert_eq!(
        difference(&before, bench.machine(), "attach"),
        json!({ "refused": 1, "abort": 1 })
    );
    bench.finish_with_errors();
}

#[test]
fn quarantine_is_counted_and_shown() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    let machine = bench.machine();
    let before = statistics(machine);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=2");
    smmu.push(&[command::atc_inv_all(sid(1)), SYNC]);
    smmu.ring();
    until("CERROR_ATC_INV_SYNC", || smmu.error().then_some(()));
    let streams = machine.qom_get(PATH, "streams");
    assert_eq!(streams[0]["quarantined"], true);
    assert_eq!(streams[1]["quarantined"], false);
    let attach = difference(&before, machine, "attach");
    assert_eq!(attach, json!({ "quarantines": 1, "abort": 1 }));
    let queue = difference(&before, machine, "queue");
    assert_eq!(queue["errors-atc-inv-sync"], 1);
    let host = difference(&before, machine, "host");
    assert_eq!(host["etimedout"], 2);
    bench.finish();
}

#[test]
fn lost_host_and_its_return_are_counted() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    let machine = bench.machine();
    let before = statistics(machine);
    bench.script("fail HWPT_INVALIDATE errno=EBADF");
    smmu.push(&[TLBI_NSNH_ALL, SYNC]);
    smmu.ring();
    until("the queue's end", || {
        if smmu.error() {
            smmu.acknowledge();
        }
        (smmu.cons() == smmu.prod()).then_some(())
    });
    let attach = difference(&before, machine, "attach");
    assert_eq!(attach["host-lost"], 1);
    assert_eq!(attach.get("host-recovered"), None);
    bench.script("clear");
    until("the host's return", || {
        smmu.install(sid(1), ste::FIRST);
        let now = difference(&before, machine, "attach");
        (now["host-recovered"] == 1).then_some(())
    });
    bench.finish_with_errors();
}

/// The devices' counters stay when they go.
#[test]
fn counters_survive_reset_and_unplug() {
    let bench = Bench::with_one_device();
    bench.translating(&[ste::FIRST]);
    let machine = bench.machine();
    let before = statistics(machine);
    machine.system_reset();
    let commands = difference(&before, machine, "commands");
    assert_eq!(commands, json!({}));
    let after_reset = statistics(machine);
    bench.unplug("d0", 1);
    assert_eq!(machine.qom_get(PATH, "streams"), json!([]));
    let attach = difference(&after_reset, machine, "attach");
    assert_eq!(attach, json!({ "blocked": 1 }));
    bench.finish();
}

#[test]
fn emulated_transactions_are_counted() {
    let machine = Builder::virt(qemu())
        .device("arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,stage=1")
        .device(format!("{},bus=pcie.0,addr=4", edu::DEVICE))
        .start();
    let edu = Edu::new(&machine, 0x20, 0);
    let translated = Translated::new(&machine, Stages::One, 0x20);
    let iova = 0x10_0000;
    translated.input().map(iova, FREE, Allow::ReadWrite);
    let before = statistics(&machine);
    edu.access(Access::Read, iova);
    edu.access(Access::Read, iova);
    assert_eq!(
        difference(&before, &machine, "translations"),
        json!({ "config-misses": 1, "config-hits": 1, "tlb-misses": 1, "tlb-hits": 1, "walks": 1 })
    );
    let before_fault = statistics(&machine);
    edu.access(Access::Read, 0x20_0000);
    let events = difference(&before_fault, &machine, "events");
    assert_eq!(events["recorded"], 1);
    assert_eq!(translated.smmu.read(reg::EVENTQ_PROD), 1);
}
