// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization: registers, the moves of queues between hardware and software, and
//! queues in software.

use super::common;

mod guest;
mod host;
mod invariants;
mod random;
mod registers;
mod software;
mod transitions;
