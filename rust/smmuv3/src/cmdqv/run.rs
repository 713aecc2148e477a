// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state that the consumer of a queue in software takes out of the register file, and
//! puts back.

use super::{plan::Backing, vcmdq::Vcmdq, Assignment, Cmdqv, QUEUES};
use crate::{
    command::GuestOwned,
    features::Features,
    queue::QueueLayout,
    registers::{CmdqRun, StreamTableRegisters, VcmdqState, COMMAND_LOG2_BYTES},
    spec::register::QueueBase,
    Backend, Cmdq, GuestMemory, Interrupts, Observer, Platform, Progress,
};

/// A queue in software while it is worked on.
///
/// Its holder owns `VCMDQ_CONS_INDX`. The other registers stay in use, and
/// [`Cmdqv::finish`] puts the result back.
#[derive(Debug)]
#[must_use = "the registers do not show what was consumed before it is put back"]
pub struct VcmdqRun {
    vcmdq: usize,
    generation: u32,
    run: CmdqRun,
}

impl VcmdqRun {
    /// Returns the consumer's view of the queue.
    pub const fn cmdq(&self) -> &CmdqRun {
        &self.run
    }

    /// Consumes commands as [`Cmdq::consume`] does, with one `consumer` for each LVCMDQ.
    ///
    /// `CMD_TLBI_NH_ASID`, `CMD_TLBI_NH_VA`, `CMD_ATC_INV` and `CMD_SYNC` without a signal
    /// are executed; every other command is `CERROR_ILL`. [`Interrupts::gerror`] is
    /// the pulse of the CMDQV's interrupt; no other signal is given.
    pub fn consume<M: GuestMemory, B: Backend, I: Interrupts, O: Observer>(
        &mut self,
        consumer: &mut Cmdq,
        features: &Features,
        platform: Platform<'_, M, B, I, O>,
        budget: u32,
    ) -> Progress {
        let run = &mut self.run;
        consumer.consume_restricted::<GuestOwned, M, B, I, O>(run, features, platform, budget)
    }
}

impl Cmdqv {
    /// Takes out the state of LVCMDQ `lvcmdq` for its consumer; `None` if it is not in
    /// software.
    ///
    /// `stream_table` is that of the SMMU's registers: `CMD_ATC_INV` depends on `SMMUEN`.
    pub fn begin(
        &self,
        features: &Features,
        lvcmdq: usize,
        stream_table: StreamTableRegisters,
    ) -> Option<VcmdqRun> {
        let (queue, registers) = self.software(features, lvcmdq)?;
        let layout = layout(registers, features);
        let state = VcmdqState {
            layout,
            is_ready: is_ready(registers, layout),
            prod: registers.prod,
            cons: registers.cons,
            gerror: registers.gerror,
            gerrorn: registers.gerrorn,
            irq_enabled: self.is_interrupt_enabled(),
            stream_table,
        };
        Some(VcmdqRun {
            vcmdq: queue.vcmdq,
            generation: registers.generation,
            run: CmdqRun::of_vcmdq(state),
        })
    }

    /// Puts back the consumer's `VCMDQ_CONS_INDX`, and the errors that it activated.
    ///
    /// Returns whether it did: the result of a run is discarded if the queue was disabled,
    /// enabled, moved to hardware or reset since [`begin`](Self::begin), or its base or
    /// `VCMDQ_CONS_INDX` was written. Then commands may be executed again.
    pub fn finish(&mut self, run: VcmdqRun) -> bool {
        let queue = self.vcmdqs.get_mut(run.vcmdq);
        let Some(queue) = queue.filter(|queue| queue.generation == run.generation) else {
            return false;
        };
        queue.cons = run.run.cons();
        queue.activate(run.run.activated());
        true
    }

    /// Returns for each LVCMDQ whether it is in software and has commands that can be
    /// consumed.
    pub fn ready(&self, features: &Features) -> [bool; QUEUES] {
        core::array::from_fn(|lvcmdq| {
            self.software(features, lvcmdq)
                .is_some_and(|(_, registers)| is_ready(registers, layout(registers, features)))
        })
    }

    /// Returns the queue that LVCMDQ `lvcmdq` has in software, and its registers.
    pub(super) fn software(
        &self,
        features: &Features,
        lvcmdq: usize,
    ) -> Option<(Assignment, &Vcmdq)> {
        let queue = self.wanted(features, lvcmdq)?;
        let backing = self.host.get(lvcmdq)?.backing;
        // The host's queue that is not the wanted one is about to be released, with the
        // registers of its VCMDQ.
        if matches!(backing, Backing::Hardware(_)) || self.hardware_of(queue.vcmdq).is_some() {
            return None;
        }
        Some((queue, self.vcmdqs.get(queue.vcmdq)?))
    }
}

fn layout(registers: &Vcmdq, features: &Features) -> QueueLayout {
    // Address and size have the positions of `CMDQ_BASE`'s.
    let base = QueueBase::of(registers.base);
    QueueLayout::new(
        base,
        features.max_cmdqs(),
        features.oas_bits(),
        COMMAND_LOG2_BYTES,
    )
}

/// Returns whether commands may be processed, as [`Registers::cmdq_ready`] does.
///
/// [`Registers::cmdq_ready`]: crate::Registers::cmdq_ready
fn is_ready(registers: &Vcmdq, layout: QueueLayout) -> bool {
    let used = layout.used(registers.prod, registers.cons);
    registers.is_enabled() && registers.active_errors() == 0 && matches!(used, Some(1..))
}
