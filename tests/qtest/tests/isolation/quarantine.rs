// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Quarantine of devices whose ATC invalidations timed out, and the actions that clear it.

use smmuv3_qtest::{
    command::{self, SYNC, TLBI_NSNH_ALL},
    smmu::{cerror, SMMUEN},
    until,
};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    journal::On,
};

#[test]
fn smmuen_clear_ends_quarantine() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail HWPT_INVALIDATE errno=EFAULT");
    smmu.fails(TLBI_NSNH_ALL);
    bench.script("clear");
    smmu.acknowledge();
    bench.expect("failed closed", &[("d0", On::Abort)]);
    smmu.disable(SMMUEN);
    bench.expect("GBPA decides", &[("d0", On::Bypass)]);
    smmu.enable(SMMUEN);
    bench.expect("the STE decides", &[("d0", On::Nested(ste::FIRST))]);
    bench.finish();
}

#[test]
fn cfgi_ste_ends_quarantine_of_its_stream() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=2");
    smmu.push(&[command::atc_inv_all(sid(1)), SYNC]);
    smmu.ring();
    until("CERROR_ATC_INV_SYNC", || smmu.error().then_some(()));
    assert_eq!(smmu.cons_err(), cerror::ATC_INV_SYNC);
    smmu.acknowledge();
    let quarantined = [("d0", On::Abort), ("d1", On::Nested(ste::SECOND))];
    bench.expect("d0 has timed out", &quarantined);
    smmu.commands(&[TLBI_NSNH_ALL]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    smmu.commands(&[TLBI_NSNH_ALL]);
    bench.expect("d0 was retried", &quarantined);
    smmu.install(sid(1), ste::FIRST);
    bench.expect("configured", &[("d0", On::Nested(ste::FIRST))]);
    bench.finish();
}

#[test]
fn streams_quarantined_without_retry_are_reattached() {
    let names = ["d0", "d1", "d2", "d3"];
    let mut setup = Setup::new(EXPLICIT);
    for (slot, name) in (1..).zip(names) {
        setup = setup.assign(name, slot);
    }
    let bench = setup.start();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    for slot in 1..=4 {
        smmu.install(sid(slot), ste::FIRST);
    }
    // the batch twice, then each device alone until two have timed out
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=4");
    bench.mark();
    let commands = [1, 2, 3, 4].map(|slot| command::atc_inv_all(sid(slot)));
    smmu.push(&[&commands[..], &[SYNC]].concat());
    smmu.ring();
    until("CERROR_ATC_INV_SYNC", || smmu.error().then_some(()));
    assert_eq!(bench.journal().batches().len(), 4);
    for name in names {
        let history = bench.journal().history(name);
        assert!(history.contains(&On::Abort), "{name}: {history:?}");
    }
    until("those that were not asked", || {
        let journal = bench.journal();
        let on = |name| journal.device(name).map(|device| device.on);
        let back = Some(On::Nested(ste::FIRST));
        (on("d2") == back && on("d3") == back).then_some(())
    });
    bench.expect("asked", &[("d0", On::Abort), ("d1", On::Abort)]);
    smmu.acknowledge();
    smmu.wait_consumed();
    bench.finish();
}
