// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translations that a vhost-user backend requests follow registers and tables.

use smmuv3_qtest::{
    command::CFGI_ALL,
    smmu::{reg, SMMUEN},
    tables::Allow,
    translated::Stages,
};

use crate::{
    backend::Access,
    bench::{Bench, Served, DATA, IOVA, RING, RING_AT},
};

const ALL: [Stages; 3] = [Stages::One, Stages::Two, Stages::Both];

#[test]
fn vhost_page_translates_with_every_stage() {
    for stages in ALL {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        bench.translates(RING, RING_AT);
        bench.translates(IOVA, DATA);
        bench.translates(IOVA + 0x123, DATA + 0x123);
        let page = bench.backend.translate(IOVA, Access::Read);
        assert_eq!(page.map(|page| (page.iova, page.size)), Some((IOVA, 4096)));
    }
}

#[test]
fn vhost_block_translates_with_every_stage() {
    for stages in ALL {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        let block = 0x4060_0000;
        bench.input().map_block(block, DATA, Allow::ReadWrite);
        bench.translates(block, DATA);
        bench.translates(block + 0x1f_f123, DATA + 0x1f_f123);
    }
}

#[test]
fn vhost_unmapped_address_is_refused() {
    for stages in ALL {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        for access in [Access::Read, Access::Write] {
            bench.refuses(IOVA + 0x1000, access);
            bench.refuses(IOVA + (1 << 30), access);
            // beyond 39 bits
            bench.refuses(IOVA + (1 << 40), access);
        }
        bench.translates(IOVA, DATA);
    }
}

#[test]
fn vhost_write_to_read_only_page_is_refused() {
    for stages in ALL {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        let page = IOVA + 0x1000;
        bench.input().map(page, DATA, Allow::ReadOnly);
        bench.refuses(page, Access::Write);
        assert!(bench.backend.translate(page, Access::Read).is_some());
        bench.refuses(page, Access::Write);
    }
}

#[test]
fn vhost_access_needs_both_stage_permissions() {
    let served = Served::new(Stages::Both);
    let bench = Bench::new(&served);
    // a block of stage 2 alone
    let ipa = 0x7_0000_0000;
    let both = [Allow::ReadWrite, Allow::ReadOnly];
    let mut page = 0;
    for first in both {
        for second in both {
            let (iova, middle) = (IOVA + 0x1_0000 + page, ipa + page);
            page += 4096;
            bench.stage1.map(iova, middle, first);
            bench.stage2.map(middle, DATA, second);
            assert!(bench.backend.translate(iova, Access::Read).is_some());
            let write = bench.backend.translate(iova, Access::Write);
            let allowed = first == Allow::ReadWrite && second == Allow::ReadWrite;
            assert_eq!(write.is_some(), allowed, "{first:?}, {second:?}");
        }
    }
}

#[test]
fn vhost_bypass_returns_identity() {
    for stages in ALL {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        bench.write_entry([1 | (0b100 << 1), 0, 0, 0]);
        bench.submit(&[CFGI_ALL]);
        bench.translates(DATA, DATA);
        bench.smmu.disable(SMMUEN);
        bench.translates(DATA + 0x1000, DATA + 0x1000);
    }
}

#[test]
fn vhost_abort_is_refused() {
    for stages in ALL {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        for word0 in [0, 1, 1 | (0b001 << 1)] {
            bench.write_entry([word0, 0, 0, 0]);
            bench.submit(&[CFGI_ALL]);
            bench.refuses(DATA, Access::Read);
        }
        bench.smmu.disable(SMMUEN);
        bench.smmu.write(reg::GBPA, (1 << 31) | (1 << 20));
        bench.refuses(DATA, Access::Read);
        bench.smmu.write(reg::GBPA, 1 << 31);
        bench.translates(DATA, DATA);
    }
}
