// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a VINTF has a limited number of, and what a guest has an unlimited number of.

use std::time::Instant;

use smmuv3_qtest::{
    assigned::vfio_pci,
    cmdqv::{Cmdqv, Register},
    qemu,
};

use crate::bench::{setup, HOST};

/// `StreamID`s of a VINTF.
const SIDS: u32 = 16;

/// The host would refuse the vDEVICE, and the device would stay on abort.
#[test]
fn seventeenth_device_of_a_vintf_is_refused() {
    let mut machine = setup(&qemu(), HOST, "on").slot(SIDS + 1);
    for device in 1..=SIDS {
        machine = machine.assign(&format!("d{device}"), device);
    }
    let spare = machine.spare("s0", "a");
    let bench = machine.start();
    let error = bench.plug("s0", spare, SIDS + 1).expect_err("17 devices");
    assert!(error.contains("16 assigned devices"), "{error}");
    bench.unplug("d1", 1);
    bench.finish();
}

/// Without CMDQ virtualization there is no such limit.
#[test]
fn seventeenth_device_without_vintf_is_accepted() {
    let mut machine = setup(&qemu(), HOST, "off").slot(SIDS + 1);
    let fd = machine.spare("s0", "a");
    machine = machine.device(&vfio_pci("s0", fd, &format!("slot{}", SIDS + 1)));
    for device in 1..=SIDS {
        machine = machine.assign(&format!("d{device}"), device);
    }
    machine.start().finish();
}

#[test]
fn forbidden_cmdqv_write_is_logged_at_bounded_rate() {
    let bench = setup(&qemu(), HOST, "on")
        .args(["-d", "guest_errors"])
        .assign("d0", 1)
        .start();
    bench.script("fail HW_QUEUE_ALLOC errno=EFAULT");
    let cmdqv = Cmdqv::find(bench.machine());
    cmdqv.boot();
    let started = Instant::now();
    for value in 0..500 {
        // the consumer owns it while the queue is enabled
        cmdqv.set(0, Register::Cons, value);
    }
    let limit = started.elapsed().as_secs() as usize + 1;
    let finished = bench.end();
    let lines = finished.error_lines();
    let expected = lines.iter().filter(|line| line.contains(": CMDQV: "));
    let count = expected.count();
    assert!(
        (1..=limit).contains(&count),
        "{count} of {limit}\n{finished}"
    );
}
