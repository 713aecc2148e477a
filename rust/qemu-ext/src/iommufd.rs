// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's IOMMU, as iommufd shows it.
//!
//! Calls go through QEMU's iommufd backend, but for two that need errno where the backend
//! only has a text: `IOMMU_HWPT_INVALIDATE`, and the `IOMMU_DESTROY` of objects that may be busy.
//! If only the kind of a failure matters, errno is read after the backend's call: see
//! [`HostFailure`].
//!
//! Data whose layout depends on the kind of IOMMU is a struct of the kernel's uAPI header
//! that implements [`HwInfo`], [`HwptData`] or [`InvalidateEntry`].
//!
//! ```no_run
//! use qemu_ext::iommufd::{ArmSmmuv3Hwpt, HostDevice, HostFailure, ViommuType};
//!
//! /// Blocks a device of the host by an STE with Config "abort".
//! fn block(device: &HostDevice) -> Result<(), HostFailure> {
//!     let viommu = device.allocate_viommu(ViommuType::ArmSmmuv3, device.stage2_id())?;
//!     let abort = ArmSmmuv3Hwpt { ste: [1, 0] };
//!     let hwpt = device.allocate_nested(&viommu, &abort)?;
//!     device.attach(hwpt.id())?;
//!     # std::mem::forget((viommu, hwpt));
//!     Ok(())
//! }
//! ```

use std::{
    ffi::CStr,
    fmt,
    fs::File,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, addr_of_mut},
};

use common::Opaque;
use qom::prelude::*;
use util::{Error, Result};

pub use crate::bindings::{
    iommu_hw_info_arm_smmuv3 as ArmSmmuv3HwInfo,
    iommu_hw_info_tegra241_cmdqv as Tegra241CmdqvHwInfo, iommu_hwpt_arm_smmuv3 as ArmSmmuv3Hwpt,
    iommu_viommu_arm_smmuv3_invalidate as ArmSmmuv3Invalidation,
    iommu_viommu_tegra241_cmdqv as Tegra241CmdqvViommu,
};
use crate::{bindings, event_file::EventFile, page_window::PageWindow};

/// Numbers of ioctls: `IOMMUFD_TYPE`, which is `;`, and the command. Neither size nor direction
/// is part of them.
const IOMMU_DESTROY: u64 = 0x3b00 | 0x80;
const IOMMU_HWPT_INVALIDATE: u64 = 0x3b00 | 0x8d;

/// The ID of an object that does not exist any more. IDs begin at 1.
const NO_OBJECT: u32 = 0;

/// No PASID: the device as a whole (`IOMMU_NO_PASID`).
const NO_PASID: u32 = 0;

/// QEMU's `iommufd` object: an open /dev/iommu.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct IommufdBackend(Opaque<bindings::IOMMUFDBackend>);

// SAFETY: the BQL protects it
unsafe impl Send for IommufdBackend {}
// SAFETY: the BQL protects it
unsafe impl Sync for IommufdBackend {}

// SAFETY: instance struct of "iommufd"; nothing looks into the class
unsafe impl ObjectType for IommufdBackend {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"iommufd";
}

qom_isa!(IommufdBackend: Object);

/// A use of an iommufd, which is open until the last one ends.
#[derive(Debug)]
pub struct Connection(Owned<IommufdBackend>);

impl IommufdBackend {
    /// Opens the iommufd, or keeps it open.
    pub fn connect(&self) -> Result<Connection> {
        // SAFETY: a valid object
        let done = unsafe {
            Error::with_errp(|errp| bindings::iommufd_backend_connect(self.0.as_mut_ptr(), errp))?
        };
        util::ensure!(done, "cannot open the iommufd");
        // SAFETY: a valid object; a reference keeps it so
        Ok(Connection(unsafe { Owned::from(self) }))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: ends the use that `connect` has begun
        unsafe {
            bindings::iommufd_backend_disconnect(self.0.as_mut_ptr::<IommufdBackend>().cast());
        }
    }
}

/// A device of the host, as the code that has opened it hands it to an IOMMU.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct HostIommuDevice(Opaque<bindings::HostIOMMUDevice>);

