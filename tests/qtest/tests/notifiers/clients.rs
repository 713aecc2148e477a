// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! IOMMU notifier clients that come and go.

use serde_json::json;
use smmuv3_qtest::{
    command::{self, TLBI_NSNH_ALL},
    emulated::ACCEL,
    pci,
    smmu::{reg, SMMUEN},
    translated::{Stages, ASID},
    Builder, Machine,
};

use crate::{
    backend::{Access, Backend},
    bench::{self, Bench, Served, DATA, IOVA, RING},
};

#[test]
fn reset_vhost_device_gets_no_unmap() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
    bench.driver.reset();
    bench.backend.invalidations();
    bench.submit(&[TLBI_NSNH_ALL]);
    assert_eq!(bench.backend.invalidations(), []);
    bench.driver.start(RING);
    bench.translates(IOVA, DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
}

#[test]
fn machine_smmu_notifies_vhost() {
    let builder = bench::sharing("iommu=smmuv3");
    let served = Served::start(builder, Stages::Both, "bus=pcie.0,addr=6");
    let bench = Bench::new(&served);
    bench.translates(IOVA, DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
}

#[test]
fn vhost_translates_after_machine_reset() {
    let served = Served::new(Stages::One);
    Bench::new(&served).translates(IOVA, DATA);
    served.machine.system_reset();
    let bench = Bench::new(&served);
    bench.translates(IOVA, DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
}

#[test]
fn lost_vhost_backend_does_not_block_cmdq() {
    let served = Served::new(Stages::One);
    let bench = Bench::new(&served);
    bench.backend.exit_on_invalidation();
    bench.submit(&[TLBI_NSNH_ALL, TLBI_NSNH_ALL]);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.smmu.disable(SMMUEN);
    assert_eq!(served.machine.status(), "running");
    assert_eq!(bench.backend.invalidations().len(), 1);
}

/// Returns a machine with an accelerated SMMU and a conventional bridge at
/// `pcie.0`.
fn accelerated(bridge: &str) -> Builder {
    bench::sharing("")
        .device(format!("arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,{ACCEL}"))
        .device(format!("{bridge},id=conventional,bus=pcie.0,addr=5"))
}

/// Conventional bridges, and the `StreamID` of devices behind each.
const CONVENTIONAL: [(&str, u32); 3] = [
    ("pcie-pci-bridge", pci::sid(1, 0)),
    ("i82801b11-bridge", pci::sid(0, 5)),
    ("pci-bridge,chassis_nr=7", pci::sid(0, 5)),
];

/// Checks that the backend gets UNMAPs for its device at address 1 of bus 1, whose stream is
/// another one.
#[track_caller]
fn served_behind_bridge(served: &Served, stream: u32) {
    open(&served.machine, pci::sid(0, 5));
    let bench = Bench::apart(served, pci::sid(1, 1), stream);
    bench.driver.start(RING);
    bench.translates(IOVA, DATA);
    bench.input().unmap(IOVA);
    bench.submit(&[command::tlbi_nh_va(ASID, IOVA)]);
    bench.unmapped(IOVA);
    bench.refuses(IOVA, Access::Read);
}

/// The C device has vhost end QEMU there: it refuses the notifier.
#[test]
fn vhost_behind_conventional_bridge_with_accel_is_served() {
    for (bridge, stream) in CONVENTIONAL {
        let served = Served::start(accelerated(bridge), Stages::One, "bus=conventional,addr=1");
        served_behind_bridge(&served, stream);
    }
}

#[test]
fn vhost_hot_plug_behind_bridge_with_accel_is_served() {
    // an i82801b11-bridge takes no hot-plug
    for (bridge, stream) in [CONVENTIONAL[0], CONVENTIONAL[2]] {
        let (builder, backend) = Backend::new(accelerated(bridge), "backend");
        let machine = builder.start();
        let plug = json!({
            "driver": "vhost-user-rng-pci", "chardev": "backend", "id": "rng",
            "iommu_platform": true, "bus": "conventional", "addr": "0x1",
        });
        machine.qmp("device_add", plug);
        let served = Served {
            machine,
            backend,
            stages: Stages::One,
        };
        served_behind_bridge(&served, stream);
    }
}

/// Bus 1, device 0
const BELOW: u32 = pci::sid(1, 0);

/// Starts a machine whose device has ATS and is behind a root port, which ATS
/// requires.
fn with_ats() -> Served {
    let builder =
        bench::with_smmu(Stages::One).device("pcie-root-port,id=rp1,bus=pcie.0,addr=7,chassis=1");
    Served::start(builder, Stages::One, "bus=rp1,ats=on")
}

/// Programs the bridge `sid` to forward accesses to bus 1 behind it.
fn open(machine: &Machine, sid: u32) {
    let bridge = pci::config(sid);
    // bus 1
    machine.write32(bridge + 0x18, 0x0001_0100);
    // the MMIO window of the device
    machine.write32(bridge + 0x20, 0x18f0_1800);
    machine.write_sized(bridge + 4, 6, 2);
}

/// Programs the root port to forward accesses to the device behind it.
fn open_bridge(machine: &Machine) {
    open(machine, pci::sid(0, 7));
}

/// Returns the address of the ATS capability in the configuration space at
/// `config`.
#[track_caller]
fn ats(machine: &Machine, config: u64) -> u64 {
    let mut at = 0x100;
    while at != 0 {
        let header = machine.read32(config + at);
        if header & 0xffff == 0xf {
            return config + at;
        }
        at = u64::from(header >> 20);
    }
    panic!("the device has no ATS");
}

/// The SMMU does not support ATS (`IDR0.ATS`), so the driver does not enable it
/// and the device gets every UNMAP.
#[test]
fn vhost_with_unused_ats_gets_unmap() {
    let served = with_ats();
    open_bridge(&served.machine);
    let bench = Bench::of(&served, BELOW);
    assert_eq!(bench.smmu.read(reg::IDR0) & (1 << 10), 0);
    bench.translates(IOVA, DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
}

/// A driver that enables ATS although `IDR0.ATS` is clear.
#[test]
fn vhost_with_enabled_ats_does_not_end_qemu() {
    let served = with_ats();
    open_bridge(&served.machine);
    let bench = Bench::not_started(&served, BELOW);
    let control = ats(&served.machine, pci::config(BELOW)) + 6;
    served.machine.write_sized(control, 1 << 15, 2);
    bench.driver.start(RING);
    assert_eq!(served.machine.status(), "running");
    bench.translates(IOVA, DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
    bench.driver.reset();
    served.machine.write_sized(control, 0, 2);
    bench.driver.start(RING);
    bench.translates(IOVA, DATA);
    bench.submit(&[TLBI_NSNH_ALL]);
    bench.unmapped(IOVA);
}

/// With `IDR0.ATS` an accelerated SMMU has `CMD_ATC_INV`, which invalidates the device IOTLB.
#[test]
fn atc_inv_sends_unmap_to_its_stream() {
    let builder = bench::sharing("")
        .device(format!(
            "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,{}",
            ACCEL.replace("ats=off", "ats=on")
        ))
        .device("pcie-root-port,id=rp1,bus=pcie.0,addr=7,chassis=1");
    let served = Served::start(builder, Stages::One, "bus=rp1,ats=on");
    open_bridge(&served.machine);
    let bench = Bench::not_started(&served, BELOW);
    assert_ne!(bench.smmu.read(reg::IDR0) & (1 << 10), 0);
    let control = ats(&served.machine, pci::config(BELOW)) + 6;
    served.machine.write_sized(control, 1 << 15, 2);
    bench.driver.start(RING);
    bench.translates(IOVA, DATA);
    bench.backend.invalidations();
    bench.submit(&[command::atc_inv_all(BELOW + 1)]);
    assert_eq!(bench.backend.invalidations(), []);
    let [opcode, _] = command::atc_inv_all(BELOW);
    bench.submit(&[[opcode, IOVA]]);
    assert_eq!(bench.backend.invalidations(), [(IOVA, IOVA | 0xfff)]);
    bench.submit(&[command::atc_inv_all(BELOW)]);
    bench.unmapped(IOVA);
}
