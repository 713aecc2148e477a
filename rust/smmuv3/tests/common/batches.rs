// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A guest's program of commands on a failing host, and the properties that must hold:
//! for property tests and fuzz targets, which generate both.

use std::collections::BTreeSet;

use smmuv3::{batch::Granules, EioReport, Features, FlushPolicy};

use super::{
    counters,
    host::{pages, EAGAIN, EINTR, EIO, ENOMEM, ETIMEDOUT},
    log::Event,
    vector_features, Answer, Machine,
};

/// Streams that have a device.
pub const STREAMS: [u32; 3] = [0x8, 0x18, 0x19];

/// Streams that commands name: these, and one without a device.
pub const NAMED_STREAMS: [u32; 4] = [0x8, 0x18, 0x19, 0x99];

/// The commands of a program. Each is distinguished from the others by the number that
/// it gets when it is queued.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Va,
    Asid,
    Atc(u32),
    Cd(u32),
    Ste(u32),
    SteRange,
    Prefetch,
    Sync,
    SyncIrq,
    SyncMsi,
    Reserved,
    BadSync,
}

/// Where MSIs are written: of each command to a word of its own, of which every eighth
/// is where writes abort.
pub const MSIS: u64 = 0x2000_0000;

/// Where the MSIs of errors are written.
const GERROR_MSI: u64 = MSIS + 0x10_0000;

impl Op {
    pub fn words(self, number: u32) -> [u64; 2] {
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
            Self::SyncMsi => [0x1046 | (n << 32), MSIS + 4 * n],
            Self::Reserved => [0xff, n],
            Self::BadSync => [0x3046, 0],
        }
    }
}

/// Checks that every invalidation was executed once in the SMMU's own caches each time that
/// it was fetched, however often the host was asked for it, and in the order of the program:
/// commands are fetched again only after an error, and one at which a held `CMD_SYNC` has
/// failed is not executed.
fn local_once_in_order(machine: &Machine) {
    let local = &machine.host.local;
    let counted = machine.cmdq.counters().commands();
    let errors = machine.observer.errors;
    let missing = counted.forwarded.checked_sub(local.len() as u64);
    assert!(
        missing.is_some_and(|missing| missing <= errors),
        "{missing:?}"
    );
    let steps_back = local
        .windows(2)
        .filter(|two| number(&two[1]) <= number(&two[0]))
        .count();
    assert!(steps_back as u64 <= errors, "{local:x?}");
}

/// How a host fails that fails for a reason.
#[derive(Clone, Debug)]
pub struct Failing {
    /// Every this many commands one is illegal to the host.
    pub illegal: u32,
    /// Devices that do not answer.
    pub silent: BTreeSet<u32>,
    /// Devices that went away without the SMMU being notified first.
    pub vanished: BTreeSet<u32>,
    /// Most commands that there is memory for.
    pub memory: usize,
    /// Every this many calls one is interrupted.
    pub interrupted: usize,
    /// Whether the index of an illegal command is reported.
    pub eio: EioReport,
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
            || pages(words)
                .iter()
                .any(|page| page[0] as u8 == 0x12 && number(page) % self.illegal == 3)
    }
}

/// Puts all of `program` into the queue in portions, and recovers from errors
/// as a driver does, until everything is consumed.
pub fn drive(
    machine: &mut Machine,
    program: &[Op],
    portion: usize,
    mut observe: impl FnMut(&Machine),
) {
    let ring = machine.registers.cmdq_layout(&machine.features);
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
                // Linux replaces an illegal command by a CMD_SYNC.
                let rd = machine.rd();
                machine.store_commands(rd, &[[0x46, 0]]);
            }
            machine.acknowledge();
            observe(machine);
        }
        assert_eq!(machine.rd(), ring.advance(machine.registers.cmdq_prod, 0));
    }
}

/// With a queue of `2^log2size` entries.
pub fn machine(policy: FlushPolicy, log2size: u32) -> Machine {
    machine_with(vector_features().with_msi(true), policy, log2size)
}

fn machine_with(features: Features, policy: FlushPolicy, log2size: u32) -> Machine {
    let mut machine = Machine::resized(features, policy, log2size, 0);
    machine.host.streams = STREAMS.into_iter().collect();
    if features.msi() {
        // Errors have an MSI, too.
        machine.registers.gerror_irq_cfg0 = GERROR_MSI;
        machine.registers.gerror_irq_cfg1 = 0x4711;
    }
    let aborts = (0..64).map(|n| MSIS + 32 * n..MSIS + 32 * n + 4);
    machine.memory.unwritable = aborts.collect();
    machine
}

/// A program on a host that fails for a reason.
#[derive(Clone, Debug)]
pub struct Reasonable {
    pub program: Vec<Op>,
    /// Commands that are queued at once.
    pub portion: usize,
    pub log2size: u32,
    pub failing: Failing,
    pub repeat_tlbi_cfgi: bool,
    pub collect_across_sync: bool,
    pub merge_ranges: bool,
    pub defer_remainder: bool,
    /// `IDR0.MSI`.
    pub msi: bool,
    /// Whether each call of the host uses up the time slice.
    pub is_slow: bool,
    pub budget: u32,
}

