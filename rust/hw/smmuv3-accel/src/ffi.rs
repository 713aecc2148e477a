// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bridges to the C interfaces that QEMU's Rust crates do not offer: the C base
//! type, guest memory, bottom halves, and what a device does once in its life.
//! Everything here is safe to call unless it says otherwise; every `unsafe` block
//! says why.
//!
//! What concerns one part of the device only is in that part's own `ffi`:
//! [`accel::ffi`](crate::accel::ffi), and the private ones of `pci`,
//! `properties` and `translate`.

use std::{
    ffi::{c_int, c_uint, c_void, CStr},
    ptr::addr_of_mut,
    sync::atomic::{fence, Ordering},
};

use common::{callbacks::FnCall, Opaque, Zeroable};
use foreign::prelude::*;
use hwcore::prelude::*;
use qom::prelude::*;
use smmuv3::cmdq::BusAbort;
use system::{prelude::*, MEMTXATTRS_UNSPECIFIED};
use util::{timer::CLOCK_VIRTUAL, Error, Result};

use crate::{bindings, device::Smmuv3};

// ---------------------------------------------------------------------------
// QOM types that C owns

/// The C base type `arm-smmu`: bus map and memory regions of `smmu-common.c`, whose
/// walker and caches are not used.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct SmmuState(Opaque<bindings::SMMUState>);

// SAFETY: the C struct is only touched under the BQL or through its own locking
unsafe impl Send for SmmuState {}
// SAFETY: as above
unsafe impl Sync for SmmuState {}

// SAFETY: SMMUState is the instance and SMMUBaseClass the class of "arm-smmu"
unsafe impl ObjectType for SmmuState {
    type Class = bindings::SMMUBaseClass;
    const TYPE_NAME: &'static CStr = c"arm-smmu";
}

qom_isa!(SmmuState: SysBusDevice, DeviceState, Object);

/// The abstract C type of memory regions that translate.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct IommuMemoryRegion(Opaque<system::bindings::IOMMUMemoryRegion>);

// SAFETY: the region is only used through the memory core
unsafe impl Send for IommuMemoryRegion {}
// SAFETY: as above
unsafe impl Sync for IommuMemoryRegion {}

// SAFETY: instance and class struct of "iommu-memory-region"
unsafe impl ObjectType for IommuMemoryRegion {
    type Class = system::bindings::IOMMUMemoryRegionClass;
    const TYPE_NAME: &'static CStr = c"iommu-memory-region";
}

qom_isa!(IommuMemoryRegion: MemoryRegion, Object);

// ---------------------------------------------------------------------------
// Class initialization

/// The virtual methods of the C base that the device overrides and must call.
#[repr(C)]
pub struct ParentMethods {
    realize: bindings::DeviceRealize,
    phases: bindings::ResettablePhases,
}

impl ParentMethods {
    /// Saves the methods of the parent class. To be called before the class's
    /// own methods are filled in, which overwrites them.
    pub fn save(&mut self, class: &mut bindings::SMMUBaseClass) {
        let device_class: *mut bindings::DeviceClass =
            addr_of_mut!(class.parent_class.parent_class);
        // SAFETY: `class` begins with a DeviceClass, which implements Resettable;
        // the cast therefore returns a pointer into memory as long-lived as the class
        unsafe {
            self.realize = (*device_class).realize;
            let resettable: *mut hwcore::bindings::ResettableClass =
                qom::bindings::object_class_dynamic_cast(
                    device_class.cast(),
                    hwcore::bindings::TYPE_RESETTABLE_INTERFACE.as_ptr().cast(),
                )
                .cast();
            self.phases = (*resettable).phases;
        }
    }

    /// Realizes the C base: installs the PCI bus's IOMMU operations.
    pub fn realize(&self, device: &Smmuv3) -> Result<()> {
        let Some(realize) = self.realize else {
            return Ok(());
        };
        // SAFETY: `device` is an instance of a subclass of the class that
        // `realize` was saved from; the callee leaves `errp` untouched or valid
        unsafe {
            Error::with_errp(|errp| realize(device.upcast::<DeviceState>().as_mut_ptr(), errp))
        }
    }

