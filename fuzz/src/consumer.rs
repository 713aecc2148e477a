// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Randomized guest, host and memory. Each run of the Command queue is compared
//! with the effects that the specification permits.

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::{
    command::{decode, Command, CompletionSignal, Invalidation},
    queue::QueueLayout,
    Features, FlushPolicy, Progress, Registers,
};

use crate::{
    common::{
        host::{pages, EAGAIN, EINTR, EIO, ENOENT, ENOMEM, ETIMEDOUT},
        log::Event,
        machine::{CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CR0, GERRORN, IRQ_CTRL, QUEUE},
        Answer, Machine,
    },
    pick::{below, one_of, plausible_features, policy, several},
};

/// Streams that may have a device.
const STREAMS: [u32; 6] = [0, 8, 0x18, 0x19, 0x1f, 0xffff];

/// Where MSIs go: away from the queue, where they would overwrite commands.
const MSI: u64 = 0x2000_0000;

const GERROR_IRQ_CFG0: u64 = 0x68;

/// `NUM` and `SCALE` of a range (§4.4.1.1).
const RANGE: u64 = 0x3f1_f000;

/// Most runs of the queue after one step.
const RUNS: usize = 40;

/// The steps of one input, in order.
#[derive(Clone, Debug)]
pub struct Session {
    features: Features,
    policy: FlushPolicy,
    log2size: u32,
    start: u32,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Commands, and the doorbell.
    Submit(Vec<[u64; 2]>),
    /// A command changes in place.
    Overwrite {
        slot: u32,
        words: [u64; 2],
    },
    Write {
        offset: u64,
        value: u64,
    },
    Acknowledge,
    /// The next answers of the host.
    Answers(Vec<Answer>),
    /// A device is plugged or unplugged; the host knows its StreamID, or does not.
    Device {
        sid: u32,
        there: bool,
        known: bool,
    },
    /// The device is unplugged as soon as the host refuses a command.
    Vanishing(u32),
    CachesCds(bool),
    Gone(bool),
    /// One call uses up the time slice of a run.
    Slow(bool),
    /// Every attempt to detach a stream from stage 1 fails.
    Stuck(bool),
    /// So many failed calls have held up the machine for too long.
    Patience(Option<usize>),
    /// Accesses to a slot of the queue abort, or to the MSI page, or none any more.
    Abort(Option<Place>),
    Budget(u32),
    /// A run without a doorbell.
    Run,
    Reset,
    /// To another machine with the same tables.
    Migrate,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Slot(u32),
    Msi,
}

impl Session {
    /// Panics if a run of the queue has an effect that it must not have.
    pub fn check(&self) {
        let mut machine = Machine::resized(self.features, self.policy, self.log2size, self.start);
        machine.host.caches_cds = true;
        let mut stall = Stall::default();
        for step in &self.steps {
            take(&mut machine, step);
            if matches!(step, Step::Reset) {
                stall = Stall::default();
            }
            for _ in 0..RUNS {
                if run_queue(&mut machine, &mut stall) == Progress::Idle {
                    break;
                }
            }
        }
    }
}

