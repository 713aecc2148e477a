// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The TLB: its hits, and the entries that each command invalidates or keeps.

use crate::common::vector_features;
use smmuv3::{
    command::decode,
    command::Invalidation,
    translation::{Entry, Permissions, Tag, Tlb, TlbiScope},
    Command, Features,
};

const VMID: u16 = 3;
const ASID: u16 = 5;

const fn stage1(vmid: u16, asid: u16) -> Tag {
    Tag {
        vmid,
        asid: Some(asid),
    }
}

const fn stage2(vmid: u16) -> Tag {
    Tag { vmid, asid: None }
}

fn entry(output: u64, log2_bytes: u8) -> Entry {
    Entry {
        output,
        log2_bytes,
        stage1: Permissions::ALL,
        stage2: Permissions::ALL,
        device: false,
        global: false,
    }
}

fn global(output: u64, log2_bytes: u8) -> Entry {
    Entry {
        global: true,
        ..entry(output, log2_bytes)
    }
}

fn insert(tlb: &mut Tlb, tag: Tag, address: u64, entry: &Entry) {
    tlb.insert(tag, address, entry);
}

/// Tags that differ from each other: each stage, and a neighbour of each.
const TAGS: [Tag; 5] = [
    stage1(VMID, ASID),
    stage1(VMID, ASID + 1),
    stage1(VMID + 1, ASID),
    stage2(VMID),
    stage2(VMID + 1),
];

/// A TLB with a page at the same address for each tag.
fn full_of(address: u64, log2_bytes: u8, global: bool) -> Tlb {
    let mut tlb = Tlb::new();
    for tag in TAGS {
        let entry = Entry {
            global,
            ..entry(0x8000_0000, log2_bytes)
        };
        insert(&mut tlb, tag, address, &entry);
    }
    tlb
}

/// Returns for which of [`TAGS`] the address still hits.
fn known(tlb: &Tlb, address: u64) -> [bool; 5] {
    TAGS.map(|tag| tlb.lookup(tag, address).is_some())
}

fn features() -> Features {
    vector_features().with_s2p(true)
}

/// Executes a command as the Command queue does.
fn execute(tlb: &mut Tlb, words: [u64; 2], features: &Features) {
    match decode(words, features) {
        Ok(Command::Invalidate(Invalidation::Tlbi(tlbi))) => {
            tlb.invalidate(&TlbiScope::of(&tlbi));
        }
        other => panic!("{words:x?} is not forwarded: {other:?}"),
    }
}

const fn owner(opcode: u64) -> u64 {
    opcode | ((VMID as u64) << 32) | ((ASID as u64) << 48)
}

#[test]
fn empty_tlb_misses_and_accepts_every_tlbi() {
    let mut tlb = Tlb::default();
    for opcode in [0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30] {
        execute(&mut tlb, [owner(opcode), 0], &features());
    }
    assert_eq!(known(&tlb, 0), [false; 5]);
}

#[test]
fn tlb_hits_exactly_its_page() {
    for log2_bytes in 12..=55 {
        let tag = stage1(VMID, ASID);
        let size = 1_u64 << log2_bytes;
        let mut tlb = Tlb::new();
        let found = entry(0x00ab_cdef_1234_5678 & !(size - 1), log2_bytes);
        insert(&mut tlb, tag, size / 2, &found);
        for address in [0, 1, size / 2, size - 1] {
            assert_eq!(tlb.lookup(tag, address), Some(found));
        }
        assert_eq!(tlb.lookup(tag, size), None);
        assert_eq!(tlb.lookup(tag, u64::MAX), None);
        // Of another table, and no address of this one.
        assert_eq!(tlb.lookup(tag, 0xff00_0000_0000_0000), None);
        assert_eq!(tlb.lookup(tag, 0x0100_0000_0000_0000), None);
    }
}

#[test]
fn tlb_keeps_every_entry_field() {
    for bits in 0..64_u32 {
        let bit = |n: u32| bits & (1 << n) != 0;
        let kept = Entry {
            output: 0x000f_ffff_ffff_f000,
            log2_bytes: 12,
            stage1: Permissions {
                read: bit(0),
                write: bit(1),
            },
            stage2: Permissions {
                read: bit(2),
                write: bit(3),
            },
            device: bit(4),
            global: bit(5),
        };
        let mut tlb = Tlb::new();
        insert(&mut tlb, stage1(VMID, ASID), 0x1000, &kept);
        assert_eq!(tlb.lookup(stage1(VMID, ASID), 0x1000), Some(kept));
    }
}

#[test]
fn tlb_distinguishes_vmid_asid_and_stage() {
    let mut tlb = Tlb::new();
    for (page, tag) in (1..).zip(TAGS) {
        insert(&mut tlb, tag, 0x7000, &entry(page << 12, 12));
    }
    for (page, tag) in (1..).zip(TAGS) {
        assert_eq!(tlb.lookup(tag, 0x7fff), Some(entry(page << 12, 12)));
    }
    // ASID 0 is an ASID.
    assert_eq!(tlb.lookup(stage1(VMID, 0), 0x7000), None);
}

