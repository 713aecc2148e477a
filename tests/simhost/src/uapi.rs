// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Numbers and layouts of the user-space API of iommufd and VFIO.

use crate::{
    errno::{Errno, Result},
    memory::Memory,
};

/// An ioctl of iommufd: its number, its name in script and log, the size of its
/// argument, and the smallest size that a caller may say it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub number: u64,
    pub name: &'static str,
    pub size: usize,
    pub least: usize,
}

macro_rules! commands {
    ($($name:ident = $number:literal, $size:literal, $least:literal;)*) => {
        $(pub const $name: Command = Command {
            number: $number,
            name: stringify!($name),
            size: $size,
            least: $least,
        };)*
        pub const IOMMUFD_COMMANDS: &[Command] = &[$($name,)*];
    };
}

commands! {
    DESTROY = 0x3b80, 8, 8;
    IOAS_ALLOC = 0x3b81, 12, 12;
    IOAS_IOVA_RANGES = 0x3b84, 32, 32;
    IOAS_MAP = 0x3b85, 40, 40;
    IOAS_UNMAP = 0x3b86, 24, 24;
    HWPT_ALLOC = 0x3b89, 48, 24;
    GET_HW_INFO = 0x3b8a, 40, 32;
    HWPT_INVALIDATE = 0x3b8d, 32, 32;
    IOAS_MAP_FILE = 0x3b8f, 40, 40;
    VIOMMU_ALLOC = 0x3b90, 40, 24;
    VDEVICE_ALLOC = 0x3b91, 24, 24;
    IOAS_CHANGE_PROCESS = 0x3b92, 8, 8;
    VEVENTQ_ALLOC = 0x3b93, 32, 32;
    HW_QUEUE_ALLOC = 0x3b94, 40, 40;
}

/// `IOMMU_HWPT_ALLOC_NEST_PARENT`
pub const HWPT_NEST_PARENT: u32 = 1 << 0;
/// `IOMMU_HWPT_ALLOC_DIRTY_TRACKING`
pub const HWPT_DIRTY_TRACKING: u32 = 1 << 1;
/// `IOMMU_HWPT_FAULT_ID_VALID`
pub const HWPT_FAULT_ID_VALID: u32 = 1 << 2;
/// `IOMMU_HWPT_ALLOC_PASID`
pub const HWPT_PASID: u32 = 1 << 3;
/// `IOMMU_HWPT_DATA_NONE`
pub const HWPT_DATA_NONE: u32 = 0;
/// `IOMMU_HWPT_DATA_ARM_SMMUV3`
pub const HWPT_DATA_ARM_SMMUV3: u32 = 2;
/// `IOMMU_HW_INFO_TYPE_ARM_SMMUV3`
pub const HW_INFO_ARM_SMMUV3: u32 = 2;
/// `IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV`
pub const HW_INFO_TEGRA241_CMDQV: u32 = 3;
/// `IOMMU_HW_INFO_FLAG_INPUT_TYPE`
pub const HW_INFO_INPUT_TYPE: u32 = 1 << 0;
/// `IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED`
pub const HW_CAP_ATS_NOT_SUPPORTED: u64 = 1 << 3;
/// `IOMMU_VIOMMU_TYPE_ARM_SMMUV3`, and the same of a virtual event queue
pub const VIOMMU_ARM_SMMUV3: u32 = 1;
/// `IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV`, and the same of a virtual event queue
pub const VIOMMU_TEGRA241_CMDQV: u32 = 2;
/// `IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV`
pub const HW_QUEUE_TEGRA241_CMDQV: u32 = 1;
/// Entries of a virtual event queue at most
pub const VEVENTQ_DEPTH: u32 = 1 << 19;
/// `IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3`
pub const INVALIDATE_ARM_SMMUV3: u32 = 1;
/// `IOMMU_IOAS_MAP_FIXED_IOVA | WRITEABLE | READABLE`
pub const MAP_FLAGS: u32 = 7;
/// `IOMMU_IOAS_MAP_WRITEABLE`
pub const MAP_WRITEABLE: u32 = 1 << 1;

pub const DEVICE_GET_INFO: u64 = 0x3b6b;
pub const DEVICE_GET_REGION_INFO: u64 = 0x3b6c;
pub const DEVICE_GET_IRQ_INFO: u64 = 0x3b6d;
pub const DEVICE_SET_IRQS: u64 = 0x3b6e;
pub const DEVICE_RESET: u64 = 0x3b6f;
pub const DEVICE_FEATURE: u64 = 0x3b75;
/// `VFIO_MIG_GET_PRECOPY_INFO`, of the file of a migration session
pub const MIG_GET_PRECOPY_INFO: u64 = 0x3b79;
pub const DEVICE_BIND_IOMMUFD: u64 = 0x3b76;
pub const DEVICE_ATTACH_IOMMUFD_PT: u64 = 0x3b77;
pub const DEVICE_DETACH_IOMMUFD_PT: u64 = 0x3b78;

