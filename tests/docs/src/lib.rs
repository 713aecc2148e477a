// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Pages of `docs/` whose tables name tests as evidence. The tests of this
//! crate compare pages and sources, so that a page cannot go stale.

pub mod literals;
pub mod page;
pub mod tests;

use std::path::PathBuf;

/// Returns the root of the project.
pub fn project() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect()
}
