// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Batches are invisible: a guest cannot distinguish them from commands that are
//! executed one by one, and no invalidation is lost, whichever calls fail.

use crate::common::{
    batches::{drive, machine, Failing, Op, Reasonable, Unreasonable, NAMED_STREAMS, STREAMS},
    host::{EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOMEM, ETIMEDOUT},
    machine::GERRORN,
};
use proptest::prelude::*;
use smmuv3::{batch::Granules, EioReport, Features, FlushPolicy};

fn op() -> impl Strategy<Value = Op> {
    let sid = prop::sample::select(&NAMED_STREAMS[..]);
    prop_oneof![
        12 => Just(Op::Va),
        2 => Just(Op::Asid),
        4 => sid.clone().prop_map(Op::Atc),
        2 => sid.clone().prop_map(Op::Cd),
        1 => sid.prop_map(Op::Ste),
        1 => Just(Op::SteRange),
        1 => Just(Op::Prefetch),
        1 => Just(Op::Sync),
        2 => Just(Op::SyncIrq),
        2 => Just(Op::SyncMsi),
        1 => Just(Op::Reserved),
        1 => Just(Op::BadSync),
    ]
}

/// Several vCPUs that unmap at once: next to nothing but TLBIs and `CMD_SYNC`s.
fn unmap_op() -> impl Strategy<Value = Op> {
    prop_oneof![20 => Just(Op::Va), 2 => Just(Op::Asid), 8 => Just(Op::SyncIrq), 8 => Just(Op::SyncMsi), 1 => op()]
}

fn program() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        prop::collection::vec(op(), 1..300),
        prop::collection::vec(unmap_op(), 1..300),
        prop::collection::vec(prop_oneof![80 => Just(Op::Va), 1 => op()], 1..500),
    ]
}

fn eio() -> impl Strategy<Value = EioReport> {
    prop::sample::select(&[EioReport::Offender, EioReport::BlockStart][..])
}

fn failing() -> impl Strategy<Value = Failing> {
    let some = |most| prop::collection::btree_set(prop::sample::select(&STREAMS[..]), 0..=most);
    // After the second silent device the consumer does not ask the others.
    (7..60_u32, some(1), some(2), 1..80_usize, 2..9_usize, eio()).prop_map(
        |(illegal, silent, vanished, memory, interrupted, eio)| Failing {
            illegal,
            silent,
            vanished,
            memory,
            interrupted,
            eio,
        },
    )
}

prop_compose! {
    fn reasonable()(
        program in program(),
        portion in 1..200_usize,
        log2size in 0..9_u32,
        failing in failing(),
        [repeat_tlbi_cfgi, collect_across_sync, merge_ranges] in any::<[bool; 3]>(),
        [defer_remainder, msi, is_slow] in any::<[bool; 3]>(),
        budget in prop::sample::select(&[1, 2, 7, 4096][..]),
    ) -> Reasonable {
        Reasonable {
            program, portion, log2size, failing, repeat_tlbi_cfgi, collect_across_sync, merge_ranges,
            defer_remainder, msi, is_slow, budget,
        }
    }
}

prop_compose! {
    fn policy()(
        timeout_retries in 0..3_u32,
        memory_retries in 0..3_u32,
        repeat_tlbi_cfgi: bool,
        [defer_remainder, collect_across_sync, merges] in any::<[bool; 3]>(),
        eio in eio(),
    ) -> FlushPolicy {
        FlushPolicy {
            timeout_retries, memory_retries, repeat_tlbi_cfgi, eio, defer_remainder, collect_across_sync,
            merge_ranges: merges.then(|| Granules::of(&Features::arm_smmuv3())),
            ..FlushPolicy::default()
        }
    }
}

prop_compose! {
    fn unreasonable()(
        program in program(),
        portion in 1..200_usize,
        policy in policy(),
        answers in prop::collection::vec(
            prop::option::weighted(0.4, (any_errno(), 0..70_u32)),
            1..60,
        ),
    ) -> Unreasonable {
        Unreasonable { program, portion, policy, answers }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        // A failure is to become a test of its own, not a file of seeds.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn batches_equal_single_commands(case in reasonable()) {
        case.check();
    }

    #[test]
    fn random_host_errors_lose_no_invalidation(case in unreasonable()) {
        case.check();
    }

    /// With the erratum every TLBI and CFGI is executed exactly twice, each
    /// `CMD_ATC_INV` once, and never together.
    #[test]
    fn erratum_repeats_required_commands(
        program in prop::collection::vec(op(), 1..300),
        portion in 1..200_usize,
    ) {
        let policy = FlushPolicy { repeat_tlbi_cfgi: true, ..FlushPolicy::default() };
        let mut machine = machine(policy, 8);
        machine.host.caches_cds = false;
        drive(&mut machine, &program, portion, |_| {});
        let executed = machine.host.log.executed();
        for (number, op) in (1..).zip(&program) {
            let words = op.words(number);
            let times = executed.iter().filter(|other| **other == words).count();
            let expected = match op {
                Op::Va | Op::Asid => 2,
                Op::Cd(sid) if STREAMS.contains(sid) => 2,
                Op::Atc(sid) if STREAMS.contains(sid) => 1,
                _ => 0,
            };
            prop_assert_eq!(times, expected, "{:?}", op);
        }
        for call in &machine.host.calls {
            let atc = call.iter().filter(|words| words[0] as u8 == 0x40).count();
            prop_assert!(atc == 0 || atc == call.len());
        }
    }
}

fn any_errno() -> impl Strategy<Value = i32> {
    prop::sample::select(
        &[
            EIO, ETIMEDOUT, ENOMEM, EINTR, EAGAIN, EFAULT, EINVAL, EBADF, ENOENT,
        ][..],
    )
}

/// Only the acknowledgement through `GERRORN` resumes the queue, as the drivers above
/// rely on.
#[test]
fn active_error_blocks_consumption() {
    let mut machine = machine(FlushPolicy::default(), 4);
    machine.submit(&[Op::Reserved.words(1), Op::Va.words(2)]);
    machine.store_commands(0, &[[0x46, 0]]);
    machine.consume();
    assert_eq!((machine.rd(), machine.host.calls.len()), (0, 0));
    machine.write(GERRORN, 1);
    assert_eq!((machine.rd(), machine.host.calls.len()), (2, 1));
}
