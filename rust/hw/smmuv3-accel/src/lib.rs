// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Arm `SMMUv3` device model for QEMU.
//!
//! The type `arm-smmuv3`: a drop-in for QEMU's C device of that name. What the
//! architecture says lives in the crate [`smmuv3`], which knows nothing of
//! QEMU; this crate connects it to QOM, guest memory, interrupts and the host's
//! iommufd, through QEMU's Rust crates and [`qemu_ext`].
//!
//! * [`device`]: the QOM type, its life cycle
//! * [`properties`]: what a user can set, and what that makes of the ID registers
//! * [`mmio`]: register accesses and the command queue's doorbell
//! * [`pci`]: the SMMU as the PCI bus sees it
//! * [`translate`]: translation in software, for devices that QEMU emulates
//! * [`events`]: the way to the guest's Event queue
//! * [`lines`], [`memory`], [`machine`]: what the device reaches the machine through
//! * [`vmstate`]: the migration stream
//! * [`accel`]: assigned devices, nested translation

mod accel;
mod bindings;
mod device;
mod events;
mod lines;
mod machine;
mod memory;
mod mmio;
mod pci;
mod properties;
mod trace_names;
mod translate;
mod vmstate;

pub use device::Smmuv3;

/// The QOM type name, as in `-device arm-smmuv3`.
pub const TYPE_ARM_SMMUV3: &::std::ffi::CStr = c"arm-smmuv3";
