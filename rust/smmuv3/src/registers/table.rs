// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The table of registers (§6.1 to §6.3), which reads, writes, reset and restored
//! states go by.
//!
//! A new register is a layout in [`spec::register`](crate::spec::register), a row here,
//! and, if it is to be migrated, a row in the device's description of the stream.

use super::defined;
use crate::{
    features::Features,
    spec::{
        mask,
        register::{CmdqCons, Cr0, IrqCtrl},
    },
};

/// The whole Non-secure register space: page 0 and page 1.
pub const SIZE: u64 = 0x2_0000;

/// The condition under which a write takes effect.
#[derive(Clone, Copy)]
pub(super) enum Guard {
    /// The register is read-only.
    ReadOnly,
    /// Nothing.
    None,
    /// These bits of `CR0` are 0.
    Cr0(u32),
    /// These bits of `IRQ_CTRL` are 0; else this is logged as a guest error.
    IrqCtrl(u32, &'static str),
    /// `GBPA.Update` is written as 1.
    Update,
    /// Each field has a guard of its own: the bits that can be written now.
    Fields(fn(&Registers) -> u64),
}

/// A row of the table.
pub(super) struct Register {
    pub(super) offset: u64,
    /// Size in bytes, 4 or 8.
    pub(super) bytes: u64,
    pub(super) get: fn(&Registers) -> u64,
    pub(super) set: fn(&mut Registers, u64),
    /// Offset at which the value can be read, too: as an acknowledgement.
    pub(super) ack: Option<u64>,
    /// Bits that the acknowledgement shows besides, because their update to 0 is not complete.
    pub(super) lagging: fn(&Registers) -> u64,
    /// The bits that exist with given features; the rest is RES0 and neither stored
    /// nor shown (§6.2).
    pub(super) defined: fn(&Features) -> u64,
    /// Bits that exist, but are not written by software.
    pub(super) kept: u64,
    /// The bits of the value that are shown.
    pub(super) shown: fn(&Registers, &Features) -> u64,
    pub(super) guard: Guard,
    /// The register is fixed: writes are ignored.
    pub(super) is_preset: fn(&Features) -> bool,
    /// The value out of reset. An UNKNOWN one is 0, except that
    /// both queues start with the largest size that there is.
    pub(super) reset: fn(&Features) -> u64,
    /// The Command queue may have something to do after a write.
    pub(super) wakes_cmdq: bool,
}

/// Declares [`Registers`] and its table.
macro_rules! registers {
    ($(
        $(#[$doc:meta])*
        $field:ident: $ty:ident at $offset:literal {
            defined: $defined:expr,
            $($key:ident: $value:expr,)*
        }
    )+) => {
        /// The registers as they read, without those that never change
        /// ([`Features`] has them). The fields are public so that a device can save
        /// and restore them.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Registers {
            $($(#[$doc])* pub $field: $ty,)+
            /// The Command queue is being consumed by another thread, so `CR0ACK.CMDQEN` is 1
            /// whatever `CR0` says. Not saved: no consumer runs then.
            pub is_cmdq_running: bool,
        }

        pub(super) static TABLE: &[Register] = &[$(
            Register {
                $($key: $value,)*
                ..Register::new(
                    $offset,
                    size_of::<$ty>() as u64,
                    |registers| u64::from(registers.$field),
                    |registers, value| registers.$field = value as $ty,
                    $defined,
                )
            },
        )+];
    };
}

impl Register {
    /// Returns a register that can be written at any time.
    const fn new(
        offset: u64,
        bytes: u64,
        get: fn(&Registers) -> u64,
        set: fn(&mut Registers, u64),
        defined: fn(&Features) -> u64,
    ) -> Self {
        Self {
            offset,
            bytes,
            get,
            set,
            ack: None,
            lagging: |_| 0,
            defined,
            kept: 0,
            shown: |_, _| u64::MAX,
            guard: Guard::None,
            is_preset: |_| false,
            reset: |_| 0,
            wakes_cmdq: false,
        }
    }
}

// In the order in which a driver that is running uses them: a doorbell and its answer
// come first, because a look-up goes from the beginning.
registers! {
    /// `SMMU_CMDQ_PROD` (§6.3.27).
    cmdq_prod: u32 at 0x098 {
        defined: |_| defined::CMDQ_PROD,
        wakes_cmdq: true,
    }
    /// `SMMU_CMDQ_CONS` (§6.3.28).
    cmdq_cons: u32 at 0x09c {
        defined: |_| defined::CMDQ_CONS,
        // A permitted write need not take the error code (§6.3.28).
        kept: mask!(CmdqCons: err) as u64,
        // Index bits above the wrap flag read as zero.
        shown: |registers, features| {
            u64::from(mask!(CmdqCons: err) | registers.cmdq_layout(features).pointer_mask())
        },
        guard: Guard::Cr0(mask!(Cr0: cmdqen)),
    }
    /// `SMMU_EVENTQ_PROD` (§6.3.95).
    eventq_prod: u32 at 0x0a8 {
        defined: |_| defined::EVENTQ_INDEX,
        // Index bits above the wrap flag read as zero.
        shown: |registers, features| {
            !defined::CMDQ_PROD | u64::from(registers.eventq_layout(features).pointer_mask())
        },
        guard: Guard::Cr0(mask!(Cr0: eventqen)),
    }
    /// `SMMU_EVENTQ_CONS` (§6.3.96).
    eventq_cons: u32 at 0x0ac {
        defined: |_| defined::EVENTQ_INDEX,
    }
    /// `SMMU_GERROR` (§6.3.19).
    gerror: u32 at 0x060 {
        defined: defined::gerror,
        guard: Guard::ReadOnly,
    }
    /// `SMMU_GERRORN` (§6.3.20).
    gerrorn: u32 at 0x064 {
        defined: defined::gerror,
        // Acknowledging CMDQ_ERR lets the queue resume (§7.1).
        wakes_cmdq: true,
    }
    /// `SMMU_CR0` (§6.3.9). An update completes at once, so `SMMU_CR0ACK` (§6.3.10)
    /// reads as this; only that of `CMDQEN` to 0 completes when the consumer has stopped.
    cr0: u32 at 0x020 {
        defined: defined::cr0,
        ack: Some(0x024),
        lagging: |registers| u64::from(registers.cr0_in_effect()),
        // Enabling starts the processing of commands that are already there (§6.3.9.3).
        wakes_cmdq: true,
    }
    /// `SMMU_CR1` (§6.3.11).
    cr1: u32 at 0x028 {
        defined: |_| defined::CR1_QUEUE | defined::CR1_TABLE,
        guard: Guard::Fields(defined::cr1_writable),
    }
    /// `SMMU_CR2` (§6.3.12).
    cr2: u32 at 0x02c {
        defined: defined::cr2,
        guard: Guard::Cr0(mask!(Cr0: smmuen)),
    }
    /// `SMMU_STATUSR` (§6.3.13).
    statusr: u32 at 0x040 {
        defined: defined::statusr,
        guard: Guard::ReadOnly,
    }
    /// `SMMU_GBPA` (§6.3.14). `Update` is never seen set.
    gbpa: u32 at 0x044 {
        defined: |_| defined::GBPA,
        guard: Guard::Update,
        // SHCFG is "use incoming", and nothing aborts.
        reset: |_| 0x1000,
    }
    /// `SMMU_IRQ_CTRL` (§6.3.16). `SMMU_IRQ_CTRLACK` (§6.3.17) reads as this.
    irq_ctrl: u32 at 0x050 {
        defined: defined::irq_ctrl,
        ack: Some(0x054),
    }
    /// `SMMU_GERROR_IRQ_CFG0` (§6.3.21).
    gerror_irq_cfg0: u64 at 0x068 {
        defined: defined::irq_cfg0,
        guard: GERROR_IRQ,
    }
    /// `SMMU_GERROR_IRQ_CFG1` (§6.3.22).
    gerror_irq_cfg1: u32 at 0x070 {
        defined: defined::irq_cfg1,
        guard: GERROR_IRQ,
    }
    /// `SMMU_GERROR_IRQ_CFG2` (§6.3.23).
    gerror_irq_cfg2: u32 at 0x074 {
        defined: defined::irq_cfg2,
        guard: GERROR_IRQ,
    }
    /// `SMMU_STRTAB_BASE` (§6.3.24).
    strtab_base: u64 at 0x080 {
        defined: defined::strtab_base,
        guard: Guard::Cr0(mask!(Cr0: smmuen)),
        is_preset: Features::tables_preset,
    }
    /// `SMMU_STRTAB_BASE_CFG` (§6.3.25).
    strtab_base_cfg: u32 at 0x088 {
        defined: defined::strtab_base_cfg,
        guard: Guard::Cr0(mask!(Cr0: smmuen)),
        is_preset: Features::tables_preset,
    }
    /// `SMMU_CMDQ_BASE` (§6.3.26).
    cmdq_base: u64 at 0x090 {
        defined: defined::queue_base,
        guard: Guard::Cr0(mask!(Cr0: cmdqen)),
        is_preset: Features::queues_preset,
        reset: |features| u64::from(features.max_cmdqs()),
    }
    /// `SMMU_EVENTQ_BASE` (§6.3.29).
    eventq_base: u64 at 0x0a0 {
        defined: defined::queue_base,
        guard: Guard::Cr0(mask!(Cr0: eventqen)),
        is_preset: Features::queues_preset,
        reset: |features| u64::from(features.max_eventqs()),
    }
    /// `SMMU_EVENTQ_IRQ_CFG0` (§6.3.30).
    eventq_irq_cfg0: u64 at 0x0b0 {
        defined: defined::irq_cfg0,
        guard: EVENTQ_IRQ,
    }
    /// `SMMU_EVENTQ_IRQ_CFG1` (§6.3.31).
    eventq_irq_cfg1: u32 at 0x0b8 {
        defined: defined::irq_cfg1,
        guard: EVENTQ_IRQ,
    }
    /// `SMMU_EVENTQ_IRQ_CFG2` (§6.3.32).
    eventq_irq_cfg2: u32 at 0x0bc {
        defined: defined::irq_cfg2,
        guard: EVENTQ_IRQ,
    }
}

/// Guard of `SMMU_GERROR_IRQ_CFGn`.
const GERROR_IRQ: Guard = Guard::IrqCtrl(
    mask!(IrqCtrl: gerror_irqen),
    "GERROR_IRQ_CFG written while GERROR_IRQEN is set",
);

/// Guard of `SMMU_EVENTQ_IRQ_CFGn`.
const EVENTQ_IRQ: Guard = Guard::IrqCtrl(
    mask!(IrqCtrl: eventq_irqen),
    "EVENTQ_IRQ_CFG written while EVENTQ_IRQEN is set",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_offsets_are_disjoint_and_aligned() {
        let mut places: Vec<_> = TABLE.iter().map(|row| (row.offset, row.bytes)).collect();
        places.extend(TABLE.iter().filter_map(|row| row.ack).map(|ack| (ack, 4)));
        places.sort_unstable();
        assert!(places.iter().all(|(offset, bytes)| offset % bytes == 0));
        assert!(places
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    }

    #[test]
    fn register_rows_read_back_stored_value() {
        let mut registers = Registers::default();
        for row in TABLE {
            let before = registers.clone();
            let all = if row.bytes == 8 {
                u64::MAX
            } else {
                0xffff_ffff
            };
            (row.set)(&mut registers, u64::MAX);
            assert_eq!((row.get)(&registers), all, "{:#x}", row.offset);
            (row.set)(&mut registers, 0);
            assert_eq!(registers, before, "{:#x}", row.offset);
        }
    }
}