// SAFETY: the BQL protects it
unsafe impl Send for HostIommuDevice {}
// SAFETY: the BQL protects it
unsafe impl Sync for HostIommuDevice {}

// SAFETY: instance struct of "host-iommu-device"; nothing looks into the class
unsafe impl ObjectType for HostIommuDevice {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"host-iommu-device";
}

qom_isa!(HostIommuDevice: Object);

/// A device of the host that is bound to iommufd.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct HostDevice(Opaque<bindings::HostIOMMUDeviceIOMMUFD>);

// SAFETY: the BQL protects it
unsafe impl Send for HostDevice {}
// SAFETY: the BQL protects it
unsafe impl Sync for HostDevice {}

// SAFETY: instance struct of "host-iommu-device-iommufd"; nothing looks into the class
unsafe impl ObjectType for HostDevice {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"host-iommu-device-iommufd";
}

qom_isa!(HostDevice: HostIommuDevice, Object);

/// The [`HostDevice`] of a VFIO device: only used to recognise one.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
struct VfioHostDevice(Opaque<bindings::HostIOMMUDeviceIOMMUFD>);

// SAFETY: instance struct of the type's parent, which is all that is relied on; nothing looks
// into the class
unsafe impl ObjectType for VfioHostDevice {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"host-iommu-device-iommufd-vfio";
}

qom_isa!(VfioHostDevice: HostDevice, HostIommuDevice, Object);

/// The data that `IOMMU_GET_HW_INFO` returns about a kind of IOMMU.
///
/// # Safety
///
/// `Self` must be the uAPI's struct for `TYPE`, for which any bytes are valid.
pub unsafe trait HwInfo: Default {
    /// `enum iommu_hw_info_type`
    const TYPE: u32;
    /// The type that is asked for. 0 asks for that of the device's IOMMU, which
    /// every kernel returns; older ones know no other request.
    const REQUEST: u32 = bindings::IOMMU_HW_INFO_TYPE_DEFAULT;
    /// Name of this kind of IOMMU for users.
    const NAME: &'static str;
    /// The option of Linux without which it describes no IOMMU of this kind.
    const KERNEL_OPTION: &'static str;
}

// SAFETY: the struct of integers that belongs to the number
unsafe impl HwInfo for ArmSmmuv3HwInfo {
    const TYPE: u32 = bindings::IOMMU_HW_INFO_TYPE_ARM_SMMUV3;
    const NAME: &'static str = "SMMUv3";
    const KERNEL_OPTION: &'static str = "CONFIG_ARM_SMMU_V3_IOMMUFD";
}

// SAFETY: the struct of integers that belongs to the number
unsafe impl HwInfo for Tegra241CmdqvHwInfo {
    const TYPE: u32 = bindings::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV;
    const REQUEST: u32 = Self::TYPE;
    const NAME: &'static str = "SMMUv3 with CMDQV";
    const KERNEL_OPTION: &'static str = "CONFIG_TEGRA241_CMDQV";
}

/// The data from which a nested page table is allocated.
///
/// # Safety
///
/// `Self` must be the uAPI's struct for `TYPE`.
pub unsafe trait HwptData: Copy {
    /// `enum iommu_hwpt_data_type`
    const TYPE: u32;
}

// SAFETY: the struct that belongs to the number
unsafe impl HwptData for ArmSmmuv3Hwpt {
    const TYPE: u32 = bindings::IOMMU_HWPT_DATA_ARM_SMMUV3;
}

/// An invalidation by a vIOMMU.
///
/// # Safety
///
/// `Self` must be the uAPI's struct for `TYPE`.
pub unsafe trait InvalidateEntry {
    /// `enum iommu_hwpt_invalidate_data_type`
    const TYPE: u32;
}

// SAFETY: the struct that belongs to the number
unsafe impl InvalidateEntry for ArmSmmuv3Invalidation {
    const TYPE: u32 = bindings::IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3;
}

/// A kind of vIOMMU (`enum iommu_viommu_type`), and that of its vEVENTQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViommuType {
    /// Of Arm's `SMMUv3`
    ArmSmmuv3,
    /// Of Arm's `SMMUv3` with NVIDIA's CMDQ virtualization: it has a VINTF
    Tegra241Cmdqv,
}

