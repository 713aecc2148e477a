// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update (`cpr-transfer`) with assigned devices: two QEMUs on one simulated host, of which
//! the new one adopts the objects of the old one.

mod adoption;
mod bench;
mod events;
mod failing_host;
mod multiple_smmus;
mod parked;
mod policy;
mod refusals;
mod stream_ids;
mod window;
