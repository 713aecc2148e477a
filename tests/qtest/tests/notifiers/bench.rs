// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine whose virtio device is behind its SMMU and served by the test.

use smmuv3_qtest::{
    command::{Command, CFGI_ALL, SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    pci, qemu,
    smmu::{reg, EVENTQEN, SMMUEN},
    until, Builder, Machine, Smmu,
};

use crate::{
    backend::{Access, Backend, Translation},
    driver::Driver,
    tables::{Allow, Stage, Tables},
};

const MIB: u64 = 1 << 20;

const QUEUE: u64 = RAM + MIB;
const EVENTS: u64 = RAM + 2 * MIB;
const STREAM_TABLE: u64 = RAM + 3 * MIB;
const CONTEXT: u64 = RAM + 4 * MIB;
const STAGE1: u64 = RAM + 6 * MIB;
const STAGE2: u64 = RAM + 8 * MIB;
/// What mappings lead to
pub const DATA: u64 = RAM + 32 * MIB;
/// Where the device's queue is for the device, and in memory.
pub const RING: u64 = 0x20_0000;
pub const RING_AT: u64 = RAM + 16 * MIB;
/// An address for tests to map
pub const IOVA: u64 = 0x1234_5000;

/// What the Context descriptor and the Stream table entry say.
pub const ASID: u16 = 0x77;
pub const VMID: u16 = 0x55;

/// Which stages translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    One,
    Two,
    Both,
}

impl Stages {
    /// The value of the property
    const fn property(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Both => "nested",
        }
    }

    /// `STE.Config`
    const fn config(self) -> u64 {
        match self {
            Self::One => 0b101,
            Self::Two => 0b110,
            Self::Both => 0b111,
        }
    }
}

/// A machine that runs, and the process that serves its device.
pub struct Served {
    pub machine: Machine,
    // after the machine: QEMU shall not see it go
    pub backend: Backend,
    pub stages: Stages,
}

/// `StreamID` of the device, if a test does not put it elsewhere
pub const SID: u32 = pci::sid(0, 6);

/// A machine with guest memory that can be shared, and an SMMU with these stages.
pub fn with_smmu(stages: Stages) -> Builder {
    Builder::virt_with(qemu(), "memory-backend=ram")
        .args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"])
        .args(["-m", "128M"])
        .device(format!(
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
    pub machine: &'a Machine,
    pub smmu: Smmu<'a>,
    pub backend: &'a Backend,
    pub driver: Driver<'a>,
    pub stage1: Tables<'a>,
    pub stage2: Tables<'a>,
    stages: Stages,
    sid: u32,
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
            machine,
            smmu: Smmu::find(machine),
            backend: &served.backend,
            driver: Driver::new(machine, sid),
            sid,
            stage1: Tables::new(machine, Stage::One, STAGE1),
            stage2: Tables::new(machine, Stage::Two, STAGE2),
            stages: served.stages,
        };
        bench.program();
        bench
    }

    /// Programs the SMMU as after a reset.
    #[track_caller]
    pub fn program(&self) {
        let smmu = &self.smmu;
        // what stage 1 leads to is where it is for stage 2
        if self.stages == Stages::Both {
            for at in (RAM..RAM + 128 * MIB).step_by(2 << 20) {
                self.stage2.map_block(at, at, Allow::ReadWrite);
            }
        }
        self.input().map(RING, RING_AT, Allow::ReadWrite);
        self.input().map(IOVA, DATA, Allow::ReadWrite);
        self.write_context();
        self.write_entry(self.entry());
        smmu.setup_queue(QUEUE, 6);
        smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
        smmu.setup_stream_table(STREAM_TABLE, 12);
        smmu.enable(SMMUEN | EVENTQEN);
        smmu.submit(&[CFGI_ALL, TLBI_NSNH_ALL, SYNC]);
    }

    /// The tables that translate what the device sends.
    pub const fn input(&self) -> &Tables<'a> {
        match self.stages {
            Stages::One | Stages::Both => &self.stage1,
            Stages::Two => &self.stage2,
        }
    }

    /// The Stream table entry (5.2): both tables have 39 bits and begin at level 1.
    pub const fn entry(&self) -> [u64; 4] {
        let word0 = CONTEXT | (self.stages.config() << 1) | 1;
        let (t0sz, start_1, aa64, record) = (25 << 32, 1 << 38, 1 << 51, 1 << 58);
        let word2 = VMID as u64 | t0sz | start_1 | (0b100 << 48) | aa64 | record;
        match self.stages {
            Stages::One => [word0, 0, 0, 0],
            Stages::Two | Stages::Both => [word0, 0, word2, self.stage2.base()],
        }
    }

    /// Writes the entry into the table; nobody is told.
    pub fn write_entry(&self, entry: [u64; 4]) {
        for (index, word) in (0..).zip(entry) {
            let at = STREAM_TABLE + 64 * u64::from(self.sid) + 8 * index;
            self.machine.write64(at, word);
        }
    }

    /// The Context descriptor (5.4): lower addresses of 39 bits, faults recorded.
    fn write_context(&self) {
        let (epd1, valid, aa64, record) = (1 << 30, 1 << 31, 1 << 41, 3 << 45);
        let asid = u64::from(ASID) << 48;
        let word0 = 25 | epd1 | valid | (0b100 << 32) | aa64 | record | asid;
        self.machine.write64(CONTEXT, word0);
        self.machine.write64(CONTEXT + 8, self.stage1.base());
    }

    /// Executes commands and the `CMD_SYNC` behind them.
    #[track_caller]
    pub fn submit(&self, commands: &[Command]) {
        let smmu = &self.smmu;
        smmu.push(&[commands, &[SYNC]].concat());
        smmu.ring();
        until("consumption", || {
            assert!(!smmu.error(), "{commands:x?}");
            (smmu.cons() == smmu.prod()).then_some(())
        });
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
