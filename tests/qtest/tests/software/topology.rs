// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Topologies of the SMMU and the device behind it.

use smmuv3_qtest::{edu, pci, qemu, smmu, smmu::reg, Access, Builder, Edu, Machine, Smmu};

use crate::{
    bench::{install_stage2, machine, properties, Bench, Nested, Stage1, CONTEXT, DATA, IOVA, SID},
    entries::ste,
    tables::Granule,
};

/// Starts a machine with its own SMMU and the device on the root bus.
fn own(stage: &str) -> Builder {
    Builder::new(qemu())
        .args(["-machine", "virt,accel=qtest,iommu=smmuv3"])
        .args(["-global", &format!("arm-smmuv3.stage={stage}")])
        .device(format!("{},bus=pcie.0,addr=2", edu::DEVICE))
}

/// Starts a machine with an SMMU on a root bus of its own and the device behind
/// a bridge there.
fn behind_a_bridge(stage: &str) -> Builder {
    Builder::virt(qemu())
        .smmu(&properties(stage))
        .device("pcie-root-port,id=rp1,bus=pcie.1,addr=1,chassis=1")
        .device(format!("{},bus=rp1,addr=0", edu::DEVICE))
}

/// Gives the bridge its buses and a window for memory.
fn program_bridge(machine: &Machine) {
    let config = pci::config(pci::sid(8, 1));
    machine.write32(config + 0x18, 0x0009_0908);
    machine.write32(config + 0x20, 0x1000_1000);
    machine.write_sized(config + 4, 6, 2);
}

#[test]
fn every_stage_translates_on_every_bus() {
    type Start = fn(&str) -> Builder;
    let places: [(Start, u32); 3] = [
        (own, pci::sid(0, 2)),
        (machine, SID),
        (behind_a_bridge, pci::sid(9, 0)),
    ];
    for (start, sid) in places {
        for stage in ["1", "2", "nested"] {
            let machine = start(stage).start();
            if sid == pci::sid(9, 0) {
                program_bridge(&machine);
            }
            let bench = Bench::of(&machine, sid);
            match stage {
                "1" => drop(Stage1::new(&bench, Granule::K4, 39)),
                "2" => drop(install_stage2(&bench, Granule::K4, 39)),
                _ => drop(Nested::new(&bench, [Granule::K4; 2], 39)),
            }
            bench.transfers(IOVA + 0x104, DATA + 0x104);
            let records = bench.refused(Access::Write, IOVA + 0x1_0000);
            assert_eq!(records.len(), 1, "{stage} {sid:#x}: {records:?}");
            assert_eq!(records[0].0[0] >> 32, u64::from(sid));
        }
    }
}

/// Each SMMU has its own tables, caches, queues and `StreamIDs`.
#[test]
fn two_smmus_translate_independently() {
    let machine = behind_a_bridge("1")
        .device(format!("arm-smmuv3,primary-bus=pcie.0,{}", properties("1")))
        .device(format!("{},bus=pcie.0,addr=4", edu::DEVICE))
        .start();
    program_bridge(&machine);
    let below = Edu::new(&machine, pci::sid(9, 0), 0);
    let bases = smmu::bases(&machine);
    assert_eq!(bases.len(), 2);
    // the window behind the bridge is the first 2 MiB
    let edu = Edu::new(&machine, SID, 4);
    let iova = DATA + 0x100;
    let arrives = |device: &Edu<'_>| {
        machine.write32(iova, 0);
        let word = device.write(iova);
        machine.read32(iova) == word
    };
    assert!(arrives(&edu) && arrives(&below));
    // GBPA.ABORT of one affects only that one
    let aborted = bases.iter().map(|base| {
        let smmu = Smmu::at(&machine, *base);
        smmu.write(reg::GBPA, 0x8010_0000);
        let arrive = [arrives(&edu), arrives(&below)];
        smmu.write(reg::GBPA, 0x8000_0000);
        arrive
    });
    let mut aborted: Vec<_> = aborted.collect();
    aborted.sort_unstable();
    assert_eq!(aborted, [[false, true], [true, false]]);
}

/// `iommu-testdev`, which reports the result of its write.
struct TestDevice<'a>(&'a Machine);

const WRITTEN: u32 = 0x1234_5678;
const FAILED: u32 = 0xdead_0002;

impl<'a> TestDevice<'a> {
    fn new(machine: &'a Machine, sid: u32) -> Self {
        pci::VIRT.enable(machine, sid, 0x0005_1b36, Self::REGISTERS);
        Self(machine)
    }

    const REGISTERS: u64 = pci::VIRT.window + (8 << 20);

    /// Writes to `iova` and reads at `address`; returns the result.
    fn write(&self, iova: u64, address: u64) -> u32 {
        let write = |register, value| self.0.write32(Self::REGISTERS + register, value);
        write(0x04, iova as u32);
        write(0x08, (iova >> 32) as u32);
        write(0x1c, address as u32);
        write(0x20, (address >> 32) as u32);
        write(0x0c, 4);
        write(0x14, 1);
        self.0.read32(Self::REGISTERS);
        self.0.read32(Self::REGISTERS + 0x10)
    }
}

#[test]
fn aborted_dma_returns_error_to_device() {
    let machine = machine("1")
        .device("iommu-testdev,bus=pcie.0,addr=5")
        .start();
    let sid = pci::sid(0, 5);
    let device = TestDevice::new(&machine, sid);
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    bench.set_ste(sid, ste::stage1(CONTEXT));
    bench.invalidate();
    assert_eq!(device.write(IOVA, DATA), 0);
    assert_eq!(machine.read32(DATA), WRITTEN);
    assert_eq!(device.write(IOVA + 0x1000, DATA), FAILED);
    bench.set_ste(sid, ste::abort());
    bench.invalidate();
    assert_eq!(device.write(IOVA, DATA), FAILED);
    bench.set_ste(sid, ste::bypass());
    bench.invalidate();
    assert_eq!(device.write(DATA, DATA), 0);
}
