// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a device that keeps translations itself is told: a virtio device whose
//! queues another process serves asks QEMU for translations, caches them, and
//! has to hear of it when they are no longer so.

mod backend;
mod bench;
mod clients;
mod trace_events;
mod translation;
mod unmap;
