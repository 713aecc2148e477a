// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated host itself, tested with the C device.

use smmuv3_qtest::{command, qemu_c, smmu::EVENTQEN};

use crate::bench::{Setup, EXPLICIT};

#[test]
fn slow_host_attach_is_awaited() {
    let bench = Setup::of(&qemu_c(), "smmu a")
        .smmu(EXPLICIT)
        .assign("d0", 1)
        .start();
    let smmu = bench.smmu();
    bench.script("fail HWPT_INVALIDATE delay_ms=200 count=1");
    let start = std::time::Instant::now();
    smmu.submit(&[command::TLBI_NSNH_ALL]);
    assert!(start.elapsed().as_millis() >= 200);
    assert_eq!(bench.journal().issued("a").len(), 1);
    bench.finish();
}

#[test]
fn polled_veventq_is_busy_on_close() {
    let bench = Setup::of(&qemu_c(), "smmu a")
        .smmu(EXPLICIT)
        .assign("d0", 1)
        .start();
    bench.smmu().enable(EVENTQEN);
    let queues = || bench.journal().objects().get("veventq").copied();
    assert_eq!(queues(), Some(1));
    // the main loop polls the file itself
    bench.unplug("d0", 1);
    assert_eq!(queues(), Some(1), "it was destroyed");
    bench.finish_with_errors();
}