impl ViommuType {
    const fn viommu(self) -> u32 {
        match self {
            Self::ArmSmmuv3 => bindings::IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
            Self::Tegra241Cmdqv => bindings::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
        }
    }

    const fn veventq(self) -> u32 {
        match self {
            Self::ArmSmmuv3 => bindings::IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
            Self::Tegra241Cmdqv => bindings::IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV,
        }
    }
}

/// A call of the host that failed.
#[derive(Debug)]
pub struct HostFailure {
    /// For the user.
    error: Error,
    /// A positive error number, or 0 if C has not set it.
    errno: i32,
}

impl HostFailure {
    /// Returns a failure with a text that is not the backend's.
    pub const fn new(error: Error, errno: i32) -> Self {
        Self { error, errno }
    }

    /// Returns the error number, which is positive, or 0 if it is not known.
    pub const fn errno(&self) -> i32 {
        self.errno
    }

    /// Returns whether the host may well succeed a moment later: it was interrupted, is short
    /// of memory, or is about to reset or recover the device (`EBUSY`: Linux refuses
    /// attachments until it has restored the old one).
    pub const fn is_transient(&self) -> bool {
        matches!(
            self.errno,
            libc::EBUSY | libc::ENOMEM | libc::EINTR | libc::EAGAIN
        )
    }

    /// Returns whether the call is to be repeated at once.
    const fn is_interruption(&self) -> bool {
        matches!(self.errno, libc::EINTR | libc::EAGAIN)
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl From<HostFailure> for Error {
    fn from(failure: HostFailure) -> Self {
        failure.error
    }
}

/// An `IOMMU_HWPT_INVALIDATE` that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidateError {
    /// A positive error number
    pub errno: i32,
    /// The number of entries that the kernel has written back. Its meaning depends on errno.
    pub entry_num: u32,
}

/// Maximum number of immediate retries of an interrupted call.
const INTERRUPT_RETRIES: u32 = 16;

fn last_errno() -> Option<i32> {
    std::io::Error::last_os_error().raw_os_error()
}

/// Calls a C function that returns false and sets an Error if it fails.
///
/// errno is that of the system call that failed: `error_setg_errno` restores it, and nothing
/// that could set it comes between. `what` is reported if C has no text.
///
/// # Safety
///
/// `call` must pass errp to such a function, and do nothing else with it.
unsafe fn checked(
    what: &str,
    mut call: impl FnMut(*mut *mut bindings::Error) -> bool,
) -> std::result::Result<(), HostFailure> {
    let mut interruptions = INTERRUPT_RETRIES;
    loop {
        let mut errno = 0;
        // SAFETY: promised by the caller
        let result = unsafe {
            Error::with_errp(|errp| {
                let done = call(errp);
                if !done {
                    errno = last_errno().unwrap_or(0);
                }
                done
            })
        };
        let error = match result {
            Ok(true) => return Ok(()),
            Ok(false) => Error::msg(what.to_owned()),
            Err(error) => error,
        };
        let failure = HostFailure { error, errno };
        if !failure.is_interruption() || interruptions == 0 {
            return Err(failure);
        }
        interruptions -= 1;
    }
}

/// An iommufd object. Dropping the value destroys it.
#[derive(Debug)]
pub struct HostObject {
    backend: Owned<IommufdBackend>,
    id: u32,
}

impl HostObject {
    /// Takes over the object `id` of `backend`, which another process has made and does not use
    /// any more.
    pub const fn adopt(backend: Owned<IommufdBackend>, id: u32) -> Self {
        Self { backend, id }
    }

    /// Gives the object up without destroying it, because another process has adopted it.
    pub fn abandon(mut self) {
        self.id = NO_OBJECT;
    }

