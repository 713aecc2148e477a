// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The registers as a guest driver uses them.

use super::{reg, Register, ALLOC, ENABLE, HYP_OWN, IRQ, PAGE, QUEUES, SIZE, SLOT, VINTF_PAGE};
use crate::{
    command::{to_bytes, Command, BYTES},
    machine::RAM,
    Machine,
};

/// The two views of the registers of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Of the global queue
    Direct,
    /// Of the queue of VINTF 0
    Vintf,
}

impl View {
    /// Returns the offset of page 0.
    const fn page0(self) -> u64 {
        match self {
            Self::Direct => 0x1_0000,
            Self::Vintf => VINTF_PAGE,
        }
    }
}

/// The CMDQV of a machine's only SMMU.
pub struct Cmdqv<'a> {
    machine: &'a Machine,
    base: u64,
}

impl<'a> Cmdqv<'a> {
    /// log2 of the entries of a queue: 4 KiB, which is contiguous in the host.
    pub const LOG2: u32 = 8;

    /// Returns the CMDQV of a machine, or `None` if it has none. It is the
    /// only region of its size.
    ///
    /// # Panics
    ///
    /// If there is more than one.
    #[track_caller]
    pub fn try_find(machine: &'a Machine) -> Option<Self> {
        let mut bases = regions(&machine.monitor("info mtree"), SIZE);
        bases.sort_unstable();
        bases.dedup();
        assert!(bases.len() <= 1, "CMDQVs at {bases:x?}");
        let base = *bases.first()?;
        Some(Self { machine, base })
    }

    /// Returns the CMDQV of a machine.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[track_caller]
    pub fn find(machine: &'a Machine) -> Self {
        Self::try_find(machine).expect("a CMDQV")
    }

    /// Returns the guest physical address of the registers.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Reads a 32-bit register of the CONFIG page.
    #[track_caller]
    pub fn read(&self, register: u64) -> u32 {
        self.machine.read32(self.base + register)
    }

    /// Writes a 32-bit register of the CONFIG page.
    #[track_caller]
    pub fn write(&self, register: u64, value: u32) {
        self.machine.write32(self.base + register, value);
    }

    /// Returns the address of a register of a queue.
    pub const fn at(&self, view: View, slot: u32, register: Register) -> u64 {
        self.base + view.page0() + SLOT * slot as u64 + register as u64
    }

    /// Reads a register of a queue in VINTF 0.
    #[track_caller]
    pub fn get(&self, slot: u32, register: Register) -> u32 {
        self.machine.read32(self.at(View::Vintf, slot, register))
    }

    /// Writes a register of a queue in VINTF 0.
    #[track_caller]
    pub fn set(&self, slot: u32, register: Register, value: u32) {
        self.machine
            .write32(self.at(View::Vintf, slot, register), value);
    }

    /// Writes the base of a queue with one access, as Linux does.
    #[track_caller]
    pub fn set_base(&self, slot: u32, value: u64) {
        let page1 = self.base + View::Vintf.page0() + PAGE;
        self.machine.write64(page1 + SLOT * u64::from(slot), value);
    }

    /// Writes the base of a global queue, whether or not VINTF 0 has it.
    #[track_caller]
    pub fn set_direct_base(&self, queue: u32, value: u64) {
        let page1 = self.base + View::Direct.page0() + PAGE;
        self.machine.write64(page1 + SLOT * u64::from(queue), value);
    }

    /// Returns where the commands of a queue are.
    pub const fn ring(slot: u32) -> u64 {
        RAM + 0x20_0000 + 0x1000 * slot as u64
    }

    /// Returns the base register of a queue at [`ring`](Self::ring).
    pub const fn ring_base(slot: u32) -> u64 {
        Self::ring(slot) | Self::LOG2 as u64
    }

    /// Writes an entry of the allocation map.
    #[track_caller]
    pub fn set_alloc(&self, queue: u32, value: u32) {
        self.write(reg::CMDQ_ALLOC_MAP + 4 * u64::from(queue), value);
    }

    /// Returns the entry of the allocation map that gives a global queue to a
    /// queue of VINTF 0.
    pub const fn allocation(slot: u32) -> u32 {
        ALLOC | (slot << 1)
    }

