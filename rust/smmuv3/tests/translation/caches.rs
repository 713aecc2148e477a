// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The entries that the caches hold, and that none is stale after an invalidation:
//! tables change and commands are executed at every point of a transaction.

use std::cell::RefCell;

use smmuv3::{
    event::EventType,
    translation::{
        translate, Caches, Entry, Outcome, Permissions, StreamContext, Tag, Walk, WalkStep,
    },
    BusAbort, GuestMemory, StreamId,
};

use crate::common::{
    smmu::{
        cd_words, ste, ste_nested, Nested, Smmu, ASID, CD, QUERY, READ, SID, STE, TABLES1, TABLES2,
        VMID, WRITE,
    },
    tables::{Tables, AF, GLOBAL, READ_ONLY, S2_DEVICE, S2_READ, STAGE1, STAGE2},
    tlbi_scope,
};

const PAGE: u64 = 0x7654_3000;
const IPA: u64 = 0x20_4000_0000;
const OUTPUT: u64 = 0x5_c000_0000;
const OTHER: u64 = 0x6_c000_0000;

fn stage1(attributes: u64) -> (Smmu, Tables) {
    let mut tables = Tables::stage1(12, 48, TABLES1);
    let mut smmu = Smmu::stage1(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, attributes);
    (smmu, tables)
}

fn nested() -> Nested {
    let stage1 = Tables::stage1(12, 48, TABLES1);
    let mut nested = Nested::new(stage1, Tables::new(12, 44, 0, TABLES2));
    nested.map1(PAGE, 3, IPA, STAGE1);
    nested.map2(IPA, 3, OUTPUT, STAGE2);
    nested.map2(IPA + 0x1000, 3, OTHER, STAGE2);
    nested
}

#[test]
fn cache_hit_equals_walk_and_reads_nothing() {
    let mut bypassing = Smmu::new(nested().smmu.features);
    bypassing.memory.store_words(STE, &[0x9]);
    let mut aborting = Smmu::new(bypassing.features);
    aborting.memory.store_words(STE, &[0x1]);
    let mut tables = Tables::new(12, 44, 0, TABLES2);
    let mut stage2 = Smmu::stage2(&tables);
    tables.map(&mut stage2.memory, PAGE, 2, OUTPUT, STAGE2);
    for mut smmu in [
        bypassing,
        aborting,
        stage1(STAGE1).0,
        stage1(GLOBAL).0,
        stage2,
        nested().smmu,
    ] {
        let address = PAGE | 0xabc;
        let walked = smmu.walk(address, WRITE);
        assert!(!matches!(walked, Outcome::Fault(_)));
        assert_eq!(smmu.store.hit(SID, address, WRITE), None);
        assert_eq!(smmu.cached(address, WRITE), walked);
        let reads = smmu.memory.reads;
        for again in [address, PAGE, PAGE | 0xfff] {
            assert_eq!(smmu.cached(again, READ), walked);
            assert_eq!(smmu.store.hit(SID, again, WRITE), Some(walked));
        }
        assert_eq!(smmu.memory.reads, reads);
        let [other, next] = [SID + 1, SID].map(|sid| {
            let page = if sid == SID { PAGE - 1 } else { PAGE };
            smmu.store.hit(sid, page, WRITE)
        });
        assert_eq!(other, None);
        if matches!(walked, Outcome::Translated { entry, .. } if entry.log2_bytes == 12) {
            assert_eq!(next, None);
        }
    }
}

#[test]
fn nested_walk_caches_stage2_alone() {
    let mut nested = nested();
    nested.map1(PAGE + 0x1000, 3, IPA, STAGE1);
    nested.smmu.cached(PAGE, READ);
    let before = nested.smmu.memory.reads;
    nested.smmu.cached(PAGE + 0x1000, READ);
    // The four descriptors of stage 1 alone.
    assert_eq!(nested.smmu.memory.reads, before + 4);
}

