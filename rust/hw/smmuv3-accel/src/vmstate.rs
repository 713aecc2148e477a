// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The migration stream: field by field what QEMU's C device writes and reads.

use migration::{bindings::VMStateField, prelude::*};
use smmuv3::{features::Features, queue::QueueRegisters, registers::Registers};

use crate::state::Snapshot;

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
    pub features: u32,
    pub sid_size: u8,
    pub sid_split: u8,
    pub cr: [u32; 3],
    pub cr0ack: u32,
    pub statusr: u32,
    pub irq_ctrl: u32,
    pub gerror: u32,
    pub gerrorn: u32,
    pub gerror_irq_cfg0: u64,
    pub gerror_irq_cfg1: u32,
    pub gerror_irq_cfg2: u32,
    pub strtab_base: u64,
    pub strtab_base_cfg: u32,
    pub eventq_irq_cfg0: u64,
    pub eventq_irq_cfg1: u32,
    pub eventq_irq_cfg2: u32,
    pub cmdq: SavedQueue,
    pub eventq: SavedQueue,
    pub gbpa: u32,
}

/// Moves a field of [`SavedRegisters`] to its place in a device, which has these registers at
/// `offset`.
pub const fn at(offset: usize, mut field: VMStateField) -> VMStateField {
    field.offset += offset;
    field
}

/// Declares the description that QEMU looks up for `$device`, whose field `$saved` is a
/// `BqlRefCell<SavedRegisters>`. That is `repr(C)` and begins with its value.
///
/// `$device` has the methods `gbpa_needed`, `pre_save`, `pre_load` and `post_load`.
macro_rules! declare_vmstate {
    ($device:ident, $saved:ident) => {
        declare_vmstate! {
            @ $device, ::std::mem::offset_of!($device, $saved);
            features, sid_size, sid_split, cr, cr0ack, statusr, irq_ctrl, gerror, gerrorn,
            gerror_irq_cfg0, gerror_irq_cfg1, gerror_irq_cfg2, strtab_base, strtab_base_cfg,
            eventq_irq_cfg0, eventq_irq_cfg1, eventq_irq_cfg2, cmdq, eventq,
        }
    };
    (@ $device:ident, $offset:expr; $($field:ident),+ $(,)?) => {
        static VMSTATE_GBPA: ::migration::VMStateDescription<$device> =
            ::migration::VMStateDescriptionBuilder::<$device>::new()
                .name(c"smmuv3/gbpa")
                .version_id(1)
                .minimum_version_id(1)
                .needed(&$device::gbpa_needed)
                .fields(::migration::vmstate_fields! {
                    $crate::vmstate::at(
                        $offset,
                        ::migration::vmstate_of!($crate::vmstate::SavedRegisters, gbpa),
                    ),
                })
                .build();

        /// The description that QEMU looks up for the device.
        const VMSTATE: ::migration::VMStateDescription<$device> =
            ::migration::VMStateDescriptionBuilder::<$device>::new()
                .name(c"smmuv3")
                .version_id(1)
                .minimum_version_id(1)
                .priority(::migration::MigrationPriority::MIG_PRI_IOMMU)
                .pre_save(&$device::pre_save)
                .pre_load(&$device::pre_load)
                .post_load(&$device::post_load)
                .fields(::migration::vmstate_fields! {
                    $(
                        $crate::vmstate::at(
                            $offset,
                            ::migration::vmstate_of!($crate::vmstate::SavedRegisters, $field),
                        ),
                    )+
                })
                .subsections(::migration::vmstate_subsections! { VMSTATE_GBPA })
                .build();
    };
}

pub(crate) use declare_vmstate;

/// Returns `STRTAB_BASE_CFG.SPLIT` as it takes effect, if FMT is two levels (§6.3.25).
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
    /// Returns what the C device saves for these registers.
    pub fn of(
        Snapshot {
            features,
            registers,
        }: &Snapshot,
    ) -> Self {
        let split = two_level_split(registers.strtab_base_cfg);
        Self {
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
        }
    }

    /// Returns what a stream without subsections means: GBPA's reset value.
    pub fn before_load(features: &Features) -> Self {
        Self {
            gbpa: Registers::reset(features).gbpa,
            ..Self::default()
        }
    }

    /// Returns whether GBPA has another value than after a reset.
    pub fn has_gbpa(&self, features: &Features) -> bool {
        self.gbpa != Registers::reset(features).gbpa
    }

    /// Returns the registers of a stream. Reserved bits, which the C device keeps and saves,
    /// are dropped.
    ///
    /// # Errors
    ///
    /// The first field with a value that no device can have saved.
    pub fn registers(&self, features: &Features) -> Result<Registers, &'static str> {
        if let Some(field) = self.impossible(features.max_cmdqs(), features.max_eventqs()) {
            return Err(field);
        }
        let mut registers = Registers {
            cr: self.cr,
            cr0ack: self.cr0ack,
            statusr: self.statusr,
            gbpa: self.gbpa,
            irq_ctrl: self.irq_ctrl,
            gerror: self.gerror,
            gerrorn: self.gerrorn,
            gerror_irq_cfg0: self.gerror_irq_cfg0,
            gerror_irq_cfg1: self.gerror_irq_cfg1,
            gerror_irq_cfg2: self.gerror_irq_cfg2,
            strtab_base: self.strtab_base,
            strtab_base_cfg: self.strtab_base_cfg,
            eventq_irq_cfg0: self.eventq_irq_cfg0,
            eventq_irq_cfg1: self.eventq_irq_cfg1,
            eventq_irq_cfg2: self.eventq_irq_cfg2,
            cmdq: self.cmdq.registers(),
            eventq: self.eventq.registers(),
        };
        registers.clear_reserved(features);
        Ok(registers)
    }

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
