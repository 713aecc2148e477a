// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The migration stream: field by field what QEMU's C device writes and reads, and subsections that it
//! has with accel=on.

use migration::{bindings::VMStateField, prelude::*};
use smmuv3::{
    features::Features, queue::QueueLayout, registers::Registers, stream_table::two_level_split,
};

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

/// Hands the fields of the stream, in its order, to the macro `$then`: values that the C
/// device derives from registers, registers, and queues; then those of the subsection.
///
/// A register that is migrated is an entry of this list and of no other.
macro_rules! with_stream_fields {
    ($then:ident! { $($arguments:tt)* }) => {
        $then! {
            $($arguments)*
            derived {
                features: u32,
                sid_size: u8,
                sid_split: u8,
                cr: [u32; 3],
                cr0ack: u32,
            }
            registers {
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
            }
            queues { cmdq, eventq, }
            gbpa { gbpa: u32, }
        }
    };
}

macro_rules! declare_saved_registers {
    (
        derived { $($derived:ident: $derived_ty:ty,)+ }
        registers { $($register:ident: $register_ty:ty,)+ }
        queues { $($queue:ident,)+ }
        gbpa { $($gbpa:ident: $gbpa_ty:ty,)+ }
    ) => {
        /// The registers, and the values that the C device derives from them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct SavedRegisters {
            $(pub $derived: $derived_ty,)+
            $(pub $register: $register_ty,)+
            $(pub $queue: SavedQueue,)+
            $(pub $gbpa: $gbpa_ty,)+
        }

        impl SavedRegisters {
            /// Copies the registers that are saved as they are.
            fn copy_from(&mut self, registers: &Registers) {
                $(self.$register = registers.$register;)+
                $(self.$gbpa = registers.$gbpa;)+
            }

            /// Copies them back.
            fn copy_to(&self, registers: &mut Registers) {
                $(registers.$register = self.$register;)+
                $(registers.$gbpa = self.$gbpa;)+
            }
        }
    };
}

with_stream_fields!(declare_saved_registers! {});

/// Moves a field of [`SavedRegisters`] to its place in a device, which has these registers at
/// `offset`.
pub const fn at(offset: usize, mut field: VMStateField) -> VMStateField {
    field.offset += offset;
    field
}

/// Declares the description that QEMU looks up for `$device`, whose field `$saved` is a
/// `BqlRefCell<SavedRegisters>`. That is `repr(C)` and begins with its value.
///
/// Its field `$features` is a `BqlRefCell<SavedFeatures>`, the ID registers for a migration, and
/// `$accel` is a `BqlRefCell<SavedAccel>`, the state of assigned devices for a live update.
///
/// `$device` has the methods `gbpa_needed`, `pre_save`, `pre_load` and `post_load`,
/// `features_needed`, `save_features` and `check_early`, and `accel_needed` and `save_accel`. It
/// registers `VMSTATE_EARLY`.
macro_rules! declare_vmstate {
    ($device:ident, $saved:ident, $features:ident, $accel:ident) => {
        $crate::vmstate::with_stream_fields! {
            declare_vmstate! {
                @ $device, $features, $accel, ::std::mem::offset_of!($device, $saved);
            }
        }
    };
    (
        @ $device:ident, $features:ident, $accel:ident, $offset:expr;
        derived { $($derived:ident: $derived_ty:ty,)+ }
        registers { $($register:ident: $register_ty:ty,)+ }
        queues { $($queue:ident,)+ }
        gbpa { $($gbpa:ident: $gbpa_ty:ty,)+ }
    ) => {
        static VMSTATE_GBPA: ::migration::VMStateDescription<$device> =
            ::migration::VMStateDescriptionBuilder::<$device>::new()
                .name(c"smmuv3/gbpa")
                .version_id(1)
                .minimum_version_id(1)
                .needed(&$device::gbpa_needed)
                .fields(::migration::vmstate_fields! {
                    $($crate::vmstate::saved_field!($offset, $gbpa),)+
                })
                .build();

        static VMSTATE_FEATURES: ::migration::VMStateDescription<$device> =
            ::migration::VMStateDescriptionBuilder::<$device>::new()
                .name(c"smmuv3/accel")
                .version_id(1)
                .minimum_version_id(1)
                .needed(&$device::features_needed)
                .pre_save(&$device::save_features)
                .fields(::migration::vmstate_fields! {
                    ::migration::vmstate_of!($device, $features),
                })
                .build();

        /// The same registers before the guest's memory, so that a host that lacks something
        /// refuses the guest while it runs at the source.
        static VMSTATE_EARLY: ::migration::VMStateDescription<$device> =
            ::migration::VMStateDescriptionBuilder::<$device>::new()
                .name(c"smmuv3-accel-early")
                .version_id(1)
                .minimum_version_id(1)
                .early_setup()
                .needed(&$device::features_needed)
                .pre_save(&$device::save_features)
                .post_load(&$device::check_early)
                .fields(::migration::vmstate_fields! {
                    ::migration::vmstate_of!($device, $features),
                })
                .build();

        static VMSTATE_ACCEL: ::migration::VMStateDescription<$device> =
            ::migration::VMStateDescriptionBuilder::<$device>::new()
                .name(c"smmuv3/cpr")
                .version_id(1)
                .minimum_version_id(1)
                .needed(&$device::accel_needed)
                .pre_save(&$device::save_accel)
                .fields(::migration::vmstate_fields! {
                    ::migration::vmstate_of!($device, $accel),
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
                    $($crate::vmstate::saved_field!($offset, $derived),)+
                    $($crate::vmstate::saved_field!($offset, $register),)+
                    $($crate::vmstate::saved_field!($offset, $queue),)+
                })
                .subsections(::migration::vmstate_subsections! {
                    VMSTATE_GBPA,
                    VMSTATE_FEATURES,
                    VMSTATE_ACCEL
                })
                .build();
    };
}

