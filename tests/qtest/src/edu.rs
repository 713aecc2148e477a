// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! QEMU's `edu`: a PCI device that reads and writes memory on request, in one
//! access each, and does not report errors.

use std::cell::Cell;

use crate::{
    pci::{Board, VIRT},
    Machine,
};

/// Property for `-device edu`, which masks addresses by default.
pub const DEVICE: &str = "edu,dma_mask=0xffffffffffffffff";

/// Bytes of its buffer.
pub const BUFFER: u64 = 4096;

/// The device writes the first half of the buffer; it reads into the second.
const INBOX: u64 = BUFFER / 2;
/// Words that it can write.
const WORDS: u64 = INBOX / 4;

/// Offsets of registers.
const RAISE: u64 = 0x60;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;

/// Where the buffer is for the device itself.
const BUFFER_AT: u64 = 0x4_0000;
/// Duration of a transfer, in nanoseconds.
const DURATION: u64 = 101_000_000;

/// A direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// From memory
    Read,
    /// To memory
    Write,
}

/// An `edu` with words in its buffer that are all different.
pub struct Edu<'a> {
    machine: &'a Machine,
    board: &'static Board,
    sid: u32,
    registers: u64,
    /// The next word to write
    next: Cell<u64>,
}

impl<'a> Edu<'a> {
    /// Returns the `edu` of `virt` whose `StreamID` is `sid`, with its BAR
    /// `index` MiB into the window. No stage may translate yet, because the
    /// device loads the words that it writes from RAM.
    ///
    /// # Panics
    ///
    /// If the device is not there.
    #[track_caller]
    pub fn new(machine: &'a Machine, sid: u32, index: u64) -> Self {
        Self::of(&VIRT, machine, sid, index)
    }

    /// Returns the `edu` of another board.
    ///
    /// # Panics
    ///
    /// If the device is not there.
    #[track_caller]
    pub fn of(board: &'static Board, machine: &'a Machine, sid: u32, index: u64) -> Self {
        let edu = Self {
            machine,
            board,
            sid,
            registers: board.window + (index << 20),
            next: Cell::new(0),
        };
        edu.program();
        edu
    }

    /// Programs the device again after a reset.
    #[track_caller]
    pub fn program(&self) {
        let (machine, ram) = (self.machine, self.board.ram);
        self.board
            .enable(machine, self.sid, 0x11e8_1234, self.registers);
        let words: Vec<u8> = (0..WORDS)
            .flat_map(|index| self.word(index).to_le_bytes())
            .collect();
        let before = machine.read_memory(ram, words.len());
        machine.write_memory(ram, &words);
        self.transfer(Access::Read, ram, 0, INBOX);
        machine.write_memory(ram, &before);
    }

    /// Returns the `StreamID` of the device.
    pub const fn sid(&self) -> u32 {
        self.sid
    }

    const fn word(&self, index: u64) -> u32 {
        0x8000_0000 | (self.sid << 12) | index as u32
    }

    #[track_caller]
    fn transfer(&self, access: Access, address: u64, offset: u64, count: u64) {
        let inside = BUFFER_AT + offset;
        let (source, destination, command) = match access {
            Access::Read => (address, inside, 1),
            Access::Write => (inside, address, 3),
        };
        let machine = self.machine;
        machine.write64(self.registers + SOURCE, source);
        machine.write64(self.registers + DESTINATION, destination);
        machine.write64(self.registers + COUNT, count);
        machine.write64(self.registers + COMMAND, command);
        machine.clock_step(DURATION);
    }

    /// Programs the MSI: a write of `data` to `iova`.
    #[track_caller]
    pub fn program_msi(&self, iova: u64, data: u16) {
        let config = self.board.config(self.sid);
        let machine = self.machine;
        let at = config + machine.read_sized(config + 0x34, 1);
        assert_eq!(machine.read_sized(at, 1), 0x05, "the capability for MSI");
        machine.write32(at + 4, iova as u32);
        machine.write32(at + 8, (iova >> 32) as u32);
        machine.write_sized(at + 12, data.into(), 2);
        machine.write_sized(at + 2, 1, 2);
    }

    /// Raises the interrupt of the device.
    #[track_caller]
    pub fn raise(&self) {
        self.machine.write32(self.registers + RAISE, 1);
    }

    /// Makes one access of 4 bytes and drops the data.
    #[track_caller]
    pub fn access(&self, access: Access, iova: u64) {
        match access {
            Access::Read => self.read(iova, 4),
            Access::Write => drop(self.write(iova)),
        }
    }

    /// Writes another word than the last one to `iova` and returns it.
    #[track_caller]
    pub fn write(&self, iova: u64) -> u32 {
        let index = self.next.get();
        self.next.set((index + 1) % WORDS);
        self.transfer(Access::Write, iova, 4 * index, 4);
        self.word(index)
    }

    /// Writes the first `count` bytes of its buffer to `iova` and returns them.
    #[track_caller]
    pub fn write_bytes(&self, iova: u64, count: u64) -> Vec<u8> {
        assert!(count <= INBOX);
        self.transfer(Access::Write, iova, 0, count);
        let words = (0..WORDS).flat_map(|index| self.word(index).to_le_bytes());
        words.take(count as usize).collect()
    }

    /// Reads `count` bytes from `iova`; [`deliver`](Self::deliver) writes them
    /// back to memory.
    #[track_caller]
    pub fn read(&self, iova: u64, count: u64) {
        assert!(count <= BUFFER - INBOX);
        self.transfer(Access::Read, iova, INBOX, count);
    }

    /// Reads as many bytes from `iova` as the buffer holds, which overwrites
    /// the words to write.
    #[track_caller]
    pub fn read_all(&self, iova: u64) {
        self.transfer(Access::Read, iova, 0, BUFFER);
    }

    /// Writes as many bytes to `iova` as the buffer holds.
    #[track_caller]
    pub fn write_all(&self, iova: u64) {
        self.transfer(Access::Write, iova, 0, BUFFER);
    }

    /// Writes the first `count` bytes of the last read to `iova`.
    #[track_caller]
    pub fn deliver(&self, iova: u64, count: u64) {
        self.transfer(Access::Write, iova, INBOX, count);
    }
}
