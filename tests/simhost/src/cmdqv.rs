// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization (Tegra241): the Virtual Interfaces (VINTFs) of an SMMU,
//! and the pages of their queues.
//!
//! A page is a part of the iommufd's memfd, so that QEMU's mapping of it needs
//! no help of the library, and a test can map the same page and act as the
//! hardware. The library itself executes nothing: it does what Linux's driver
//! does to a page, when a VINTF or a queue comes or goes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::RawFd, unix::fs::FileExt},
};

use crate::{
    errno::{Errno, Result},
    file::IOMMUFD_PREFIX,
    stored::stored_struct,
    uapi,
};

/// Bytes of the page of a VINTF.
pub const PAGE: u64 = 0x1_0000;
/// Offset of the first page in the iommufd.
pub const FIRST_PAGE: u64 = 0x1000;
/// Bytes of the registers of a queue in the page.
pub const SLOT: u64 = 0x80;
/// The bits of a guest's `StreamID` that the hardware can match.
pub const STREAM_ID_BITS: u32 = 20;

/// The CMDQV of an SMMU as its driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cmdqv {
    /// VINTFs for virtual machines
    pub vintfs: u32,
    /// log2 of the queues of a VINTF
    pub vcmdqs: u8,
    /// log2 of the streams of a VINTF
    pub sids: u8,
    /// Version of the hardware
    pub version: u8,
    /// The type that iommufd reports for it
    pub kind: u32,
    /// The length that iommufd reports for the page of a VINTF
    pub page: u64,
}

impl Default for Cmdqv {
    fn default() -> Self {
        Self {
            vintfs: 3,
            vcmdqs: 1,
            sids: 4,
            version: 1,
            kind: uapi::HW_INFO_TEGRA241_CMDQV,
            page: PAGE,
        }
    }
}

impl Cmdqv {
    /// Returns the CMDQV of a text such as `vintfs:3,vcmdqs:1`. What it does
    /// not name is as in [`default`](Self::default).
    pub fn parse(text: &str) -> Option<Self> {
        let mut cmdqv = Self::default();
        for field in text.split(',') {
            let (key, value) = field.split_once(':')?;
            match key {
                "vintfs" => cmdqv.vintfs = value.parse().ok()?,
                "vcmdqs" => cmdqv.vcmdqs = value.parse().ok()?,
                "sids" => cmdqv.sids = value.parse().ok()?,
                "version" => cmdqv.version = value.parse().ok()?,
                "type" => cmdqv.kind = value.parse().ok()?,
                "page" => cmdqv.page = value.parse().ok()?,
                _ => return None,
            }
        }
        (cmdqv.vcmdqs <= 7 && cmdqv.sids <= 4).then_some(cmdqv)
    }

    /// Returns `iommu_hw_info_tegra241_cmdqv`.
    pub const fn hw_info(self) -> [u8; 8] {
        [0, 0, 0, 0, self.version, self.vcmdqs, self.sids, 0]
    }
}

/// A VINTF that a vIOMMU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vintf {
    /// Its number in the hardware; the host's own is 0
    pub number: u32,
    /// Where its page is in the iommufd
    pub offset: u64,
    /// How many queues it has
    pub queues: u32,
    /// Bytes of a queue at most
    pub queue_bytes: u64,
    /// How many streams it can match
    pub streams: usize,
}

stored_struct!(Vintf {
    number,
    offset,
    queues,
    queue_bytes,
    streams
});

/// Returns the lowest of `start`, `start + step`, .. that is not taken.
pub fn lowest_free(start: u64, step: u64, taken: &[u64]) -> u64 {
    let mut value = start;
    while taken.contains(&value) {
        value += step;
    }
    value
}

/// The file that has the pages of an iommufd.
pub(crate) struct Pages(File);

