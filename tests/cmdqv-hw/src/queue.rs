// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The registers of one queue.

use crate::{
    fields::{queue, Field, ENABLE},
    layout::QueueRegister,
};

/// Size of a command in memory.
const COMMAND_BYTES: u64 = 16;
/// The largest queue that the index fields have room for.
const MAX_LOG2_ENTRIES: u64 = 19;

/// The reason for which a queue has stopped, as `CONS_INDX.ERR` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CommandError {
    /// The queue does not execute this command, or the SMMU does not
    IllegalOpcode = 1,
    /// The command cannot be read
    Abort = 2,
    /// The queue has no access to this stream. Which error hardware reports is not public;
    /// Linux skips the command after either.
    IllegalAccess = 4,
}

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    cons: u64,
    prod: u64,
    config: u64,
    gerror: u64,
    gerrorn: u64,
    base: u64,
}

impl Queue {
    /// Returns the value of a register but `STATUS`.
    pub const fn read(&self, register: QueueRegister) -> u64 {
        match register {
            QueueRegister::Cons => self.cons,
            QueueRegister::Prod => self.prod,
            QueueRegister::Config => self.config,
            QueueRegister::Status => 0,
            QueueRegister::Gerror => self.gerror,
            QueueRegister::Gerrorn => self.gerrorn,
            QueueRegister::BaseLow => Field::LOW.get(self.base),
            QueueRegister::BaseHigh => Field::HIGH.get(self.base),
        }
    }

    /// Writes a register. Returns whether the queue takes the value: the position in memory
    /// and the consumer's index of an enabled queue are the hardware's.
    pub fn write(&mut self, register: QueueRegister, value: u64) -> bool {
        match register {
            QueueRegister::Prod => self.prod = queue::INDEX.only(value),
            QueueRegister::Config => self.config = ENABLE.only(value),
            QueueRegister::Gerrorn => self.gerrorn = queue::GERROR.only(value),
            QueueRegister::Status | QueueRegister::Gerror => {}
            _ if self.is_enabled() => return false,
            QueueRegister::Cons => self.cons = queue::INDEX.only(value),
            QueueRegister::BaseLow => self.base = Field::LOW.with(self.base, value),
            QueueRegister::BaseHigh => self.base = Field::HIGH.with(self.base, value),
        }
        true
    }

    /// Returns whether software has enabled the queue, and it has a valid size.
    pub const fn is_enabled(&self) -> bool {
        self.config != 0 && self.log2_entries() <= MAX_LOG2_ENTRIES
    }

    /// Returns whether software has not acknowledged an error.
    pub const fn has_error(&self) -> bool {
        self.gerror != self.gerrorn
    }

    /// Returns the address of the next command, or `None` if the queue is empty.
    pub const fn next(&self) -> Option<u64> {
        let entries = 1 << self.log2_entries();
        if (self.cons ^ self.prod) & (2 * entries - 1) == 0 {
            return None;
        }
        let index = self.cons & (entries - 1);
        Some(queue::BASE_ADDRESS.only(self.base) + index * COMMAND_BYTES)
    }

    /// Removes the command that `next` has returned.
    pub fn advance(&mut self) {
        let indices = 2 << self.log2_entries();
        self.cons = (queue::INDEX.get(self.cons) + 1) % indices;
    }

    /// Stops the queue at its next command.
    pub fn fail(&mut self, error: CommandError) {
        self.cons = queue::CONS_ERROR.with(self.cons, error as u64);
        self.gerror ^= queue::GERROR_CMDQ.only(u64::MAX);
    }

    const fn log2_entries(&self) -> u64 {
        queue::BASE_LOG2_ENTRIES.get(self.base)
    }
}
