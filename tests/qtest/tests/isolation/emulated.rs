// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! An emulated device beside an assigned one, behind one SMMU: the same tables, Command queue
//! and Event queue serve both.

use serde_json::json;
use smmuv3_qtest::{
    command::{self, atc_inv_all, cfgi_cd, cfgi_cd_all, tlbi_nh_va, Command, CFGI_ALL},
    edu, pci,
    smmu::{cerror, reg, SMMUEN},
    tables::{Allow, Stage, Tables},
    translated::{Stages, Translated, ASID, FREE},
    until, Edu,
};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    events::Faults,
    journal::On,
};

/// `StreamID` of the emulated device, in slot 3.
const EMULATED: u32 = sid(3);
/// An address that it accesses, and two that this is mapped to.
const IOVA: u64 = 0x1234_5000;
const DATA: u64 = FREE + (16 << 20);
const OTHER: u64 = DATA + (1 << 20);
/// Other tables of stage 1.
const TABLES: u64 = FREE + (8 << 20);
/// Offset of `CD.TTB0` in the Context descriptor of [`Translated`], and that descriptor.
const TTB0: u64 = 8;
const CONTEXT: u64 = 0x4040_0000;

/// Starts a machine with the assigned device "d0" in slot 1 and, if wanted, an emulated one in
/// slot 3.
#[track_caller]
fn start(has_edu: bool) -> Bench {
    let mut setup = Setup::new(EXPLICIT).slot(3).assign("d0", 1);
    if has_edu {
        setup = setup.device(&format!("{},id=edu,bus=slot3", edu::DEVICE));
    }
    let bench = setup.start();
    open_slot(&bench);
    bench
}

/// Numbers the buses, and gives the root port of slot 3 a window for memory.
#[track_caller]
fn open_slot(bench: &Bench) {
    bench.number_buses();
    let config = pci::config(pci::sid(8, 3));
    bench.machine().write32(config + 0x20, 0x1000_1000);
    bench.machine().write_sized(config + 4, 6, 2);
}

/// Boots the guest: "d0" and the emulated device are on stage 1, by tables of their own.
#[track_caller]
fn boot(bench: &Bench) -> (Translated<'_>, Edu<'_>) {
    let edu = Edu::new(bench.machine(), EMULATED, 0);
    let translated = Translated::new(bench.machine(), Stages::One, EMULATED);
    translated.smmu.install(sid(1), ste::FIRST);
    bench.expect("stage 1", &[("d0", On::Nested(ste::FIRST))]);
    translated.stage1.map(IOVA, DATA, Allow::ReadWrite);
    translated.submit(&[CFGI_ALL]);
    bench.mark();
    (translated, edu)
}

/// Returns the address that a write of the device to [`IOVA`] comes to.
#[track_caller]
fn arrives_at(bench: &Bench, edu: &Edu<'_>) -> Option<u64> {
    let machine = bench.machine();
    for at in [DATA, OTHER] {
        machine.write32(at, 0);
    }
    let word = edu.write(IOVA);
    [DATA, OTHER]
        .into_iter()
        .find(|at| machine.read32(*at) == word)
}

fn recorded(translated: &Translated<'_>) -> u32 {
    translated.smmu.read(reg::EVENTQ_PROD)
}

/// Commands that the host got since the mark.
fn forwarded(bench: &Bench) -> Vec<Command> {
    bench.journal().batches().concat()
}

#[test]
fn tlbi_reaches_emulated_and_assigned_device() {
    let bench = start(true);
    let (translated, edu) = boot(&bench);
    assert_eq!(arrives_at(&bench, &edu), Some(DATA));
    translated.stage1.map(IOVA, OTHER, Allow::ReadWrite);
    assert_eq!(arrives_at(&bench, &edu), Some(DATA), "it is cached");
    translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
    assert_eq!(forwarded(&bench), [tlbi_nh_va(ASID, IOVA)]);
    assert_eq!(arrives_at(&bench, &edu), Some(OTHER));
    translated.stage1.unmap(IOVA);
    translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
    assert_eq!(arrives_at(&bench, &edu), None);
    assert_eq!(recorded(&translated), 1);
    assert_eq!(translated.event(0)[0] >> 32, u64::from(EMULATED));
    bench.finish();
}

#[test]
fn commands_of_emulated_stream_are_not_forwarded() {
    let bench = start(true);
    let (translated, edu) = boot(&bench);
    assert_eq!(arrives_at(&bench, &edu), Some(DATA));
    for command in [cfgi_cd(EMULATED, 0), cfgi_cd_all(EMULATED)] {
        let tables = Tables::new(bench.machine(), Stage::One, TABLES);
        tables.map(IOVA, OTHER, Allow::ReadWrite);
        let before = bench.machine().read64(CONTEXT + TTB0);
        bench.machine().write64(CONTEXT + TTB0, tables.base());
        translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
        assert_eq!(arrives_at(&bench, &edu), Some(DATA), "the CD is cached");
        bench.mark();
        translated.submit(&[command, atc_inv_all(EMULATED)]);
        assert_eq!(forwarded(&bench), [[0; 2]; 0], "{command:x?}");
        translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
        assert_eq!(arrives_at(&bench, &edu), Some(OTHER), "{command:x?}");
        bench.machine().write64(CONTEXT + TTB0, before);
        translated.submit(&[command, tlbi_nh_va(ASID, IOVA)]);
        assert_eq!(arrives_at(&bench, &edu), Some(DATA));
    }
    bench.mark();
    let assigned = [cfgi_cd_all(sid(1)), atc_inv_all(sid(1))];
    translated.submit(&assigned);
    assert_eq!(forwarded(&bench), assigned);
    bench.finish();
}

