// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's part of CMDQ virtualization: the VINTF of a vIOMMU, with its page and its
//! queues.
//!
//! The host destroys them in one order only: queues from the highest down, the vEVENTQ, and
//! the vIOMMU when the page is not mapped any more.

use qemu_ext::{
    iommufd::{HostDevice, HostFailure, HostObject, Tegra241CmdqvHwInfo},
    page_window::PageWindow,
};
use smmuv3::cmdqv::{Assignment, PAGE_SIZE, QUEUES, SIDS};
use util::{ensure, Error, Result};

use super::veventq::{Drained, Received, VcmdqErrors, VeventQ};

/// `PARAM.CMDQV_VER` of the hardware whose registers the guest sees.
const VERSION: u8 = 1;

/// What a vIOMMU needs in order to have a VINTF.
pub struct VintfRequest<'a> {
    /// The device is refused if it cannot have one (`cmdqv=on`)
    pub is_required: bool,
    /// The place for its page
    pub window: &'static PageWindow,
    /// Opens the vEVENTQ of a vIOMMU
    pub open_errors: &'a dyn Fn(&HostObject) -> Result<VeventQ<VcmdqErrors>>,
}

/// The VINTF of a vIOMMU.
#[derive(Debug)]
pub struct Vintf {
    /// None once the host reports no more errors
    errors: Option<VeventQ<VcmdqErrors>>,
    queues: [Option<HostObject>; QUEUES],
    /// Unmapped before the vIOMMU goes; None once no guest uses it
    page: Option<MappedPage>,
}

/// The page of the VINTF in this process. Dropping it unmaps it.
#[derive(Debug)]
struct MappedPage(&'static PageWindow);

impl Drop for MappedPage {
    fn drop(&mut self) {
        // if it fails the vIOMMU is not destroyed, which is reported
        let _ = self.0.unmap();
    }
}

/// Checks that the host's SMMU has the CMDQV of which the guest sees the registers.
pub fn probe(device: &HostDevice) -> Result<()> {
    let info: Tegra241CmdqvHwInfo = device.hw_info()?;
    ensure!(
        info.version == VERSION,
        "its CMDQV has version {} and not {VERSION}",
        info.version
    );
    let queues = u32::from(info.log2vcmdqs);
    ensure!(
        queues >= QUEUES.ilog2(),
        "its CMDQV has {} queues for a guest and not {QUEUES}",
        1_u64.checked_shl(queues).unwrap_or(0)
    );
    let sids = u32::from(info.log2vsids);
    ensure!(
        sids >= SIDS.ilog2(),
        "its CMDQV has {} StreamIDs for a guest and not {SIDS}",
        1_u64.checked_shl(sids).unwrap_or(0)
    );
    Ok(())
}

impl Vintf {
    /// Allocates a vIOMMU with a VINTF on the stage 2 `stage2` for the SMMU that `device` is
    /// behind.
    pub fn allocate(
        device: &HostDevice,
        stage2: u32,
        request: &VintfRequest<'_>,
    ) -> Result<(Self, HostObject)> {
        let (object, place) = device.allocate_cmdqv_viommu(stage2)?;
        ensure!(
            place.out_vintf_mmap_length == PAGE_SIZE,
            "the page of its VINTF has {:#x} bytes and not {PAGE_SIZE:#x}",
            place.out_vintf_mmap_length
        );
        object
            .map_page(request.window, place.out_vintf_mmap_offset)
            .map_err(|error| Error::msg(format!("cannot map the page of a VINTF: {error}")))?;
        // if the vEVENTQ fails it is dropped before the vIOMMU
        let page = MappedPage(request.window);
        let vintf = Self {
            errors: Some((request.open_errors)(&object)?),
            queues: [const { None }; QUEUES],
            page: Some(page),
        };
        Ok((vintf, object))
    }

    /// Has the host execute a queue of the guest's.
    pub fn allocate_queue(
        &mut self,
        viommu: &HostObject,
        lvcmdq: usize,
        queue: &Assignment,
    ) -> std::result::Result<(), HostFailure> {
        let index = u32::try_from(lvcmdq).unwrap_or(u32::MAX);
        let object = viommu.allocate_vcmdq(index, queue.address, queue.bytes())?;
        if let Some(slot) = self.queues.get_mut(lvcmdq) {
            *slot = Some(object);
        }
        Ok(())
    }

    /// Has the host release a queue. Returns whether it has it no longer.
    pub fn release_queue(&mut self, lvcmdq: usize) -> bool {
        let Some(slot) = self.queues.get_mut(lvcmdq) else {
            return true;
        };
        *slot = slot.take().and_then(|queue| queue.try_destroy().err());
        slot.is_none()
    }

    /// Releases every queue, from the highest down. Returns whether the host has none of them
    /// any longer.
    pub fn release_queues(&mut self) -> bool {
        (0..QUEUES).rev().all(|lvcmdq| self.release_queue(lvcmdq))
    }

    /// Ends everything but queues that the host does not release.
    ///
    /// Otherwise a vEVENTQ that is not read would keep the main loop busy, and the page would
    /// be unmapped together with these queues, when the window may have the next VINTF's.
    pub fn retire(&mut self) {
        self.errors = None;
        self.page = None;
    }

    /// Returns the errors that the host has reported since the last call, or the error after
    /// which it reports no more.
    pub fn drain_errors(&mut self) -> (Vec<Received<VcmdqErrors>>, Option<Error>) {
        let Some(errors) = self.errors.as_mut() else {
            return (Vec::new(), None);
        };
        match errors.drain_ready() {
            Drained::Entries(entries) => (entries, None),
            Drained::Dead(entries, error) => {
                // otherwise the main loop would call without end
                self.errors = None;
                (entries, Some(error))
            }
        }
    }
}

impl Drop for Vintf {
    fn drop(&mut self) {
        // the file of errors before the object, then the queues, then the page
        self.errors = None;
        for queue in self.queues.iter_mut().rev() {
            *queue = None;
        }
    }
}