    /// Runs the exit phase of the C base's reset: drops its caches.
    pub fn reset_exit(&self, device: &Smmuv3, reset_type: ResetType) {
        if let Some(exit) = self.phases.exit {
            // SAFETY: as in `realize`
            unsafe { exit(device.upcast::<Object>().as_mut_ptr(), reset_type) }
        }
    }
}

/// Marks a device class as creatable by users, but not hot-pluggable.
pub fn set_user_creatable(class: &mut bindings::DeviceClass) {
    class.hotpluggable = false;
    class.user_creatable = true;
}

/// Sets the description of a property, as `-device TYPE,help` shows it.
pub fn describe_property(class: &mut bindings::DeviceClass, name: &CStr, text: &CStr) {
    let class: *mut bindings::DeviceClass = class;
    // SAFETY: a DeviceClass begins with an ObjectClass; the callee copies the text
    unsafe {
        qom::bindings::object_class_property_set_description(
            class.cast(),
            name.as_ptr(),
            text.as_ptr(),
        );
    }
}

// ---------------------------------------------------------------------------
// Guest memory

/// Reads guest memory as the SMMU's own accesses do: coherent, and after
/// everything that the guest wrote before it rang the doorbell.
pub fn dma_read(address: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
    dma(address, buffer.as_mut_ptr(), buffer.len(), false)
}

/// Reads a little-endian doubleword of guest memory, all of it at once.
pub fn dma_read_u64(address: u64) -> std::result::Result<u64, BusAbort> {
    fence(Ordering::SeqCst);
    let mut result = 0;
    // SAFETY: address_space_memory lives as long as the process
    let value = unsafe {
        system::bindings::address_space_ldq_le(
            addr_of_mut!(system::bindings::address_space_memory),
            address,
            MEMTXATTRS_UNSPECIFIED,
            &mut result,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(BusAbort)
    }
}

/// Writes guest memory.
pub fn dma_write(address: u64, data: &[u8]) -> std::result::Result<(), BusAbort> {
    dma(address, data.as_ptr().cast_mut(), data.len(), true)
}

fn dma(
    address: u64,
    data: *mut u8,
    len: usize,
    is_write: bool,
) -> std::result::Result<(), BusAbort> {
    fence(Ordering::SeqCst);
    // SAFETY: `data` points to `len` bytes, which are only read if `is_write`;
    // address_space_memory lives as long as the process
    let result = unsafe {
        system::bindings::address_space_rw(
            addr_of_mut!(system::bindings::address_space_memory),
            address,
            MEMTXATTRS_UNSPECIFIED,
            data.cast::<c_void>(),
            len as u64,
            is_write,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(BusAbort)
    }
}

/// Zeroed memory for a C struct that stays until the process ends.
///
/// # Safety
///
/// All-zeroes must be what C code expects of a `T` that is not yet initialized.
pub unsafe fn zeroed_leaked<T>() -> *mut T {
    // SAFETY: g_malloc0 aborts rather than return NULL, and aligns for any C type
    unsafe { glib_sys::g_malloc0(std::mem::size_of::<T>()).cast() }
}

// ---------------------------------------------------------------------------
// The register file's memory region

unsafe extern "C" fn read_register(opaque: *mut c_void, offset: hwaddr, size: c_uint) -> u64 {
    // SAFETY: the device that init_registers_region was called with
    unsafe { &*opaque.cast::<Smmuv3>() }.read(offset, size)
}

unsafe extern "C" fn write_register(opaque: *mut c_void, offset: hwaddr, value: u64, size: c_uint) {
    // SAFETY: as above
    unsafe { &*opaque.cast::<Smmuv3>() }.write(offset, value, size)
}

/// Makes `region` the register file of `device`, when it is realized.
///
/// [`MemoryRegion::init_io`] works in `instance_init` only, where the region
/// would show as one more child of the object than the C device has.
pub fn init_registers_region(device: &Smmuv3, region: &MemoryRegion, size: u64) {
    static OPS: system::bindings::MemoryRegionOps = system::bindings::MemoryRegionOps {
        read: Some(read_register),
        write: Some(write_register),
        endianness: system::bindings::device_endian::DEVICE_LITTLE_ENDIAN,
        valid: system::bindings::MemoryRegionOps__bindgen_ty_1 {
            min_access_size: 4,
            max_access_size: 8,
            ..Zeroable::ZERO
        },
        impl_: system::bindings::MemoryRegionOps__bindgen_ty_2 {
            min_access_size: 4,
            max_access_size: 8,
            ..Zeroable::ZERO
        },
        ..Zeroable::ZERO
    };
    // SAFETY: `region` is a field of `device`, zeroed and not yet initialized
    // (a device is realized once); the table is static
    unsafe {
        system::bindings::memory_region_init_io(
            region.as_mut_ptr(),
            device.upcast::<Object>().as_mut_ptr(),
            &OPS,
            (device as *const Smmuv3).cast_mut().cast(),
            c"arm-smmuv3".as_ptr(),
            size,
        );
    }
}

// ---------------------------------------------------------------------------
// Bottom halves, notifiers, migration blockers, reports

/// A bottom half that calls back into the device that owns it.
#[derive(Debug)]
#[repr(transparent)]
pub struct BottomHalf(*mut util::bindings::QEMUBH);

// SAFETY: qemu_bh_schedule may be called from any thread
unsafe impl Send for BottomHalf {}
// SAFETY: as above
unsafe impl Sync for BottomHalf {}

impl BottomHalf {
    /// A bottom half in the main loop that runs `F` on `device`.
    ///
    /// It is guarded against re-entry like the device's MMIO: what it does to
    /// guest memory cannot come back as an access to the device's registers.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, _callback: &F) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(opaque: *mut c_void) {
            // SAFETY: the device that was passed to qemu_bh_new_full; it deletes
            // the bottom half before it goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() },))
        }
        const { assert!(F::IS_SOME) };
        let state: *mut hwcore::bindings::DeviceState = device.upcast::<DeviceState>().as_mut_ptr();
        // SAFETY: the arguments outlive the bottom half, see `drop`
        Self(unsafe {
            util::bindings::qemu_bh_new_full(
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
                c"arm-smmuv3-cmdq".as_ptr(),
                addr_of_mut!((*state).mem_reentrancy_guard).cast(),
            )
        })
    }

    /// Runs the callback from the main loop, soon.
    pub fn schedule(&self) {
        // SAFETY: `self.0` is a valid bottom half
        unsafe { util::bindings::qemu_bh_schedule(self.0) }
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        // SAFETY: `self.0` is a valid bottom half and is not used again
        unsafe { util::bindings::qemu_bh_delete(self.0) }
    }
}

