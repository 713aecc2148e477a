// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Event records (7.3).

/// An event record: four words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub [u64; 4]);
