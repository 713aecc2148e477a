// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! All registers, and the execution of commands.
//!
//! A write of `PROD_INDX` executes the commands of the queue before it returns, so hardware that
//! lags behind is not among the things that this can show.

use crate::{
    fields::{alloc_map, param, vintf, Field, ENABLE},
    layout::{
        register, QueueRegister, Register, VintfRegister, QUEUES, QUEUES_PER_VINTF, SIDS, VINTFS,
    },
    queue::{CommandError, Queue},
    vintf::{Action, Vintf},
};

const VERSION: u64 = 1;

/// The machine around the hardware.
pub trait Platform {
    /// Reads a command from memory, or returns `None` if that fails.
    fn fetch(&mut self, address: u64) -> Option<[u64; 2]>;

    /// Has the SMMU execute a command. Returns `false` if it is illegal.
    fn execute(&mut self, command: [u64; 2]) -> bool;

    /// Signals an error: one edge.
    fn interrupt(&mut self);

    /// Reports a mistake of software.
    fn report(&mut self, message: &str, vintf: usize, detail: u64);
}

/// The work of one VINTF, for users.
pub struct Work<'a> {
    /// Its registers and counters
    pub vintf: &'a Vintf,
    /// Number of queues that software has assigned to it
    pub assigned: usize,
    /// Number of these that execute commands
    pub enabled: usize,
}

/// The hardware.
#[derive(Debug, Default)]
pub struct Cmdqv {
    config: u64,
    interrupt_masks: [u64; 2],
    alloc_maps: [u64; QUEUES],
    vintfs: [Vintf; VINTFS],
    queues: [Queue; QUEUES],
}

impl Cmdqv {
    /// Returns the value of a register.
    pub fn read(&self, offset: usize) -> u64 {
        match register(offset) {
            Register::Config => self.config,
            Register::Param => self.param(),
            Register::Status => ENABLE.get(self.config),
            Register::VintfErrors(index) => map(index, |vintf| {
                vintf < VINTFS && self.queues_with_errors(vintf).next().is_some()
            }),
            Register::InterruptMask(index) => self.interrupt_masks[index],
            Register::QueueErrors(index) => map(index, |queue| {
                queue < QUEUES && self.queues[queue].has_error()
            }),
            Register::AllocMap(queue) => self.alloc_maps[queue],
            Register::Vintf(index, VintfRegister::Status) => self.vintf_status(index),
            Register::Vintf(index, VintfRegister::SlotErrors(word)) => map(word, |slot| {
                self.queues_with_errors(index)
                    .any(|queue| self.slot_of(queue) == slot)
            }),
            Register::Vintf(index, other) => self.vintfs[index].read(other),
            Register::Queue(queue, register) => self.read_queue(queue, register),
            Register::Slot(vintf, slot, register) => self
                .queue_at(vintf, slot)
                .map_or(0, |queue| self.read_queue(queue, register)),
            Register::None => 0,
        }
    }

    /// Writes a register, and executes the commands that it makes available.
    pub fn write<P: Platform>(&mut self, offset: usize, value: u64, platform: &mut P) {
        match register(offset) {
            Register::Config => self.config = value,
            Register::InterruptMask(index) => self.interrupt_masks[index] = value,
            Register::AllocMap(queue) => self.alloc_maps[queue] = value,
            Register::Vintf(index, register) => self.vintfs[index].write(register, value),
            Register::Queue(queue, register) => {
                self.write_queue(queue, register, value, platform);
            }
            Register::Slot(vintf, slot, register) => {
                // Hardware drops writes of a slot without a queue, without an error.
                if let Some(queue) = self.queue_at(vintf, slot) {
                    self.write_queue(queue, register, value, platform);
                }
            }
            _ => return,
        }
        for queue in 0..QUEUES {
            self.run(queue, platform);
        }
    }

