// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Changes of the guest's configuration and of its devices while the host executes an invalidation.

use serde_json::json;
use smmuv3_qtest::{
    assigned::{sid, ste, Ecam, Guest},
    command::{self, SYNC},
    journal::On,
    smmu::{reg, CMDQEN, SMMUEN},
};

use crate::bench::{at_once, boot, expect_usable, hang, machine, ring, tlbi, MAILBOX};

/// `CR0ACK`
const CR0ACK: u64 = 0x24;

#[test]
fn cr0ack_follows_cmdqen_when_the_call_has_ended() {
    let bench = machine();
    let smmu = boot(&bench);
    let hanging = hang(&bench, &smmu);
    smmu.push(&[tlbi(2), SYNC]);
    ring(&bench, &smmu, 1).wait(bench.machine());
    let enabled = smmu.read(reg::CR0);
    at_once("CR0", || smmu.write(reg::CR0, enabled & !CMDQEN));
    assert_eq!(smmu.read(reg::CR0), enabled & !CMDQEN);
    assert_eq!(smmu.read(CR0ACK), enabled, "commands are processed");
    // what the enable guards stays as it is
    let cons = smmu.cons();
    smmu.write(reg::CMDQ_CONS, 0x55);
    hanging.expect(&bench, &smmu, cons);
    hanging.end(&bench);
    assert_eq!(smmu.read(CR0ACK), enabled & !CMDQEN);
    assert_eq!(smmu.cons(), cons + 2, "the first unprocessed command");
    assert_eq!(bench.machine().read32(MAILBOX), 1);
    assert_eq!(bench.journal().batches(), [vec![tlbi(1)]]);
    smmu.write(reg::CR0, enabled);
    smmu.wait_consumed();
    assert_eq!(bench.journal().batches(), [vec![tlbi(1)], vec![tlbi(2)]]);
    expect_usable(&bench, &smmu);
    bench.finish();
}

#[test]
fn smmuen_is_followed_while_host_executes_invalidation() {
    let bench = machine();
    let smmu = boot(&bench);
    let cons = smmu.cons();
    let hanging = hang(&bench, &smmu);
    at_once("CR0", || {
        let cr0 = smmu.read(reg::CR0);
        smmu.write(reg::CR0, cr0 & !SMMUEN);
    });
    bench.expect("disabled", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    hanging.expect(&bench, &smmu, cons);
    hanging.end(&bench);
    smmu.wait_consumed();
    smmu.enable(SMMUEN);
    let stage1 = [
        ("d0", On::Nested(ste::FIRST)),
        ("d1", On::Nested(ste::SECOND)),
    ];
    bench.expect("enabled", &stage1);
    expect_usable(&bench, &smmu);
    bench.finish();
}

/// A run has fetched `CMD_CFGI_STE` when SMMUEN becomes 0, and must not attach by the registers
/// of before.
#[test]
fn ste_change_behind_hanging_call_goes_by_current_registers() {
    let bench = machine();
    let smmu = boot(&bench);
    bench.script("latency us=2000000 count=1");
    smmu.write_ste(sid(1), ste::SECOND);
    smmu.push(&[tlbi(1), SYNC, command::cfgi_ste(sid(1)), SYNC]);
    let doorbell = ring(&bench, &smmu, 0);
    smmuv3_qtest::until("a call of the host", || {
        (bench.journal().begun() == 1).then_some(())
    });
    smmu.write(reg::CR0, smmu.read(reg::CR0) & !SMMUEN);
    bench.expect("disabled", &[("d0", On::Bypass)]);
    doorbell.wait(bench.machine());
    smmu.wait_consumed();
    bench.expect("still disabled", &[("d0", On::Bypass)]);
    smmu.enable(SMMUEN);
    bench.expect("enabled", &[("d0", On::Nested(ste::SECOND))]);
    expect_usable(&bench, &smmu);
    bench.finish();
}

#[test]
fn unplugged_device_is_gone_while_host_executes_invalidation() {
    let bench = machine();
    let smmu = boot(&bench);
    let cons = smmu.cons();
    let hanging = hang(&bench, &smmu);
    // commands that name it are illegal to the host when the run gets to them
    smmu.push(&[command::cfgi_cd_all(sid(2)), SYNC]);
    ring(&bench, &smmu, 1).wait(bench.machine());
    at_once("unplugging", || {
        bench.machine().qmp("device_del", json!({ "id": "d1" }));
        Ecam::of(bench.machine()).power_off(8, 2 << 3);
    });
    bench.expect("the guest has let it go", &[("d1", On::Nothing)]);
    at_once("QMP", || bench.machine().qmp("query-status", json!({})));
    hanging.expect(&bench, &smmu, cons);
    hanging.end(&bench);
    // QEMU frees it after a grace period of RCU, and an access to a device is a critical section
    bench.machine().wait_event("DEVICE_DELETED");
    smmu.wait_consumed();
    assert!(!smmu.error());
    expect_usable(&bench, &smmu);
    bench.finish();
}

/// With the last device the vIOMMU goes, which the host does not destroy while the call uses it.
#[test]
fn last_device_is_unplugged_while_host_executes_invalidation() {
    let bench = machine();
    let smmu = boot(&bench);
    bench.unplug("d1", 2);
    bench.mark();
    let hanging = hang(&bench, &smmu);
    smmu.push(&[tlbi(2), SYNC]);
    ring(&bench, &smmu, 1).wait(bench.machine());
    bench.unplug("d0", 1);
    hanging.end(&bench);
    smmu.wait_consumed();
    assert!(!smmu.error());
    assert_eq!(bench.machine().read32(MAILBOX), 1);
    bench.expect_objects("without a device", &[]);
    bench.end_without_statistics();
}
