// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bindings of QEMU subsystems that QEMU's own Rust crates do not cover yet.
//!
//! Each module binds one subsystem, names the crate of QEMU that it belongs into,
//! and can be a patch of its own. No module names a device: callbacks are generic over
//! the type that they call back into.
//!
//! | module | subsystem | place in QEMU |
//! |---|---|---|
//! | [`bh`] | bottom halves | `util` |
//! | [`lock`] | the Big QEMU Lock | `bql` |
//! | [`vcpu`] | threads of vCPUs | `hwcore` |
//! | [`timer`] | extensions of `util::timer::Timer` | `util` |
//! | [`notify`] | notifiers | `util` |
//! | [`log`], [`error`] | messages to the user | `util` |
//! | [`object`] | links, paths and children of objects | `qom` |
//! | [`qapi_events`] | events for QMP clients | `qapi` |
//! | [`property`] | read-only properties with structured values | `qom` |
//! | [`qdev`] | methods of the parent class, names of devices | `hwcore` |
//! | [`device_listener`] | devices that come and go | `hwcore` |
//! | [`qapi_props`] | properties with QAPI types | `hwcore` |
//! | [`memory`] | regions of a device's memory | `system` |
//! | [`page_window`] | pages of hardware in such regions | `system` |
//! | [`dma`] | address spaces | `system` |
//! | [`iommu`] | memory regions that translate | `system` |
//! | [`runstate`] | start and stop of the machine, its phases, replay | `system` |
//! | [`blocker`] | migration blockers | `migration` |
//! | [`cpr`] | live update of QEMU | `migration` |
//! | [`early_state`] | state that is sent when a migration begins | `migration` |
//! | [`pci`], [`pci_iommu`] | PCI functions, and their IOMMU | `hw/pci` |
//! | [`iommufd`], [`event_file`] | the host's IOMMU | `backends` |
//! | [`arm_smmu`] | the C base class of Arm's SMMUs | `hw/arm` |
//!
//! # Callbacks
//!
//! A value that calls back into its owner is a field of the owner. Its `init` function
//! takes the owner by `Pin<&mut T>`, as `util::timer::Timer::init_full` does: memory
//! that is pinned is not reused before its value is dropped, and dropping the owner drops
//! the field, which unregisters the callback. So the callback never meets an owner
//! that is gone.
//!
//! None of these values contains a `BqlCell` or a `BqlRefCell`, so that a device may
//! come to use a bottom half or a timer without the Big QEMU Lock (BQL).

pub mod arm_smmu;
pub mod bh;
mod bindings;
pub mod blocker;
pub mod cpr;
pub mod device_listener;
pub mod dma;
pub mod early_state;
pub mod error;
pub mod event_file;
pub mod iommu;
pub mod iommufd;
pub mod lock;
pub mod log;
pub mod memory;
pub mod notify;
pub mod object;
pub mod page_window;
pub mod pci;
pub mod pci_iommu;
pub mod property;
pub mod qapi_events;
pub mod qapi_props;
pub mod qdev;
pub mod runstate;
pub mod timer;
pub mod vcpu;
