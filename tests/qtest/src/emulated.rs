// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Emulated devices behind an accelerated SMMU.

/// Properties of an SMMU with accel=on that needs no assigned device, because none of them is
/// `auto`.
pub const ACCEL: &str = "accel=on,ats=off,ril=on,oas=44,ssidsize=0";
