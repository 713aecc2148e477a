// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation tables of 4 KiB granule for 39 bits: three levels, for either
//! stage.

use std::cell::Cell;

use crate::Machine;

/// The permissions of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Everything
    ReadWrite,
    /// Reads
    ReadOnly,
    /// Everything, for every ASID (stage 1)
    Global,
}

/// Which translation the tables are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Stage 1
    One,
    /// Stage 2
    Two,
}

/// `AF`
const ACCESS: u64 = 1 << 10;
/// `AP[1]`: unprivileged accesses, which those of PCI functions are (§13.7)
const USER: u64 = 1 << 6;
/// `AP[2]`
const READ_ONLY: u64 = 1 << 7;
/// `nG`
const NOT_GLOBAL: u64 = 1 << 11;

impl Stage {
    /// Returns the attributes of a leaf.
    const fn attributes(self, allow: Allow) -> u64 {
        let permissions = match (self, allow) {
            (Self::One, Allow::ReadWrite) => USER | NOT_GLOBAL,
            (Self::One, Allow::ReadOnly) => USER | READ_ONLY | NOT_GLOBAL,
            (Self::One, Allow::Global) => USER,
            // S2AP, normal memory
            (Self::Two, Allow::ReadWrite | Allow::Global) => (0b11 << 6) | (0b1111 << 2),
            (Self::Two, Allow::ReadOnly) => (0b01 << 6) | (0b1111 << 2),
        };
        ACCESS | permissions
    }
}

/// Tables, and the memory for more of them.
pub struct Tables<'a> {
    machine: &'a Machine,
    stage: Stage,
    base: u64,
    next: Cell<u64>,
}

const PAGE: u64 = 4096;

impl<'a> Tables<'a> {
    /// Returns empty tables in memory from `base` on.
    pub const fn new(machine: &'a Machine, stage: Stage, base: u64) -> Self {
        Self {
            machine,
            stage,
            base,
            next: Cell::new(base + PAGE),
        }
    }

    /// Returns the address of the first table.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Returns the address of the descriptor of `input` in the table of a
    /// level.
    const fn slot(table: u64, level: u32, input: u64) -> u64 {
        table + 8 * ((input >> (39 - 9 * level)) & 0x1ff)
    }

    fn next_level(&self, slot: u64) -> u64 {
        let descriptor = self.machine.read64(slot);
        if descriptor & 1 != 0 {
            return descriptor & !(PAGE - 1);
        }
        let table = self.next.get();
        self.next.set(table + PAGE);
        self.machine.write64(slot, table | 3);
        table
    }

    fn leaf(&self, level: u32, input: u64) -> u64 {
        let mut table = self.base;
        for above in 1..level {
            table = self.next_level(Self::slot(table, above, input));
        }
        Self::slot(table, level, input)
    }

    /// Returns the address of the level-3 table for `input`.
    pub fn pages(&self, input: u64) -> u64 {
        self.next_level(self.leaf(2, input))
    }

    /// Makes `table` the level-3 table for `input`.
    pub fn lead(&self, input: u64, table: u64) {
        self.machine.write64(self.leaf(2, input), table | 3);
    }

    /// Maps a page.
    pub fn map(&self, input: u64, output: u64, allow: Allow) {
        let leaf = self.leaf(3, input);
        let attributes = self.stage.attributes(allow);
        self.machine.write64(leaf, output | attributes | 3);
    }

    /// Maps a block of 2 MiB.
    pub fn map_block(&self, input: u64, output: u64, allow: Allow) {
        let leaf = self.leaf(2, input);
        let attributes = self.stage.attributes(allow);
        self.machine.write64(leaf, output | attributes | 1);
    }

    /// Replaces a block of 2 MiB by pages with the same outputs.
    pub fn split(&self, input: u64) {
        let slot = self.leaf(2, input);
        let block = self.machine.read64(slot);
        let table = self.next.get();
        self.next.set(table + PAGE);
        for page in 0..512 {
            let descriptor = block + PAGE * page + 2;
            self.machine.write64(table + 8 * page, descriptor);
        }
        self.machine.write64(slot, table | 3);
    }

    /// Unmaps a page.
    pub fn unmap(&self, input: u64) {
        self.machine.write64(self.leaf(3, input), 0);
    }
}