/// `VFIO_DEVICE_FEATURE_MASK`
pub const FEATURE_MASK: u32 = 0xffff;
/// `VFIO_DEVICE_FEATURE_GET`
pub const FEATURE_GET: u32 = 1 << 16;
/// `VFIO_DEVICE_FEATURE_SET`
pub const FEATURE_SET: u32 = 1 << 17;
/// `VFIO_DEVICE_FEATURE_PROBE`
pub const FEATURE_PROBE: u32 = 1 << 18;
/// `VFIO_DEVICE_FEATURE_MIGRATION`
pub const FEATURE_MIGRATION: u32 = 1;
/// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`
pub const FEATURE_MIG_DEVICE_STATE: u32 = 2;
/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`
pub const FEATURE_DMA_LOGGING_START: u32 = 6;
/// `VFIO_DEVICE_FEATURE_MIG_DATA_SIZE`
pub const FEATURE_MIG_DATA_SIZE: u32 = 9;
/// `VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2`
pub const FEATURE_MIG_PRECOPY_INFO_V2: u32 = 12;

/// `VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI`
pub const DEVICE_FLAGS: u32 = 0b11;
/// `VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE`
pub const REGION_READ_WRITE: u32 = 0b11;
/// `VFIO_REGION_INFO_FLAG_MMAP`
pub const REGION_MMAP: u32 = 0b100;
/// `VFIO_IRQ_INFO_EVENTFD`
pub const IRQ_EVENTFD: u32 = 1 << 0;

/// The argument of an ioctl: a struct whose first word is its own size.
#[derive(Clone, Debug)]
pub struct Argument {
    address: u64,
    bytes: Vec<u8>,
    /// The size that the caller gave
    theirs: usize,
}

impl Argument {
    /// Copies the argument of an iommufd ioctl in, as the kernel does: a longer
    /// struct must have zeroes where this kernel knows no fields.
    pub fn of_iommufd(memory: &dyn Memory, address: u64, command: &Command) -> Result<Self> {
        let theirs = read_u32(memory, address)? as usize;
        if theirs < command.least {
            return Err(Errno::EINVAL);
        }
        if theirs > 4096 {
            return Err(Errno::E2BIG);
        }
        let mut bytes = vec![0; theirs];
        memory.read(address, &mut bytes)?;
        if bytes.iter().skip(command.size).any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        bytes.resize(command.size, 0);
        Ok(Self {
            address,
            bytes,
            theirs,
        })
    }

    /// Copies the argument of a VFIO ioctl in: `size` bytes, of which the caller
    /// must have `least`.
    pub fn of_vfio(memory: &dyn Memory, address: u64, least: usize, size: usize) -> Result<Self> {
        let theirs = read_u32(memory, address)? as usize;
        if theirs < least {
            return Err(Errno::EINVAL);
        }
        let mut bytes = vec![0; theirs.min(size)];
        memory.read(address, &mut bytes)?;
        bytes.resize(size, 0);
        Ok(Self {
            address,
            bytes,
            theirs,
        })
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[offset..offset + N]);
        array
    }

    /// Returns the 32-bit field at `offset`.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    /// Returns the 64-bit field at `offset`.
    pub fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    /// Sets the 32-bit field at `offset`.
    pub fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// Sets the 64-bit field at `offset`.
    pub fn set_u64(&mut self, offset: usize, value: u64) {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
    }

    /// Copies the struct back, up to the caller's size.
    pub fn respond(&self, memory: &mut dyn Memory) -> Result<()> {
        let length = self.theirs.min(self.bytes.len());
        memory.write(self.address, &self.bytes[..length])
    }
}

/// Returns a 32-bit word of the caller's memory.
pub fn read_u32(memory: &dyn Memory, address: u64) -> Result<u32> {
    let mut word = [0; 4];
    memory.read(address, &mut word)?;
    Ok(u32::from_ne_bytes(word))
}

/// Reads the first two little-endian 64-bit words of each of `count` elements of `length` bytes,
/// in one access to the caller's memory.
pub fn read_array(
    memory: &dyn Memory,
    address: u64,
    length: usize,
    count: usize,
) -> Result<Vec<[u64; 2]>> {
    let mut bytes = vec![0; length * count];
    memory.read(address, &mut bytes)?;
    let words = |element: &[u8]| {
        [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&element[at..at + 8]);
            u64::from_le_bytes(word)
        })
    };
    Ok(bytes.chunks_exact(length).map(words).collect())
}

/// Reads little-endian 64-bit words of the caller's memory.
pub fn read_words<const N: usize>(memory: &dyn Memory, address: u64) -> Result<[u64; N]> {
    let mut words = [0; N];
    for (word, at) in words.iter_mut().zip((address..).step_by(8)) {
        let mut bytes = [0; 8];
        memory.read(at, &mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{errno::Errno, memory::OwnMemory};

    #[test]
    fn array_elements_longer_than_command_are_read() {
        let memory = OwnMemory::open().expect("/proc/self/mem");
        let elements: [[u64; 3]; 2] = [[1, 2, 3], [4, 5, 6]];
        let address = std::hint::black_box(&elements).as_ptr() as u64;
        let read = read_array(&memory, address, 24, 2);
        assert_eq!(read, Ok(vec![[1, 2], [4, 5]]));
        assert_eq!(read_array(&memory, 8, 24, 2), Err(Errno::EFAULT));
    }
}
