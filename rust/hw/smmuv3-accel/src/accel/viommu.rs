// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The guest's slice of a host SMMU, and the two translations that every stream
//! can be given without one of its own.

use qom::prelude::*;
use smmuv3::invalidation::{EioReport, HostError};
use util::Result;

use super::ffi::{HostDevice, HostInfo, HostObject, IommufdBackend};

/// STE.V, and STE.Config for a stream that bypasses stage 1 (section 5.2).
const STE_VALID: u64 = 1;
const STE_CONFIG_BYPASS: u64 = 0b100 << 1;
/// STE.S1STALLD, in word 1.
const STE1_S1STALLD: u64 = 1 << 27;

/// Two commands of which the host must refuse the second: `TLBI_NSNH_ALL`, which
/// does no harm, and the reserved opcode 0.
const PROBE: [[u64; 2]; 2] = [[0x30, 0], [0, 0]];

/// A vIOMMU. The fields are dropped in this order: children first.
#[derive(Debug)]
pub struct Viommu {
    /// Every transaction is aborted
    pub abort: HostObject,
    /// Stage 2 only
    pub bypass: HostObject,
    /// `IOMMU_VIOMMU_ALLOC`
    pub object: HostObject,
    /// The iommufd that all of it lives in
    pub backend: Owned<IommufdBackend>,
    /// The host's SMMU can stall faulting transactions
    stalls: bool,
}

impl Viommu {
    /// Makes the vIOMMU for the SMMU that `device` is behind.
    pub fn new(device: &HostDevice, info: &HostInfo) -> Result<Self> {
        let object = device.allocate_viommu()?;
        let abort = device.allocate_nested(&object, [STE_VALID, 0])?;
        let bypass = device.allocate_nested(&object, [STE_VALID | STE_CONFIG_BYPASS, 0])?;
        Ok(Self {
            abort,
            bypass,
            object,
            backend: device.backend(),
            stalls: info.features().stall_model() == 0b00,
        })
    }

    /// The guest's STE as the host is to have it.
    ///
    /// The guest is told that nothing stalls (`IDR0.STALL_MODEL`), yet its CD.S
    /// would count on a host that can: a stalled transaction waits for a
    /// `CMD_RESUME` that can never come.
    pub const fn host_ste(&self, ste: [u64; 2]) -> [u64; 2] {
        let stall_disable = if self.stalls { STE1_S1STALLD } else { 0 };
        [ste[0], ste[1] | stall_disable]
    }

    /// Is `device` bound to the iommufd of this vIOMMU?
    pub fn shares_iommufd(&self, device: &HostDevice) -> bool {
        self.backend.as_ptr::<IommufdBackend>() == device.backend().as_ptr::<IommufdBackend>()
    }

    /// Finds out how this kernel reports an illegal command in a batch, by
    /// giving it one. Kernels that validate a batch as a whole point at its
    /// start, others at the offender.
    pub fn probe_eio_report(&self) -> EioReport {
        match self.object.invalidate(&PROBE) {
            Err(HostError {
                errno: libc::EIO,
                entry_num: 1,
            }) => EioReport::Offender,
            _ => EioReport::BlockStart,
        }
    }
}