fn take(machine: &mut Machine, step: &Step) {
    let ring = machine.registers.cmdq_layout(&machine.features);
    match step {
        Step::Submit(commands) => {
            let commands = &commands[..commands.len().min(ring.entries() as usize)];
            let prod = machine.registers.cmdq_prod;
            machine.store_commands(prod, commands);
            let prod = ring.advance(prod, commands.len() as u32);
            write(machine, CMDQ_PROD, prod.into());
        }
        Step::Overwrite { slot, words } => machine.store_commands(*slot, &[*words]),
        Step::Write { offset, value } => write(machine, *offset, *value),
        Step::Acknowledge => {
            let gerror = machine.read(0x60);
            write(machine, GERRORN, gerror);
        }
        Step::Answers(answers) => machine.host.answers = answers.iter().copied().collect(),
        Step::Device { sid, there, known } => {
            machine.host.streams.remove(sid);
            machine.host.unknown.remove(sid);
            if *there {
                machine.host.streams.insert(*sid);
            }
            if !known {
                machine.host.unknown.insert(*sid);
            }
        }
        Step::Vanishing(sid) => {
            machine.host.vanishing.insert(*sid);
        }
        Step::CachesCds(caches) => machine.host.caches_cds = *caches,
        Step::Slow(slow) => machine.host.is_slow = *slow,
        Step::Gone(gone) => machine.host.is_gone = *gone,
        Step::Stuck(stuck) => machine.host.is_stuck = *stuck,
        Step::Patience(calls) => machine.host.patience = *calls,
        Step::Abort(None) => {
            machine.memory.unreadable.clear();
            machine.memory.unwritable.clear();
        }
        Step::Abort(Some(Place::Slot(slot))) => {
            let address = ring.entry_address(*slot);
            machine.memory.unreadable.push(address + 3..address + 4);
        }
        Step::Abort(Some(Place::Msi)) => machine.memory.unwritable.push(MSI..MSI + 0x1000),
        Step::Budget(budget) => machine.budget = *budget,
        Step::Run => {}
        Step::Reset => {
            machine.registers = Registers::reset(&machine.features);
            machine.cmdq.reset();
        }
        Step::Migrate => {
            let mut restored = machine.registers.clone();
            restored.clear_reserved(&machine.features);
            assert_eq!(restored, machine.registers);
        }
    }
}

/// Writes a register without the run that it requests: `check` does that next.
fn write(machine: &mut Machine, offset: u64, value: u64) {
    let size = if offset == CMDQ_BASE { 8 } else { 4 };
    let features = machine.features;
    let effects = machine.registers.write(&features, offset, value, size);
    assert!(!effects.cmdq || machine.registers.cmdq_ready(&features));
}

/// How often the host has failed at one command, as bounds: a test cannot observe
/// which commands were completed within a run.
#[derive(Clone, Copy, Default)]
struct Stall {
    position: u32,
    least: u32,
    most: u32,
}

/// The state before a run.
struct Before {
    ready: bool,
    registers: Registers,
    ring: QueueLayout,
    rd: u32,
    /// The commands from there on that a run may read.
    commands: Vec<Slot>,
    used: u32,
    streams: Vec<u32>,
    answers: Vec<Answer>,
    events: usize,
    calls: usize,
    given_up: usize,
    is_local: bool,
    stall: Stall,
    reads: usize,
    messages: usize,
}

struct Slot {
    words: [u64; 2],
    readable: bool,
    decoded: std::result::Result<Command, smmuv3::Illegal>,
}

impl Before {
    fn of(machine: &Machine, stall: Stall) -> Self {
        let registers = machine.registers.clone();
        let features = &machine.features;
        let ring = registers.cmdq_layout(features);
        let ready = registers.cmdq_ready(features);
        let rd = registers.cmdq_cons & ring.pointer_mask();
        let used = match ready {
            true => ring.used(registers.cmdq_prod, rd).unwrap_or(0),
            false => 0,
        };
        let slot = |number| {
            let address = ring.entry_address(ring.advance(rd, number));
            let words = [0, 8].map(|at| machine.memory.load_u64(address.wrapping_add(at)));
            let within = address..address.saturating_add(16);
            let aborts = machine.memory.unreadable.iter();
            Slot {
                words,
                readable: !aborts
                    .clone()
                    .any(|range| range.start < within.end && within.start < range.end),
                decoded: decode(words, features),
            }
        };
        Self {
            ready,
            rd,
            commands: (0..used.min(machine.budget)).map(slot).collect(),
            used,
            streams: known(machine),
            answers: machine.host.answers.iter().copied().collect(),
            events: machine.host.log.events().len(),
            calls: machine.host.calls.len(),
            given_up: machine.host.given_up,
            is_local: machine.host.is_local,
            stall,
            reads: machine.memory.reads,
            messages: machine.memory.written.len(),
            registers,
            ring,
        }
    }
}

/// Streams that the host knows.
fn known(machine: &Machine) -> Vec<u32> {
    let host = &machine.host;
    host.streams.difference(&host.unknown).copied().collect()
}

