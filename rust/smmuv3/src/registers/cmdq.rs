// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state that the Command queue's consumer takes out of the register file, and puts
//! back.

use bilge::prelude::*;

use super::{errors::Errors, Activation, Registers, StreamTableRegisters};
use crate::{
    features::Features,
    gerror::{CommandError, CMDQ_ERR},
    memory::GuestMemory,
    queue::QueueLayout,
    spec::{
        mask,
        register::{CmdqCons, Cr0},
    },
};

/// The registers of a queue that is not the SMMU's Command queue, but is consumed like
/// it.
#[derive(Clone, Copy, Debug)]
pub struct VcmdqState {
    pub(crate) layout: QueueLayout,
    pub(crate) is_ready: bool,
    pub(crate) prod: u32,
    pub(crate) cons: u32,
    pub(crate) gerror: u32,
    pub(crate) gerrorn: u32,
    pub(crate) irq_enabled: bool,
    pub(crate) stream_table: StreamTableRegisters,
}

/// The Command queue while it is worked on.
///
/// Its holder owns `CMDQ_CONS`. The other registers stay in use, and
/// [`Registers::finish_cmdq`] puts the result back.
#[derive(Debug)]
#[must_use = "the registers do not show what was consumed before it is put back"]
pub struct CmdqRun {
    layout: QueueLayout,
    is_ready: bool,
    prod: u32,
    cons: u32,
    errors: Errors,
    stream_table: StreamTableRegisters,
}

impl CmdqRun {
    /// Returns a run of a queue with registers of its own.
    pub(crate) const fn of_vcmdq(state: VcmdqState) -> Self {
        Self {
            layout: state.layout,
            is_ready: state.is_ready,
            prod: state.prod,
            cons: state.cons,
            errors: Errors::of_vcmdq(state.gerror, state.gerrorn, state.irq_enabled),
            stream_table: state.stream_table,
        }
    }

    /// Returns the errors that were activated in this run.
    pub(crate) const fn activated(&self) -> u32 {
        self.errors.activated()
    }

    /// Returns [`Registers::cmdq_ready`] of the time when the state was taken out.
    #[inline]
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Returns the geometry of the queue.
    #[inline]
    pub const fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// Returns `CMDQ_PROD`.
    #[inline]
    pub const fn prod(&self) -> u32 {
        self.prod
    }

    /// Returns `CMDQ_CONS`.
    #[inline]
    pub const fn cons(&self) -> u32 {
        self.cons
    }

    /// Returns the registers that `CMD_CFGI_STE` and its kin depend on.
    #[inline]
    pub const fn stream_table(&self) -> &StreamTableRegisters {
        &self.stream_table
    }

    /// Shows everything before `pointer` as consumed.
    #[inline]
    pub(crate) fn consumed_until(&mut self, pointer: u32) {
        self.set_cons(CmdqCons::of(self.cons), pointer);
    }

    /// Shows that the command at `pointer` was not consumed, and why (§7.1). The two are
    /// one store: software never sees one without the other.
    pub(crate) fn stopped_at(&mut self, pointer: u32, error: CommandError) {
        let mut cons = CmdqCons::of(0);
        cons.set_err(u7::extract_u32(error.code(), 0));
        self.set_cons(cons, pointer);
    }

    fn set_cons(&mut self, mut cons: CmdqCons, pointer: u32) {
        cons.set_rd(u20::extract_u32(pointer & self.layout.pointer_mask(), 0));
        self.cons = cons.raw();
    }

    /// Makes the errors in `bits` active (§7.5). Their interrupts are up to the caller, as soon as
    /// the registers show them.
    pub fn note_errors(&mut self, bits: u32) -> Activation {
        self.errors.note(bits)
    }

    /// Sends the MSI of global errors, if they have one (§7.5.1). Returns whether that aborts.
    pub(crate) fn gerror_msi_aborts<M: GuestMemory>(&self, memory: &mut M) -> bool {
        self.errors.msi_aborts(memory)
    }
}

impl Registers {
    /// Takes out the Command queue's state for its consumer.
    #[inline]
    pub fn begin_cmdq(&self, features: &Features) -> CmdqRun {
        CmdqRun {
            layout: self.cmdq_layout(features),
            is_ready: self.cmdq_ready(features),
            prod: self.cmdq_prod,
            cons: self.cmdq_cons,
            errors: Errors::of(self),
            stream_table: self.stream_table(),
        }
    }

    /// Shows the consumer's `CMDQ_CONS` and the errors that it has activated, while it runs, and
    /// makes those in `errors` active, too. Afterwards the run knows what software has
    /// acknowledged in the meantime.
    ///
    /// In one step, because software may acknowledge an error at any time: the one that is
    /// activated next is new then.
    pub fn show_cmdq(&mut self, run: &mut CmdqRun, errors: u32) -> Activation {
        self.cmdq_cons = run.cons;
        self.activate_errors(run.errors.take_activated());
        run.errors = Errors::of(self);
        let activation = run.errors.note(errors);
        self.activate_errors(run.errors.take_activated());
        activation
    }

    /// Puts back the consumer's `CMDQ_CONS`, and the errors that it activated. Errors
    /// that were activated concurrently stay. The run is over.
    pub fn finish_cmdq(&mut self, mut run: CmdqRun) {
        self.cmdq_cons = run.cons;
        self.activate_errors(run.errors.take_activated());
        self.is_cmdq_running = false;
    }

    /// Returns whether a run is to end, because software has disabled the queue (§6.3.9.3).
    #[inline]
    pub const fn must_stop_cmdq(&self) -> bool {
        self.is_cmdq_running && !self.cmdq_enabled()
    }

