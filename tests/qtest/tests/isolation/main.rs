// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Assigned devices on a simulated host: at every moment a device is translated
//! by what the guest's registers and tables say, and by nothing else.

use smmuv3_qtest::{assigned as bench, journal};

mod busy;
mod dying;
mod enabling;
mod events;
mod garbage;
mod hosts;
mod invalidating;
mod lost;
mod plugging;
mod quarantine;
mod random;
mod recovering;
mod refusing;
mod reset;
mod several;
mod simulation;
mod table;
mod tracing;
mod traffic;
mod unnested;
