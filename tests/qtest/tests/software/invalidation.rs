// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! After an invalidation the tables are read again. Caching itself is not
//! required.

use smmuv3_qtest::{
    command::{self, Command},
    qemu, Access,
};

use crate::{
    bench::{
        install_stage2, machine, machine_with, Bench, Nested, Stage1, CONTEXT, DATA, IOVA, IPA,
        IPA_OFFSET, SID,
    },
    entries::{
        cd::{self, NUMBER},
        ste::{self, VMID},
    },
    record::{Class, Kind},
    tables::{
        bits::{GLOBAL, READ_ONLY, STAGE_1, TABLE_READ_ONLY},
        Granule, Tables,
    },
};

/// Remaps `iova` three times, each time followed by these commands, and checks
/// the translation.
#[track_caller]
fn remaps(bench: &Bench<'_>, iova: u64, map: impl Fn(u64), commands: &[Command]) {
    for page in [1, 2, 3] {
        let data = DATA + 0x1_0000 * page;
        map(data);
        bench.commands(commands);
        bench.passes(iova, data + iova % 0x1000);
    }
}

/// Returns the commands that invalidate a page of stage 1.
fn stage1_commands(vmid: u16, address: u64) -> [Command; 6] {
    [
        command::tlbi_nh_va(NUMBER, address),
        command::tlbi_nh_vaa(address),
        command::tlbi_nh_asid(NUMBER),
        command::tlbi_nh_all(0),
        command::TLBI_NSNH_ALL,
        // not only the last level
        [command::tlbi_nh_va(NUMBER, address)[0], address & !0xfff],
    ]
    .map(|command| match command[0] & 0xff {
        0x30 => command,
        _ => command::with_vmid(command, vmid),
    })
}

#[test]
fn stage1_tlbi_invalidates_stage1_entries() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let stage1 = Stage1::new(&bench, granule, 42);
        for command in stage1_commands(0, IOVA) {
            bench.passes(IOVA, DATA);
            let map = |data| stage1.tables.map(IOVA, data);
            remaps(&bench, IOVA + 0x104, map, &[command]);
            map(DATA);
            bench.commands(&[command]);
        }
    }
}

/// Without `IDR0.Hyp` they invalidate everything; with accel=on they are ILLEGAL.
#[test]
fn el2_tlbi_without_hyp_invalidates_stage1_entries() {
    let machine = machine_with(qemu(), "stage=1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 42);
    for command in [
        command::of(0x20),
        [0x21 | (u64::from(NUMBER + 1) << 48), 0],
        [0x22 | (u64::from(NUMBER + 1) << 48), 0x7000_0001],
        [0x23, 0x7000_0001],
    ] {
        let map = |data| stage1.tables.map(IOVA, data);
        remaps(&bench, IOVA, map, &[command]);
    }
}

/// On an SMMU with stage 2, entries of stage 1 alone are tagged with
/// `STE.S2VMID`.
#[test]
fn stage1_tlbi_matches_vmid_on_nested_smmu() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for vmid in [0, VMID] {
        bench.install(ste::stage1(CONTEXT).with(ste::S2_VMID, vmid.into()));
        for command in stage1_commands(vmid, IOVA) {
            let map = |data| stage1.tables.map(IOVA, data);
            remaps(&bench, IOVA, map, &[command]);
        }
        let map = |data| stage1.tables.map(IOVA, data);
        remaps(&bench, IOVA, map, &[command::tlbi_s12_vmall(vmid)]);
    }
}

#[test]
fn stage2_tlbi_invalidates_stage2_entries() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let tables = install_stage2(&bench, granule, 42);
        for command in [
            command::tlbi_s2_ipa(VMID, IOVA),
            command::tlbi_s12_vmall(VMID),
            command::TLBI_NSNH_ALL,
        ] {
            remaps(&bench, IOVA, |data| tables.map(IOVA, data), &[command]);
        }
    }
}

#[test]
fn stage1_tlbi_invalidates_nested_entries() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granules in [
        [Granule::K4; 2],
        [Granule::K64, Granule::K4],
        [Granule::K4, Granule::K64],
        [Granule::K16, Granule::K64],
    ] {
        bench.free_tables();
        let nested = Nested::new(&bench, granules, 42);
        for page in 0..4 {
            let [ipa, data] = [IPA, DATA].map(|base| base + 0x1_0000 * page);
            nested.stage2.map(ipa, data);
        }
        bench.invalidate();
        let map = |data: u64| nested.stage1.map(IOVA, data - DATA + IPA);
        for command in stage1_commands(VMID, IOVA) {
            remaps(&bench, IOVA, map, &[command]);
        }
        remaps(&bench, IOVA, map, &[command::tlbi_s12_vmall(VMID)]);
    }
}

