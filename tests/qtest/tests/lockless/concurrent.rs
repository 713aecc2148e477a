// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Other vCPUs, and users.

use serde_json::json;
use smmuv3_qtest::{
    command::{sync_msi, RESERVED},
    smmu::reg,
    until,
    vcpus::Vcpu,
};

use crate::bench::{
    at_once, boot, expect_usable, hang, machine, ring, tlbi, AT_ONCE, CALL, MAILBOX,
};

#[test]
fn qmp_answers_while_host_executes_invalidation() {
    let bench = machine();
    let smmu = boot(&bench);
    let cons = smmu.cons();
    let hanging = hang(&bench, &smmu);
    let path = bench.machine().smmus().swap_remove(0);
    at_once("QMP", || bench.machine().qmp("query-status", json!({})));
    let statistics = at_once("statistics", || {
        bench.machine().qom_get(&path, "statistics")
    });
    at_once("streams", || bench.machine().qom_get(&path, "streams"));
    assert_ne!(statistics["commands"]["tlbi"], 0, "of the run in progress");
    hanging.expect(&bench, &smmu, cons);
    hanging.end(&bench);
    smmu.wait_consumed();
    expect_usable(&bench, &smmu);
    bench.finish();
}

#[test]
fn another_vcpu_accesses_devices_while_host_is_slow() {
    let bench = machine();
    let smmu = boot(&bench);
    let cons = smmu.cons();
    let hanging = hang(&bench, &smmu);
    let other = Vcpu::of(bench.machine(), 1);
    // the real-time clock, which needs the Big QEMU Lock
    let clock = 0x0901_0000;
    let registers = [reg::CMDQ_CONS, reg::CMDQ_PROD, reg::GERROR, reg::CR0];
    for address in [clock]
        .into_iter()
        .chain(registers.map(|at| smmu.base() + at))
    {
        let (_, duration) = other.read(address);
        assert!(duration < AT_ONCE, "{address:#x}: {duration:?}");
    }
    hanging.expect(&bench, &smmu, cons);
    hanging.end(&bench);
    expect_usable(&bench, &smmu);
    bench.finish();
}

#[test]
fn doorbell_of_another_vcpu_is_consumed_by_the_first() {
    let bench = machine();
    let smmu = boot(&bench);
    let hanging = hang(&bench, &smmu);
    smmu.push(&[tlbi(2), sync_msi(MAILBOX + 4, 2)]);
    let doorbell = ring(&bench, &smmu, 1);
    let duration = doorbell.wait(bench.machine());
    assert!(duration < AT_ONCE, "{duration:?}");
    assert_eq!(bench.machine().read32(MAILBOX + 4), 0);
    hanging.end(&bench);
    smmu.wait_consumed();
    assert_eq!(bench.machine().read32(MAILBOX), 1);
    assert_eq!(bench.machine().read32(MAILBOX + 4), 2);
    assert_eq!(bench.journal().batches(), [vec![tlbi(1)], vec![tlbi(2)]]);
    expect_usable(&bench, &smmu);
    bench.finish();
}

/// The first of two `CMD_SYNC`s completes before the host is called for what follows it.
#[test]
fn completed_sync_is_shown_while_next_call_hangs() {
    let bench = machine();
    let smmu = boot(&bench);
    let cons = smmu.cons();
    bench.script(&format!("latency us={} count=1", CALL.as_micros()));
    smmu.push(&[sync_msi(MAILBOX, 1), tlbi(1), sync_msi(MAILBOX + 4, 2)]);
    let doorbell = ring(&bench, &smmu, 0);
    until("the MSI of the first", || {
        (bench.machine().read32(MAILBOX) == 1).then_some(())
    });
    let (shown, _) = Vcpu::of(bench.machine(), 1).read(smmu.base() + reg::CMDQ_CONS);
    assert_eq!(shown, cons + 1, "CMDQ_CONS before the signal");
    assert_eq!(bench.machine().read32(MAILBOX + 4), 0);
    doorbell.wait(bench.machine());
    smmu.wait_consumed();
    assert_eq!(bench.machine().read32(MAILBOX + 4), 2);
    expect_usable(&bench, &smmu);
    bench.finish();
}

#[test]
fn illegal_command_behind_hanging_call_is_gerror() {
    let bench = machine();
    let smmu = boot(&bench);
    let hanging = hang(&bench, &smmu);
    smmu.push(&[RESERVED]);
    ring(&bench, &smmu, 1).wait(bench.machine());
    hanging.end(&bench);
    until("a command error", || smmu.error().then_some(()));
    assert_eq!(smmu.cons() + 1, smmu.prod());
    smmu.write_slots(smmu.cons(), &[sync_msi(MAILBOX, 7)]);
    let gerror = smmu.read(reg::GERROR);
    let acknowledge = Vcpu::of(bench.machine(), 2).write(smmu.base() + reg::GERRORN, gerror);
    acknowledge.wait(bench.machine());
    smmu.wait_consumed();
    assert_eq!(bench.machine().read32(MAILBOX), 7);
    expect_usable(&bench, &smmu);
    bench.finish();
}