    /// Returns the object's ID in its iommufd.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Issues an `IOMMU_DESTROY`, without a message if it fails.
    ///
    /// # Errors
    ///
    /// The object, if the host does not destroy it now.
    pub fn try_destroy(mut self) -> std::result::Result<(), Self> {
        #[allow(clippy::cast_possible_truncation)]
        let mut request = bindings::iommu_destroy {
            size: size_of::<bindings::iommu_destroy>() as u32,
            id: self.id,
        };
        let backend: *mut bindings::IOMMUFDBackend =
            self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: the backend is open as long as a device is bound to it, as the one is that
        // the object was made for; the request is the one of this ioctl
        if unsafe { ioctl((*backend).fd, IOMMU_DESTROY, &mut request) }.is_err() {
            return Err(self);
        }
        self.id = NO_OBJECT;
        Ok(())
    }

    /// Allocates a vEVENTQ of a vIOMMU of this type, for up to `depth` events
    /// (`IOMMU_VEVENTQ_ALLOC`).
    pub fn allocate_veventq(&self, kind: ViommuType, depth: u32) -> Result<(Self, EventFile)> {
        let (mut id, mut fd) = (0, 0);
        // SAFETY: valid pointers
        let done = unsafe {
            Error::with_errp(|errp| {
                bindings::iommufd_backend_alloc_veventq(
                    self.backend.as_mut_ptr::<IommufdBackend>().cast(),
                    self.id,
                    kind.veventq(),
                    depth,
                    &mut id,
                    &mut fd,
                    errp,
                )
            })?
        };
        util::ensure!(done, "cannot allocate a vEVENTQ");
        let object = Self {
            backend: self.backend.clone(),
            id,
        };
        // SAFETY: a new file descriptor, which nothing else owns
        let file = unsafe { File::from_raw_fd(fd as RawFd) };
        Ok((object, EventFile::new(file)))
    }

    /// Has a vIOMMU of type [`ViommuType::Tegra241Cmdqv`] take `bytes` of the guest's memory
    /// from its physical address `address` on as VCMDQ `index` (`IOMMU_HW_QUEUE_ALLOC`).
    ///
    /// The host pins the memory, and does not unmap it before the queue is destroyed. The
    /// queue is disabled.
    pub fn allocate_vcmdq(
        &self,
        index: u32,
        address: u64,
        bytes: u64,
    ) -> std::result::Result<Self, HostFailure> {
        let viommu = self.id;
        // SAFETY: the arguments are passed on
        unsafe {
            allocate(
                self.backend.clone(),
                "a hardware queue",
                |backend, id, errp| {
                    bindings::iommufd_backend_alloc_hw_queue(
                        backend,
                        viommu,
                        bindings::IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV,
                        index,
                        address,
                        bytes,
                        id,
                        errp,
                    )
                },
            )
        }
    }

    /// Maps the page of a vIOMMU that is at `offset` of its iommufd into `window`.
    ///
    /// The host does not destroy the vIOMMU before the page is unmapped.
    pub fn map_page(&self, window: &PageWindow, offset: u64) -> std::io::Result<()> {
        let backend: *mut bindings::IOMMUFDBackend =
            self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: the backend is open as long as a device is bound to it, as the one is that
        // the object was made for
        window.map(unsafe { (*backend).fd }, offset)
    }

    /// Returns a handle by which a vIOMMU executes invalidations without the Big QEMU Lock: with a
    /// descriptor of its own.
    pub fn invalidator(&self) -> std::io::Result<Invalidator> {
        let backend: *mut bindings::IOMMUFDBackend =
            self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: the backend is open as long as a device is bound to it, as the one is that
        // the object was made for
        let fd = unsafe { BorrowedFd::borrow_raw((*backend).fd) };
        Ok(Invalidator {
            fd: fd.try_clone_to_owned()?,
            id: self.id,
        })
    }

