// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine whose virtio device is behind its SMMU and served by the test.

use std::ops::Deref;

use smmuv3_qtest::{
    pci, qemu,
    tables::Allow,
    translated::{Stages, Translated, FREE},
    virtio::Driver,
    Builder, Machine,
};

use crate::backend::{Access, Backend, Translation};

/// What mappings lead to
pub const DATA: u64 = FREE + (16 << 20);
/// Where the device's queue is for the device, and in memory.
pub const RING: u64 = 0x20_0000;
pub const RING_AT: u64 = FREE;
/// An address for tests to map
pub const IOVA: u64 = 0x1234_5000;

/// A machine that runs, and the process that serves its device.
pub struct Served {
    pub machine: Machine,
    // after the machine: QEMU shall not see it go
    pub backend: Backend,
    pub stages: Stages,
}

/// `StreamID` of the device, if a test does not put it elsewhere
pub const SID: u32 = pci::sid(0, 6);

/// A machine with guest memory that can be shared, and these options.
pub fn sharing(options: &str) -> Builder {
    Builder::virt_with(qemu(), &format!("memory-backend=ram,{options}"))
        .args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"])
        .args(["-m", "128M"])
}

/// The same with an SMMU that has these stages.
pub fn with_smmu(stages: Stages) -> Builder {
    sharing("").device(format!(
        "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,stage={}",
        stages.property()
    ))
}

impl Served {
    /// A machine whose SMMU has these stages, and a device at [`SID`].
    pub fn new(stages: Stages) -> Self {
        Self::start(with_smmu(stages), stages, "bus=pcie.0,addr=6")
    }

    /// `builder` with a device that has these options.
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

/// The device as its driver uses it, translated.
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
    /// The device is set up, its queue mapped, and [`IOVA`] mapped to [`DATA`].
    #[track_caller]
    pub fn new(served: &'a Served) -> Self {
        Self::of(served, SID)
    }

    /// The same for a device elsewhere.
    #[track_caller]
    pub fn of(served: &'a Served, sid: u32) -> Self {
        let bench = Self::not_started(served, sid);
        bench.driver.start(RING);
        bench.backend.invalidations();
        bench
    }

    /// The same before the driver begins.
    #[track_caller]
    pub fn not_started(served: &'a Served, sid: u32) -> Self {
        let machine = &served.machine;
        let bench = Self {
            backend: &served.backend,
            driver: Driver::new(machine, sid),
            translated: Translated::new(machine, served.stages, sid),
        };
        bench.input().map(RING, RING_AT, Allow::ReadWrite);
        bench.input().map(IOVA, DATA, Allow::ReadWrite);
        bench
    }

    /// The device is told, for both directions, that `iova` is at `address`.
    #[track_caller]
    pub fn translates(&self, iova: u64, address: u64) {
        for access in [Access::Read, Access::Write] {
            let translation = self.backend.translate(iova, access);
            let translated = translation.and_then(|translation| translation.of(iova));
            assert_eq!(translated, Some(address), "{access:?}: {translation:x?}");
        }
    }

    /// The device is told that there is no such translation.
    #[track_caller]
    pub fn refuses(&self, iova: u64, access: Access) {
        let translation: Option<Translation> = self.backend.translate(iova, access);
        assert_eq!(translation, None, "{iova:#x}, {access:?}");
    }

    /// By now the device has been told to forget the page of `iova`.
    #[track_caller]
    pub fn forgotten(&self, iova: u64) {
        let page = (iova & !0xfff, iova | 0xfff);
        let told = self.backend.invalidations();
        assert!(covers(&told, page), "{page:x?} is not in {told:x?}");
    }
}

/// Whether all of a page is in some of `told`.
pub fn covers(told: &[(u64, u64)], page: (u64, u64)) -> bool {
    told.iter()
        .any(|(first, last)| *first <= page.0 && page.1 <= *last)
}
