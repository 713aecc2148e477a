// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What C code calls.

use std::ffi::c_uint;

use crate::device::Smmuv3;

/// Does this SMMU show ATS to the guest? Called when the IORT is built.
///
/// # Safety
///
/// `smmu` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_ats_enabled(smmu: *mut Smmuv3) -> bool {
    // SAFETY: promised by the caller
    unsafe { &*smmu }.features().ats()
}

/// Which CMDQ virtualization the SMMU has: none (`SMMUV3_CMDQV_NONE`).
#[no_mangle]
pub extern "C" fn smmuv3_accel_cmdqv_type(_object: *mut qom::bindings::Object) -> c_uint {
    0
}
