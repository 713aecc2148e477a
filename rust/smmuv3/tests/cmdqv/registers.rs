// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Each bit of each register: reset value, writable, reserved.

use std::collections::BTreeMap;

use smmuv3::cmdqv::{Cmdqv, Effects, NoPage, PAGE_OFFSET, PAGE_SIZE, SIZE};

use super::guest::*;

/// A word: its value out of reset, and the bits that a write stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    reset: u32,
    writable: u32,
}

/// Every word that is not 0 and read-only, without those of LVCMDQs, which are aliases.
fn table() -> BTreeMap<u64, Word> {
    let word = |reset, writable| Word { reset, writable };
    let mut table = BTreeMap::from([
        (0x0000, word(0x0002_0083, 0x001f_ffff)), // CONFIG
        (0x0004, word(0x0000_4011, 0)),           // PARAM
        (0x0008, word(0x0000_0001, 0)),           // STATUS
        (0x001c, word(0, 0x0000_0001)),           // VI_INT_MASK
        (0x0200, word(0, 0x001f_80ff)),           // CMDQ_ALLOC_MAP 0
        (0x0204, word(0, 0x001f_80ff)),           // CMDQ_ALLOC_MAP 1
        (0x1000, word(0, 0x0001_ffff)),           // CONFIG of VINTF 0
    ]);
    for index in 0..16 {
        table.insert(0x1040 + 4 * index, word(0, 0x001f_ffff)); // SID_MATCH
        table.insert(0x1080 + 4 * index, word(0, 0x000f_ffff)); // SID_REPLACE
    }
    for queue in [0x00, 0x80] {
        table.insert(0x1_0000 + queue, word(0, 0x000f_ffff)); // CONS_INDX
        table.insert(0x1_0004 + queue, word(0, 0x000f_ffff)); // PROD_INDX
        table.insert(0x1_0008 + queue, word(0, 0x0000_0001)); // CONFIG
        table.insert(0x1_0014 + queue, word(0, 0x0000_0007)); // GERRORN
        table.insert(0x2_0000 + queue, word(0, 0xffff_ffff)); // BASE
        table.insert(0x2_0004 + queue, word(0, 0x0000_ffff));
        table.insert(0x2_0008 + queue, word(0, 0xffff_ffe0)); // CONS_INDX_BASE_DRAM
        table.insert(0x2_000c + queue, word(0, 0x0000_ffff));
    }
    table
}

fn expected(table: &BTreeMap<u64, Word>, offset: u64) -> Word {
    let nothing = Word {
        reset: 0,
        writable: 0,
    };
    table.get(&offset).copied().unwrap_or(nothing)
}

/// Every word of the register space, out of reset.
#[test]
fn cmdqv_reset_values_of_all_words() {
    let (mut guest, table) = (Guest::out_of_reset(), table());
    for offset in (0..SIZE + 0x1_0000).step_by(4) {
        let value = guest.read(offset);
        assert_eq!(value, expected(&table, offset).reset.into(), "{offset:#x}");
    }
    assert_eq!(guest.read(u64::MAX - 3), 0);
    assert_eq!((PAGE_OFFSET, PAGE_SIZE), (LOGICAL0, LOGICAL1 - LOGICAL0));
}

/// Every bit of every word that can be written, alone and together with the others.
#[test]
fn cmdqv_each_bit_is_stored_or_reserved() {
    let features = features();
    let values = (0..32).map(|bit| 1_u32 << bit).chain([0, u32::MAX]);
    let table = table();
    for (offset, word) in &table {
        for value in values.clone() {
            for before in [0, u32::MAX] {
                let mut cmdqv = Cmdqv::new();
                for written in [before, value] {
                    cmdqv.write(&features, &mut NoPage, *offset, written.into(), 4);
                }
                let read = cmdqv.read(&features, &mut NoPage, *offset, 4);
                let fixed = word.reset & !word.writable;
                let stored = fixed | (value & word.writable);
                assert_eq!(read, stored.into(), "{offset:#x} {value:#x}");
            }
        }
    }
}

/// A word without writable bits ignores writes, and has no effect on another word.
#[test]
fn cmdqv_other_words_ignore_writes() {
    let (features, table) = (features(), table());
    let mut cmdqv = Cmdqv::new();
    for offset in (0..SIZE + 0x1_0000).step_by(4) {
        if expected(&table, offset).writable == 0 {
            let effects = cmdqv.write(&features, &mut NoPage, offset, u64::MAX, 4);
            assert_eq!(effects, Effects::default(), "{offset:#x}");
            assert_eq!(cmdqv, Cmdqv::new(), "{offset:#x}");
        }
    }
}