    /// Returns the work of each VINTF.
    pub fn work(&self) -> impl Iterator<Item = Work<'_>> {
        self.vintfs.iter().enumerate().map(move |(index, vintf)| {
            let queues = || (0..QUEUES).filter(move |queue| self.vintf_of(*queue) == Some(index));
            Work {
                vintf,
                assigned: queues().count(),
                enabled: queues().filter(|queue| self.is_enabled(*queue)).count(),
            }
        })
    }

    fn param(&self) -> u64 {
        let values = [
            (param::VERSION, VERSION),
            (param::LOG2_QUEUES, QUEUES.ilog2().into()),
            (param::LOG2_VINTFS, VINTFS.ilog2().into()),
            (param::LOG2_SIDS, SIDS.ilog2().into()),
        ];
        combine(&values)
    }

    fn vintf_status(&self, index: usize) -> u64 {
        combine(&[
            (ENABLE, self.is_vintf_enabled(index).into()),
            (
                vintf::STATUS_ERROR,
                self.queues_with_errors(index).next().is_some().into(),
            ),
            (vintf::STATUS_SLOTS, QUEUES_PER_VINTF as u64),
        ])
    }

    fn is_vintf_enabled(&self, index: usize) -> bool {
        let vintf = self.vintfs.get(index);
        ENABLE.get(self.config) != 0 && vintf.is_some_and(Vintf::is_enabled)
    }

    /// Returns the VINTF that software has assigned a queue to.
    fn vintf_of(&self, queue: usize) -> Option<usize> {
        let map = self.alloc_maps[queue];
        (alloc_map::ALLOC.get(map) != 0).then(|| alloc_map::VINTF.get(map) as usize)
    }

    fn slot_of(&self, queue: usize) -> usize {
        alloc_map::SLOT.get(self.alloc_maps[queue]) as usize
    }

    fn queue_at(&self, vintf: usize, slot: usize) -> Option<usize> {
        (0..QUEUES)
            .find(|queue| self.vintf_of(*queue) == Some(vintf) && self.slot_of(*queue) == slot)
    }

    fn queues_with_errors(&self, vintf: usize) -> impl Iterator<Item = usize> + '_ {
        (0..QUEUES).filter(move |queue| {
            self.vintf_of(*queue) == Some(vintf) && self.queues[*queue].has_error()
        })
    }

    fn is_enabled(&self, queue: usize) -> bool {
        let vintf = self.vintf_of(queue);
        self.queues[queue].is_enabled() && vintf.is_some_and(|vintf| self.is_vintf_enabled(vintf))
    }

    fn read_queue(&self, queue: usize, register: QueueRegister) -> u64 {
        if register == QueueRegister::Status {
            return ENABLE.with(0, self.is_enabled(queue).into());
        }
        self.queues[queue].read(register)
    }

    fn write_queue<P: Platform>(
        &mut self,
        queue: usize,
        register: QueueRegister,
        value: u64,
        platform: &mut P,
    ) {
        if !self.queues[queue].write(register, value) {
            let vintf = self.vintf_of(queue).unwrap_or(VINTFS);
            platform.report("write of an enabled queue's position", vintf, value);
        }
    }

    /// Executes the commands of a queue, up to the first at which it has to stop.
    fn run<P: Platform>(&mut self, index: usize, platform: &mut P) {
        let Some(owner) = self.vintf_of(index).filter(|_| self.is_enabled(index)) else {
            return;
        };
        let (queue, vintf) = (&mut self.queues[index], &mut self.vintfs[owner]);
        while !queue.has_error() {
            let Some(address) = queue.next() else {
                return;
            };
            match step(vintf, address, platform) {
                Ok(()) => queue.advance(),
                Err(error) => {
                    platform.report("a queue stops at a command", owner, address);
                    queue.fail(error);
                    vintf.note_error();
                    let mask = self.interrupt_masks[owner / 32];
                    if mask & (1 << (owner % 32)) == 0 {
                        platform.interrupt();
                    }
                }
            }
        }
    }
}

/// Executes the command at `address`.
fn step<P: Platform>(
    vintf: &mut Vintf,
    address: u64,
    platform: &mut P,
) -> Result<(), CommandError> {
    let command = platform.fetch(address).ok_or(CommandError::Abort)?;
    if let Action::Execute(restricted) = vintf.restrict(command)? {
        if !platform.execute(restricted) {
            return Err(CommandError::IllegalOpcode);
        }
    }
    vintf.note_executed(command);
    Ok(())
}

/// Returns the word of an error map in which the bits of those that `is_set` are 1.
fn map(word: usize, is_set: impl Fn(usize) -> bool) -> u64 {
    (0..32)
        .filter(|bit| is_set(word * 32 + bit))
        .fold(0, |map, bit| map | (1 << bit))
}

fn combine(values: &[(Field, u64)]) -> u64 {
    values
        .iter()
        .fold(0, |word, (field, value)| field.with(word, *value))
}
