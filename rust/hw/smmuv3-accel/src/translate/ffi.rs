// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The memory regions of emulated functions, and their notifiers.

use std::{
    ffi::{c_int, CStr},
    ptr::{addr_of, addr_of_mut, NonNull},
};

use qom::prelude::*;
use smmuv3::translation::Range;
use system::prelude::*;
use util::Error;

use super::Page;
use crate::{
    bindings::{self, IOMMUTLBEntry},
    device::Smmuv3,
    ffi::SmmuState,
    memory::DirectRam,
    pci::PciFunction,
};

::trace::include_trace!("hw_arm");

/// The base type's record of the function that `region` belongs to, and its SMMU.
///
/// # Safety
///
/// `region` must be a memory region of the type [`super::REGION_TYPE`]. These are
/// only made by `smmu_init_sdev`, as the field `iommu` of an `SMMUDevice` whose
/// `smmu` is a [`Smmuv3`]; such a record stays for as long as the SMMU does.
unsafe fn owner<'a>(
    region: *mut system::bindings::IOMMUMemoryRegion,
) -> (NonNull<bindings::SMMUDevice>, &'a Smmuv3) {
    // SAFETY: promised by the caller
    unsafe {
        let record: *mut bindings::SMMUDevice = region
            .byte_sub(std::mem::offset_of!(bindings::SMMUDevice, iommu))
            .cast();
        (
            NonNull::new_unchecked(record),
            &*(*record).smmu.cast::<Smmuv3>(),
        )
    }
}

/// Translates an access of a PCI function.
///
/// `MemTxAttrs` do not come here, because the type has no `attrs_to_index`, and
/// would decide nothing: a transaction without PASID is Data and Unprivileged
/// whatever the function had in mind (§13.7), and the SMMU has no Secure streams.
unsafe extern "C" fn translate(
    region: *mut system::bindings::IOMMUMemoryRegion,
    iova: hwaddr,
    access: system::bindings::IOMMUAccessFlags,
    _index: c_int,
) -> IOMMUTLBEntry {
    // SAFETY: the method of regions of this type is only called with one
    let (record, smmu) = unsafe { owner(region) };
    let function = NotifiedRegion(record);
    // SAFETY: the memory core translates accesses in an RCU read-side critical section
    // (address_space_translate_iommu), and what it only asks (IOMMU_NONE: replays, and
    // TCG's own TLB) under the Big QEMU Lock or in such a section
    let ram = unsafe { DirectRam::in_critical_section() };
    // Commands of an accelerated SMMU go to the host, and no notifier is told of them: who
    // keeps translations is given none.
    let page = if smmu.accel && function.has_notifier() {
        Page::ABORT
    } else {
        function.stream_id().map_or(Page::ABORT, |stream_id| {
            smmu.translate(function.name(), stream_id, iova, access, ram)
        })
    };
    IOMMUTLBEntry {
        target_as: addr_of_mut!(system::bindings::address_space_memory),
        iova: iova & !page.mask,
        translated_addr: page.output,
        addr_mask: page.mask,
        perm: page.permission,
        pasid: 0,
    }
}

/// Accepts every notifier but those of new mappings, because the guest's tables are
/// walked on demand and not tracked.
///
/// vhost and TCG register UNMAP notifiers when the guest starts their device, or turns on
/// its ATS though IDR0.ATS is 0, and end QEMU if that fails: it never does. An accelerated
/// SMMU has no such device behind it, or else [`translate`] blocks it.
///
/// MAP notifiers come from clients to whom the refusal does no harm, and who are left
/// without any mapping. VFIO and vfio-user register theirs while the device is plugged, which
/// then fails: the region is all of the device's address space, for as long as that exists,
/// so no region can appear later, when their error would be fatal. vhost-vdpa drops the
/// error. To accept one would have the memory core replay 2^52 pages.
unsafe extern "C" fn notify_flag_changed(
    region: *mut system::bindings::IOMMUMemoryRegion,
    _old: system::bindings::IOMMUNotifierFlag,
    new: system::bindings::IOMMUNotifierFlag,
    errp: *mut *mut bindings::Error,
) -> c_int {
    // SAFETY: the method of regions of this type is only called with one
    let (record, smmu) = unsafe { owner(region) };
    let function = NotifiedRegion(record);
    if new & system::bindings::IOMMU_NOTIFIER_MAP != 0 {
        let error = Error::msg(format!(
            "device {} is assigned without nesting (accel=on, iommufd): it needs MAP notifiers, which \
             arm-smmuv3 does not support",
            function.address()
        ));
        // SAFETY: errp comes from the C caller
        unsafe {
            error.propagate(errp);
        }
        return -libc::EINVAL;
    }
    let mut notified = smmu.notified.borrow_mut();
    if new == system::bindings::IOMMU_NOTIFIER_NONE {
        trace::trace_smmuv3_notify_flag_del(function.name());
        notified.remove(function);
    } else {
        trace::trace_smmuv3_notify_flag_add(function.name());
        notified.add(function);
    }
    0
}

