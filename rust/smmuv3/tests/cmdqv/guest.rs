// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A guest with a CMDQV, and the device's part in it.

use smmuv3::{
    cmdqv::{Cmdqv, Effects, QueueState, QUEUES},
    Cmdq, Features, FlushPolicy, Interrupts, Platform, Progress, Registers,
};

use super::{
    common::{Memory, TestHost as Backend},
    host::TestHost,
};

pub const CONFIG: u64 = 0x0;
pub const PARAM: u64 = 0x4;
pub const STATUS: u64 = 0x8;
pub const VI_ERR_MAP: u64 = 0x14;
pub const VI_INT_MASK: u64 = 0x1c;
pub const CMDQ_ERR_MAP: u64 = 0x24;
pub const ALLOC_MAP: u64 = 0x200;
pub const VINTF_CONFIG: u64 = 0x1000;
pub const VINTF_STATUS: u64 = 0x1004;
pub const SID_MATCH: u64 = 0x1040;
pub const SID_REPLACE: u64 = 0x1080;
pub const LVCMDQ_ERR_MAP: u64 = 0x10c0;

/// Pages of queues, by global number and by logical.
pub const DIRECT0: u64 = 0x1_0000;
pub const DIRECT1: u64 = 0x2_0000;
pub const LOGICAL0: u64 = 0x3_0000;
pub const LOGICAL1: u64 = 0x4_0000;

/// Registers of page 0, and of page 1.
pub const CONS: u64 = 0x0;
pub const PROD: u64 = 0x4;
pub const CMDQ_CONFIG: u64 = 0x8;
pub const CMDQ_STATUS: u64 = 0xc;
pub const GERROR: u64 = 0x10;
pub const GERRORN: u64 = 0x14;
pub const BASE: u64 = 0x0;
pub const DRAM_BASE: u64 = 0x8;

/// The memory of the two queues.
pub const MEMORY: [u64; QUEUES] = [0x4000_0000, 0x4001_0000];

/// Returns `CMDQ_ALLOC_MAP` for an LVCMDQ.
pub fn allocated(lvcmdq: usize) -> u64 {
    1 | ((lvcmdq as u64) << 1)
}

pub fn features() -> Features {
    Features::arm_smmuv3().with_ats(true).with_cmdqs(8)
}

/// The interrupts of runs.
#[derive(Default)]
pub struct Irqs {
    pub error: u32,
}

impl Interrupts for Irqs {
    fn cmd_sync(&mut self) {
        panic!("no queue of a guest signals a CMD_SYNC");
    }

    fn gerror(&mut self) {
        self.error += 1;
    }
}

pub struct Guest {
    pub features: Features,
    pub cmdqv: Cmdqv,
    pub host: TestHost,
    pub memory: Memory,
    pub backend: Backend,
    pub cmdqs: [Cmdq; QUEUES],
    pub irqs: Irqs,
    pub smmu: Registers,
    pub budget: u32,
    pub progress: Vec<Progress>,
    /// Serve the effects of a write as a device does.
    pub serves: bool,
}

impl Guest {
    pub fn out_of_reset() -> Self {
        let features = features();
        let mut smmu = Registers::reset(&features);
        smmu.write(&features, 0x20, 1, 4);
        let mut backend = Backend::default();
        backend.streams.insert(8);
        Self {
            features,
            cmdqv: Cmdqv::new(),
            host: TestHost::default(),
            memory: Memory::default(),
            backend,
            cmdqs: [(); QUEUES].map(|()| Cmdq::new(FlushPolicy::default())),
            irqs: Irqs::default(),
            smmu,
            budget: 4096,
            progress: Vec::new(),
            serves: true,
        }
    }

    /// The steps of Linux's driver up to two enabled queues of 16 entries.
    pub fn booted() -> Self {
        let mut guest = Self::out_of_reset();
        guest.boot();
        guest
    }

    /// The same on a host that refuses these queues.
    pub fn refused(lvcmdqs: &[usize]) -> Self {
        let mut guest = Self::out_of_reset();
        guest.host.refused = lvcmdqs.iter().map(|lvcmdq| MEMORY[*lvcmdq]).collect();
        guest.boot();
        guest
    }

    pub fn boot(&mut self) {
        self.write(CONFIG, 0);
        self.write(CONFIG, 1);
        for vcmdq in 0..QUEUES as u64 {
            self.write(ALLOC_MAP + 4 * vcmdq, 0);
        }
        self.write(VINTF_CONFIG, 0);
        self.write(VINTF_CONFIG, 1 << 17);
        self.write(VINTF_CONFIG, 1);
        for lvcmdq in 0..QUEUES {
            self.write(ALLOC_MAP + 4 * lvcmdq as u64, allocated(lvcmdq));
            self.enable_queue(lvcmdq);
        }
    }

