// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Configuration commands: the STE is read again and the device is attached by
//! it.

use smmuv3_qtest::{
    command::{self, Command},
    smmu::{reg, SMMUEN},
    until, Smmu,
};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, NOWHERE, TABLE},
    journal::On,
};

/// Returns the commands that make the SMMU read the STE of the device in slot 1
/// again.
fn configuration_commands() -> [Command; 3] {
    [
        command::cfgi_ste(sid(1)),
        command::cfgi_ste_range(sid(1), 8),
        command::CFGI_ALL,
    ]
}

/// Attaches a device to stage 1.
#[track_caller]
fn translating(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    bench.expect("an empty table", &[("d0", On::Abort)]);
    let stage1 = ste::stage1(0x4100_0000);
    smmu.install(sid(1), stage1);
    bench.expect("stage 1", &[("d0", On::Nested(stage1))]);
    smmu
}

#[test]
fn every_cfgi_reattaches_by_ste() {
    let other = ste::stage1(0x4200_0000);
    for command in configuration_commands() {
        for (entry, on) in [
            (ste::INVALID, On::Abort),
            (ste::ABORT, On::Abort),
            (ste::BYPASS, On::Bypass),
            (other, On::Nested(other)),
            (ste::STAGE2, On::Abort),
        ] {
            let bench = Bench::with_one_device();
            let smmu = translating(&bench);
            smmu.write_ste(sid(1), entry);
            smmu.commands(&[command]);
            bench.expect(&format!("after {command:x?}"), &[("d0", on)]);
            let nested = usize::from(matches!(on, On::Nested(_)));
            let actual = bench.journal().objects().get("nested").copied();
            assert_eq!(actual.unwrap_or(0), nested, "stage 1 of the host");
            bench.finish();
        }
    }
}

#[test]
fn illegal_ste_is_no_cmdq_error() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    for config in [0b001, 0b010, 0b011, 0b110, 0b111] {
        let stage1 = ste::stage1(0x4100_0000);
        smmu.install(sid(1), [1 | (config << 1), 0]);
        bench.expect("an illegal STE", &[("d0", On::Abort)]);
        smmu.install(sid(1), stage1);
        bench.expect("a good STE", &[("d0", On::Nested(stage1))]);
    }
    bench.finish();
}

#[test]
fn new_stage1_replaces_old_directly() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    bench.mark();
    let other = ste::stage1(0x4200_0000);
    smmu.install(sid(1), other);
    assert_eq!(bench.journal().history("d0"), [On::Nested(other)]);
    bench.expect_objects(
        "the old stage 1 is gone",
        &[
            ("ioas", 1),
            ("s2", 1),
            ("viommu", 1),
            ("abort", 1),
            ("bypass", 1),
            ("nested", 1),
            ("vdevice", 1),
        ],
    );
    bench.finish();
}

/// The driver may have changed a Context descriptor, so the cached ones are
/// invalidated, but nothing is attached again.
#[test]
fn unchanged_stage1_ste_only_invalidates_cds() {
    for command in configuration_commands() {
        let bench = Bench::with_one_device();
        let smmu = translating(&bench);
        bench.mark();
        smmu.commands(&[command]);
        assert_eq!(bench.changes(), [""; 0], "{command:x?}");
        let cd_all = vec![command::cfgi_cd_all(sid(1))];
        assert_eq!(bench.journal().batches(), [cd_all], "{command:x?}");
        let stage1 = ste::stage1(0x4100_0000);
        bench.expect("unchanged", &[("d0", On::Nested(stage1))]);
        bench.finish();
    }
}

#[test]
fn unchanged_ste_without_stage1_makes_no_ioctl() {
    for entry in [ste::BYPASS, ste::ABORT, ste::INVALID] {
        for command in configuration_commands() {
            let bench = Bench::with_one_device();
            let smmu = bench.smmu();
            smmu.enable(SMMUEN);
            smmu.install(sid(1), entry);
            bench.mark();
            smmu.commands(&[command]);
            assert_eq!(bench.changes(), [""; 0], "{entry:x?} {command:x?}");
            assert!(
                bench.journal().batches().is_empty(),
                "{entry:x?} {command:x?}"
            );
            bench.finish();
        }
    }
}