/// `CMD_TLBI_S2_IPA` need not invalidate entries that combine both stages, so a
/// second command follows.
#[test]
fn stage2_tlbi_invalidates_nested_entries() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granules in [
        [Granule::K4; 2],
        [Granule::K64, Granule::K4],
        [Granule::K4, Granule::K64],
    ] {
        bench.free_tables();
        let nested = Nested::new(&bench, granules, 42);
        let map = |data| nested.stage2.map(IPA, data);
        let ipa = command::tlbi_s2_ipa(VMID, IPA);
        remaps(&bench, IOVA, map, &[ipa, command::tlbi_nh_all(VMID)]);
        remaps(&bench, IOVA, map, &[command::tlbi_s12_vmall(VMID)]);
        remaps(&bench, IOVA, map, &[command::TLBI_NSNH_ALL]);
    }
}

/// The stage-2 translations of stage-1 tables may be cached, too.
#[test]
fn stage2_tlbi_invalidates_table_walk_entries() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let table = IPA + (16 << 20);
    nested.stage1.set(IOVA, 2, table | 3);
    let slot = (IOVA >> 12) % 512 * 8;
    let ipa = command::tlbi_s2_ipa(VMID, table);
    for commands in [
        vec![ipa, command::tlbi_nh_all(VMID)],
        vec![command::tlbi_s12_vmall(VMID)],
        vec![command::TLBI_NSNH_ALL],
    ] {
        for page in [0, 1, 2, 3] {
            let output = IPA + 0x10_0000 + 0x1000 * page;
            let place = DATA + (8 << 20) + 0x1000 * page;
            machine.write64(place + slot, output | STAGE_1 | 3);
            nested.stage2.map(output, DATA + 0x1000 * page);
            nested.stage2.map(table, place);
            bench.commands(&commands);
            bench.passes(IOVA, DATA + 0x1000 * page);
        }
    }
}

/// Any address in the block invalidates all of it.
#[test]
fn tlbi_of_any_address_invalidates_block() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let tables = Tables::stage1(&bench, granule, 42);
        let size = 1 << granule.shift(2);
        let output = DATA & !(size - 1);
        let iova = 3 * size + DATA % size;
        let address = 3 * size + (size - granule.size());
        bench.install_stage1(cd::lower(&tables));
        for command in stage1_commands(0, address) {
            tables.map_block(iova, output, 2);
            bench.invalidate();
            bench.passes(iova, DATA);
            // pages replace the block
            tables.set(iova, 2, 0);
            tables.map(iova, DATA + 0x10_0000);
            bench.commands(&[command]);
            bench.passes(iova, DATA + 0x10_0000);
        }
    }
}

/// A stage-1 page is invalidated as a whole, however stage 2 splits it.
#[test]
fn tlbi_invalidates_large_page_over_small_pages() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for (granule, level) in [(Granule::K64, 3), (Granule::K16, 3), (Granule::K4, 2)] {
        for asid in [true, false] {
            bench.free_tables();
            let nested = Nested::new(&bench, [granule, Granule::K4], 42);
            let size = 1 << granule.shift(level);
            let iova = size * 3;
            let parts = [0, 0x1000, size - 0x1000];
            let [first, second] = [IPA, IPA + (1 << 30)];
            for (part, data) in parts.into_iter().zip([0, 0x1000, 0x2000]) {
                nested.stage2.map(first + part, DATA + data);
                nested.stage2.map(second + part, DATA + 0x10_0000 + data);
            }
            nested.stage1.map_block(iova, first, level);
            bench.invalidate();
            for (part, data) in parts.into_iter().zip([0, 0x1000, 0x2000]) {
                bench.passes(iova + part, DATA + data);
            }
            nested.stage1.map_block(iova, second, level);
            let command = if asid {
                command::tlbi_nh_va(NUMBER, iova)
            } else {
                command::tlbi_nh_vaa(iova)
            };
            bench.commands(&[command::with_vmid(command, VMID)]);
            for (part, data) in parts.into_iter().zip([0, 0x1000, 0x2000]) {
                bench.passes(iova + part, DATA + 0x10_0000 + data);
            }
        }
    }
}

#[test]
fn tlbi_invalidates_upper_half_address() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for bits in [48, 39, 25] {
        let tables = Tables::stage1(&bench, Granule::K4, bits);
        tables.map(IOVA, DATA);
        bench.install_stage1(cd::upper(&tables));
        let iova = (!0 << bits) + IOVA;
        for command in stage1_commands(0, iova) {
            remaps(&bench, iova, |data| tables.map(IOVA, data), &[command]);
        }
    }
}