fn run_queue(machine: &mut Machine, stall: &mut Stall) -> Progress {
    machine.host.waived.clear();
    let before = Before::of(machine, *stall);
    let progress = machine.consume_once();
    let after = After {
        before: &before,
        machine,
        events: machine.host.log.events().split_off(before.events),
        failures: before.answers[..before.answers.len() - machine.host.answers.len()]
            .iter()
            .filter_map(|answer| match answer {
                Answer::Error { errno, .. } => Some(*errno),
                Answer::Done => None,
            })
            .collect(),
        consumed: {
            let rd = machine.registers.cmdq_cons & before.ring.pointer_mask();
            (rd.wrapping_sub(before.rd) & before.ring.pointer_mask()) as usize
        },
    };
    after.check(progress);
    *stall = after.stall();
    progress
}

/// The effects of a run.
struct After<'a> {
    before: &'a Before,
    machine: &'a Machine,
    events: Vec<Event>,
    /// The errors that the host returned.
    failures: Vec<i32>,
    consumed: usize,
}

impl After<'_> {
    fn check(&self, progress: Progress) {
        let registers = &self.machine.registers;
        let mut clean = registers.clone();
        clean.clear_reserved(&self.machine.features);
        assert_eq!(*registers, clean);
        if !self.before.ready {
            assert_eq!(progress, Progress::Idle);
            assert_eq!(*registers, self.before.registers);
            assert!(self.events.is_empty());
        }
        self.work_is_bounded();
        self.given_up_for_a_reason();
        self.only_its_registers_changed();
        self.consumed_is_complete();
        self.executed_was_asked_for();
        self.signals();
        match self.error() {
            Some(code) => {
                assert_eq!(progress, Progress::Idle);
                self.stopped(code);
            }
            None => self.not_stopped(progress),
        }
    }

    fn work_is_bounded(&self) {
        let (host, memory) = (&self.machine.host, &self.machine.memory);
        let commands = self.before.commands.len();
        assert!(self.consumed <= commands);
        // Retries of each kind, for both passes and each device.
        assert!(host.calls.len() - self.before.calls <= 400 * (commands + 1));
        // Of each Stream table entry a descriptor and the entry.
        let installed = |event: &&Event| matches!(event, Event::Installed(_));
        let entries = 2 * self.events.iter().filter(installed).count();
        assert!(memory.reads - self.before.reads <= commands + 2 + commands / 4096 + entries);
    }

    fn calls(&self) -> usize {
        self.machine.host.calls.len() - self.before.calls
    }

    fn gave_up(&self) -> bool {
        self.machine.host.given_up > self.before.given_up
    }

    /// Returns whether the host was asked to complete anything.
    fn asked(&self) -> bool {
        self.calls() > 0 || !self.machine.host.waived.is_empty()
    }

    /// Returns whether a stream may be attached to stage 1 again.
    fn is_installed(&self) -> bool {
        let mut events = self.events.iter();
        events.any(|event| matches!(event, Event::Installed(_)))
    }

    /// The host is given up on for a reason only, and is not called after that.
    fn given_up_for_a_reason(&self) {
        let (host, before) = (&self.machine.host, self.before);
        let most_errors = self.machine.cmdq.policy().max_errors.max(1);
        let exhausted = host.patience.is_some() && !self.failures.is_empty();
        assert!(!self.gave_up() || before.stall.most >= most_errors || exhausted);
        // Once for each call that failed, and for each batch.
        let times = host.given_up - before.given_up;
        assert!(times <= self.calls() + before.commands.len() + 1);
        if before.stall.least >= most_errors && self.asked() {
            assert!(self.gave_up(), "the host fails for good");
            assert!(host.is_stuck || self.is_installed() || self.calls() == 0);
        }
        if before.is_local && !self.is_installed() {
            assert!(host.is_local || (self.gave_up() && host.is_stuck));
            assert!(!host.is_local || self.calls() == 0, "nothing to call for");
        }
        assert!(host.waived.is_empty() || before.is_local || self.gave_up());
    }

    /// Returns how often the host has failed at one command by now.
    fn stall(&self) -> Stall {
        let before = self.before.stall;
        let position = self.machine.registers.cmdq_cons & self.before.ring.pointer_mask();
        let failed = self.error() == Some(2) && self.before.commands[self.consumed].readable;
        let nothing_else = self.consumed == 0
            && self.executed().next().is_none()
            && !self.is_installed()
            && self.machine.host.waived.is_empty();
        match (failed, nothing_else) {
            (true, true) if position == before.position => Stall {
                position,
                least: before.least + 1,
                most: before.most + 1,
            },
            (true, _) => Stall {
                position,
                least: 1,
                most: if position == before.position {
                    before.most + 1
                } else {
                    1
                },
            },
            (false, true) => before,
            (false, false) => Stall { least: 0, ..before },
        }
    }

    fn only_its_registers_changed(&self) {
        let mut expected = self.before.registers.clone();
        expected.cmdq_cons = self.machine.registers.cmdq_cons;
        expected.gerror = self.machine.registers.gerror;
        assert_eq!(expected, self.machine.registers);
    }

    /// Returns `CMDQ_CONS.ERR` of an error that is new.
    fn error(&self) -> Option<u32> {
        let new = self.machine.registers.active_errors() & !self.before.registers.active_errors();
        let code = self.machine.registers.cmdq_cons >> 24;
        if new & 1 == 0 {
            // The code of an error that is over stays (§6.3.28).
            assert_eq!(code, self.before.registers.cmdq_cons >> 24);
        }
        (new & 1 != 0).then_some(code)
    }

    fn executed(&self) -> impl Iterator<Item = &[u64; 2]> {
        self.events.iter().filter_map(|event| match event {
            Event::Executed(words) => Some(words),
            _ => None,
        })
    }

    fn happened(&self, event: Event) -> bool {
        self.events.contains(&event)
    }

    /// Every command that `CMDQ_CONS` has passed is complete.
    fn consumed_is_complete(&self) {
        for slot in &self.before.commands[..self.consumed] {
            assert!(slot.readable, "consumed without having been read");
            match slot.decoded {
                Err(_) => panic!("consumed, but illegal: {:x?}", slot.words),
                Ok(Command::Invalidate(command)) => {
                    let words = command.to_words();
                    assert!(
                        self.executed().any(|executed| *executed == words)
                            || self.is_waived(words)
                            || self.is_moot(&command),
                        "lost: {words:x?}"
                    );
                }
                Ok(Command::CfgiSte { sid, .. }) => self.installed(sid, sid),
                Ok(Command::CfgiSteRange { first, last }) => self.installed(first, last),
                Ok(_) => {}
            }
        }
    }

    /// Returns whether a command completed without the host, which was given up on
    /// before, or because of the call with this command.
    fn is_waived(&self, words: [u64; 2]) -> bool {
        let host = &self.machine.host;
        let mut calls = host.calls[self.before.calls..].iter();
        let is_lost = self.gave_up() && !host.is_stuck;
        host.waived.contains(&words)
            || (is_lost && calls.any(|call| call.iter().flat_map(pages).any(|own| own == words)))
    }

    /// Returns whether nothing is cached that a command could invalidate.
    fn is_moot(&self, command: &Invalidation) -> bool {
        let (target, is_atc) = (command.target(), command.is_atc_inv());
        let ignored = is_atc && !self.before.registers.smmu_enabled();
        let there = |sid| self.before.streams.contains(&sid) && known(self.machine).contains(&sid);
        let absent = target.is_some_and(|sid| !there(sid));
        let silent = target.is_some_and(|sid| is_atc && self.happened(Event::Quarantined(sid)));
        let gone = self.machine.host.is_gone && self.failures.contains(&ENOENT);
        ignored || absent || silent || gone
    }

    /// The entries of all devices that are still there were read again.
    fn installed(&self, first: u32, last: u32) {
        for sid in self.machine.host.streams.range(first..=last) {
            assert!(
                self.happened(Event::Installed(*sid)),
                "{sid:#x} was not attached again"
            );
        }
    }

    /// The host was given the guest's commands, and no others.
    fn executed_was_asked_for(&self) {
        for words in self.executed().chain(&self.machine.host.waived) {
            let asked = self.before.commands.iter().any(|slot| match slot.decoded {
                Ok(Command::Invalidate(own)) => {
                    own.to_words() == *words
                        || is_page_of(words, own.to_words())
                        || self.may_be_in_range(&own, words)
                }
                Ok(Command::CfgiSte { sid, .. }) => *words == descriptors_of(sid),
                Ok(Command::CfgiSteRange { first, last }) => {
                    let sid = (words[0] >> 32) as u32;
                    (first..=last).contains(&sid) && *words == descriptors_of(sid)
                }
                _ => false,
            });
            assert!(asked, "{words:x?} was not submitted by the guest");
        }
    }

    /// Whether a command may be the range that a command is part of the run for, or of
    /// one of its pages: it may have a few more.
    fn may_be_in_range(&self, own: &Invalidation, words: &[u64; 2]) -> bool {
        let [own0, own1] = own.to_words();
        let granule = 1 << 16;
        let distance = (words[1] & !0xfff).wrapping_sub(own1 & !(granule - 1));
        self.merges()
            && matches!(own0 as u8, 0x12 | 0x13)
            && own0 == words[0] & !RANGE
            && (own1 ^ words[1]) & 0x3ff == 0
            && distance <= 1 << 23
    }

    fn merges(&self) -> bool {
        self.machine.cmdq.policy().merge_ranges.is_some()
    }

    /// A `CMD_SYNC` is complete before its signal, and in order.
    fn syncs_complete_in_order(&self) {
        let before = self.before;
        let commands = before.commands[..self.consumed].iter();
        let syncs = (1..)
            .zip(commands)
            .filter(|(_, slot)| matches!(slot.decoded, Ok(Command::Sync { .. })))
            .map(|(number, _)| before.ring.advance(before.rd, number));
        let completed = self.events.iter().filter_map(|event| match event {
            Event::SyncCompleted(rd) => Some(*rd),
            _ => None,
        });
        assert!(completed.eq(syncs));
    }

    fn signals(&self) {
        self.syncs_complete_in_order();
        let count = |wanted: fn(&CompletionSignal) -> bool| {
            let consumed = self.before.commands[..self.consumed].iter();
            consumed
                .filter(
                    |slot| matches!(slot.decoded, Ok(Command::Sync { signal }) if wanted(&signal)),
                )
                .count()
        };
        let wired = count(|signal| *signal == CompletionSignal::Irq);
        let signalled = self.events.iter().filter(|event| **event == Event::CmdSync);
        assert_eq!(signalled.count(), wired);
        let messages = count(|signal| matches!(signal, CompletionSignal::Msi { .. }));
        let before = &self.before.registers;
        let new = self.machine.registers.active_errors() & !before.active_errors();
        // Of a GERROR MSI that aborts there is none.
        let interrupts = match before.gerror_irq_enabled() {
            true => (new & !0x80).count_ones() as usize,
            false => 0,
        };
        let signalled = self.events.iter().filter(|event| **event == Event::Gerror);
        assert_eq!(signalled.count(), interrupts);
        let error_messages = match before.gerror_irq_cfg0 {
            0 => 0,
            _ => interrupts,
        };
        let memory = &self.machine.memory;
        let written = memory.written.len() - self.before.messages;
        assert_eq!(written, messages + error_messages);
        assert_eq!(new & !0x91, 0, "other errors");
        assert!(new & 0x10 == 0 || messages > 0);
        assert!(new & 0x80 == 0 || error_messages > 0);
    }

    /// The queue stopped at a command, for a reason.
    fn stopped(&self, code: u32) {
        let commands = &self.before.commands;
        let slot = commands.get(self.consumed).expect("stopped at a command");
        let once =
            !self.failures.contains(&ETIMEDOUT) && !self.machine.cmdq.policy().repeat_tlbi_cfgi;
        let exact = match code {
            1 => {
                let refused = self.failures.contains(&EIO);
                assert!(slot.readable && (slot.decoded.is_err() || refused));
                slot.decoded.is_err() || once
            }
            2 => {
                assert!(!slot.readable || !self.failures.is_empty());
                !slot.readable
            }
            3 => {
                assert!(matches!(slot.decoded, Ok(Command::Sync { .. })));
                true
            }
            other => panic!("no such code: {other}"),
        };
        // No following command was begun. One that timed out may have been, and
        // preceding ones are complete before this is checked.
        if exact && !self.merges() {
            let executed: Vec<_> = self.executed().collect();
            for newer in &commands[self.consumed + 1..] {
                let Ok(Command::Invalidate(command)) = newer.decoded else {
                    continue;
                };
                let words = command.to_words();
                let older = commands[..=self.consumed].iter().any(|slot| {
                    slot.decoded == newer.decoded
                        || is_descriptors(&words)
                        || is_page_of(&words, slot.words)
                });
                assert!(older || !executed.contains(&&words), "newer: {words:x?}");
            }
        }
    }

    /// Returns whether there was a call that can have taken long.
    fn takes_time(&self) -> bool {
        self.asked()
            || self.before.commands[..self.consumed].iter().any(|slot| {
                matches!(
                    slot.decoded,
                    Ok(Command::CfgiSte { .. } | Command::CfgiSteRange { .. })
                        | Ok(Command::Sync {
                            signal: CompletionSignal::Msi { .. }
                        })
                )
            })
    }

    fn not_stopped(&self, progress: Progress) {
        let (consumed, used) = (self.consumed, self.before.used as usize);
        match progress {
            Progress::Idle => assert_eq!(consumed, used),
            Progress::More => {
                let spent = self.machine.host.is_slow && self.takes_time();
                assert!(spent || (consumed < used && consumed == self.before.commands.len()));
            }
            Progress::Deferred => {
                assert!(self.machine.cmdq.policy().defer_remainder);
                let left = used - consumed;
                let is_remainder = (1..63).contains(&left) && consumed >= 63;
                assert!(is_remainder || (self.merges() && (63..=1024).contains(&left)));
            }
        }
        assert_eq!(
            self.machine.cmdq.is_deferred(),
            progress == Progress::Deferred
        );
    }
}

