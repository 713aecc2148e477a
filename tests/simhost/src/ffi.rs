// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The functions of the C library that are replaced, and all of this crate's
//! unsafe code but a lock on a file. A call on a file descriptor that is not simulated goes to the
//! kernel unchanged.

use std::{
    cell::Cell,
    env,
    ffi::{c_int, c_long, c_ulong, c_void},
    os::fd::RawFd,
    path::PathBuf,
    slice,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use crate::{
    errno::{Errno, Result},
    file::{identify, File},
    given,
    host::Host,
    log::Log,
    memory::OwnMemory,
    script::Script,
};

/// The simulated host of this process.
struct Simulation {
    state: Mutex<(Host, OwnMemory)>,
}

static SIMULATION: OnceLock<Option<Simulation>> = OnceLock::new();

thread_local! {
    /// Set while this thread is in the simulation, whose own calls go to the kernel.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn simulation() -> Option<&'static Simulation> {
    SIMULATION
        .get_or_init(|| {
            let directory = PathBuf::from(env::var_os("SIMHOST_DIR")?);
            let log = Log::open(&directory.join("log")).ok()?;
            let script = Script::at(&directory.join("script"));
            let mut host = Host::new(&directory, script, log);
            host.begin();
            Some(Simulation {
                state: Mutex::new((host, OwnMemory::open().ok()?)),
            })
        })
        .as_ref()
}

fn get_errno() -> c_int {
    // SAFETY: the pointer is to this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn set_errno(number: c_int) {
    // SAFETY: the pointer is to this thread's errno.
    unsafe {
        *libc::__errno_location() = number;
    }
}

/// Returns whether this is a request of iommufd or VFIO: their type is `;`, and
/// none has a size or direction.
const fn is_simulated(request: c_ulong) -> bool {
    request & 0xffff_ff00 == 0x3b00
}

/// Calls `function` with the simulated host, unless this thread is in it.
fn with_host<R>(function: impl FnOnce(&mut Host, &mut OwnMemory) -> R) -> Option<R> {
    if INSIDE.replace(true) {
        return None;
    }
    let errno = get_errno();
    let result = simulation().map(|simulation| {
        let mut state = simulation
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (host, memory) = &mut *state;
        host.enter();
        let value = function(host, memory);
        host.leave();
        drop(state);
        value
    });
    set_errno(errno);
    INSIDE.set(false);
    result
}

/// Calls `function` if `fd` is simulated. Any other call does not wait for those in progress.
fn simulated<R>(
    fd: RawFd,
    function: impl FnOnce(&mut Host, &mut OwnMemory, &File) -> R,
) -> Option<R> {
    if INSIDE.replace(true) {
        return None;
    }
    let errno = get_errno();
    let opened_by_test = identify(fd);
    // identifying a descriptor must not change errno
    set_errno(errno);
    INSIDE.set(false);
    if opened_by_test.is_none() && !given::may_be(fd) {
        return None;
    }
    with_host(|host, memory| {
        let file = opened_by_test.or_else(|| host.own_file(fd))?;
        Some(function(host, memory, &file))
    })
    .flatten()
}

/// Returns the C library's convention: errno, and -1.
fn finish(result: Result<c_long>) -> c_long {
    match result {
        Ok(value) => value,
        Err(Errno(number)) => {
            set_errno(number);
            -1
        }
    }
}

/// Lets time pass, as precisely as the kernel can.
fn wait(time: Duration) {
    // SAFETY: sets a number of this thread.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64);
    }
    thread::sleep(time);
}

/// # Safety
///
/// Replaces the C library's function. Its third argument is in the register
/// where a variadic function finds it.
#[no_mangle]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    if is_simulated(request) {
        let begun = simulated(fd, |host, memory, file| {
            host.begin_call(memory, file, request, argument)
        });
        let begun = begun.flatten();
        if let Some(begun) = &begun {
            wait(begun.latency);
        }
        let result = simulated(fd, |host, memory, file| {
            if let Some(begun) = &begun {
                host.end_call(begun);
            }
            host.ioctl(memory, file, fd, request, argument, &identify)
        });
        if let Some(result) = result {
            return finish(result.map(c_long::from)) as c_int;
        }
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int }
}

