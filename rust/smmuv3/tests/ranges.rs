// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Runs of TLB invalidations by page that are submitted as ranges (§4.4.1.1).

use crate::common::{
    host::{pages, EIO, ENOMEM, ETIMEDOUT},
    machine::QUEUE,
    vector_features, Answer, Machine,
};
use proptest::prelude::*;
use smmuv3::{
    batch::Granules, command::decode, Command, Features, FlushPolicy, Invalidation, Progress,
};

const SYNC: [u64; 2] = [0x46, 0];
const NH_VA: u64 = 0x12;
const NH_VAA: u64 = 0x13;
const ASID: u64 = 5 << 48;

/// log2 of the sizes of granules, in the order of `TG`.
const GRANULES: [u32; 3] = [12, 14, 16];

fn features(granules: [bool; 3]) -> Features {
    vector_features()
        .with_ril(false)
        .with_gran4k(granules[0])
        .with_gran16k(granules[1])
        .with_gran64k(granules[2])
}

fn merging(granules: [bool; 3]) -> FlushPolicy {
    FlushPolicy {
        merge_ranges: Some(Granules::of(&features(granules))),
        ..FlushPolicy::default()
    }
}

fn machine_with(policy: FlushPolicy) -> Machine {
    let mut machine = Machine::resized(features([true; 3]), policy, 12, 0);
    machine.comes_back = false;
    machine
}

fn machine() -> Machine {
    machine_with(merging([true; 3]))
}

fn deferring() -> Machine {
    machine_with(FlushPolicy {
        defer_remainder: true,
        ..merging([true; 3])
    })
}

fn va(address: u64) -> [u64; 2] {
    [NH_VA | ASID, address | 1]
}

/// `count` neighbouring pages of 4KB.
fn run(address: u64, count: u64) -> Vec<[u64; 2]> {
    strided(address, count, 0x1000)
}

fn strided(address: u64, count: u64, stride: u64) -> Vec<[u64; 2]> {
    (0..count).map(|n| va(address + n * stride)).collect()
}

/// A range of (`num` + 1) * 2^`scale` granules.
fn range(address: u64, tg: u64, num: u64, scale: u64) -> [u64; 2] {
    let [word0, word1] = va(address);
    [word0 | (num << 12) | (scale << 20), word1 | (tg << 10)]
}

/// What the host is called with for commands of one doorbell.
fn submitted(mut machine: Machine, commands: &[[u64; 2]]) -> Vec<Vec<[u64; 2]>> {
    machine.submit(commands);
    assert_eq!(machine.error(), None);
    assert_eq!(machine.rd() as usize, commands.len());
    machine.host.calls
}

#[test]
fn run_of_pages_is_one_range_for_each_granule() {
    let all = vec![
        range(0x10_0000, 1, 31, 3),
        range(0x10_0000, 2, 31, 1),
        range(0x10_0000, 3, 15, 0),
    ];
    assert_eq!(submitted(machine(), &run(0x10_0000, 256)), [all]);
    for (granules, expected) in [
        ([true, false, false], range(0x10_0000, 1, 31, 3)),
        ([false, true, false], range(0x10_0000, 2, 31, 1)),
        ([false, false, true], range(0x10_0000, 3, 15, 0)),
    ] {
        let machine = machine_with(merging(granules));
        assert_eq!(submitted(machine, &run(0x10_0000, 256)), [[expected]]);
    }
}

/// The address is aligned to the granule, and a single granule is no range.
#[test]
fn range_is_aligned_and_has_two_granules() {
    let expected = vec![
        range(0x1_3000, 1, 3, 0),
        range(0x1_0000, 2, 1, 0),
        va(0x1_3000),
    ];
    assert_eq!(submitted(machine(), &run(0x1_3000, 4)), [expected]);
    let one_of_64k = vec![
        range(0x1_0000, 1, 3, 0),
        // the whole granule of 16KB, and the one of 64KB that it is in
        va(0x1_0000),
    ];
    assert_eq!(submitted(machine(), &run(0x1_0000, 4)), [one_of_64k]);
}

#[test]
fn pages_of_large_granules_become_ranges() {
    let commands = strided(0x20_0000, 64, 0x1_0000);
    let expected = vec![
        range(0x20_0000, 1, 31, 5),
        range(0x20_0000, 2, 31, 3),
        range(0x20_0000, 3, 31, 1),
    ];
    assert_eq!(submitted(machine(), &commands), [expected]);
}