#[test]
fn tlb_newest_insert_wins() {
    let mut tlb = Tlb::new();
    let tag = stage1(VMID, ASID);
    for newest in [entry(0x1000, 12), global(0x2000, 12), entry(0x3000, 12)] {
        insert(&mut tlb, tag, 0x7000, &newest);
        assert_eq!(tlb.lookup(tag, 0x7000), Some(newest));
    }
    tlb.invalidate(&TlbiScope::Asid {
        vmid: VMID,
        asid: ASID,
    });
    assert_eq!(tlb.lookup(tag, 0x7000), None);
}

#[test]
fn tlb_holds_4096_neighbours_of_every_size() {
    let tag = stage1(VMID, ASID);
    for log2_bytes in [12, 14, 16, 21, 25, 29, 30] {
        for first in [0, 0x0000_7c00_0000_0000, 0xffff_fc00_0000_0000_u64] {
            let mut tlb = Tlb::new();
            let pages = || (0..4096).map(|page: u64| first + (page << log2_bytes));
            for address in pages() {
                insert(&mut tlb, tag, address, &entry(0, log2_bytes));
            }
            assert!(pages().all(|address| tlb.lookup(tag, address).is_some()));
        }
    }
}

#[test]
fn tlb_invalidated_entry_is_reused_first() {
    let tag = stage1(VMID, ASID);
    let mut tlb = Tlb::new();
    for page in 0..4096 {
        insert(&mut tlb, tag, page << 12, &entry(0, 12));
    }
    for page in 1024..1088 {
        execute(&mut tlb, [owner(0x12), page << 12], &features());
        insert(&mut tlb, tag, page << 12, &entry(0, 12));
    }
    assert!((0..4096).all(|page| tlb.lookup(tag, page << 12).is_some()));
}

#[test]
fn tlb_keeps_global_beside_asid_entry() {
    let mut tlb = Tlb::new();
    insert(&mut tlb, TAGS[0], 0x7000, &global(0x1000, 12));
    insert(&mut tlb, TAGS[1], 0x7000, &entry(0x2000, 12));
    assert_eq!(tlb.lookup(TAGS[0], 0x7000), Some(global(0x1000, 12)));
    assert_eq!(tlb.lookup(TAGS[1], 0x7000), Some(entry(0x2000, 12)));
}

#[test]
fn tlb_rejects_invalid_page_or_address() {
    let mut tlb = Tlb::new();
    for size in (0..12).chain(56..=255) {
        insert(&mut tlb, stage1(VMID, ASID), 0, &entry(0, size));
        insert(&mut tlb, stage2(VMID), 0, &entry(0, size));
    }
    for address in [1 << 55, 1 << 56, 1 << 63, 0xff7f_ffff_ffff_f000] {
        insert(&mut tlb, stage1(VMID, ASID), address, &entry(0, 12));
        assert_eq!(known(&tlb, address), [false; 5]);
    }
    for address in [1 << 56, 1 << 63, 0xffff_ffff_ffff_f000] {
        insert(&mut tlb, stage2(VMID), address, &entry(0, 12));
        assert_eq!(known(&tlb, address), [false; 5]);
    }
    assert_eq!(known(&tlb, 0), [false; 5]);
}

#[test]
fn tlbi_invalidates_exactly_its_scope() {
    let by_address = 0x1000;
    for (opcode, global, left) in [
        (0x10, false, [false, false, true, true, true]),
        (0x10, true, [false, false, true, true, true]),
        (0x11, false, [false, true, true, true, true]),
        (0x11, true, [true, true, true, true, true]),
        (0x12, false, [false, true, true, true, true]),
        (0x12, true, [false, false, true, true, true]),
        (0x13, false, [false, false, true, true, true]),
        (0x13, true, [false, false, true, true, true]),
        (0x28, false, [false, false, true, false, true]),
        (0x28, true, [false, false, true, false, true]),
        (0x2a, false, [true, true, true, false, true]),
        (0x2a, true, [true, true, true, false, true]),
        (0x30, false, [false; 5]),
        (0x30, true, [false; 5]),
    ] {
        let mut tlb = full_of(by_address, 12, global);
        execute(&mut tlb, [owner(opcode), by_address], &features());
        assert_eq!(known(&tlb, by_address), left, "{opcode:#x} {global}");
        // One that goes over the whole array, a range of 2^43 bytes.
        if matches!(opcode, 0x12 | 0x13 | 0x2a) {
            let mut all = full_of(by_address, 12, global);
            let range = [owner(opcode) | (31 << 20), 1 << 10];
            execute(&mut all, range, &features());
            assert_eq!(known(&all, by_address), left, "{opcode:#x} {global}");
        }
    }
}

