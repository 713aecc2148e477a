// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that is shared: objects belong to files, and files to all that have them open.

use std::{
    env, fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process,
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
const VEVENTQ_ALLOC: u64 = 0x3b93;

fn memfd(name: &str) -> OwnedFd {
    let name = std::ffi::CString::new(name).expect("a name without NUL");
    // SAFETY: a valid string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The library in one process. All are in this one here, so that they have one list of open files.
struct Process {
    host: Host,
    memory: OwnMemory,
}

impl Process {
    fn on(directory: &Path) -> Self {
        let log = Log::open(&directory.join("log")).expect("a log");
        let script = Script::at(&directory.join("script"));
        let mut host = Host::new(directory, script, log);
        host.begin();
        Self {
            host,
            memory: OwnMemory::open().expect("/proc"),
        }
    }

    fn with<R>(&mut self, function: impl FnOnce(&mut Host, &mut OwnMemory) -> R) -> R {
        self.host.enter();
        let result = function(&mut self.host, &mut self.memory);
        self.host.leave();
        result
    }

    /// Makes an ioctl with a struct of 32-bit words, to which the size is
    /// prepended. Returns the struct.
    fn ioctl(&mut self, fd: RawFd, request: u64, words: &[u32]) -> Result<Vec<u32>> {
        let size = 4 * (1 + words.len() as u32);
        let mut argument = [&[size], words].concat();
        let address = argument.as_mut_ptr() as u64;
        let file: File = identify(fd).expect("a simulated file");
        self.with(|host, memory| {
            host.ioctl(memory, &file, fd, request, address, &identify)?;
            let mut bytes = vec![0; size as usize];
            memory.read(address, &mut bytes)?;
            let word = |of: &[u8]| u32::from_ne_bytes([of[0], of[1], of[2], of[3]]);
            Ok(bytes.chunks_exact(4).map(word).collect())
        })
    }

    fn destroy(&mut self, iommufd: &OwnedFd, id: u32) -> Result<()> {
        let result = self.ioctl(iommufd.as_raw_fd(), DESTROY, &[id]);
        result.map(|_| ())
    }

    /// Closes a descriptor.
    fn close(&mut self, fd: OwnedFd) {
        let number = fd.as_raw_fd();
        self.with(|host, _| {
            let file = identify(number).or_else(|| host.veventq(number));
            host.close(&file.expect("a simulated file"), number);
        });
        drop(fd);
    }
}

struct Directory(PathBuf);

impl Directory {
    fn new(test: &str, script: &str) -> Self {
        let path = env::temp_dir().join(format!("simhost-{test}-{}", process::id()));
        fs::create_dir(&path).expect("a directory");
        fs::write(path.join("script"), script).expect("the script");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Binds the device, and allocates a vIOMMU. Returns the IDs of device and vIOMMU.
fn viommu(process: &mut Process, iommufd: &OwnedFd, cdev: &OwnedFd) -> [u32; 2] {
    let fd = iommufd.as_raw_fd();
    let bound = process.ioctl(cdev.as_raw_fd(), BIND, &[0, fd as u32, 0]);
    let device = bound.expect("bound")[3];
    let ioas = process.ioctl(fd, IOAS_ALLOC, &[0, 0]).expect("allocated")[2];
    let nest_parent = [1, device, ioas, 0, 0, 0, 0, 0, 0, 0, 0];
    let hwpt = process.ioctl(fd, HWPT_ALLOC, &nest_parent);
    let stage2 = hwpt.expect("nesting")[4];
    let words = [0, 1, device, stage2, 0, 0, 0, 0, 0];
    let viommu = process.ioctl(fd, VIOMMU_ALLOC, &words).expect("allocated")[5];
    [device, viommu]
}

#[test]
fn objects_are_seen_and_destroyed_by_all_processes() {
    let script = "shared\nsmmu a\ndevice d0 smmu=a sid=0x70\nfail DESTROY errno=EIO count=1\n";
    let directory = Directory::new("objects", script);
    let [mut first, mut second] = [(); 2].map(|()| Process::on(&directory.0));
    let iommufd = memfd("simhost-iommufd-shared-objects");
    let cdev = memfd("simhost-device-d0");
    let [device, viommu] = viommu(&mut first, &iommufd, &cdev);
    assert_eq!(second.destroy(&iommufd, device), Err(Errno::EIO));
    // the failure was one of the host
    assert_eq!(first.destroy(&iommufd, device), Err(Errno::EBUSY));
    assert_eq!(second.destroy(&iommufd, viommu), Ok(()));
    assert_eq!(first.destroy(&iommufd, viommu), Err(Errno::ENOENT));
    let log = fs::read_to_string(directory.0.join("log")).expect("the log");
    assert!(!log.contains("trouble"), "{log}");
    let by = format!(" by={} ", process::id());
    let calls = log.lines().filter(|line| line.starts_with("call"));
    assert!(
        calls.clone().count() == 8 && calls.clone().all(|line| line.contains(&by)),
        "{log}"
    );
}

#[test]
fn last_descriptor_of_all_processes_closes_file() {
    let directory = Directory::new("files", "shared\nsmmu a\ndevice d1 smmu=a sid=0x70\n");
    let [mut first, mut second] = [(); 2].map(|()| Process::on(&directory.0));
    let iommufd = memfd("simhost-iommufd-shared-files");
    let cdev = memfd("simhost-device-d1");
    let [device, viommu] = viommu(&mut first, &iommufd, &cdev);
    let words = [0, viommu, 1, 16, 0, 0, 0];
    let answer = first.ioctl(iommufd.as_raw_fd(), VEVENTQ_ALLOC, &words);
    let answer = answer.expect("a vEVENTQ");
    // SAFETY: a descriptor that nothing else owns.
    let queue = unsafe { OwnedFd::from_raw_fd(answer[6] as RawFd) };
    // the other process gets it before it has made any call with it
    let passed = [&queue, &cdev].map(|fd| fd.try_clone().expect("a descriptor"));
    first.close(queue);
    assert_eq!(first.destroy(&iommufd, answer[5]), Err(Errno::EBUSY));
    first.close(cdev);
    assert_eq!(first.destroy(&iommufd, device), Err(Errno::EBUSY));
    let [passed_queue, passed_cdev] = passed;
    second.close(passed_queue);
    assert_eq!(first.destroy(&iommufd, answer[5]), Ok(()));
    second.close(passed_cdev);
    assert_eq!(first.destroy(&iommufd, device), Err(Errno::ENOENT));
    assert_eq!(first.destroy(&iommufd, viommu), Ok(()));
}
