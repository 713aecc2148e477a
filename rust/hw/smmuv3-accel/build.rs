// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Finds the generated bindings for cargo, as in the crates of QEMU.

include!("../../bindings/build.rs");