/// The `CMD_CFGI_CD_ALL` of a stream.
const fn descriptors_of(sid: u32) -> [u64; 2] {
    [0x06 | ((sid as u64) << 32), 0]
}

/// Returns whether the test host logs a command as one of the pages of a range of 4KB
/// granules that the guest submitted.
fn is_page_of(words: &[u64; 2], range: [u64; 2]) -> bool {
    let pages = ((range[0] >> 12) & 0x1f) + 1;
    let size = pages << (((range[0] >> 20) & 0x3f).min(10) + 12);
    let distance = (words[1] & !0xfff).wrapping_sub(range[1] & !0xfff);
    range[1] & 0xf00 == 0x400
        && words[0] == range[0] & !RANGE
        && (words[1] ^ range[1]) & 1 == 0
        && distance < size
}

const fn is_descriptors(words: &[u64; 2]) -> bool {
    words[0] as u8 == 0x06
}

impl Arbitrary<'_> for Session {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let log2size = u32::from(below(u, 12)?);
        Ok(Self {
            features: plausible_features(u)?.with_queues_preset(false),
            policy: policy(u)?,
            log2size,
            start: u32::from(u16::arbitrary(u)?) & ((2 << log2size) - 1),
            steps: several(u, 60, step)?,
        })
    }
}

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match below(u, 32)? {
        0..=9 => {
            let count = usize::from(below(u, 100)?);
            Step::Submit(several(u, count, command)?)
        }
        10..=12 => Step::Acknowledge,
        13..=17 => {
            let count = usize::from(below(u, 24)?);
            Step::Answers(several(u, count, answer)?)
        }
        18..=19 => {
            let bits = u8::arbitrary(u)?;
            Step::Device {
                sid: STREAMS[usize::from(bits) % STREAMS.len()],
                there: bits & 0x80 == 0,
                known: bits & 0x60 != 0,
            }
        }
        20 => Step::Vanishing(one_of(u, &STREAMS)?),
        21 => Step::CachesCds(bool::arbitrary(u)?),
        22 => {
            let bits = u8::arbitrary(u)?;
            let set = bits & 2 != 0;
            match (bits >> 6, bits & 1) {
                (0, 0) => Step::Gone(set),
                (0, _) => Step::Slow(set),
                (1, _) => Step::Stuck(set),
                _ => Step::Patience(set.then_some(usize::from((bits >> 2) & 0xf))),
            }
        }
        23 => Step::Abort(match u8::arbitrary(u)? {
            0..=0x3f => None,
            0x40..=0x5f => Some(Place::Msi),
            slot => Some(Place::Slot(slot.into())),
        }),
        24 => Step::Budget(one_of(u, &[0, 1, 2, 7, 62, 63, 64, 4096])?),
        25 => Step::Run,
        26 => Step::Overwrite {
            slot: u32::from(u8::arbitrary(u)?),
            words: command(u)?,
        },
        27..=30 => register(u)?,
        _ => match below(u, 8)? {
            0 => Step::Reset,
            _ => Step::Migrate,
        },
    })
}

