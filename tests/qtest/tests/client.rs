// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tests of the client itself, with the C device.

use serde_json::json;
use smmuv3_qtest::{command, machine::RAM, qemu_c, smmu, smmu::reg, Builder, Smmu};

#[test]
fn client_memory_round_trips_in_every_size() {
    let machine = Builder::virt(qemu_c()).start();
    let bytes: Vec<u8> = (0..40_000_u32).map(|i| (i % 251) as u8).collect();
    machine.write_memory(RAM + 3, &bytes);
    assert_eq!(machine.read_memory(RAM + 3, bytes.len()), bytes);
    machine.write64(RAM, 0x0123_4567_89ab_cdef);
    assert_eq!(machine.read32(RAM), 0x89ab_cdef);
    machine.fill_memory(RAM, 8, 0x5a);
    assert_eq!(machine.read64(RAM), 0x5a5a_5a5a_5a5a_5a5a);
}

#[test]
fn client_sees_cmdq_and_interrupt() {
    let machine = Builder::virt(qemu_c()).smmu("").start();
    let smmu = Smmu::find(&machine);
    smmu.intercept_irqs();
    smmu.setup_queue_at(RAM, 2, 6);
    smmu.submit(&[command::SYNC, command::TLBI_NSNH_ALL, command::SYNC_IRQ]);
    assert_eq!((smmu.cons(), smmu.error()), (1, false));
    assert_eq!(smmu.pulses(), [0, 0, 1, 0]);
    assert_eq!(smmu.pulses(), [0; 4]);
}

#[test]
fn client_addresses_each_of_two_smmus() {
    let machine = Builder::virt(qemu_c())
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .smmu("")
        .device("arm-smmuv3,id=smmuv3.2,primary-bus=pcie.2")
        .start();
    let bases = smmu::bases(&machine);
    assert_eq!(bases.len(), 2);
    for base in bases {
        assert_ne!(Smmu::at(&machine, base).read(reg::IDR0), 0);
    }
}

#[test]
fn client_qmp_results_errors_and_events() {
    let machine = Builder::virt(qemu_c()).start();
    assert_eq!(machine.status(), "running");
    let error = machine
        .try_qmp(
            "qom-get",
            json!({ "path": "/machine", "property": "no-such" }),
        )
        .expect_err("there is no such property");
    assert_eq!(error.class, "GenericError");
    machine.system_reset();
    assert!(machine.monitor("info mtree").contains("virt.flash0"));
    let finished = machine.quit();
    assert!(finished.status.success(), "{finished}");
}

#[test]
fn client_refused_command_line_is_one_line() {
    let finished = Builder::virt(qemu_c()).device("no-such-device").run();
    assert!(finished.refusal().contains("no-such-device"));
    let Err(early_end) = Builder::virt(qemu_c()).device("no-such-device").try_start() else {
        panic!("it started");
    };
    assert!(early_end.refusal().contains("no-such-device"));
}
