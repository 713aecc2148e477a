// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! All interleavings of threads that use one Command queue: two vCPUs that ring, one that disables
//! and enables the queue, a monitor that reads under the Big QEMU Lock (BQL), a stop of the
//! machine, and the thread that continues a run.
//!
//! The functions under test are the real ones; a step of a thread is what it does under one lock,
//! or one call of the host. A state is reached by repeating the steps that lead to it.

use std::collections::HashSet;

use super::{Claim, Progress, Released, Token};
use crate::{
    features::Features,
    registers::CmdqRun,
    spec::{mask, register::Cr0},
    Registers,
};

const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const CMDQ_PROD: u64 = 0x98;
const CMDQEN: u64 = mask!(Cr0: cmdqen) as u64;

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Writes `CMDQ_PROD`.
    Ring,
    /// Takes the token, if it is there.
    Claim,
    /// Has a command executed by the host.
    Call,
    /// Waits for the BQL, for a command that needs it.
    Lock,
    /// Does what that command needs, and gives the BQL back.
    Attach,
    /// Shows the command as consumed.
    Show,
    /// Signals its completion, and looks at whether the queue was disabled.
    Signal,
    /// Gives the token back.
    Release,
    /// Waits for the BQL in order to write `CR0`.
    LockCr0,
    /// Writes `CR0`, and gives the BQL back.
    WriteCr0,
    /// Polls `CR0ACK` until it follows.
    Poll,
    /// Waits for the BQL in order to read.
    LockRead,
    /// Reads what a monitor's command reads, and gives the BQL back.
    Read,
    /// Waits for the BQL in order to stop the machine, and gives it back.
    Stop,
    /// Waits for all vCPUs to pause, and starts the machine again.
    Paused,
    /// The thread does nothing more, or nothing before it is asked to.
    Idle,
}

#[derive(Debug)]
struct Thread {
    at: At,
    /// Doorbells that are left.
    rings: u32,
    /// Runs of one claim so far.
    rounds: u32,
    claim: Option<Claim<()>>,
    cursor: u32,
    /// What `CR0` is to be written with.
    cr0: Vec<u64>,
    is_vcpu: bool,
    progress: Progress,
}

impl Thread {
    fn new(at: At) -> Self {
        Self {
            at,
            rings: 0,
            rounds: 0,
            claim: None,
            cursor: 0,
            cr0: Vec::new(),
            is_vcpu: true,
            progress: Progress::Idle,
        }
    }

    /// Returns whether it is in an access to a register, or at work: then it does not pause.
    fn is_busy(&self) -> bool {
        !matches!(self.at, At::Ring | At::LockCr0 | At::Poll | At::Idle)
    }
}

/// Which threads there are.
#[derive(Clone, Copy, Debug)]
struct Program {
    rings: [u32; 2],
    is_disabled: bool,
    is_read: bool,
    is_stopped: bool,
}

#[derive(Debug)]
struct World {
    features: Features,
    registers: Registers,
    token: Token<()>,
    bql: Option<usize>,
    is_stopping: bool,
    /// `CR0ACK` has said that no command is processed.
    is_acknowledged: bool,
    /// How often each command was executed.
    executed: [u32; 8],
    threads: Vec<Thread>,
}

/// The thread that continues runs: a vCPU's between two instructions of the guest.
const CONTINUES: usize = 0;

impl World {
    fn new(program: Program) -> Self {
        let features = Features::arm_smmuv3();
        let mut registers = Registers::reset(&features);
        registers.cmdq_base = 0x4000_0003;
        registers.cr0 = CMDQEN as u32;
        let mut threads = vec![Thread::new(At::Idle)];
        for rings in program.rings.into_iter().filter(|rings| *rings > 0) {
            threads.push(Thread {
                rings,
                ..Thread::new(At::Ring)
            });
        }
        if program.is_disabled {
            threads.push(Thread {
                cr0: vec![CMDQEN, 0],
                ..Thread::new(At::LockCr0)
            });
        }
        let monitor = |at| Thread {
            is_vcpu: false,
            ..Thread::new(at)
        };
        if program.is_read {
            threads.push(monitor(At::LockRead));
        }
        if program.is_stopped {
            threads.push(monitor(At::Stop));
        }
        let mut token = Token::default();
        token.set(());
        Self {
            features,
            registers,
            token,
            bql: None,
            is_stopping: false,
            is_acknowledged: false,
            executed: [0; 8],
            threads,
        }
    }

