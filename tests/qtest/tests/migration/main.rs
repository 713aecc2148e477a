// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine moves from one QEMU to another, from the C device to the Rust one
//! and back, with an SMMU that is in the middle of everything: commands wait
//! behind an error, an event has not been read. And streams that are damaged.

mod guest;
mod invalid_vmstate;
mod random_vmstate;
mod reserved_bits;
mod snapshots;
mod stream;
mod transfer;