#[test]
fn denied_cached_access_rewalks() {
    let (mut smmu, mut tables) = stage1(STAGE1 | READ_ONLY);
    smmu.cached(PAGE, READ);
    assert_eq!(smmu.store.hit(SID, PAGE, WRITE), None);
    let Outcome::Fault(denied) = smmu.cached(PAGE, WRITE) else {
        panic!("a write to a page that is only read");
    };
    assert_eq!(denied.event, EventType::Permission);
    // More rights take no invalidation.
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE1);
    let granted = smmu.walk(PAGE, WRITE);
    assert_eq!(smmu.cached(PAGE, WRITE), granted);
    assert_eq!(smmu.store.hit(SID, PAGE, WRITE), Some(granted));

    let mut both = nested();
    both.map2(IPA, 3, OUTPUT, AF | S2_READ);
    both.smmu.cached(PAGE, READ);
    assert_eq!(both.smmu.store.hit(SID, PAGE, WRITE), None);
    both.map2(IPA, 3, OUTPUT, STAGE2);
    let more = both.smmu.walk(PAGE, WRITE);
    assert!(matches!(more, Outcome::Translated { .. }));
    assert_eq!(both.smmu.cached(PAGE, WRITE), more);
}

const S2PTW: fn(u64) -> u64 = |word| word | ste::S2PTW;

/// The TLB records which pages of stage 2 are Device memory: a descriptor in such a
/// page is not read, even if a transaction has accessed the page before.
#[test]
fn s2ptw_denies_cached_device_page() {
    for before in [None, Some(WRITE)] {
        let mut nested = nested();
        nested.smmu.patch_ste(2, S2PTW);
        // A page of Device memory that contains a table descriptor of stage 1.
        nested.map2(IPA, 3, OUTPUT, S2_DEVICE);
        let descriptor = (IPA + 0x1000) | STAGE1 | 0b11;
        let index = (PAGE >> 12) % 512;
        let device = OUTPUT + 8 * index;
        nested.smmu.memory.store_words(device, &[descriptor]);
        if let Some(wanted) = before {
            let known = nested.smmu.cached(PAGE, wanted);
            assert!(matches!(known, Outcome::Translated { .. }), "{known:?}");
        }
        let table = nested.place1(PAGE, 2);
        nested.smmu.memory.store_words(table, &[IPA | 0b11]);
        // Stage 1 has changed, stage 2 is still cached.
        tlbi(&mut nested.smmu, NH_VA, ASID, PAGE);
        nested.smmu.memory.unreadable.push(device..device + 8);
        let walked = nested.smmu.walk(PAGE, READ);
        let Outcome::Fault(denied) = walked else {
            panic!("{walked:?}");
        };
        assert_eq!(
            (denied.event, denied.address),
            (EventType::Permission, IPA + 8 * index)
        );
        for _ in 0..2 {
            assert_eq!(nested.smmu.cached(PAGE, READ), walked);
        }
        // Without S2PTW the same descriptor is read.
        nested.smmu.memory.unreadable.clear();
        nested.smmu.patch_ste(2, |word| word & !ste::S2PTW);
        cfgi(&mut nested.smmu);
        let read = nested.smmu.cached(PAGE, READ);
        let Outcome::Translated { entry, .. } = read else {
            panic!("{read:?}");
        };
        assert_eq!(entry.output, OTHER);
    }
}