/// # Safety
///
/// `buffer` has room for `count` bytes.
unsafe fn read_at(fd: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize {
    let result = simulated(fd, |host, _, file| {
        // SAFETY: promised by the caller.
        let bytes = unsafe { slice::from_raw_parts_mut(buffer.cast(), count) };
        host.pread(file, fd, bytes, offset as u64)
    });
    match result {
        Some(result) => finish(result.map(|done| done as c_long)) as isize,
        // SAFETY: the caller's arguments.
        None => unsafe { libc::syscall(libc::SYS_pread64, fd, buffer, count, offset) as isize },
    }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn pread(fd: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize {
    // SAFETY: promised by the caller.
    unsafe { read_at(fd, buffer, count, offset) }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn pread64(
    fd: c_int,
    buffer: *mut c_void,
    count: usize,
    offset: i64,
) -> isize {
    // SAFETY: promised by the caller.
    unsafe { read_at(fd, buffer, count, offset) }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn __pread64_chk(
    fd: c_int,
    buffer: *mut c_void,
    count: usize,
    offset: i64,
    size: usize,
) -> isize {
    if count > size {
        std::process::abort();
    }
    // SAFETY: promised by the caller.
    unsafe { read_at(fd, buffer, count, offset) }
}

/// # Safety
///
/// `buffer` has `count` bytes.
unsafe fn write_at(fd: c_int, buffer: *const c_void, count: usize, offset: i64) -> isize {
    let result = simulated(fd, |host, _, file| {
        // SAFETY: promised by the caller.
        let bytes = unsafe { slice::from_raw_parts(buffer.cast(), count) };
        host.pwrite(file, fd, bytes, offset as u64)
    });
    match result {
        Some(result) => finish(result.map(|done| done as c_long)) as isize,
        // SAFETY: the caller's arguments.
        None => unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, count, offset) as isize },
    }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn pwrite(
    fd: c_int,
    buffer: *const c_void,
    count: usize,
    offset: i64,
) -> isize {
    // SAFETY: promised by the caller.
    unsafe { write_at(fd, buffer, count, offset) }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    buffer: *const c_void,
    count: usize,
    offset: i64,
) -> isize {
    // SAFETY: promised by the caller.
    unsafe { write_at(fd, buffer, count, offset) }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn read(fd: c_int, buffer: *mut c_void, count: usize) -> isize {
    let answer = if given::may_be(fd) {
        with_host(|host, _| {
            let file = host.veventq(fd)?;
            Some(host.read_veventq(&file, fd))
        })
    } else {
        None
    };
    match answer.flatten() {
        Some(Err(errno)) => return finish(Err(errno)) as isize,
        Some(Ok(false)) => return 0,
        Some(Ok(true)) | None => {}
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_read, fd, buffer, count) as isize }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn ppoll(
    files: *mut libc::pollfd,
    count: libc::nfds_t,
    timeout: *const libc::timespec,
    mask: *const libc::sigset_t,
) -> c_int {
    /// Bytes of a signal mask in the kernel.
    const MASK: usize = 8;

    if !files.is_null() {
        // SAFETY: promised by the caller.
        let polled = unsafe { slice::from_raw_parts(files, count as usize) };
        let mut given = polled.iter().filter(|entry| given::may_be(entry.fd));
        if given.next().is_some() {
            with_host(|host, _| polled.iter().for_each(|entry| host.poll(entry.fd)));
        }
    }
    // SAFETY: the caller's pointers. The kernel writes the time that is left.
    unsafe {
        let mut copy = timeout.as_ref().copied();
        let left = copy.as_mut().map_or(std::ptr::null_mut(), |copy| copy);
        libc::syscall(libc::SYS_ppoll, files, count, left, mask, MASK) as c_int
    }
}

/// # Safety
///
/// The arguments of the C library's function.
unsafe fn map(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // most mappings are of no file, among them those of allocators
    if fd >= 0 && flags & libc::MAP_ANONYMOUS == 0 {
        let checked = simulated(fd, |host, _, file| {
            host.mmap(file, fd, length as u64, protection, flags, offset as u64)
        });
        if let Some(Err(Errno(number))) = checked {
            set_errno(number);
            return libc::MAP_FAILED;
        }
    }
    // SAFETY: the caller's arguments.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            address,
            length,
            protection,
            flags,
            fd,
            offset,
        )
    };
    result as *mut c_void
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: promised by the caller.
    unsafe { map(address, length, protection, flags, fd, offset) }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: promised by the caller.
    unsafe { map(address, length, protection, flags, fd, offset) }
}

/// # Safety
///
/// Replaces the C library's function.
#[no_mangle]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    simulated(fd, |host, _, file| host.close(file, fd));
    // SAFETY: the caller's argument.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}
