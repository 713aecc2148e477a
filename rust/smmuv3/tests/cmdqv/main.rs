// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization: registers, the moves of queues between hardware and software, and
//! queues in software.

#[path = "../common/mod.rs"]
mod common;
mod guest;
mod host;
mod invariants;
mod random;
mod registers;
mod software;
mod transitions;