fn register(u: &mut Unstructured<'_>) -> Result<Step> {
    let [which, value] = <[u8; 2]>::arbitrary(u)?;
    let value = u64::from(value);
    let (offset, value) = match which % 10 {
        0 | 1 => (CR0, 0x8 | (value & 0xd)),
        2 => (CR0, value & 0xd),
        3 => (GERRORN, value | (value << 4)),
        4 => (IRQ_CTRL, value & 0x5),
        5 => (CMDQ_BASE, QUEUE | (value % 12)),
        6 => (CMDQ_CONS, value),
        7 => (GERROR_IRQ_CFG0, MSI | (value << 2)),
        8 => (GERROR_IRQ_CFG0, 0),
        _ => (CMDQ_PROD, value),
    };
    Ok(Step::Write { offset, value })
}

fn answer(u: &mut Unstructured<'_>) -> Result<Answer> {
    let [what, entry_num] = <[u8; 2]>::arbitrary(u)?;
    let entry_num = match entry_num {
        0xff => u32::MAX,
        small => small.into(),
    };
    Ok(match what {
        0..=0x5f => Answer::Done,
        0x60..=0x7f => Answer::error(EIO, entry_num),
        0x80..=0x9f => Answer::error(ETIMEDOUT, entry_num),
        0xa0..=0xb7 => Answer::error(ENOMEM, entry_num),
        0xb8..=0xc7 => Answer::error(EINTR, entry_num),
        0xc8..=0xd7 => Answer::error(EAGAIN, entry_num),
        0xd8..=0xdf => Answer::error(ENOENT, entry_num),
        // Any other, and those that no kernel has.
        other => Answer::error(i32::from(other) * 5 - 0x460, entry_num),
    })
}

