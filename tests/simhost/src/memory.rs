// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The caller's memory as the kernel accesses it: addresses may be invalid.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

use crate::errno::{Errno, Result};

/// Memory that a call's pointers point into.
pub trait Memory {
    /// Fills `buffer` from `address` on.
    ///
    /// # Errors
    ///
    /// `EFAULT`
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()>;

    /// Writes `bytes` from `address` on.
    ///
    /// # Errors
    ///
    /// `EFAULT`
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()>;
}

/// The memory of this process, accessed through the kernel: an invalid address
/// is an error.
#[derive(Debug)]
pub struct OwnMemory(File);

impl OwnMemory {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// /proc is not mounted.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/mem")
            .map(Self)
    }
}

impl Memory for OwnMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        self.0
            .read_exact_at(buffer, address)
            .map_err(|_| Errno::EFAULT)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.0
            .write_all_at(bytes, address)
            .map_err(|_| Errno::EFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_user_address_is_efault() {
        let mut memory = OwnMemory::open().expect("/proc/self/mem");
        let cell = std::cell::Cell::new(0x1234_5678_u32);
        let address = cell.as_ptr() as u64;
        let mut bytes = [0; 4];
        memory.read(address, &mut bytes).expect("a good address");
        assert_eq!(u32::from_ne_bytes(bytes), 0x1234_5678);
        memory
            .write(address, &7_u32.to_ne_bytes())
            .expect("a good address");
        assert_eq!(std::hint::black_box(&cell).get(), 7);
        assert_eq!(memory.read(8, &mut bytes), Err(Errno::EFAULT));
        assert_eq!(memory.write(8, &bytes), Err(Errno::EFAULT));
    }
}
