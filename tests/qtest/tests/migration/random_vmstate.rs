// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Random migration streams are refused or loaded. A device that has loaded one
//! must not crash or hang QEMU, with any values of its registers.

use serde_json::json;
use smmuv3_qtest::{
    command::{self, CFGI_ALL, SYNC},
    machine::RAM,
    qemu, qemu_c,
    smmu::{reg, CMDQEN, EVENTQEN, SMMUEN},
    Machine, Random, RootPort, Smmu,
};

use crate::{
    guest::{registers, ste, Form, Guest, Table, IOVA},
    stream::{fields, Field, Stream},
};

const GUEST: Guest = Guest {
    form: Form::Device,
    table: Table::TwoLevels,
};

/// Returns a random value, more often one at a limit.
fn value(random: &mut Random, field: Field) -> u64 {
    let all = u64::MAX >> (64 - 8 * field.size);
    let number = random.next();
    let bit = 1_u64 << (number % 64);
    all & random.of(&[0, all, all >> 1, bit, !bit, number, RAM | (number & 0x1f)])
}

/// Uses the SMMU in every way that a driver or a device may.
fn exercise(machine: &Machine) {
    machine.qmp("cont", json!({}));
    let mut port = RootPort::new(machine, GUEST.form.sid());
    let smmu = Smmu::find(machine);
    port.write(IOVA);
    smmu.write(reg::CMDQ_PROD, smmu.read(reg::CMDQ_PROD).wrapping_add(1));
    smmu.acknowledge();
    port.write(IOVA + 0x1000);
    smmu.write(reg::CR0, SMMUEN | EVENTQEN | CMDQEN);
    port.write(IOVA);
    registers(machine);
}

/// Checks that a driver can initialize the SMMU.
#[track_caller]
fn reinitialize(machine: &Machine) {
    machine.system_reset();
    let smmu = Smmu::find(machine);
    let sid = GUEST.form.sid();
    let table = RAM + (8 << 20);
    smmu.setup_queue(RAM + (9 << 20), 4);
    smmu.setup_stream_table(table, 12);
    machine.write64(table + 64 * u64::from(sid), ste::BYPASS);
    smmu.submit(&[CFGI_ALL, command::cfgi_ste(sid), SYNC]);
    smmu.enable(SMMUEN);
    RootPort::new(machine, sid).arrives(IOVA, IOVA);
}

#[test]
fn random_vmstate_does_not_crash_qemu() {
    let source = GUEST.form.builder(qemu_c()).start();
    GUEST.run_to_state(&source);
    let sound = Stream::save(source);
    let mut random = Random::new(0x5eed_0001);
    let (mut loaded, mut refused) = (0, 0);
    for msi in ["arm-smmuv3.msi=off", "arm-smmuv3.msi=on"]
        .into_iter()
        .cycle()
        .take(60)
    {
        let mut stream = sound.clone();
        for _ in 0..=random.next() % 6 {
            let field = random.of(&fields());
            stream = stream.with(field, value(&mut random, field));
        }
        let machine = GUEST
            .form
            .builder(qemu())
            .args(["-incoming", "defer", "-global", msi])
            .start();
        match stream.load_into(&machine) {
            Ok(()) => {
                exercise(&machine);
                reinitialize(&machine);
                loaded += 1;
            }
            Err(reason) => {
                assert!(reason.contains("smmuv3"), "{reason}");
                refused += 1;
            }
        }
        assert!(machine.quit().status.success());
    }
    assert!(loaded > 0 && refused > 0, "{loaded} and {refused}");
}