#[test]
fn cfgi_of_other_stream_changes_nothing() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.write_ste(sid(1), ste::BYPASS);
    bench.mark();
    let elsewhere = [
        command::cfgi_ste(sid(2)),
        command::cfgi_ste(sid(1) + 1),
        command::cfgi_ste_range(sid(2), 0),
        // bits above SIDSIZE are not dropped
        command::cfgi_ste(0x1_0000 | sid(1)),
    ];
    smmu.commands(&elsewhere);
    assert_eq!(bench.changes(), [""; 0]);
    let stage1 = ste::stage1(0x4100_0000);
    bench.expect("its STE was not named", &[("d0", On::Nested(stage1))]);
    bench.finish();
}

#[test]
fn only_stage1_ste_fields_reach_host() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    let [word0, word1] = ste::stage1(0x4300_0000);
    // Reserved or IGNORED: bits [58:56] of word 0, S2 fields of word 1, S1Fmt and
    // S1CDMax without substreams
    let noise = [
        (0b111 << 56) | (0b10 << 4) | (0x1f << 59),
        (0xffff_ffff << 32) | (0xfff << 8),
    ];
    smmu.install(sid(1), [word0 | noise[0], word1 | noise[1]]);
    bench.expect("scrubbed", &[("d0", On::Nested([word0, word1]))]);
    bench.finish();
}

#[test]
fn ste_fields_follow_shown_properties() {
    let properties = "accel=on,ats=on,ril=on,oas=44,ssidsize=8";
    let bench = Setup::new(properties).assign("d0", 1).start();
    let smmu = translating(&bench);
    let [word0, word1] = ste::stage1(0x4300_0000);
    let substreams = |bits: u64| word0 | (bits << 59);
    let ats = |eats: u64| word1 | (eats << 28);
    for (entry, on) in [
        (
            [substreams(8), word1 | 0b10],
            On::Nested([substreams(8), word1 | 0b10]),
        ),
        ([substreams(9), word1], On::Abort),
        ([word0, ats(0b01)], On::Nested([word0, ats(0b01)])),
        ([word0, ats(0b10)], On::Abort),
        // S1ContextPtr above OAS
        ([word0 | (1 << 44), word1], On::Abort),
        // S1STALLD where nothing stalls
        ([word0, word1 | (1 << 27)], On::Abort),
    ] {
        smmu.install(sid(1), entry);
        bench.expect(&format!("{entry:#x?}"), &[("d0", on)]);
    }
    bench.finish();
}

#[test]
fn cfgi_range_reaches_every_named_stream() {
    for (command, second) in [
        (command::CFGI_ALL, On::Bypass),
        // StreamIDs 0x800 to 0xfff, and 0x900 to 0x9ff
        (command::cfgi_ste_range(sid(1), 10), On::Bypass),
        (command::cfgi_ste_range(sid(1), 7), On::Abort),
    ] {
        let bench = Bench::with_two_devices();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        bench.expect("an empty table", &[("d0", On::Abort), ("d1", On::Abort)]);
        smmu.write_ste(sid(1), ste::BYPASS);
        smmu.write_ste(sid(2), ste::BYPASS);
        smmu.commands(&[command]);
        bench.expect(
            &format!("{command:x?}"),
            &[("d0", On::Bypass), ("d1", second)],
        );
        bench.finish();
    }
}

#[test]
fn preceding_invalidations_complete_before_attach() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.write_ste(sid(1), ste::stage1(0x4200_0000));
    bench.mark();
    let tlbi = command::tlbi_nh_asid(1);
    smmu.commands(&[tlbi, command::cfgi_ste(sid(1)), tlbi]);
    let order = [
        "HWPT_INVALIDATE",
        "HWPT_ALLOC",
        "ATTACH",
        "DESTROY",
        "HWPT_INVALIDATE",
    ];
    assert_eq!(bench.journal().order()[..5], order);
    let batches = bench.journal().batches();
    assert_eq!(batches[0], [tlbi]);
    assert_eq!(batches[1..].concat(), [command::cfgi_cd_all(sid(1)), tlbi]);
    bench.finish();
}

/// Commands complete in order, so the STE is not attached before the error is
/// acknowledged.
#[test]
fn cfgi_after_failed_invalidation_waits() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.write_ste(sid(1), ste::BYPASS);
    bench.script("fail HWPT_INVALIDATE errno=ETIMEDOUT");
    smmu.push(&[
        command::tlbi_nh_asid(1),
        command::cfgi_ste(sid(1)),
        command::SYNC,
    ]);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    let stage1 = ste::stage1(0x4100_0000);
    bench.expect("CFGI_STE follows", &[("d0", On::Nested(stage1))]);
    bench.script("clear");
    smmu.acknowledge();
    smmu.wait_consumed();
    bench.expect("executed", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn refused_cd_invalidation_attaches_abort() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    bench.script("fail HWPT_INVALIDATE errno=EIO entry_num=0 count=1");
    smmu.commands(&[command::cfgi_ste(sid(1))]);
    bench.expect("no command error", &[("d0", On::Abort)]);
    smmu.commands(&[command::cfgi_ste(sid(1))]);
    let stage1 = ste::stage1(0x4100_0000);
    bench.expect("configured again", &[("d0", On::Nested(stage1))]);
    bench.finish();
}

