// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tables and queues in device memory: QEMU does not crash or hang, and no
//! device is attached to more than before.

use std::os::unix::net::UnixDatagram;

use smmuv3_qtest::{
    command,
    smmu::{reg, EVENTQEN, SMMUEN},
    until,
};

use crate::{
    bench::{sid, ste, Bench, Ecam, Guest, NOWHERE, TABLE_LOG2},
    journal::On,
};

/// Interrupt controller, UART, firmware configuration and virtio of `virt`.
const DEVICES: [u64; 4] = [0x0800_0000, 0x0900_0000, 0x0902_0000, 0x0a00_0000];

/// Returns guest physical addresses of devices.
fn places(bench: &Bench, smmu: u64) -> Vec<u64> {
    let ecam = Ecam::of(bench.machine()).base();
    [
        &DEVICES[..],
        &[smmu, ecam, ecam + (8 << 20), NOWHERE, u64::MAX],
    ]
    .concat()
}

#[test]
fn strtab_in_device_never_attaches_vfio_stage2() {
    for linear in [true, false] {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        for place in places(&bench, smmu.base()) {
            let format = if linear { 0 } else { (1 << 16) | (8 << 6) };
            smmu.write64(reg::STRTAB_BASE, place);
            smmu.write(reg::STRTAB_BASE_CFG, format | TABLE_LOG2);
            smmu.enable(SMMUEN);
            smmu.commands(&[command::CFGI_ALL, command::cfgi_ste(sid(1))]);
            let on = bench.journal().device("d0").map(|device| device.on);
            assert_ne!(on, Some(On::Stage2), "{place:#x}");
            smmu.disable(SMMUEN);
            bench.expect("disabled", &[("d0", On::Bypass)]);
        }
        assert_eq!(bench.machine().status(), "running");
        bench.end();
    }
}

#[test]
fn cmdq_in_device_is_cmdq_error() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::stage1(0x4100_0000));
    for place in places(&bench, smmu.base()) {
        smmu.setup_queue(place & !0xfff, 5);
        smmu.write(reg::CMDQ_PROD, 17);
        until("the end", || {
            (smmu.error() || smmu.cons() == 17).then_some(())
        });
        smmu.acknowledge();
    }
    assert_eq!(bench.machine().status(), "running");
    bench.end();
}

/// The Event queue lies over the Slot Control register of the device's root
/// port, so that recording an event of the device unplugs it.
#[test]
fn eventq_write_may_unplug_last_device() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    let control = Ecam::of(bench.machine()).slot_control(8, 1 << 3);
    let base = control & !0x1f;
    smmu.write64(reg::EVENTQ_BASE, base);
    smmu.enable(EVENTQEN | SMMUEN);
    let id = bench.journal().id("veventq").expect("a queue in the host");
    let mut event = vec![0_u8; 8 + 32];
    let at = 8 + (control - base) as usize;
    event[at..at + 2].copy_from_slice(&((1_u16 << 10) | (0b11 << 8)).to_le_bytes());
    let socket = UnixDatagram::unbound().expect("a socket");
    for _ in 0..3 {
        let sent = socket.send_to(&event, bench.file(&format!("veventq-iommufd0-{id}")));
        if sent.is_err() {
            break;
        }
    }
    until("the end of the device", || {
        bench.journal().id("ioas").is_none().then_some(())
    });
    bench.expect("gone", &[("d0", On::Nothing)]);
    bench.expect_objects("nothing is left", &[]);
    smmu.commands(&[command::TLBI_NSNH_ALL]);
    bench.finish();
}