    /// Starts an LVCMDQ from nothing.
    pub fn enable_queue(&mut self, lvcmdq: usize) {
        let at = 0x80 * lvcmdq as u64;
        for register in [CMDQ_CONFIG, PROD, CONS] {
            self.write(LOGICAL0 + at + register, 0);
        }
        self.write64(LOGICAL1 + at + BASE, 0);
        self.write64(LOGICAL1 + at + DRAM_BASE, 0);
        let gerror = self.read(LOGICAL0 + at + GERROR);
        self.write(LOGICAL0 + at + GERRORN, gerror);
        self.write64(LOGICAL1 + at + BASE, MEMORY[lvcmdq] | 4);
        self.write(LOGICAL0 + at + CMDQ_CONFIG, 1);
    }

    pub fn read(&mut self, offset: u64) -> u64 {
        self.read_sized(offset, 4)
    }

    pub fn read_sized(&mut self, offset: u64, size: u32) -> u64 {
        let host = &mut self.host;
        self.cmdqv.read(&self.features, host, offset, size)
    }

    pub fn write(&mut self, offset: u64, value: u64) -> Effects {
        self.write_sized(offset, value, 4)
    }

    pub fn write64(&mut self, offset: u64, value: u64) -> Effects {
        self.write_sized(offset, value, 8)
    }

    pub fn write_sized(&mut self, offset: u64, value: u64, size: u32) -> Effects {
        let host = &mut self.host;
        let effects = self.cmdqv.write(&self.features, host, offset, value, size);
        if self.serves {
            self.serve(effects);
        }
        effects
    }

    pub fn serve(&mut self, effects: Effects) {
        let mut consume = effects.consume;
        self.irqs.error += u32::from(effects.interrupt);
        if effects.reconcile {
            let after = self.reconcile();
            consume = after.consume;
        }
        for (lvcmdq, is_ready) in consume.into_iter().enumerate() {
            while is_ready && self.consume(lvcmdq) == Progress::More {}
        }
    }

    pub fn reconcile(&mut self) -> Effects {
        let effects = self.cmdqv.reconcile(&self.features, &mut self.host);
        self.irqs.error += u32::from(effects.interrupt);
        effects
    }

    /// The device's part when its VINTF goes, or another one comes.
    pub fn bar_hardware(&mut self, is_barred: bool) {
        self.cmdqv.bar_hardware(is_barred);
        self.serve(Effects {
            reconcile: true,
            ..Effects::default()
        });
    }

    /// One run of a queue in software.
    pub fn consume(&mut self, lvcmdq: usize) -> Progress {
        let stream_table = self.smmu.stream_table();
        let Some(mut run) = self.cmdqv.begin(&self.features, lvcmdq, stream_table) else {
            return Progress::Idle;
        };
        let platform = Platform {
            memory: &mut self.memory,
            backend: &mut self.backend,
            interrupts: &mut self.irqs,
            observer: &mut (),
        };
        let cmdq = &mut self.cmdqs[lvcmdq];
        let progress = run.consume(cmdq, &self.features, platform, self.budget);
        assert!(self.cmdqv.finish(run), "nothing has happened in between");
        self.progress.push(progress);
        progress
    }

    /// Returns a register of page 0 of an LVCMDQ.
    pub fn page0(&mut self, lvcmdq: usize, register: u64) -> u64 {
        self.read(LOGICAL0 + 0x80 * lvcmdq as u64 + register)
    }

    pub fn write_page0(&mut self, lvcmdq: usize, register: u64, value: u64) -> Effects {
        self.write(LOGICAL0 + 0x80 * lvcmdq as u64 + register, value)
    }

    pub fn state(&self, lvcmdq: usize) -> QueueState {
        self.cmdqv.state(&self.features, lvcmdq)
    }

    /// Appends commands to a queue of 16 entries and rings its doorbell.
    pub fn submit(&mut self, lvcmdq: usize, commands: &[[u64; 2]]) -> Effects {
        let prod = self.page0(lvcmdq, PROD);
        for (pointer, command) in (prod..).zip(commands) {
            let slot = MEMORY[lvcmdq] + 16 * (pointer & 15);
            self.memory.store_words(slot, command);
        }
        let prod = (prod + commands.len() as u64) & 31;
        self.write_page0(lvcmdq, PROD, prod)
    }

    /// Returns `VCMDQ_CONS_INDX.ERR` while an error is active.
    pub fn error(&mut self, lvcmdq: usize) -> Option<u64> {
        let active = self.page0(lvcmdq, GERROR) != self.page0(lvcmdq, GERRORN);
        active.then(|| self.page0(lvcmdq, CONS) >> 24)
    }

    pub fn acknowledge(&mut self, lvcmdq: usize) -> Effects {
        let gerror = self.page0(lvcmdq, GERROR);
        self.write_page0(lvcmdq, GERRORN, gerror)
    }

    /// Returns the three error maps: VINTFs, VCMDQs, LVCMDQs.
    pub fn maps(&mut self) -> [u64; 3] {
        [VI_ERR_MAP, CMDQ_ERR_MAP, LVCMDQ_ERR_MAP].map(|map| self.read(map))
    }
}
