// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! An SMMU as a guest sees it.

use smmuv3::{
    gerror::CommandError, registers::CmdqRun, BusAbort, Cmdq, Command, Effects, Features,
    FlushPolicy, GuestMemory, Interrupts, Observer, Platform, Progress, Registers,
};

use super::{
    log::{Event, Log},
    reference::OneByOne,
    Memory, TestHost,
};

pub const CR0: u64 = 0x20;
pub const GERROR: u64 = 0x60;
pub const GERRORN: u64 = 0x64;
pub const CMDQ_BASE: u64 = 0x90;
pub const CMDQ_PROD: u64 = 0x98;
pub const CMDQ_CONS: u64 = 0x9c;
pub const IRQ_CTRL: u64 = 0x50;

/// `CR0` with `CMDQEN` and `SMMUEN`.
pub const RUNNING: u64 = 0x9;
/// `CR0` with `SMMUEN` only.
pub const STOPPED: u64 = 0x1;

/// Where the Command queue lies unless a test moves it.
pub const QUEUE: u64 = 0x4000_0000;

/// Interrupts so far.
#[derive(Default)]
pub struct Counters {
    pub gerror: u32,
    pub cmd_sync: u32,
    pub sev: u32,
    pub log: Log,
}

impl Interrupts for Counters {
    fn cmd_sync(&mut self) {
        self.cmd_sync += 1;
        self.log.push(Event::CmdSync);
    }

    fn gerror(&mut self) {
        self.gerror += 1;
        self.log.push(Event::Gerror);
    }

    fn sev(&mut self) {
        self.sev += 1;
    }
}

/// The calls of the consumer's observer.
#[derive(Default)]
pub struct Observed {
    /// Opcodes that were ILLEGAL and are consumed all the same.
    pub tolerated: Vec<u8>,
    /// Opcodes that were fetched, and whether they are legal.
    pub fetched: Vec<(u8, bool)>,
    /// Runs that had something to do.
    pub runs: u64,
    /// Commands that the queue has stopped at.
    pub errors: u64,
    pub log: Log,
}

impl Observer for Observed {
    fn consume_begin(&mut self, _: &CmdqRun) {
        self.runs += 1;
    }

    fn command(&mut self, opcode: u8, command: Option<&Command>) {
        self.fetched.push((opcode, command.is_some()));
    }

    fn tolerated(&mut self, opcode: u8) {
        self.tolerated.push(opcode);
    }

    fn sync_completed(&mut self, run: &CmdqRun) {
        self.log.push(Event::SyncCompleted(run.cons() & 0xf_ffff));
    }

    fn error(&mut self, _: u8, _: CommandError) {
        self.errors += 1;
    }
}

/// Memory whose MSIs are logged.
struct Logged<'a> {
    memory: &'a mut Memory,
    log: Log,
}

impl GuestMemory for Logged<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        self.memory.read(address, buffer)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        self.memory.write(address, data)
    }

    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        self.log.push(Event::Msi(address, value));
        self.memory.write_u32(address, value)
    }
}

pub struct Machine {
    pub features: Features,
    pub registers: Registers,
    pub cmdq: Cmdq,
    /// Works on the queue in place of `cmdq` if there.
    pub one_by_one: Option<OneByOne>,
    pub memory: Memory,
    pub host: TestHost,
    pub signals: Counters,
    pub observer: Observed,
    /// How each run of `cmdq` has ended.
    pub progress: Vec<Progress>,
    pub budget: u32,
    /// Whether deferred commands are consumed at once.
    pub comes_back: bool,
}

impl Machine {
    /// A running SMMU with an empty queue of 16 entries and a device behind
    /// `StreamID` 8.
    pub fn new(features: Features, policy: FlushPolicy) -> Self {
        let mut machine = Self::out_of_reset(features, policy);
        machine.host.streams.insert(8);
        machine.host.caches_cds = true;
        machine.write64(CMDQ_BASE, QUEUE | 4);
        machine.write(IRQ_CTRL, 0x1);
        machine.write(CR0, RUNNING);
        machine
    }

    pub fn out_of_reset(features: Features, policy: FlushPolicy) -> Self {
        let log = Log::default();
        Self {
            features,
            registers: Registers::reset(&features),
            cmdq: Cmdq::new(policy),
            one_by_one: None,
            memory: Memory::default(),
            host: TestHost {
                log: log.clone(),
                ..TestHost::default()
            },
            observer: Observed {
                log: log.clone(),
                ..Observed::default()
            },
            signals: Counters {
                log,
                ..Counters::default()
            },
            progress: Vec::new(),
            budget: 4096,
            comes_back: true,
        }
    }

