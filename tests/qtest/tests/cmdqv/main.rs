// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization on a simulated host.
//!
//! Like all suites it tests the device of `QEMU_BIN`, which is QEMU's C device
//! in `make compare`; [`simulated_hardware`] tests the simulation, always with
//! the C device of `QEMU_C_BIN`. A comment that begins with "C" says what the C
//! device does instead.

mod acpi;
mod bench;
mod emulated;
mod errors;
mod failures;
mod isolation;
mod last_device;
mod limits;
mod live_update;
mod memory;
mod queues;
mod simulated_hardware;
