// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The crate's tests through its public interface.
//!
//! They are one program: what they share is then compiled once, and a change of the crate
//! links one program.

mod cmdq;
mod cmdqv;
mod collect;
mod commands;
mod common;
mod context_descriptors;
mod counters;
mod fragment;
mod host_errors;
mod local;
mod no_panics;
mod order;
mod range;
mod ranges;
mod readme;
mod reference;
mod registers;
mod stream_table;
mod tlb;
mod tlb_model;
mod translation;
mod vectors;
