// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in I/O threads: a virtio disk whose requests an I/O thread of
//! QEMU serves without the BQL, concurrently with the guest's accesses to the
//! SMMU.

/// Properties of an SMMU with stage 1.
const STAGE1: &str = "stage=1";

mod cmd_sync;
mod disk;
mod invalidation_burst;
mod races;
mod tables_in_devices;
