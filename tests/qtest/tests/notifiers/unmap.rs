// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! UNMAP notifications arrive before a `CMD_SYNC` completes.

use smmuv3_qtest::{
    command::{self, Command, CFGI_ALL, TLBI_NSNH_ALL},
    smmu::{reg, SMMUEN},
    tables::Allow,
    translated::{Stages, ASID, FREE, VMID},
};

use crate::{
    backend::Access,
    bench::{covers, Bench, Served, DATA, IOVA, RING, RING_AT, SID},
};

/// Returns `command` for a range of `pages` of 4 KiB, a power of two, of the
/// last level (§4.4.1.1).
const fn in_range(command: Command, pages: u64) -> Command {
    let scale = pages.trailing_zeros() as u64;
    [
        command[0] | (scale << 20),
        command[1] | (1 << 10) | (3 << 8),
    ]
}

const fn of_vmid(command: Command) -> Command {
    [command[0] | ((VMID as u64) << 32), command[1]]
}

/// Returns a command with an ASID and a page.
const fn by_address(opcode: u64, address: u64) -> Command {
    [opcode | ((ASID as u64) << 48), address | 1]
}

const NH_ALL: Command = command::of(0x10);
const NH_VA: Command = by_address(0x12, IOVA);
const NH_VAA: Command = [0x13, IOVA | 1];
const S12_VMALL: Command = of_vmid(command::of(0x28));
const S2_IPA: Command = of_vmid([0x2a, IOVA | 1]);

/// Checks that each of `commands` sends an UNMAP for the page.
#[track_caller]
fn unmaps(stages: Stages, commands: &[Command]) {
    let served = Served::new(stages);
    let bench = Bench::new(&served);
    for command in commands {
        bench.input().map(IOVA, DATA, Allow::ReadWrite);
        bench.translates(IOVA, DATA);
        bench.input().unmap(IOVA);
        bench.backend.invalidations();
        bench.submit(&[*command]);
        bench.unmapped(IOVA);
        let left = bench.backend.translate(IOVA, Access::Read);
        assert_eq!(left, None, "{stages:?}, {command:x?}");
    }
}

#[test]
fn stage1_tlbi_sends_unmap() {
    let commands = [
        NH_VA,
        NH_VAA,
        command::tlbi_nh_asid(ASID),
        NH_ALL,
        TLBI_NSNH_ALL,
    ];
    unmaps(Stages::One, &commands);
    unmaps(Stages::Both, &commands.map(of_vmid));
}

#[test]
fn stage1_range_tlbi_sends_unmap() {
    let commands = [
        in_range(NH_VA, 1),
        in_range(NH_VAA, 1),
        in_range(by_address(0x12, IOVA & !0xffff), 16),
        in_range(by_address(0x13, IOVA & !0x1f_ffff), 512),
    ];
    unmaps(Stages::One, &commands);
    unmaps(Stages::Both, &commands.map(of_vmid));
}

#[test]
fn stage2_tlbi_sends_unmap() {
    let commands = [
        S2_IPA,
        in_range(S2_IPA, 1),
        in_range(of_vmid([0x2a, (IOVA & !0xffff) | 1]), 16),
        S12_VMALL,
        TLBI_NSNH_ALL,
    ];
    unmaps(Stages::Two, &commands);
}

/// A device IOTLB has no IPAs, so a stage-2 TLBI may affect any of its entries
/// (§4.4.3.1).
#[test]
fn nested_stage2_tlbi_unmaps_everything() {
    let served = Served::new(Stages::Both);
    let bench = Bench::new(&served);
    let ipa = 0x7_0000_0000;
    for command in [
        of_vmid([0x2a, ipa | 1]),
        in_range(of_vmid([0x2a, ipa | 1]), 4),
        S12_VMALL,
        TLBI_NSNH_ALL,
    ] {
        bench.stage1.map(IOVA, ipa, Allow::ReadWrite);
        bench.stage2.map(ipa, DATA, Allow::ReadWrite);
        bench.submit(&[of_vmid(NH_VA)]);
        bench.translates(IOVA, DATA);
        bench.stage2.unmap(ipa);
        bench.backend.invalidations();
        // the second invalidates entries that combine both stages, as drivers
        // do
        bench.submit(&[command, of_vmid(NH_ALL)]);
        bench.unmapped(IOVA);
        bench.refuses(IOVA, Access::Read);
    }
}

/// Pages of other addresses and ASIDs stay in the device IOTLB.
#[test]
fn tlbi_of_other_page_sends_no_unmap() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    let page = (IOVA, IOVA | 0xfff);
    bench.submit(&[by_address(0x12, IOVA + 0x1000), [0x13, (IOVA - 0x1000) | 1]]);
    let ranges = bench.backend.invalidations();
    assert!(!covers(&ranges, page), "{ranges:x?}");
    let other = [0x12 | ((u64::from(ASID) + 1) << 48), IOVA | 1];
    bench.submit(&[other]);
    let later = bench.backend.invalidations();
    assert!(!covers(&later, page), "{later:x?}");
}

/// Global pages are invalidated by address under any ASID, and never by ASID
/// (§4.4.2).
#[test]
fn tlbi_unmaps_global_page_for_any_asid() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    let page = IOVA + 0x1000;
    let other_asid = ASID + 1;
    let command = [0x12 | (u64::from(other_asid) << 48), page | 1];
    bench.input().map(page, DATA, Allow::Global);
    bench.translates(page, DATA);
    bench.input().unmap(page);
    bench.backend.invalidations();
    bench.submit(&[command]);
    bench.unmapped(page);
    bench.refuses(page, Access::Read);
}

