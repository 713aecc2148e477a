// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The memory regions of emulated functions, and the C base's page-table walk.

use std::{
    ffi::{c_int, CStr},
    ptr::addr_of_mut,
};

use qom::prelude::*;
use system::prelude::*;
use util::Error;

use crate::{
    bindings::{self, IOMMUTLBEntry},
    device::Smmuv3,
    ffi::SmmuState,
    pci::PciFunction,
};

unsafe extern "C" fn translate(
    region: *mut system::bindings::IOMMUMemoryRegion,
    iova: hwaddr,
    access: system::bindings::IOMMUAccessFlags,
    _index: c_int,
) -> IOMMUTLBEntry {
    // SAFETY: regions of this type are only made by smmu_init_sdev, as the field
    // `iommu` of an SMMUDevice whose `smmu` is a Smmuv3
    let (smmu, stream_id) = unsafe {
        let record: *mut bindings::SMMUDevice = region
            .byte_sub(std::mem::offset_of!(bindings::SMMUDevice, iommu))
            .cast();
        let function = PciFunction::new((*record).bus, (*record).devfn);
        (
            &*(*record).smmu.cast::<Smmuv3>(),
            function.map(PciFunction::stream_id),
        )
    };
    let outcome = stream_id.and_then(|sid| smmu.translate(sid, iova, access));
    let (translated_addr, addr_mask, perm) =
        outcome.unwrap_or((0, 0, system::bindings::IOMMU_NONE));
    IOMMUTLBEntry {
        target_as: addr_of_mut!(system::bindings::address_space_memory),
        iova: iova & !addr_mask,
        translated_addr,
        addr_mask,
        perm,
        pasid: 0,
    }
}

/// Refuses notifiers: accelerated devices need none, and there are no emulated
/// endpoints whose translations somebody could shadow.
unsafe extern "C" fn notify_flag_changed(
    _region: *mut system::bindings::IOMMUMemoryRegion,
    _old: system::bindings::IOMMUNotifierFlag,
    new: system::bindings::IOMMUNotifierFlag,
    errp: *mut *mut bindings::Error,
) -> c_int {
    if new == system::bindings::IOMMU_NOTIFIER_NONE {
        return 0;
    }
    // SAFETY: errp comes from the C caller
    unsafe {
        Error::msg("arm-smmuv3 with accel=on has no translations to notify about").propagate(errp);
    }
    -libc::EINVAL
}

/// Fills in the methods of the device's memory-region type.
pub fn set_region_methods(class: &mut system::bindings::IOMMUMemoryRegionClass) {
    class.translate = Some(translate);
    class.notify_flag_changed = Some(notify_flag_changed);
}

/// One stage 1 walk by the C base, without its TLB.
///
/// Returns output address, mask of the page, and permission bits; `None` on any
/// fault.
pub fn walk(
    smmu: &Smmuv3,
    context: &smmuv3::cd::Translation,
    iova: u64,
    access: u32,
) -> Option<(u64, u64, u32)> {
    let table = |ttb: &smmuv3::cd::TranslationTable| bindings::SMMUTransTableInfo {
        disabled: ttb.disabled,
        ttb: ttb.base,
        tsz: ttb.tsz,
        granule_sz: ttb.granule_shift,
        had: ttb.had,
    };
    // SAFETY: a plain C struct, for which all-zeroes is valid
    let mut config: bindings::SMMUTransCfg = unsafe { std::mem::zeroed() };
    config.stage = bindings::SMMU_STAGE_1;
    config.aa64 = true;
    config.affd = context.affd;
    config.oas = context.oas_bits;
    config.tbi = context.tbi;
    config.asid = c_int::from(context.asid);
    config.tt = [table(&context.tables[0]), table(&context.tables[1])];
    config.s2cfg.vmid = -1;

    // SAFETY: as above
    let (mut entry, mut fault): (bindings::SMMUTLBEntry, bindings::SMMUPTWEventInfo) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: all pointers are valid for the call, which keeps none of them
    let status =
        unsafe { bindings::smmu_ptw(state, &mut config, iova, access, &mut entry, &mut fault) };
    (status == 0).then_some((
        entry.entry.translated_addr,
        entry.entry.addr_mask,
        entry.entry.perm,
    ))
}

/// Names the type of the memory regions that the C base makes for each function.
pub fn set_region_type(smmu: &Smmuv3, type_name: &'static CStr) {
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: as in `use_accel_ops`
    unsafe { (*state).mrtypename = type_name.as_ptr() }
}
