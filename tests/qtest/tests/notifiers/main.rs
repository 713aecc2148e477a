// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Notifications of a device IOTLB: the vhost-user backend of a virtio device
//! requests translations from QEMU and caches them, so QEMU must notify it when
//! they change.

/// Properties of an SMMU with stage 1.
const STAGE1: &str = "stage=1";

mod backend;
mod bench;
mod clients;
mod trace_events;
mod translation;
mod unmap;
