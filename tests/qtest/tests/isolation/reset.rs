// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! System reset, and guests that number their buses anew.

use smmuv3_qtest::{command, smmu::SMMUEN, until, Smmu};

use crate::{
    bench::{prepare, sid, ste, Bench, Ecam, Guest, GBPA_ABORT, QUEUE, TABLE},
    journal::On,
};

const ROOT_BUS: u32 = 8;

#[test]
fn reset_takes_devices_to_bypass_and_frees_what_the_guest_made() {
    let stage1 = ste::stage1(0x4100_0000);
    for (entry, on) in [
        (stage1, On::Nested(stage1)),
        (ste::ABORT, On::Abort),
        (ste::BYPASS, On::Bypass),
    ] {
        let bench = Bench::with_two_devices();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        smmu.install(sid(1), entry);
        bench.expect("before", &[("d0", on), ("d1", On::Abort)]);
        bench.machine().system_reset();
        bench.expect("after reset", &[("d0", On::Bypass), ("d1", On::Bypass)]);
        let left = [
            ("ioas", 1),
            ("s2", 1),
            ("viommu", 1),
            ("abort", 1),
            ("bypass", 1),
        ];
        bench.expect_objects("after reset", &left);
        bench.finish();
    }
}

#[test]
fn reset_undoes_gbpa_abort() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.gbpa(GBPA_ABORT);
    bench.expect("GBPA.ABORT", &[("d0", On::Abort)]);
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn a_guest_boots_again_and_again() {
    let bench = Bench::with_one_device();
    for round in 0..5 {
        let smmu = bench.smmu();
        let stage1 = ste::stage1(0x4100_0000 + 0x1000 * round);
        smmu.enable(SMMUEN);
        bench.expect("an empty table", &[("d0", On::Abort)]);
        smmu.install(sid(1), stage1);
        bench.expect("configured", &[("d0", On::Nested(stage1))]);
        bench.machine().system_reset();
        bench.expect("after reset", &[("d0", On::Bypass)]);
    }
    bench.finish();
}

/// Gives the bus of the device in slot 1 another number, and its STE to the
/// table.
#[track_caller]
fn renumber(bench: &Bench, bus: u32) {
    Ecam::of(bench.machine()).number(ROOT_BUS, 1 << 3, bus);
}

#[test]
fn after_reset_the_host_knows_the_device_by_its_new_stream_id() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    let stage1 = ste::stage1(0x4100_0000);
    smmu.enable(SMMUEN);
    smmu.install(sid(1), stage1);
    bench.expect("first boot", &[("d0", On::Nested(stage1))]);
    bench.machine().system_reset();
    renumber(&bench, 12);
    prepare(&smmu, QUEUE, TABLE);
    smmu.write_ste(sid(1), ste::BYPASS);
    smmu.enable(SMMUEN);
    bench.expect("the old StreamID means nothing", &[("d0", On::Abort)]);
    smmu.install(12 << 8, stage1);
    bench.expect("second boot", &[("d0", On::Nested(stage1))]);
    let reported = bench.journal().device("d0").and_then(|device| device.sid);
    assert_eq!(reported, Some(12 << 8), "StreamID of events");
    bench.mark();
    smmu.commands(&[command::cfgi_cd_all(12 << 8), command::cfgi_cd_all(sid(1))]);
    let batches = bench.journal().batches();
    assert_eq!(
        batches,
        [[command::cfgi_cd_all(12 << 8)]],
        "SIDs that the host has"
    );
    bench.finish();
}

#[test]
fn a_guest_may_number_its_buses_anew_while_the_smmu_translates() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    let stage1 = ste::stage1(0x4100_0000);
    smmu.enable(SMMUEN);
    smmu.install(sid(1), stage1);
    bench.expect("stage 1", &[("d0", On::Nested(stage1))]);
    renumber(&bench, 12);
    smmu.install(12 << 8, stage1);
    bench.expect("by its new StreamID", &[("d0", On::Nested(stage1))]);
    let reported = bench.journal().device("d0").and_then(|device| device.sid);
    assert_eq!(reported, Some(12 << 8), "StreamID of events");
    bench.finish();
}

#[test]
fn devices_may_swap_their_stream_ids() {
    let bench = Bench::with_two_devices();
    let smmu = bench.smmu();
    let [first, second] = [0x4100_0000, 0x4200_0000].map(ste::stage1);
    smmu.enable(SMMUEN);
    smmu.install(sid(1), first);
    smmu.install(sid(2), second);
    bench.expect(
        "before",
        &[("d0", On::Nested(first)), ("d1", On::Nested(second))],
    );
    let ecam = Ecam::of(bench.machine());
    ecam.number(ROOT_BUS, 1 << 3, sid(2) >> 8);
    ecam.number(ROOT_BUS, 2 << 3, sid(1) >> 8);
    smmu.commands(&[command::CFGI_ALL]);
    bench.expect(
        "after",
        &[("d0", On::Nested(second)), ("d1", On::Nested(first))],
    );
    bench.finish();
}

#[test]
fn devices_with_the_same_stream_id_do_not_get_more_than_their_ste_says() {
    let bench = Bench::with_two_devices();
    let smmu = Smmu::find(bench.machine());
    // neither bus has a number: both devices are StreamID 0
    prepare(&smmu, QUEUE, TABLE);
    let stage1 = ste::stage1(0x4100_0000);
    smmu.enable(SMMUEN);
    bench.expect("an empty table", &[("d0", On::Abort), ("d1", On::Abort)]);
    smmu.install(0, stage1);
    // the host gives a StreamID to one device only
    bench.expect("stage 1", &[("d0", On::Nested(stage1)), ("d1", On::Abort)]);
    smmu.install(0, ste::BYPASS);
    bench.expect("bypass", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    smmu.install(0, ste::INVALID);
    bench.expect("invalid", &[("d0", On::Abort), ("d1", On::Abort)]);
    bench.finish_after_complaints();
}

#[test]
fn reset_ends_a_quarantine() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::stage1(0x4100_0000));
    bench.say("fail HWPT_INVALIDATE errno=EFAULT");
    smmu.push(&[command::TLBI_NSNH_ALL, command::SYNC]);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    bench.expect("failed closed", &[("d0", On::Abort)]);
    bench.say("clear");
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn reset_on_a_host_that_refuses_bypass_aborts() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::stage1(0x4100_0000));
    bench.say("fail ATTACH kind=bypass errno=ENOMEM");
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Abort)]);
    bench.say("clear");
    bench.machine().system_reset();
    bench.expect("after another reset", &[("d0", On::Bypass)]);
    bench.finish_after_complaints();
}
