// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The tests of `iothreads`, with accel=on: a disk whose I/O thread translates without the BQL,
//! behind an accelerated SMMU. Machines with stage 2 have accel=off here, too, as accel=on has
//! none.

/// Properties of an SMMU with stage 1.
const STAGE1: &str = smmuv3_qtest::emulated::ACCEL;

#[path = "../iothreads/cmd_sync.rs"]
mod cmd_sync;
#[path = "../iothreads/disk.rs"]
mod disk;
#[path = "../iothreads/invalidation_burst.rs"]
mod invalidation_burst;
#[path = "../iothreads/races.rs"]
mod races;
#[path = "../iothreads/tables_in_devices.rs"]
mod tables_in_devices;
