// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Calls of the device that come later: from the main loop, a timer, or when the
//! machine is complete, starts or stops.

mod ffi;

pub use ffi::{on_bus_number_change, on_machine_done, Alarm, BottomHalf, Clock, RunStateHandler};