/// Any address of a stage-1 block invalidates all of it, also where stage 2 has
/// pages (§4.4).
#[test]
fn tlbi_unmaps_whole_stage1_block_over_pages() {
    let served = Served::new(Stages::Both);
    let bench = Bench::new(&served);
    let block = 0x4060_0000;
    bench.stage1.map_block(block, DATA, Allow::ReadWrite);
    bench.stage2.split(DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    let piece = block + 0x5000;
    bench.translates(piece, DATA + 0x5000);
    bench.backend.invalidations();
    bench.submit(&[of_vmid(by_address(0x12, block + 0x9000))]);
    bench.unmapped(piece);
}

/// Without TG in the command, the page size is that of the tables' granule.
#[test]
fn tlbi_of_any_address_unmaps_whole_page() {
    let served = Served::new(Stages::One);
    let bench = Bench::not_started(&served, SID);
    let machine = &served.machine;
    // level 2 and level 3 of 64 KiB each
    let (table, pages) = (FREE + (2 << 20), FREE + (3 << 20));
    machine.write64(table, pages | 3);
    let (access, user, not_global) = (1 << 10, 1 << 6, 1 << 11);
    for (iova, address) in [(RING, RING_AT), (IOVA & !0xffff, DATA)] {
        let descriptor = address | access | user | not_global | 3;
        machine.write64(pages + 8 * (iova >> 16), descriptor);
    }
    let context = bench.entry()[0] & !0x3f;
    let granule_64k = 1 << 6;
    machine.write64(context, machine.read64(context) | granule_64k);
    machine.write64(context + 8, table);
    bench.submit(&[CFGI_ALL, TLBI_NSNH_ALL]);
    bench.driver.start(RING);
    bench.translates(IOVA, DATA + (IOVA & 0xffff));
    bench.backend.invalidations();
    bench.submit(&[by_address(0x12, IOVA + 0x4000)]);
    bench.unmapped(IOVA);
}

/// Checks that each configuration command unmaps everything of a stream that
/// now aborts.
#[track_caller]
fn configuration_unmaps(stages: Stages, commands: &[Command]) {
    let served = Served::new(stages);
    let bench = Bench::new(&served);
    for command in commands {
        bench.write_entry(bench.entry());
        bench.submit(&[CFGI_ALL]);
        bench.translates(IOVA, DATA);
        bench.write_entry([1, 0, 0, 0]);
        bench.backend.invalidations();
        bench.submit(&[*command]);
        bench.unmapped(IOVA);
        bench.refuses(RING, Access::Read);
        bench.refuses(IOVA, Access::Read);
    }
}

#[test]
fn cfgi_ste_unmaps_everything() {
    for stages in [Stages::One, Stages::Two, Stages::Both] {
        configuration_unmaps(
            stages,
            &[
                command::cfgi_ste(SID),
                command::cfgi_ste_range(SID, 3),
                CFGI_ALL,
            ],
        );
    }
}

#[test]
fn cfgi_cd_unmaps_everything() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    for command in [command::cfgi_cd(SID, 0), command::cfgi_cd_all(SID)] {
        bench.translates(IOVA, DATA);
        bench.backend.invalidations();
        bench.submit(&[command]);
        bench.unmapped(IOVA);
    }
}

#[test]
fn smmuen_toggle_unmaps_everything() {
    for stages in [Stages::One, Stages::Two, Stages::Both] {
        let served = Served::new(stages);
        let bench = Bench::new(&served);
        bench.translates(IOVA, DATA);
        bench.smmu.disable(SMMUEN);
        bench.unmapped(IOVA);
        bench.translates(DATA, DATA);
        bench.backend.invalidations();
        bench.smmu.enable(SMMUEN);
        bench.unmapped(DATA);
        bench.translates(IOVA, DATA);
    }
}

#[test]
fn gbpa_abort_unmaps_everything() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    bench.smmu.disable(SMMUEN);
    bench.translates(DATA, DATA);
    bench.backend.invalidations();
    bench.smmu.write(reg::GBPA, (1 << 31) | (1 << 20));
    bench.unmapped(DATA);
    bench.refuses(DATA, Access::Read);
}

/// CONS passes a `CMD_SYNC` only after all preceding UNMAPs are acknowledged.
#[test]
fn many_tlbis_all_send_unmap() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    let pages: Vec<u64> = (0..24).map(|page| IOVA + 0x10_0000 + page * 4096).collect();
    for page in &pages {
        bench.input().map(*page, DATA, Allow::ReadWrite);
        bench.translates(*page, DATA);
        bench.input().unmap(*page);
    }
    bench.backend.invalidations();
    let commands: Vec<Command> = pages.iter().map(|page| by_address(0x12, *page)).collect();
    bench.submit(&commands);
    let ranges = bench.backend.invalidations();
    for page in pages {
        assert!(
            covers(&ranges, (page, page | 0xfff)),
            "{page:#x}: {ranges:x?}"
        );
    }
}

/// One UNMAP takes longer than a time slice, so the CMDQ run ends after each
/// command.
#[test]
fn slow_vhost_delays_one_command_at_a_time() {
    const COMMANDS: u32 = 60;
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    bench.translates(IOVA, DATA);
    let smmu = &bench.smmu;
    let start = smmu.prod();
    smmu.push(&[command::tlbi_nh_va(ASID, IOVA); COMMANDS as usize]);
    let doorbell = (smmu.base() + reg::CMDQ_PROD, smmu.prod());
    let cons = smmu.base() + reg::CMDQ_CONS;
    let consumed = bench.machine.write32_then_read32(&[doorbell], cons);
    assert_eq!(consumed, (start + 1) % 128, "commands in one slice");
    smmu.wait_consumed();
    assert_eq!(bench.backend.invalidations().len(), COMMANDS as usize);
}
