// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Trace events have the format of the C device's.

use std::path::PathBuf;

use smmuv3_qtest::{
    command::{self, RESERVED, SYNC, SYNC_IRQ, TLBI_NSNH_ALL},
    machine::RAM,
    qemu, qemu_c,
    smmu::{reg, GERROR_IRQEN},
    Builder, Smmu,
};

/// Returns the trace of a driver that sets the device up, uses it, and issues
/// an illegal command.
fn trace(binary: PathBuf) -> Vec<String> {
    let machine = Builder::virt(binary)
        .smmu("accel=on,ats=off,ril=on,ssidsize=0,oas=44")
        .args(["-trace", "smmuv3_*", "-trace", "smmu_*"])
        .start();
    let smmu = Smmu::find(&machine);
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    smmu.setup_queue(RAM, 3);
    smmu.submit(&[command::cfgi_ste(8), command::CFGI_ALL, SYNC]);
    smmu.submit(&[
        command::cfgi_cd(8, 0),
        command::cfgi_cd_all(8),
        command::tlbi_nh_asid(5),
        command::tlbi_nh_va(5, 0x1000),
    ]);
    smmu.submit(&[
        [0x13, 0x2001],
        command::of(0x10),
        TLBI_NSNH_ALL,
        [0x01, 0],
        [0x02, 0],
        SYNC_IRQ,
    ]);
    smmu.push(&[SYNC, RESERVED]);
    smmu.ring();
    smmu.write_slots(smmu.cons(), &[SYNC]);
    smmu.acknowledge();
    let finished = machine.quit();
    finished
        .error_lines()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// Returns the lines of one event. The order of different events may differ,
/// because the C device consumes one command at a time.
fn lines<'a>(trace: &'a [String], event: &str) -> Vec<&'a str> {
    let with_name = |line: &&str| line.split(' ').next() == Some(event);
    trace.iter().map(String::as_str).filter(with_name).collect()
}

#[test]
fn trace_event_arguments_match_c_device() {
    let (rust, c) = (trace(qemu()), trace(qemu_c()));
    for event in [
        "smmuv3_read_mmio",
        "smmuv3_write_mmio",
        "smmuv3_cmdq_opcode",
        "smmuv3_cmdq_consume_error",
        "smmuv3_cmdq_tlbi_nh_asid",
        "smmuv3_trigger_irq",
        "smmuv3_write_gerror",
        "smmuv3_write_gerrorn",
    ] {
        assert_eq!(
            lines(&rust, event),
            lines(&c, event),
            "left: the Rust device, right: the C device"
        );
    }
    assert!(
        !lines(&c, "smmuv3_cmdq_opcode").is_empty(),
        "nothing was traced"
    );
}

#[test]
fn cmdq_run_is_traced_with_its_indexes() {
    let trace = trace(qemu());
    let begins = lines(&trace, "smmuv3_cmdq_consume");
    let ends = lines(&trace, "smmuv3_cmdq_consume_out");
    assert_eq!(begins.len(), ends.len());
    assert_eq!(
        begins[0],
        "smmuv3_cmdq_consume prod=3 cons=0 prod.wrap=0 cons.wrap=0"
    );
    assert_eq!(
        ends[0].trim_end(),
        "smmuv3_cmdq_consume_out prod:3, cons:3, prod_wrap:0, cons_wrap:0"
    );
}