impl Reasonable {
    /// The guest sees the same registers and interrupts as though every command
    /// were executed on its own, and the same set of invalidations is complete
    /// before each; but for TLB invalidations that were collected across a `CMD_SYNC`,
    /// which may be complete before that.
    pub fn check(&self) {
        let (batched, seen) = self.run(Machine::with_caches);
        let (single, expected) = self.run(Machine::with_reference);
        assert_eq!(seen, expected);
        if self.collect_across_sync || self.merge_ranges {
            self.completed_in_order(&batched, &single);
        } else {
            assert_eq!(
                batched.signals.log.segments(),
                single.signals.log.segments()
            );
        }
        self.only_tlbis_cross_syncs(&batched);
        assert_eq!(batched.registers, single.registers);
        assert_eq!(batched.memory.written, single.memory.written);
        let quarantined = |machine: &Machine| -> BTreeSet<u32> {
            machine.host.quarantined.iter().copied().collect()
        };
        assert_eq!(quarantined(&batched), quarantined(&single));
        counters::check(&batched, self.program.len());
        local_once_in_order(&batched);
    }

    /// Completions and errors come in the same order, each with the same `CMDQ_CONS`;
    /// when they do, all is complete that is if every command is executed on its own,
    /// and nothing more but TLB invalidations that follow the `CMD_SYNC`.
    fn completed_in_order(&self, batched: &Machine, single: &Machine) {
        let (got, expected) = [batched, single]
            .map(|machine| machine.signals.log.visible())
            .into();
        let mut is_held = false;
        for ((event, executed), (expected_event, required)) in got.iter().zip(&expected) {
            assert_eq!(event, expected_event);
            let missing: Vec<_> = required.difference(executed).collect();
            assert!(missing.is_empty(), "{event:?} before {missing:x?}");
            is_held = match event {
                Some(Event::SyncCompleted(_) | Event::CmdSync) => true,
                Some(Event::Msi(address, _)) if *address != GERROR_MSI => true,
                // Of an MSI that aborts, or of a command that was not consumed.
                Some(Event::Msi(..) | Event::Gerror) => is_held,
                _ => false,
            };
            let mut early = executed.difference(required);
            if is_held {
                assert!(early.all(|words| matches!(words[0] as u8, 0x11 | 0x12)));
            } else if self.merge_ranges {
                // Pages that a range has more than its run.
                assert!(early.all(|words| words[0] as u8 == 0x12), "at {event:?}");
            } else {
                assert_eq!(early.next(), None, "at {event:?}");
            }
            is_held &= matches!(event, Some(Event::Msi(..)));
        }
        assert_eq!(got.len(), expected.len());
    }

    /// A call has commands from both sides of a `CMD_SYNC` only if they, and all that follow
    /// the `CMD_SYNC` up to the last of them, are TLB invalidations.
    fn only_tlbis_cross_syncs(&self, machine: &Machine) {
        for call in &machine.host.calls {
            // Of ranges those of 4KB, which begin with the first page of their run.
            let is_numbered =
                |words: &&[u64; 2]| words[0] as u8 != 0x06 && (words[1] >> 10) & 3 <= 1;
            let indexes = call.iter().filter(is_numbered);
            let indexes = indexes.map(|words| number(words) as usize - 1);
            let (Some(first), Some(last)) = (indexes.clone().min(), indexes.max()) else {
                continue;
            };
            let ops = &self.program[first..=last];
            let is_sync = |op: &Op| matches!(op, Op::Sync | Op::SyncIrq | Op::SyncMsi);
            // These were replaced by a CMD_SYNC before the queue went on.
            let was_illegal = |op: &Op| matches!(op, Op::Reserved | Op::BadSync);
            let is_tlbi = |op: &Op| matches!(op, Op::Va | Op::Asid);
            if let Some(sync) = ops.iter().position(is_sync) {
                assert!(self.collect_across_sync);
                let is_only_tlbis = call
                    .iter()
                    .all(|words| matches!(words[0] as u8, 0x11 | 0x12));
                assert!(is_only_tlbis, "{call:x?}");
                let all = ops[sync..]
                    .iter()
                    .all(|op| is_sync(op) || was_illegal(op) || is_tlbi(op));
                assert!(all, "{ops:?}");
            }
        }
    }