    /// The same with a queue of `2^log2size` entries at index `start`.
    pub fn resized(features: Features, policy: FlushPolicy, log2size: u32, start: u32) -> Self {
        let mut machine = Self::new(features, policy);
        machine.write(CR0, STOPPED);
        machine.write64(CMDQ_BASE, QUEUE | u64::from(log2size));
        machine.write(CMDQ_CONS, start.into());
        machine.write(CMDQ_PROD, start.into());
        machine.write(CR0, RUNNING);
        machine
    }

    pub fn write(&mut self, offset: u64, value: u64) -> Effects {
        self.write_sized(offset, value, 4)
    }

    pub fn write64(&mut self, offset: u64, value: u64) -> Effects {
        self.write_sized(offset, value, 8)
    }

    fn write_sized(&mut self, offset: u64, value: u64, size: u32) -> Effects {
        let effects = self.registers.write(&self.features, offset, value, size);
        if effects.cmdq {
            self.consume();
        }
        effects
    }

    pub fn read(&self, offset: u64) -> u64 {
        self.registers.read(&self.features, offset, 4)
    }

    pub fn read64(&self, offset: u64) -> u64 {
        self.registers.read(&self.features, offset, 8)
    }

    /// Runs the queue until it is idle, as a device does: commands that the consumer
    /// defers are consumed a little later.
    pub fn consume(&mut self) {
        loop {
            match self.consume_once() {
                Progress::More => {}
                Progress::Deferred if self.comes_back => {}
                _ => return,
            }
        }
    }

    pub fn consume_once(&mut self) -> Progress {
        let mut memory = Logged {
            memory: &mut self.memory,
            log: self.signals.log.clone(),
        };
        if let Some(reference) = &mut self.one_by_one {
            reference.consume(
                &mut self.registers,
                &self.features,
                &mut memory,
                &mut self.host,
                &mut self.signals,
                &self.observer.log,
            );
            return Progress::Idle;
        }
        let mut run = self.registers.begin_cmdq(&self.features);
        let progress = self.cmdq.consume(
            &mut run,
            &self.features,
            Platform {
                memory: &mut memory,
                backend: &mut self.host,
                interrupts: &mut self.signals,
                observer: &mut self.observer,
            },
            self.budget,
        );
        self.registers.finish_cmdq(run);
        self.progress.push(progress);
        progress
    }

    /// Stores commands from queue index `index` on, wrapping.
    pub fn store_commands(&mut self, index: u32, commands: &[[u64; 2]]) {
        let ring = self.registers.cmdq_layout(&self.features);
        for (pointer, command) in (index..).zip(commands) {
            self.memory
                .store_words(ring.entry_address(pointer), command);
        }
    }

    /// Appends commands at `CMDQ_PROD` and rings the doorbell.
    pub fn submit(&mut self, commands: &[[u64; 2]]) {
        let ring = self.registers.cmdq_layout(&self.features);
        let prod = self.registers.cmdq_prod;
        self.store_commands(prod, commands);
        let prod = ring.advance(prod, commands.len() as u32);
        self.write(CMDQ_PROD, prod.into());
    }

    pub fn rd(&self) -> u32 {
        self.read(CMDQ_CONS) as u32 & 0xf_ffff
    }

    /// The same with caches of its own beside the host.
    #[must_use]
    pub fn with_caches(mut self) -> Self {
        self.host.has_caches = true;
        self
    }

    /// The same, worked on by the reference consumer.
    #[must_use]
    pub fn with_reference(mut self) -> Self {
        self.one_by_one = Some(OneByOne::new(self.cmdq.policy()));
        self
    }

    /// `CMDQ_CONS.ERR` while a Command queue error is active.
    pub fn error(&self) -> Option<u32> {
        let active = (self.read(GERROR) ^ self.read(GERRORN)) & 1 != 0;
        active.then(|| (self.read(CMDQ_CONS) as u32 >> 24) & 0x7f)
    }

    /// Acknowledges all active global errors.
    pub fn acknowledge(&mut self) {
        let gerror = self.read(GERROR);
        self.write(GERRORN, gerror);
    }
}
