// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The migration stream: field by field what QEMU's C device writes and reads.

use std::mem::offset_of;

use migration::{bindings::VMStateField, prelude::*, InvalidError, MigrationPriority};
use qemu_ext::error::report;
use smmuv3::{queue::QueueRegisters, registers::Registers};
use util::Error;

use crate::device::Smmuv3;

/// `features` of the stream: the Stream table is a two-level one.
const FEATURE_2LVL_STE: u32 = 1 << 0;

/// A queue, as the C device keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedQueue {
    base: u64,
    prod: u32,
    cons: u32,
    /// base.LOG2SIZE, capped: follows from `base`
    log2size: u8,
}

impl_vmstate_struct!(
    SavedQueue,
    VMStateDescriptionBuilder::<SavedQueue>::new()
        .name(c"smmuv3_queue")
        .version_id(1)
        .minimum_version_id(1)
        .fields(vmstate_fields! {
            vmstate_of!(SavedQueue, base),
            vmstate_of!(SavedQueue, prod),
            vmstate_of!(SavedQueue, cons),
            vmstate_of!(SavedQueue, log2size),
        })
        .build()
);

/// The registers, and what the C device derives from them, in stream order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedRegisters {
    features: u32,
    sid_size: u8,
    sid_split: u8,
    cr: [u32; 3],
    cr0ack: u32,
    statusr: u32,
    irq_ctrl: u32,
    gerror: u32,
    gerrorn: u32,
    gerror_irq_cfg0: u64,
    gerror_irq_cfg1: u32,
    gerror_irq_cfg2: u32,
    strtab_base: u64,
    strtab_base_cfg: u32,
    eventq_irq_cfg0: u64,
    eventq_irq_cfg1: u32,
    eventq_irq_cfg2: u32,
    cmdq: SavedQueue,
    eventq: SavedQueue,
    gbpa: u32,
}

/// Moves a field of [`SavedRegisters`] to its place in the device.
const fn in_device(mut field: VMStateField) -> VMStateField {
    // BqlRefCell is repr(C) and begins with its value
    field.offset += offset_of!(Smmuv3, saved);
    field
}

macro_rules! saved_field {
    ($name:ident) => {
        in_device(vmstate_of!(SavedRegisters, $name))
    };
}

static VMSTATE_GBPA: VMStateDescription<Smmuv3> = VMStateDescriptionBuilder::<Smmuv3>::new()
    .name(c"smmuv3/gbpa")
    .version_id(1)
    .minimum_version_id(1)
    .needed(&Smmuv3::gbpa_needed)
    .fields(vmstate_fields! {
        saved_field!(gbpa),
    })
    .build();

/// The description that QEMU looks up for `arm-smmuv3`.
pub const VMSTATE_SMMUV3: VMStateDescription<Smmuv3> = VMStateDescriptionBuilder::<Smmuv3>::new()
    .name(c"smmuv3")
    .version_id(1)
    .minimum_version_id(1)
    .priority(MigrationPriority::MIG_PRI_IOMMU)
    .pre_save(&Smmuv3::pre_save)
    .pre_load(&Smmuv3::pre_load)
    .post_load(&Smmuv3::post_load)
    .fields(vmstate_fields! {
        saved_field!(features),
        saved_field!(sid_size),
        saved_field!(sid_split),
        saved_field!(cr),
        saved_field!(cr0ack),
        saved_field!(statusr),
        saved_field!(irq_ctrl),
        saved_field!(gerror),
        saved_field!(gerrorn),
        saved_field!(gerror_irq_cfg0),
        saved_field!(gerror_irq_cfg1),
        saved_field!(gerror_irq_cfg2),
        saved_field!(strtab_base),
        saved_field!(strtab_base_cfg),
        saved_field!(eventq_irq_cfg0),
        saved_field!(eventq_irq_cfg1),
        saved_field!(eventq_irq_cfg2),
        saved_field!(cmdq),
        saved_field!(eventq),
    })
    .subsections(vmstate_subsections! {
        VMSTATE_GBPA,
    })
    .build();

/// `STRTAB_BASE_CFG.SPLIT` as it takes effect, if FMT says two levels (section 6.3.25).
const fn two_level_split(strtab_base_cfg: u32) -> Option<u8> {
    match ((strtab_base_cfg >> 16) & 3, (strtab_base_cfg >> 6) & 0x1f) {
        (1, 8) => Some(8),
        (1, 10) => Some(10),
        (1, _) => Some(6),
        _ => None,
    }
}

impl SavedQueue {
    fn of(queue: &QueueRegisters, max_log2size: u32) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        let log2size = (queue.base & 0x1f).min(u64::from(max_log2size)) as u8;
        Self {
            base: queue.base,
            prod: queue.prod,
            cons: queue.cons,
            log2size,
        }
    }

    const fn registers(&self) -> QueueRegisters {
        QueueRegisters {
            base: self.base,
            prod: self.prod,
            cons: self.cons,
        }
    }
}

