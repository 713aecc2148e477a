// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Reads and writes of the register file.

use super::{
    mask, offset::*, Effects, Registers, CR0_CMDQEN, CR0_EVENTQEN, CR0_PRIQEN, CR0_SMMUEN,
    GBPA_UPDATE,
};
use crate::{features::Features, gerror};

/// `CoreSight` identification at 0xFD0 (6.1): an MMU-600, as `arm-smmuv3` says.
const ID_REGS_VALUES: [u8; 12] = [
    0x04, 0x00, 0x00, 0x00, 0x84, 0xb4, 0xf0, 0x10, 0x0d, 0xf0, 0x05, 0xb1,
];

/// The queues whose enables guard `CR1.QUEUE_*` (6.3.11).
const ANY_QUEUE: u32 = CR0_CMDQEN | CR0_EVENTQEN | CR0_PRIQEN;

/// One half of a 64-bit register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
}

impl Half {
    const fn get(self, register: u64) -> u32 {
        match self {
            Self::Low => register as u32,
            Self::High => (register >> 32) as u32,
        }
    }

    /// Replaces this half, keeping what `mask` allows.
    fn set(self, register: &mut u64, value: u32, mask: u64) {
        let value = u64::from(value);
        *register = mask
            & match self {
                Self::Low => (*register & !0xffff_ffff) | value,
                Self::High => (*register & 0xffff_ffff) | (value << 32),
            };
    }
}

impl Registers {
    /// Reads `size` bytes, 4 or 8, at `offset` into the register space.
    ///
    /// Page 1 aliases page 0. A 64-bit read of two 32-bit registers gives
    /// both. Everything undefined, and every access of another size or
    /// alignment, reads as zero (6.2).
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
    /// both, the lower first. Writes to what is undefined or read-only, and
    /// accesses of another size or alignment, are ignored (6.2).
    pub fn write(&mut self, features: &Features, offset: u64, value: u64, size: u32) -> Effects {
        match size {
            4 if offset % 4 == 0 => self.write32(features, offset, value as u32),
            8 if offset % 8 == 0 => {
                let low = self.write32(features, offset, value as u32);
                low.and(self.write32(features, offset.wrapping_add(4), (value >> 32) as u32))
            }
            _ => forbidden("access of an unsupported size or alignment"),
        }
    }

    fn read32(&self, features: &Features, offset: u64) -> u32 {
        if offset >= SIZE {
            return 0;
        }
        match offset & PAGE_OFFSET_MASK {
            offset @ IDR0..=IDR5 => features.idr[(offset / 4) as usize],
            IIDR => features.iidr,
            AIDR => features.aidr,
            CR0 => self.cr[0],
            CR0ACK => self.cr0ack,
            CR1 => self.cr[1],
            CR2 => self.cr[2],
            STATUSR => self.statusr,
            GBPA => self.gbpa,
            IRQ_CTRL | IRQ_CTRLACK => self.irq_ctrl,
            GERROR => self.gerror,
            GERRORN => self.gerrorn,
            offset @ GERROR_IRQ_CFG0..=GERROR_IRQ_CFG2 => self.read_gerror_irq_cfg(offset),
            offset @ STRTAB_BASE..=EVENTQ_IRQ_CFG2 => self.read_memory(features, offset),
            offset @ ID_REGS..=ID_REGS_LAST => {
                u32::from(ID_REGS_VALUES[((offset - ID_REGS) / 4) as usize])
            }
            _ => 0,
        }
    }

    fn read_gerror_irq_cfg(&self, offset: u64) -> u32 {
        match offset {
            GERROR_IRQ_CFG0 => Half::Low.get(self.gerror_irq_cfg0),
            GERROR_IRQ_CFG0_HIGH => Half::High.get(self.gerror_irq_cfg0),
            GERROR_IRQ_CFG1 => self.gerror_irq_cfg1,
            GERROR_IRQ_CFG2 => self.gerror_irq_cfg2,
            _ => 0,
        }
    }