/// Streams of one VMID share the entries of stage 2, and need not agree in
/// `S2PTW`.
#[test]
fn s2ptw_of_current_stream_applies_to_hit() {
    let mut nested = nested();
    let (first, second) = (SID, SID + 1);
    let words = ste_nested(&nested.stage2);
    let mut protected = words;
    protected[2] |= ste::S2PTW;
    let at = STE + 64;
    nested.smmu.memory.store_words(at, &protected);
    let slot = nested.slot1(PAGE, 3);
    let page = slot & !0xfff;
    let place = nested.stage1.scatter.place(page);
    nested.map2(page, 3, place, S2_DEVICE);
    let access = |smmu: &mut Smmu, sid| {
        // The combined translation must miss, so that stage 2's entry is used.
        tlbi(smmu, NH_ALL, 0, 0);
        let Smmu {
            features,
            registers,
            memory,
            store,
        } = smmu;
        translate(
            &registers.stream_table(),
            features,
            memory,
            store,
            sid,
            PAGE,
            READ,
        )
    };
    for sid in [second, first, second, first] {
        let outcome = access(&mut nested.smmu, sid);
        match outcome {
            Outcome::Translated { entry, .. } => {
                assert_eq!((sid, entry.output), (first, OUTPUT));
            }
            Outcome::Fault(denied) => {
                assert_eq!((sid, denied.event), (second, EventType::Permission));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn fault_is_not_cached() {
    let (mut smmu, mut tables) = stage1(STAGE1);
    let next = PAGE + 0x1000;
    assert!(matches!(smmu.cached(next, READ), Outcome::Fault(_)));
    tables.map(&mut smmu.memory, next, 3, OTHER, STAGE1);
    assert!(matches!(
        smmu.cached(next, READ),
        Outcome::Translated { .. }
    ));
}

#[test]
fn tbi_addresses_share_tlb_entry() {
    let (mut smmu, _) = stage1(STAGE1);
    smmu.patch_cd(0, |word| word | (1 << 38));
    let found = smmu.cached(PAGE, READ);
    assert_eq!(smmu.store.hit(SID, PAGE | (0xa5 << 56), READ), Some(found));
    smmu.store.clear();
    smmu.cached(PAGE | (0x5a << 56), READ);
    assert_eq!(smmu.store.hit(SID, PAGE, READ), Some(found));
    assert_eq!(smmu.store.hit(SID, PAGE | (1 << 55), READ), None);
}

#[test]
fn top_byte_without_tbi_misses() {
    let (mut smmu, _) = stage1(STAGE1);
    smmu.cached(PAGE, READ);
    for bit in 48..64 {
        let address = PAGE | (1 << bit);
        assert_eq!(smmu.store.hit(SID, address, READ), None, "{bit}");
        assert!(matches!(smmu.cached(address, READ), Outcome::Fault(_)));
    }
}

/// Caches nothing, but records the entries and descriptors that it is given.
#[derive(Default)]
struct Recorder {
    steps: Vec<WalkStep>,
    entries: Vec<(Tag, u64)>,
}

impl Caches for Recorder {
    fn context(&mut self, _: StreamId) -> Option<StreamContext> {
        None
    }

    fn insert_context(&mut self, _: StreamId, _: &StreamContext) {}

    fn lookup(&mut self, _: Tag, _: u64) -> Option<Entry> {
        None
    }

    fn insert(&mut self, tag: Tag, address: u64, _: &Entry) {
        self.entries.push((tag, address));
    }

    fn note_split(&mut self, _: u8) {}

    fn walked(&mut self, step: &WalkStep) {
        self.steps.push(*step);
    }
}

fn record(smmu: &mut Smmu) -> Recorder {
    let Smmu {
        registers,
        features,
        memory,
        ..
    } = smmu;
    let mut caches = Recorder::default();
    translate(
        &registers.stream_table(),
        features,
        memory,
        &mut caches,
        SID,
        PAGE,
        READ,
    );
    caches
}

#[test]
fn translation_is_cached_once() {
    let combined = Tag {
        vmid: VMID,
        asid: Some(ASID),
    };
    let stage2 = Tag {
        vmid: VMID,
        asid: None,
    };
    assert_eq!(record(&mut stage1(STAGE1).0).entries, [(combined, PAGE)]);
    let mut tables = Tables::new(12, 44, 0, TABLES2);
    let mut alone = Smmu::stage2(&tables);
    tables.map(&mut alone.memory, PAGE, 3, OUTPUT, STAGE2);
    assert_eq!(record(&mut alone).entries, [(stage2, PAGE)]);
    let mut nested = nested();
    let mut expected = vec![(stage2, CD)];
    expected.extend((0..4).map(|level| (stage2, nested.slot1(PAGE, level))));
    expected.extend([(stage2, IPA), (combined, PAGE)]);
    assert_eq!(record(&mut nested.smmu).entries, expected);
}

#[test]
fn every_descriptor_read_is_observed() {
    let mut nested = nested();
    let steps = record(&mut nested.smmu).steps;
    let stages: Vec<_> = steps.iter().map(|step| (step.stage, step.level)).collect();
    // The Context descriptor, each of stage 1's, and the page.
    let walk2 = [(2, 0), (2, 1), (2, 2), (2, 3)];
    let mut expected = walk2.to_vec();
    for level in 0..4 {
        expected.extend(walk2);
        expected.push((1, level));
    }
    expected.extend(walk2);
    assert_eq!(stages, expected);
    let read = &nested.smmu.memory;
    assert!(steps
        .iter()
        .all(|step| read.load_u64(step.address) == step.descriptor));
    let leaf = steps.iter().rev().find(|step| step.stage == 1);
    let leaf = leaf.expect("stage 1 has been walked");
    assert_eq!((leaf.input, leaf.log2_bytes), (PAGE, 12));
    let last = steps.last().expect("there are some");
    assert_eq!((last.input, last.log2_bytes), (IPA, 12));
}

/// Something that software does.
type Action<'a> = &'a dyn Fn(&mut Smmu);

/// An SMMU that software uses concurrently with a transaction.
struct World<'a> {
    smmu: Smmu,
    walk: Walk,
    /// The actions to come, and after how many accesses.
    agenda: Vec<(usize, Action<'a>)>,
    now: usize,
}

impl World<'_> {
    fn pass(&mut self) {
        while let Some((_, action)) = self.agenda.first().filter(|(at, _)| *at == self.now) {
            action(&mut self.smmu);
            self.agenda.remove(0);
        }
        self.now += 1;
    }
}

/// A transaction's view of it.
struct View<'a, 'b>(&'a RefCell<World<'b>>);

impl View<'_, '_> {
    /// Software may act before and after each access.
    fn access<R>(&self, access: impl FnOnce(&mut Smmu, &mut Walk) -> R) -> R {
        let mut world = self.0.borrow_mut();
        world.pass();
        let World { smmu, walk, .. } = &mut *world;
        let result = access(smmu, walk);
        world.pass();
        result
    }
}

impl GuestMemory for View<'_, '_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        self.access(|smmu, _| smmu.memory.read(address, buffer))
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BusAbort> {
        panic!("translation does not write");
    }
}

impl Caches for View<'_, '_> {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.access(|smmu, _| smmu.store.configuration(sid).copied())
    }

    fn insert_context(&mut self, sid: StreamId, context: &StreamContext) {
        self.access(|smmu, walk| smmu.store.insert_context_for(walk, sid, context));
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.access(|smmu, walk| smmu.store.lookup_for(walk, tag, address))
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        self.access(|smmu, walk| smmu.store.insert_for(walk, tag, address, entry));
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.access(|smmu, _| smmu.store.note_split(stage1_log2_bytes));
    }

    fn walked(&mut self, step: &WalkStep) {
        self.access(|_, walk| walk.note(step));
    }
}

/// The end of a transaction that raced with software.
struct Ended {
    smmu: Smmu,
    outcome: Outcome,
    /// Whether it may be used: no invalidation can have affected its reads.
    is_current: bool,
    /// Whether all of the agenda was done before it ended.
    is_done: bool,
}

/// Runs a transaction concurrently with the agenda.
fn transact(mut smmu: Smmu, agenda: Vec<(usize, Action<'_>)>) -> Ended {
    let walk = smmu.store.begin(SID, PAGE);
    let (registers, features) = (smmu.registers.stream_table(), smmu.features);
    let world = RefCell::new(World {
        smmu,
        walk,
        agenda,
        now: 0,
    });
    let outcome = translate(
        &registers,
        &features,
        &mut View(&world),
        &mut View(&world),
        SID,
        PAGE,
        READ,
    );
    let mut world = world.into_inner();
    let is_current = world.smmu.store.is_current(&world.walk);
    world.smmu.store.end(&world.walk);
    Ended {
        smmu: world.smmu,
        outcome,
        is_current,
        is_done: world.agenda.is_empty(),
    }
}

/// Changes tables and then invalidates, at every two points of a transaction:
/// afterwards only translations of the tables hit, and the transaction itself must be
/// retried unless it agrees with them.
fn race(before: &Smmu, change: Action<'_>, command: Action<'_>) {
    let mut changed = before.fresh();
    let old = changed.walk(PAGE, READ);
    change(&mut changed);
    let expected = changed.walk(PAGE, READ);
    assert_ne!(old, expected, "there is a change");
    let mut count = 0;
    for warm in [false, true] {
        for first in 0.. {
            let mut all = false;
            for second in first.. {
                let mut smmu = before.fresh();
                if warm {
                    smmu.cached(PAGE, READ);
                }
                let agenda = vec![(first, change), (second, command)];
                let ended = transact(smmu, agenda);
                if !ended.is_done {
                    break;
                }
                all = true;
                count += 1;
                let mut after = ended.smmu;
                let known = after.store.hit(SID, PAGE, READ);
                let name = format!("{first} {second} {warm}");
                assert!(!ended.is_current || ended.outcome == expected, "{name}");
                assert!(known.is_none_or(|known| known == expected), "{name}");
                assert_eq!(after.cached(PAGE, READ), expected, "{name}");
            }
            if !all {
                break;
            }
        }
    }
    assert!(count > 10, "there are points of time");
}

fn tlbi(smmu: &mut Smmu, opcode: u64, asid: u16, address: u64) {
    let word0 = opcode | (u64::from(VMID) << 32) | (u64::from(asid) << 48);
    let what = tlbi_scope([word0, address]);
    smmu.store.invalidate(&what);
}

fn cfgi(smmu: &mut Smmu) {
    smmu.store.invalidate_configurations(SID, SID);
}

const NH_ALL: u64 = 0x10;
const NH_ASID: u64 = 0x11;
const NH_VA: u64 = 0x12;
const NH_VAA: u64 = 0x13;
const S12_VMALL: u64 = 0x28;
const S2_IPA: u64 = 0x2a;
const NSNH_ALL: u64 = 0x30;

#[test]
fn tlbi_races_walk_of_stage1_page() {
    let (mut alone, mut tables) = stage1(STAGE1);
    let slot = tables.place(&mut alone.memory, PAGE, 3);
    let mut both = nested();
    let scattered = both.place1(PAGE, 3);
    for (before, place) in [(&alone, slot), (&both.smmu, scattered)] {
        for descriptor in [(IPA + 0x1000) | STAGE1 | 0b11, 0] {
            for opcode in [NH_ALL, NH_ASID, NH_VA, NH_VAA, S12_VMALL, NSNH_ALL] {
                race(
                    before,
                    &|smmu| smmu.memory.store_words(place, &[descriptor]),
                    &|smmu| tlbi(smmu, opcode, ASID, PAGE),
                );
            }
        }
    }
}

#[test]
fn tlbi_races_walk_of_global_page() {
    let (mut before, mut tables) = stage1(GLOBAL);
    let slot = tables.place(&mut before.memory, PAGE, 3);
    for (opcode, asid) in [(NH_VA, ASID), (NH_VA, 1), (NH_VAA, 0), (NH_ALL, 0)] {
        race(
            &before,
            &|smmu| smmu.memory.store_words(slot, &[OTHER | GLOBAL | 0b11]),
            &|smmu| tlbi(smmu, opcode, asid, PAGE),
        );
    }
}

#[test]
fn tlbi_races_walk_of_stage1_table() {
    let mut before = nested();
    let slot = before.place1(PAGE, 1);
    race(
        &before.smmu,
        &|smmu| smmu.memory.store_words(slot, &[0]),
        &|smmu| tlbi(smmu, NH_VA, ASID, PAGE),
    );
}

/// A block of stage 1 around [`PAGE`], of which stage 2 has some pages.
fn block_in_pieces(attributes: u64) -> Nested {
    let stage1 = Tables::stage1(12, 48, TABLES1);
    let mut nested = Nested::new(stage1, Tables::new(12, 44, 0, TABLES2));
    nested.map1(PAGE, 2, IPA, attributes);
    for page in 0..512 {
        let ipa = IPA + (page << 12);
        nested.map2(ipa, 3, OUTPUT + (page << 12), STAGE2);
    }
    nested
}

#[test]
fn tlbi_stage1_block_over_stage2_pages_is_complete() {
    let block = PAGE & !0x1f_ffff;
    for (attributes, asid) in [(STAGE1, ASID), (GLOBAL, 1)] {
        let mut nested = block_in_pieces(attributes);
        for page in [0, 7, 511] {
            let known = nested.smmu.cached(block + (page << 12), READ);
            assert!(matches!(known, Outcome::Translated { .. }));
        }
        tlbi(&mut nested.smmu, NH_VA, asid, block + 0x3000);
        for page in [0, 7, 511] {
            let known = nested.smmu.store.hit(SID, block + (page << 12), READ);
            assert_eq!(known, None, "{page}");
        }
    }
}

#[test]
fn tlbi_largest_fragmented_block_is_complete() {
    let mut nested = block_in_pieces(STAGE1);
    let large = 1 << 39;
    nested.map1(large, 1, IPA, STAGE1);
    for address in [large, PAGE] {
        let known = nested.smmu.cached(address, READ);
        assert!(matches!(known, Outcome::Translated { .. }));
    }
    tlbi(&mut nested.smmu, NH_VA, ASID, large + (1 << 29));
    assert_eq!(nested.smmu.store.hit(SID, large, READ), None);
}

#[test]
fn tlbi_races_walk_of_stage1_block() {
    let mut before = block_in_pieces(STAGE1);
    let slot = before.place1(PAGE, 2);
    for opcode in [NH_VA, NH_VAA] {
        race(
            &before.smmu,
            &|smmu| smmu.memory.store_words(slot, &[0]),
            &|smmu| tlbi(smmu, opcode, ASID, PAGE & !0x1f_ffff),
        );
    }
}

#[test]
fn tlbi_races_walk_of_stage2_page() {
    let mut tables = Tables::new(12, 44, 0, TABLES2);
    let mut before = Smmu::stage2(&tables);
    tables.map(&mut before.memory, PAGE, 3, OUTPUT, STAGE2);
    let slot = tables.place(&mut before.memory, PAGE, 3);
    for opcode in [S2_IPA, S12_VMALL, NSNH_ALL] {
        race(
            &before,
            &|smmu| smmu.memory.store_words(slot, &[OTHER | STAGE2 | 0b11]),
            &|smmu| tlbi(smmu, opcode, 0, PAGE),
        );
    }
}

#[test]
fn tlbi_races_walk_of_stage1_table_ipa() {
    let mut before = nested();
    let leaf = before.slot1(PAGE, 3);
    // Where the table moves to there is another leaf.
    let moved = OTHER | (leaf & 0xfff);
    for ipa in [IPA, leaf] {
        let slot = before.place2(ipa, 3);
        let change = |smmu: &mut Smmu| {
            let other = (IPA + 0x1000) | STAGE1 | 0b11;
            smmu.memory.store_words(moved, &[other]);
            smmu.memory.store_words(slot, &[OTHER | STAGE2 | 0b11]);
        };
        // Combined translations are invalidated by VMID (§4.4.3.1).
        race(&before.smmu, &change, &|smmu| {
            tlbi(smmu, S2_IPA, 0, ipa);
            tlbi(smmu, NH_ALL, 0, 0);
        });
        for opcode in [S12_VMALL, NSNH_ALL] {
            race(&before.smmu, &change, &|smmu| tlbi(smmu, opcode, 0, 0));
        }
    }
}

#[test]
fn cfgi_cd_races_walk() {
    let mut before = stage1(STAGE1).0;
    let mut others = Tables::stage1(12, 48, 0xc000_0000);
    others.map(&mut before.memory, PAGE, 3, OTHER, STAGE1);
    let words = cd_words([Some(&others), None]);
    // The same ASID: its translations are to be invalidated too.
    race(
        &before,
        &|smmu| smmu.memory.store_words(CD, &words),
        &|smmu| {
            cfgi(smmu);
            tlbi(smmu, NH_ASID, ASID, 0);
        },
    );
    // Another one: its translations are others.
    let mut renumbered = words;
    renumbered[0] ^= 1 << 48;
    for other in [renumbered, [0; 8]] {
        let change = |smmu: &mut Smmu| smmu.memory.store_words(CD, &other);
        race(&before, &change, &cfgi);
    }
}

#[test]
fn cfgi_ste_races_walk() {
    for before in [stage1(STAGE1).0, nested().smmu] {
        for words in [[0x1, 0], [0x9, 0], [0, 0]] {
            let change = |smmu: &mut Smmu| smmu.memory.store_words(STE, &words);
            race(&before, &change, &cfgi);
            race(&before, &change, &|smmu| smmu.store.clear());
        }
    }
}

#[test]
fn cfgi_ste_races_walk_of_stage2() {
    let mut before = nested();
    let mut others = Tables::new(12, 44, 0, 0x2_0000_0000);
    let mut pages = vec![CD];
    pages.extend((0..4).map(|level| before.slot1(PAGE, level) & !0xfff));
    for page in pages {
        let place = before.stage1.scatter.place(page);
        others.map(&mut before.smmu.memory, page, 3, place, STAGE2);
    }
    others.map(&mut before.smmu.memory, IPA, 3, OTHER, STAGE2);
    let words = ste_nested(&others);
    race(
        &before.smmu,
        &|smmu| smmu.memory.store_words(STE, &words),
        &|smmu| {
            cfgi(smmu);
            tlbi(smmu, S12_VMALL, 0, 0);
        },
    );
}

#[test]
fn unrelated_command_keeps_cache() {
    let mut smmu = nested().smmu;
    let known = smmu.cached(PAGE, READ);
    smmu.store.invalidate_configurations(SID + 1, StreamId::MAX);
    smmu.store.invalidate_configurations(0, SID - 1);
    tlbi(&mut smmu, NH_ASID, ASID + 1, 0);
    tlbi(&mut smmu, NH_VA, ASID, PAGE + 0x1000);
    tlbi(&mut smmu, S2_IPA, 0, IPA);
    assert_eq!(smmu.store.hit(SID, PAGE, READ), Some(known));
}

/// Executes a command at every point of a transaction, which does not have to be
/// retried for that, and whose result is cached.
fn undisturbed_by(before: &Smmu, command: Action<'_>) {
    let expected = before.fresh().walk(PAGE, READ);
    for warm in [false, true] {
        for at in 0.. {
            let mut smmu = before.fresh();
            if warm {
                smmu.cached(PAGE, READ);
            }
            let ended = transact(smmu, vec![(at, command)]);
            if !ended.is_done {
                assert!(at > 3, "there are points of time");
                break;
            }
            assert!(ended.is_current, "{at} {warm}");
            assert_eq!(ended.outcome, expected);
            if matches!(expected, Outcome::Translated { .. }) {
                assert_eq!(ended.smmu.store.hit(SID, PAGE, READ), Some(expected));
            }
        }
    }
}

fn tlbi_of(smmu: &mut Smmu, opcode: u64, (vmid, asid): (u16, u16), address: u64) {
    let word0 = opcode | (u64::from(vmid) << 32) | (u64::from(asid) << 48);
    let what = tlbi_scope([word0, address]);
    smmu.store.invalidate(&what);
}

/// `Leaf`.
const LEAF: u64 = 1;

#[test]
fn walk_survives_unrelated_commands() {
    let mut tables = Tables::new(12, 44, 0, TABLES2);
    let mut stage2 = Smmu::stage2(&tables);
    tables.map(&mut stage2.memory, PAGE, 3, OUTPUT, STAGE2);
    for before in [
        stage1(STAGE1).0,
        stage1(STAGE1 & !AF).0,
        stage2,
        nested().smmu,
    ] {
        undisturbed_by(&before, &|smmu| {
            smmu.store.invalidate_configurations(0, SID - 1);
            smmu.store.invalidate_configurations(SID + 1, StreamId::MAX);
        });
        for opcode in [NH_ALL, NH_ASID, NH_VA, NH_VAA, S12_VMALL, S2_IPA] {
            undisturbed_by(&before, &|smmu| {
                tlbi_of(smmu, opcode, (VMID + 1, ASID), PAGE);
            });
        }
        for opcode in [NH_ASID, NH_VA] {
            undisturbed_by(&before, &|smmu| {
                tlbi_of(smmu, opcode, (VMID, ASID + 1), PAGE);
            });
        }
    }
}

#[test]
fn walk_survives_tlbi_of_other_address() {
    let alone = stage1(STAGE1).0;
    let both = nested().smmu;
    for before in [&alone, &both] {
        for page in [PAGE - 0x1000, PAGE + 0x1000, PAGE ^ (1 << 40)] {
            undisturbed_by(before, &|smmu| tlbi(smmu, NH_VA, ASID, page | LEAF));
            undisturbed_by(before, &|smmu| tlbi(smmu, NH_VAA, 0, page | LEAF));
        }
        // no table of stage 1 leads to both
        let far = PAGE ^ (1 << 47);
        undisturbed_by(before, &|smmu| tlbi(smmu, NH_VA, ASID, far));
    }
    let far = IPA ^ (1 << 43);
    undisturbed_by(&both, &|smmu| tlbi(smmu, S2_IPA, 0, far | LEAF));
    undisturbed_by(&both, &|smmu| tlbi(smmu, S2_IPA, 0, (IPA + 0x2000) | LEAF));
}

/// A table that leads to two pages is taken away: its invalidation may name the
/// other one.
#[test]
fn walk_retries_on_tlbi_of_any_table_address() {
    let mut before = nested();
    for level in 0..3 {
        let slot = before.place1(PAGE, level);
        let other = PAGE ^ (1 << (39 - 9 * u32::from(level) - 1));
        race(
            &before.smmu,
            &|smmu| smmu.memory.store_words(slot, &[0]),
            &|smmu| {
                tlbi(smmu, NH_VA, ASID, PAGE | LEAF);
                tlbi(smmu, NH_VA, ASID, other);
            },
        );
        // In a walk it is reached by that alone.
        for at in 0.. {
            let command = |smmu: &mut Smmu| tlbi(smmu, NH_VA, ASID, other);
            let mut smmu = before.smmu.fresh();
            smmu.cached(PAGE + 0x1000, READ);
            let ended = transact(smmu, vec![(at, &command)]);
            if !ended.is_done {
                assert!(at > 3, "there are points of time");
                break;
            }
            assert!(!ended.is_current, "{level} {at}");
        }
    }
}

#[test]
fn flush_retries_every_walk() {
    let mut smmu = nested().smmu;
    let (one, other) = (smmu.store.begin(SID, PAGE), smmu.store.begin(7, PAGE));
    assert!(smmu.store.is_current(&one) && smmu.store.is_current(&other));
    smmu.store.clear();
    assert!(!smmu.store.is_current(&one) && !smmu.store.is_current(&other));
    smmu.store.end(&one);
    smmu.store.end(&other);
}

#[test]
fn protected_walk_delays_invalidation() {
    let mut smmu = nested().smmu;
    let plain = smmu.store.begin(SID, PAGE);
    assert!(!smmu.store.must_wait());
    let walks = [1, 2].map(|sid| smmu.store.begin_undisturbed(sid, PAGE));
    smmu.store.end(&plain);
    for walk in &walks {
        assert!(smmu.store.must_wait());
        smmu.store.end(walk);
    }
    assert!(!smmu.store.must_wait());
}

#[test]
fn probe_fills_caches() {
    let (mut smmu, _) = stage1(STAGE1 | READ_ONLY);
    let queried = smmu.cached(PAGE, QUERY);
    assert_eq!(smmu.store.hit(SID, PAGE, READ), Some(queried));
    assert_eq!(smmu.store.hit(SID, PAGE, Permissions::ALL), None);
}
