// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Queues in software.

use smmuv3::{cmdqv::QueueState::Software, Progress};

use super::guest::*;

/// `CMD_SYNC` without a signal.
const SYNC: [u64; 2] = [0x46, 0];
/// `CMD_TLBI_NH_ASID` of an ASID.
const fn asid(asid: u64) -> [u64; 2] {
    [0x11 | (asid << 48), 0]
}
/// `CMD_TLBI_NH_VA` of a page.
const fn page(number: u64) -> [u64; 2] {
    [0x12, number << 12]
}
/// `CMD_ATC_INV` of a stream.
const fn atc_inv(sid: u64) -> [u64; 2] {
    [0x40 | (sid << 32), 0]
}

fn guest() -> Guest {
    let guest = Guest::refused(&[0, 1]);
    assert_eq!([guest.state(0), guest.state(1)], [Software; 2]);
    guest
}

#[test]
fn allowed_commands_reach_backend_in_one_batch() {
    let mut guest = guest();
    let effects = guest.submit(1, &[asid(5), page(7), atc_inv(8), SYNC]);
    assert_eq!(effects.consume, [false, true]);
    assert!(!effects.reconcile);
    assert_eq!(guest.backend.calls, [vec![asid(5), page(7), atc_inv(8)]]);
    assert_eq!((guest.page0(1, CONS), guest.page0(1, PROD)), (4, 4));
    assert_eq!((guest.error(1), guest.irqs.error), (None, 0));
    assert_eq!(guest.page0(0, CONS), 0, "the other queue");
}

/// Every opcode, alone, between two commands that are allowed.
#[test]
fn every_other_opcode_is_ill_opcode_in_software() {
    for opcode in 0..=0xff {
        let mut guest = guest();
        guest.features = guest.features.with_s2p(true).with_hyp(true).with_pri(true);
        guest.submit(0, &[asid(1), [opcode, 0], asid(2)]);
        let is_allowed = matches!(opcode, 0x11 | 0x12 | 0x40 | 0x46);
        let error = (!is_allowed).then_some(1);
        assert_eq!(guest.error(0), error, "{opcode:#x}");
        let cons = if is_allowed { 3 } else { 0x0100_0001 };
        assert_eq!(guest.page0(0, CONS), cons, "{opcode:#x}");
        let executed = guest.backend.log.executed();
        assert!(executed.contains(&asid(1)), "{opcode:#x}");
        assert_eq!(executed.contains(&asid(2)), is_allowed, "{opcode:#x}");
        assert!(guest.backend.installed.is_empty(), "{opcode:#x}");
        assert_eq!(guest.irqs.error, u32::from(!is_allowed));
    }
}

#[test]
fn signalled_sync_is_ill_opcode_in_software() {
    for signal in 1..4 {
        let mut guest = guest();
        guest.features = guest.features.with_msi(true).with_sev(true);
        guest.submit(0, &[[0x46 | (signal << 12), 0x4800_0000]]);
        assert_eq!(guest.error(0), Some(1), "{signal}");
        assert!(guest.memory.written.is_empty());
    }
}

/// The parameters of an allowed command can be ILLEGAL, too.
#[test]
fn illegal_parameters_are_ill_opcode_in_software() {
    let mut guest = guest();
    // TG without NUM, SCALE and TTL (§4.4.1.1)
    guest.submit(0, &[[0x12, 1 << 10]]);
    assert_eq!(guest.error(0), Some(1));
}

/// Error, acknowledgement, and the commands behind it: the driver replaces the offending
/// command by a `CMD_SYNC`.
#[test]
fn acknowledged_error_resumes_queue_in_software() {
    let mut guest = guest();
    guest.submit(0, &[asid(1), [0x30, 0], asid(2)]);
    assert_eq!(guest.page0(0, CONS), 0x0100_0001);
    assert_eq!(guest.maps(), [1, 1, 1]);
    assert_eq!(guest.read(VINTF_STATUS) & 0xf, 3);
    // Doorbells have no effect meanwhile, and the other queue continues.
    let doorbell = guest.submit(0, &[asid(3)]);
    assert_eq!((doorbell.consume, doorbell.interrupt), ([false; 2], false));
    guest.submit(1, &[asid(9)]);
    assert_eq!(
        (guest.page0(0, CONS), guest.page0(1, CONS)),
        (0x0100_0001, 1)
    );
    guest.memory.store_words(MEMORY[0] + 16, &SYNC);
    // An acknowledgement of another error is none of this one.
    let other = guest.write_page0(0, GERRORN, 3);
    assert_eq!(other.consume, [false; 2]);
    assert_eq!(guest.maps(), [1, 1, 1]);
    let effects = guest.acknowledge(0);
    assert_eq!(effects.consume[0], !effects.reconcile);
    assert_eq!((guest.page0(0, CONS) & 0xf_ffff, guest.error(0)), (4, None));
    assert_eq!(guest.maps(), [0, 0, 0]);
    let executed = guest.backend.log.executed();
    assert_eq!(executed, [asid(1), asid(9), asid(2), asid(3)]);
    assert_eq!(guest.irqs.error, 1);
    // Still illegal is a new error, with its interrupt.
    guest.submit(0, &[[0x30, 0]]);
    guest.acknowledge(0);
    assert_eq!((guest.error(0), guest.irqs.error), (Some(1), 3));
}

