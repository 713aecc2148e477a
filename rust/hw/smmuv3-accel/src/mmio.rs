// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Register accesses, and the Command queue that they set in motion.

use std::time::{Duration, Instant};

use qemu_ext::{log, runstate::is_replay_enabled, timer::TimerExt};
use smmuv3::{
    cmdq::{self, Cmdq, Progress},
    features::Features,
    registers::Registers,
};
use util::timer::CLOCK_VIRTUAL;

use crate::{accel::Host, device::Smmuv3, lines::Lines, memory::GuestRam, translate::LocalHost};

::trace::include_trace!("hw_arm");

/// Commands that one doorbell consumes before the vCPU goes on, unless its time is
/// over earlier; the rest is consumed from the main loop, slice by slice.
const SLICE: u32 = 4096;

/// How long commands are consumed at once when the machine stops: enough for a full
/// queue of 2^19 commands on a busy host. A slice is no measure, because it ends after
/// two milliseconds however few commands the host has got to in them.
const TIME_AT_STOP: Duration = Duration::from_secs(1);

/// How long commands that no `CMD_SYNC` waits for may wait for others to fill a
/// batch with, in nanoseconds: Linux rings the doorbell every 64 commands, which
/// would be 63 and one more ioctl for a single command. Long enough that a busy
/// guest does not wake the main loop for every doorbell.
const DEFERRAL: u64 = 10_000_000;

/// Page 1 shows the registers of page 0 (section 6.1 leaves that choice).
const PAGE_MASK: u64 = 0xffff;

impl Smmuv3 {
    /// A read of 4 or 8 bytes, aligned (section 6.2).
    pub fn read(&self, offset: u64, size: u32) -> u64 {
        let value = {
            let shared = self.shared();
            shared.registers.read(&shared.features, offset, size)
        };
        trace::trace_smmuv3_read_mmio(offset & PAGE_MASK, value, size, 0);
        value
    }

    /// A write of 4 or 8 bytes, aligned.
    pub fn write(&self, offset: u64, value: u64, size: u32) {
        trace::trace_smmuv3_write_mmio(offset & PAGE_MASK, value, size, 0);
        // what was recorded before the queue is disabled is there (section 7.2.1)
        self.record_waiting();
        let (effects, acknowledged, gerrorn) = {
            let mut shared = self.shared();
            let features = shared.features;
            let pending = shared.registers.gerror ^ shared.registers.gerrorn;
            let effects = shared.registers.write(&features, offset, value, size);
            let still = shared.registers.gerror ^ shared.registers.gerrorn;
            (effects, pending & !still, shared.registers.gerrorn)
        };
        if acknowledged != 0 {
            trace::trace_smmuv3_write_gerrorn(acknowledged, gerrorn);
        }
        if let Some(message) = effects.guest_error {
            log::guest_error(format_args!(
                "arm-smmuv3: {message} (write of {value:#x} to {offset:#x})"
            ));
        }
        if effects.streams {
            self.forget_translations();
            // the guest decides anew about every stream, and the host begins anew:
            // an attachment to stage 1 leaves nothing in an ATC
            self.release_streams(|_| true);
            self.evaluate_streams();
        }
        if effects.eventq {
            self.separate_accesses();
            self.evaluate_events();
        }
        if effects.cmdq {
            self.consume();
        }
    }

    /// The machine starts or has stopped. What could not be consumed before it stopped,
    /// or came with a saved state, is consumed now.
    pub fn run_state_changed(&self, running: bool) {
        if running {
            self.consume_soon();
        } else {
            self.finish();
        }
    }

    /// The machine has stopped: records the events that wait and consumes the
    /// commands that can be. A saved state has no place for what was begun, and
    /// the C device that may load it goes on at the next doorbell only.
    fn finish(&self) {
        self.record_waiting();
        // a machine with assigned devices is not saved, and their host may be slow
        if self.accel {
            return;
        }
        let end = Instant::now() + TIME_AT_STOP;
        while self.consume_slice() != Progress::Idle {
            if Instant::now() >= end {
                self.consume_soon();
                return;
            }
        }
    }

    /// Consumes commands: one slice, the rest later.
    pub fn consume(&self) {
        match self.consume_slice() {
            Progress::Idle => {}
            Progress::More => self.consume_soon(),
            Progress::Deferred => self.deferred.anticipate_in_ns(&CLOCK_VIRTUAL, DEFERRAL),
        }
    }

    fn consume_slice(&self) -> Progress {
        // Empty while the consumer runs: what it does cannot come back here, as
        // QEMU's re-entry guards see to; if it did, it would find nothing to do.
        let Some(mut cmdq) = self.cmdq.borrow_mut().take() else {
            return Progress::Idle;
        };
        if self.accel {
            self.retry_streams_now();
        }
        // a CMD_SYNC is not seen to complete before the events of what it waits for
        self.record_waiting();
        self.look_for_events();
        self.separate_accesses();
        let (features, mut registers) = self.snapshot();
        let before = registers.gerror;
        let progress = if self.accel {
            self.visit(&mut cmdq, &mut registers, &features, &mut Host::new(self))
        } else {
            self.visit(
                &mut cmdq,
                &mut registers,
                &features,
                &mut LocalHost::new(self),
            )
        };
        {
            // only what the consumer owns: events may toggle other errors meanwhile
            let mut shared = self.shared();
            shared.registers.cmdq.cons = registers.cmdq.cons;
            shared.registers.gerror ^= registers.gerror ^ before;
            shared.separations = shared.separations.wrapping_add(1);
        }
        *self.cmdq.borrow_mut() = Some(cmdq);
        progress
    }

    fn visit<H: cmdq::Host>(
        &self,
        cmdq: &mut Cmdq,
        registers: &mut Registers,
        features: &Features,
        host: &mut H,
    ) -> Progress {
        // when the main loop goes on is nothing that could be repeated exactly
        let budget = if is_replay_enabled() { u32::MAX } else { SLICE };
        cmdq.consume(
            registers,
            features,
            &mut GuestRam,
            host,
            &mut Lines::new(self),
            budget,
        )
    }

    /// Goes on from the main loop.
    pub fn consume_soon(&self) {
        self.consume_later.schedule();
    }
}
