// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Two QEMUs on one host.

use serde_json::{json, Value};
use smmuv3_qtest::{
    assigned::{Bench, Guest, Setup, EXPLICIT},
    command,
    journal::Journal,
    smmu::PATH,
    until,
    update::{State, Update},
    Smmu,
};

/// Adds an SMMU, with "d0" in slot 1 behind it.
pub fn one_device(setup: Setup) -> Setup {
    setup.smmu(EXPLICIT).assign("d0", 1)
}

/// Adds an SMMU, with "d0" in slot 1 and "d1" in slot 2 behind it.
pub fn two_devices(setup: Setup) -> Setup {
    one_device(setup).assign("d1", 2)
}

/// Starts a QEMU that can be updated, with `devices`, on a host with the SMMU "a".
#[track_caller]
pub fn start(devices: impl FnOnce(Setup) -> Setup) -> Bench {
    devices(Setup::updatable("smmu a")).start()
}

/// A new QEMU that has the old one's files. The guest runs in the old one.
pub struct Prepared {
    pub new: Bench,
    update: Update,
}

impl Prepared {
    /// Starts a QEMU with `devices`, and has `old` send it its files.
    #[track_caller]
    pub fn beside(old: &Bench, devices: impl FnOnce(Setup) -> Setup) -> Self {
        let update = Update::new();
        let new = devices(Setup::taking_over(old, &update)).start_beside(old, &update);
        Self { new, update }
    }

    /// Has the guest stop in the old QEMU. Returns the new one, and the state.
    #[track_caller]
    pub fn stop(self, old: &Bench) -> (Bench, State) {
        let state = self.update.state(old.machine(), self.new.machine());
        (self.new, state.expect("the old QEMU sends its state"))
    }

    /// Has the new QEMU take the guest over. Returns it.
    #[track_caller]
    pub fn finish(self, old: &Bench) -> Bench {
        let (new, state) = self.stop(old);
        take(&new, state);
        new
    }
}

/// Has the new QEMU take the state, which it must do.
#[track_caller]
pub fn take(new: &Bench, state: State) {
    let machine = new.machine();
    assert_eq!(state.send(machine), Ok(()), "{}", machine.stderr());
}

/// Updates the QEMU `old` to one with the same `devices`. Returns that, in which the guest runs.
#[track_caller]
pub fn update(old: &Bench, devices: impl FnOnce(Setup) -> Setup) -> Bench {
    let new = Prepared::beside(old, devices).finish(old);
    wait_running(&new);
    new
}

/// Waits until the guest runs in this QEMU.
#[track_caller]
pub fn wait_running(bench: &Bench) {
    until("the guest runs", || {
        (bench.machine().status() == "running").then_some(())
    });
}

/// Returns the only SMMU, whose driver is the guest that was handed over.
#[track_caller]
pub fn adopted(bench: &Bench) -> Smmu<'_> {
    let smmu = Smmu::find(bench.machine());
    smmu.adopt_queue();
    smmu
}

/// Returns a member of the first SMMU's statistics.
#[track_caller]
pub fn statistic(bench: &Bench, group: &str, member: &str) -> u64 {
    let statistics = bench.machine().qom_get(PATH, "statistics");
    statistics[group][member].as_u64().expect("a counter")
}

/// Returns the first SMMU's devices as users see them.
#[track_caller]
pub fn streams(bench: &Bench) -> Value {
    bench.machine().qom_get(PATH, "streams")
}

/// Checks that commands of the guest get from this QEMU to the host's `viommu`.
#[track_caller]
pub fn invalidates(bench: &Bench, smmu: &Smmu<'_>, viommu: u64) {
    bench.mark();
    let command = command::tlbi_nh_asid(7);
    smmu.commands(&[command]);
    let journal = bench.journal();
    let calls = journal.calls("HWPT_INVALIDATE");
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (call.process(), call.number("viommu"), call.result()))
        .collect();
    let by = Some(bench.machine().pid());
    assert_eq!(calls, [(by, viommu, "ok")]);
    assert_eq!(journal.batches(), [[command]]);
}

/// Returns the ID of the only vIOMMU.
#[track_caller]
pub fn viommu(journal: &Journal) -> u64 {
    assert_eq!(journal.all("viommu").count(), 1);
    journal.id("viommu").expect("a vIOMMU")
}

/// Returns the calls since the mark with which a process has asked for a change of what the host
/// has.
#[track_caller]
pub fn host_changes(bench: &Bench) -> Vec<String> {
    let mut changes = bench.changes();
    let journal = bench.journal();
    for operation in ["VEVENTQ_ALLOC", "IOAS_ALLOC", "IOAS_UNMAP", "BIND"] {
        let calls = journal.calls(operation);
        changes.extend(calls.iter().map(|call| call.operation().to_owned()));
    }
    changes
}

/// Has the guest continue in the old QEMU, after the new one has refused it or has ended.
#[track_caller]
pub fn resume(old: &Bench) {
    let machine = old.machine();
    until("the guest continues", || {
        // QEMU refuses while it gives the migration up
        let is_running = machine.status() == "running";
        (is_running || machine.try_qmp("cont", json!({})).is_ok()).then_some(())
    });
    wait_running(old);
}