    /// Returns `CR0` with the enables of which an update to 0 is not complete: commands are
    /// processed as long as the consumer runs (§6.3.9.3). This is what `CR0ACK` shows, and what
    /// guards other registers.
    #[inline]
    pub(super) const fn cr0_in_effect(&self) -> u32 {
        if self.is_cmdq_running {
            self.cr0 | mask!(Cr0: cmdqen)
        } else {
            self.cr0
        }
    }

    /// Returns whether commands may be processed (§4.1.2): the queue is enabled, no
    /// Command queue error is active, and it holds something. Indexes that
    /// contradict each other count as nothing to do (§3.5.1).
    #[inline]
    pub fn cmdq_ready(&self, features: &Features) -> bool {
        let used = self
            .cmdq_layout(features)
            .used(self.cmdq_prod, self.cmdq_cons);
        self.cmdq_enabled() && self.active_errors() & CMDQ_ERR == 0 && matches!(used, Some(1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gerror::{EVENTQ_ABT_ERR, MSI_CMDQ_ABT_ERR},
        spec::register::IrqCtrl,
    };

    /// A queue of 16 entries with three commands in it.
    fn machine() -> (Registers, Features) {
        let features = Features::arm_smmuv3().with_msi(true);
        let mut registers = Registers::reset(&features);
        registers.cmdq_base = 0x4000_0004;
        registers.cmdq_prod = 3;
        registers.cr0 = mask!(Cr0: cmdqen);
        registers.irq_ctrl = mask!(IrqCtrl: gerror_irqen);
        (registers, features)
    }

    #[test]
    fn finished_run_keeps_concurrent_changes() {
        let (mut registers, features) = machine();
        let mut run = registers.begin_cmdq(&features);
        // Concurrently the guest adds commands, and the Event queue's producer fails.
        registers.cmdq_prod = 5;
        registers.activate_errors(EVENTQ_ABT_ERR);
        run.stopped_at(2, CommandError::Illegal);
        let activation = run.note_errors(CMDQ_ERR);
        assert_eq!((activation.new, activation.interrupt), (CMDQ_ERR, true));
        assert_eq!(registers.cmdq_cons, 0, "nothing is shown yet");
        registers.finish_cmdq(run);
        assert_eq!(registers.active_errors(), CMDQ_ERR | EVENTQ_ABT_ERR);
        assert_eq!((registers.cmdq_prod, registers.cmdq_cons), (5, 0x0100_0002));
        assert!(!registers.begin_cmdq(&features).is_ready());
    }

    #[test]
    fn active_error_activates_nothing() {
        let (mut registers, features) = machine();
        registers.activate_errors(MSI_CMDQ_ABT_ERR);
        let before = registers.clone();
        let mut run = registers.begin_cmdq(&features);
        let activation = run.note_errors(MSI_CMDQ_ABT_ERR);
        assert_eq!((activation.new, activation.interrupt), (0, false));
        registers.finish_cmdq(run);
        assert_eq!(registers, before);
    }

    #[test]
    fn shown_run_is_seen_and_sees_acknowledgements() {
        let (mut registers, features) = machine();
        let mut run = registers.begin_cmdq(&features);
        run.consumed_until(1);
        let first = registers.show_cmdq(&mut run, MSI_CMDQ_ABT_ERR);
        assert_eq!((first.new, first.interrupt), (MSI_CMDQ_ABT_ERR, true));
        assert_eq!(
            (registers.cmdq_cons, registers.active_errors()),
            (1, MSI_CMDQ_ABT_ERR)
        );
        let second = registers.show_cmdq(&mut run, MSI_CMDQ_ABT_ERR);
        assert_eq!((second.new, second.interrupt), (0, false), "it is active");
        registers.gerrorn ^= MSI_CMDQ_ABT_ERR;
        let third = registers.show_cmdq(&mut run, MSI_CMDQ_ABT_ERR);
        assert_eq!((third.new, third.interrupt), (MSI_CMDQ_ABT_ERR, true));
        registers.gerrorn ^= MSI_CMDQ_ABT_ERR;
        registers.finish_cmdq(run);
        assert_eq!(registers.active_errors(), 0, "activated once only");
    }

    #[test]
    fn disabled_cmdq_is_acknowledged_when_run_ends() {
        let (mut registers, features) = machine();
        let run = registers.begin_cmdq(&features);
        registers.is_cmdq_running = run.is_ready();
        assert!(!registers.must_stop_cmdq());
        let write = |to: &mut Registers, offset, value| {
            to.write(&features, offset, value, 4);
        };
        write(&mut registers, 0x20, 0);
        assert!(registers.must_stop_cmdq());
        assert_eq!(registers.read(&features, 0x20, 4), 0);
        let cmdqen = u64::from(mask!(Cr0: cmdqen));
        assert_eq!(registers.read(&features, 0x24, 4), cmdqen);
        // what the enable guards is guarded still
        write(&mut registers, 0x9c, 7);
        write(&mut registers, 0x90, 0x5000_0000);
        write(&mut registers, 0x28, 0x3f);
        assert_eq!(registers.cmdq_cons, 0);
        assert_eq!(registers.cmdq_base, 0x4000_0004);
        assert_eq!(registers.cr1 & 0x3f, 0);
        registers.finish_cmdq(run);
        assert_eq!(registers.read(&features, 0x24, 4), 0);
        write(&mut registers, 0x9c, 7);
        assert_eq!(registers.cmdq_cons, 7);
    }
}