/// Describes a field of [`SavedRegisters`], which are at `$offset` in the device.
macro_rules! saved_field {
    ($offset:expr, $field:ident) => {
        $crate::vmstate::at(
            $offset,
            ::migration::vmstate_of!($crate::vmstate::SavedRegisters, $field),
        )
    };
}

pub(crate) use {declare_vmstate, saved_field, with_stream_fields};

impl SavedQueue {
    fn new(base: u64, prod: u32, cons: u32, ring: &QueueLayout) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        let log2size = ring.log2size() as u8;
        Self {
            base,
            prod,
            cons,
            log2size,
        }
    }
}

impl SavedRegisters {
    /// Returns the values that the C device saves for these registers.
    pub fn of(
        Snapshot {
            features,
            registers,
        }: &Snapshot,
    ) -> Self {
        let split = two_level_split(registers.strtab_base_cfg);
        let mut saved = Self {
            features: if split.is_some() { FEATURE_2LVL_STE } else { 0 },
            sid_split: split.unwrap_or(0),
            cr: [registers.cr0, registers.cr1, registers.cr2],
            cr0ack: registers.cr0,
            cmdq: SavedQueue::new(
                registers.cmdq_base,
                registers.cmdq_prod,
                registers.cmdq_cons,
                &registers.cmdq_layout(features),
            ),
            eventq: SavedQueue::new(
                registers.eventq_base,
                registers.eventq_prod,
                registers.eventq_cons,
                &registers.eventq_layout(features),
            ),
            ..Self::default()
        };
        saved.copy_from(registers);
        saved
    }

    /// Returns the value for a stream without subsections: GBPA's reset value.
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
        let mut registers = Registers::reset(features);
        self.copy_to(&mut registers);
        let [cr0, cr1, cr2] = self.cr;
        registers.cr0 = cr0;
        registers.cr1 = cr1;
        registers.cr2 = cr2;
        registers.cmdq_base = self.cmdq.base;
        registers.cmdq_prod = self.cmdq.prod;
        registers.cmdq_cons = self.cmdq.cons;
        registers.eventq_base = self.eventq.base;
        registers.eventq_prod = self.eventq.prod;
        registers.eventq_cons = self.eventq.cons;
        registers.clear_reserved(features);
        Ok(registers)
    }

    /// Returns the first field with a value that neither this device nor the C one can
    /// have saved. Only derived values are checked, because a guest can write any value
    /// to a register.
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
