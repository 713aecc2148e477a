// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Pages of `docs/` whose tables make claims, and the tests that they name as
//! evidence. A page cannot go stale: the tests of this crate compare the two.

pub mod page;
pub mod tests;

use std::path::PathBuf;

/// The root of the project.
pub fn project() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect()
}
