// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization of NVIDIA Tegra241, as hardware of the nested testbed's lowest level.
//!
//! Next to the SMMU of an emulated machine it has Command queues of its own (VCMDQs), which
//! software assigns to virtual interfaces (VINTFs). Linux as a KVM host keeps one VINTF and
//! gives the others to guests, which then submit invalidations without an exit. This crate is
//! for tests only, and no product contains it.
//!
//! It shares no code with the `CMDQV` that the device under test shows to guests: Linux's driver
//! is the judge of both.
//!
//! * [`layout`]: the places of registers
//! * [`fields`]: the fields of registers and commands
//! * [`queue`], [`vintf`]: the registers of one of them
//! * [`hardware`]: all registers, and the execution of commands
//! * [`board`]: the machine around it
//! * [`device`]: the QOM type
//!
//! Besides, for functional tests:
//!
//! * [`vcpus`], [`unmaps`]: vCPUs that access the device under test without the Big QEMU Lock

mod board;
mod device;
mod fields;
mod hardware;
mod layout;
mod queue;
mod unmaps;
mod vcpus;
mod vintf;
