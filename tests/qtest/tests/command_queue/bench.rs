// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine whose SMMU has a Command queue, with the operations of the tests.

use std::fmt::Display;

use smmuv3_qtest::{
    command::{Command, SYNC_IRQ},
    machine::RAM,
    qemu,
    smmu::{reg, CMDQEN, GERROR_IRQEN},
    Builder, Smmu,
};

/// Properties of the SMMU.
pub const PROFILE: &str = "accel=on,ats=off,ril=on,ssidsize=0,oas=44";

/// Guest physical address of nothing.
pub const NOWHERE: u64 = 0x6000_0000;

/// Starts a machine with one SMMU.
pub fn machine() -> Builder {
    Builder::virt(qemu()).smmu(PROFILE)
}

/// Runs a test on [`machine`] with a queue of 2^`log2size` entries.
#[track_caller]
pub fn with_queue(log2size: u32, test: impl FnOnce(&Smmu<'_>)) {
    with_queue_of(machine(), log2size, test);
}

/// Runs a test on a machine whose SMMU has a queue of 2^`log2size` entries at
/// the start of RAM, GERROR's interrupt enabled, and its interrupts observed.
#[track_caller]
pub fn with_queue_of(machine: Builder, log2size: u32, test: impl FnOnce(&Smmu<'_>)) {
    let machine = machine.start();
    let smmu = Smmu::find(&machine);
    smmu.intercept_irqs();
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    smmu.setup_queue(RAM, log2size);
    test(&smmu);
}

/// The state of consumption.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Queue {
    /// `CMDQ_CONS.RD`, without an active error.
    Idle(u32),
    /// Stopped at `CMDQ_CONS.RD` with the reason in `CMDQ_CONS.ERR`.
    Stopped(u32, u32),
}

impl Queue {
    #[track_caller]
    fn of(smmu: &Smmu<'_>) -> Self {
        if smmu.error() {
            Self::Stopped(smmu.cons(), smmu.cons_err())
        } else {
            Self::Idle(smmu.cons())
        }
    }
}

/// Interrupts since the last check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interrupts {
    pub syncs: u32,
    pub errors: u32,
}

impl Interrupts {
    pub const NONE: Self = Self::of(0, 0);
    pub const SYNC: Self = Self::of(1, 0);
    pub const ERROR: Self = Self::of(0, 1);

    pub const fn of(syncs: u32, errors: u32) -> Self {
        Self { syncs, errors }
    }
}

/// Operations and checks of the queue.
pub trait Steps {
    /// Pushes commands and writes the doorbell, without waiting.
    fn push_and_ring(&self, commands: &[Command]);

    /// Sets up a new queue, in any state of the old one.
    fn new_queue(&self, base: u64, log2size: u32);

    /// Sets up a full queue at `base` without writing to its memory.
    fn queue_at(&self, base: u64, log2size: u32);

    /// Writes this value to `CMDQ_BASE` and consumes one command.
    fn consume_one_at(&self, cmdq_base: u64);

    /// Checks the state of consumption.
    fn expect(&self, when: impl Display, queue: Queue);

    /// Checks the interrupts since the last call.
    fn expect_interrupts(&self, when: impl Display, interrupts: Interrupts);

    /// Checks the state of consumption and the interrupts.
    fn expect_both(&self, when: impl Display, queue: Queue, interrupts: Interrupts);

    /// Checks the result of `commands` in a new queue.
    fn expect_of(&self, commands: &[Command], when: impl Display, queue: Queue);

    /// Checks `GERROR` and `GERRORN`.
    fn expect_gerror(&self, gerror: u32, gerrorn: u32);

    /// Checks that QEMU runs.
    fn expect_running(&self, when: impl Display);

    /// Checks that a new queue in RAM works, without a reset.
    fn expect_usable(&self);
}

impl Steps for Smmu<'_> {
    #[track_caller]
    fn push_and_ring(&self, commands: &[Command]) {
        self.push(commands);
        self.ring();
    }

    #[track_caller]
    fn new_queue(&self, base: u64, log2size: u32) {
        self.disable(CMDQEN);
        self.acknowledge();
        self.setup_queue(base, log2size);
    }

    #[track_caller]
    fn queue_at(&self, base: u64, log2size: u32) {
        self.new_queue(base, log2size);
        self.write(reg::CMDQ_PROD, 1 << log2size);
    }

    #[track_caller]
    fn consume_one_at(&self, cmdq_base: u64) {
        self.disable(CMDQEN);
        self.write64(reg::CMDQ_BASE, cmdq_base);
        self.write(reg::CMDQ_CONS, 0);
        self.write(reg::CMDQ_PROD, 1);
        self.enable(CMDQEN);
    }

    #[track_caller]
    fn expect(&self, when: impl Display, queue: Queue) {
        assert_eq!(Queue::of(self), queue, "{when}");
    }

    #[track_caller]
    fn expect_interrupts(&self, when: impl Display, interrupts: Interrupts) {
        let [eventq, priq, syncs, errors] = self.pulses();
        assert_eq!((eventq, priq), (0, 0), "{when}");
        assert_eq!(Interrupts { syncs, errors }, interrupts, "{when}");
    }

    #[track_caller]
    fn expect_both(&self, when: impl Display, queue: Queue, interrupts: Interrupts) {
        self.expect(&when, queue);
        self.expect_interrupts(when, interrupts);
    }

    #[track_caller]
    fn expect_of(&self, commands: &[Command], when: impl Display, queue: Queue) {
        self.new_queue(RAM, 4);
        self.push_and_ring(commands);
        self.expect(when, queue);
    }

    #[track_caller]
    fn expect_gerror(&self, gerror: u32, gerrorn: u32) {
        let actual = (self.read(reg::GERROR), self.read(reg::GERRORN));
        assert_eq!(actual, (gerror, gerrorn), "GERROR, GERRORN");
    }

    #[track_caller]
    fn expect_running(&self, when: impl Display) {
        assert_eq!(self.machine().status(), "running", "{when}");
    }

    #[track_caller]
    fn expect_usable(&self) {
        self.new_queue(RAM, 4);
        self.submit(&[SYNC_IRQ]);
        self.expect("a new queue in RAM", Queue::Idle(1));
    }
}
