// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! System reset, function-level reset, and guests that renumber their buses.

use smmuv3_qtest::{command, smmu::SMMUEN, Smmu};

use crate::{
    bench::{prepare, sid, ste, Bench, Ecam, Guest, GBPA_ABORT, QUEUE, TABLE, VIOMMU},
    journal::On,
};

const ROOT_BUS: u32 = 8;

#[test]
fn reset_attaches_bypass_and_frees_guest_hwpts() {
    for (entry, on) in [
        (ste::FIRST, On::Nested(ste::FIRST)),
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
        bench.expect_objects("after reset", &VIOMMU);
        bench.finish();
    }
}

#[test]
fn reset_clears_gbpa_abort() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.gbpa(GBPA_ABORT);
    bench.expect("GBPA.ABORT", &[("d0", On::Abort)]);
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn repeated_reboots_work() {
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

#[test]
fn function_level_reset_keeps_attachment() {
    for (entry, on) in [
        (ste::FIRST, On::Nested(ste::FIRST)),
        (ste::ABORT, On::Abort),
        (ste::BYPASS, On::Bypass),
    ] {
        let bench = Bench::with_two_devices();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        smmu.install(sid(1), entry);
        smmu.install(sid(2), ste::SECOND);
        let devices = [("d0", on), ("d1", On::Nested(ste::SECOND))];
        bench.expect("before", &devices);
        bench.mark();
        Ecam::of(bench.machine()).function_level_reset(sid(1) >> 8, 0);
        assert_eq!(bench.journal().function_level_resets("d0"), 1);
        assert_eq!(bench.journal().function_level_resets("d1"), 0);
        assert_eq!(bench.journal().order(), [""; 0], "calls of the host");
        bench.expect("after", &devices);
        // its configuration can still change
        smmu.install(sid(1), ste::stage1(0x4300_0000));
        bench.expect(
            "configured again",
            &[("d0", On::Nested(ste::stage1(0x4300_0000)))],
        );
        bench.finish();
    }
}

/// The second number of the bus of the device in slot 1.
const OTHER_BUS: u32 = 12;
/// The `StreamID` of the device with that bus number.
const OTHER_SID: u32 = OTHER_BUS << 8;

/// Gives the bus of the device in slot 1 its second number.
#[track_caller]
fn renumber(bench: &Bench) {
    Ecam::of(bench.machine()).number(ROOT_BUS, 1 << 3, OTHER_BUS);
}

/// Configures the device by its second `StreamID`, with which the host reports
/// events from then on.
#[track_caller]
fn install_by_other_sid(bench: &Bench, smmu: &Smmu<'_>) {
    smmu.install(OTHER_SID, ste::FIRST);
    let on = On::Nested(ste::FIRST);
    bench.expect("by its new StreamID", &[("d0", on)]);
    let reported = bench.journal().device("d0").and_then(|device| device.sid);
    assert_eq!(reported, Some(OTHER_SID.into()), "StreamID of events");
}

#[test]
fn reset_rebinds_vdevice_with_new_stream_id() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.machine().system_reset();
    renumber(&bench);
    prepare(&smmu, QUEUE, TABLE);
    smmu.write_ste(sid(1), ste::BYPASS);
    smmu.enable(SMMUEN);
    bench.expect("the old StreamID has no device", &[("d0", On::Abort)]);
    install_by_other_sid(&bench, &smmu);
    bench.mark();
    let [new, old] = [OTHER_SID, sid(1)].map(command::cfgi_cd_all);
    smmu.commands(&[new, old]);
    let batches = bench.journal().batches();
    assert_eq!(batches, [[new]], "SIDs that the host has");
    bench.finish();
}

#[test]
fn bus_renumbering_reattaches_devices() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    renumber(&bench);
    install_by_other_sid(&bench, &smmu);
    bench.finish();
}

#[test]
fn stream_id_change_reattaches_at_once() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.mark();
    renumber(&bench);
    bench.expect("the new entry is not valid", &[("d0", On::Abort)]);
    smmu.write_ste(OTHER_SID, ste::SECOND);
    Ecam::of(bench.machine()).number(ROOT_BUS, 1 << 3, sid(1) >> 8);
    bench.expect("as before", &[("d0", On::Nested(ste::FIRST))]);
    renumber(&bench);
    bench.expect("the new entry", &[("d0", On::Nested(ste::SECOND))]);
    let named = command::cfgi_cd_all(OTHER_SID);
    bench.mark();
    smmu.commands(&[named]);
    assert_eq!(bench.journal().batches(), [[named]], "the vDEVICE is bound");
    bench.finish();
}