impl SavedRegisters {
    /// The first field with a value that neither this device nor the C one can
    /// have saved. What they derive is looked at; every value of a register that
    /// a guest writes is possible.
    fn impossible(&self, max_cmdqs: u32, max_eventqs: u32) -> Option<&'static str> {
        [
            ("features", self.features & !FEATURE_2LVL_STE != 0),
            ("sid_split", !matches!(self.sid_split, 0 | 6 | 8 | 10)),
            ("cr0ack", self.cr0ack & !self.cr[0] != 0),
            ("cmdq.log2size", u32::from(self.cmdq.log2size) > max_cmdqs),
            (
                "eventq.log2size",
                u32::from(self.eventq.log2size) > max_eventqs,
            ),
        ]
        .into_iter()
        .find_map(|(field, impossible)| impossible.then_some(field))
    }
}

impl Smmuv3 {
    fn gbpa_needed(&self) -> bool {
        let features = self.features();
        self.saved.borrow().gbpa != Registers::reset(&features).gbpa
    }

    fn pre_save(&self) -> Result<(), InvalidError> {
        let (features, registers) = self.snapshot();
        let split = two_level_split(registers.strtab_base_cfg);
        *self.saved.borrow_mut() = SavedRegisters {
            features: if split.is_some() { FEATURE_2LVL_STE } else { 0 },
            sid_size: 0,
            sid_split: split.unwrap_or(0),
            cr: registers.cr,
            cr0ack: registers.cr0ack,
            statusr: registers.statusr,
            irq_ctrl: registers.irq_ctrl,
            gerror: registers.gerror,
            gerrorn: registers.gerrorn,
            gerror_irq_cfg0: registers.gerror_irq_cfg0,
            gerror_irq_cfg1: registers.gerror_irq_cfg1,
            gerror_irq_cfg2: registers.gerror_irq_cfg2,
            strtab_base: registers.strtab_base,
            strtab_base_cfg: registers.strtab_base_cfg,
            eventq_irq_cfg0: registers.eventq_irq_cfg0,
            eventq_irq_cfg1: registers.eventq_irq_cfg1,
            eventq_irq_cfg2: registers.eventq_irq_cfg2,
            cmdq: SavedQueue::of(&registers.cmdq, features.max_cmdqs()),
            eventq: SavedQueue::of(&registers.eventq, features.max_eventqs()),
            gbpa: registers.gbpa,
        };
        Ok(())
    }

    /// A stream without the subsection means GBPA's reset value.
    fn pre_load(&self) -> Result<(), InvalidError> {
        let reset = Registers::reset(&self.features());
        *self.saved.borrow_mut() = SavedRegisters {
            gbpa: reset.gbpa,
            ..SavedRegisters::default()
        };
        Ok(())
    }

    /// Takes over a stream's registers. What no device can have saved is refused;
    /// Reserved bits, which the C device keeps and saves, are dropped.
    fn post_load(&self, _version_id: u8) -> Result<(), InvalidError> {
        let saved = *self.saved.borrow();
        let mut registers = Registers {
            cr: saved.cr,
            cr0ack: saved.cr0ack,
            statusr: saved.statusr,
            gbpa: saved.gbpa,
            irq_ctrl: saved.irq_ctrl,
            gerror: saved.gerror,
            gerrorn: saved.gerrorn,
            gerror_irq_cfg0: saved.gerror_irq_cfg0,
            gerror_irq_cfg1: saved.gerror_irq_cfg1,
            gerror_irq_cfg2: saved.gerror_irq_cfg2,
            strtab_base: saved.strtab_base,
            strtab_base_cfg: saved.strtab_base_cfg,
            eventq_irq_cfg0: saved.eventq_irq_cfg0,
            eventq_irq_cfg1: saved.eventq_irq_cfg1,
            eventq_irq_cfg2: saved.eventq_irq_cfg2,
            cmdq: saved.cmdq.registers(),
            eventq: saved.eventq.registers(),
        };
        let features = self.features();
        if let Some(field) = saved.impossible(features.max_cmdqs(), features.max_eventqs()) {
            report(&Error::msg(format!(
                "arm-smmuv3: the migration stream is damaged: {field} has a value that no device saves"
            )));
            return Err(InvalidError);
        }
        registers.clear_reserved(&features);
        self.shared().registers = registers;
        self.forget_translations();
        self.evaluate_streams();
        self.evaluate_events();
        // What the source had not consumed yet is consumed when the machine starts: an
        // interrupt controller that is loaded later has no pending bit for a CMD_SYNC, so
        // its interrupt would be lost.
        Ok(())
    }
}
