// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Trace events of accesses to the registers of queues. Tools parse their text.

use std::ffi::CStr;

use smmuv3::cmdqv::QueueOffset;

::trace::include_trace!("hw_arm");

/// Returns the words with which trace events name a page and the executor.
const fn names(at: &QueueOffset) -> (&'static CStr, &'static CStr) {
    let aperture = if at.is_direct { c"direct" } else { c"vi" };
    let backing = if at.is_hardware { c"hw" } else { c"cache" };
    (aperture, backing)
}

/// Traces a read.
pub fn queue_read(at: &QueueOffset, value: u64) {
    let (index, (aperture, backing)) = (at.index as i32, names(at));
    if at.is_page0 {
        trace::trace_tegra241_cmdqv_read_vcmdq_page0(index, aperture, backing, at.offset, value);
    } else {
        trace::trace_tegra241_cmdqv_read_vcmdq_page1(index, aperture, at.offset, value);
    }
}

/// Traces a write.
pub fn queue_write(at: &QueueOffset, value: u64) {
    let (index, (aperture, backing)) = (at.index as i32, names(at));
    if at.is_page0 {
        trace::trace_tegra241_cmdqv_write_vcmdq_page0(index, aperture, backing, at.offset, value);
    } else {
        trace::trace_tegra241_cmdqv_write_vcmdq_page1(index, aperture, at.offset, value);
    }
}
