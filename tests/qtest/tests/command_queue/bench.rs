// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine whose SMMU has a Command queue, and what tests do with it.

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

/// A machine with one SMMU.
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

/// Where consumption is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Queue {
    /// It is at `CMDQ_CONS.RD`, and no error is active.
    Idle(u32),
    /// It has stopped at the command that `CMDQ_CONS.RD` names, for the reason
    /// in `CMDQ_CONS.ERR`.
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

/// Interrupts since one last looked.
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

/// What tests do with the queue, and see of it.
pub trait Steps {
    /// Pushes commands and rings; what comes of them is for the test to see.
    fn feed(&self, commands: &[Command]);

    /// A new queue, whatever has become of the last one.
    fn renew(&self, base: u64, log2size: u32);

    /// A new queue in what is at `base`, full of that.
    fn offer(&self, base: u64, log2size: u32);

    /// Gives the queue this very value of `CMDQ_BASE`, and one command to
    /// consume.
    fn consume_one_at(&self, cmdq_base: u64);

    /// Checks where consumption is.
    fn expect(&self, when: impl Display, queue: Queue);

    /// Checks which interrupts there were since the last call.
    fn expect_interrupts(&self, when: impl Display, interrupts: Interrupts);

    /// Checks both.
    fn expect_both(&self, when: impl Display, queue: Queue, interrupts: Interrupts);

    /// Checks what becomes of `commands` in a new queue.
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
    fn feed(&self, commands: &[Command]) {
        self.push(commands);
        self.ring();
    }

    #[track_caller]
    fn renew(&self, base: u64, log2size: u32) {
        self.disable(CMDQEN);
        self.acknowledge();
        self.setup_queue(base, log2size);
    }

    #[track_caller]
    fn offer(&self, base: u64, log2size: u32) {
        self.renew(base, log2size);
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
        self.renew(RAM, 4);
        self.feed(commands);
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
        self.renew(RAM, 4);
        self.submit(&[SYNC_IRQ]);
        self.expect("a new queue in RAM", Queue::Idle(1));
    }
}
