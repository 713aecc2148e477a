// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The registers of one virtual interface, and the commands that its queues may execute.

use std::collections::BTreeMap;

use crate::{
    fields::{command, vintf, ENABLE},
    layout::{VintfRegister, SIDS},
    queue::CommandError,
};

// Opcodes of IHI 0070 §4.
const TLBI_NH_ASID: u8 = 0x11;
const TLBI_NH_VA: u8 = 0x12;
const ATC_INV: u8 = 0x40;
const SYNC: u8 = 0x46;

/// `CMD_SYNC.CS` of one that only completes. No queue has another signal.
const SIGNAL_NONE: u64 = 0;

/// What a queue does about a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is left to do
    Complete,
    /// The SMMU executes this command
    Execute([u64; 2]),
}

/// One virtual interface.
#[derive(Debug, Default)]
pub struct Vintf {
    config: u64,
    matches: [u64; SIDS],
    replacements: [u64; SIDS],
    executed: BTreeMap<u8, u64>,
    errors: u64,
}

impl Vintf {
    /// Returns the value of a register that software has written.
    pub fn read(&self, register: VintfRegister) -> u64 {
        match register {
            VintfRegister::Config => self.config,
            VintfRegister::Match(index) => self.matches[index],
            VintfRegister::Replace(index) => self.replacements[index],
            VintfRegister::Status | VintfRegister::SlotErrors(_) => 0,
        }
    }

    /// Writes a register.
    pub fn write(&mut self, register: VintfRegister, value: u64) {
        match register {
            VintfRegister::Config => self.config = vintf::CONFIG.only(value),
            VintfRegister::Match(index) => {
                self.matches[index] = ENABLE.only(value) | vintf::MATCH_SID.only(value);
            }
            VintfRegister::Replace(index) => {
                self.replacements[index] = vintf::REPLACE_SID.only(value);
            }
            VintfRegister::Status | VintfRegister::SlotErrors(_) => {}
        }
    }

    /// Returns whether software has enabled the interface.
    pub const fn is_enabled(&self) -> bool {
        ENABLE.get(self.config) != 0
    }

    /// Returns whether the interface is the hypervisor's, and executes every command.
    pub const fn is_hypervisors(&self) -> bool {
        vintf::HYP_OWN.get(self.config) != 0
    }

    /// Returns the VMID of its commands.
    pub const fn vmid(&self) -> u64 {
        vintf::VMID.get(self.config)
    }

    /// Returns the numbers of commands that were executed, by opcode.
    pub const fn executed(&self) -> &BTreeMap<u8, u64> {
        &self.executed
    }

    /// Returns the number of commands at which a queue has stopped.
    pub const fn errors(&self) -> u64 {
        self.errors
    }

    /// Counts an executed command.
    pub fn note_executed(&mut self, [word0, _]: [u64; 2]) {
        *self.executed.entry(opcode(word0)).or_default() += 1;
    }

    /// Counts a command at which a queue has stopped.
    pub fn note_error(&mut self) {
        self.errors += 1;
    }

    /// Decides about a command of one of its queues.
    ///
    /// A guest's TLBIs get the interface's VMID, and the `StreamID` in its `CMD_ATC_INV` is
    /// replaced, so that a guest reaches nothing but its own.
    pub fn restrict(&self, [word0, word1]: [u64; 2]) -> Result<Action, CommandError> {
        match opcode(word0) {
            SYNC if command::SYNC_SIGNAL.get(word0) == SIGNAL_NONE => Ok(Action::Complete),
            SYNC => Err(CommandError::IllegalOpcode),
            _ if self.is_hypervisors() => Ok(Action::Execute([word0, word1])),
            TLBI_NH_ASID | TLBI_NH_VA => Ok(Action::Execute([
                command::VMID.with(word0, self.vmid()),
                word1,
            ])),
            // The emulated SMMU has no ATS and calls the command illegal. No ATC exists, so
            // nothing is left to do once the StreamID is found.
            ATC_INV => self
                .physical_sid(command::SID.get(word0))
                .map(|_| Action::Complete)
                .ok_or(CommandError::IllegalAccess),
            _ => Err(CommandError::IllegalOpcode),
        }
    }

    fn physical_sid(&self, sid: u64) -> Option<u64> {
        let pairs = self.matches.iter().zip(&self.replacements);
        let mut valid = pairs.filter(|(found, _)| ENABLE.get(**found) != 0);
        valid
            .find(|(found, _)| vintf::MATCH_SID.get(**found) == sid)
            .map(|(_, replacement)| *replacement)
    }
}

const fn opcode(word0: u64) -> u8 {
    command::OPCODE.get(word0) as u8
}
