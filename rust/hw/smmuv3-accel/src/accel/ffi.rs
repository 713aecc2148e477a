// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's iommufd, as safe functions on typed objects.
//!
//! Everything goes through QEMU's iommufd backend but two calls, whose outcome
//! the backend turns into text: `IOMMU_HWPT_INVALIDATE`, because errno decides
//! what the guest is told (see [`smmuv3::invalidation`]), and the
//! `IOMMU_DESTROY` of what may be busy. Where only the kind of a failure matters,
//! errno is read behind the backend's call: see [`HostFailure`].

use std::{
    ffi::{c_void, CStr},
    fmt,
    fs::File,
    io::Read,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::{addr_of_mut, NonNull},
};

use common::{callbacks::FnCall, Opaque};
use qom::prelude::*;
use smmuv3::invalidation::{HostError, MAX_BATCH};
use util::{Error, Result};

use crate::{bindings, device::Smmuv3};

/// Numbers of ioctls, of type `;` (`IOMMUFD_TYPE`), without size or direction.
const IOMMU_DESTROY: u64 = 0x3b00 | 0x80;
const IOMMU_HWPT_INVALIDATE: u64 = 0x3b00 | 0x8d;

/// What is no object's ID: they begin at 1.
const NO_OBJECT: u32 = 0;

/// No PASID: the device as a whole.
const NO_PASID: u32 = 0;

/// QEMU's `iommufd` object: an open /dev/iommu.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct IommufdBackend(Opaque<bindings::IOMMUFDBackend>);

// SAFETY: used under the BQL only
unsafe impl Send for IommufdBackend {}
// SAFETY: as above
unsafe impl Sync for IommufdBackend {}

// SAFETY: instance struct of "iommufd"; the class is not looked into
unsafe impl ObjectType for IommufdBackend {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"iommufd";
}

qom_isa!(IommufdBackend: Object);

/// A device of the host that is bound to iommufd.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct HostDevice(Opaque<bindings::HostIOMMUDeviceIOMMUFD>);

// SAFETY: used under the BQL only
unsafe impl Send for HostDevice {}
// SAFETY: as above
unsafe impl Sync for HostDevice {}

// SAFETY: instance struct of "host-iommu-device-iommufd", the abstract parent of
// what VFIO hands over; the class is not looked into
unsafe impl ObjectType for HostDevice {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"host-iommu-device-iommufd";
}

qom_isa!(HostDevice: Object);

/// The [`HostDevice`] of a VFIO device: only used to recognise one.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct VfioHostDevice(Opaque<bindings::HostIOMMUDeviceIOMMUFD>);

// SAFETY: instance struct of the type's parent, which is all that is relied on; the
// class is not looked into
unsafe impl ObjectType for VfioHostDevice {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"host-iommu-device-iommufd-vfio";
}

qom_isa!(VfioHostDevice: HostDevice, Object);

/// What the host's SMMU says of itself (`struct iommu_hw_info_arm_smmuv3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// `IOMMU_HW_INFO_ARM_SMMUV3_*`
    pub flags: u32,
    /// IDR0 to IDR5, raw
    pub idr: [u32; 6],
}

/// A call of the host that failed.
#[derive(Debug)]
pub struct HostFailure {
    /// What the user is shown.
    error: Error,
    /// Why, as a positive error number; 0 if that is not known.
    errno: i32,
}

impl HostFailure {
    /// Returns whether the host may well do the same a moment later: it was
    /// interrupted, is short of memory, or is about to reset or recover the device
    /// (`EBUSY`: Linux refuses attachments until it has restored the old one).
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