impl Pages {
    /// Opens the file of a descriptor.
    pub(crate) fn of(fd: RawFd) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{fd}");
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self(file))
    }

    /// Makes the page at `offset` exist, with zeroes.
    pub(crate) fn create(&self, offset: u64) -> io::Result<()> {
        if self.0.metadata()?.len() < offset + PAGE {
            self.0.set_len(offset + PAGE)?;
        }
        self.0.write_all_at(&[0; PAGE as usize], offset)
    }

    /// Sets the registers of a queue to 0, as the driver does when it maps the
    /// queue to the VINTF, and as the hardware reads them when there is none.
    pub(crate) fn clear_slot(&self, vintf: Vintf, index: u32) -> io::Result<()> {
        let at = vintf.offset + SLOT * u64::from(index);
        self.0.write_all_at(&[0; SLOT as usize], at)
    }
}

/// Checks the arguments of an `mmap` of an iommufd. `pages` are the offsets of
/// the VINTFs.
///
/// # Errors
///
/// `EINVAL`: the mapping is private; `EPERM`: it is executable; `ENXIO`: it is
/// not exactly one page.
pub(crate) fn check_mmap(
    pages: &[u64],
    length: u64,
    protection: i32,
    flags: i32,
    offset: u64,
) -> Result<()> {
    if flags & libc::MAP_TYPE == libc::MAP_PRIVATE {
        return Err(Errno::EINVAL);
    }
    if protection & libc::PROT_EXEC != 0 {
        return Err(Errno::EPERM);
    }
    if length != PAGE || !pages.contains(&offset) {
        return Err(Errno::ENXIO);
    }
    Ok(())
}

/// Returns whether this process has mapped the page at `offset` of an iommufd.
/// In Linux each mapping holds the vIOMMU.
pub(crate) fn is_mapped(iommufd: &str, offset: u64) -> bool {
    fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps_have(&maps, iommufd, offset))
}

fn maps_have(maps: &str, iommufd: &str, offset: u64) -> bool {
    let file = format!("/memfd:{IOMMUFD_PREFIX}{iommufd}");
    let page = offset..offset + PAGE;
    maps.lines().any(|line| {
        // addresses, permissions, offset, device, inode, path
        let mut words = line.split_whitespace();
        let start = words.nth(2).and_then(|at| u64::from_str_radix(at, 16).ok());
        start.is_some_and(|start| page.contains(&start)) && words.nth(2) == Some(&file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmdqv_text_overrides_defaults() {
        let cmdqv = Cmdqv::parse("vintfs:1,sids:3").expect("a good text");
        let expected = Cmdqv {
            vintfs: 1,
            sids: 3,
            ..Cmdqv::default()
        };
        assert_eq!(cmdqv, expected);
        assert_eq!(cmdqv.hw_info(), [0, 0, 0, 0, 1, 1, 3, 0]);
        for bad in [
            "",
            "vintfs",
            "vintfs:many",
            "vcmdqs:8",
            "sids:5",
            "queues:1",
        ] {
            assert_eq!(Cmdqv::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn mapped_page_is_found_by_file_and_offset() {
        let maps = "7f0-7f1 rw-s 00001000 00:01 77 /memfd:simhost-iommufd-a (deleted)\n\
                    7f2-7f3 rw-p 00011000 00:00 0 [heap]\n";
        assert!(maps_have(maps, "a", 0x1000));
        assert!(!maps_have(maps, "a", 0x1_1000));
        assert!(!maps_have(maps, "b", 0x1000));
        assert!(!maps_have("", "a", 0x1000));
    }

    #[test]
    fn mmap_of_anything_but_a_page_is_refused() {
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        let shared = libc::MAP_SHARED;
        let check = |length, protection, flags, offset| {
            check_mmap(&[0x1000, 0x1_1000], length, protection, flags, offset)
        };
        assert_eq!(check(PAGE, read_write, shared, 0x1000), Ok(()));
        assert_eq!(check(PAGE, read_write, shared, 0x1_1000), Ok(()));
        for (length, offset) in [(4096, 0x1000), (PAGE, 0), (PAGE, 0x2_1000)] {
            let result = check(length, read_write, shared, offset);
            assert_eq!(result, Err(Errno::ENXIO), "{length:#x} at {offset:#x}");
        }
        let executable = check(PAGE, libc::PROT_EXEC, shared, 0x1000);
        assert_eq!(executable, Err(Errno::EPERM));
        let private = check(PAGE, read_write, libc::MAP_PRIVATE, 0x1000);
        assert_eq!(private, Err(Errno::EINVAL));
    }
}
