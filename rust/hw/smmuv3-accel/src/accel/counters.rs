// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Counters of attachments, and the state of each stream, for users to read.

/// Counters of operations in the host other than the Command queue's. They wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachCounters {
    /// Devices that were taken over from another QEMU as they were
    pub adopted: u64,
    /// Attachments to stage 1
    pub stage1: u64,
    /// Attachments to the bypass HWPT
    pub bypass: u64,
    /// Attachments to the abort HWPT
    pub abort: u64,
    /// Attachments that were not needed, because the device was attached as wanted
    pub unchanged: u64,
    /// Attachments that the host has refused
    pub refused: u64,
    /// Devices that were detached from every HWPT
    pub blocked: u64,
    /// HWPTs that were allocated for stage 1
    pub hwpts: u64,
    /// vDEVICEs that were allocated
    pub vdevices: u64,
    /// vEVENTQs that were allocated
    pub veventqs: u64,
    /// Calls that invalidate, except those of the Command queue
    pub invalidations: u64,
    /// Streams that were quarantined
    pub quarantines: u64,
    /// Number of times that all streams were quarantined at once (fail closed)
    pub failed_closed: u64,
    /// Number of times that the host was given up on
    pub host_lost: u64,
    /// Number of times that a host that was given up on was used again
    pub host_recovered: u64,
}

/// Adds one to a counter.
pub fn count(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

impl AttachCounters {
    /// Adds the counters of another part.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            adopted: self.adopted.wrapping_add(other.adopted),
            stage1: self.stage1.wrapping_add(other.stage1),
            bypass: self.bypass.wrapping_add(other.bypass),
            abort: self.abort.wrapping_add(other.abort),
            unchanged: self.unchanged.wrapping_add(other.unchanged),
            refused: self.refused.wrapping_add(other.refused),
            blocked: self.blocked.wrapping_add(other.blocked),
            hwpts: self.hwpts.wrapping_add(other.hwpts),
            vdevices: self.vdevices.wrapping_add(other.vdevices),
            veventqs: self.veventqs.wrapping_add(other.veventqs),
            invalidations: self.invalidations.wrapping_add(other.invalidations),
            quarantines: self.quarantines.wrapping_add(other.quarantines),
            failed_closed: self.failed_closed.wrapping_add(other.failed_closed),
            host_lost: self.host_lost.wrapping_add(other.host_lost),
            host_recovered: self.host_recovered.wrapping_add(other.host_recovered),
        }
    }
}

/// An assigned device, as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its `StreamID`
    pub stream_id: u32,
    /// Its path in QOM
    pub device: String,
    /// Its ID in the host's iommufd
    pub host_device_id: u32,
    /// Its attachment: `stage1`, `bypass`, `abort`, `blocked`, `stage2` or `inherited`
    pub translation: &'static str,
    /// The words of the STE that the host has, if stage 1 translates
    pub ste: Option<[u64; 2]>,
    /// Its transactions are aborted regardless of the guest's tables
    pub is_quarantined: bool,
    /// The host has a vDEVICE for its `StreamID`
    pub has_vdevice: bool,
}
