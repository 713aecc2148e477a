// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file (§6).

use smmuv3::{
    queue::QueueLayout,
    registers::{Activation, CmdqRun, StreamTableRegisters},
    Effects, Features, Registers,
};

/// Reads registers.
#[inline(never)]
pub fn read(registers: &Registers, features: &Features, offset: u64, size: u32) -> u64 {
    registers.read(features, offset, size)
}

/// Writes registers.
#[inline(never)]
pub fn write(
    registers: &mut Registers,
    features: &Features,
    offset: u64,
    value: u64,
    size: u32,
) -> Effects {
    registers.write(features, offset, value, size)
}

/// Resets them.
#[inline(never)]
pub fn reset(features: &Features) -> Registers {
    Registers::reset(features)
}

/// Brings them into the state that a saved one may be.
#[inline(never)]
pub fn restore(registers: &mut Registers, features: &Features) {
    registers.clear_reserved(features);
}

/// Returns what the device asks them for.
#[inline(never)]
pub fn queries(
    registers: &Registers,
    features: &Features,
) -> (StreamTableRegisters, [QueueLayout; 2], [bool; 9]) {
    (
        registers.stream_table(),
        [
            registers.cmdq_layout(features),
            registers.eventq_layout(features),
        ],
        [
            registers.records_bad_stream_id(),
            registers.smmu_enabled(),
            registers.cmdq_enabled(),
            registers.eventq_enabled(),
            registers.gbpa_abort(),
            registers.gerror_irq_enabled(),
            registers.eventq_irq_enabled(),
            registers.must_stop_cmdq(),
            registers.cmdq_ready(features),
        ],
    )
}

/// Makes errors active.
#[inline(never)]
pub fn activate(registers: &mut Registers, bits: u32) -> (u32, u32) {
    (registers.activate_errors(bits), registers.active_errors())
}

/// Takes the Command queue's state out.
#[inline(never)]
pub fn begin(registers: &Registers, features: &Features) -> CmdqRun {
    registers.begin_cmdq(features)
}

/// Shows it while the consumer runs.
#[inline(never)]
pub fn show(registers: &mut Registers, run: &mut CmdqRun, errors: u32) -> Activation {
    registers.show_cmdq(run, errors)
}

/// Puts it back.
#[inline(never)]
pub fn finish(registers: &mut Registers, run: CmdqRun) {
    registers.finish_cmdq(run);
}