    /// Has a vIOMMU execute `entries` (`IOMMU_HWPT_INVALIDATE`), and returns when they are
    /// complete.
    pub fn invalidate<E: InvalidateEntry>(
        &self,
        entries: &[E],
    ) -> std::result::Result<(), InvalidateError> {
        let backend: *mut bindings::IOMMUFDBackend =
            self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: the backend is open as long as a device is bound to it
        invalidate(unsafe { (*backend).fd }, self.id, entries)
    }
}

/// A vIOMMU, for invalidations only. Does not need the Big QEMU Lock.
///
/// IDs of destroyed objects are used again, so the value must go before the vIOMMU.
#[derive(Debug)]
pub struct Invalidator {
    fd: OwnedFd,
    id: u32,
}

impl Invalidator {
    /// Has the vIOMMU execute `entries` (`IOMMU_HWPT_INVALIDATE`), and returns when they are
    /// complete.
    #[inline]
    pub fn invalidate<E: InvalidateEntry>(
        &self,
        entries: &[E],
    ) -> std::result::Result<(), InvalidateError> {
        invalidate(self.fd.as_raw_fd(), self.id, entries)
    }
}

#[inline]
fn invalidate<E: InvalidateEntry>(
    fd: RawFd,
    viommu: u32,
    entries: &[E],
) -> std::result::Result<(), InvalidateError> {
    #[allow(clippy::cast_possible_truncation)]
    let mut request = bindings::iommu_hwpt_invalidate {
        size: size_of::<bindings::iommu_hwpt_invalidate>() as u32,
        hwpt_id: viommu,
        data_uptr: entries.as_ptr() as u64,
        data_type: E::TYPE,
        entry_len: size_of::<E>() as u32,
        entry_num: entries.len() as u32,
        __reserved: 0,
    };
    // SAFETY: the request is the one of this ioctl, and points to `entries`
    let Err(errno) = (unsafe { ioctl(fd, IOMMU_HWPT_INVALIDATE, &mut request) }) else {
        return Ok(());
    };
    Err(InvalidateError {
        errno,
        entry_num: request.entry_num,
    })
}

/// Issues an ioctl on an iommufd.
///
/// # Errors
///
/// errno
///
/// # Safety
///
/// `request` must be the argument that the kernel's uAPI has for `number`.
#[inline]
unsafe fn ioctl<T>(fd: RawFd, number: u64, request: &mut T) -> std::result::Result<(), i32> {
    // SAFETY: promised by the caller; a descriptor that is not open is an error
    if unsafe { libc::ioctl(fd, number, addr_of_mut!(*request)) } == 0 {
        return Ok(());
    }
    Err(last_errno().unwrap_or(libc::EIO))
}

impl Drop for HostObject {
    fn drop(&mut self) {
        if self.id == NO_OBJECT {
            return;
        }
        let backend = self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: `self.backend` keeps the backend; the callee reports a failure
        unsafe { bindings::iommufd_backend_free_id(backend, self.id) }
    }
}

/// Allocates an object.
///
/// # Safety
///
/// `call` must pass its arguments to an allocating function of the backend.
unsafe fn allocate(
    backend: Owned<IommufdBackend>,
    what: &str,
    mut call: impl FnMut(*mut bindings::IOMMUFDBackend, &mut u32, *mut *mut bindings::Error) -> bool,
) -> std::result::Result<HostObject, HostFailure> {
    let mut id = NO_OBJECT;
    let pointer = backend.as_mut_ptr::<IommufdBackend>().cast();
    let message = format!("cannot allocate {what}");
    // SAFETY: promised by the caller
    unsafe { checked(&message, |errp| call(pointer, &mut id, errp)) }.map_err(|failure| {
        HostFailure {
            error: Error::msg(format!("{message}: {failure}")),
            ..failure
        }
    })?;
    Ok(HostObject { backend, id })
}

impl HostDevice {
    /// Returns the device, if it is bound to iommufd.
    pub fn of(device: &HostIommuDevice) -> Option<Owned<Self>> {
        let device = device.dynamic_cast::<Self>()?;
        // SAFETY: a valid object; a reference keeps it so
        Some(unsafe { Owned::from(device) })
    }

    fn raw(&self) -> &bindings::HostIOMMUDeviceIOMMUFD {
        // SAFETY: the fields that are read are set before the object is handed over, and stay
        unsafe { &*self.0.as_ptr() }
    }

    /// Returns the device's ID in its iommufd.
    pub fn id(&self) -> u32 {
        self.raw().devid
    }

    /// Returns the ID of the stage 2 that the VFIO core made for the guest's memory.
    pub fn stage2_id(&self) -> u32 {
        self.raw().hwpt_id
    }