/// A command that the host refuses has invalidated here all the same.
#[test]
fn tlbi_that_the_host_refuses_is_executed_locally() {
    let bench = start(true);
    let (translated, edu) = boot(&bench);
    assert_eq!(arrives_at(&bench, &edu), Some(DATA));
    translated.stage1.map(IOVA, OTHER, Allow::ReadWrite);
    bench.script("fail HWPT_INVALIDATE errno=EIO");
    translated.smmu.fails(tlbi_nh_va(ASID, IOVA));
    assert_eq!(translated.smmu.cons_err(), cerror::ILL);
    assert_eq!(arrives_at(&bench, &edu), Some(OTHER));
    bench.finish();
}

#[test]
fn events_of_both_kinds_share_the_event_queue() {
    let bench = start(true);
    let (translated, edu) = boot(&bench);
    let mut faults = Faults::new();
    translated.stage1.unmap(IOVA);
    translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
    for round in 0..3 {
        faults.report(&bench, round);
        until("the host's event", || {
            (u64::from(recorded(&translated)) == 2 * round + 1).then_some(())
        });
        assert_eq!(arrives_at(&bench, &edu), None);
        assert_eq!(u64::from(recorded(&translated)), 2 * round + 2);
    }
    let streams: Vec<_> = (0..6).map(|at| translated.event(at)[0] >> 32).collect();
    let both = [sid(1), EMULATED].map(u64::from);
    assert_eq!(streams, [both; 3].concat());
    bench.finish();
}

#[test]
fn reset_with_both_kinds_leaves_nothing_cached() {
    let bench = start(true);
    let (_, before) = boot(&bench);
    assert_eq!(arrives_at(&bench, &before), Some(DATA));
    bench.machine().system_reset();
    bench.expect("reset", &[("d0", On::Bypass)]);
    open_slot(&bench);
    let (translated, edu) = boot(&bench);
    translated.stage1.map(IOVA, OTHER, Allow::ReadWrite);
    translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
    assert_eq!(arrives_at(&bench, &edu), Some(OTHER));
    bench.finish();
}

/// Powers slot 3 off, so that the emulated device in it can be removed.
#[track_caller]
fn unplug_edu(bench: &Bench) {
    bench.unplug("edu", 3);
}

#[track_caller]
fn plug_edu(bench: &Bench) {
    let plug = json!({
        "driver": "edu", "dma_mask": u64::MAX, "id": "edu", "bus": "slot3",
    });
    bench.machine().qmp("device_add", plug);
    crate::bench::Ecam::of(bench.machine()).power_on(8, 3 << 3);
}

/// While there is no emulated device nothing is executed locally, so nothing may be left of the
/// time before.
#[test]
fn replugged_emulated_device_uses_nothing_stale() {
    let bench = start(false);
    plug_edu(&bench);
    let (translated, before) = boot(&bench);
    assert_eq!(arrives_at(&bench, &before), Some(DATA));
    unplug_edu(&bench);
    translated.stage1.map(IOVA, OTHER, Allow::ReadWrite);
    translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
    let entry = translated.entry();
    translated.smmu.install(EMULATED, ste::BYPASS);
    plug_edu(&bench);
    let edu = Edu::new(bench.machine(), EMULATED, 0);
    translated.write_entry(entry);
    translated.submit(&[command::cfgi_ste(EMULATED)]);
    assert_eq!(arrives_at(&bench, &edu), Some(OTHER));
    bench.expect("the other one", &[("d0", On::Nested(ste::FIRST))]);
    bench.finish();
}

#[test]
fn last_assigned_device_leaves_the_emulated_one() {
    let bench = start(true);
    let (translated, edu) = boot(&bench);
    assert_eq!(arrives_at(&bench, &edu), Some(DATA));
    bench.unplug("d0", 1);
    translated.stage1.map(IOVA, OTHER, Allow::ReadWrite);
    translated.submit(&[tlbi_nh_va(ASID, IOVA)]);
    assert_eq!(arrives_at(&bench, &edu), Some(OTHER));
    translated.smmu.disable(SMMUEN);
    assert_eq!(arrives_at(&bench, &edu), None);
    bench.finish();
}

/// A host that is given up on executes nothing; the emulated device does not depend on it.
#[test]
fn lost_host_leaves_the_emulated_device() {
    let bench = start(true);
    let (translated, edu) = boot(&bench);
    assert_eq!(arrives_at(&bench, &edu), Some(DATA));
    bench.script("fail HWPT_INVALIDATE errno=ENODEV");
    translated.stage1.map(IOVA, OTHER, Allow::ReadWrite);
    let smmu = &translated.smmu;
    smmu.push(&[tlbi_nh_va(ASID, IOVA), command::SYNC]);
    smmu.ring();
    until("the host is given up on", || {
        if smmu.error() {
            smmu.acknowledge();
        }
        (smmu.cons() == smmu.prod()).then_some(())
    });
    assert_eq!(arrives_at(&bench, &edu), Some(OTHER));
    bench.finish_with_errors();
}
