// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Reads and writes of the register file.

use super::{
    table::{Guard, Register, SIZE, TABLE},
    Effects, Registers,
};
use crate::{
    features::Features,
    spec::{
        mask,
        register::{Cr0, Gbpa},
    },
};

/// Page 1 holds the Event queue's indexes and aliases page 0 otherwise (§6.2).
const PAGE_OFFSET_MASK: u64 = 0xffff;

/// The first of the `CoreSight` identification registers (§6.1).
const ID_REGS: u64 = 0xfd0;

/// `CoreSight` identification (§6.1): an MMU-600, as `arm-smmuv3` says.
const ID_REGS_VALUES: [u8; 12] = [
    0x04, 0x00, 0x00, 0x00, 0x84, 0xb4, 0xf0, 0x10, 0x0d, 0xf0, 0x05, 0xb1,
];

/// The 32 bits of a register that one offset means.
#[derive(Clone, Copy)]
struct Half {
    row: &'static Register,
    is_high: bool,
}

impl Half {
    /// Returns the register that can be written at `offset` into page 0.
    fn at(offset: u64) -> Option<Self> {
        let row = TABLE
            .iter()
            .find(|row| (row.offset..row.offset + row.bytes).contains(&offset))?;
        Some(Self {
            row,
            is_high: offset != row.offset,
        })
    }

    /// Returns the register that can be read there: acknowledgements, too.
    fn readable_at(offset: u64) -> Option<Self> {
        let is_ack = |row: &&Register| row.ack == Some(offset);
        Self::at(offset).or_else(|| {
            TABLE.iter().find(is_ack).map(|row| Self {
                row,
                is_high: false,
            })
        })
    }

    const fn get(self, register: u64) -> u32 {
        if self.is_high {
            (register >> 32) as u32
        } else {
            register as u32
        }
    }

    /// `value` where this half is.
    const fn place(self, value: u32) -> u64 {
        if self.is_high {
            (value as u64) << 32
        } else {
            value as u64
        }
    }
}

impl Registers {
    /// Reads `size` bytes, 4 or 8, at `offset` into the register space.
    ///
    /// Page 1 aliases page 0. A 64-bit read of two 32-bit registers gives
    /// both. Everything undefined, and every access of another size or
    /// alignment, reads as zero (§6.2).
    pub fn read(&self, features: &Features, offset: u64, size: u32) -> u64 {
        match size {
            4 if offset % 4 == 0 => u64::from(self.read32(features, offset)),
            8 if offset % 8 == 0 => {
                let low = u64::from(self.read32(features, offset));
                let high = u64::from(self.read32(features, offset.wrapping_add(4)));
                low | (high << 32)
            }
            _ => 0,
        }
    }

    /// Writes `size` bytes, 4 or 8, at `offset` into the register space.
    ///
    /// Page 1 aliases page 0. A 64-bit write to two 32-bit registers updates
    /// both, the lower first. Writes to undefined or read-only registers, and
    /// accesses of another size or alignment, are ignored (§6.2).
    pub fn write(&mut self, features: &Features, offset: u64, value: u64, size: u32) -> Effects {
        match size {
            4 if offset % 4 == 0 => self.write32(features, offset, value as u32),
            8 if offset % 8 == 0 => {
                let low = self.write32(features, offset, value as u32);
                low.and(self.write32(features, offset.wrapping_add(4), (value >> 32) as u32))
            }
            _ => Effects::forbidden("access of an unsupported size or alignment"),
        }
    }

    fn read32(&self, features: &Features, offset: u64) -> u32 {
        if offset >= SIZE {
            return 0;
        }
        let offset = offset & PAGE_OFFSET_MASK;
        match Half::readable_at(offset) {
            Some(half) => {
                let row = half.row;
                let mut value = (row.get)(self) & (row.shown)(self, features);
                if row.ack == Some(offset) {
                    value |= (row.lagging)(self);
                }
                half.get(value)
            }
            None => identification(features, offset),
        }
    }

    fn write32(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        if offset >= SIZE {
            return Effects::default();
        }
        let Some(half) = Half::at(offset & PAGE_OFFSET_MASK) else {
            return Effects::default();
        };
        let row = half.row;
        let defined = (row.defined)(features);
        if defined == 0 || (row.is_preset)(features) {
            return Effects::default();
        }
        let permitted = match self.permits(row.guard, value) {
            Ok(permitted) => permitted,
            Err(effects) => return effects,
        };
        let fields = defined & !row.kept & half.place(u32::MAX);
        let written = half.place(value);
        let writable = fields & permitted;
        let (cr0, gbpa) = (self.cr0, self.gbpa);
        let new = ((row.get)(self) & !writable) | (written & writable);
        (row.set)(self, new);
        let toggled = cr0 ^ self.cr0;
        Effects {
            streams: toggled & mask!(Cr0: smmuen) != 0
                || (gbpa != self.gbpa && !self.smmu_enabled()),
            eventq: toggled & mask!(Cr0: eventqen) != 0,
            cmdq: row.wakes_cmdq && self.cmdq_ready(features),
            guest_error: ((new ^ written) & fields & !permitted != 0)
                .then_some("CR1 field changed while what it describes is enabled"),
        }
    }

    /// Returns the bits that `guard` lets a write of `value` change, or the effects of
    /// a write that is ignored.
    fn permits(&self, guard: Guard, value: u32) -> Result<u64, Effects> {
        match guard {
            Guard::ReadOnly => Err(Effects::default()),
            Guard::Cr0(bits) if self.cr0_in_effect() & bits != 0 => Err(Effects::forbidden(
                "write to a register that an enable in CR0 guards",
            )),
            Guard::IrqCtrl(bits, message) if self.irq_ctrl & bits != 0 => {
                Err(Effects::forbidden(message))
            }
            Guard::Update if value & mask!(Gbpa: update) == 0 => {
                Err(Effects::forbidden("GBPA written without Update"))
            }
            Guard::Fields(writable) => Ok(writable(self)),
            Guard::None | Guard::Cr0(_) | Guard::IrqCtrl(..) | Guard::Update => Ok(u64::MAX),
        }
    }
}

/// Returns the identification registers, which never change (§6.3.1 to §6.3.8, §6.1).
fn identification(features: &Features, offset: u64) -> u32 {
    let number = (offset / 4) as usize;
    match offset {
        0x018 => features.iidr,
        0x01c => features.aidr,
        ID_REGS.. => {
            let value = ID_REGS_VALUES.get(number - (ID_REGS / 4) as usize);
            value.copied().map_or(0, u32::from)
        }
        _ => features.idr.get(number).copied().unwrap_or(0),
    }
}
