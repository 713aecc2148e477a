// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Fewer calls of the host: TLBIs collected across `CMD_SYNC`s, and pages that become
//! ranges for a guest without range invalidation.

use smmuv3_qtest::{
    command::{self, Command, Range},
    machine::RAM,
    smmu::{cerror, irq},
    until,
};

use crate::{
    bench::{Bench, Guest, Setup},
    invalidation::{completed, sizes, tlbis, translating},
};

/// A guest without range invalidation on a host that has it.
const RIL_OFF: &str = "accel=on,ats=on,ril=off,oas=44,ssidsize=0";

/// Longer than commands without a `CMD_SYNC` are deferred, in nanoseconds.
const LONG: u64 = 20_000_000;

fn without_ril() -> Bench {
    Setup::new(RIL_OFF).assign("d0", 1).start()
}

/// Returns the commands for `count` neighbouring pages of 4KB.
fn pages(address: u64, count: u64) -> Vec<Command> {
    (0..count)
        .map(|page| command::tlbi_nh_va(5, address + 0x1000 * page))
        .collect()
}

/// Returns a `CMD_TLBI_NH_VA` for (`num` + 1) * 2^`scale` granules.
fn range(address: u64, tg: u64, num: u64, scale: u64) -> Command {
    let range = Range {
        tg,
        num,
        scale,
        ttl: 0,
    };
    range.of(command::tlbi_nh_va(5, address))
}

/// Several vCPUs that unmap at once share a doorbell.
#[test]
fn tlbis_are_collected_across_cmd_sync() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.intercept_irqs();
    let interleaved: Vec<_> = tlbis(31)
        .into_iter()
        .flat_map(|tlbi| [tlbi, command::SYNC_IRQ])
        .collect();
    smmu.commands(&interleaved);
    assert_eq!(bench.journal().batches(), [tlbis(31)]);
    assert_eq!(smmu.pulses()[irq::CMD_SYNC as usize], 31);
    bench.finish();
}

#[test]
fn collected_syncs_before_error_are_signalled() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.intercept_irqs();
    bench.script("smmu a refuses=0x13");
    let mut interleaved: Vec<_> = tlbis(10)
        .into_iter()
        .flat_map(|tlbi| [tlbi, command::SYNC_IRQ])
        .collect();
    interleaved[12] = command::tlbi_nh_vaa(0x9000);
    let start = smmu.prod();
    smmu.push(&interleaved);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    assert_eq!((smmu.cons_err(), smmu.cons() - start), (cerror::ILL, 12));
    assert_eq!(smmu.pulses()[irq::CMD_SYNC as usize], 6);
    assert_eq!(completed(&bench).len(), 6);
    bench.finish();
}

/// Linux rings the doorbell every 64 commands of an invalidation.
#[test]
fn pages_of_one_unmap_are_one_range_ioctl() {
    let bench = without_ril();
    let smmu = translating(&bench);
    // in a smaller queue half the entries are kept free for the producer
    smmu.setup_queue(RAM + 0x200_0000, 10);
    let commands = pages(0x10_0000, 256);
    let start = smmu.cons();
    for part in commands[..192].chunks(64) {
        smmu.push(part);
        smmu.ring();
    }
    smmu.push(&commands[192..]);
    smmu.push(&[command::SYNC]);
    smmu.ring();
    smmu.wait_consumed();
    let ranges = vec![
        range(0x10_0000, 1, 31, 3),
        range(0x10_0000, 2, 31, 1),
        range(0x10_0000, 3, 15, 0),
    ];
    assert_eq!(bench.journal().batches(), [ranges]);
    assert_eq!((smmu.cons() - start, smmu.error()), (257, false));
    bench.finish();
}

#[test]
fn deferred_pages_are_consumed_by_timer() {
    let bench = without_ril();
    let smmu = translating(&bench);
    smmu.push(&pages(0x10_0000, 64));
    smmu.ring();
    assert!(sizes(&bench).is_empty());
    bench.machine().clock_step(LONG);
    until("the invalidation", || (sizes(&bench) == [3]).then_some(()));
    bench.finish();
}

/// A guest that reads `CMDQ_CONS` waits for space or for its commands. The clock stands still,
/// so the timer consumes nothing.
#[test]
fn deferred_pages_are_consumed_by_read_of_cons() {
    let bench = without_ril();
    let smmu = translating(&bench);
    let start = smmu.cons();
    smmu.push(&pages(0x10_0000, 64));
    smmu.ring();
    assert!(sizes(&bench).is_empty());
    assert_eq!(smmu.cons() - start, 64);
    assert_eq!(sizes(&bench), [3]);
    bench.finish();
}

#[test]
fn pages_stay_pages_if_host_lacks_ranges() {
    let commands = pages(0x10_0000, 40);
    // neither by its ID registers (IDR3.RIL), nor by what its kernel takes
    for script in [
        "smmu a idr3=0x1004",
        "fail HWPT_INVALIDATE errno=EIO skip=1 count=1",
    ] {
        let bench = Setup::new(RIL_OFF).script(script).assign("d0", 1).start();
        let smmu = translating(&bench);
        smmu.commands(&commands);
        assert_eq!(bench.journal().batches(), [commands.clone()], "{script}");
        bench.finish();
    }
}

/// The guest hears of the page that the host refuses, not of a range.
#[test]
fn host_error_in_range_names_page() {
    let bench = without_ril();
    let smmu = translating(&bench);
    bench.script("fail HWPT_INVALIDATE errno=EIO entry_num=0 count=1");
    smmu.commands(&pages(0x10_0000, 100));
    assert_eq!(sizes(&bench), [3, 63, 37]);
    assert!(!smmu.error());
    bench.script("fail HWPT_INVALIDATE errno=EIO entry_num=0 count=1");
    bench.script("fail HWPT_INVALIDATE errno=EIO entry_num=7 count=1");
    let start = smmu.cons();
    smmu.push(&pages(0x20_0000, 100));
    smmu.push(&[command::SYNC]);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    assert_eq!((smmu.cons_err(), smmu.cons() - start), (cerror::ILL, 7));
    bench.finish();
}