#[test]
fn swapped_stream_ids_reattach_without_commands() {
    let bench = Bench::with_two_devices();
    bench.translating(&[ste::FIRST, ste::SECOND]);
    let [first, second] = [ste::FIRST, ste::SECOND].map(On::Nested);
    let ecam = Ecam::of(bench.machine());
    ecam.number(ROOT_BUS, 1 << 3, sid(2) >> 8);
    bench.expect("one StreamID", &[("d0", On::Abort), ("d1", second)]);
    ecam.number(ROOT_BUS, 2 << 3, sid(1) >> 8);
    bench.expect("after", &[("d0", second), ("d1", first)]);
    bench.finish();
}

#[test]
fn swapped_stream_ids_reattach() {
    let bench = Bench::with_two_devices();
    let smmu = bench.translating(&[ste::FIRST, ste::SECOND]);
    let [first, second] = [ste::FIRST, ste::SECOND].map(On::Nested);
    bench.expect("before", &[("d0", first), ("d1", second)]);
    let ecam = Ecam::of(bench.machine());
    ecam.number(ROOT_BUS, 1 << 3, sid(2) >> 8);
    ecam.number(ROOT_BUS, 2 << 3, sid(1) >> 8);
    smmu.commands(&[command::CFGI_ALL]);
    bench.expect("after", &[("d0", second), ("d1", first)]);
    bench.finish();
}

/// No vDEVICE was ever bound for the old `StreamIDs`.
#[test]
fn swapped_stream_ids_reattach_without_vdevices() {
    let bench = Bench::with_two_devices();
    bench.script("fail VDEVICE_ALLOC errno=ETIMEDOUT");
    let smmu = bench.smmu();
    smmu.write_ste(sid(1), ste::BYPASS);
    smmu.write_ste(sid(2), ste::ABORT);
    smmu.enable(SMMUEN);
    bench.expect("before", &[("d0", On::Bypass), ("d1", On::Abort)]);
    let ecam = Ecam::of(bench.machine());
    ecam.number(ROOT_BUS, 1 << 3, sid(2) >> 8);
    ecam.number(ROOT_BUS, 2 << 3, sid(1) >> 8);
    // one is configured, and both are reattached
    smmu.commands(&[command::cfgi_ste(sid(1))]);
    bench.expect("after", &[("d0", On::Abort), ("d1", On::Bypass)]);
    bench.finish_with_errors();
}

/// Without bus numbers both devices have `StreamID` 0, and the host binds it for
/// one of them only.
#[test]
fn duplicate_stream_id_grants_no_more_than_ste() {
    let bench = Bench::with_two_devices();
    let smmu = Smmu::find(bench.machine());
    // neither bus has a number: both devices are StreamID 0
    prepare(&smmu, QUEUE, TABLE);
    smmu.enable(SMMUEN);
    bench.expect("an empty table", &[("d0", On::Abort), ("d1", On::Abort)]);
    smmu.install(0, ste::FIRST);
    // the host gives a StreamID to one device only
    let d0 = On::Nested(ste::FIRST);
    bench.expect("stage 1", &[("d0", d0), ("d1", On::Abort)]);
    smmu.install(0, ste::BYPASS);
    bench.expect("bypass", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    smmu.install(0, ste::INVALID);
    bench.expect("invalid", &[("d0", On::Abort), ("d1", On::Abort)]);
    bench.finish_with_errors();
}

#[test]
fn reset_ends_a_quarantine() {
    let bench = Bench::with_one_device();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail HWPT_INVALIDATE errno=EFAULT");
    smmu.fails(command::TLBI_NSNH_ALL);
    bench.expect("failed closed", &[("d0", On::Abort)]);
    bench.script("clear");
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn reset_with_refused_bypass_attaches_abort() {
    let bench = Bench::with_one_device();
    bench.translating(&[ste::FIRST]);
    bench.script("fail ATTACH kind=bypass errno=ENOMEM");
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Abort)]);
    bench.script("clear");
    bench.machine().system_reset();
    bench.expect("after another reset", &[("d0", On::Bypass)]);
    bench.finish_with_errors();
}
