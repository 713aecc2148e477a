// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Arm `SMMUv3` device model for QEMU.
//!
//! The type `arm-smmuv3`: a drop-in for QEMU's C device of that name. The
//! architecture is in the crate [`smmuv3`], which is independent of QEMU; this
//! crate connects it to QOM, guest memory, interrupts and the host's iommufd,
//! through QEMU's Rust crates and [`qemu_ext`].
//!
//! * [`device`]: the QOM type; it connects all others, and no other depends on it
//! * [`cmdq`], [`eventq`], [`mmio`]: the queues, and register accesses
//! * [`iommu`]: DMA translation for emulated devices
//! * [`accel`]: assigned devices, nested translation
//! * [`pci`]: which devices may be behind an SMMU with assigned devices
//! * [`state`]: registers and caches, which the above are given
//! * [`properties`], [`vmstate`]: the user's settings, and the migration stream
//! * [`introspection`]: what users can read while the machine runs
//! * [`irq`], [`memory`], [`reentry`], [`deadline`], [`guest_errors`], [`trace`][mod@trace],
//!   [`statistics`]: used by all of them

mod accel;
mod bindings;
mod cmdq;
mod cmdqv;
mod deadline;
mod device;
mod eventq;
mod guest_errors;
mod introspection;
mod iommu;
mod irq;
mod memory;
mod mmio;
mod pci;
mod properties;
mod reentry;
mod state;
mod statistics;
mod trace;
mod vmstate;

pub use device::{Smmuv3, TYPE_ARM_SMMUV3};