/// A timer of the guest's time that calls back into the device that owns it.
#[derive(Debug)]
pub struct Alarm(*mut util::bindings::QEMUTimer);

// SAFETY: only used under the BQL
unsafe impl Send for Alarm {}

impl Alarm {
    /// An alarm that runs `F` on `device`, from the main loop.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, _callback: &F) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(opaque: *mut c_void) {
            // SAFETY: the device that was passed to timer_init_full; it deletes
            // the timer before it goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() },));
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: zeroed memory is what the callee initializes; it is freed in `drop`
        unsafe {
            let timer: *mut util::bindings::QEMUTimer = zeroed_leaked();
            util::bindings::timer_init_full(
                timer,
                std::ptr::null_mut(),
                util::bindings::QEMUClockType::QEMU_CLOCK_VIRTUAL,
                1,
                0,
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
            );
            Self(timer)
        }
    }

    /// Goes off in `delay` nanoseconds, or earlier if it was set already.
    pub fn set(&self, delay: u64) {
        // SAFETY: an initialized timer
        unsafe {
            if util::bindings::timer_expire_time_ns(self.0) == u64::MAX {
                let now = CLOCK_VIRTUAL.get_ns();
                util::bindings::timer_mod_ns(self.0, now.saturating_add(delay) as i64);
            }
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: an initialized timer, which is not used again
        unsafe {
            util::bindings::timer_del(self.0);
            glib_sys::g_free(self.0.cast());
        }
    }
}

/// Calls back into the device that owns it whenever the machine stops.
#[derive(Debug)]
pub struct StopHandler(*mut bindings::VMChangeStateEntry);

// SAFETY: only used under the BQL
unsafe impl Send for StopHandler {}

