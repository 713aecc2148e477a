// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Random tables, contexts and addresses: the crate's outcomes, with and without
//! caches, equal the reference's. Wholly random memory has some outcome, too.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::select};
use smmuv3::{
    translation::{
        translate, Caches, Entry, Outcome, Permissions, Range, Store, StreamContext, Tag,
        TlbiScope, WalkStep,
    },
    BusAbort, Features, GuestMemory, Registers, StreamId,
};

use super::reference::{Doublewords, Reference, Setup};
use crate::common::smmu::{Uncached, CD, SID, STE, STRTAB};

/// Every doubleword that is not given looks like a descriptor, as its address
/// and the seed say.
#[derive(Clone, Debug)]
struct RandomTables {
    seed: u64,
    /// Of 256 doublewords, that cannot be read.
    aborts: u8,
    /// Of 256, that are invalid; have an address that may be too large; are
    /// blocks; lack the Access flag, or some permission.
    invalid: u8,
    large: u8,
    blocks: u8,
    denied: u8,
    /// `None` cannot be read.
    given: BTreeMap<u64, Option<u64>>,
}

impl RandomTables {
    fn hash(&self, address: u64) -> u64 {
        let mut value = address ^ self.seed;
        for _ in 0..2 {
            value = (value ^ (value >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
            value = (value ^ (value >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
        }
        value ^ (value >> 33)
    }

    fn draw(&self, address: u64, number: u64, of_256: u8) -> bool {
        self.hash(address ^ (number << 56)) as u8 % 255 < of_256
    }
}

impl Doublewords for RandomTables {
    fn doubleword(&self, address: u64) -> Option<u64> {
        assert_eq!(address % 8, 0, "descriptors are aligned");
        if let Some(given) = self.given.get(&address) {
            return *given;
        }
        if self.draw(address, 1, self.aborts) {
            return None;
        }
        let noise = self.hash(address);
        // Addresses of 32 bits, mostly.
        let mut word = (noise & 0xffff_f000) | (noise & (0xfff << 52)) & !(0b111 << 61);
        if self.draw(address, 2, self.large) {
            word |= 1 << (32 + noise % 16);
        }
        word |= match () {
            () if self.draw(address, 3, self.invalid) => noise & 0b10,
            () if self.draw(address, 4, self.blocks) => 0b01,
            () => 0b11,
        };
        // Of stage 2 the memory type, which is mostly one of Normal.
        word |= (0b1100 << 2) | ((noise >> 8) & (0b11 << 2));
        if self.draw(address, 9, self.denied) {
            word &= !(0b1100 << 2);
        }
        // AF, and the permissions of stage 2; of stage 1, half are read-only.
        word |= (1 << 10) | (0b11 << 6) | (noise & (1 << 11));
        if self.draw(address, 5, self.denied) {
            word &= !(1 << 10);
        }
        if self.draw(address, 6, self.denied) {
            word ^= noise & (0b11 << 6);
        }
        if self.draw(address, 7, 128) {
            word &= !(1 << 7);
        }
        if self.draw(address, 8, self.denied) {
            word |= (1 + noise % 3) << 61;
        }
        Some(word)
    }
}

impl GuestMemory for RandomTables {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        for (at, bytes) in (address..).step_by(8).zip(buffer.chunks_exact_mut(8)) {
            let word = self.doubleword(at).ok_or(BusAbort)?;
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BusAbort> {
        panic!("translation does not write");
    }
}

/// A bit that is set in so many of 100 cases.
fn often(percent: u32) -> impl Strategy<Value = bool> {
    (0..100_u32).prop_map(move |percentile| percentile < percent)
}

fn flag(bit: u32, percent: u32) -> impl Strategy<Value = u64> {
    often(percent).prop_map(move |set| u64::from(set) << bit)
}

prop_compose! {
    fn any_tables()(
        seed: u64,
        aborts in select(&[0, 0, 0, 3][..]),
        invalid in select(&[0, 0, 0, 3, 12][..]),
        large in select(&[0, 0, 0, 0, 3, 12][..]),
        blocks in select(&[0, 20, 80, 128][..]),
        denied in select(&[0, 0, 0, 3, 12, 60][..]),
    ) -> RandomTables {
        RandomTables { seed, aborts, invalid, large, blocks, denied, given: BTreeMap::new() }
    }
}

prop_compose! {
    fn any_features()(
        oas in select(&[0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 5, 5][..]),
        ssidsize in select(&[0, 0, 5, 10][..]),
        (cd2l, vax) in (often(80), often(50)),
        rare in prop::array::uniform8(often(97)),
    ) -> Features {
        let [gran4k, gran16k, gran64k, asid16, vmid16, had, stage1, stage2] = rare;
        Features::arm_smmuv3()
            .with_s2p(stage2 || !stage1)
            .with_s1p(stage1)
            .with_oas(oas)
            .with_ssidsize(ssidsize)
            .with_cd2l(cd2l)
            .with_vax(vax.into())
            .with_gran4k(gran4k)
            .with_gran16k(gran16k)
            .with_gran64k(gran64k)
            .with_asid16(asid16)
            .with_vmid16(vmid16)
            .with_had(had)
    }
}

/// An address of a table: mostly low, sometimes too large.
fn any_root() -> impl Strategy<Value = u64> {
    (
        any::<u32>(),
        prop_oneof![19 => Just(0), 1 => (32..56_u32).prop_map(|bit| 1_u64 << bit)],
    )
        .prop_map(|(low, high)| ((u64::from(low) << 4) & 0xffff_ffff) | high)
}

/// Mostly within 16 to 39, or from 12 on for the 64KB granule.
fn any_size() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 16..=32_u64, 20 => 16..=39_u64, 2 => 11..=16_u64, 1 => 0..64_u64]
}

/// Returns `S2TG`, `S2SL0` and `S2T0SZ`, which fit together most of the time.
fn any_shape() -> impl Strategy<Value = u64> {
    let formats = select(&[(0b00_u64, 12_u64), (0b10, 14), (0b01, 16)][..]);
    let levels = select(&[0, 1, 1, 1, 2, 2_u64][..]);
    let legal = (formats, levels, 0..24_u64).prop_map(|((tg, granule), sl0, extra)| {
        let below = if granule == 12 { sl0 + 1 } else { sl0 };
        let smallest = granule + below * (granule - 3) + 1;
        let input = (smallest + extra % (granule + 1)).clamp(25, 44);
        (tg << 46) | (sl0 << 38) | ((64 - input) << 32)
    });
    let any = (0..4_u64, 0..4_u64, any_size())
        .prop_map(|(tg, sl0, size)| (tg << 46) | (sl0 << 38) | (size << 32));
    prop_oneof![30 => legal, 1 => any]
}

prop_compose! {
    fn any_ste()(
        config in prop_oneof![20 => 0b101..=0b111_u64, 10 => Just(0b111), 1 => 0..8_u64],
        valid in flag(0, 99),
        format in 0..4_u64,
        cd_max in select(&[0, 0, 0, 0, 5, 5, 10, 11_u64][..]),
        dss in select(&[0, 1, 2, 2, 2, 2, 3_u64][..]),
        pointer in prop_oneof![19 => Just(CD), 1 => any_root()],
        shape in any_shape(),
        ps in 0..8_u64,
        vmid in select(&[0, 5, 5, 0x1234_u64][..]),
        flags in (
            flag(51, 99), flag(52, 1), flag(53, 30), flag(54, 50), flag(55, 1), flag(56, 1),
            flag(57, 1), flag(58, 70),
        ),
        stalls in flag(27, 1),
        root in any_root(),
    ) -> [u64; 8] {
        let (aa64, endi, affd, ptw, hd, ha, stall, record) = flags;
        let word0 = valid | (config << 1) | (format << 4) | (pointer & !0x3f) | (cd_max << 59);
        let word2 = vmid | shape | (ps << 48) | aa64 | endi | affd | ptw | hd | ha | stall
            | record;
        [word0, dss | stalls, word2, root, 0, 0, 0, 0]
    }
}

/// Seldom the one that is Reserved.
fn any_granule(reserved: u64) -> impl Strategy<Value = u64> {
    prop_oneof![30 => (1..4_u64).prop_map(move |other| (reserved + other) % 4), 1 => Just(reserved)]
}

prop_compose! {
    fn any_cd()(
        sizes in (any_size(), any_size()),
        granules in (any_granule(3), any_granule(0)),
        disabled in (flag(14, 10), flag(30, 40)),
        ips in 0..8_u64,
        flags in (
            flag(31, 99), flag(41, 99), flag(46, 99), flag(15, 2), flag(44, 1), flag(42, 1),
            flag(43, 1), flag(35, 30), flag(45, 70),
        ),
        tbi in 0..4_u64,
        asid in select(&[0, 7, 0x1234_u64][..]),
        roots in (any_root(), any_root()),
        had in (flag(1, 30), flag(1, 30)),
    ) -> [u64; 8] {
        let (v, aa64, a, endi, s, ha, hd, affd, r) = flags;
        let word0 = sizes.0 | (sizes.1 << 16) | (granules.0 << 6) | (granules.1 << 22)
            | disabled.0 | disabled.1 | (ips << 32) | v | aa64 | a | endi | s | ha | hd | affd | r
            | (tbi << 38) | (asid << 48);
        [word0, roots.0 | had.0, roots.1 | had.1, 0, 0, 0, 0, 0]
    }
}

fn any_address() -> impl Strategy<Value = u64> {
    let top = prop_oneof![14 => Just(0_u64), 1 => 0..=0xff_u64];
    let size = prop_oneof![4 => 20..36_u32, 2 => 1..53_u32];
    (any::<u64>(), size, often(25), top).prop_map(|(noise, size, upper, top)| {
        let low = noise >> (64 - size);
        (if upper { !low } else { low }) ^ (top << 56)
    })
}

fn any_wanted() -> impl Strategy<Value = Permissions> {
    any::<(bool, bool)>().prop_map(|(read, write)| Permissions { read, write })
}

#[derive(Clone, Debug)]
struct Case {
    setup: Setup,
    memory: RandomTables,
    accesses: Vec<(u64, Permissions)>,
}

impl Case {
    fn registers(&self) -> Registers {
        let mut registers = Registers::reset(&self.setup.features);
        registers.strtab_base = self.setup.strtab_base;
        registers.strtab_base_cfg = self.setup.strtab_base_cfg;
        registers.cr0 = 1;
        registers
    }
}

prop_compose! {
    fn any_case()(
        features in any_features(),
        mut memory in any_tables(),
        ste in any_ste(),
        cd in any_cd(),
        accesses in prop::collection::vec((any_address(), any_wanted()), 1..12),
        // The Context descriptor is where the entry says, unless stage 2 has
        // it elsewhere: then there is another one in its place.
        everywhere in often(95),
        broken in often(2),
        two_levels in often(10),
        span in select(&[7, 7, 7, 7, 7, 6, 3, 0, 8, 12_u64][..]),
        strtab in select(&[STRTAB, STRTAB, STRTAB | (1 << 55)][..]),
        log2size in prop_oneof![20 => 3..8_u32, 1 => 0..64_u32],
    ) -> Case {
        let mut setup = Setup {
            features,
            strtab_base: strtab,
            strtab_base_cfg: log2size,
        };
        let mut at = STE;
        if two_levels {
            setup.strtab_base_cfg |= (1 << 16) | (6 << 6);
            memory.given.insert(STRTAB, Some(0xa000_0000 | span));
            at = 0xa000_0000 + 64 * u64::from(SID);
        }
        put(&mut memory, at, &ste);
        put(&mut memory, CD, &cd);
        if everywhere {
            let reference = Reference { setup: &setup, memory: &memory };
            if let Some(place) = reference.cd_place(SID) {
                put(&mut memory, place, &cd);
                if broken {
                    memory.given.insert(place + 56, None);
                }
            }
        }
        Case { setup, memory, accesses }
    }
}

fn put(memory: &mut RandomTables, address: u64, words: &[u64; 8]) {
    for (at, word) in (address..).step_by(8).zip(words) {
        memory.given.insert(at, Some(*word));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn translation_equals_reference_walker(case in any_case()) {
        let tables = case.registers().stream_table();
        let features = case.setup.features;
        let reference = Reference { setup: &case.setup, memory: &case.memory };
        let mut memory = case.memory.clone();
        let mut store = Store::default();
        for (address, wanted) in case.accesses {
            let expected = reference.translate(SID, address, wanted);
            let walked =
                translate(&tables, &features, &mut memory, &mut Uncached, SID, address, wanted);
            prop_assert_eq!(walked, expected, "a walk of {:#x}", address);
            // Once as it is, once with the cached entries.
            for _ in 0..2 {
                let cached =
                    translate(&tables, &features, &mut memory, &mut store, SID, address, wanted);
                prop_assert_eq!(cached, expected, "cached {:#x}", address);
            }
            if let Some(hit) = store.hit(SID, address, wanted) {
                prop_assert_eq!(hit, expected, "a hit of {:#x}", address);
            } else {
                prop_assert!(matches!(expected, Outcome::Fault(_)), "no hit of {:#x}", address);
            }
        }
    }

    /// After a change of any descriptor of a walk, the invalidation that the
    /// specification requires suffices.
    #[test]
    fn change_visible_after_invalidation(
        case in any_case(),
        pick: usize,
        change in select(
            &[0b01, 0b10, 0b1100 << 2, 1 << 6, 1 << 7, 1 << 10, 1 << 21, 1 << 30, 1 << 44, 1 << 61]
                [..],
        ),
        within: u64,
    ) {
        let tables = case.registers().stream_table();
        let features = case.setup.features;
        let mut memory = case.memory;
        let mut recorder = Recorder::default();
        for (address, wanted) in &case.accesses {
            translate(&tables, &features, &mut memory, &mut recorder, SID, *address, *wanted);
        }
        let context = recorder.store.configuration(SID).copied();
        let Some(StreamContext::Translate(context)) = context else {
            return Ok(());
        };
        let Some(step) = recorder.steps.get(pick % recorder.steps.len().max(1)) else {
            return Ok(());
        };
        let mut store = recorder.store;
        memory.given.insert(step.address, Some(step.descriptor ^ change));
        let Tag { vmid, asid } = context.tag();
        if step.stage == 2 {
            // It may have led to the Context descriptor.
            store.invalidate_configurations(SID, SID);
            store.invalidate(&TlbiScope::Vmid(vmid));
        } else {
            // Any address of a page or block, all of those below a table.
            let all = Range::page(step.input, step.log2_bytes);
            let one = Range::page(all.first | (within & (all.last - all.first)), 12);
            let is_table = step.level < 3 && step.descriptor & 0b11 == 0b11;
            let range = if is_table { all } else { one };
            let leaf = !is_table;
            store.invalidate(&TlbiScope::Address { vmid, asid, range, leaf });
        }
        for (address, wanted) in case.accesses {
            let walked =
                translate(&tables, &features, &mut memory, &mut Uncached, SID, address, wanted);
            let cached =
                translate(&tables, &features, &mut memory, &mut store, SID, address, wanted);
            prop_assert_eq!(cached, walked, "{:#x} after {:x?}", address, step);
        }
    }

    #[test]
    fn random_memory_translation_is_total(
        words in prop::collection::vec(any::<u64>(), 1..64),
        aborts in select(&[0_u64, 0, 0, 8][..]),
        likely in any::<bool>(),
        idr in any::<[u32; 6]>(),
        known in any::<bool>(),
        strtab in any::<(u64, u32)>(),
        sid: u32,
        address: u64,
        wanted in any_wanted(),
    ) {
        let features = if known {
            Features::arm_smmuv3().with_s2p(true)
        } else {
            Features { idr, iidr: 0, aidr: 1 }
        };
        let mut registers = Registers::reset(&features);
        registers.strtab_base = strtab.0;
        registers.strtab_base_cfg = strtab.1;
        registers.cr0 = 1;
        let sid = if likely { sid % 16 } else { sid };
        if likely {
            registers.strtab_base_cfg = 5;
        }
        let tables = registers.stream_table();
        let mut memory = AnyWords { words, next: 0, aborts };
        let mut store = Store::default();
        for _ in 0..8 {
            let outcome =
                translate(&tables, &features, &mut memory, &mut store, sid, address, wanted);
            if let Outcome::Fault(fault) = outcome {
                let _ = fault.record(sid, address, wanted.read);
                let _ = fault.is_recorded(&registers);
            }
            let _ = store.hit(sid, address, wanted);
        }
        // At most 5 walks of 5 descriptors for each descriptor of stage 1.
        prop_assert!(memory.next < 8 * 64 * 9);
    }
}

/// Caches everything, and records the descriptors that were read for it.
#[derive(Default)]
struct Recorder {
    store: Store,
    steps: Vec<WalkStep>,
}

impl Caches for Recorder {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.store.context(sid)
    }

    fn insert_context(&mut self, sid: StreamId, context: &StreamContext) {
        self.store.insert_context(sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.store.lookup(tag, address)
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        self.store.insert(tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.store.note_split(stage1_log2_bytes);
    }

    fn walked(&mut self, step: &WalkStep) {
        self.steps.push(*step);
    }
}

/// Memory whose reads return the next random word.
struct AnyWords {
    words: Vec<u64>,
    next: usize,
    aborts: u64,
}

impl GuestMemory for AnyWords {
    fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        for bytes in buffer.chunks_exact_mut(8) {
            let word = self.words[self.next % self.words.len()];
            // Most are made valid, or nothing would get far.
            let word = if self.next % 16 < 12 {
                word | 0b11
            } else {
                word
            };
            bytes.copy_from_slice(&word.to_le_bytes());
            self.next += 1;
        }
        if self.next as u64 % 64 < self.aborts {
            return Err(BusAbort);
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BusAbort> {
        panic!("translation does not write");
    }
}

/// The random cases above have every kind of outcome; otherwise they would test
/// little.
#[test]
fn random_cases_reach_every_outcome() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..6000 {
        let tree = any_case().new_tree(&mut runner).expect("a case");
        let case = tree.current();
        let reference = Reference {
            setup: &case.setup,
            memory: &case.memory,
        };
        for (address, wanted) in &case.accesses {
            let name = match reference.translate(SID, *address, *wanted) {
                Outcome::Fault(fault) => {
                    format!("{:?} {:?} {}", fault.event, fault.class, fault.stage2)
                }
                Outcome::Translated { stages, .. } => format!("stages {stages}"),
                other => format!("{other:?}"),
            };
            *counts.entry(name).or_default() += 1;
        }
    }
    for (name, count) in &counts {
        println!("{count:6} {name}");
    }
    for event in [
        "Translation",
        "AddressSize",
        "Access",
        "Permission",
        "WalkAbort",
    ] {
        let classes = match event {
            "Permission" => &["In true", "In false", "Tt true", "Cd true"][..],
            "WalkAbort" => &["In true", "Tt false", "Tt true", "Cd true"],
            _ => &["In true", "In false", "Tt true", "Cd true"],
        };
        for class in classes {
            let name = format!("{event} {class}");
            assert!(counts.contains_key(&name), "{name}: {counts:#?}");
        }
    }
    for (name, least) in [
        ("stages 1", 500),
        ("stages 2", 500),
        ("stages 3", 500),
        ("Bypass", 10),
        ("Abort", 10),
        ("BadStreamId Cd false", 10),
        ("SteFetch Cd false", 1),
        ("BadSte Cd false", 10),
        ("BadSubstreamId Cd false", 10),
        ("StreamDisabled Cd false", 10),
        ("CdFetch Cd false", 1),
        ("BadCd Cd false", 10),
    ] {
        let found = counts.get(name).copied().unwrap_or(0);
        assert!(found >= least, "{name}: {counts:#?}");
    }
}
