// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The memory regions through which the functions behind an SMMU see memory.

use std::ffi::CStr;

use qemu_ext::{
    arm_smmu::{SmmuFunction, SmmuRegion},
    dma::{AddressSpace, DirectMemory},
    iommu::{
        IommuAccess, IommuMemoryRegion, IommuMemoryRegionClassExt, IommuMemoryRegionImpl,
        IommuTlbEntry, NotifierFlags,
    },
};
use qom::prelude::*;
use system::MemoryRegion;
use util::{ensure, Result};

use super::Page;
use crate::{device::Smmuv3, memory::DirectRam};

::trace::include_trace!("hw_arm");

/// The memory region of a function.
#[repr(C)]
#[derive(qom::Object)]
pub struct Smmuv3MemoryRegion {
    parent_obj: ParentField<IommuMemoryRegion>,
}

qom_isa!(Smmuv3MemoryRegion: IommuMemoryRegion, MemoryRegion, Object);

// SAFETY: the struct begins with its parent's instance; the class adds nothing
unsafe impl ObjectType for Smmuv3MemoryRegion {
    type Class = <IommuMemoryRegion as ObjectType>::Class;
    const TYPE_NAME: &'static CStr = c"smmuv3-iommu-memory-region";
}

impl ObjectImpl for Smmuv3MemoryRegion {
    type ParentType = IommuMemoryRegion;

    const CLASS_INIT: fn(&mut Self::Class) = Self::Class::class_init::<Self>;
}

// SAFETY: only Smmuv3::realize names this type, and users cannot make objects of it
unsafe impl SmmuRegion for Smmuv3MemoryRegion {
    type Smmu = Smmuv3;
}

impl IommuMemoryRegionImpl for Smmuv3MemoryRegion {
    /// Translates an access of a PCI function.
    ///
    /// `MemTxAttrs` do not come here, because the type has no `attrs_to_index`, and would
    /// decide nothing: a transaction without PASID is Data and Unprivileged whatever the
    /// function had in mind (§13.7), and the SMMU has no Secure streams.
    #[inline]
    fn translate<'a>(
        &'a self,
        iova: u64,
        access: IommuAccess,
        memory: DirectMemory<'a>,
    ) -> IommuTlbEntry<'a> {
        let (smmu, function) = (self.smmu(), self.function());
        let region = function.region();
        // Commands of an SMMU with assigned devices go to the host, and it notifies nothing:
        // so a client that caches translations gets none.
        let page = if smmu.accel && region.has_notifier() {
            Page::ABORT
        } else {
            let stream_id = function.pci().requester_id().into();
            smmu.translate(region.name(), stream_id, iova, access, DirectRam(memory))
        };
        IommuTlbEntry {
            target: AddressSpace::memory(),
            iova: iova & !page.mask,
            translated_addr: page.output,
            addr_mask: page.mask,
            permission: page.permission,
        }
    }

    /// Accepts every notifier but those of new mappings, because the guest's tables are
    /// walked on demand and not tracked.
    ///
    /// vhost and TCG register UNMAP notifiers when the guest starts their device, or turns on
    /// its ATS though IDR0.ATS is 0, and end QEMU if that fails: it never does. An SMMU with
    /// assigned devices has no such device behind it, or else [`Self::translate`] blocks it.
    ///
    /// MAP notifiers come from clients to which the refusal does no harm, and which are left
    /// without any mapping. VFIO and vfio-user register theirs while the device is plugged,
    /// which then fails: the region is all of the device's address space, for as long as that
    /// exists, so no region can appear later, when their error would be fatal. vhost-vdpa
    /// drops the error. To accept one would have the memory core replay 2^52 pages.
    fn notify_flag_changed(&self, flags: NotifierFlags) -> Result<()> {
        let function = self.function();
        ensure!(
            !flags.has_map(),
            "device {} is assigned without nesting (accel=on, iommufd): it needs MAP notifiers, which \
             arm-smmuv3 does not support",
            address(function)
        );
        let name = function.region().name();
        let mut notified = self.smmu().notified.borrow_mut();
        if flags.is_empty() {
            trace::trace_smmuv3_notify_flag_del(name);
            notified.remove(function);
        } else {
            trace::trace_smmuv3_notify_flag_add(name);
            notified.add(function);
        }
        Ok(())
    }
}

/// Returns bus, device and function, as users write them.
fn address(function: &SmmuFunction) -> String {
    let [bus, devfn] = function.pci().requester_id().to_be_bytes();
    format!("{bus:02x}:{:02x}.{:x}", devfn >> 3, devfn & 7)
}
