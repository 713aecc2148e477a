// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update of QEMU (CPR, checkpoint and restart).
//!
//! A new QEMU gets the open files of the old one, by name, before it makes its devices, and their
//! state at the end, as after a migration. In between the guest runs in the old one.
//!
//! ```no_run
//! use qemu_ext::{cpr::FileKey, event_file::EventFile};
//!
//! fn take_over(path: &str) -> Option<EventFile> {
//!     let file = EventFile::inherited(FileKey::new(path, 1)?)?;
//!     Some(file)
//! }
//! ```

use std::{
    ffi::CString,
    fs::File,
    os::fd::{AsRawFd, FromRawFd},
    ptr,
};

use crate::bindings;

/// Returns whether this QEMU was started to take over the guest of another one, and has not yet.
/// Until then the guest uses the files and devices of the other one.
pub fn is_incoming() -> bool {
    // SAFETY: reads a variable of the main thread
    unsafe { bindings::cpr_is_incoming() }
}

/// Returns whether the state that is being saved is for a live update: the mode of migration is one
/// of these, and a migration has stopped the machine. The mode is also set while a snapshot is
/// saved, if the user has not set it back.
pub fn is_outgoing() -> bool {
    // SAFETY: reads a parameter of the migration, and the state of the machine; the argument is not
    // used
    unsafe {
        bindings::cpr_incoming_needed(ptr::null_mut())
            && bindings::runstate_check(bindings::RUN_STATE_FINISH_MIGRATE)
    }
}

/// The name of a file in the old QEMU and in the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileKey {
    name: CString,
    id: i32,
}

impl FileKey {
    /// Returns the key of file `id` of what `name` names, which must be the same in both QEMUs.
    /// `None` if no file can have it.
    pub fn new(name: &str, id: u32) -> Option<Self> {
        Some(Self {
            name: CString::new(name).ok()?,
            id: i32::try_from(id).ok()?,
        })
    }
}

/// The entry of an open file in QEMU's list of those that a new QEMU gets.
#[derive(Debug)]
pub(crate) struct Kept(FileKey);

impl Kept {
    /// Adds `file`, which must stay open until the value is dropped.
    pub(crate) fn new(key: FileKey, file: &File) -> Self {
        // SAFETY: the name is copied; under the BQL, as every change of the list
        unsafe { bindings::cpr_save_fd(key.name.as_ptr(), key.id, file.as_raw_fd()) }
        Self(key)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: a valid name
        unsafe { bindings::cpr_delete_fd(self.0.name.as_ptr(), self.0.id) }
    }
}

/// Takes a file that came from the old QEMU out of the list.
pub(crate) fn take(key: &FileKey) -> Option<File> {
    // SAFETY: a valid name. The entry is removed, so that nothing else closes its file.
    let fd = unsafe {
        let fd = bindings::cpr_find_fd(key.name.as_ptr(), key.id);
        if fd < 0 {
            return None;
        }
        bindings::cpr_delete_fd(key.name.as_ptr(), key.id);
        fd
    };
    // SAFETY: an open file whose owner was the list
    Some(unsafe { File::from_raw_fd(fd) })
}
