// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A minimal driver for the SMMU of a [`Machine`].

use std::cell::Cell;

use crate::{
    command::{self, Command},
    wait::until,
    Machine,
};

/// Where [`Builder::smmu`](crate::Builder::smmu) puts the device in QOM.
pub const PATH: &str = "/machine/peripheral/smmuv3.1";

/// Bytes of the register file: two pages of 64 KiB.
pub const SIZE: u64 = 0x2_0000;
/// Offset of page 1.
pub const PAGE1: u64 = 0x1_0000;

/// Interrupt outputs, by their number.
pub mod irq {
    /// Event queue
    pub const EVENTQ: u32 = 0;
    /// PRI queue
    pub const PRIQ: u32 = 1;
    /// `CMD_SYNC`
    pub const CMD_SYNC: u32 = 2;
    /// Global error
    pub const GERROR: u32 = 3;
}

/// Offsets of registers, by the specification's names (§6.1).
#[allow(missing_docs)]
pub mod reg {
    pub const IDR0: u64 = 0x00;
    pub const IDR1: u64 = 0x04;
    pub const IDR2: u64 = 0x08;
    pub const IDR3: u64 = 0x0c;
    pub const IDR4: u64 = 0x10;
    pub const IDR5: u64 = 0x14;
    pub const IIDR: u64 = 0x18;
    pub const AIDR: u64 = 0x1c;
    pub const CR0: u64 = 0x20;
    pub const CR0ACK: u64 = 0x24;
    pub const CR1: u64 = 0x28;
    pub const CR2: u64 = 0x2c;
    pub const STATUSR: u64 = 0x40;
    pub const GBPA: u64 = 0x44;
    pub const AGBPA: u64 = 0x48;
    pub const IRQ_CTRL: u64 = 0x50;
    pub const IRQ_CTRLACK: u64 = 0x54;
    pub const GERROR: u64 = 0x60;
    pub const GERRORN: u64 = 0x64;
    pub const GERROR_IRQ_CFG0: u64 = 0x68;
    pub const GERROR_IRQ_CFG1: u64 = 0x70;
    pub const GERROR_IRQ_CFG2: u64 = 0x74;
    pub const STRTAB_BASE: u64 = 0x80;
    pub const STRTAB_BASE_CFG: u64 = 0x88;
    pub const CMDQ_BASE: u64 = 0x90;
    pub const CMDQ_PROD: u64 = 0x98;
    pub const CMDQ_CONS: u64 = 0x9c;
    pub const EVENTQ_BASE: u64 = 0xa0;
    /// On page 1
    pub const EVENTQ_PROD: u64 = 0x1_00a8;
    /// On page 1
    pub const EVENTQ_CONS: u64 = 0x1_00ac;
    pub const EVENTQ_IRQ_CFG0: u64 = 0xb0;
    pub const EVENTQ_IRQ_CFG1: u64 = 0xb8;
    pub const EVENTQ_IRQ_CFG2: u64 = 0xbc;
    pub const PRIQ_BASE: u64 = 0xc0;
    pub const IDR6: u64 = 0x190;
    pub const ID_REGS: u64 = 0xfd0;
}

/// `CR0.SMMUEN`
pub const SMMUEN: u32 = 1 << 0;
/// `CR0.EVENTQEN`
pub const EVENTQEN: u32 = 1 << 2;
/// `CR0.CMDQEN`
pub const CMDQEN: u32 = 1 << 3;
/// `IRQ_CTRL.GERROR_IRQEN`
pub const GERROR_IRQEN: u32 = 1 << 0;
/// `IRQ_CTRL.EVENTQ_IRQEN`
pub const EVENTQ_IRQEN: u32 = 1 << 2;
/// `GERROR.CMDQ_ERR`
pub const CMDQ_ERR: u32 = 1 << 0;
/// `GERROR.MSI_CMDQ_ABT_ERR`
pub const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;
/// `GERROR.MSI_EVENTQ_ABT_ERR`
pub const MSI_EVENTQ_ABT_ERR: u32 = 1 << 5;
/// `GERROR.MSI_GERROR_ABT_ERR`
pub const MSI_GERROR_ABT_ERR: u32 = 1 << 7;

/// `CMDQ_CONS.ERR` codes (§6.3.28).
pub mod cerror {
    /// Illegal command
    pub const ILL: u32 = 1;
    /// Abort on command fetch
    pub const ABT: u32 = 2;
    /// A `CMD_ATC_INV` did not complete
    pub const ATC_INV_SYNC: u32 = 3;
}

