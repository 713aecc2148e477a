// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The SMMU as the PCI bus sees it: which functions may be behind it, and the
//! memory that each of them sees.

mod ffi;

pub use ffi::{has_endpoint, use_accel_ops, PciFunction};
