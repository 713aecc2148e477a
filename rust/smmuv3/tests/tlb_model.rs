// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The TLB against a list of entries that every command is compared with, one
//! by one: what the list has dropped is not found, and what is found is what
//! the list has.

mod common;

use common::vector_features;
use proptest::{prelude::*, sample::select};
use smmuv3::{
    command::decode,
    translation::{Entry, Invalidation, Permissions, Tag, Tlb},
    Command, Features,
};

const SIZES: [u8; 8] = [12, 14, 16, 21, 25, 29, 30, 42];

/// Around the ends of both tables, and where usual addresses are.
const BASES: [u64; 7] = [
    0,
    0xffe0_0000,
    0x1_0000_0000,
    0x007f_ffff_ffe0_0000,
    0xff80_0000_0000_0000,
    0xffff_ffff_0000_0000,
    0xffff_ffff_ffe0_0000,
];

#[derive(Clone, Copy, Debug)]
struct Known {
    tag: Tag,
    first: u64,
    entry: Entry,
}

impl Known {
    fn last(&self) -> u64 {
        self.first + ((1 << self.entry.log2_bytes) - 1)
    }
}

/// What an SMMU with infinitely many entries would know.
#[derive(Default)]
struct Model(Vec<Known>);

impl Model {
    fn insert(&mut self, new: Known) {
        self.0.retain(|old| {
            (old.tag, old.first, old.entry.log2_bytes) != (new.tag, new.first, new.entry.log2_bytes)
        });
        self.0.push(new);
    }

    fn execute(&mut self, words: [u64; 2]) {
        self.0.retain(|known| !is_hit(words, known));
    }

    /// One for each size at most.
    fn lookup(&self, tag: Tag, address: u64) -> Vec<Entry> {
        let hits =
            |known: &&Known| known.tag == tag && (known.first..=known.last()).contains(&address);
        self.0
            .iter()
            .filter(hits)
            .map(|known| known.entry)
            .collect()
    }
}

fn is_hit([word0, word1]: [u64; 2], known: &Known) -> bool {
    let vmid = (word0 >> 32) & 0xffff == known.tag.vmid.into();
    let asid = known.tag.asid.map(u64::from) == Some(word0 >> 48);
    let stage1 = known.tag.asid.is_some();
    let global = known.entry.global;
    match word0 & 0xff {
        0x10 => vmid && stage1,
        0x11 => vmid && asid && !global,
        0x12 => vmid && stage1 && (asid || global) && is_in_range(word0, word1, known),
        0x13 => vmid && stage1 && is_in_range(word0, word1, known),
        0x28 => vmid,
        0x2a => vmid && !stage1 && is_in_range(word0, word1, known),
        0x30 => true,
        other => panic!("unexpected {other:#x}"),
    }
}

/// Whether a command's range (4.4.1.1) and an entry have an address in common:
/// 56 bits of it, and the table that it is of, decide.
fn is_in_range(word0: u64, word1: u64, known: &Known) -> bool {
    let low = |address: u64| u128::from(address << 8 >> 8);
    let upper = |address: u64| known.tag.asid.is_some() && address & (1 << 55) != 0;
    if upper(word1) != upper(known.first) {
        return false;
    }
    let (granule, bytes) = match (word1 >> 10) & 3 {
        0 => (0x1000, 0x1000),
        tg => {
            let granule = 1_u128 << (10 + 2 * tg);
            let scale = (word0 >> 20) & 0x1f;
            (
                granule,
                (u128::from((word0 >> 12) & 0x1f) + 1) * (1 << scale) * granule,
            )
        }
    };
    let start = low(word1 & !0xfff);
    let end = (start + bytes).next_multiple_of(granule);
    low(known.first) < end && start / granule * granule <= low(known.last())
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Known),
    Execute([u64; 2]),
}

fn features() -> Features {
    vector_features().with_s2p(true)
}

fn any_tag() -> impl Strategy<Value = Tag> {
    (
        select(&[0, 1, 0x8000][..]),
        select(&[None, Some(0), Some(1), Some(0xffff)][..]),
    )
        .prop_map(|(vmid, asid)| Tag { vmid, asid })
}

/// Some pages behind a base, as `tag` can have it.
fn any_address() -> impl Strategy<Value = u64> {
    (select(&BASES[..]), 0..64_u64, select(&[12, 14, 16, 21][..]))
        .prop_map(|(base, page, shift)| base.wrapping_add(page << shift))
        .prop_filter("an address", |address| matches!(address >> 55, 0 | 0x1ff))
}

fn any_permissions() -> impl Strategy<Value = Permissions> {
    any::<(bool, bool)>().prop_map(|(read, write)| Permissions { read, write })
}