#[test]
fn commands_that_are_no_run_stay() {
    let other_asid = [NH_VA | (6 << 48), 0x1001];
    let not_leaf = [NH_VA | ASID, 0x3000];
    let vaa = [NH_VAA, 0x5001];
    let by_asid = [0x11 | ASID, 0];
    let blocks = strided(0x4000_0000, 8, 0x20_0000);
    let mut descending = run(0x10_0000, 8);
    descending.reverse();
    let with_gaps: Vec<_> = [0, 1, 3, 6, 10, 15, 21].map(|n| va(n << 12)).into();
    for commands in [
        vec![
            va(0),
            other_asid,
            va(0x2000),
            not_leaf,
            va(0x4000),
            vaa,
            by_asid,
        ],
        vec![va(0x1000); 8],
        run(0x1000, 3),
        blocks,
        descending,
        with_gaps,
    ] {
        assert_eq!(submitted(machine(), &commands), [commands]);
    }
}

/// What goes beyond the end of a table need not be invalidated.
#[test]
fn no_range_reaches_beyond_its_table() {
    for end in [1 << 55, 1 << 63, 0_u64.wrapping_sub(0x1000)] {
        // as few on either side as are no range of their own
        let commands: Vec<_> = (0..6_u64)
            .map(|n| va(end.wrapping_add(n << 12).wrapping_sub(3 << 12)))
            .collect();
        assert_eq!(submitted(machine(), &commands), [commands]);
    }
}

#[test]
fn run_is_limited_in_length() {
    let calls = submitted(machine(), &run(0x10_0000, 1030));
    assert_eq!(calls.concat().len(), 6);
}

/// Where the pointer wraps, positions do not follow from the first.
#[test]
fn run_ends_where_pointers_wrap() {
    // where only the index wraps, they do
    for (start, end, count) in [(24, 8, 2), (8, 24, 1)] {
        let mut machine = Machine::resized(features([true; 3]), merging([true; 3]), 4, start);
        machine.submit(&run(0x10_0000, 16));
        assert_eq!((machine.error(), machine.rd()), (None, end));
        let ranges = machine.host.calls[0]
            .iter()
            .filter(|words| words[1] & 0xc00 == 0x400);
        assert_eq!(ranges.count(), count);
    }
}

/// More runs than fit into a call are more calls, each of 63 commands at most.
#[test]
fn batch_of_runs_has_at_most_63_commands() {
    let commands: Vec<_> = (0..40).flat_map(|n| run(n << 24, 5)).collect();
    let calls = submitted(machine(), &commands);
    let sizes: Vec<_> = calls.iter().map(Vec::len).collect();
    assert!(sizes.iter().all(|size| *size <= 63), "{sizes:?}");
    assert!(sizes.len() <= 3, "{sizes:?}");
}

/// A host that considers the commands for some pages illegal, alone and in ranges.
fn refusing(mut machine: Machine, page: u64) -> Machine {
    let is_bad = move |words: &[u64; 2]| pages(words).iter().any(|own| own[1] >> 12 == page);
    machine.host.behaviour = Some(Box::new(move |_, commands| {
        match commands.iter().position(is_bad) {
            Some(index) => Answer::error(EIO, index as u32),
            None => Answer::Done,
        }
    }));
    machine
}

#[test]
fn illegal_command_within_run_is_named() {
    for bad in [0, 1, 62, 63, 99] {
        let mut machine = refusing(machine(), 0x100 + bad);
        let commands = [&[va(0x1000)][..], &run(0x10_0000, 100), &[SYNC]].concat();
        machine.submit(&commands);
        assert_eq!((machine.error(), machine.rd()), (Some(1), bad as u32 + 1));
        assert_eq!(machine.host.log.executed(), commands[..bad as usize + 1]);
    }
}

#[test]
fn host_that_refuses_ranges_gets_pages() {
    let mut machine = machine();
    machine.host.behaviour = Some(Box::new(|_, commands| {
        let is_range = |words: &[u64; 2]| words[1] & 0xc00 != 0;
        match commands.iter().position(is_range) {
            Some(index) => Answer::error(EIO, index as u32),
            None => Answer::Done,
        }
    }));
    let commands = [
        &[va(0x1000)][..],
        &run(0x10_0000, 100),
        &[[0x8_0000_0005, 1]],
        &run(0x20_0000, 10),
    ]
    .concat();
    machine.submit(&commands);
    assert_eq!((machine.error(), machine.rd()), (None, 112));
    assert_eq!(machine.host.log.executed(), commands);
}

#[test]
fn failed_range_stops_at_first_command() {
    for (errno, calls) in [(ETIMEDOUT, 2), (22, 2)] {
        let mut machine = machine();
        machine.host.afterwards = Some(Answer::error(errno, 1));
        machine.submit(&run(0x10_0000, 100));
        assert_eq!((machine.error(), machine.rd()), (Some(2), 0));
        assert_eq!(machine.host.calls.len(), calls);
    }
}