    /// The host did not invalidate what must not be used again.
    pub fn not_invalidated(errno: i32) -> Self {
        let reason = std::io::Error::from_raw_os_error(errno);
        Self {
            error: Error::msg(format!("the host does not invalidate its TLB: {reason}")),
            // whatever the reason is: nothing is lost by another attempt
            errno: libc::EAGAIN,
        }
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

/// How often a call that was interrupted is repeated at once.
const INTERRUPT_RETRIES: u32 = 16;

/// Calls a C function that reports failure as an Error, and by returning false.
///
/// errno is that of the system call that failed: `error_setg_errno` restores it, and
/// nothing that could set it comes between. `what` is reported if C has no text.
///
/// # Safety
///
/// `call` must pass errp to such a function, and do nothing else with it.
unsafe fn checked(
    what: &str,
    mut call: impl FnMut(*mut *mut util::bindings::Error) -> bool,
) -> std::result::Result<(), HostFailure> {
    let mut interruptions = INTERRUPT_RETRIES;
    loop {
        let mut errno = 0;
        // SAFETY: promised by the caller
        let result = unsafe {
            Error::with_errp(|errp| {
                let done = call(errp);
                if !done {
                    errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
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

/// An iommufd object that is destroyed when the value goes.
#[derive(Debug)]
pub struct HostObject {
    backend: Owned<IommufdBackend>,
    id: u32,
}

impl HostObject {
    /// The object's ID in its iommufd.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Issues an ioctl on the iommufd, and returns errno.
    ///
    /// # Safety
    ///
    /// `request` must be the argument that the kernel's uAPI has for `number`.
    unsafe fn ioctl<T>(&self, number: u64, request: &mut T) -> std::result::Result<(), i32> {
        let backend: *mut bindings::IOMMUFDBackend =
            self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: the backend is open as long as it has users, and a device that
        // is bound to it is one; the rest is promised by the caller
        if unsafe { libc::ioctl((*backend).fd, number, addr_of_mut!(*request)) } == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO))
    }

    /// `IOMMU_DESTROY`, without a complaint: gives the object back if the host
    /// does not destroy it now.
    pub fn try_destroy(mut self) -> std::result::Result<(), Self> {
        #[allow(clippy::cast_possible_truncation)]
        let mut request = bindings::iommu_destroy {
            size: size_of::<bindings::iommu_destroy>() as u32,
            id: self.id,
        };
        // SAFETY: the request is the one of this ioctl
        if unsafe { self.ioctl(IOMMU_DESTROY, &mut request) }.is_err() {
            return Err(self);
        }
        self.id = NO_OBJECT;
        Ok(())
    }
}

impl Drop for HostObject {
    fn drop(&mut self) {
        if self.id == NO_OBJECT {
            return;
        }
        let backend = self.backend.as_mut_ptr::<IommufdBackend>().cast();
        // SAFETY: the backend is kept alive by `self.backend`; the callee reports
        // a failure and goes on
        unsafe { bindings::iommufd_backend_free_id(backend, self.id) }
    }
}

impl HostDevice {
    /// The device behind a `HostIOMMUDevice *`, if it is one of iommufd.
    ///
    /// # Safety
    ///
    /// `device` must be NULL or point to a QOM object.
    pub unsafe fn of(device: *mut qom::bindings::Object) -> Option<Owned<Self>> {
        let device = NonNull::new(device)?;
        // SAFETY: promised by the caller; a reference is added, which keeps it so
        let object: &Object = unsafe { Object::from_raw(device.as_ptr()) };
        // SAFETY: the object is owned by its caller; a reference is added
        object
            .dynamic_cast::<Self>()
            .map(|found| unsafe { Owned::from(found) })
    }

    fn raw(&self) -> &bindings::HostIOMMUDeviceIOMMUFD {
        // SAFETY: the fields that are read are set before the object is handed
        // over and stay
        unsafe { &*self.0.as_ptr() }
    }

    /// The device's ID in its iommufd.
    pub fn id(&self) -> u32 {
        self.raw().devid
    }

    /// ID of the stage 2 that the VFIO core made for the guest's memory.
    pub fn stage2_id(&self) -> u32 {
        self.raw().hwpt_id
    }

    /// The iommufd that the device is bound to.
    pub fn backend(&self) -> Owned<IommufdBackend> {
        // SAFETY: the device is bound to the backend, which is therefore alive; a
        // reference is added
        unsafe { Owned::from(IommufdBackend::from_raw(self.raw().iommufd)) }
    }

    /// The address of the iommufd that the device is bound to: which one it is.
    pub fn backend_address(&self) -> usize {
        self.raw().iommufd as usize
    }

    /// `IOMMU_GET_HW_INFO`.
    pub fn info(&self) -> Result<HostInfo> {
        let backend = self.backend();
        let mut info = bindings::iommu_hw_info_arm_smmuv3::default();
        let mut kind = bindings::IOMMU_HW_INFO_TYPE_DEFAULT;
        let mut capabilities = 0;
        // SAFETY: all pointers are valid for the call; the callee writes no more
        // than the size of `info`
        let done = unsafe {
            Error::with_errp(|errp| {
                bindings::iommufd_backend_get_device_info(
                    backend.as_mut_ptr::<IommufdBackend>().cast(),
                    self.id(),
                    &mut kind,
                    addr_of_mut!(info).cast(),
                    size_of::<bindings::iommu_hw_info_arm_smmuv3>() as u32,
                    &mut capabilities,
                    std::ptr::null_mut(),
                    errp,
                )
            })?
        };
        util::ensure!(done, "the host does not tell what its IOMMU is");
        util::ensure!(
            kind == bindings::IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
            "the host IOMMU of this device is no SMMUv3 (iommufd type {kind})"
        );
        Ok(HostInfo {
            flags: info.flags,
            idr: info.idr,
        })
    }

    /// Allocates an object of which the device is part.
    ///
    /// # Safety
    ///
    /// `call` must pass its arguments to an allocating function of the backend.
    unsafe fn allocate(
        &self,
        what: &str,
        mut call: impl FnMut(
            *mut bindings::IOMMUFDBackend,
            &mut u32,
            *mut *mut util::bindings::Error,
        ) -> bool,
    ) -> std::result::Result<HostObject, HostFailure> {
        let backend = self.backend();
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

    /// ID of the I/O address space that has the guest's memory.
    ///
    /// The base class does not know it: it is the VFIO device's.
    pub fn ioas_id(&self) -> Result<u32> {
        let object: &Object = self.upcast();
        let is_vfio = object.dynamic_cast::<VfioHostDevice>().is_some();
        util::ensure!(is_vfio, "the device is not VFIO's");
        // SAFETY: the agent of an object of this type is the VFIODevice that made
        // it, which outlives it; the field is set before the object is handed over
        Ok(unsafe {
            (*self.raw().parent_obj.agent.cast::<bindings::VFIODevice>())
                .cpr
                .ioas_id
        })
    }

    /// `IOMMU_HWPT_ALLOC`: another stage 2 of the guest's memory, with a VMID of its
    /// own, that translations can be nested in. No memory is pinned a second time.
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
                    std::ptr::null_mut(),
                    id,
                    errp,
                )
            })
        };
        Ok(object?)
    }

    /// `IOMMU_VIOMMU_ALLOC`: the guest's slice of the SMMU that this device is behind,
    /// on the stage 2 `stage2`.
    pub fn allocate_viommu(&self, stage2: u32) -> Result<HostObject> {
        let device = self.id();
        // SAFETY: the arguments are passed on; valid pointers, no driver data
        let object = unsafe {
            self.allocate("a vIOMMU", |backend, id, errp| {
                bindings::iommufd_backend_alloc_viommu(
                    backend,
                    device,
                    bindings::IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
                    stage2,
                    std::ptr::null_mut(),
                    0,
                    id,
                    errp,
                )
            })
        };
        Ok(object?)
    }

    /// `IOMMU_HWPT_ALLOC`: a nested translation as words 0 and 1 of an STE say.
    pub fn allocate_nested(
        &self,
        viommu: &HostObject,
        ste: [u64; 2],
    ) -> std::result::Result<HostObject, HostFailure> {
        let (device, viommu) = (self.id(), viommu.id());
        let mut data = bindings::iommu_hwpt_arm_smmuv3 {
            ste: ste.map(u64::to_le),
        };
        // SAFETY: the arguments are passed on; valid pointers, and `data` has the type
        // that its type ID names
        unsafe {
            self.allocate("a nested translation", |backend, id, errp| {
                bindings::iommufd_backend_alloc_hwpt(
                    backend,
                    device,
                    viommu,
                    0,
                    bindings::IOMMU_HWPT_DATA_ARM_SMMUV3,
                    size_of::<bindings::iommu_hwpt_arm_smmuv3>() as u32,
                    addr_of_mut!(data).cast(),
                    id,
                    errp,
                )
            })
        }
    }

    /// `IOMMU_VDEVICE_ALLOC`: tells the host under which `StreamID` the guest knows
    /// this device.
    pub fn allocate_vdevice(
        &self,
        viommu: &HostObject,
        stream_id: u32,
    ) -> std::result::Result<HostObject, HostFailure> {
        let (device, viommu) = (self.id(), viommu.id());
        // SAFETY: the arguments are passed on; valid pointers
        unsafe {
            self.allocate("a vDEVICE", |backend, id, errp| {
                bindings::iommufd_backend_alloc_vdev(
                    backend,
                    device,
                    viommu,
                    u64::from(stream_id),
                    id,
                    errp,
                )
            })
        }
    }

    /// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: from now on the device's transactions are
    /// translated by the page table `id`.
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

    /// `VFIO_DEVICE_DETACH_IOMMUFD_PT`: from now on the device's transactions are
    /// blocked.
    pub fn detach(&self) -> std::result::Result<(), HostFailure> {
        // SAFETY: a valid object of the type that the callee expects
        unsafe {
            checked("cannot detach the device", |errp| {
                bindings::host_iommu_device_iommufd_detach_hwpt(self.0.as_mut_ptr(), NO_PASID, errp)
            })
        }
    }
}

/// The file that a vEVENTQ's events are read from.
///
/// The main loop polls an epoll file that it is in. Whoever polls a file keeps
/// it open for that time, so that a vCPU's thread could close the vEVENTQ's own
/// file but not destroy the vEVENTQ. An epoll file keeps nothing open.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    poll: Option<OwnedFd>,
}

impl EventFile {
    /// Has `F` called on `device` from the main loop while there is something
    /// to read. `device` must not go before the file does, which holds for what
    /// a device owns.
    pub fn watch<F: for<'a> FnCall<(&'a Smmuv3,)>>(
        mut self,
        device: &Smmuv3,
        _callback: &F,
    ) -> std::io::Result<Self> {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(opaque: *mut c_void) {
            // SAFETY: the device that `watch` was called with; the handler is
            // removed before the device goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() },));
        }
        const { assert!(F::IS_SOME) };
        let fd = self.file.as_raw_fd();
        // SAFETY: fcntl on an open file, and the descriptor of a new one, which
        // nobody else knows of
        let poll = unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            let poll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if poll < 0 {
                return Err(std::io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(poll)
        };
        control(&poll, libc::EPOLL_CTL_ADD, fd)?;
        // SAFETY: the file is open until `drop`, which removes the handler
        unsafe {
            util::bindings::qemu_set_fd_handler(
                poll.as_raw_fd(),
                Some(call::<F>),
                None,
                (device as *const Smmuv3).cast_mut().cast(),
            );
        }
        self.poll = Some(poll);
        Ok(self)
    }

    /// Returns whether the file is readable now, or cannot be asked.
    ///
    /// It is the epoll file that is asked, for the reason given above.
    pub fn is_readable(&self) -> bool {
        let Some(poll) = &self.poll else {
            return true;
        };
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: an open epoll file and room for one event; with a timeout of 0 the
        // call does not wait
        let ready = unsafe { libc::epoll_wait(poll.as_raw_fd(), &mut event, 1, 0) };
        ready != 0
    }

    /// Reads whole entries, as many as fit and are there.
    pub fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buffer)
    }
}

