// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Doorbells of vCPUs that do not have the Big QEMU Lock, as under KVM, while a call of the host
//! takes a second: no other vCPU, and no user, waits for it, and nothing that happens meanwhile
//! is lost or too early.

mod bench;
mod changes;
mod concurrent;
mod stops;
