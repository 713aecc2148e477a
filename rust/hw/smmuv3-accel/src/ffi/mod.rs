// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bridges to the C interfaces that QEMU's Rust crates do not offer: the C base
//! type, guest memory, bottom halves, and what a device does once in its life.
//! Everything here is safe to call unless it says otherwise; every `unsafe` block
//! says why.
//!
//! What concerns one part of the device only is in that part's own `ffi`:
//! [`accel::ffi`](crate::accel::ffi), and the private ones of `pci`,
//! `properties` and `translate`.

mod callbacks;
mod exports;
mod machine;
mod memory;
mod registers;
mod types;

pub use callbacks::{on_machine_done, Alarm, BottomHalf, StopHandler};
pub use machine::{exit_with, is_deterministic, machine_is_ready, report, MigrationBlocker};
pub use memory::{dma_read, dma_read_u64, dma_write, zeroed_leaked};
pub use registers::init_registers_region;
pub use types::{
    describe_property, set_user_creatable, IommuMemoryRegion, ParentMethods, SmmuState,
};
