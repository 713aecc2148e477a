// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Files of the kernel that the main loop watches.
//!
//! ```no_run
//! use qemu_ext::event_file::EventFile;
//! use qom::prelude::*;
//! use util::Result;
//!
//! fn watch<T: IsA<Object>>(device: &T, file: EventFile) -> Result<EventFile> {
//!     Ok(file.watch(device, &|_: &T| println!("the kernel has events"))?)
//! }
//! ```

use std::{
    ffi::c_void,
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use common::callbacks::FnCall;
use qom::prelude::*;

use crate::cpr::{self, FileKey, Kept};

/// A file that events are read from.
///
/// The main loop polls an epoll file that it is in, and not the file itself. A poll keeps
/// its file open for as long as it lasts, so another thread could close the file, but the
/// kernel could not free what it belongs to. An epoll file keeps nothing open.
#[derive(Debug)]
pub struct EventFile {
    /// Dropped first, because QEMU's list must have open files only
    kept: Option<Kept>,
    file: File,
    watch: Option<Watch>,
}

/// The main loop's part. Its owner is the object that is called back.
#[derive(Debug)]
struct Watch {
    poll: OwnedFd,
    _owner: Owned<Object>,
}

impl EventFile {
    /// Returns a file that nothing watches.
    pub(crate) const fn new(file: File) -> Self {
        Self {
            kept: None,
            file,
            watch: None,
        }
    }

    /// Returns the file that the QEMU before this one has had as `key`, if it has come from there
    /// and was not taken yet. It is kept for the next one, too. Nothing watches it.
    pub fn inherited(key: FileKey) -> Option<Self> {
        let file = cpr::take(&key)?;
        Some(Self::new(file).kept_as(key))
    }

    /// Has a new QEMU, which takes over the guest, find the file as `key`.
    #[must_use]
    pub fn kept_as(mut self, key: FileKey) -> Self {
        // first, because the entry of the same key would go with the old value
        self.kept = None;
        self.kept = Some(Kept::new(key, &self.file));
        self
    }

    /// Has the main loop run `F` on `owner` while there is something to read. Reading does
    /// not block any more.
    ///
    /// The value has a reference to `owner` until it is dropped. An owner that keeps it is
    /// not freed before.
    pub fn watch<T, F>(mut self, owner: &T, _callback: &F) -> io::Result<Self>
    where
        T: IsA<Object>,
        F: for<'a> FnCall<(&'a T,)>,
    {
        unsafe extern "C" fn call<T, F: for<'a> FnCall<(&'a T,)>>(opaque: *mut c_void) {
            // SAFETY: the owner that `watch` was called with; the value has a reference to it,
            // and removes the handler before that goes
            F::call((unsafe { &*opaque.cast::<T>() },));
        }
        const { assert!(F::IS_SOME) };
        let fd = self.file.as_raw_fd();
        // SAFETY: fcntl on an open file, and the descriptor of a new one, which nothing else
        // owns
        let poll = unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
                return Err(io::Error::last_os_error());
            }
            let poll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if poll < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(poll)
        };
        control(&poll, libc::EPOLL_CTL_ADD, fd)?;
        let pointer: *const T = owner;
        // SAFETY: the epoll file is open until `drop`, which removes the handler
        unsafe {
            util::bindings::qemu_set_fd_handler(
                poll.as_raw_fd(),
                Some(call::<T, F>),
                None,
                pointer.cast_mut().cast(),
            );
        }
        self.watch = Some(Watch {
            poll,
            // SAFETY: a valid object
            _owner: unsafe { Owned::from(owner.upcast::<Object>()) },
        });
        Ok(self)
    }

    /// Has the main loop not poll the file until [`Self::resume`].
    pub fn pause(&self) {
        if let Some(watch) = &self.watch {
            // if it fails the file is not in `poll`, as intended
            let _ = control(&watch.poll, libc::EPOLL_CTL_DEL, self.file.as_raw_fd());
        }
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) -> io::Result<()> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        match control(&watch.poll, libc::EPOLL_CTL_ADD, self.file.as_raw_fd()) {
            // it was not paused
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// Returns whether the file is readable now, or cannot be asked.
    ///
    /// Polls the epoll file, for the reason given above.
    pub fn is_readable(&self) -> bool {
        let Some(watch) = &self.watch else {
            return true;
        };
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: an open epoll file and room for one event; with a timeout of 0 the call does
        // not wait
        let ready = unsafe { libc::epoll_wait(watch.poll.as_raw_fd(), &mut event, 1, 0) };
        ready != 0
    }

    /// Reads whole entries, as many as fit and are there.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// Adds a file to those that `poll` waits for, or removes it.
fn control(poll: &OwnedFd, operation: i32, fd: RawFd) -> io::Result<()> {
    #[allow(clippy::cast_sign_loss)]
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    // SAFETY: open files and a valid event
    if unsafe { libc::epoll_ctl(poll.as_raw_fd(), operation, fd, &mut event) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

impl Drop for EventFile {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            // SAFETY: removes the handler of a file that is still open
            unsafe {
                util::bindings::qemu_set_fd_handler(
                    watch.poll.as_raw_fd(),
                    None,
                    None,
                    ptr::null_mut(),
                );
            }
            // if it fails the file is not in `poll`, as intended
            let _ = control(&watch.poll, libc::EPOLL_CTL_DEL, self.file.as_raw_fd());
        }
    }
}
