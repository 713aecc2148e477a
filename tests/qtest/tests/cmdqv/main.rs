// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization on a simulated host.

mod bench;
mod simulated_hardware;
