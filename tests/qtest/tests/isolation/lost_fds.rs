// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Files of the host that die under QEMU: what they stood for cannot be used any
//! more, by nobody, and the guest goes on.

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

/// "d0" on stage 1, "d1" on bypass, and faults are listened to.
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

/// Invalidates, again and again: the command stays at the head of the queue.
#[track_caller]
fn invalidate_in_vain(smmu: &Smmu<'_>) {
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

/// The next guest wants stage 1 for "d0", which may fail.
#[track_caller]
fn boot_again(bench: &Bench) -> Smmu<'_> {
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

#[test]
fn lost_iommufd_aborts_devices_and_completes_nothing() {
    for errno in ["EBADF", "ENODEV", "EIO"] {
        let bench = Bench::with_two_devices();
        let smmu = translating(&bench);
        bench.say(&format!("die iommufd0 errno={errno}"));
        let start = smmu.prod();
        smmu.push(&[command::tlbi_nh_va(5, 0x1000), command::SYNC]);
        smmu.ring();
        until("a command error", || smmu.error().then_some(()));
        assert_eq!(smmu.cons(), start, "{errno}");
        // a host that calls everything illegal is believed about commands
        let is_believed = errno == "EIO";
        let code = if is_believed {
            cerror::ILL
        } else {
            cerror::ABT
        };
        assert_eq!(smmu.cons_err(), code, "{errno}");
        if !is_believed {
            bench.expect(errno, &[("d0", On::Abort), ("d1", On::Abort)]);
        }
        // nothing new can be made
        smmu.disable(SMMUEN);
        boot_again(&bench);
        bench.expect(errno, &[("d0", On::Abort)]);
        bench.unplug("d0", 1);
        bench.unplug("d1", 2);
        bench.expect(errno, &[("d0", On::Nothing), ("d1", On::Nothing)]);
        bench.finish_after_complaints();
    }
}

#[test]
fn lost_device_leaves_other_attached() {
    let bench = Bench::with_two_devices();
    let smmu = translating(&bench);
    smmu.install(sid(2), STAGE1);
    bench.say("die d0");
    bench.mark();
    // the host does what there is to do, also for the dead one
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
    bench.expect("one is dead", &others);
    for entry in [ste::BYPASS, STAGE1, ste::ABORT] {
        smmu.install(sid(1), entry);
        bench.expect("it cannot be configured", &others);
    }
    smmu.install(sid(2), ste::BYPASS);
    bench.expect("the other can", &[("d0", On::Nothing), ("d1", On::Bypass)]);
    bench.unplug("d0", 1);
    bench.machine().system_reset();
    bench.expect("reset", &[("d0", On::Nothing), ("d1", On::Bypass)]);
    bench.finish_after_complaints();
}

#[test]
fn guest_survives_loss_of_all_host_fds() {
    for order in [["iommufd0", "d0", "d1"], ["d1", "d0", "iommufd0"]] {
        let bench = Bench::with_two_devices();
        let smmu = translating(&bench);
        for name in order {
            bench.say(&format!("die {name}"));
        }
        invalidate_in_vain(&smmu);
        bench.expect("all is dead", &[("d0", On::Nothing), ("d1", On::Nothing)]);
        // the guest turns every switch that there is
        smmu.disable(SMMUEN | EVENTQEN);
        smmu.gbpa(GBPA_ABORT);
        smmu.gbpa(0);
        smmu.enable(SMMUEN | EVENTQEN);
        bench.number_buses();
        bench.machine().qmp("stop", serde_json::json!({}));
        assert_eq!(bench.machine().status(), "paused");
        bench.machine().qmp("cont", serde_json::json!({}));
        let fresh = boot_again(&bench);
        bench.unplug("d1", 2);
        bench.unplug("d0", 1);
        // nothing is left that a command could reach
        fresh.acknowledge();
        fresh.commands(&[command::tlbi_nh_va(5, 0x1000)]);
        bench.finish_after_complaints();
    }
}