impl StopHandler {
    /// Runs `F` on `device` when the machine has stopped, after every other
    /// device's handler, before its state is saved.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, _callback: &F) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(
            opaque: *mut c_void,
            running: bool,
            _state: bindings::RunState,
        ) {
            if !running {
                // SAFETY: the device that was passed on registration; it takes the
                // handler off before it goes
                F::call((unsafe { &*opaque.cast::<Smmuv3>() },));
            }
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: the arguments outlive the handler, see `drop`
        Self(unsafe {
            bindings::qemu_add_vm_change_state_handler_prio(
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
                c_int::MIN,
            )
        })
    }
}

impl Drop for StopHandler {
    fn drop(&mut self) {
        // SAFETY: a registered handler, which is not used again
        unsafe { bindings::qemu_del_vm_change_state_handler(self.0) }
    }
}

/// Calls `F` on `device` when the machine is complete.
pub fn on_machine_done<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, _callback: &F) {
    #[repr(C)]
    struct MachineDone {
        notifier: util::bindings::Notifier,
        device: *const Smmuv3,
    }
    unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(
        notifier: *mut util::bindings::Notifier,
        _data: *mut c_void,
    ) {
        // SAFETY: the notifier is the first field of a leaked MachineDone; a
        // realized SMMU cannot be unplugged, so the device is still there
        F::call((unsafe { &*(*notifier.cast::<MachineDone>()).device },))
    }
    // SAFETY: all-zeroes is an unlinked notifier; the memory is leaked because
    // the list of notifiers keeps it
    unsafe {
        let record: *mut MachineDone = zeroed_leaked();
        (*record).notifier.notify = Some(call::<F>);
        (*record).device = device;
        bindings::qemu_add_machine_init_done_notifier(addr_of_mut!((*record).notifier));
    }
}

/// Forbids migration for as long as the value exists.
#[derive(Debug)]
pub struct MigrationBlocker(Box<*mut bindings::Error>);

// SAFETY: only used under the BQL
unsafe impl Send for MigrationBlocker {}

impl MigrationBlocker {
    /// Forbids migration because of `reason`; fails if QEMU must stay
    /// migratable (`-only-migratable`) or is migrating.
    pub fn new(reason: &Error) -> Result<Self> {
        let mut slot = Box::new(reason.clone_to_foreign_ptr());
        // SAFETY: the slot holds a valid Error, which the callee owns from here
        // (it clears the slot if it fails); the box keeps the slot in place
        unsafe {
            Error::with_errp(|errp| bindings::migrate_add_blocker(&mut *slot, errp))?;
        }
        Ok(Self(slot))
    }
}

impl Drop for MigrationBlocker {
    fn drop(&mut self) {
        // SAFETY: the slot was registered by migrate_add_blocker
        unsafe { bindings::migrate_del_blocker(&mut *self.0) }
    }
}

/// Is the machine complete, so that the guest may have looked at its devices?
pub fn machine_is_ready() -> bool {
    // SAFETY: reads a variable of the main thread
    unsafe {
        hwcore::bindings::phase_check(hwcore::bindings::MachineInitPhase::PHASE_MACHINE_READY)
    }
}

/// Reports an error on the monitor or stderr.
pub fn report(error: &Error) {
    // SAFETY: the callee frees the Error that it is given
    unsafe { util::bindings::error_report_err(error.clone_to_foreign_ptr()) }
}

/// Reports an error and ends QEMU, as a failed start does.
pub fn exit_with(error: &Error) -> ! {
    report(error);
    std::process::exit(1)
}

// ---------------------------------------------------------------------------
// What C code calls

/// Does this SMMU show ATS to the guest? Called when the IORT is built.
///
/// # Safety
///
/// `smmu` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_ats_enabled(smmu: *mut Smmuv3) -> bool {
    // SAFETY: promised by the caller
    unsafe { &*smmu }.features().ats()
}

/// Which CMDQ virtualization the SMMU has: none (`SMMUV3_CMDQV_NONE`).
#[no_mangle]
pub extern "C" fn smmuv3_accel_cmdqv_type(_object: *mut qom::bindings::Object) -> c_uint {
    0
}