    /// The registers about tables and queues in memory.
    fn read_memory(&self, features: &Features, offset: u64) -> u32 {
        // Index bits above the wrap flag read as zero (6.3.28, 6.3.95).
        let consumer = mask::CMDQ_CONS_ERR | self.cmdq_ring(features).pointer_mask();
        let producer = !mask::CMDQ_PROD | self.eventq_ring(features).pointer_mask();
        match offset {
            STRTAB_BASE => Half::Low.get(self.strtab_base),
            STRTAB_BASE_HIGH => Half::High.get(self.strtab_base),
            STRTAB_BASE_CFG => self.strtab_base_cfg,
            CMDQ_BASE => Half::Low.get(self.cmdq.base),
            CMDQ_BASE_HIGH => Half::High.get(self.cmdq.base),
            CMDQ_PROD => self.cmdq.prod,
            CMDQ_CONS => self.cmdq.cons & consumer,
            EVENTQ_BASE => Half::Low.get(self.eventq.base),
            EVENTQ_BASE_HIGH => Half::High.get(self.eventq.base),
            EVENTQ_PROD => self.eventq.prod & producer,
            EVENTQ_CONS => self.eventq.cons,
            EVENTQ_IRQ_CFG0 => Half::Low.get(self.eventq_irq_cfg0),
            EVENTQ_IRQ_CFG0_HIGH => Half::High.get(self.eventq_irq_cfg0),
            EVENTQ_IRQ_CFG1 => self.eventq_irq_cfg1,
            EVENTQ_IRQ_CFG2 => self.eventq_irq_cfg2,
            _ => 0,
        }
    }

    fn write32(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        if offset >= SIZE {
            return Effects::default();
        }
        match offset & PAGE_OFFSET_MASK {
            CR0 => self.write_cr0(features, value),
            CR1 => self.write_cr1(value),
            CR2 => self.guarded(CR0_SMMUEN, |regs| {
                regs.cr[2] = value & mask::cr2(features);
            }),
            GBPA => self.write_gbpa(value),
            IRQ_CTRL => {
                self.irq_ctrl = value & mask::irq_ctrl(features);
                Effects::default()
            }
            GERRORN => {
                self.gerrorn = value & gerror::defined(features);
                // Acknowledging CMDQ_ERR lets the queue go on (7.1).
                self.consider_cmdq(features)
            }
            offset @ GERROR_IRQ_CFG0..=GERROR_IRQ_CFG2 => {
                self.write_gerror_irq_cfg(features, offset, value)
            }
            offset @ STRTAB_BASE..=STRTAB_BASE_CFG => self.write_strtab(features, offset, value),
            offset @ CMDQ_BASE..=CMDQ_CONS => self.write_cmdq(features, offset, value),
            offset @ EVENTQ_BASE..=EVENTQ_CONS => self.write_eventq(features, offset, value),
            offset @ EVENTQ_IRQ_CFG0..=EVENTQ_IRQ_CFG2 => {
                self.write_eventq_irq_cfg(features, offset, value)
            }
            _ => Effects::default(),
        }
    }

    fn write_cr0(&mut self, features: &Features, value: u32) -> Effects {
        let old = self.cr[0];
        let new = value & mask::cr0(features);
        self.cr[0] = new;
        self.cr0ack = new;
        let changed = old ^ new;
        Effects {
            streams: changed & CR0_SMMUEN != 0,
            eventq: changed & CR0_EVENTQEN != 0,
            // Enabling starts the processing of what is already there
            // (6.3.9.3).
            ..self.consider_cmdq(features)
        }
    }

    fn write_cr1(&mut self, value: u32) -> Effects {
        let mut writable = 0;
        if self.cr[0] & ANY_QUEUE == 0 {
            writable |= mask::CR1_QUEUE;
        }
        if self.cr[0] & CR0_SMMUEN == 0 {
            writable |= mask::CR1_TABLE;
        }
        let old = self.cr[1];
        self.cr[1] = (old & !writable) | (value & writable);
        if (self.cr[1] ^ value) & (mask::CR1_QUEUE | mask::CR1_TABLE) == 0 {
            Effects::default()
        } else {
            forbidden("CR1 field changed while what it describes is enabled")
        }
    }

    fn write_gbpa(&mut self, value: u32) -> Effects {
        if value & GBPA_UPDATE == 0 {
            return forbidden("GBPA written without Update");
        }
        let old = self.gbpa;
        self.gbpa = value & mask::GBPA;
        Effects {
            streams: !self.smmu_enabled() && self.gbpa != old,
            ..Effects::default()
        }
    }

