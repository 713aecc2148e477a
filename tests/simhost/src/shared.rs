// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that more than one process uses: a QEMU hands its files to another one.
//!
//! Objects belong to files, and these outlive the process that opened them. So the state of the
//! host is in a file of its directory, `state`, and each process holds a lock on it from before
//! a call until its lines are in the log. Which process has which file open is what /proc says;
//! a process that has ended is noticed with the next call of another one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek},
    os::{fd::RawFd, unix::fs::FileExt},
    path::Path,
};

/// The file with the state.
#[derive(Debug)]
pub struct Shared {
    file: File,
    /// Its contents when this process has read or written it last
    known: Vec<u8>,
}

impl Shared {
    /// Opens the state of the host in `directory`, which may be empty.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("state"))?;
        Ok(Self {
            file,
            known: Vec::new(),
        })
    }

    /// Waits until no other process is in a call. Returns the state if another one has changed it.
    pub fn lock(&mut self) -> io::Result<Option<Vec<u8>>> {
        flock::flock(&self.file, libc::LOCK_EX)?;
        let mut bytes = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        if bytes == self.known {
            return Ok(None);
        }
        self.known.clone_from(&bytes);
        Ok(Some(bytes))
    }

    /// Replaces the state, and lets other processes continue.
    pub fn unlock(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        if bytes != self.known {
            self.file.write_all_at(&bytes, 0)?;
            self.file.set_len(bytes.len() as u64)?;
            self.known = bytes;
        }
        flock::flock(&self.file, libc::LOCK_UN)
    }
}

/// Returns the open files of a process: their descriptors, and the targets of their links in
/// /proc. A process that has ended has none.
pub fn open_files(process: u32) -> Vec<(RawFd, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return Vec::new();
    };
    let open = |entry: fs::DirEntry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((fd, target.to_str()?.to_owned()))
    };
    entries.flatten().filter_map(open).collect()
}

/// Returns whether a process has not ended.
pub fn is_alive(process: u32) -> bool {
    // One that has ended, and that its parent does not know of yet, has no open file.
    fs::read_dir(format!("/proc/{process}/fd")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Returns the number of a socket from the target of its link in /proc.
pub fn socket(target: &str) -> Option<u64> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// Returns the number of the socket of this process's descriptor `fd`.
pub fn socket_of(fd: RawFd) -> Option<u64> {
    let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    socket(target.to_str()?)
}

#[allow(unsafe_code)]
mod flock {
    use std::{ffi::c_int, fs::File, io, os::fd::AsRawFd};

    /// Locks or unlocks a file, and waits for a lock.
    pub(super) fn flock(file: &File, operation: c_int) -> io::Result<()> {
        loop {
            // SAFETY: an open file; the call takes no pointers
            if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, os::fd::AsRawFd, os::unix::net::UnixDatagram, process};

    use super::*;

    #[test]
    fn state_of_other_process_is_read_under_lock() {
        let directory = env::temp_dir().join(format!("simhost-shared-{}", process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let [mut first, mut second] =
            [(); 2].map(|()| Shared::open(&directory).expect("the state"));
        assert_eq!(first.lock().expect("free"), None);
        let waiting = std::thread::spawn(move || {
            let seen = second.lock().expect("free after the first");
            second.unlock(vec![4]).expect("held");
            seen
        });
        first.unlock(vec![1, 2, 3]).expect("held");
        let seen = waiting.join().expect("the second");
        assert!([None, Some(vec![1, 2, 3])].contains(&seen), "{seen:?}");
        let _ = first.lock().expect("free");
        first.unlock(vec![5, 6]).expect("held");
        assert_eq!(first.lock().expect("free"), None, "its own");
        fs::remove_dir_all(&directory).expect("the directory");
    }

    #[test]
    fn open_files_of_process_are_found() {
        let socket_file = UnixDatagram::unbound().expect("a socket");
        let fd = socket_file.as_raw_fd();
        let number = socket_of(fd).expect("a socket");
        let files = open_files(process::id());
        let found = files.iter().find(|(open, _)| *open == fd);
        assert_eq!(found.and_then(|(_, target)| socket(target)), Some(number));
        assert!(is_alive(process::id()));
        // beyond the largest number of a process
        assert!(!is_alive(u32::MAX));
        assert_eq!(open_files(u32::MAX), []);
    }
}
