// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's side of the Command queue: commands go to iommufd.

use smmuv3::{cmdq, invalidation::HostError};

use super::{stream::Stream, viommu::Viommu, Accel};
use crate::{device::Smmuv3, machine::Deadline};

::trace::include_trace!("hw_arm");

/// The host, for the length of one run of the consumer.
pub struct Host<'a> {
    device: &'a Smmuv3,
    deadline: Deadline,
}

impl<'a> Host<'a> {
    /// The host side of `device`.
    pub fn new(device: &'a Smmuv3) -> Self {
        Self {
            device,
            deadline: Deadline::of_a_slice(),
        }
    }

    /// Calls `function` with the streams, if there are any.
    fn with<R>(&self, function: impl FnOnce(&mut [Stream], &Viommu) -> R) -> Option<R> {
        let mut accel_cell = self.device.accel_state.borrow_mut();
        let (streams, viommu) = accel_cell.as_mut().and_then(Accel::parts)?;
        Some(function(streams, viommu))
    }
}

impl cmdq::Host for Host<'_> {
    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Result<(), HostError> {
        // no device, nothing cached
        let result = self
            .with(|_, viommu| viommu.object.invalidate(commands))
            .unwrap_or(Ok(()));
        let (errno, entry_num) = match &result {
            Ok(()) => (0, commands.len() as u32),
            Err(error) => (error.errno, error.entry_num),
        };
        trace::trace_smmuv3_accel_invalidate_batch(commands.len() as u32, errno, entry_num);
        result
    }

    fn next_stream(&mut self, first: u32, last: u32) -> Option<u32> {
        self.with(|streams, _| {
            streams
                .iter()
                .map(Stream::stream_id)
                .filter(|sid| (first..=last).contains(sid))
                .min()
        })
        .flatten()
    }

    fn has_vdevice(&mut self, sid: u32) -> bool {
        // nothing is cached for a stream on abort, and a device whose ATS does not
        // answer would make every flush wait for it
        self.with(|streams, _| {
            streams
                .iter()
                .any(|stream| stream.has_vdevice(sid) && !stream.is_quarantined())
        })
        .unwrap_or(false)
    }

    fn install_ste(&mut self, sid: u32) -> bool {
        self.device.release_streams(sid);
        self.device.attach_streams(|stream_id| stream_id == sid)
    }

    fn quarantine(&mut self, sid: u32) {
        self.with(|streams, viommu| {
            for stream in streams.iter_mut().filter(|stream| stream.has_vdevice(sid)) {
                stream.quarantine(viommu);
            }
        });
    }

    fn fail_closed(&mut self) {
        self.with(|streams, viommu| {
            for stream in streams {
                stream.quarantine(viommu);
            }
        });
    }

    fn is_out_of_time(&mut self) -> bool {
        self.deadline.is_over()
    }

    fn gone(&mut self) -> bool {
        self.with(|_, _| ()).is_none()
    }
}
