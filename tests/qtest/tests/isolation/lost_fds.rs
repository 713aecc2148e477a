// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Host file descriptors that are lost while QEMU runs: neither QEMU nor the
//! guest can use the objects any more, and the guest keeps running.

use smmuv3_qtest::{
    command,
    machine::RAM,
    smmu::{cerror, reg, EVENTQEN, SMMUEN},
    until, Smmu,
};

use crate::{
    bench::{sid, ste, Bench, Guest, GBPA_ABORT},
    journal::On,
};

const STAGE1: [u64; 2] = ste::stage1(0x4100_0000);
/// Guest physical address of the Event queue.
const EVENTS: u64 = RAM + 0x80_0000;

/// Attaches "d0" to stage 1 and "d1" to bypass, with the Event queue enabled.
#[track_caller]
fn translating(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.smmu();
    smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
    smmu.write(reg::EVENTQ_PROD, 0);
    smmu.write(reg::EVENTQ_CONS, 0);
    smmu.enable(SMMUEN | EVENTQEN);
    smmu.install(sid(1), STAGE1);
    smmu.install(sid(2), ste::BYPASS);
    bench.expect("before", &[("d0", On::Nested(STAGE1)), ("d1", On::Bypass)]);
    bench.mark();
    smmu
}

/// Retries an invalidation that fails every time: the command stays at the head
/// of the queue.
#[track_caller]
fn invalidate_on_failing_host(smmu: &Smmu<'_>) {
    let start = smmu.prod();
    smmu.push(&[command::tlbi_nh_va(5, 0x1000), command::SYNC]);
    smmu.ring();
    for _ in 0..3 {
        until("a command error", || smmu.error().then_some(()));
        assert_eq!((smmu.cons_err(), smmu.cons()), (cerror::ABT, start));
        smmu.acknowledge();
    }
    until("a command error", || smmu.error().then_some(()));
}

/// Ends a QEMU that has logged host errors. Its counters are not compared: the host does not
/// see calls with a descriptor that is lost.
#[track_caller]
fn finish(bench: Bench) {
    let finished = bench.end_without_statistics();
    assert_ne!(finished.error_lines(), [""; 0], "{finished}");
}

/// Boots the next guest, which configures stage 1 for "d0"; this may fail.
#[track_caller]
fn reboot(bench: &Bench) -> Smmu<'_> {
    bench.machine().system_reset();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.write_ste(sid(1), STAGE1);
    smmu.push(&[command::CFGI_ALL, command::SYNC]);
    smmu.ring();
    until("an end, or an error", || {
        (smmu.error() || smmu.cons() == smmu.prod()).then_some(())
    });
    smmu
}

/// No invalidation may appear complete when every call on the iommufd fails.
#[test]
fn lost_iommufd_aborts_devices_and_completes_nothing() {
    for errno in ["EBADF", "ENODEV", "EIO"] {
        let bench = Bench::with_two_devices();
        let smmu = translating(&bench);
        bench.script(&format!("lose iommufd0 errno={errno}"));
        let start = smmu.prod();
        smmu.push(&[command::tlbi_nh_va(5, 0x1000), command::SYNC]);
        smmu.ring();
        until("a command error", || smmu.error().then_some(()));
        assert_eq!(smmu.cons(), start, "{errno}");
        // EIO means an illegal command, even if every command is rejected
        let is_illegal_command = errno == "EIO";
        let code = if is_illegal_command {
            cerror::ILL
        } else {
            cerror::ABT
        };
        assert_eq!(smmu.cons_err(), code, "{errno}");
        if !is_illegal_command {
            bench.expect(errno, &[("d0", On::Abort), ("d1", On::Abort)]);
        }
        // no object can be allocated
        smmu.disable(SMMUEN);
        reboot(&bench);
        bench.expect(errno, &[("d0", On::Abort)]);
        bench.unplug("d0", 1);
        bench.unplug("d1", 2);
        bench.expect(errno, &[("d0", On::Nothing), ("d1", On::Nothing)]);
        finish(bench);
    }
}

#[test]
fn lost_device_leaves_other_attached() {
    let bench = Bench::with_two_devices();
    let smmu = translating(&bench);
    smmu.install(sid(2), STAGE1);
    bench.script("lose d0");
    bench.mark();
    // the host completes the commands, those for the lost device included
    smmu.commands(&[
        command::tlbi_nh_va(5, 0x1000),
        command::cfgi_cd_all(sid(1)),
        command::atc_inv_all(sid(1)),
        command::atc_inv_all(sid(2)),
        command::tlbi_nh_va(5, 0x2000),
    ]);
    let issued = bench.journal().issued("a").concat();
    let opcodes: Vec<u64> = issued.iter().map(|command| command[0] & 0xff).collect();
    assert_eq!(opcodes, [0x12, 0x06, 0x40, 0x40, 0x12]);
    let others = [("d0", On::Nothing), ("d1", On::Nested(STAGE1))];
    bench.expect("one is lost", &others);
    for entry in [ste::BYPASS, STAGE1, ste::ABORT] {
        smmu.install(sid(1), entry);
        bench.expect("it cannot be configured", &others);
    }
    smmu.install(sid(2), ste::BYPASS);
    bench.expect("the other can", &[("d0", On::Nothing), ("d1", On::Bypass)]);
    bench.unplug("d0", 1);
    bench.machine().system_reset();
    bench.expect("reset", &[("d0", On::Nothing), ("d1", On::Bypass)]);
    finish(bench);
}

#[test]
fn guest_survives_loss_of_all_host_fds() {
    for order in [["iommufd0", "d0", "d1"], ["d1", "d0", "iommufd0"]] {
        let bench = Bench::with_two_devices();
        let smmu = translating(&bench);
        for name in order {
            bench.script(&format!("lose {name}"));
        }
        invalidate_on_failing_host(&smmu);
        bench.expect("all are lost", &[("d0", On::Nothing), ("d1", On::Nothing)]);
        // the guest toggles every enable
        smmu.disable(SMMUEN | EVENTQEN);
        smmu.gbpa(GBPA_ABORT);
        smmu.gbpa(0);
        smmu.enable(SMMUEN | EVENTQEN);
        bench.number_buses();
        bench.machine().qmp("stop", serde_json::json!({}));
        assert_eq!(bench.machine().status(), "paused");
        bench.machine().qmp("cont", serde_json::json!({}));
        let fresh = reboot(&bench);
        bench.unplug("d1", 2);
        bench.unplug("d0", 1);
        // no device is left for a command
        fresh.acknowledge();
        fresh.commands(&[command::tlbi_nh_va(5, 0x1000)]);
        finish(bench);
    }
}