/// The tag is not part of the address, so a TLBI need not have it.
#[test]
fn tlbi_without_tag_invalidates_tagged_address() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    let context = cd::and_upper(cd::lower(&tables), &tables);
    tables.map(IOVA, DATA);
    bench.install_stage1(context.with(cd::TBI0, 1).with(cd::TBI1, 1));
    for iova in [IOVA, (!0 << 39) + IOVA] {
        for command in [
            command::tlbi_nh_va(NUMBER, iova),
            command::tlbi_nh_vaa(iova),
        ] {
            for tag in [0x00, 0x12, 0x80, 0xff] {
                let tagged = iova & !(0xff << 56) | (tag << 56);
                remaps(&bench, tagged, |data| tables.map(IOVA, data), &[command]);
            }
        }
    }
}

/// A global page belongs to every ASID, so a TLBI with any ASID invalidates it
/// (§4.4.2.4).
#[test]
fn tlbi_invalidates_global_page_for_any_asid() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let stage1 = Stage1::new(&bench, granule, 42);
        let global = |data| stage1.tables.map_with(IOVA, data, 3, GLOBAL);
        let range = command::Range {
            tg: granule.tg(),
            num: 1,
            ..command::Range::default()
        };
        for command in [
            command::tlbi_nh_va(NUMBER, IOVA),
            command::tlbi_nh_va(NUMBER + 1, IOVA),
            range.of(command::tlbi_nh_va(NUMBER + 2, IOVA)),
            command::tlbi_nh_vaa(IOVA),
            range.of(command::tlbi_nh_vaa(IOVA)),
            command::tlbi_nh_all(0),
            command::tlbi_s12_vmall(0),
            command::TLBI_NSNH_ALL,
        ] {
            remaps(&bench, IOVA, global, &[command]);
        }
    }
}

/// A page that stops being global gets an entry of its ASID.
#[test]
fn tlbi_invalidates_page_that_stops_being_global() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let invalidate = command::tlbi_nh_va(NUMBER, IOVA);
    for round in 0..4 {
        let global = round % 2 == 0;
        let attributes = if global { GLOBAL } else { STAGE_1 };
        let data = DATA + 0x1000 * round;
        stage1.tables.map_with(IOVA, data, 3, attributes);
        bench.commands(&[invalidate]);
        bench.passes(IOVA, data);
    }
    // and the old global entry must not be hit with another ASID
    stage1.tables.map_with(IOVA, DATA, 3, GLOBAL);
    bench.commands(&[invalidate]);
    bench.passes(IOVA, DATA);
    stage1.tables.map(IOVA, DATA + 0x9000);
    bench.commands(&[invalidate]);
    bench.set_cd(stage1.context.with(cd::ASID, 99));
    bench.commands(&[command::cfgi_cd(SID, 0)]);
    bench.passes(IOVA, DATA + 0x9000);
}

#[test]
fn unmapped_page_faults_after_tlbi() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let write = Access::Write;
    let fault1 = bench.fault1(Kind::Translation, write, IOVA);
    let fault2 = bench.fault2(Kind::Translation, write, IOVA, Class::Input, IPA);
    for _ in 0..3 {
        bench.passes(IOVA, DATA);
        nested.stage1.set(IOVA, 3, 0);
        let command = command::tlbi_nh_va(NUMBER, IOVA);
        bench.commands(&[command::with_vmid(command, VMID)]);
        bench.faults(write, IOVA, fault1);
        nested.stage1.map(IOVA, IPA);
        bench.passes(IOVA, DATA);
        nested.stage2.set(IPA, 3, 0);
        let ipa = command::tlbi_s2_ipa(VMID, IPA);
        bench.commands(&[ipa, command::tlbi_nh_all(VMID)]);
        bench.faults(write, IOVA, fault2);
        nested.stage2.map(IPA, DATA);
    }
}

/// A fault is never cached.
#[test]
fn newly_mapped_page_needs_no_tlbi() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let write = Access::Write;
    for (tables, address, fault) in [
        (
            &nested.stage1,
            IOVA,
            bench.fault1(Kind::Translation, write, IOVA),
        ),
        (
            &nested.stage2,
            IPA,
            bench.fault2(Kind::Translation, write, IOVA, Class::Input, IPA),
        ),
    ] {
        let good = tables.get(address, 3);
        tables.set(address, 3, 0);
        bench.invalidate();
        bench.faults(write, IOVA, fault);
        tables.set(address, 3, good);
        bench.passes(IOVA, DATA);
    }
}

#[test]
fn removed_permission_faults_after_tlbi() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let table = stage1.tables.get(IOVA, 2);
    let record = bench.fault1(Kind::Permission, Access::Write, IOVA);
    for command in stage1_commands(0, IOVA) {
        bench.passes(IOVA, DATA);
        stage1.tables.map_with(IOVA, DATA, 3, GLOBAL | READ_ONLY);
        bench.commands(&[command]);
        bench.faults(Access::Write, IOVA, record);
        bench.reads(IOVA);
        stage1.tables.map(IOVA, DATA);
        bench.commands(&[command]);
        bench.passes(IOVA, DATA);
    }
    // of a table: commands for the last level are not enough
    let whole = [command::tlbi_nh_va(NUMBER, IOVA)[0], IOVA];
    stage1.tables.set(IOVA, 2, table | TABLE_READ_ONLY);
    bench.commands(&[whole]);
    bench.faults(Access::Write, IOVA, record);
    stage1.tables.set(IOVA, 2, table);
    bench.commands(&[whole]);
    bench.passes(IOVA, DATA);
}