#[test]
fn tlbi_va_invalidates_every_page_size() {
    for log2_bytes in 12..=55 {
        let size = 1_u64 << log2_bytes;
        let negative = !(2 * size - 1) & !(1 << 55);
        for (opcode, tag, base) in [
            (0x12, 0, 0),
            (0x13, 0, 0),
            (0x2a, 3, 0),
            (0x12, 0, negative | (1 << 55)),
        ] {
            for within in [0, 0x1000 % size, size - 0x1000] {
                let mut tlb = full_of(base, log2_bytes, false);
                let address = base.wrapping_add(within);
                if !known(&tlb, base)[tag] {
                    // There is no such page.
                    assert_eq!(log2_bytes, 55);
                    continue;
                }
                execute(&mut tlb, [owner(opcode), address & !0xfff], &features());
                assert!(!known(&tlb, base)[tag], "{opcode:#x} 2^{log2_bytes}");
            }
            let mut tlb = full_of(base, log2_bytes, false);
            let before = known(&tlb, base);
            let next = base.wrapping_add(size) & !0xfff;
            if next & (1 << 55) == base & (1 << 55) {
                execute(&mut tlb, [owner(opcode), next], &features());
                assert_eq!(known(&tlb, base), before, "{opcode:#x} 2^{log2_bytes}");
            }
        }
    }
}

/// The top byte of a command's address does not count (§4.4.2).
#[test]
fn tlbi_va_ignores_top_byte() {
    for address in [0x1000, 0xffff_ffff_ffff_f000_u64] {
        for top in [0, 0x5a, 0xff] {
            let mut tlb = full_of(address, 12, false);
            let command = (address & (u64::MAX >> 8)) | (top << 56);
            execute(&mut tlb, [owner(0x12), command], &features());
            assert!(!known(&tlb, address)[0]);
        }
    }
}

/// `CMD_TLBI_NH_VA` with the range that `num`, `scale` and `granule` say.
fn ranged(address: u64, num: u64, scale: u64, granule: u64) -> [u64; 2] {
    [
        owner(0x12) | (num << 12) | (scale << 20),
        address | (granule << 10),
    ]
}

#[test]
fn tlbi_range_invalidates_first_to_last_page() {
    for (granule, log2_bytes) in [(1, 12), (2, 14), (3, 16)] {
        // 8 and 6144 pages: by place, and in one pass.
        for (num, scale, pages) in [(3, 1, 8), (2, 11, 6144)] {
            let first = 0x40_0000_0000_u64;
            let page = |number: u64| first.wrapping_add(number << log2_bytes);
            let mut tlb = Tlb::new();
            let tag = stage1(VMID, ASID);
            let numbers = [u64::MAX, 0, 1, pages - 1, pages];
            for number in numbers {
                insert(&mut tlb, tag, page(number), &entry(0, log2_bytes));
            }
            // A level hint, which is not needed.
            let command = ranged(first, num, scale, granule);
            execute(&mut tlb, [command[0], command[1] | 0x300], &features());
            let left = numbers.map(|number| tlb.lookup(tag, page(number)).is_some());
            assert_eq!(left, [true, false, false, false, true]);
        }
    }
}

#[test]
fn tlbi_va_within_granule_invalidates_granule() {
    let tag = stage1(VMID, ASID);
    let mut tlb = Tlb::new();
    for number in 0..4 {
        insert(&mut tlb, tag, number << 16, &entry(0, 16));
    }
    execute(&mut tlb, ranged(0x1_1000, 0, 1, 3), &features());
    let left = [0, 1, 2, 3].map(|number: u64| tlb.lookup(tag, number << 16).is_some());
    // Two granules from within the first: a part of three.
    assert_eq!(left, [true, false, false, false]);
}

#[test]
fn tlbi_range_does_not_wrap_or_change_half() {
    let features = features().with_ds(true);
    let tag = stage1(VMID, ASID);
    let corners = [
        0,
        0x007f_ffff_ffff_0000,
        0xff80_0000_0000_0000,
        0xffff_ffff_ffff_0000_u64,
    ];
    for granule in 1..=3 {
        for (num, scale) in [(0, 1), (31, 0), (31, 31), (0, 63), (31, 39), (31, 63)] {
            for at in corners {
                let mut tlb = Tlb::new();
                for address in corners {
                    insert(&mut tlb, tag, address, &entry(0, 16));
                }
                execute(&mut tlb, ranged(at, num, scale, granule), &features);
                for address in corners {
                    let bytes = (u128::from(num) + 1) << (scale.min(39) + 10 + 2 * granule);
                    let same_table = (address ^ at) >> 63 == 0;
                    let hit = same_table && at <= address && u128::from(address - at) < bytes;
                    assert_eq!(
                        tlb.lookup(tag, address).is_none(),
                        hit,
                        "{at:#x} {address:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn tlbi_ipa_range_ends_with_address_space() {
    let tag = stage2(VMID);
    let top = 0x00ff_ffff_ffff_f000;
    let mut tlb = Tlb::new();
    insert(&mut tlb, tag, top, &entry(0, 12));
    insert(&mut tlb, tag, 0, &entry(0, 12));
    let command = ranged(top, 31, 31, 3);
    execute(
        &mut tlb,
        [command[0] & !0xff | 0x2a, command[1]],
        &features(),
    );
    assert_eq!(tlb.lookup(tag, top), None);
    assert!(tlb.lookup(tag, 0).is_some());
}
