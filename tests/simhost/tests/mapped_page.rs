// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A mapping of a VINTF's page holds the vIOMMU, as in Linux.

use std::{
    cell::Cell,
    env, fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
    process, ptr,
};

use smmuv3_simhost::{
    errno::{Errno, Result},
    file::{identify, File},
    host::Host,
    log::Log,
    memory::{Memory, OwnMemory},
    script::Script,
};

const BIND: u64 = 0x3b76;
const DESTROY: u64 = 0x3b80;
const IOAS_ALLOC: u64 = 0x3b81;
const HWPT_ALLOC: u64 = 0x3b89;
const VIOMMU_ALLOC: u64 = 0x3b90;

fn memfd(name: &str) -> OwnedFd {
    let name = std::ffi::CString::new(name).expect("a name without NUL");
    // SAFETY: a valid string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A process with an iommufd and the device "d0".
struct Process {
    host: Host,
    memory: OwnMemory,
    iommufd: OwnedFd,
    device: OwnedFd,
    directory: PathBuf,
}

impl Process {
    fn new() -> Self {
        let directory = env::temp_dir().join(format!("simhost-mapped-{}", process::id()));
        fs::create_dir(&directory).expect("a directory");
        let mut script = Script::default();
        for line in ["smmu a cmdqv=vintfs:1", "device d0 smmu=a sid=0x70"] {
            script.apply(line).expect("a good line");
        }
        let log = Log::open(&directory.join("log")).expect("a log");
        Self {
            host: Host::new(&directory, script, log),
            memory: OwnMemory::open().expect("/proc"),
            iommufd: memfd("simhost-iommufd-i"),
            device: memfd("simhost-device-d0"),
            directory,
        }
    }

    /// Makes an ioctl with a struct of 32-bit words, to which the size is
    /// prepended. Returns the struct.
    fn ioctl(&mut self, fd: RawFd, request: u64, words: &[u32]) -> Result<Vec<u32>> {
        let size = 4 * (1 + words.len() as u32);
        let mut argument = [&[size], words].concat();
        let address = argument.as_mut_ptr() as u64;
        let file: File = identify(fd).expect("a simulated file");
        self.host
            .ioctl(&mut self.memory, &file, fd, request, address, &identify)?;
        let mut bytes = vec![0; size as usize];
        self.memory.read(address, &mut bytes)?;
        let word = |of: &[u8]| u32::from_ne_bytes([of[0], of[1], of[2], of[3]]);
        Ok(bytes.chunks_exact(4).map(word).collect())
    }

    fn destroy(&mut self, id: u32) -> Result<()> {
        let fd = self.iommufd.as_raw_fd();
        self.ioctl(fd, DESTROY, &[id]).map(|_| ())
    }
}

#[test]
fn viommu_is_busy_while_its_page_is_mapped() {
    let mut p = Process::new();
    let (iommufd, cdev) = (p.iommufd.as_raw_fd(), p.device.as_raw_fd());
    let bound = p.ioctl(cdev, BIND, &[0, iommufd as u32, 0]);
    let device = bound.expect("bound")[3];
    let ioas = p.ioctl(iommufd, IOAS_ALLOC, &[0, 0]).expect("allocated")[2];
    let nest_parent = [1, device, ioas, 0, 0, 0, 0, 0, 0, 0, 0];
    let stage2 = p.ioctl(iommufd, HWPT_ALLOC, &nest_parent).expect("nesting")[4];
    let data = [Cell::new(0_u64), Cell::new(0)];
    let at = data.as_ptr() as u64;
    let cmdqv = [0, 2, device, stage2, 0, 16, 0, at as u32, (at >> 32) as u32];
    let viommu = p.ioctl(iommufd, VIOMMU_ALLOC, &cmdqv).expect("a VINTF")[5];
    let [offset, length] = std::hint::black_box(&data).each_ref().map(Cell::get);
    assert_eq!([offset, length], [0x1000, 0x1_0000]);

    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let map = || {
        // SAFETY: a new mapping, anywhere.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length as usize,
                protection,
                libc::MAP_SHARED,
                iommufd,
                offset as i64,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        page
    };
    // each mapping counts, as that of a memory region which QEMU has not freed
    let mappings = [map(), map()];
    for page in mappings {
        assert_eq!(p.destroy(viommu), Err(Errno::EBUSY));
        // SAFETY: the mapping was made above and is not used.
        assert_eq!(unsafe { libc::munmap(page, length as usize) }, 0);
    }
    assert_eq!(p.destroy(viommu), Ok(()));
    fs::remove_dir_all(&p.directory).expect("the directory");
}
