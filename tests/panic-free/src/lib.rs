// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The functions of the architecture that a guest's input reaches, compiled for
//! `scripts/panic-free`, which shows that none of them can panic.
//!
//! A function that is generic or inlined has machine code only where it is called from. So
//! each is called here, once, with arguments that the compiler knows nothing about: all of
//! them come from parameters, and what surrounds the SMMU is behind `dyn`. A module is a
//! subject, and the script reports on each. `inline(never)` has machine code made even of
//! a function so small that callers would get a copy instead.

#![forbid(unsafe_code)]

pub mod cmdq;
pub mod cmdqv;
pub mod command;
pub mod control;
pub mod eventq;
pub mod queue;
pub mod registers;
mod surroundings;
pub mod tables;
pub mod translation;
