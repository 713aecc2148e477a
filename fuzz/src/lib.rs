// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Inputs of the fuzz targets: how bytes are decoded, and the properties checked.
//!
//! The machine around the crate, the models and the references are those of
//! its tests.

#![forbid(unsafe_code)]

#[allow(missing_docs)]
#[path = "../../rust/smmuv3/tests/common/mod.rs"]
mod common;
#[allow(dead_code, missing_docs)]
#[path = "../../rust/smmuv3/tests/translation/reference.rs"]
mod reference;

pub mod batches;
pub mod cmdqv;
pub mod consumer;
pub mod decoders;
pub mod registers;
pub mod tlb;
pub mod translation;

mod pick;
