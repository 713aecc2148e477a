// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stops and resets of the machine while the host executes an invalidation: they wait for the
//! vCPU, and no consumer runs afterwards.

use std::{thread, time::Duration};

use serde_json::json;
use smmuv3_qtest::{
    assigned::VIOMMU,
    command::SYNC,
    journal::On,
    smmu::{reg, CMDQEN},
};

use crate::bench::{boot, expect_usable, hang, machine, ring, tlbi, MAILBOX};

/// `CR0ACK`
const CR0ACK: u64 = 0x24;

#[test]
fn stopped_machine_has_no_consumer() {
    let bench = machine();
    let smmu = boot(&bench);
    let hanging = hang(&bench, &smmu);
    bench.machine().qmp("stop", json!({}));
    let consumed = smmu.cons();
    assert_eq!(consumed, smmu.prod(), "the run has ended");
    assert_eq!(bench.machine().read32(MAILBOX), 1);
    assert_eq!(smmu.read(CR0ACK), smmu.read(reg::CR0));
    smmu.push(&[tlbi(2), SYNC]);
    smmu.write(reg::CMDQ_PROD, smmu.prod());
    thread::sleep(Duration::from_millis(50));
    assert_eq!(smmu.cons(), consumed, "nothing is consumed");
    bench.machine().qmp("cont", json!({}));
    hanging.end(&bench);
    smmu.wait_consumed();
    assert_eq!(bench.journal().batches(), [vec![tlbi(1)], vec![tlbi(2)]]);
    expect_usable(&bench, &smmu);
    bench.finish();
}

#[test]
fn reset_waits_for_hanging_invalidation() {
    let bench = machine();
    let smmu = boot(&bench);
    let hanging = hang(&bench, &smmu);
    smmu.push(&[tlbi(2), SYNC]);
    ring(&bench, &smmu, 1).wait(bench.machine());
    bench.machine().system_reset();
    hanging.end(&bench);
    bench.expect("after reset", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    bench.expect_objects("after reset", &VIOMMU);
    assert_eq!(smmu.read(reg::CR0) & CMDQEN, 0);
    assert_eq!(smmu.read(CR0ACK) & CMDQEN, 0);
    assert_eq!((smmu.read(reg::CMDQ_PROD), smmu.cons()), (0, 0));
    expect_usable(&bench, &boot(&bench));
    bench.finish();
}

/// The rest of a queue is consumed by a vCPU, not by the main loop.
#[test]
fn qmp_answers_while_rest_of_queue_is_consumed() {
    let bench = machine();
    let smmu = boot(&bench);
    // each call takes more than a time slice
    bench.script("latency us=300000 count=4");
    let mut commands = Vec::new();
    for number in 0..4 * 63 {
        commands.push(tlbi(number));
    }
    smmu.push(&commands);
    ring(&bench, &smmu, 0).wait(bench.machine());
    assert_ne!(smmu.cons(), smmu.prod(), "there is a rest");
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        bench.machine().qmp("query-status", json!({}));
        assert!(begun.elapsed() < Duration::from_millis(200));
    }
    smmu.wait_consumed();
    assert_eq!(bench.journal().batches().len(), 4);
    expect_usable(&bench, &smmu);
    bench.finish();
}
