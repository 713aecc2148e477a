// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The stage 2 that a vIOMMU's translations are nested in.
//!
//! The host tags what it caches with the VMID of the stage 2, and a guest's
//! invalidations reach everything with that VMID. Guests name ASIDs for each SMMU on
//! its own, so two SMMUs of a guest must not share a VMID: ASID 3 of one of them would
//! be ASID 3 of the other, too.
//!
//! VFIO makes one stage 2 for all devices behind one SMMU of the host. The first SMMU
//! of the guest takes that; each further one has a stage 2 of its own made, of the
//! same I/O address space. That costs page tables, but pins no memory again.

use std::sync::{Mutex, PoisonError};

use qemu_ext::iommufd::{HostDevice, HostObject};
use util::{Error, Result};

/// VFIO's stages 2 that a vIOMMU uses, each with the name of the guest's SMMU.
static IN_USE: Mutex<Vec<(Key, String)>> = Mutex::new(Vec::new());

/// A stage 2 in this process: the iommufd, by the address of QEMU's object, and the ID
/// there. The object outlives the claim, whose vIOMMU has a reference to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    iommufd: usize,
    id: u32,
}

fn with_claims<R>(function: impl FnOnce(&mut Vec<(Key, String)>) -> R) -> R {
    // nothing panics while it is locked, and if it did, every value is valid
    function(&mut IN_USE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The right to VFIO's stage 2, until it is dropped.
#[derive(Debug)]
pub struct Claim(Key);

impl Claim {
    /// Claims `key` for the SMMU `owner`.
    ///
    /// # Errors
    ///
    /// The SMMU that has it.
    fn new(key: Key, owner: &str) -> std::result::Result<Self, String> {
        with_claims(|claims| {
            if let Some((_, other)) = claims.iter().find(|(taken, _)| *taken == key) {
                return Err(other.clone());
            }
            claims.push((key, owner.to_owned()));
            Ok(Self(key))
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        with_claims(|claims| claims.retain(|(taken, _)| *taken != self.0));
    }
}

/// A stage 2 that no other vIOMMU uses.
#[derive(Debug)]
pub enum Stage2 {
    /// The one that VFIO made
    Vfio(Claim),
    /// One of its own
    Own(HostObject),
}

impl Stage2 {
    /// Returns a stage 2 for the SMMU `owner`, which `device` is behind.
    ///
    /// A second I/O address space would not help on a host that cannot make another
    /// stage 2, because it needs one, too.
    pub fn new(device: &HostDevice, owner: &str) -> Result<Self> {
        let key = Key {
            iommufd: device.backend_address(),
            id: device.stage2_id(),
        };
        match Claim::new(key, owner) {
            Ok(claim) => Ok(Self::Vfio(claim)),
            Err(other) => device.allocate_stage2().map(Self::Own).map_err(|error| {
                Error::msg(format!(
                    "{owner} and {other} are one SMMU of the host, and it cannot keep their translations \
                     apart: {error}; put their devices behind one arm-smmuv3"
                ))
            }),
        }
    }

    /// Returns the stage 2 `id` of another QEMU's SMMU `owner`, which `device` is behind: that of
    /// VFIO, which is known here, or else one of its own.
    ///
    /// # Errors
    ///
    /// The name of the SMMU that has VFIO's.
    pub fn adopted(
        device: &HostDevice,
        id: u32,
        is_vfios: bool,
        owner: &str,
    ) -> std::result::Result<Self, String> {
        if !is_vfios {
            return Ok(Self::Own(HostObject::adopt(device.backend(), id)));
        }
        let key = Key {
            iommufd: device.backend_address(),
            id,
        };
        Claim::new(key, owner).map(Self::Vfio)
    }

    /// Returns whether it is the one that VFIO made.
    pub const fn is_vfios(&self) -> bool {
        matches!(self, Self::Vfio(_))
    }

    /// Returns the ID of the stage 2 in its iommufd.
    pub const fn id(&self) -> u32 {
        match self {
            Self::Vfio(claim) => claim.0.id,
            Self::Own(object) => object.id(),
        }
    }
}