/// Adds a file to those that `poll` waits for, or removes it.
fn control(poll: &OwnedFd, operation: i32, fd: RawFd) -> std::io::Result<()> {
    #[allow(clippy::cast_sign_loss)]
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    // SAFETY: open files and a valid event
    if unsafe { libc::epoll_ctl(poll.as_raw_fd(), operation, fd, &mut event) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
}

impl Drop for EventFile {
    fn drop(&mut self) {
        if let Some(poll) = &self.poll {
            // SAFETY: removes the handler of a file that is still open
            unsafe {
                util::bindings::qemu_set_fd_handler(
                    poll.as_raw_fd(),
                    None,
                    None,
                    std::ptr::null_mut(),
                );
            }
            // if it fails the file is none of `poll`'s, which is what is wanted
            let _ = control(poll, libc::EPOLL_CTL_DEL, self.file.as_raw_fd());
        }
    }
}

impl HostObject {
    /// `IOMMU_VEVENTQ_ALLOC` on a vIOMMU, for up to `depth` events.
    pub fn allocate_veventq(&self, depth: u32) -> Result<(Self, EventFile)> {
        let (mut id, mut fd) = (0, 0);
        // SAFETY: valid pointers
        let done = unsafe {
            Error::with_errp(|errp| {
                bindings::iommufd_backend_alloc_veventq(
                    self.backend.as_mut_ptr::<IommufdBackend>().cast(),
                    self.id,
                    bindings::IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
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
        // SAFETY: a new file descriptor, which nobody else knows of
        let file = unsafe { File::from_raw_fd(fd as RawFd) };
        Ok((object, EventFile { file, poll: None }))
    }

    /// `IOMMU_HWPT_INVALIDATE` on a vIOMMU: hands `commands` to the host's SMMU,
    /// and returns when they are complete.
    ///
    /// On failure `entry_num` is what the kernel wrote back; what it means
    /// depends on errno.
    pub fn invalidate(&self, commands: &[[u64; 2]]) -> std::result::Result<(), HostError> {
        let mut entries = [[0_u64; 2]; MAX_BATCH];
        let Some(batch) = entries.get_mut(..commands.len()) else {
            return Err(HostError {
                errno: libc::E2BIG,
                entry_num: 0,
            });
        };
        for (entry, command) in batch.iter_mut().zip(commands) {
            *entry = command.map(u64::to_le);
        }
        #[allow(clippy::cast_possible_truncation)]
        let mut request = bindings::iommu_hwpt_invalidate {
            size: size_of::<bindings::iommu_hwpt_invalidate>() as u32,
            hwpt_id: self.id,
            data_uptr: batch.as_ptr() as u64,
            data_type: bindings::IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
            entry_len: size_of::<[u64; 2]>() as u32,
            entry_num: batch.len() as u32,
            __reserved: 0,
        };
        // SAFETY: the request is the one of this ioctl, and `batch` is what it
        // points to
        let Err(errno) = (unsafe { self.ioctl(IOMMU_HWPT_INVALIDATE, &mut request) }) else {
            return Ok(());
        };
        Err(HostError {
            errno,
            entry_num: request.entry_num,
        })
    }
}