/// The SMMU of a machine, with its driver's state of the Command queue.
pub struct Smmu<'a> {
    machine: &'a Machine,
    base: u64,
    queue: Cell<Queue>,
}

/// The driver's view of its Command queue.
#[derive(Clone, Copy, Debug)]
struct Queue {
    base: u64,
    log2size: u32,
    prod: u32,
}

impl<'a> Smmu<'a> {
    /// Returns the only SMMU of `machine`.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[track_caller]
    pub fn find(machine: &'a Machine) -> Self {
        let bases = bases(machine);
        let [base] = bases[..] else {
            panic!("one SMMU was expected at {bases:x?}");
        };
        Self::at(machine, base)
    }

    /// Returns the SMMU of `machine` whose register file is at `base`, see
    /// [`bases`].
    pub const fn at(machine: &'a Machine, base: u64) -> Self {
        Self {
            machine,
            base,
            queue: Cell::new(Queue {
                base: 0,
                log2size: 0,
                prod: 0,
            }),
        }
    }

    /// Returns the guest physical address of the register file.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Returns the machine.
    pub const fn machine(&self) -> &'a Machine {
        self.machine
    }

    /// Reads 32 bits of a register.
    #[track_caller]
    pub fn read(&self, register: u64) -> u32 {
        self.machine.read32(self.base + register)
    }

    /// Writes 32 bits of a register.
    #[track_caller]
    pub fn write(&self, register: u64, value: u32) {
        self.machine.write32(self.base + register, value);
    }

    /// Reads a 64-bit register.
    #[track_caller]
    pub fn read64(&self, register: u64) -> u64 {
        self.machine.read64(self.base + register)
    }

    /// Writes a 64-bit register.
    #[track_caller]
    pub fn write64(&self, register: u64, value: u64) {
        self.machine.write64(self.base + register, value);
    }

    /// Returns `CMDQ_CONS.RD`.
    #[track_caller]
    pub fn cons(&self) -> u32 {
        self.read(reg::CMDQ_CONS) & 0xf_ffff
    }

    /// Returns `CMDQ_CONS.ERR`, which is valid only while
    /// [`error`](Self::error).
    #[track_caller]
    pub fn cons_err(&self) -> u32 {
        self.read(reg::CMDQ_CONS) >> 24
    }

    /// Returns whether `GERROR.CMDQ_ERR` is active.
    #[track_caller]
    pub fn error(&self) -> bool {
        (self.read(reg::GERROR) ^ self.read(reg::GERRORN)) & CMDQ_ERR != 0
    }

    /// Returns the global errors that are active.
    #[track_caller]
    pub fn errors(&self) -> u32 {
        self.read(reg::GERROR) ^ self.read(reg::GERRORN)
    }

    /// Has an interrupt send an MSI. Its enable in `IRQ_CTRL` must be 0. `cfg0` is
    /// `GERROR_IRQ_CFG0` or `EVENTQ_IRQ_CFG0`.
    #[track_caller]
    pub fn setup_msi(&self, cfg0: u64, address: u64, data: u32) {
        self.write64(cfg0, address);
        self.write(cfg0 + 8, data);
    }

    /// Acknowledges all global errors.
    #[track_caller]
    pub fn acknowledge(&self) {
        let gerror = self.read(reg::GERROR);
        self.write(reg::GERRORN, gerror);
    }

    /// Disables the Command queue, gives it a base, sets both pointers to
    /// `start` and enables it again. The other bits of `CR0` stay.
    #[track_caller]
    pub fn setup_queue_at(&self, base: u64, log2size: u32, start: u32) {
        let cr0 = self.read(reg::CR0);
        self.write(reg::CR0, cr0 & !CMDQEN);
        self.write64(reg::CMDQ_BASE, base | u64::from(log2size));
        self.write(reg::CMDQ_CONS, start);
        self.write(reg::CMDQ_PROD, start);
        self.queue.set(Queue {
            base,
            log2size,
            prod: start,
        });
        self.write(reg::CR0, cr0 | CMDQEN);
    }

    /// Sets up the Command queue with both pointers at the first entry.
    #[track_caller]
    pub fn setup_queue(&self, base: u64, log2size: u32) {
        self.setup_queue_at(base, log2size, 0);
    }

    /// Adopts the Command queue that the registers describe, like the driver of
    /// a machine that was migrated.
    #[track_caller]
    pub fn adopt_queue(&self) {
        let base = self.read64(reg::CMDQ_BASE);
        self.queue.set(Queue {
            base: base & 0x00ff_ffff_ffff_ffe0,
            log2size: base as u32 & 0x1f,
            prod: self.read(reg::CMDQ_PROD),
        });
    }

    /// Sets up a linear Stream table, with the SMMU disabled while it changes.
    #[track_caller]
    pub fn setup_stream_table(&self, base: u64, log2size: u32) {
        let cr0 = self.read(reg::CR0);
        self.write(reg::CR0, cr0 & !SMMUEN);
        self.write64(reg::STRTAB_BASE, base);
        self.write(reg::STRTAB_BASE_CFG, log2size);
        self.write(reg::CR0, cr0);
    }

    /// Sets bits of `CR0` and checks that they are acknowledged.
    #[track_caller]
    pub fn enable(&self, bits: u32) {
        self.write(reg::CR0, self.read(reg::CR0) | bits);
        assert_eq!(self.read(reg::CR0ACK) & bits, bits, "CR0ACK");
    }

    /// Clears bits of `CR0` and checks that this is acknowledged.
    #[track_caller]
    pub fn disable(&self, bits: u32) {
        self.write(reg::CR0, self.read(reg::CR0) & !bits);
        assert_eq!(self.read(reg::CR0ACK) & bits, 0, "CR0ACK");
    }

    /// Returns `CMDQ_PROD` after the commands that were pushed.
    pub fn prod(&self) -> u32 {
        self.queue.get().prod
    }

    /// Returns the guest physical address of the slot that a pointer names.
    pub fn slot(&self, pointer: u32) -> u64 {
        let queue = self.queue.get();
        let index = pointer & ((1 << queue.log2size) - 1);
        queue.base + command::BYTES * u64::from(index)
    }

    /// Writes commands into the slots from `pointer` on, across the wrap.
    #[track_caller]
    pub fn write_slots(&self, pointer: u32, commands: &[Command]) {
        let entries = 1_u32 << self.queue.get().log2size;
        let mut at = pointer;
        let mut rest = commands;
        while !rest.is_empty() {
            let until_wrap = (entries - at % entries) as usize;
            let (run, more) = rest.split_at(until_wrap.min(rest.len()));
            self.machine
                .write_memory(self.slot(at), &command::to_bytes(run));
            at += run.len() as u32;
            rest = more;
        }
    }

    /// Writes commands into the next slots, without the doorbell.
    #[track_caller]
    pub fn push(&self, commands: &[Command]) {
        let mut queue = self.queue.get();
        self.write_slots(queue.prod, commands);
        let pointers = 2 << queue.log2size;
        queue.prod = (queue.prod + commands.len() as u32) % pointers;
        self.queue.set(queue);
    }

    /// Writes `CMDQ_PROD` (the doorbell).
    #[track_caller]
    pub fn ring(&self) {
        self.write(reg::CMDQ_PROD, self.prod());
    }

    /// Waits until every command that was pushed is consumed. A doorbell
    /// consumes one time slice, the main loop the rest.
    #[track_caller]
    pub fn wait_consumed(&self) {
        self.wait_cons(self.prod());
    }

    /// Waits until `CMDQ_CONS.RD` is `pointer`.
    #[track_caller]
    pub fn wait_cons(&self, pointer: u32) {
        until("consumption", || (self.cons() == pointer).then_some(()));
    }

    /// Pushes commands, writes the doorbell, and waits until they are consumed.
    #[track_caller]
    pub fn submit(&self, commands: &[Command]) {
        self.push(commands);
        self.ring();
        self.wait_consumed();
    }

    /// Reports this SMMU's interrupts from now on: [`pulses`](Self::pulses).
    #[track_caller]
    pub fn intercept_irqs(&self) {
        self.machine.intercept_outputs(PATH, "sysbus-irq");
    }

    /// Returns how often each line was raised since the last call.
    #[track_caller]
    pub fn pulses(&self) -> [u32; 4] {
        let mut counts = [0; 4];
        for irq in self.machine.take_irqs().iter().filter(|irq| irq.raised) {
            counts[irq.line as usize] += 1;
        }
        counts
    }
}

/// Returns the guest physical addresses of the SMMUs of a machine, ascending.
#[track_caller]
pub fn bases(machine: &Machine) -> Vec<u64> {
    let mut bases: Vec<u64> = machine
        .monitor("info mtree")
        .lines()
        .filter(|line| line.trim_end().ends_with(" arm-smmuv3"))
        .filter_map(|line| {
            let start = line.trim_start().split('-').next()?;
            u64::from_str_radix(start, 16).ok()
        })
        .collect();
    bases.sort_unstable();
    bases.dedup();
    bases
}
