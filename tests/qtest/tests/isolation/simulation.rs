// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated host itself, with the C device as its guest: what no other test
//! here looks at.

use smmuv3_qtest::{command, qemu_c};

use crate::bench::{Setup, EXPLICIT};

#[test]
fn a_slow_host_is_waited_for() {
    let bench = Setup::of(&qemu_c(), "smmu a")
        .smmu(EXPLICIT)
        .assign("d0", 1)
        .start();
    let smmu = bench.smmu();
    bench.say("fail HWPT_INVALIDATE delay_ms=200 count=1");
    let start = std::time::Instant::now();
    smmu.submit(&[command::TLBI_NSNH_ALL]);
    assert!(start.elapsed().as_millis() >= 200);
    assert_eq!(bench.journal().issued("a").len(), 1);
    bench.finish();
}
