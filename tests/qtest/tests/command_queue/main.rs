// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue through real registers and guest memory: what is
//! consumed, how it stops, how it goes on. No device is assigned, so nothing
//! reaches a host.

mod bench;
mod cmd_sync;
mod cmdqen;
mod commands;
mod device_memory;
mod errors;
mod geometry;
mod migration;
mod random_accesses;
mod time_slices;
