// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! An SMMU that translates the stream of one device by tables in guest memory.

use crate::{
    command::{Command, CFGI_ALL, SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    smmu::{reg, EVENTQEN, SMMUEN},
    tables::{Allow, Stage, Tables},
    until, Machine, Smmu,
};

const MIB: u64 = 1 << 20;

const QUEUE: u64 = RAM + MIB;
const EVENTS: u64 = RAM + 2 * MIB;
const STREAM_TABLE: u64 = RAM + 3 * MIB;
const CONTEXT: u64 = RAM + 4 * MIB;
const STAGE1: u64 = RAM + 6 * MIB;
const STAGE2: u64 = RAM + 8 * MIB;
/// Memory that nothing here uses, up to the end of the first 128 MiB.
pub const FREE: u64 = RAM + 16 * MIB;

/// The fields of the Context descriptor.
pub const ASID: u16 = 0x77;
/// The fields of the Stream table entry.
pub const VMID: u16 = 0x55;

/// Which stages translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Stage 1
    One,
    /// Stage 2
    Two,
    /// Stage 2 behind stage 1
    Both,
}

impl Stages {
    /// Returns the value of the property `stage`.
    pub const fn property(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Both => "nested",
        }
    }

    /// Returns the VMID of its translations: 0 where an SMMU has no stage 2.
    pub const fn vmid(self) -> u16 {
        match self {
            Self::One => 0,
            Self::Two | Self::Both => VMID,
        }
    }

    /// Returns `STE.Config`.
    const fn config(self) -> u64 {
        match self {
            Self::One => 0b101,
            Self::Two => 0b110,
            Self::Both => 0b111,
        }
    }
}

/// The SMMU and the tables of the stream.
pub struct Translated<'a> {
    /// The machine
    pub machine: &'a Machine,
    /// Its only SMMU
    pub smmu: Smmu<'a>,
    /// Tables of stage 1, from input addresses of the device
    pub stage1: Tables<'a>,
    /// Tables of stage 2, from IPAs, or from input addresses of the device
    pub stage2: Tables<'a>,
    stages: Stages,
    sid: u32,
}

impl<'a> Translated<'a> {
    /// Programs the SMMU for the stream `sid`. Nothing is mapped, except that a
    /// stage 2 behind a stage 1 maps the tables' memory to itself.
    #[track_caller]
    pub fn new(machine: &'a Machine, stages: Stages, sid: u32) -> Self {
        let translated = Self {
            machine,
            smmu: Smmu::find(machine),
            stage1: Tables::new(machine, Stage::One, STAGE1),
            stage2: Tables::new(machine, Stage::Two, STAGE2),
            stages,
            sid,
        };
        translated.program();
        translated
    }

    fn program(&self) {
        let smmu = &self.smmu;
        if self.stages == Stages::Both {
            for at in (RAM..RAM + 128 * MIB).step_by(2 << 20) {
                self.stage2.map_block(at, at, Allow::ReadWrite);
            }
        }
        self.write_context();
        self.write_entry(self.entry());
        smmu.setup_queue(QUEUE, 6);
        smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
        smmu.setup_stream_table(STREAM_TABLE, 12);
        smmu.enable(SMMUEN | EVENTQEN);
        smmu.submit(&[CFGI_ALL, TLBI_NSNH_ALL, SYNC]);
    }

    /// Returns the stages that translate.
    pub const fn stages(&self) -> Stages {
        self.stages
    }

    /// Returns the tables that translate the device's accesses.
    pub const fn input(&self) -> &Tables<'a> {
        match self.stages {
            Stages::One | Stages::Both => &self.stage1,
            Stages::Two => &self.stage2,
        }
    }

    /// Returns the Stream table entry (§5.2): both tables have 39 bits and
    /// start at level 1.
    pub const fn entry(&self) -> [u64; 4] {
        let word0 = CONTEXT | (self.stages.config() << 1) | 1;
        let (t0sz, start_1, aa64, record) = (25 << 32, 1 << 38, 1 << 51, 1 << 58);
        let word2 = VMID as u64 | t0sz | start_1 | (0b100 << 48) | aa64 | record;
        match self.stages {
            Stages::One => [word0, 0, 0, 0],
            Stages::Two | Stages::Both => [word0, 0, word2, self.stage2.base()],
        }
    }

    /// Writes the entry into the table without a `CMD_CFGI_STE`.
    pub fn write_entry(&self, entry: [u64; 4]) {
        for (index, word) in (0..).zip(entry) {
            let at = STREAM_TABLE + 64 * u64::from(self.sid) + 8 * index;
            self.machine.write64(at, word);
        }
    }

    /// The Context descriptor (§5.4): lower addresses of 39 bits, faults
    /// recorded.
    fn write_context(&self) {
        let (epd1, valid, aa64, record) = (1 << 30, 1 << 31, 1 << 41, 3 << 45);
        let asid = u64::from(ASID) << 48;
        let word0 = 25 | epd1 | valid | (0b100 << 32) | aa64 | record | asid;
        self.machine.write64(CONTEXT, word0);
        self.machine.write64(CONTEXT + 8, self.stage1.base());
    }

    /// Returns the record in an entry of the Event queue.
    pub fn event(&self, entry: u32) -> [u64; 4] {
        let at = EVENTS + 32 * u64::from(entry & 0xf);
        [0, 8, 16, 24].map(|offset| self.machine.read64(at + offset))
    }

    /// Executes commands and the `CMD_SYNC` behind them.
    #[track_caller]
    pub fn submit(&self, commands: &[Command]) {
        let smmu = &self.smmu;
        smmu.push(&[commands, &[SYNC]].concat());
        smmu.ring();
        until("consumption", || {
            assert!(!smmu.error(), "{commands:x?}");
            (smmu.cons() == smmu.prod()).then_some(())
        });
    }
}
