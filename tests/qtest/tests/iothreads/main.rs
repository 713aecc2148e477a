// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in threads of their own: a virtio disk whose requests an I/O
//! thread of QEMU's serves, without the lock under which the guest's accesses to
//! the SMMU are done. Both happen at once, and neither is in the other's way.

mod cmd_sync;
mod disk;
mod invalidation_burst;
mod races;
mod tables_in_devices;