/// A host without memory for a range may have some for single commands.
#[test]
fn range_without_memory_is_submitted_as_pages() {
    let mut machine = machine();
    machine.host.behaviour = Some(Box::new(|_, commands| {
        if commands.len() > 2 {
            return Answer::error(ENOMEM, 0);
        }
        Answer::Done
    }));
    machine.submit(&run(0x10_0000, 100));
    assert_eq!((machine.error(), machine.rd()), (None, 100));
    assert_eq!(machine.host.log.executed(), run(0x10_0000, 100));
}

#[test]
fn erratum_repeats_ranges_in_one_form() {
    let policy = FlushPolicy {
        repeat_tlbi_cfgi: true,
        ..merging([true, false, false])
    };
    let ranges = vec![range(0x10_0000, 1, 31, 1)];
    let calls = submitted(machine_with(policy), &run(0x10_0000, 64));
    assert_eq!(calls, [ranges.clone(), ranges]);
    // the second pass is refused
    let mut machine = machine_with(policy);
    machine.host.answers = [Answer::Done, Answer::error(EIO, 0)].into();
    machine.submit(&run(0x10_0000, 60));
    let pages = run(0x10_0000, 60);
    assert_eq!(machine.host.calls[2..], [pages.clone(), pages]);
}

/// 256 pages as Linux invalidates them: four doorbells, of which only the last has a
/// `CMD_SYNC`.
#[test]
fn doorbells_of_one_unmap_are_one_call() {
    let mut machine = deferring();
    let commands = run(0x10_0000, 256);
    for portion in commands[..192].chunks(64) {
        machine.submit(portion);
        assert_eq!((machine.rd(), machine.cmdq.is_deferred()), (0, true));
    }
    machine.submit(&[&commands[192..], &[SYNC]].concat());
    assert_eq!((machine.rd(), machine.cmdq.is_deferred()), (257, false));
    let sizes: Vec<_> = machine.host.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes, [3]);
}

/// By the timer, or because the guest reads `CMDQ_CONS`.
#[test]
fn deferred_run_is_consumed_on_resume() {
    let mut machine = deferring();
    machine.submit(&run(0x10_0000, 64));
    assert!(machine.host.calls.is_empty() && machine.cmdq.is_deferred());
    assert_eq!(machine.consume_once(), Progress::Idle);
    assert_eq!((machine.rd(), machine.host.calls.len()), (64, 1));
    assert!(!machine.cmdq.is_deferred());
    // also what is no run, and would leave a remainder
    let scattered: Vec<_> = (0..100).map(|n| va(n << 20)).collect();
    machine.submit(&scattered);
    assert_eq!((machine.rd(), machine.cmdq.is_deferred()), (64, true));
    assert_eq!(machine.consume_once(), Progress::Idle);
    assert_eq!(machine.rd(), 164);
}

#[test]
fn only_runs_without_sync_are_deferred() {
    let [few, many] = [run(0x10_0000, 62), run(0x10_0000, 100)];
    let middle = |command| [&many[..], &[command], &few].concat();
    for commands in [
        few.clone(),
        middle(SYNC),
        middle([0x11 | ASID, 0]),
        middle([0x8_0000_0040, 52]),
        run(0x10_0000, 1025),
    ] {
        let mut machine = deferring();
        machine.submit(&commands);
        assert!(machine.rd() > 0);
    }
}

/// A producer may wait for room.
#[test]
fn half_full_queue_is_not_deferred() {
    let policy = deferring().cmdq.policy();
    let mut machine = Machine::resized(features([true; 3]), policy, 8, 0);
    machine.comes_back = false;
    machine.submit(&run(0x10_0000, 128));
    assert_eq!(machine.rd(), 0);
    machine.submit(&run(0x20_0000, 1));
    assert_eq!(machine.rd(), 129);
}

#[test]
fn unreadable_command_prevents_deferral_of_run() {
    let mut machine = deferring();
    let address = QUEUE + 16 * 70;
    machine.memory.unreadable.push(address..address + 1);
    machine.submit(&run(0x10_0000, 100));
    assert_eq!((machine.error(), machine.rd()), (Some(2), 70));
}

/// An entry of a TLB: the model.
#[derive(Clone, Copy, Debug)]
struct Entry {
    asid: u64,
    is_global: bool,
    /// log2 of the granule of its table
    granule: u32,
    first: u64,
    log2_bytes: u32,
    /// Not of the last level
    is_table: bool,
}

