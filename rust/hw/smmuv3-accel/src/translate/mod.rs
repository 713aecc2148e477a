// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation for functions that QEMU emulates. Behind an accelerated SMMU
//! these are bridges and root ports, whose only transactions are their own MSIs
//! (hot-plug, error reporting). They are so rare that nothing is cached: every
//! one walks the guest's tables as they are.

use std::ffi::CStr;

use qom::prelude::*;
use smmuv3::{cd, ste::StreamConfig, stream_table};
use system::{
    bindings::{IOMMU_RO, IOMMU_RW, IOMMU_WO},
    prelude::*,
};

use crate::{accel::GuestRam, device::Smmuv3, ffi::IommuMemoryRegion};

mod ffi;

pub use ffi::set_region_type;

::trace::include_trace!("hw_arm");

/// Smallest unit that is bypassed or aborted at once, in bytes, less one.
const PAGE_OFFSET: u64 = 0xfff;

impl Smmuv3 {
    /// Where the access of `stream_id` to `iova` goes: output address, mask of
    /// the page, permission; `None` if it is aborted.
    ///
    /// May be called without the Big QEMU Lock.
    pub fn translate(&self, stream_id: u32, iova: u64, access: u32) -> Option<(u64, u64, u32)> {
        let shared = self.shared().clone();
        let is_write = access & IOMMU_WO != 0;
        #[allow(clippy::cast_possible_truncation)]
        let sid = stream_id as u16;
        let config = stream_table::evaluate(
            &shared.registers,
            &shared.features,
            &mut GuestRam,
            stream_id,
        );
        let result = match config {
            StreamConfig::Abort | StreamConfig::Bad(_) => None,
            StreamConfig::Bypass => {
                trace::trace_smmuv3_translate_bypass(c"arm-smmuv3", sid, iova, is_write);
                return Some((iova & !PAGE_OFFSET, PAGE_OFFSET, IOMMU_RW));
            }
            StreamConfig::Stage1 { ste } => cd::fetch(&ste, &shared.features, &mut GuestRam, 0)
                .ok()
                .and_then(|cd| cd.translation(&shared.features).ok())
                .and_then(|context| {
                    let wanted = if is_write { IOMMU_WO } else { IOMMU_RO };
                    ffi::walk(self, &context, iova, wanted)
                }),
        };
        if let Some((address, _, permission)) = result {
            trace::trace_smmuv3_translate_success(
                c"arm-smmuv3",
                sid,
                iova,
                address,
                permission as i32,
                1,
            );
        } else {
            trace::trace_smmuv3_translate_abort(c"arm-smmuv3", sid, iova, is_write);
        }
        result
    }
}

/// QOM name of the memory regions through which emulated functions see memory.
pub const REGION_TYPE: &CStr = c"smmuv3-iommu-memory-region";

/// The memory region of one emulated function behind an SMMU.
#[repr(C)]
#[derive(qom::Object)]
pub struct Smmuv3MemoryRegion {
    parent_obj: ParentField<IommuMemoryRegion>,
}

qom_isa!(Smmuv3MemoryRegion: IommuMemoryRegion, MemoryRegion, Object);

// SAFETY: the struct begins with its parent's instance; the class adds nothing
unsafe impl ObjectType for Smmuv3MemoryRegion {
    type Class = system::bindings::IOMMUMemoryRegionClass;
    const TYPE_NAME: &'static CStr = REGION_TYPE;
}

impl ObjectImpl for Smmuv3MemoryRegion {
    type ParentType = IommuMemoryRegion;

    const CLASS_INIT: fn(&mut Self::Class) = ffi::set_region_methods;
}