/// Returns the commands after which an STE is read again.
fn entry_commands() -> [Command; 4] {
    [
        command::cfgi_ste(SID),
        command::cfgi_ste_range(SID, 0),
        command::cfgi_ste_range(SID & !0xff, 7),
        command::CFGI_ALL,
    ]
}

#[test]
fn cfgi_ste_rereads_ste() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    for command in entry_commands() {
        bench.set_ste(SID, ste::stage1(CONTEXT));
        bench.commands(&[command]);
        bench.passes(IOVA, DATA);
        bench.set_ste(SID, ste::abort());
        bench.commands(&[command]);
        bench.aborts(Access::Write, IOVA);
        bench.set_ste(SID, ste::bypass());
        bench.commands(&[command]);
        bench.passes(DATA + 8, DATA + 8);
    }
}

/// CDs are invalidated with their STE, too.
#[test]
fn cfgi_cd_or_cfgi_ste_rereads_cd() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let both = [0, 1].map(|index| {
        let tables = Tables::stage1(&bench, Granule::K4, 39);
        tables.map(IOVA, DATA + 0x1000 * index);
        cd::lower(&tables).with(cd::ASID, 40 + index)
    });
    bench.install_stage1(both[0]);
    let own = [command::cfgi_cd(SID, 0), command::cfgi_cd_all(SID)];
    for command in own.into_iter().chain(entry_commands()) {
        for (index, context) in both.into_iter().enumerate() {
            bench.set_cd(context);
            bench.commands(&[command]);
            bench.passes(IOVA, DATA + 0x1000 * index as u64);
        }
    }
}

/// A change of ASID or VMID needs no invalidation.
#[test]
fn tlb_entries_are_tagged_by_asid_and_vmid() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    let context = cd::lower(&tables);
    for (asid, vmid) in [(1, 1), (1, 2), (2, 1), (0, 0), (0xffff, 0xffff), (1, 0)] {
        let data = DATA + 0x1000 * (asid % 16 + 16 * (vmid % 16));
        tables.map(IOVA, data);
        bench.set_cd(context.with(cd::ASID, asid));
        bench.set_ste(SID, ste::stage1(CONTEXT).with(ste::S2_VMID, vmid));
        bench.commands(&[command::cfgi_ste(SID)]);
        bench.passes(IOVA, data);
    }
}

/// Entries of stage 2 alone are tagged with their VMID and are distinct from
/// those of stage 1 with that VMID.
#[test]
fn tlb_entries_of_stages_are_distinct() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let stage1 = Tables::stage1(&bench, Granule::K4, 39);
    let stage2 = bench.stage2_for_tables(Granule::K4);
    stage1.map(IOVA, DATA);
    stage2.map(IOVA, DATA + 0x1000);
    let both = Tables::stage1(&bench, Granule::K4, 39).seen_at(IPA_OFFSET);
    both.map(IOVA, IPA);
    stage2.map(IPA, DATA + 0x2000);
    bench.set_cd(cd::lower(&stage1));
    let other = CONTEXT + 0x1000;
    let context = cd::lower(&both).with(cd::ASID, 9);
    machine.write_memory(other, &context.to_bytes());
    let entries = [
        ste::stage1(CONTEXT).with(ste::S2_VMID, VMID.into()),
        ste::stage2(&stage2),
        ste::nested(other + IPA_OFFSET, &stage2),
    ];
    bench.invalidate();
    for _ in 0..2 {
        for (index, entry) in entries.into_iter().enumerate() {
            bench.set_ste(SID, entry);
            bench.commands(&[command::cfgi_ste(SID)]);
            bench.passes(IOVA, DATA + 0x1000 * index as u64);
        }
    }
}

/// More pages than any cache holds.
#[test]
fn many_cached_pages_translate_correctly() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let pages = 600;
    for page in 0..pages {
        stage1
            .tables
            .map(IOVA + 0x1000 * page, DATA + 0x1000 * (page * 7 % 1024));
    }
    bench.invalidate();
    for page in (0..pages).chain(0..pages) {
        let data = DATA + 0x1000 * (page * 7 % 1024);
        let word = bench.edu.write(IOVA + 0x1000 * page + 4);
        assert_eq!(machine.read32(data + 4), word, "page {page}");
    }
    assert_eq!(bench.records(), []);
}
