// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Memory regions that translate the accesses of devices, and their notifiers.
//!
//! A QOM type that is a subclass of [`IommuMemoryRegion`] implements
//! [`IommuMemoryRegionImpl`] and sets its class's methods by
//! [`IommuMemoryRegionClassExt::class_init`]:
//!
//! ```no_run
//! use qemu_ext::{
//!     dma::{AddressSpace, DirectMemory},
//!     iommu::{IommuAccess, IommuTlbEntry},
//! };
//!
//! /// A `translate` that shows every page of 4 KiB at the address of itself, read-only.
//! fn translate<'a>(
//!     iova: u64,
//!     _access: IommuAccess,
//!     _memory: DirectMemory<'a>,
//! ) -> IommuTlbEntry<'a> {
//!     IommuTlbEntry {
//!         target: AddressSpace::memory(),
//!         iova: iova & !0xfff,
//!         translated_addr: iova & !0xfff,
//!         addr_mask: 0xfff,
//!         permission: IommuAccess {
//!             read: true,
//!             write: false,
//!         },
//!     }
//! }
//! ```

use std::{
    ffi::{c_int, CStr},
    ptr::addr_of,
};

use common::Opaque;
use qom::prelude::*;
use system::{
    bindings::{
        IOMMUAccessFlags, IOMMUMemoryRegionClass, IOMMUNotifierFlag, IOMMUTLBEvent, IOMMU_NONE,
        IOMMU_NOTIFIER_DEVIOTLB_UNMAP, IOMMU_NOTIFIER_MAP, IOMMU_NOTIFIER_NONE,
        IOMMU_NOTIFIER_UNMAP, IOMMU_RO, IOMMU_WO,
    },
    MemoryRegion,
};
use util::{Error, Result};

use crate::{
    bindings,
    dma::{AddressSpace, DirectMemory},
};

/// An abstract memory region that translates (`iommu-memory-region`).
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct IommuMemoryRegion(Opaque<bindings::IOMMUMemoryRegion>);

// SAFETY: the memory core synchronizes accesses to it
unsafe impl Send for IommuMemoryRegion {}
// SAFETY: the memory core synchronizes accesses to it
unsafe impl Sync for IommuMemoryRegion {}

// SAFETY: instance and class struct of "iommu-memory-region"
unsafe impl ObjectType for IommuMemoryRegion {
    type Class = IOMMUMemoryRegionClass;
    const TYPE_NAME: &'static CStr = c"iommu-memory-region";
}

qom_isa!(IommuMemoryRegion: MemoryRegion, Object);

/// The kind of an access, or the permissions of a translation (`IOMMUAccessFlags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuAccess {
    /// It reads
    pub read: bool,
    /// It writes
    pub write: bool,
}

impl IommuAccess {
    /// Neither. An access of this kind is a probe, which reads and writes nothing.
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };
    /// Both.
    pub const RW: Self = Self {
        read: true,
        write: true,
    };

    #[inline]
    const fn from_flags(flags: IOMMUAccessFlags) -> Self {
        Self {
            read: flags & IOMMU_RO != 0,
            write: flags & IOMMU_WO != 0,
        }
    }

    /// Returns the value in C.
    #[inline]
    pub const fn flags(self) -> IOMMUAccessFlags {
        (if self.read { IOMMU_RO } else { IOMMU_NONE })
            | (if self.write { IOMMU_WO } else { IOMMU_NONE })
    }
}

/// The translation of a naturally aligned block of addresses.
#[derive(Clone, Copy, Debug)]
pub struct IommuTlbEntry<'a> {
    /// The address space that the accesses go to
    pub target: &'a AddressSpace,
    /// First address of the block
    pub iova: u64,
    /// First address of its translation, in `target`
    pub translated_addr: u64,
    /// Its size, less one
    pub addr_mask: u64,
    /// The permissions
    pub permission: IommuAccess,
}

impl From<IommuTlbEntry<'_>> for bindings::IOMMUTLBEntry {
    #[inline]
    fn from(entry: IommuTlbEntry<'_>) -> Self {
        Self {
            target_as: entry.target.as_mut_ptr(),
            iova: entry.iova,
            translated_addr: entry.translated_addr,
            addr_mask: entry.addr_mask,
            perm: entry.permission.flags(),
            pasid: 0,
        }
    }
}

/// The kinds of notifications that the notifiers of a region want (`IOMMUNotifierFlag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifierFlags(IOMMUNotifierFlag);

impl NotifierFlags {
    /// Returns whether there are no notifiers.
    pub const fn is_empty(self) -> bool {
        self.0 == IOMMU_NOTIFIER_NONE
    }

    /// Returns whether a notifier wants new mappings.
    pub const fn has_map(self) -> bool {
        self.0 & IOMMU_NOTIFIER_MAP != 0
    }
}

