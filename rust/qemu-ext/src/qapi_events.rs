// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Events for QMP clients: those of qapi/arm-smmuv3.json, which describes them. QEMU limits
//! how often they are sent.
//!
//! ```no_run
//! qemu_ext::qapi_events::host_lost("/machine/peripheral/smmuv3.1");
//! ```

use std::ffi::{c_char, CString};

use crate::bindings;

/// Returns a copy of a path for C. A path in QOM has no NUL.
fn path(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

/// Sends an event about the SMMU `smmu`.
///
/// # Safety
///
/// `send` must copy its argument, and want the Big QEMU Lock (BQL) at most.
unsafe fn send(send: unsafe extern "C" fn(*const c_char), smmu: &str) {
    assert!(bql::is_locked());
    let smmu = path(smmu);
    // SAFETY: a string that outlives the call
    unsafe { send(smmu.as_ptr()) }
}

/// Sends `ARM_SMMUV3_STREAM_QUARANTINED` about the assigned device `device`.
pub fn stream_quarantined(device: &str, smmu: &str, stream_id: u32) {
    assert!(bql::is_locked());
    let (device, smmu) = (path(device), path(smmu));
    // SAFETY: strings that outlive the call; the callee copies them
    unsafe {
        bindings::qapi_event_send_arm_smmuv3_stream_quarantined(
            device.as_ptr(),
            smmu.as_ptr(),
            stream_id,
        );
    }
}

/// Sends `ARM_SMMUV3_FAILED_CLOSED`.
pub fn failed_closed(smmu: &str) {
    // SAFETY: the callee copies its argument
    unsafe { send(bindings::qapi_event_send_arm_smmuv3_failed_closed, smmu) }
}

/// Sends `ARM_SMMUV3_HOST_LOST`.
pub fn host_lost(smmu: &str) {
    // SAFETY: the callee copies its argument
    unsafe { send(bindings::qapi_event_send_arm_smmuv3_host_lost, smmu) }
}

/// Sends `ARM_SMMUV3_HOST_RECOVERED`.
pub fn host_recovered(smmu: &str) {
    // SAFETY: the callee copies its argument
    unsafe { send(bindings::qapi_event_send_arm_smmuv3_host_recovered, smmu) }
}
