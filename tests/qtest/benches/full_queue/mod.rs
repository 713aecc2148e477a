// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A Command queue of the largest size that is full of invalidations.

use smmuv3_qtest::{
    command::{self, Command},
    machine::RAM,
    smmu::SMMUEN,
    Machine, Smmu,
};

/// log2 of the entries of the largest queue.
pub const LARGEST: u32 = 19;
/// Index and wrap flag in `CMDQ_PROD` and `CMDQ_CONS`.
pub const POINTER: u64 = 0xf_ffff;
/// Guest physical address of the queue.
const QUEUE: u64 = RAM + 0x100_0000;

/// Sets up the machine's SMMU and writes the commands; returns the SMMU's
/// address. The queue is full whenever the wrap flag of `CMDQ_PROD` changes
/// and its index stays 0.
pub fn fill(machine: &Machine) -> u64 {
    let smmu = Smmu::find(machine);
    smmu.enable(SMMUEN);
    smmu.setup_queue(QUEUE, LARGEST);
    let mut commands: Vec<Command> = (0..1 << LARGEST)
        .map(|page| command::tlbi_nh_va(1, page << 12))
        .collect();
    commands[(1 << LARGEST) - 1] = command::SYNC;
    smmu.push(&commands);
    smmu.base()
}
