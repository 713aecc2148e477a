// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine whose virtio device is behind its SMMU, with the test as
//! vhost-user backend.

use std::ops::Deref;

use smmuv3_qtest::{
    pci, qemu,
    tables::Allow,
    translated::{Stages, Translated, FREE},
    virtio::Driver,
    Builder, Machine,
};

use crate::backend::{Access, Backend, Translation};

/// Guest physical address of the data
pub const DATA: u64 = FREE + (16 << 20);
/// IOVA and guest physical address of the device's queue.
pub const RING: u64 = 0x20_0000;
pub const RING_AT: u64 = FREE;
/// IOVA for tests to map
pub const IOVA: u64 = 0x1234_5000;

/// A running machine and the backend of its device.
pub struct Served {
    pub machine: Machine,
    // dropped after the machine, so that QEMU does not see it close
    pub backend: Backend,
    pub stages: Stages,
}

/// Default `StreamID` of the device
pub const SID: u32 = pci::sid(0, 6);

/// Returns a machine with shared guest memory and these options.
pub fn sharing(options: &str) -> Builder {
    Builder::virt_with(qemu(), &format!("memory-backend=ram,{options}"))
        .args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"])
        .args(["-m", "128M"])
}

/// Returns the properties of an SMMU with these stages.
fn properties(stages: Stages) -> String {
    match stages {
        Stages::One => crate::STAGE1.into(),
        Stages::Two | Stages::Both => format!("stage={}", stages.property()),
    }
}

/// Returns a machine with shared guest memory and an SMMU with these stages.
pub fn with_smmu(stages: Stages) -> Builder {
    sharing("").device(format!(
        "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,{}",
        properties(stages)
    ))
}

impl Served {
    /// Starts a machine whose SMMU has these stages, with a device at [`SID`].
    pub fn new(stages: Stages) -> Self {
        Self::start(with_smmu(stages), stages, "bus=pcie.0,addr=6")
    }

    /// Starts `builder` with a device that has these options.
    pub fn start(builder: Builder, stages: Stages, options: &str) -> Self {
        let (served, backend) = Backend::new(builder, "backend");
        let machine = served
            .device(format!(
                "vhost-user-rng-pci,chardev=backend,iommu_platform=on,{options}"
            ))
            .start();
        Self {
            machine,
            backend,
            stages,
        }
    }
}

/// The device with its driver, behind stage 1 or 2 or both.
pub struct Bench<'a> {
    pub backend: &'a Backend,
    pub driver: Driver<'a>,
    translated: Translated<'a>,
}

impl<'a> Deref for Bench<'a> {
    type Target = Translated<'a>;

    fn deref(&self) -> &Self::Target {
        &self.translated
    }
}

impl<'a> Bench<'a> {
    /// Sets up the device with its queue mapped, and [`IOVA`] mapped to
    /// [`DATA`].
    #[track_caller]
    pub fn new(served: &'a Served) -> Self {
        Self::of(served, SID)
    }

    /// Sets up the device with another `StreamID`.
    #[track_caller]
    pub fn of(served: &'a Served, sid: u32) -> Self {
        let bench = Self::not_started(served, sid);
        bench.driver.start(RING);
        bench.backend.invalidations();
        bench
    }

    /// Programs the SMMU before the driver starts.
    #[track_caller]
    pub fn not_started(served: &'a Served, sid: u32) -> Self {
        Self::apart(served, sid, sid)
    }

    /// Programs the SMMU for the stream `sid` of the device that is at `place`, before the
    /// driver starts.
    #[track_caller]
    pub fn apart(served: &'a Served, place: u32, sid: u32) -> Self {
        let machine = &served.machine;
        let bench = Self {
            backend: &served.backend,
            driver: Driver::new(machine, place),
            translated: Translated::new(machine, served.stages, sid),
        };
        bench.input().map(RING, RING_AT, Allow::ReadWrite);
        bench.input().map(IOVA, DATA, Allow::ReadWrite);
        bench
    }

    /// Checks that `iova` translates to `address` for reads and writes.
    #[track_caller]
    pub fn translates(&self, iova: u64, address: u64) {
        for access in [Access::Read, Access::Write] {
            let translation = self.backend.translate(iova, access);
            let translated = translation.and_then(|translation| translation.of(iova));
            assert_eq!(translated, Some(address), "{access:?}: {translation:x?}");
        }
    }

    /// Checks that the translation is refused.
    #[track_caller]
    pub fn refuses(&self, iova: u64, access: Access) {
        let translation: Option<Translation> = self.backend.translate(iova, access);
        assert_eq!(translation, None, "{iova:#x}, {access:?}");
    }

    /// Checks that an UNMAP of the page of `iova` has been received.
    #[track_caller]
    pub fn unmapped(&self, iova: u64) {
        let page = (iova & !0xfff, iova | 0xfff);
        let ranges = self.backend.invalidations();
        assert!(covers(&ranges, page), "{page:x?} is not in {ranges:x?}");
    }
}

/// Returns whether one of `ranges` covers a whole page.
pub fn covers(ranges: &[(u64, u64)], page: (u64, u64)) -> bool {
    ranges
        .iter()
        .any(|(first, last)| *first <= page.0 && page.1 <= *last)
}