/// Whether a command is about an entry (§4.4.1.1, §4.4.2).
fn is_hit([word0, word1]: [u64; 2], entry: &Entry) -> bool {
    let (tg, leaf) = ((word1 >> 10) & 3, word1 & 1 != 0);
    let address = word1 & !0xfff;
    let (num, scale) = ((word0 >> 12) & 0x1f, (word0 >> 20) & 0x3f);
    assert_eq!((word1 >> 8) & 3, 0, "no level is known");
    let bytes = if tg == 0 {
        assert_eq!((num, scale), (0, 0));
        0x1000
    } else {
        let granule = GRANULES[tg as usize - 1];
        assert_ne!((num, scale), (0, 0), "ILLEGAL");
        assert_eq!(address & ((1 << granule) - 1), 0, "UNPREDICTABLE");
        if granule != entry.granule {
            return false;
        }
        ((num + 1) << scale) << granule
    };
    let last = address + (bytes - 1);
    assert_eq!(address >> 55, last >> 55, "beyond the table");
    let is_owner = word0 as u8 == 0x13 || entry.is_global || word0 >> 48 == entry.asid;
    let entry_last = entry.first + ((1 << entry.log2_bytes) - 1);
    is_owner && !(leaf && entry.is_table) && address <= entry_last && entry.first <= last
}

/// Runs: their first address, the distance of pages, their number, and other fields.
fn runs() -> impl Strategy<Value = Vec<[u64; 2]>> {
    let bases = prop::sample::select(
        &[
            0,
            0x1_0000,
            0xffff_0000,
            0x7f_ffff_ffff_0000,
            0xff80_0000_0000_0000,
            0xffff_ffff_ffe0_0000,
        ][..],
    );
    let strides = prop::sample::select(&[0x1000, 0x2000, 0x4000, 0x1_0000, 0x2_0000][..]);
    let one = (
        bases,
        0..64_u64,
        strides,
        1..200_u64,
        any::<[bool; 2]>(),
        5..7_u64,
    );
    let one = one.prop_map(|(base, page, stride, count, [leaf, every], asid)| {
        let word0 = if every { NH_VAA } else { NH_VA | (asid << 48) };
        (0..count)
            .map(|n| {
                [
                    word0,
                    (base + (page << 12)).wrapping_add(n * stride) | u64::from(leaf),
                ]
            })
            .collect::<Vec<_>>()
    });
    prop::collection::vec(one, 1..4).prop_map(|runs| runs.concat())
}

fn entry() -> impl Strategy<Value = (usize, i64, usize, usize, [bool; 2], u64)> {
    (
        any::<prop::sample::Index>(),
        -70..70_i64,
        0..3_usize,
        0..3_usize,
        any::<[bool; 2]>(),
        5..7_u64,
    )
        .prop_map(|(near, pages, granule, level, flags, asid)| {
            (near.index(usize::MAX), pages, granule, level, flags, asid)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the TLB of a host holds, ranges invalidate all that the commands of the
    /// guest do, and of the rest only what lies close behind them.
    #[test]
    fn ranges_cover_their_runs_and_little_else(
        commands in runs(),
        granules in any::<[bool; 3]>(),
        entries in prop::collection::vec(entry(), 1..200),
    ) {
        let machine = machine_with(merging(granules));
        let merged = submitted(machine, &commands).concat();
        prop_assert!(merged.len() <= commands.len());
        let host = vector_features();
        for words in &merged {
            let decoded = decode(*words, &host);
            let is_same = matches!(decoded, Ok(Command::Invalidate(own @ Invalidation::Tlbi(_))) if own.to_words() == *words);
            prop_assert!(is_same, "{:x?}", words);
        }
        for (near, pages, granule, level, [is_global, is_table], asid) in entries {
            if !granules[granule] {
                continue;
            }
            let granule = GRANULES[granule];
            let log2_bytes = granule + level as u32 * (granule - 3);
            let near = commands[near % commands.len()][1] & !0xfff;
            let first = near.wrapping_add((pages << 12) as u64) >> log2_bytes << log2_bytes;
            let entry = Entry { asid, is_global, granule, first, log2_bytes, is_table };
            let wanted = commands.iter().any(|words| is_hit(*words, &entry));
            let done = merged.iter().any(|words| is_hit(*words, &entry));
            prop_assert!(done || !wanted, "{:x?} stays", entry);
            if done && !wanted {
                prop_assert!(is_close(&commands, &entry), "{:x?} goes", entry);
            }
        }
    }
}

/// Whether an entry lies between commands of which it matches all but the address, or
/// behind them by less than a granule and a sixteenth of their distance.
fn is_close(commands: &[[u64; 2]], entry: &Entry) -> bool {
    let moved = |words: &[u64; 2]| [words[0], (entry.first & !0xfff) | (words[1] & 0xfff)];
    let alike: Vec<_> = commands
        .iter()
        .filter(|words| is_hit(moved(words), entry))
        .map(|words| words[1] & !0xfff)
        .collect();
    let (Some(first), Some(last)) = (alike.iter().min(), alike.iter().max()) else {
        return false;
    };
    let beyond = (1 << entry.granule) + (last - first) / 16 + 0x1_0000;
    first & !0xffff <= entry.first + ((1 << entry.log2_bytes) - 1)
        && entry.first <= last.saturating_add(beyond)
}