    /// Returns the iommufd that the device is bound to.
    pub fn backend(&self) -> Owned<IommufdBackend> {
        // SAFETY: the backend that the device is bound to is alive; a reference keeps it so
        unsafe { Owned::from(IommufdBackend::from_raw(self.raw().iommufd)) }
    }

    /// Returns the address of the iommufd that the device is bound to, to compare it.
    pub fn backend_address(&self) -> usize {
        self.raw().iommufd as usize
    }

    /// Returns the description of the device's IOMMU (`IOMMU_GET_HW_INFO`).
    pub fn hw_info<I: HwInfo>(&self) -> Result<I> {
        let backend = self.backend();
        let mut info = I::default();
        let mut kind = I::REQUEST;
        let mut capabilities = 0;
        // SAFETY: all pointers are valid for the call; the callee writes no more than the size
        // of `info`
        let done = unsafe {
            Error::with_errp(|errp| {
                bindings::iommufd_backend_get_device_info(
                    backend.as_mut_ptr::<IommufdBackend>().cast(),
                    self.id(),
                    &mut kind,
                    addr_of_mut!(info).cast(),
                    size_of::<I>() as u32,
                    &mut capabilities,
                    ptr::null_mut(),
                    errp,
                )
            })?
        };
        util::ensure!(done, "IOMMU_GET_HW_INFO failed");
        util::ensure!(
            kind != bindings::IOMMU_HW_INFO_TYPE_NONE,
            "the host's kernel does not describe the IOMMU of this device (iommufd type 0): for an {} it \
             needs {}=y",
            I::NAME,
            I::KERNEL_OPTION
        );
        util::ensure!(
            kind == I::TYPE,
            "the host IOMMU of this device is no {} (iommufd type {kind})",
            I::NAME
        );
        Ok(info)
    }

    /// Allocates an object of which the device is part.
    ///
    /// # Safety
    ///
    /// `call` must pass its arguments to an allocating function of the backend.
    unsafe fn allocate(
        &self,
        what: &str,
        call: impl FnMut(*mut bindings::IOMMUFDBackend, &mut u32, *mut *mut bindings::Error) -> bool,
    ) -> std::result::Result<HostObject, HostFailure> {
        // SAFETY: promised by the caller
        unsafe { allocate(self.backend(), what, call) }
    }

    /// Returns the ID of the I/O address space that has the guest's memory.
    ///
    /// It belongs to the VFIO device, not to the base class.
    ///
    /// # Errors
    ///
    /// The device is not one of VFIO.
    pub fn ioas_id(&self) -> Result<u32> {
        let is_vfio = self.dynamic_cast::<VfioHostDevice>().is_some();
        util::ensure!(is_vfio, "only vfio-pci devices can be assigned");
        // SAFETY: the agent of an object of this type is the VFIODevice that made it, which
        // outlives it; the field is set before the object is handed over
        Ok(unsafe {
            (*self.raw().parent_obj.agent.cast::<bindings::VFIODevice>())
                .cpr
                .ioas_id
        })
    }

    /// Allocates another stage 2 of the guest's memory, with an identity of its own, in which
    /// page tables can be nested (`IOMMU_HWPT_ALLOC`). No memory is pinned a second time.
    pub fn allocate_stage2(&self) -> Result<HostObject> {
        let (device, ioas) = (self.id(), self.ioas_id()?);
        // SAFETY: the arguments are passed on; valid pointers, no driver data
        let object = unsafe {
            self.allocate("a stage 2", |backend, id, errp| {
                bindings::iommufd_backend_alloc_hwpt(
                    backend,
                    device,
                    ioas,
                    bindings::IOMMU_HWPT_ALLOC_NEST_PARENT,
                    bindings::IOMMU_HWPT_DATA_NONE,
                    0,
                    ptr::null_mut(),
                    id,
                    errp,
                )
            })
        };
        Ok(object?)
    }

