// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The TLB against a list whose entries are compared with every command, one by one:
//! entries that the list does not have miss, and every hit equals the list's entry.

use crate::common::tlb_model::{features, is_hit, Both, Known, Step, BASES, SIZES};
use proptest::{prelude::*, sample::select};
use smmuv3::{
    command::decode,
    command::Invalidation,
    translation::{Entry, Permissions, Tag, TlbiScope},
    Command,
};

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
        device: bool,
        global: bool,
    ) -> Known {
        let within = (1 << log2_bytes) - 1;
        let address = if tag.asid.is_none() { address << 8 >> 8 } else { address };
        let entry = Entry {
            output: output & !within,
            log2_bytes,
            stage1,
            stage2,
            device,
            // Stage 2 has no global entries.
            global: global && tag.asid.is_some(),
        };
        Known { tag, first: address & !within, entry }
    }
}

prop_compose! {
    /// A TLBI with any value in each field that a guest can write.
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn tlb_model_no_stale_hit(
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
                    both.is_found(known);
                }
            }
        }
    }

    /// As many pages as one set has room for: none is evicted, so an entry that misses
    /// was invalidated without need.
    #[test]
    fn tlb_model_no_needless_invalidation(
        (pages, steps) in prop::collection::vec(any_known(), 4).prop_flat_map(|pages| {
            let steps = prop::collection::vec(any_step(select(pages.clone())), 1..100);
            (Just(pages), steps)
        }),
    ) {
        let mut both = Both::new();
        for step in &steps {
            both.take(step);
            for known in &pages {
                prop_assert_eq!(both.is_found(known), both.is_known(known));
            }
        }
    }

    /// The range that a device IOTLB is notified of covers a translation exactly if
    /// the TLB invalidates it.
    #[test]
    fn tlb_model_notified_range_covers_invalidated(known in any_known(), words in any_command()) {
        let Ok(Command::Invalidate(Invalidation::Tlbi(tlbi))) = decode(words, &features()) else {
            return Ok(());
        };
        let own = Invalidation::Tlbi(tlbi).to_words();
        let reach = TlbiScope::of(&tlbi).reach(known.tag, known.entry.global);
        let notified = reach.is_some_and(|range| {
            range.first <= known.last() && known.first <= range.last
        });
        // Of an ASID, global entries may be invalidated too.
        let asid_of_global = known.entry.global && own[0] & 0xff == 0x11;
        prop_assert!(notified == is_hit(own, &known) || (notified && asid_of_global));
    }
}
