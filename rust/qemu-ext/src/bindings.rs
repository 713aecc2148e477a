// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors
#![allow(
    dead_code,
    improper_ctypes_definitions,
    improper_ctypes,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn,
    clippy::pedantic,
    clippy::restriction,
    clippy::style,
    clippy::missing_const_for_fn,
    clippy::missing_safety_doc,
    clippy::ptr_offset_with_cast,
    clippy::too_many_arguments,
    clippy::useless_transmute
)]

//! `bindgen`-generated declarations.

use common::Zeroable;
pub use glib_sys::GHashTable;
pub use hwcore::bindings::{BusState, DeviceClass, DeviceRealize, DeviceState};
pub use qom::bindings::Object;
pub use system::bindings::*;
pub use util::bindings::{Error, MemReentrancyGuard, Notifier, QEMUBH};

/// Only pointed to.
#[derive(Debug)]
pub enum VFIOContainer {}

/// Only pointed to.
#[derive(Debug)]
pub enum VFIODeviceOps {}

#[cfg(MESON)]
include!("bindings.inc.rs");

#[cfg(not(MESON))]
include!(concat!(env!("OUT_DIR"), "/bindings.inc.rs"));

extern "C" {
    /// `ReplayMode` of qapi/replay.json, 0 is none. The bindings leave out the header of
    /// the declaration, include/exec/replay-core.h.
    pub static replay_mode: std::ffi::c_uint;
}

// SAFETY: a struct of nullable function pointers
unsafe impl Zeroable for PCIIOMMUOps {}