    /// Everything that decides over the future.
    fn key(&self) -> Vec<u32> {
        let registers = &self.registers;
        let mut key = vec![
            registers.cmdq_prod,
            registers.cmdq_cons,
            registers.cr0,
            registers.is_cmdq_running.into(),
            self.bql.map_or(9, |owner| owner as u32),
            self.is_stopping.into(),
            self.is_acknowledged.into(),
        ];
        key.extend(self.executed);
        for thread in &self.threads {
            key.extend([
                thread.at as u32,
                thread.rings,
                thread.rounds,
                thread.cursor,
                thread.cr0.len() as u32,
                thread.progress as u32,
            ]);
            let run = thread.claim.as_ref().map(|claim| &claim.run);
            key.push(run.map_or(99, CmdqRun::prod));
            key.push(run.map_or(99, CmdqRun::cons));
            key.push(run.map_or(9, |run| run.is_ready().into()));
        }
        key
    }

    fn is_acked(&self) -> bool {
        self.registers.read(&self.features, CR0ACK, 4) & CMDQEN == 0
    }

    fn is_enabled(&self, number: usize) -> bool {
        let thread = &self.threads[number];
        if self.is_stopping && thread.is_vcpu && !thread.is_busy() {
            return false;
        }
        match thread.at {
            At::Idle => false,
            At::Lock | At::LockCr0 | At::LockRead | At::Stop => self.bql.is_none(),
            At::Poll => self.is_acked(),
            At::Paused => {
                self.bql.is_none() && !self.threads.iter().any(|it| it.is_vcpu && it.is_busy())
            }
            _ => true,
        }
    }

    /// A write of a register by a guest. Returns whether the queue is to be consumed.
    fn write(&mut self, offset: u64, value: u64) -> bool {
        let features = self.features;
        self.registers.write(&features, offset, value, 4).cmdq
    }

    /// What follows when a thread has nothing more to do in the queue.
    fn leave(&mut self, number: usize) {
        let thread = &mut self.threads[number];
        thread.rounds = 0;
        thread.at = match (thread.rings, thread.cr0.last()) {
            (1.., _) => At::Ring,
            (0, Some(_)) => At::LockCr0,
            (0, None) => At::Idle,
        };
    }

    fn continue_later(&mut self) {
        let thread = &mut self.threads[CONTINUES];
        // what is asked for while it runs is not lost, because it asks for itself
        if thread.at == At::Idle {
            thread.at = At::Claim;
        }
    }

    fn begin(&mut self, number: usize, claim: Claim<()>) {
        let others = self.threads.iter().filter(|it| it.claim.is_some()).count();
        assert_eq!(others, 0, "one consumer at a time");
        let thread = &mut self.threads[number];
        thread.cursor = claim.run.cons();
        thread.progress = Progress::Idle;
        thread.at = match claim.run.is_ready() {
            true => At::Call,
            false => At::Release,
        };
        thread.claim = Some(claim);
    }