/// The methods of a memory region that translates.
pub trait IommuMemoryRegionImpl: ObjectImpl + IsA<IommuMemoryRegion> {
    /// Translates an access to `iova`. Called with the BQL or without.
    fn translate<'a>(
        &'a self,
        iova: u64,
        access: IommuAccess,
        memory: DirectMemory<'a>,
    ) -> IommuTlbEntry<'a>;

    /// Follows a change of the region's notifiers. Called under the BQL.
    ///
    /// # Errors
    ///
    /// An error refuses the notifier that is being added.
    fn notify_flag_changed(&self, flags: NotifierFlags) -> Result<()>;
}

unsafe extern "C" fn translate<T: IommuMemoryRegionImpl>(
    region: *mut bindings::IOMMUMemoryRegion,
    iova: u64,
    access: IOMMUAccessFlags,
    _index: c_int,
) -> bindings::IOMMUTLBEntry {
    // SAFETY: the method of a class is called with its instances
    let region = unsafe { &*region.cast::<T>() };
    // SAFETY: the memory core translates accesses in an RCU read-side critical section
    // (address_space_translate_iommu), and probes (IOMMU_NONE: replays, and TCG's own TLB)
    // under the BQL or in such a section. The value cannot outlive this call, because
    // `T::translate` has to do with any lifetime, however short.
    let memory = unsafe { DirectMemory::new(AddressSpace::memory()) };
    region
        .translate(iova, IommuAccess::from_flags(access), memory)
        .into()
}

unsafe extern "C" fn notify_flag_changed<T: IommuMemoryRegionImpl>(
    region: *mut bindings::IOMMUMemoryRegion,
    _old: IOMMUNotifierFlag,
    new: IOMMUNotifierFlag,
    errp: *mut *mut bindings::Error,
) -> c_int {
    // SAFETY: the method of a class is called with its instances
    let region = unsafe { &*region.cast::<T>() };
    let result = region.notify_flag_changed(NotifierFlags(new));
    // SAFETY: errp comes from the C caller
    if unsafe { Error::bool_or_propagate(result, errp) } {
        0
    } else {
        -libc::EINVAL
    }
}

/// Methods of the class of [`IommuMemoryRegion`].
pub trait IommuMemoryRegionClassExt {
    /// Fills in the virtual methods from the implementation of [`IommuMemoryRegionImpl`].
    fn class_init<T: IommuMemoryRegionImpl>(&mut self);
}

impl IommuMemoryRegionClassExt for IOMMUMemoryRegionClass {
    fn class_init<T: IommuMemoryRegionImpl>(&mut self) {
        self.translate = Some(translate::<T>);
        self.notify_flag_changed = Some(notify_flag_changed::<T>);
    }
}

impl IommuMemoryRegion {
    /// Returns the region's name.
    #[inline]
    pub fn name(&self) -> &CStr {
        // SAFETY: a region has a name once it is initialized, and keeps it
        unsafe {
            let name = (*self.as_ptr()).parent_obj.name;
            if name.is_null() {
                c""
            } else {
                CStr::from_ptr(name)
            }
        }
    }

    /// Returns whether the region has a notifier.
    #[inline]
    pub fn has_notifier(&self) -> bool {
        // SAFETY: a valid region. The memory core writes the field under the BQL; without it
        // the value may be that of a moment ago, as a translation itself may be.
        let flags = unsafe { addr_of!((*self.as_ptr()).iommu_notify_flags).read_volatile() };
        flags != IOMMU_NOTIFIER_NONE
    }

    /// Notifies that nothing is mapped any more in `blocks`: naturally aligned ones, as the
    /// first address and the size less one. A notifier gets all of them before the
    /// next one does.
    pub fn notify_unmap<I: Iterator<Item = (u64, u64)>>(&self, blocks: impl Fn() -> I) {
        assert!(bql::is_locked());
        // SAFETY: the list changes under the BQL only. A notifier may be removed by its
        // own callback, so the next one is looked up before.
        let mut next = unsafe { (*self.as_ptr()).iommu_notify.lh_first };
        while !next.is_null() {
            let notifier = next;
            // SAFETY: an element of the list
            let flags = unsafe {
                next = (*notifier).node.le_next;
                (*notifier).notifier_flags
            };
            let type_ = if flags & IOMMU_NOTIFIER_UNMAP != 0 {
                IOMMU_NOTIFIER_UNMAP
            } else {
                IOMMU_NOTIFIER_DEVIOTLB_UNMAP
            };
            for (first, mask) in blocks() {
                let event = IOMMUTLBEvent {
                    type_,
                    entry: IommuTlbEntry {
                        target: AddressSpace::memory(),
                        iova: first,
                        translated_addr: 0,
                        addr_mask: mask,
                        permission: IommuAccess::NONE,
                    }
                    .into(),
                };
                // SAFETY: an element of the list, to whose range the callee crops the
                // event; it only reads the event
                unsafe { system::bindings::memory_region_notify_iommu_one(notifier, &event) }
            }
        }
    }
}
