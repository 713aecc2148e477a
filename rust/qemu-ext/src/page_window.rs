// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A place in QEMU's address space for a page of hardware that comes and goes.
//!
//! A RAM device region of QEMU's has one address for its life, and QEMU may access it for a
//! while after it was disabled. So the place stays: while no page is mapped there is memory
//! of this process, where a late access does no harm.
//!
//! ```no_run
//! use qemu_ext::{iommufd::HostObject, page_window::PageWindow};
//!
//! fn first_register(viommu: &HostObject, offset: u64) -> std::io::Result<u32> {
//!     let window = PageWindow::new(0x1_0000)?;
//!     viommu.map_page(&window, offset)?;
//!     Ok(window.read_u32(0))
//! }
//! ```

use std::{
    ffi::c_void,
    io,
    os::fd::RawFd,
    ptr::{self, NonNull},
};

/// A range of addresses at which a page of hardware can be mapped.
#[derive(Debug)]
pub struct PageWindow {
    address: NonNull<c_void>,
    size: usize,
}

// SAFETY: the memory is accessed by volatile accesses of 32 bits only, whose values mean
// nothing to Rust; mapping replaces it as a whole, at the same address
unsafe impl Send for PageWindow {}
// SAFETY: as above
unsafe impl Sync for PageWindow {}

impl PageWindow {
    /// Returns a window of `size` bytes, a multiple of the host's page size, without a page.
    pub fn new(size: usize) -> io::Result<Self> {
        // SAFETY: new memory, at an address of the kernel's choice
        let address = unsafe { anonymous(ptr::null_mut(), size, 0)? };
        Ok(Self { address, size })
    }

    /// Returns the size in bytes.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Returns the address, for QEMU's memory core.
    pub(crate) const fn address(&self) -> *mut c_void {
        self.address.as_ptr()
    }

    /// Maps the page at `offset` of a file over the whole window.
    pub(crate) fn map(&self, fd: RawFd, offset: u64) -> io::Result<()> {
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // A mapping at a fixed address that the file's driver refuses may leave nothing there,
        // and another thread's memory could take the place. So the driver is asked for one
        // elsewhere before the memory that is there is given up.
        // SAFETY: a new mapping, at an address of the kernel's choice
        let trial = unsafe { page_of(ptr::null_mut(), self.size, 0, fd, offset)? };
        // SAFETY: replaces memory that belongs to this value, and to which there is no
        // reference of Rust's
        let mapped = unsafe { page_of(self.address(), self.size, libc::MAP_FIXED, fd, offset) };
        // SAFETY: the mapping that was made above, and not used
        let _ = unsafe { libc::munmap(trial.as_ptr(), self.size) };
        if let Err(error) = mapped {
            let _ = self.unmap();
            return Err(error);
        }
        // A child process would keep the page, and with it the host's object, alive. Without
        // effect on the mapping if it fails.
        // SAFETY: the range that was just mapped
        let _ = unsafe { libc::madvise(self.address(), self.size, libc::MADV_DONTFORK) };
        Ok(())
    }

    /// Unmaps the page. Accesses reach memory of this process from then on.
    pub fn unmap(&self) -> io::Result<()> {
        // SAFETY: replaces memory that belongs to this value, and to which there is no
        // reference of Rust's
        unsafe { anonymous(self.address(), self.size, libc::MAP_FIXED) }.map(|_| ())
    }

    /// Reads 32 bits at `offset`, as the device that owns the page has them.
    ///
    /// An offset that is not a multiple of 4 or beyond the end reads as 0.
    pub fn read_u32(&self, offset: usize) -> u32 {
        let Some(register) = self.register(offset) else {
            return 0;
        };
        // SAFETY: aligned, and within the window, which is always mapped
        unsafe { register.read_volatile() }
    }

    /// Writes 32 bits at `offset`. An offset as above is ignored.
    pub fn write_u32(&self, offset: usize, value: u32) {
        if let Some(register) = self.register(offset) {
            // SAFETY: aligned, and within the window, which is always mapped
            unsafe { register.write_volatile(value) }
        }
    }

    fn register(&self, offset: usize) -> Option<*mut u32> {
        let end = offset.checked_add(size_of::<u32>())?;
        (offset % size_of::<u32>() == 0 && end <= self.size)
            .then(|| self.address().wrapping_byte_add(offset).cast())
    }
}

/// Maps the page at `offset` of a file.
///
/// # Safety
///
/// With `MAP_FIXED` the caller must own the range.
unsafe fn page_of(
    address: *mut c_void,
    size: usize,
    flags: libc::c_int,
    fd: RawFd,
    offset: libc::off_t,
) -> io::Result<NonNull<c_void>> {
    // SAFETY: promised by the caller
    unsafe { map(address, size, libc::MAP_SHARED | flags, fd, offset) }
}

/// Maps memory of this process.
///
/// # Safety
///
/// With `MAP_FIXED` the caller must own the range.
unsafe fn anonymous(
    address: *mut c_void,
    size: usize,
    flags: libc::c_int,
) -> io::Result<NonNull<c_void>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: promised by the caller
    unsafe { map(address, size, flags, -1, 0) }
}

/// Maps memory that can be read and written.
///
/// # Safety
///
/// With `MAP_FIXED` the caller must own the range.
unsafe fn map(
    address: *mut c_void,
    size: usize,
    flags: libc::c_int,
    fd: RawFd,
    offset: libc::off_t,
) -> io::Result<NonNull<c_void>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: promised by the caller
    let mapped = unsafe { libc::mmap(address, size, protection, flags, fd, offset) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(mapped).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

impl Drop for PageWindow {
    fn drop(&mut self) {
        // SAFETY: the window's own range; its users are gone
        let _ = unsafe { libc::munmap(self.address(), self.size) };
    }
}