prop_compose! {
    fn any_known()(
        tag in any_tag(),
        address in any_address(),
        log2_bytes in select(&SIZES[..]),
        output in 0..1_u64 << 52,
        stage1 in any_permissions(),
        stage2 in any_permissions(),
        global: bool,
    ) -> Known {
        let within = (1 << log2_bytes) - 1;
        let address = if tag.asid.is_none() { address << 8 >> 8 } else { address };
        let entry = Entry {
            output: output & !within,
            log2_bytes,
            stage1,
            stage2,
            // Stage 2 knows no global entries.
            global: global && tag.asid.is_some(),
        };
        Known { tag, first: address & !within, entry }
    }
}

prop_compose! {
    /// A command, with all that a guest can write into it.
    fn any_command()(
        opcode in select(&[0x10_u64, 0x11, 0x12, 0x12, 0x12, 0x13, 0x28, 0x2a, 0x2a, 0x30][..]),
        tag in any_tag(),
        address in any_address(),
        top: bool,
        num in 0..32_u64,
        scale in prop_oneof![0..4_u64, 0..32_u64],
        hint in 0..16_u64,
    ) -> [u64; 2] {
        let asid = tag.asid.map_or(0x1234, u64::from);
        let address = if top { address ^ (0xa5 << 56) } else { address };
        [
            opcode | (num << 12) | (scale << 20) | (u64::from(tag.vmid) << 32) | (asid << 48),
            address | (hint << 8),
        ]
    }
}

fn any_step(knowns: impl Strategy<Value = Known>) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => knowns.prop_map(Step::Insert),
        1 => any_command().prop_map(Step::Execute),
    ]
}

struct Both {
    tlb: Tlb,
    model: Model,
}

impl Both {
    fn new() -> Self {
        Self {
            tlb: Tlb::new(),
            model: Model::default(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Insert(known) => {
                let generation = self.tlb.generation();
                self.tlb
                    .insert(generation, known.tag, known.first, &known.entry);
                self.model.insert(known);
            }
            Step::Execute(words) => match decode(words, &features()) {
                Ok(Command::Forward { words, .. }) => {
                    let what = Invalidation::of(words).expect("all of them are TLBI");
                    self.tlb.invalidate(&what);
                    self.model.execute(words);
                }
                _ => {
                    // The reserved combination of range and hint.
                    assert!(words[1] & 0xc00 != 0 && words[0] & 0x1f1_f000 == 0);
                }
            },
        }
    }

    /// What the TLB has for an address, and what it may have.
    fn lookup(&self, tag: Tag, address: u64) -> (Option<Entry>, Vec<Entry>) {
        (
            self.tlb.lookup(tag, address),
            self.model.lookup(tag, address),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_found_that_was_dropped_or_replaced(
        steps in prop::collection::vec(any_step(any_known()), 1..200),
    ) {
        let mut both = Both::new();
        let inserted = steps.iter().filter_map(|step| match step {
            Step::Insert(known) => Some(*known),
            Step::Execute(_) => None,
        });
        let inserted: Vec<_> = inserted.collect();
        for step in &steps {
            both.take(step);
            if let Step::Execute(_) = step {
                for known in &inserted {
                    for address in [known.first, known.last()] {
                        let (found, may) = both.lookup(known.tag, address);
                        prop_assert!(found.is_none_or(|entry| may.contains(&entry)));
                    }
                }
            }
        }
    }

    /// As many pages as one place takes: none makes room for another, so that
    /// what is not found was invalidated without need.
    #[test]
    fn nothing_is_forgotten_without_need(
        (pages, steps) in prop::collection::vec(any_known(), 4).prop_flat_map(|pages| {
            let steps = prop::collection::vec(any_step(select(pages.clone())), 1..100);
            (Just(pages), steps)
        }),
    ) {
        let mut both = Both::new();
        for step in &steps {
            both.take(step);
            for known in &pages {
                for address in [known.first, known.last()] {
                    let (found, may) = both.lookup(known.tag, address);
                    prop_assert_eq!(found.is_some(), !may.is_empty());
                    prop_assert!(found.is_none_or(|entry| may.contains(&entry)));
                }
            }
        }
    }

    /// What a device remembers of its own is told to be forgotten whenever the
    /// TLB would forget it, and nothing else is.
    #[test]
    fn a_device_is_told_what_the_tlb_forgets(known in any_known(), words in any_command()) {
        let Ok(Command::Forward { words, .. }) = decode(words, &features()) else {
            return Ok(());
        };
        let what = Invalidation::of(words).expect("all of them are TLBI");
        let reach = what.reach(known.tag, known.entry.global);
        let told = reach.is_some_and(|range| {
            range.first <= known.last() && known.first <= range.last
        });
        // Of an ASID, global entries might as well be forgotten.
        let asid_of_global = known.entry.global && words[0] & 0xff == 0x11;
        prop_assert!(told == is_hit(words, &known) || (told && asid_of_global));
    }
}