    fn write_gerror_irq_cfg(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        if !features.msi() {
            return Effects::default();
        }
        if self.gerror_irq_enabled() {
            return forbidden("GERROR_IRQ_CFG written while GERROR_IRQEN is set");
        }
        let address = mask::irq_cfg0(features);
        match offset {
            GERROR_IRQ_CFG0 => Half::Low.set(&mut self.gerror_irq_cfg0, value, address),
            GERROR_IRQ_CFG0_HIGH => Half::High.set(&mut self.gerror_irq_cfg0, value, address),
            GERROR_IRQ_CFG1 => self.gerror_irq_cfg1 = value & mask::irq_cfg1(features),
            GERROR_IRQ_CFG2 => self.gerror_irq_cfg2 = value & mask::irq_cfg2(features),
            _ => {}
        }
        Effects::default()
    }

    fn write_eventq_irq_cfg(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        if !features.msi() {
            return Effects::default();
        }
        if self.eventq_irq_enabled() {
            return forbidden("EVENTQ_IRQ_CFG written while EVENTQ_IRQEN is set");
        }
        let address = mask::irq_cfg0(features);
        match offset {
            EVENTQ_IRQ_CFG0 => Half::Low.set(&mut self.eventq_irq_cfg0, value, address),
            EVENTQ_IRQ_CFG0_HIGH => Half::High.set(&mut self.eventq_irq_cfg0, value, address),
            EVENTQ_IRQ_CFG1 => self.eventq_irq_cfg1 = value & mask::irq_cfg1(features),
            EVENTQ_IRQ_CFG2 => self.eventq_irq_cfg2 = value & mask::irq_cfg2(features),
            _ => {}
        }
        Effects::default()
    }

    fn write_strtab(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        if features.tables_preset() {
            return Effects::default();
        }
        let base = mask::strtab_base(features);
        self.guarded(CR0_SMMUEN, |regs| match offset {
            STRTAB_BASE => Half::Low.set(&mut regs.strtab_base, value, base),
            STRTAB_BASE_HIGH => Half::High.set(&mut regs.strtab_base, value, base),
            STRTAB_BASE_CFG => regs.strtab_base_cfg = value & mask::strtab_base_cfg(features),
            _ => {}
        })
    }

    fn write_cmdq(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        let base = mask::queue_base(features);
        match offset {
            CMDQ_PROD => {
                self.cmdq.prod = value & mask::CMDQ_PROD;
                self.consider_cmdq(features)
            }
            // The error code stays: a permitted write need not take it
            // (6.3.28).
            CMDQ_CONS => self.guarded(CR0_CMDQEN, |regs| {
                let err = regs.cmdq.cons & mask::CMDQ_CONS_ERR;
                regs.cmdq.cons = err | (value & mask::CMDQ_PROD);
            }),
            _ if features.queues_preset() => Effects::default(),
            CMDQ_BASE => self.guarded(CR0_CMDQEN, |regs| {
                Half::Low.set(&mut regs.cmdq.base, value, base);
            }),
            CMDQ_BASE_HIGH => self.guarded(CR0_CMDQEN, |regs| {
                Half::High.set(&mut regs.cmdq.base, value, base);
            }),
            _ => Effects::default(),
        }
    }

    fn write_eventq(&mut self, features: &Features, offset: u64, value: u32) -> Effects {
        let base = mask::queue_base(features);
        match offset {
            EVENTQ_CONS => {
                self.eventq.cons = value & mask::EVENTQ_POINTER;
                Effects::default()
            }
            EVENTQ_PROD => self.guarded(CR0_EVENTQEN, |regs| {
                regs.eventq.prod = value & mask::EVENTQ_POINTER;
            }),
            _ if features.queues_preset() => Effects::default(),
            EVENTQ_BASE => self.guarded(CR0_EVENTQEN, |regs| {
                Half::Low.set(&mut regs.eventq.base, value, base);
            }),
            EVENTQ_BASE_HIGH => self.guarded(CR0_EVENTQEN, |regs| {
                Half::High.set(&mut regs.eventq.base, value, base);
            }),
            _ => Effects::default(),
        }
    }

    /// Does `write` unless a bit of `guard` is set in `CR0`.
    fn guarded(&mut self, guard: u32, write: impl FnOnce(&mut Self)) -> Effects {
        if self.cr[0] & guard != 0 {
            return forbidden("write to a register that an enable in CR0 guards");
        }
        write(self);
        Effects::default()
    }

    const fn consider_cmdq(&self, features: &Features) -> Effects {
        Effects {
            streams: false,
            eventq: false,
            cmdq: self.cmdq_ready(features),
            guest_error: None,
        }
    }
}

const fn forbidden(message: &'static str) -> Effects {
    Effects {
        streams: false,
        eventq: false,
        cmdq: false,
        guest_error: Some(message),
    }
}
