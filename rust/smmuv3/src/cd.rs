// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Context descriptors (5.4).

/// A Context descriptor: eight words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cd(pub [u64; 8]);