/// Each write changes its own word only, but for words that are computed from it.
#[test]
fn cmdqv_writes_change_their_word_only() {
    let (features, table) = (features(), table());
    let words: Vec<u64> = (0..0x34)
        .chain(0x200..0x208)
        .chain(0x1000..0x10d0)
        .chain(0x1_0000..0x1_0100)
        .chain(0x2_0000..0x2_0100)
        .step_by(4)
        .collect();
    for offset in table.keys() {
        let mut cmdqv = Cmdqv::new();
        cmdqv.write(&features, &mut NoPage, *offset, u64::MAX, 4);
        for other in words.iter().filter(|other| *other != offset) {
            let value = cmdqv.read(&features, &mut NoPage, *other, 4);
            let reset = u64::from(expected(&table, *other).reset);
            let is_error_map = matches!(*other, VI_ERR_MAP | CMDQ_ERR_MAP | LVCMDQ_ERR_MAP);
            let is_computed = match offset & 0xf_f07f {
                // VINTF_STATUS.ENABLE_OK
                0x1000 => *other == VINTF_STATUS,
                // GERRORN differs from GERROR
                0x1_0014 => is_error_map,
                _ => false,
            };
            assert!(value == reset || is_computed, "{offset:#x} {other:#x}");
        }
    }
}

/// The words of an LVCMDQ are those of the VCMDQ that it is, for each such pair.
#[test]
fn lvcmdq_pages_alias_vcmdq_pages() {
    for (vcmdq, lvcmdq) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut guest = Guest::out_of_reset();
        guest.write(ALLOC_MAP + 4 * vcmdq, allocated(lvcmdq as usize));
        for (direct, logical) in [(DIRECT0, LOGICAL0), (DIRECT1, LOGICAL1)] {
            for register in (0..0x80).step_by(4) {
                let direct = direct + 0x80 * vcmdq + register;
                let logical = logical + 0x80 * lvcmdq + register;
                let writable = expected(&table(), direct).writable;
                guest.write(logical, u64::MAX);
                assert_eq!(guest.read(direct), writable.into(), "{logical:#x}");
                guest.write(direct, 0);
                assert_eq!(guest.read(logical), 0, "{logical:#x}");
            }
        }
    }
}

/// An LVCMDQ without a VCMDQ reads as 0 and ignores writes.
#[test]
fn lvcmdq_without_vcmdq_reads_zero_ignores_writes() {
    // ALLOC is clear, the VINTF does not exist, the LVCMDQ is another one, or does not exist.
    for entry in [0x0, (1 << 15) | 1, 0x3, 0x5, 0xff] {
        let mut guest = Guest::out_of_reset();
        guest.write(ALLOC_MAP, entry);
        guest.write(DIRECT0 + PROD, 5);
        guest.write64(DIRECT1 + BASE, MEMORY[0] | 4);
        let before = guest.cmdqv.clone();
        for offset in (0..0x80).step_by(4) {
            for page in [LOGICAL0, LOGICAL1] {
                assert_eq!(guest.read(page + offset), 0, "{entry:#x}");
                guest.write(page + offset, 0xffff_ffff);
            }
        }
        assert_eq!(guest.cmdqv, before, "{entry:#x}");
    }
}

/// Of two VCMDQs that are the same LVCMDQ the first counts.
#[test]
fn vcmdqs_of_one_lvcmdq_first_counts() {
    let mut guest = Guest::out_of_reset();
    guest.write(ALLOC_MAP, allocated(1));
    guest.write(ALLOC_MAP + 4, allocated(1));
    guest.write(DIRECT0 + PROD, 5);
    guest.write(DIRECT0 + 0x80 + PROD, 6);
    assert_eq!(guest.page0(1, PROD), 5);
    guest.write(ALLOC_MAP, 0);
    assert_eq!(guest.page0(1, PROD), 6);
}

/// `HYP_OWN` reads as 0, so that Linux's driver restricts itself.
#[test]
fn hyp_own_reads_zero() {
    let mut guest = Guest::out_of_reset();
    guest.write(VINTF_CONFIG, 0x0002_0000);
    assert_eq!(guest.read(VINTF_CONFIG), 0);
    guest.write(VINTF_CONFIG, 0x0002_0001);
    assert_eq!(guest.read(VINTF_CONFIG), 1);
}

