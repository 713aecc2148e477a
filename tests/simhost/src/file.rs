// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a file descriptor stands for.

use std::{
    fs,
    os::fd::RawFd,
    path::{Path, PathBuf},
};

/// How the name of a memfd begins that stands for an open /dev/iommu.
pub const IOMMUFD_PREFIX: &str = "simhost-iommufd-";
/// How the name of a memfd begins that stands for the cdev of an assigned
/// device. The rest is the device's name in the script.
pub const DEVICE_PREFIX: &str = "simhost-device-";
/// How the name of the FIFO of a virtual event queue begins.
pub const VEVENTQ_PREFIX: &str = "veventq-";

/// An open file that is simulated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// An open /dev/iommu: its name
    Iommufd(String),
    /// The cdev of an assigned device: the device's name
    Device(String),
    /// A virtual event queue: the iommufd's name and the object's ID
    Veventq(String, u32),
}

/// What `fd` stands for, if it is simulated in this `directory`.
pub fn identify(fd: RawFd, directory: &Path) -> Option<File> {
    let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    from_link(&target, directory)
}

fn from_link(target: &Path, directory: &Path) -> Option<File> {
    let text = target.to_str()?;
    if let Some(memfd) = text.strip_prefix("/memfd:") {
        let name = memfd.strip_suffix(" (deleted)").unwrap_or(memfd);
        if let Some(name) = name.strip_prefix(IOMMUFD_PREFIX) {
            return Some(File::Iommufd(name.to_owned()));
        }
        return Some(File::Device(name.strip_prefix(DEVICE_PREFIX)?.to_owned()));
    }
    let name = target.strip_prefix(directory).ok()?.to_str()?;
    let (iommufd, id) = name.strip_prefix(VEVENTQ_PREFIX)?.rsplit_once('-')?;
    Some(File::Veventq(iommufd.to_owned(), id.parse().ok()?))
}

/// The FIFO of a virtual event queue.
pub fn veventq_path(directory: &Path, iommufd: &str, id: u32) -> PathBuf {
    directory.join(format!("{VEVENTQ_PREFIX}{iommufd}-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_what_the_kernel_calls_them() {
        let directory = Path::new("/dir");
        let of = |link: &str| from_link(Path::new(link), directory);
        assert_eq!(
            of("/memfd:simhost-iommufd-a (deleted)"),
            Some(File::Iommufd("a".into()))
        );
        assert_eq!(
            of("/memfd:simhost-device-disk-1 (deleted)"),
            Some(File::Device("disk-1".into()))
        );
        assert_eq!(
            of("/dir/veventq-a-b-7"),
            Some(File::Veventq("a-b".into(), 7))
        );
        let path = veventq_path(directory, "a-b", 7);
        assert_eq!(path, Path::new("/dir/veventq-a-b-7"));
        for other in [
            "/memfd:other (deleted)",
            "/dir/log",
            "socket:[1]",
            "/veventq-a-7",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