/// A command that may be legal, with a few bits that distinguish it; or any words.
fn command(u: &mut Unstructured<'_>) -> Result<[u64; 2]> {
    let [kind, number] = <[u8; 2]>::arbitrary(u)?;
    let n = u64::from(number);
    let stream = u64::from(STREAMS[usize::from(number) % STREAMS.len()]) << 32;
    Ok(match kind % 32 {
        0..=5 => [0x5_0000_0000_0012, (n << 12) | 1],
        6 => [0x11 | (n << 48), 0],
        7 => [0x10, 0],
        8 => [0x13, n << 12],
        9 => [0x30, 0],
        10 => [0x2a, n << 12],
        11 => [0x28, 0],
        12..=15 => [0x40 | stream, n << 12],
        16..=17 => [0x05 | stream | (n << 12), 1],
        18 => [0x06 | stream, 0],
        19..=20 => [0x03 | stream, 1],
        21 => [0x04 | stream, n % 32],
        22 => [0x01 | stream, 0],
        23..=24 => [0x46, 0],
        25..=27 => [0x1046 | (n << 32), MSI | (n << 2)],
        28 => [0x2046, 0],
        29 => [0xff, n],
        _ => {
            let [word0, word1] = <[u64; 2]>::arbitrary(u)?;
            let is_sync = word0 as u8 == 0x46;
            [
                word0,
                if is_sync {
                    MSI | (word1 & 0xfff)
                } else {
                    word1
                },
            ]
        }
    })
}