/// 64-bit accesses are two words, the lower first.
#[test]
fn cmdqv_access64_is_two_words() {
    let mut guest = Guest::out_of_reset();
    guest.serves = false;
    for offset in (0..0x10d0).chain(0x1_0000..0x1_0100).step_by(8) {
        guest.write64(offset, 0x0001_8001_0000_8001);
        let words = guest.read(offset) | (guest.read(offset + 4) << 32);
        assert_eq!(guest.read_sized(offset, 8), words, "{offset:#x}");
    }
    assert_eq!(guest.read_sized(SID_MATCH, 8), 0x0001_8001_0000_8001);
    assert_eq!(guest.read_sized(SID_REPLACE, 8), 0x0001_8001_0000_8001);
    guest.write64(DIRECT1 + BASE, 0xffff_ffff_ffff_ffff);
    assert_eq!(guest.read_sized(DIRECT1 + BASE, 8), 0x0000_ffff_ffff_ffff);
    assert_eq!(guest.read(PARAM), 0x4011);
    // CONS is written first, while the queue is disabled.
    guest.write(DIRECT0 + CMDQ_CONFIG, 0);
    guest.write64(DIRECT0 + CONS, 0x0000_0007_0000_0003);
    assert_eq!((guest.read(DIRECT0), guest.read(DIRECT0 + PROD)), (3, 7));
}

#[test]
fn cmdqv_unsupported_access_is_ignored() {
    let mut guest = Guest::booted();
    let before = guest.cmdqv.clone();
    let sizes = [(0, 1), (0, 2), (2, 4), (4, 8), (0, 0), (0, 16), (1, 8)];
    for base in [CONFIG, ALLOC_MAP, LOGICAL0, LOGICAL1, DIRECT1] {
        for (at, size) in sizes {
            assert_eq!(guest.read_sized(base + at, size), 0);
            let effects = guest.write_sized(base + at, u64::MAX, size);
            assert!(effects.guest_error.is_some());
            assert_eq!(guest.cmdqv, before, "{base:#x} {size}");
        }
    }
}

/// Each enable and its acknowledgement, with the enables above it.
#[test]
fn cmdqv_enables_are_acknowledged_in_order() {
    let acknowledged = |guest: &mut Guest| {
        [STATUS, VINTF_STATUS, LOGICAL0 + CMDQ_STATUS].map(|status| guest.read(status) & 1)
    };
    let mut guest = Guest::refused(&[0, 1]);
    assert_eq!(acknowledged(&mut guest), [1, 1, 1]);
    guest.write_page0(0, CMDQ_CONFIG, 0);
    assert_eq!(acknowledged(&mut guest), [1, 1, 0]);
    guest.write_page0(0, CMDQ_CONFIG, 1);
    guest.write(VINTF_CONFIG, 0);
    assert_eq!(acknowledged(&mut guest), [1, 0, 0]);
    guest.write(VINTF_CONFIG, 1);
    assert_eq!(acknowledged(&mut guest), [1, 1, 1]);
    guest.write(CONFIG, 0);
    assert_eq!(acknowledged(&mut guest), [0, 0, 0]);
    guest.write(CONFIG, 1);
    assert_eq!(acknowledged(&mut guest), [1, 1, 1]);
    // without a VCMDQ, by its global number
    guest.write(ALLOC_MAP, 0);
    assert_eq!(guest.read(DIRECT0 + CMDQ_STATUS), 0);
    assert_eq!(guest.read(DIRECT0 + CMDQ_CONFIG), 1);
    assert_eq!(guest.read(VINTF_STATUS) >> 16, 1, "one LVCMDQ");
}

/// An enabled queue owns `CONS_INDX`; a disabled one takes the index, and keeps `ERR`.
#[test]
fn vcmdq_cons_is_read_only_while_enabled() {
    let mut guest = Guest::refused(&[0, 1]);
    let effects = guest.write_page0(0, CONS, 5);
    assert!(effects.guest_error.is_some());
    assert_eq!(guest.page0(0, CONS), 0);
    guest.submit(0, &[[0x30, 0]]);
    guest.acknowledge(0);
    guest.write_page0(0, CMDQ_CONFIG, 0);
    assert_eq!(guest.write_page0(0, CONS, 0x7f00_0005).guest_error, None);
    assert_eq!(guest.page0(0, CONS), 0x0100_0005);
}

#[test]
fn queue_offset_names_place_of_access() {
    let guest = Guest::booted();
    let place = |offset: u64| {
        let at = guest.cmdqv.queue_offset(offset)?;
        Some((
            at.index,
            at.is_direct,
            at.is_page0,
            at.is_hardware,
            at.offset,
        ))
    };
    assert_eq!(place(ALLOC_MAP), None);
    assert_eq!(place(0x5_0000), None);
    assert_eq!(place(DIRECT0 + PROD), Some((0, true, true, true, PROD)));
    assert_eq!(place(LOGICAL0 + 0x80), Some((1, false, true, true, 0)));
    assert_eq!(place(DIRECT1 + 0x88), Some((1, true, false, true, 8)));
    assert_eq!(place(LOGICAL1 + 0x104), Some((2, false, false, false, 4)));
    let refused = Guest::refused(&[0, 1]);
    let at = refused.cmdqv.queue_offset(DIRECT0).map(|at| at.is_hardware);
    assert_eq!(at, Some(false));
}