    fn step(&mut self, number: usize) {
        let features = self.features;
        match self.threads[number].at {
            At::Ring => {
                self.threads[number].rings -= 1;
                let prod = self.registers.cmdq_prod + 1;
                if self.write(CMDQ_PROD, prod.into()) {
                    self.threads[number].at = At::Claim;
                } else {
                    self.leave(number);
                }
            }
            At::Claim => match self.token.claim(&mut self.registers, &features) {
                Some(claim) => self.begin(number, claim),
                None => self.leave(number),
            },
            At::Call => {
                assert!(
                    !self.is_acknowledged,
                    "CR0ACK said that nothing is processed"
                );
                let position = self.threads[number].cursor as usize;
                self.executed[position] += 1;
                // every other command is one that needs the BQL
                self.threads[number].at = if position % 2 == 0 {
                    At::Show
                } else {
                    At::Lock
                };
            }
            At::Lock => {
                self.bql = Some(number);
                self.threads[number].at = At::Attach;
            }
            At::Attach => {
                self.bql = None;
                self.threads[number].at = At::Show;
            }
            At::Show => {
                let thread = &mut self.threads[number];
                thread.cursor += 1;
                let claim = thread.claim.as_mut().expect("it has the token");
                claim.run.consumed_until(thread.cursor);
                self.registers.show_cmdq(&mut claim.run, 0);
                thread.at = At::Signal;
            }
            At::Signal => {
                let must_stop = self.registers.must_stop_cmdq();
                let cons = self.registers.cmdq_cons;
                let thread = &mut self.threads[number];
                assert!(cons >= thread.cursor, "CMDQ_CONS precedes the signal");
                let claim = thread.claim.as_ref().expect("it has the token");
                thread.at = At::Call;
                if must_stop {
                    thread.progress = Progress::More;
                    thread.at = At::Release;
                } else if thread.cursor == claim.run.prod() {
                    thread.at = At::Release;
                }
            }
            At::Release => {
                let thread = &mut self.threads[number];
                thread.rounds += 1;
                let (progress, may_repeat) = (thread.progress, thread.rounds < 2);
                let claim = thread.claim.take().expect("it has the token");
                let released =
                    self.token
                        .release(&mut self.registers, &features, claim, progress, may_repeat);
                match released {
                    Released::Again(next) => self.begin(number, next),
                    Released::Done(left) => {
                        self.leave(number);
                        if left == Progress::More {
                            self.continue_later();
                        }
                    }
                }
            }
            At::LockCr0 => {
                self.bql = Some(number);
                self.threads[number].at = At::WriteCr0;
            }
            At::WriteCr0 => {
                let value = self.threads[number].cr0.pop().expect("a value to write");
                self.is_acknowledged = false;
                let wakes = self.write(CR0, value);
                self.bql = None;
                self.threads[number].at = match value {
                    0 => At::Poll,
                    _ if wakes => At::Claim,
                    _ => At::Idle,
                };
            }
            At::Poll => {
                self.is_acknowledged = true;
                assert!(self.threads.iter().all(|it| it.claim.is_none()
                    || it.claim.as_ref().is_some_and(|claim| !claim.run.is_ready())));
                self.leave(number);
            }
            At::LockRead => {
                self.bql = Some(number);
                self.threads[number].at = At::Read;
            }
            At::Read => {
                // the token may be gone, and is not waited for
                let _ = self.token.get_mut();
                self.bql = None;
                self.threads[number].at = At::Idle;
            }
            At::Stop => {
                self.is_stopping = true;
                self.threads[number].at = At::Paused;
            }
            At::Paused => {
                assert!(self.token.get_mut().is_some(), "no consumer runs");
                assert!(!self.registers.is_cmdq_running);
                let acknowledged = self.registers.read(&features, CR0ACK, 4);
                assert_eq!(acknowledged, u64::from(self.registers.cr0));
                let consumed = self.registers.cmdq_cons as usize;
                let is_executed = |position: usize| self.executed[position] == 1;
                assert!((0..consumed).all(is_executed));
                self.is_stopping = false;
                self.threads[number].at = At::Idle;
                self.continue_later();
            }
            At::Idle => unreachable!("it is not enabled"),
        }
    }

    /// Checks a state in which no thread can do anything.
    fn check_end(&self, schedule: &[usize]) {
        let is_idle = |thread: &Thread| thread.at == At::Idle;
        assert!(self.threads.iter().all(is_idle), "deadlock: {schedule:?}");
        let (prod, cons) = (self.registers.cmdq_prod, self.registers.cmdq_cons);
        assert_eq!(cons, prod, "a doorbell is lost: {schedule:?}");
        let once = |position: usize| self.executed[position] == 1;
        assert!((0..prod as usize).all(once), "{schedule:?}");
    }
}

/// Runs a program in every order of its threads' steps. Returns the number of states.
fn explore(program: Program) -> usize {
    let replay = |schedule: &[usize]| {
        let mut world = World::new(program);
        schedule.iter().for_each(|&number| world.step(number));
        world
    };
    let mut known = HashSet::new();
    let mut open = vec![Vec::new()];
    while let Some(schedule) = open.pop() {
        let world = replay(&schedule);
        if !known.insert(world.key()) {
            continue;
        }
        let before = open.len();
        for number in (0..world.threads.len()).filter(|&number| world.is_enabled(number)) {
            open.push([schedule.as_slice(), &[number]].concat());
        }
        if open.len() == before {
            world.check_end(&schedule);
        }
    }
    known.len()
}

const RINGS: Program = Program {
    rings: [2, 2],
    is_disabled: false,
    is_read: true,
    is_stopped: false,
};

#[test]
fn token_two_ringing_vcpus_lose_no_doorbell() {
    let states = explore(RINGS);
    assert!(states > 500, "{states} states");
}

#[test]
fn token_disabled_cmdq_is_acknowledged_between_runs() {
    let states = explore(Program {
        rings: [2, 1],
        is_disabled: true,
        is_read: false,
        ..RINGS
    });
    assert!(states > 2000, "{states} states");
}

#[test]
fn token_stopped_machine_has_no_consumer() {
    let states = explore(Program {
        is_stopped: true,
        ..RINGS
    });
    assert!(states > 2000, "{states} states");
}

#[test]
fn token_stop_races_with_disabled_cmdq() {
    let states = explore(Program {
        rings: [2, 1],
        is_disabled: true,
        is_read: false,
        is_stopped: true,
    });
    assert!(states > 5000, "{states} states");
}
