// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated files that file descriptors stand for.

use std::{
    fs,
    os::fd::RawFd,
    path::{Path, PathBuf},
};

/// Name prefix of a memfd that stands for an open /dev/iommu.
pub const IOMMUFD_PREFIX: &str = "simhost-iommufd-";
/// Name prefix of a memfd that stands for the cdev of an assigned device; the
/// rest of the name is the device's name in the script.
pub const DEVICE_PREFIX: &str = "simhost-device-";

/// An open file that is simulated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// An open /dev/iommu: its name
    Iommufd(String),
    /// The cdev of an assigned device: the device's name
    Device(String),
    /// A virtual event queue: the iommufd's name and the object's ID
    Veventq(String, u32),
    /// The data of a device's migration: the device's name
    Migration(String),
}

impl File {
    /// Returns its name in scripts: that of the iommufd for an event queue.
    pub fn name(&self) -> &str {
        match self {
            Self::Iommufd(name)
            | Self::Device(name)
            | Self::Veventq(name, _)
            | Self::Migration(name) => name,
        }
    }
}

/// Returns the file of `fd`, if it is a simulated file that the test has
/// opened.
pub fn identify(fd: RawFd) -> Option<File> {
    let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    from_link(target.to_str()?)
}

/// Returns the file that a link in /proc names, if it is one that the test has opened.
pub(crate) fn from_link(target: &str) -> Option<File> {
    let memfd = target.strip_prefix("/memfd:")?;
    let name = memfd.strip_suffix(" (deleted)").unwrap_or(memfd);
    if let Some(name) = name.strip_prefix(IOMMUFD_PREFIX) {
        return Some(File::Iommufd(name.to_owned()));
    }
    Some(File::Device(name.strip_prefix(DEVICE_PREFIX)?.to_owned()))
}

/// Returns the socket that a test sends the events of a virtual event queue to.
pub fn veventq_path(directory: &Path, iommufd: &str, id: u32) -> PathBuf {
    directory.join(format!("veventq-{iommufd}-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_kind_comes_from_its_name() {
        let of = from_link;
        assert_eq!(
            of("/memfd:simhost-iommufd-a (deleted)"),
            Some(File::Iommufd("a".into()))
        );
        assert_eq!(
            of("/memfd:simhost-device-disk-1 (deleted)"),
            Some(File::Device("disk-1".into()))
        );
        for other in ["/memfd:other (deleted)", "/simhost-iommufd-a", "socket:[1]"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