#[test]
fn fetch_abort_is_abt_at_its_command_in_software() {
    let mut guest = guest();
    guest.memory.unreadable.push(MEMORY[0] + 32..MEMORY[0] + 48);
    guest.submit(0, &[asid(1), asid(2), asid(3)]);
    assert_eq!(guest.error(0), Some(2));
    assert_eq!(guest.page0(0, CONS), 0x0200_0002);
    assert_eq!(guest.backend.log.executed(), [asid(1), asid(2)]);
    guest.memory.unreadable.clear();
    guest.acknowledge(0);
    assert_eq!(guest.page0(0, CONS) & 0xf_ffff, 3);
    assert_eq!(guest.backend.log.executed(), [asid(1), asid(2), asid(3)]);
}

#[test]
fn queue_in_software_wraps() {
    let mut guest = guest();
    let mut expected = Vec::new();
    // 16 entries, so that each lap of five doorbells is at another place.
    for number in 0..100 {
        let commands: Vec<_> = (0..7).map(|n| asid(7 * number + n)).collect();
        guest.submit(0, &commands);
        expected.extend(commands);
        assert_eq!(guest.page0(0, CONS), (7 * (number + 1)) % 32);
    }
    assert_eq!(guest.backend.log.executed(), expected);
    let full: Vec<_> = (0..16).map(asid).collect();
    guest.submit(0, &full);
    assert_eq!(guest.page0(0, CONS), (700 + 16) % 32);
}

#[test]
fn budget_bounds_run_in_software() {
    let mut guest = guest();
    guest.serves = false;
    guest.budget = 3;
    let effects = guest.submit(0, &[asid(0); 7]);
    assert_eq!(effects.consume, [true, false]);
    assert_eq!(guest.consume(0), Progress::More);
    assert_eq!(guest.page0(0, CONS), 3);
    assert_eq!(guest.consume(0), Progress::More);
    assert_eq!(guest.consume(0), Progress::Idle);
    assert_eq!(guest.page0(0, CONS), 7);
}

/// A result of a run that the guest has cut short is not put back.
#[test]
fn stale_run_in_software_is_discarded() {
    type Change = fn(&mut Guest);
    let changes: [(&str, Change); 5] = [
        ("disabled", |guest| {
            guest.write_page0(0, CMDQ_CONFIG, 0);
        }),
        ("restarted", |guest| {
            guest.write_page0(0, CMDQ_CONFIG, 0);
            guest.write_page0(0, CONS, 0);
            guest.write_page0(0, CMDQ_CONFIG, 1);
        }),
        ("moved", |guest| {
            guest.write64(LOGICAL1 + BASE, MEMORY[0] | 5);
        }),
        ("to hardware", |guest| {
            guest.host.refused.clear();
            guest.write(VINTF_CONFIG, 0);
            guest.reconcile();
            guest.write(VINTF_CONFIG, 1);
            guest.reconcile();
        }),
        ("reset", |guest| {
            guest.cmdqv.reset(&guest.features, &mut guest.host);
        }),
    ];
    for (name, change) in changes {
        let mut guest = guest();
        guest.serves = false;
        guest.submit(0, &[[0x30, 0]; 2]);
        let stream_table = guest.smmu.stream_table();
        let run = guest.cmdqv.begin(&guest.features, 0, stream_table);
        let run = run.expect("in software");
        change(&mut guest);
        assert!(!guest.cmdqv.finish(run), "{name}");
        assert_eq!(guest.read(DIRECT0 + CONS), 0, "{name}");
    }
}

/// Concurrently the guest rings the doorbell and acknowledges nothing: the run is valid.
#[test]
fn doorbell_during_run_in_software_is_kept() {
    let mut guest = guest();
    guest.serves = false;
    guest.submit(0, &[asid(1)]);
    let stream_table = guest.smmu.stream_table();
    let run = guest.cmdqv.begin(&guest.features, 0, stream_table);
    guest.submit(0, &[asid(2)]);
    assert!(guest.cmdqv.finish(run.expect("in software")));
    assert_eq!((guest.page0(0, PROD), guest.page0(0, CONS)), (2, 0));
}

/// A queue in software executes only while everything above it is enabled.
#[test]
fn queue_in_software_stops_with_each_enable() {
    for (offset, value) in [(CONFIG, 1), (VINTF_CONFIG, 1), (LOGICAL0 + CMDQ_CONFIG, 1)] {
        let mut guest = guest();
        guest.write(offset, 0);
        guest.write(DIRECT0 + PROD, 1);
        guest.memory.store_words(MEMORY[0], &asid(1));
        assert_eq!(guest.consume(0), Progress::Idle);
        assert!(guest.backend.calls.is_empty(), "{offset:#x}");
        guest.write(offset, value);
        assert_eq!(guest.backend.calls, [vec![asid(1)]], "{offset:#x}");
    }
}

/// A failing host is reported to the queue whose command it was.
#[test]
fn host_error_is_error_of_its_queue() {
    use super::common::{host::EIO, Answer};
    let mut guest = guest();
    guest.backend.answers.push_back(Answer::error(EIO, 0));
    guest.submit(1, &[asid(1)]);
    assert_eq!((guest.error(0), guest.error(1)), (None, Some(1)));
    assert_eq!(guest.maps(), [1, 2, 2]);
}