    /// Disables and enables everything and takes all queues from the VINTF, as a
    /// driver does first, then enables VINTF 0.
    #[track_caller]
    pub fn reset(&self) {
        let config = self.read(reg::CONFIG);
        self.write(reg::CONFIG, config & !ENABLE);
        assert_eq!(self.read(reg::STATUS) & ENABLE, 0, "CMDQV_ENABLED");
        self.write(reg::CONFIG, config | ENABLE);
        assert_eq!(self.read(reg::STATUS) & ENABLE, ENABLE, "CMDQV_ENABLED");
        for queue in 0..QUEUES {
            self.set_alloc(queue, 0);
        }
        for slot in (0..QUEUES).rev() {
            self.set(slot, Register::Config, 0);
        }
        self.write(reg::VINTF_CONFIG, 0);
        for index in 0..16 {
            self.write(reg::SID_MATCH + 4 * index, 0);
            self.write(reg::SID_REPLACE + 4 * index, 0);
        }
        self.write(reg::VINTF_CONFIG, HYP_OWN);
        self.write(reg::VINTF_CONFIG, HYP_OWN | ENABLE);
        assert_eq!(self.read(reg::VINTF_CONFIG), ENABLE, "HYP_OWN reads 0");
        let status = self.read(reg::VINTF_STATUS);
        assert_eq!(status & ENABLE, ENABLE, "ENABLE_OK");
    }

    /// Gives a queue to VINTF 0 and initializes its registers, as a driver
    /// does. The queue is not enabled.
    #[track_caller]
    pub fn set_up(&self, slot: u32) {
        self.set_alloc(slot, Self::allocation(slot));
        for register in [Register::Config, Register::Prod, Register::Cons] {
            self.set(slot, register, 0);
        }
        self.set_base(slot, 0);
        let gerror = self.get(slot, Register::Gerror);
        self.set(slot, Register::Gerrorn, gerror);
        self.set_base(slot, Self::ring_base(slot));
    }

    /// Sets up and enables all queues as Linux does at boot.
    #[track_caller]
    pub fn boot(&self) {
        self.reset();
        for slot in 0..QUEUES {
            self.set_up(slot);
            self.set(slot, Register::Config, ENABLE);
        }
    }

    /// Writes commands into a queue that is not full, and the doorbell.
    #[track_caller]
    pub fn submit(&self, slot: u32, commands: &[Command]) {
        self.submit_at(slot, Self::ring(slot), commands);
    }

    /// Writes commands into a queue at another place, and the doorbell.
    #[track_caller]
    pub fn submit_at(&self, slot: u32, ring: u64, commands: &[Command]) {
        let mut prod = self.get(slot, Register::Prod);
        for command in commands {
            let index = u64::from(prod) % (1 << Self::LOG2);
            let at = ring + BYTES * index;
            self.machine.write_memory(at, &to_bytes(&[*command]));
            prod = (prod + 1) % (2 << Self::LOG2);
        }
        self.set(slot, Register::Prod, prod);
    }

    /// Returns whether the queue's error is active.
    #[track_caller]
    pub fn error(&self, slot: u32) -> bool {
        (self.get(slot, Register::Gerror) ^ self.get(slot, Register::Gerrorn)) & 1 != 0
    }

    /// Acknowledges the errors of a queue.
    #[track_caller]
    pub fn acknowledge(&self, slot: u32) {
        let gerror = self.get(slot, Register::Gerror);
        self.set(slot, Register::Gerrorn, gerror);
    }

    /// Returns whether the guest accesses the hardware's page without an exit.
    #[track_caller]
    pub fn page_is_mapped(&self) -> bool {
        let tree = self.machine.monitor("info mtree -f");
        let direct: Vec<&str> = tree.lines().filter(|line| line.contains("ramd)")).collect();
        regions(&direct.join("\n"), PAGE).contains(&(self.base + VINTF_PAGE))
    }

    /// Returns the same from the tree of regions, for long runs: QEMU does not
    /// free a view of memory that was printed.
    #[track_caller]
    pub fn page_is_enabled(&self) -> bool {
        let tree = self.machine.monitor("info mtree");
        let mut lines = tree.lines();
        lines.any(|line| line.contains("vintf-page0") && !line.contains("[disabled]"))
    }

    /// Returns how often the interrupt was raised since the last call, after
    /// [`Smmu::intercept_irqs`](crate::Smmu::intercept_irqs).
    #[track_caller]
    pub fn interrupts(&self) -> usize {
        let irqs = self.machine.take_irqs();
        irqs.iter()
            .filter(|irq| irq.raised && irq.line == IRQ)
            .count()
    }
}

/// Returns the addresses of the regions of `size` bytes in a memory tree.
fn regions(tree: &str, size: u64) -> Vec<u64> {
    let range = |line: &str| {
        let (range, _) = line.trim_start().split_once(" (")?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some((number(start)?, number(end)?))
    };
    tree.lines()
        .filter_map(range)
        .filter(|(start, end)| end.wrapping_sub(*start) == size - 1)
        .map(|(start, _)| start)
        .collect()
}