/// Most pieces that a notifier is told of one range.
const MAX_BLOCKS: usize = 8;

/// The memory region of a function, as those know it who keep translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifiedRegion(NonNull<bindings::SMMUDevice>);

// SAFETY: the record stays for as long as the SMMU does; of what is used here, the
// list of notifiers is protected by the BQL, and nothing else is ever written
unsafe impl Send for NotifiedRegion {}

impl NotifiedRegion {
    /// The `StreamID` of the function.
    pub fn stream_id(self) -> Option<u32> {
        // SAFETY: a valid record; its bus outlives the devices on it
        unsafe {
            let record = self.0.as_ptr();
            PciFunction::new((*record).bus, (*record).devfn).map(PciFunction::stream_id)
        }
    }

    /// Bus, device and function, as users write them.
    fn address(self) -> String {
        let sid = self.stream_id().unwrap_or(0);
        format!("{:02x}:{:02x}.{:x}", sid >> 8, (sid >> 3) & 0x1f, sid & 7)
    }

    /// Returns whether a notifier is registered.
    fn has_notifier(self) -> bool {
        // SAFETY: a valid record. The memory core writes the field under the BQL; without it
        // the value may be that of a moment ago, as the translation itself may be.
        let flags =
            unsafe { addr_of!((*self.0.as_ptr()).iommu.iommu_notify_flags).read_volatile() };
        flags != system::bindings::IOMMU_NOTIFIER_NONE
    }

    /// Name of the region.
    pub fn name<'a>(self) -> &'a CStr {
        // SAFETY: a region has a name once it is initialized, and keeps it
        unsafe {
            let name = (*self.0.as_ptr()).iommu.parent_obj.name;
            if name.is_null() {
                c""
            } else {
                CStr::from_ptr(name)
            }
        }
    }

    fn for_each_notifier(self, mut function: impl FnMut(*mut system::bindings::IOMMUNotifier)) {
        // SAFETY: the region's list, which changes under the BQL only; a notifier
        // that is removed by `function` itself is not looked at again
        unsafe {
            let mut next = (*self.0.as_ptr()).iommu.iommu_notify.lh_first;
            while let Some(notifier) = next.as_mut() {
                next = notifier.node.le_next;
                function(notifier);
            }
        }
    }

    /// Has the translations of a range of addresses forgotten, and more if it falls
    /// into many pieces: each may be a message that is waited for.
    pub fn unmap(self, range: Range) {
        use system::bindings::{IOMMU_NOTIFIER_DEVIOTLB_UNMAP, IOMMU_NOTIFIER_UNMAP};

        let whole = if range.blocks().count() > MAX_BLOCKS {
            range.enclosing()
        } else {
            range
        };
        self.for_each_notifier(|notifier| {
            // SAFETY: a registered notifier
            let flags = unsafe { (*notifier).notifier_flags };
            let event_type = if flags & IOMMU_NOTIFIER_UNMAP != 0 {
                IOMMU_NOTIFIER_UNMAP
            } else {
                IOMMU_NOTIFIER_DEVIOTLB_UNMAP
            };
            for (first, mask) in whole.blocks() {
                let event = system::bindings::IOMMUTLBEvent {
                    type_: event_type,
                    entry: IOMMUTLBEntry {
                        target_as: addr_of_mut!(system::bindings::address_space_memory),
                        iova: first,
                        translated_addr: 0,
                        addr_mask: mask,
                        perm: system::bindings::IOMMU_NONE,
                        pasid: 0,
                    },
                };
                // SAFETY: a registered notifier, which the callee crops the event
                // to; it reads the event only
                unsafe { system::bindings::memory_region_notify_iommu_one(notifier, &event) }
            }
        });
    }
}

/// Fills in the methods of the device's memory-region type.
pub fn set_region_methods(class: &mut system::bindings::IOMMUMemoryRegionClass) {
    class.translate = Some(translate);
    class.notify_flag_changed = Some(notify_flag_changed);
}

/// Names the type of the memory regions that the C base makes for each function.
pub fn set_region_type(smmu: &Smmuv3, type_name: &'static CStr) {
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: as in `use_accel_ops`
    unsafe { (*state).mrtypename = type_name.as_ptr() }
}
