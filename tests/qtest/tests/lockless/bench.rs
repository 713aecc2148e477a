// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine whose vCPU 0 is in a doorbell that waits for the host.

use std::time::{Duration, Instant};

use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest, QUEUE},
    command::{self, sync_msi, Command},
    journal::On,
    smmu::{reg, SMMUEN},
    until,
    vcpus::{setup, Action, Vcpu},
    Smmu,
};

/// Duration of the host's call.
pub const CALL: Duration = Duration::from_secs(2);
/// Longest time that anything may take which does not wait for the call: the rest of
/// the call, on a busy machine.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// Guest physical address of words for MSIs.
pub const MAILBOX: u64 = QUEUE + 0x8_0000;

pub fn tlbi(number: u64) -> Command {
    command::tlbi_nh_va(1, number << 12)
}

/// Returns a machine with the devices "d0" and "d1".
#[track_caller]
pub fn machine() -> Bench {
    setup("smmu a", 3).assign("d0", 1).assign("d1", 2).start()
}

/// Boots the guest: both devices are in stage 1.
#[track_caller]
pub fn boot(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    bench.mark();
    smmu
}

/// Has vCPU 0 ring for one TLBI and a `CMD_SYNC` with an MSI, of which the host's call takes
/// [`CALL`]. Returns when that has begun.
#[track_caller]
pub fn hang(bench: &Bench, smmu: &Smmu<'_>) -> Hanging {
    bench.script(&format!("latency us={} count=1", CALL.as_micros()));
    smmu.push(&[tlbi(1), sync_msi(MAILBOX, 1)]);
    let doorbell = ring(bench, smmu, 0);
    until("a call of the host", || {
        (bench.journal().begun() == 1).then_some(())
    });
    Hanging {
        doorbell,
        begun: Instant::now(),
    }
}

/// Has a vCPU ring.
#[track_caller]
pub fn ring(bench: &Bench, smmu: &Smmu<'_>, vcpu: usize) -> Action {
    Vcpu::of(bench.machine(), vcpu).write(smmu.base() + reg::CMDQ_PROD, smmu.prod())
}

/// A doorbell that waits for the host.
pub struct Hanging {
    pub doorbell: Action,
    begun: Instant,
}

impl Hanging {
    /// Checks that the host's call is still in progress.
    #[track_caller]
    pub fn expect(&self, bench: &Bench, smmu: &Smmu<'_>, cons: u32) {
        assert_eq!(smmu.cons(), cons, "nothing is complete");
        assert!(!self.doorbell.is_done(bench.machine()));
        assert!(self.begun.elapsed() < CALL, "the call is over");
    }

    /// Waits until the doorbell returns.
    #[track_caller]
    pub fn end(self, bench: &Bench) {
        assert!(self.doorbell.wait(bench.machine()) >= CALL);
    }
}

/// Calls `function`, which must not wait for the host.
#[track_caller]
pub fn at_once<R>(what: &str, function: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = function();
    let duration = begun.elapsed();
    assert!(duration < AT_ONCE, "{what} took {duration:?}");
    result
}

/// Checks that the guest's driver can go on.
#[track_caller]
pub fn expect_usable(bench: &Bench, smmu: &Smmu<'_>) {
    smmu.commands(&[tlbi(9)]);
    smmu.disable(SMMUEN);
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::FIRST);
    bench.expect("in the end", &[("d0", On::Nested(ste::FIRST))]);
}