    /// Runs the program. Returns the machine, and the guest's observations on the way.
    fn run(
        &self,
        change: impl FnOnce(Machine) -> Machine,
    ) -> (Machine, Vec<(u32, Option<u32>, u32)>) {
        let policy = FlushPolicy {
            repeat_tlbi_cfgi: self.repeat_tlbi_cfgi,
            eio: self.failing.eio,
            collect_across_sync: self.collect_across_sync,
            defer_remainder: self.defer_remainder,
            merge_ranges: self.merge_ranges.then(|| Granules::of(&vector_features())),
            ..FlushPolicy::default()
        };
        let features = vector_features()
            .with_msi(self.msi)
            .with_ril(!self.merge_ranges);
        let mut machine = change(machine_with(features, policy, self.log2size));
        machine.host.is_slow = self.is_slow;
        machine.budget = self.budget;
        let mut failing = self.failing.clone();
        if self.merge_ranges {
            // A range may be refused for a page that no command of its run names.
            failing.vanished.clear();
        }
        // Not there any more, but the consumer learns it from the host.
        machine.host.vanishing = failing.vanished.clone();
        machine.host.behaviour = Some(Box::new(move |call, commands| {
            failing.answer(call, commands)
        }));
        let mut seen = Vec::new();
        drive(&mut machine, &self.program, self.portion, |machine| {
            seen.push((machine.rd(), machine.error(), machine.registers.gerror));
        });
        (machine, seen)
    }
}

/// A program on a host that says anything, and answers in the end: else no
/// guest would get on.
#[derive(Clone, Debug)]
pub struct Unreasonable {
    pub program: Vec<Op>,
    /// Commands that are queued at once.
    pub portion: usize,
    pub policy: FlushPolicy,
    /// Again and again; `None` is success.
    pub answers: Vec<Option<(i32, u32)>>,
}

/// How often an unreasonable host fails at most.
const MOST_FAILURES: usize = 600;

impl Unreasonable {
    /// Checks that every command that `CMDQ_CONS` has passed is complete, and that no
    /// command behind one reported as illegal was submitted.
    pub fn check(&self) {
        let mut machine = machine(self.policy, 8).with_caches();
        let answers = self.answers.clone();
        machine.host.behaviour = Some(Box::new(move |call, _| {
            let answer = answers.get(call % answers.len().max(1)).copied().flatten();
            match answer {
                Some((errno, entry_num)) if call <= MOST_FAILURES => {
                    Answer::error(errno, entry_num)
                }
                _ => Answer::Done,
            }
        }));
        let mut progress = Progress {
            commands: (1..)
                .zip(&self.program)
                .map(|(n, op)| op.words(n))
                .collect(),
            once: self.executes_once(),
            given_up: BTreeSet::new(),
            calls: 0,
            consumed: 0,
            last_rd: 0,
        };
        drive(&mut machine, &self.program, self.portion, |machine| {
            progress.observe(machine);
        });
        assert_eq!(progress.consumed, progress.commands.len());
        counters::check(&machine, progress.consumed);
        local_once_in_order(&machine);
    }

    /// Returns whether no batch is submitted twice. Otherwise the first attempt may have
    /// executed commands that follow the one at which the second fails, which is harmless
    /// (§4.4).
    fn executes_once(&self) -> bool {
        let timed_out =
            |answer: &Option<(i32, u32)>| answer.is_some_and(|(errno, _)| errno == ETIMEDOUT);
        // A range may have more pages than its run.
        let is_merged = self.policy.merge_ranges.is_some();
        !is_merged && !self.policy.repeat_tlbi_cfgi && !self.answers.iter().any(timed_out)
    }
}

/// The guest's view of its program.
struct Progress {
    commands: Vec<[u64; 2]>,
    once: bool,
    /// Commands that were reported as illegal.
    given_up: BTreeSet<usize>,
    calls: usize,
    consumed: usize,
    last_rd: u32,
}

impl Progress {
    fn observe(&mut self, machine: &Machine) {
        assert!(
            machine.host.calls.len() - self.calls < 10_000,
            "too many calls"
        );
        self.calls = machine.host.calls.len();
        let ring = machine.registers.cmdq_layout(&machine.features);
        let rd = machine.rd();
        self.consumed += (rd.wrapping_sub(self.last_rd) & ring.pointer_mask()) as usize;
        self.last_rd = rd;
        let executed = machine.host.log.executed().into_iter().collect();
        self.nothing_is_lost(machine, &executed);
        if machine.error() == Some(1) {
            self.given_up.insert(self.consumed);
            if self.once {
                self.nothing_newer_was_begun(&executed);
            }
        }
    }

    fn nothing_is_lost(&self, machine: &Machine, executed: &BTreeSet<[u64; 2]>) {
        for (index, words) in self.commands.iter().enumerate().take(self.consumed) {
            let stream = names_stream(words);
            let moot = self.given_up.contains(&index)
                || stream.is_some_and(|sid| !STREAMS.contains(&sid))
                || stream.is_some_and(|sid| machine.host.quarantined.contains(&sid))
                || machine.host.waived.contains(words);
            let forwarded = matches!(words[0] as u8, 0x05 | 0x11 | 0x12 | 0x40);
            assert!(
                !forwarded || moot || executed.contains(words),
                "command {index} is lost: {words:x?}"
            );
        }
    }

    fn nothing_newer_was_begun(&self, executed: &BTreeSet<[u64; 2]>) {
        for words in self.commands.iter().skip(self.consumed + 1) {
            let own = matches!(words[0] as u8, 0x05 | 0x12 | 0x40);
            assert!(!own || !executed.contains(words), "newer: {words:x?}");
        }
    }
}
