// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration between the C and the Rust device in both directions, with pending
//! commands behind an error and an unread event; and invalid streams. With
//! accel=on, migration and live update.

mod assigned;
mod guest;
mod invalid_vmstate;
mod live_update;
mod random_vmstate;
mod reserved_bits;
mod snapshots;
mod stream;
mod transfer;
