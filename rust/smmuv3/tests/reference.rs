// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Batches are invisible: a guest sees what it would see if every command were
//! executed on its own, and no invalidation is lost, whatever the host does.

mod common;

use std::collections::BTreeSet;

use common::{
    host::{EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOMEM, ETIMEDOUT},
    machine::GERRORN,
    vector_features, Answer, Machine,
};
use proptest::prelude::*;
use smmuv3::{EioReport, FlushPolicy};

/// Streams that have a device.
const STREAMS: [u32; 3] = [0x8, 0x18, 0x19];

/// What a guest may put into its queue. Each command is told from the others
/// by the number it gets when it is queued.
#[derive(Clone, Copy, Debug)]
enum Op {
    Va,
    Asid,
    Atc(u32),
    Cd(u32),
    Ste(u32),
    SteRange,
    Prefetch,
    Sync,
    SyncIrq,
    Reserved,
    BadSync,
}

impl Op {
    fn words(self, number: u32) -> [u64; 2] {
        let n = u64::from(number);
        let sid = |sid: u32| u64::from(sid) << 32;
        match self {
            Self::Va => [0x5_0000_0000_0012, (n << 12) | 1],
            Self::Asid => [0x11 | ((n & 0xffff) << 48), 0],
            Self::Atc(stream) => [0x40 | sid(stream), n << 12],
            Self::Cd(stream) => [0x05 | sid(stream) | (n << 12), 1],
            Self::Ste(stream) => [0x03 | sid(stream), 1],
            Self::SteRange => [0x04 | sid(0x18), 0],
            Self::Prefetch => [0x01 | sid(0x99), 0],
            Self::Sync => [0x46, 0],
            Self::SyncIrq => [0x1046, 0],
            Self::Reserved => [0xff, n],
            Self::BadSync => [0x3046, 0],
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let sid = prop::sample::select(vec![0x8, 0x18, 0x19, 0x99]);
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
        1 => Just(Op::Reserved),
        1 => Just(Op::BadSync),
    ]
}

/// How a host fails that fails for a reason.
#[derive(Clone, Debug)]
struct Failing {
    /// Every this many commands one is illegal to the host.
    illegal: u32,
    /// Devices that do not answer.
    silent: BTreeSet<u32>,
    /// Devices that went away without the SMMU being told first.
    vanished: BTreeSet<u32>,
    /// Most commands that there is memory for.
    memory: usize,
    /// Every this many calls one is interrupted.
    interrupted: usize,
    /// Whether the index of an illegal command is told.
    eio: EioReport,
}

fn failing() -> impl Strategy<Value = Failing> {
    let some = |most| prop::collection::btree_set(prop::sample::select(STREAMS.to_vec()), 0..=most);
    let eio = prop::sample::select(vec![EioReport::Offender, EioReport::BlockStart]);
    // After the second silent device the consumer does not ask the others.
    (7..60_u32, some(1), some(2), 1..80_usize, 2..9_usize, eio).prop_map(
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

/// The number that `Op::words` put into a command.
fn number(words: &[u64; 2]) -> u32 {
    match words[0] as u8 {
        0x11 => (words[0] >> 48) as u32,
        0x05 => (words[0] >> 12) as u32 & 0xf_ffff,
        _ => (words[1] >> 12) as u32,
    }
}

fn names_stream(words: &[u64; 2]) -> Option<u32> {
    matches!(words[0] as u8, 0x05 | 0x06 | 0x40).then_some((words[0] >> 32) as u32)
}

impl Failing {
    /// The host checks all commands, then executes them.
    fn answer(&self, call: usize, commands: &[[u64; 2]]) -> Answer {
        if call % self.interrupted == 1 {
            let errno = if call % 2 == 0 { EINTR } else { EAGAIN };
            return Answer::error(errno, 7);
        }
        if commands.len() > self.memory {
            return Answer::error(ENOMEM, commands.len() as u32);
        }
        if let Some(index) = commands.iter().position(|words| self.refuses(words)) {
            let entry_num = match self.eio {
                EioReport::Offender => index as u32,
                EioReport::BlockStart => 0,
            };
            return Answer::error(EIO, entry_num);
        }
        let silent = |words: &[u64; 2]| {
            words[0] as u8 == 0x40 && self.silent.contains(&((words[0] >> 32) as u32))
        };
        if commands.iter().any(silent) {
            return Answer::error(ETIMEDOUT, 0);
        }
        Answer::Done
    }

    fn refuses(&self, words: &[u64; 2]) -> bool {
        names_stream(words).is_some_and(|sid| self.vanished.contains(&sid))
            || (words[0] as u8 == 0x12 && number(words) % self.illegal == 3)
    }
}

/// Puts all of `program` into the queue in portions, and recovers from errors
/// as a driver does, until everything is consumed.
fn drive(machine: &mut Machine, program: &[Op], portion: usize, mut observe: impl FnMut(&Machine)) {
    let ring = machine.registers.cmdq_ring(&machine.features);
    let commands: Vec<_> = (1..)
        .zip(program)
        .map(|(number, op)| op.words(number))
        .collect();
    let portion = portion.min(ring.entries() as usize);
    for some in commands.chunks(portion) {
        machine.submit(some);
        observe(machine);
        while let Some(error) = machine.error() {
            if error == 1 {
                // What Linux does with an illegal command.
                let rd = machine.rd();
                machine.store_commands(rd, &[[0x46, 0]]);
            }
            machine.acknowledge();
            observe(machine);
        }
        assert_eq!(machine.rd(), ring.advance(machine.registers.cmdq.prod, 0));
    }
}

fn machine(policy: FlushPolicy, log2size: u32) -> Machine {
    let mut machine = Machine::resized(vector_features(), policy, log2size, 0);
    machine.host.streams = STREAMS.into_iter().collect();
    machine
}

fn policy(repeat_tlbi_cfgi: bool, eio: EioReport) -> FlushPolicy {
    FlushPolicy {
        repeat_tlbi_cfgi,
        eio,
        ..FlushPolicy::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        // A failure is to become a test of its own, not a file of seeds.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A host with reasons of its own: the guest sees the same registers and
    /// interrupts, and the same set of invalidations is complete before each.
    #[test]
    fn batches_equal_single_commands(
        program in prop::collection::vec(op(), 1..300),
        portion in 1..200_usize,
        log2size in 0..9_u32,
        failing in failing(),
        repeat in any::<bool>(),
        budget in prop::sample::select(vec![1, 2, 7, 4096]),
    ) {
        let policy = policy(repeat, failing.eio);
        let run = |reference: bool| {
            let mut machine = machine(policy, log2size);
            machine.budget = budget;
            if reference {
                machine = machine.with_reference();
            }
            // Not there any more, but the consumer learns it from the host.
            let late = failing.vanished.clone();
            machine.host.vanishing = late;
            let failing = failing.clone();
            machine.host.behaviour =
                Some(Box::new(move |call, commands| failing.answer(call, commands)));
            let mut seen = Vec::new();
            drive(&mut machine, &program, portion, |machine| {
                seen.push((machine.rd(), machine.error(), machine.registers.gerror));
            });
            (machine, seen)
        };
        let (batched, seen) = run(false);
        let (single, expected) = run(true);
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(batched.signals.log.segments(), single.signals.log.segments());
        prop_assert_eq!(&batched.registers, &single.registers);
        let quarantined = |machine: &Machine| -> BTreeSet<u32> {
            machine.host.quarantined.iter().copied().collect()
        };
        prop_assert_eq!(quarantined(&batched), quarantined(&single));
    }

    /// A host without reason: whatever `CMDQ_CONS` has passed is complete, and
    /// behind a command that is reported as illegal nothing was begun.
    #[test]
    fn no_invalidation_is_lost(
        program in prop::collection::vec(op(), 1..200),
        portion in 1..200_usize,
        answers in prop::collection::vec((any_errno(), 0..70_u32, 0..10_u8), 1..60),
        timeout_retries in 0..3_u32,
        memory_retries in 0..3_u32,
        repeat in any::<bool>(),
        defer_remainder in any::<bool>(),
        eio in prop::sample::select(vec![EioReport::Offender, EioReport::BlockStart]),
    ) {
        let policy = FlushPolicy { timeout_retries, memory_retries, defer_remainder, ..policy(repeat, eio) };
        let mut machine = machine(policy, 8);
        // A second attempt that fails comes after a first that did not: what
        // is newer was executed then. Doing too much is harmless (4.4).
        let once = !repeat && answers.iter().all(|(errno, ..)| *errno != ETIMEDOUT);
        machine.host.behaviour = Some(Box::new(move |call, _| {
            let (errno, entry_num, dice) = answers[call % answers.len()];
            // In the end every host answers, else no guest would get on.
            if call > 600 || dice < 6 {
                Answer::Done
            } else {
                Answer::error(errno, entry_num)
            }
        }));
        let commands: Vec<_> = (1..).zip(&program).map(|(n, op)| op.words(n)).collect();
        let mut given_up = BTreeSet::new();
        let mut calls = 0;
        let mut consumed = 0;
        let mut last_rd = 0;
        drive(&mut machine, &program, portion, |machine| {
            assert!(machine.host.calls.len() - calls < 10_000, "too many calls");
            calls = machine.host.calls.len();
            let ring = machine.registers.cmdq_ring(&machine.features);
            consumed += (machine.rd().wrapping_sub(last_rd) & ring.pointer_mask()) as usize;
            last_rd = machine.rd();
            let executed: BTreeSet<_> = machine.host.log.executed().into_iter().collect();
            for (index, words) in commands.iter().enumerate().take(consumed) {
                let stream = names_stream(words);
                let moot = given_up.contains(&index)
                    || stream.is_some_and(|sid| !STREAMS.contains(&sid))
                    || stream.is_some_and(|sid| machine.host.quarantined.contains(&sid));
                let forwarded = matches!(words[0] as u8, 0x05 | 0x11 | 0x12 | 0x40);
                assert!(
                    !forwarded || moot || executed.contains(words),
                    "command {index} is lost: {words:x?}"
                );
            }
            if machine.error() == Some(1) {
                given_up.insert(consumed);
                if !once {
                    return;
                }
                for words in &commands[(consumed + 1).min(commands.len())..] {
                    let own = matches!(words[0] as u8, 0x05 | 0x12 | 0x40);
                    assert!(!own || !executed.contains(words), "newer: {words:x?}");
                }
            }
        });
        prop_assert_eq!(consumed, commands.len());
    }

    /// With the erratum every TLBI and CFGI is executed exactly twice, each
    /// `CMD_ATC_INV` once, and never together.
    #[test]
    fn the_erratum_repeats_what_it_must(
        program in prop::collection::vec(op(), 1..300),
        portion in 1..200_usize,
    ) {
        let mut machine = machine(policy(true, EioReport::Offender), 8);
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
    prop::sample::select(vec![
        EIO, ETIMEDOUT, ENOMEM, EINTR, EAGAIN, EFAULT, EINVAL, EBADF, ENOENT,
    ])
}

/// The drivers above acknowledge through `GERRORN`; that this is what lets the
/// queue go on is for them to rely on.
#[test]
fn nothing_is_consumed_before_the_acknowledgement() {
    let mut machine = machine(FlushPolicy::default(), 4);
    machine.submit(&[Op::Reserved.words(1), Op::Va.words(2)]);
    machine.store_commands(0, &[[0x46, 0]]);
    machine.consume();
    assert_eq!((machine.rd(), machine.host.calls.len()), (0, 0));
    machine.write(GERRORN, 1);
    assert_eq!((machine.rd(), machine.host.calls.len()), (2, 1));
}
