// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue through registers and guest memory: consumption, errors
//! and resumption. No device is assigned, so no host is involved.

mod bench;
mod cmd_sync;
mod cmdqen;
mod commands;
mod device_memory;
mod errors;
mod geometry;
mod msi;
mod random_accesses;
mod time_slices;
