// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What the migration stream has with accel=on: the ID registers that the guest has read; and for a
//! live update the state of assigned devices, which is the IDs of objects in the host, and what the
//! guest has said about each stream.
//!
//! All values are checked where they are used, because a stream can be damaged.

use migration::prelude::*;
use smmuv3::features::Features;

/// Most devices behind one SMMU of which the stream can have the state.
pub const MAX_STREAMS: usize = 256;

/// The ID registers that the guest has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedFeatures {
    /// The value was saved, and is not what a stream without it leaves
    pub is_present: bool,
    pub idr: [u32; 6],
    pub iidr: u32,
    pub aidr: u32,
}

impl From<Features> for SavedFeatures {
    fn from(features: Features) -> Self {
        Self {
            is_present: true,
            idr: features.idr,
            iidr: features.iidr,
            aidr: features.aidr,
        }
    }
}

impl SavedFeatures {
    /// Returns the ID registers, if the stream has them.
    pub const fn get(&self) -> Option<Features> {
        if !self.is_present {
            return None;
        }
        Some(Features {
            idr: self.idr,
            iidr: self.iidr,
            aidr: self.aidr,
        })
    }
}

impl_vmstate_struct!(
    SavedFeatures,
    VMStateDescriptionBuilder::<SavedFeatures>::new()
        .name(c"smmuv3/accel/id-registers")
        .version_id(1)
        .minimum_version_id(1)
        .fields(vmstate_fields! {
            vmstate_of!(SavedFeatures, is_present),
            vmstate_of!(SavedFeatures, idr),
            vmstate_of!(SavedFeatures, iidr),
            vmstate_of!(SavedFeatures, aidr),
        })
        .build()
);

/// A failed attempt that is repeated later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedBackoff {
    /// Number of failures; 0 if there is none
    pub failures: u32,
    /// Duration of the last attempt, in nanoseconds
    pub took: u64,
    /// Attempts have no limit
    pub is_urgent: bool,
}

impl_vmstate_struct!(
    SavedBackoff,
    VMStateDescriptionBuilder::<SavedBackoff>::new()
        .name(c"smmuv3/cpr/backoff")
        .version_id(1)
        .minimum_version_id(1)
        .fields(vmstate_fields! {
            vmstate_of!(SavedBackoff, failures),
            vmstate_of!(SavedBackoff, took),
            vmstate_of!(SavedBackoff, is_urgent),
        })
        .build()
);

/// An assigned device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedStream {
    /// Its ID in the iommufd
    pub device_id: u32,
    /// Its `StreamID`
    pub stream_id: u32,
    /// The vDEVICE; 0 if there is none
    pub vdevice_id: u32,
    /// The `StreamID` of the vDEVICE
    pub vdevice_sid: u32,
    /// The kind of its attachment
    pub attachment: u8,
    /// The HWPT of stage 1
    pub hwpt_id: u32,
    /// The `StreamID` when that was attached
    pub hwpt_sid: u32,
    /// The words of the STE that it was made from
    pub ste: [u64; 2],
    /// `attached_sid` is one
    pub is_attached: bool,
    /// The `StreamID` whose STE decided on the attachment
    pub attached_sid: u32,
    /// Another device has the `StreamID`
    pub is_waiting: bool,
    /// The kind of configuration that the guest wants
    pub wanted: u8,
    /// The words of its STE
    pub wanted_ste: [u64; 2],
    /// A vDEVICE is to be bound regardless of the attachment
    pub wants_vdevice: bool,
    /// The kind of quarantine
    pub quarantine: u8,
    /// The next attempt to attach it as wanted
    pub backoff: SavedBackoff,
}

impl SavedStream {
    /// A device of which nothing is known
    pub const NONE: Self = Self {
        device_id: 0,
        stream_id: 0,
        vdevice_id: 0,
        vdevice_sid: 0,
        attachment: 0,
        hwpt_id: 0,
        hwpt_sid: 0,
        ste: [0; 2],
        is_attached: false,
        attached_sid: 0,
        is_waiting: false,
        wanted: 0,
        wanted_ste: [0; 2],
        wants_vdevice: false,
        quarantine: 0,
        backoff: SavedBackoff {
            failures: 0,
            took: 0,
            is_urgent: false,
        },
    };
}

impl_vmstate_struct!(
    SavedStream,
    VMStateDescriptionBuilder::<SavedStream>::new()
        .name(c"smmuv3/cpr/stream")
        .version_id(1)
        .minimum_version_id(1)
        .fields(vmstate_fields! {
            vmstate_of!(SavedStream, device_id),
            vmstate_of!(SavedStream, stream_id),
            vmstate_of!(SavedStream, vdevice_id),
            vmstate_of!(SavedStream, vdevice_sid),
            vmstate_of!(SavedStream, attachment),
            vmstate_of!(SavedStream, hwpt_id),
            vmstate_of!(SavedStream, hwpt_sid),
            vmstate_of!(SavedStream, ste),
            vmstate_of!(SavedStream, is_attached),
            vmstate_of!(SavedStream, attached_sid),
            vmstate_of!(SavedStream, is_waiting),
            vmstate_of!(SavedStream, wanted),
            vmstate_of!(SavedStream, wanted_ste),
            vmstate_of!(SavedStream, wants_vdevice),
            vmstate_of!(SavedStream, quarantine),
            vmstate_of!(SavedStream, backoff),
        })
        .build()
);