#[test]
fn cfgi_without_smmuen_keeps_gbpa() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    for entry in [ste::ABORT, ste::stage1(0x4100_0000)] {
        for command in configuration_commands() {
            smmu.write_ste(sid(1), entry);
            smmu.commands(&[command]);
            bench.expect("SMMUEN=0", &[("d0", On::Bypass)]);
        }
    }
    bench.finish();
}

/// A two-level table with SPLIT=8 at `TABLE`, its second level for bus 9 behind
/// it. Level 1 has 256 descriptors.
struct TwoLevel<'a>(Smmu<'a>);

const LEVEL2: u64 = TABLE + 0x1_0000;

impl TwoLevel<'_> {
    #[track_caller]
    fn write_descriptor(&self, descriptor: u64) {
        let at = TABLE + 8 * u64::from(sid(1) >> 8);
        self.0.machine().write64(at, descriptor);
    }

    #[track_caller]
    fn write_ste(&self, ste: [u64; 2]) {
        let bytes: Vec<u8> = ste.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = LEVEL2 + 64 * u64::from(sid(1) & 0xff);
        self.0.machine().write_memory(at, &bytes);
    }
}

/// All of a second-level table: 2^8 entries.
const SPAN: u64 = 9;

#[track_caller]
fn two_level(bench: &Bench) -> TwoLevel<'_> {
    let table = TwoLevel(bench.smmu());
    let smmu = &table.0;
    smmu.machine().fill_memory(TABLE, 0x2_0000, 0);
    table.write_ste(ste::stage1(0x4100_0000));
    table.write_descriptor(LEVEL2 | SPAN);
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write(reg::STRTAB_BASE_CFG, (1 << 16) | (8 << 6) | 16);
    smmu.enable(SMMUEN);
    smmu.commands(&[command::CFGI_ALL]);
    let stage1 = ste::stage1(0x4100_0000);
    bench.expect("a two-level table", &[("d0", On::Nested(stage1))]);
    table
}

#[test]
fn l1std_without_span_attaches_abort() {
    for command in configuration_commands() {
        let bench = Bench::with_one_device();
        let table = two_level(&bench);
        table.write_descriptor(LEVEL2);
        table.0.commands(&[command]);
        bench.expect("span 0", &[("d0", On::Abort)]);
        table.write_descriptor(LEVEL2 | SPAN);
        table.0.commands(&[command]);
        let stage1 = ste::stage1(0x4100_0000);
        bench.expect("the span is back", &[("d0", On::Nested(stage1))]);
        bench.finish();
    }
}

#[test]
fn unreadable_strtab_attaches_abort() {
    for command in configuration_commands() {
        let bench = Bench::with_one_device();
        let table = two_level(&bench);
        table.write_descriptor(NOWHERE | SPAN);
        table.0.commands(&[command]);
        bench.expect("level 2 is nowhere", &[("d0", On::Abort)]);
        bench.finish();
    }
}

#[test]
fn shrunk_l1_strtab_attaches_abort() {
    let bench = Bench::with_one_device();
    let table = two_level(&bench);
    table.0.disable(SMMUEN);
    bench.expect("disabled", &[("d0", On::Bypass)]);
    // StreamIDs 0 to 0x7ff
    table
        .0
        .write(reg::STRTAB_BASE_CFG, (1 << 16) | (8 << 6) | 11);
    table.0.enable(SMMUEN);
    bench.expect("out of range", &[("d0", On::Abort)]);
    bench.finish();
}

#[test]
fn strtab_two_level_to_linear_reattaches() {
    let bench = Bench::with_one_device();
    let table = two_level(&bench);
    let smmu = &table.0;
    smmu.disable(SMMUEN);
    smmu.machine().fill_memory(TABLE, 0x4_0000, 0);
    smmu.write(reg::STRTAB_BASE_CFG, 12);
    smmu.write_ste(sid(1), ste::BYPASS);
    smmu.enable(SMMUEN);
    smmu.commands(&[command::CFGI_ALL]);
    bench.expect("a linear table", &[("d0", On::Bypass)]);
    bench.finish();
}
