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
    unused_imports,
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

    /// include/system/kvm.h
    pub static kvm_allowed: bool;

    /// include/qemu/main-loop.h
    pub fn bql_lock_impl(file: *const std::ffi::c_char, line: std::ffi::c_int);
    /// include/qemu/main-loop.h
    pub fn bql_unlock();

    /// include/hw/core/cpu.h, whose types are not in the bindings
    pub fn qemu_get_cpu(index: std::ffi::c_int) -> *mut CPUState;
    /// include/hw/core/cpu.h
    pub fn qemu_cpu_is_self(cpu: *mut CPUState) -> bool;
    /// include/hw/core/cpu.h
    pub fn cpu_is_stopped(cpu: *mut CPUState) -> bool;
    /// include/hw/core/cpu.h
    pub fn async_run_on_cpu(
        cpu: *mut CPUState,
        function: unsafe extern "C" fn(*mut CPUState, RunOnCpuData),
        data: RunOnCpuData,
    );
}

/// A vCPU, which is only pointed to.
#[derive(Debug)]
pub enum CPUState {}

/// `run_on_cpu_data` of include/hw/core/cpu.h.
#[derive(Clone, Copy)]
#[repr(C)]
pub union RunOnCpuData {
    host_int: std::ffi::c_int,
    pub host_ptr: *mut std::ffi::c_void,
    target_ptr: u64,
}

// SAFETY: a struct of nullable function pointers
unsafe impl Zeroable for PCIIOMMUOps {}