/// The assigned devices of an SMMU, and what they have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedAccel {
    /// The value was saved, and is not what a stream without it leaves
    pub is_present: bool,
    /// The ID registers that the guest has read
    pub idr: [u32; 6],
    pub iidr: u32,
    pub aidr: u32,
    /// A failed `CMD_ATC_INV` is still to be reported to the guest
    pub atc_inv_failed: bool,
    /// The host points at the illegal command of a batch
    pub points_at_offender: bool,
    /// Pages are invalidated by ranges that the guest does not use
    pub merges_ranges: bool,
    /// The vIOMMU; 0 if there is none, and no other object either
    pub viommu_id: u32,
    /// The HWPTs that all streams share
    pub abort_id: u32,
    pub bypass_id: u32,
    /// The stage 2 that they are nested in
    pub stage2_id: u32,
    /// VFIO has made it
    pub is_stage2_vfios: bool,
    /// The host may have stale translations of stage 1
    pub is_stale: bool,
    /// The host was given up on
    pub is_lost: bool,
    /// Total duration of the calls that have failed since one succeeded, and of the last one, in
    /// nanoseconds
    pub failing: u64,
    pub last_failure: u64,
    /// The next attempt to invalidate what is stale
    pub backoff: SavedBackoff,
    /// The vEVENTQ; 0 if there is none
    pub veventq_id: u32,
    /// `sequence` is one
    pub has_sequence: bool,
    /// The number of its next event
    pub sequence: u32,
    /// A closed vEVENTQ that the host has not destroyed; 0 if there is none
    pub busy_veventq_id: u32,
    /// Number of [`Self::streams`] that are used
    pub stream_count: u32,
    pub streams: [SavedStream; MAX_STREAMS],
}

impl Default for SavedAccel {
    fn default() -> Self {
        Self {
            is_present: false,
            idr: [0; 6],
            iidr: 0,
            aidr: 0,
            atc_inv_failed: false,
            points_at_offender: false,
            merges_ranges: false,
            viommu_id: 0,
            abort_id: 0,
            bypass_id: 0,
            stage2_id: 0,
            is_stage2_vfios: false,
            is_stale: false,
            is_lost: false,
            failing: 0,
            last_failure: 0,
            backoff: SavedBackoff::default(),
            veventq_id: 0,
            has_sequence: false,
            sequence: 0,
            busy_veventq_id: 0,
            stream_count: 0,
            streams: [SavedStream::NONE; MAX_STREAMS],
        }
    }
}

impl SavedAccel {
    /// Returns the devices.
    pub fn streams(&self) -> &[SavedStream] {
        let count = (self.stream_count as usize).min(MAX_STREAMS);
        self.streams.get(..count).unwrap_or_default()
    }

    /// Returns whether there is room for the devices that follow in a stream. QEMU stops to load
    /// it otherwise.
    fn has_room(&self, _version_id: u8) -> bool {
        self.stream_count as usize <= MAX_STREAMS
    }
}

impl_vmstate_struct!(
    SavedAccel,
    VMStateDescriptionBuilder::<SavedAccel>::new()
        .name(c"smmuv3/cpr/devices")
        .version_id(1)
        .minimum_version_id(1)
        .fields(vmstate_fields! {
            vmstate_of!(SavedAccel, is_present),
            vmstate_of!(SavedAccel, idr),
            vmstate_of!(SavedAccel, iidr),
            vmstate_of!(SavedAccel, aidr),
            vmstate_of!(SavedAccel, atc_inv_failed),
            vmstate_of!(SavedAccel, points_at_offender),
            vmstate_of!(SavedAccel, merges_ranges),
            vmstate_of!(SavedAccel, viommu_id),
            vmstate_of!(SavedAccel, abort_id),
            vmstate_of!(SavedAccel, bypass_id),
            vmstate_of!(SavedAccel, stage2_id),
            vmstate_of!(SavedAccel, is_stage2_vfios),
            vmstate_of!(SavedAccel, is_stale),
            vmstate_of!(SavedAccel, is_lost),
            vmstate_of!(SavedAccel, failing),
            vmstate_of!(SavedAccel, last_failure),
            vmstate_of!(SavedAccel, backoff),
            vmstate_of!(SavedAccel, veventq_id),
            vmstate_of!(SavedAccel, has_sequence),
            vmstate_of!(SavedAccel, sequence),
            vmstate_of!(SavedAccel, busy_veventq_id),
            vmstate_of!(SavedAccel, stream_count),
            // before the devices: QEMU writes as many as the stream says
            vmstate_validate!(SavedAccel, c"stream_count", SavedAccel::has_room),
            vmstate_of!(SavedAccel, streams[0 .. stream_count]),
        })
        .build()
);