    /// Allocates the guest's slice of the IOMMU that the device is behind, on the stage 2
    /// `stage2` (`IOMMU_VIOMMU_ALLOC`).
    pub fn allocate_viommu(
        &self,
        kind: ViommuType,
        stage2: u32,
    ) -> std::result::Result<HostObject, HostFailure> {
        let device = self.id();
        // SAFETY: the arguments are passed on; valid pointers, no driver data
        unsafe {
            self.allocate("a vIOMMU", |backend, id, errp| {
                bindings::iommufd_backend_alloc_viommu(
                    backend,
                    device,
                    kind.viommu(),
                    stage2,
                    ptr::null_mut(),
                    0,
                    id,
                    errp,
                )
            })
        }
    }

    /// Allocates the guest's slice of the IOMMU that the device is behind, on the stage 2
    /// `stage2`, with a VINTF of its own (`IOMMU_VIOMMU_ALLOC`). Returns the VINTF's page in
    /// the iommufd, too.
    pub fn allocate_cmdqv_viommu(
        &self,
        stage2: u32,
    ) -> std::result::Result<(HostObject, Tegra241CmdqvViommu), HostFailure> {
        let device = self.id();
        let mut page = Tegra241CmdqvViommu::default();
        // SAFETY: the arguments are passed on; `page` is what the kernel fills in for this type
        let object = unsafe {
            self.allocate("a vIOMMU with CMDQV", |backend, id, errp| {
                bindings::iommufd_backend_alloc_viommu(
                    backend,
                    device,
                    ViommuType::Tegra241Cmdqv.viommu(),
                    stage2,
                    addr_of_mut!(page).cast(),
                    size_of::<Tegra241CmdqvViommu>() as u32,
                    id,
                    errp,
                )
            })
        }?;
        Ok((object, page))
    }

    /// Allocates a page table that is nested in the stage 2 of `viommu` (`IOMMU_HWPT_ALLOC`).
    pub fn allocate_nested<D: HwptData>(
        &self,
        viommu: &HostObject,
        data: &D,
    ) -> std::result::Result<HostObject, HostFailure> {
        let (device, viommu) = (self.id(), viommu.id());
        let mut data = *data;
        // SAFETY: the arguments are passed on; valid pointers, and `data` has the type that its
        // number names
        unsafe {
            self.allocate("a nested translation", |backend, id, errp| {
                bindings::iommufd_backend_alloc_hwpt(
                    backend,
                    device,
                    viommu,
                    0,
                    D::TYPE,
                    size_of::<D>() as u32,
                    addr_of_mut!(data).cast(),
                    id,
                    errp,
                )
            })
        }
    }

    /// Binds the device to its ID at the guest's IOMMU (`IOMMU_VDEVICE_ALLOC`).
    pub fn allocate_vdevice(
        &self,
        viommu: &HostObject,
        virtual_id: u64,
    ) -> std::result::Result<HostObject, HostFailure> {
        let (device, viommu) = (self.id(), viommu.id());
        // SAFETY: the arguments are passed on; valid pointers
        unsafe {
            self.allocate("a vDEVICE", |backend, id, errp| {
                bindings::iommufd_backend_alloc_vdev(backend, device, viommu, virtual_id, id, errp)
            })
        }
    }

    /// Attaches the device to the page table `id` (`VFIO_DEVICE_ATTACH_IOMMUFD_PT`).
    pub fn attach(&self, id: u32) -> std::result::Result<(), HostFailure> {
        let message = format!("cannot attach the device to page table {id}");
        // SAFETY: a valid object of the type that the callee expects
        unsafe {
            checked(&message, |errp| {
                bindings::host_iommu_device_iommufd_attach_hwpt(
                    self.0.as_mut_ptr(),
                    NO_PASID,
                    id,
                    errp,
                )
            })
        }
    }

    /// Detaches the device, so that the host blocks its transactions
    /// (`VFIO_DEVICE_DETACH_IOMMUFD_PT`).
    pub fn detach(&self) -> std::result::Result<(), HostFailure> {
        // SAFETY: a valid object of the type that the callee expects
        unsafe {
            checked("cannot detach the device", |errp| {
                bindings::host_iommu_device_iommufd_detach_hwpt(self.0.as_mut_ptr(), NO_PASID, errp)
            })
        }
    }
}
