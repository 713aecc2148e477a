// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A failed command, and the steps of a driver's recovery in every order
//! (§7.1): the queue resumes after exactly those orders that fix the error.

use smmuv3_qtest::{
    command,
    smmu::{cerror, irq, reg, CMDQEN, SMMUEN},
    until, Smmu,
};

use crate::bench::{sid, ste, Bench, Guest};

/// `IRQ_CTRL.GERROR_IRQEN`
const GERROR_IRQEN: u32 = 1;

/// A step of a driver.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// The cause of the error is fixed
    Repair,
    /// `GERRORN` is made equal to `GERROR`
    Acknowledge,
    /// `CR0.CMDQEN`
    Disable,
    Enable,
    /// One more command, and the doorbell
    Add,
}

use Action::{Acknowledge, Add, Disable, Enable, Repair};

/// Collects all orders of `rest` after `begun`.
fn orders(begun: &[Action], rest: &[Action], found: &mut Vec<Vec<Action>>) {
    if rest.is_empty() {
        found.push(begun.to_vec());
    }
    for (index, action) in rest.iter().enumerate() {
        // a queue that is enabled cannot be enabled
        if *action == Enable && !begun.contains(&Disable) {
            continue;
        }
        let mut others = rest.to_vec();
        others.remove(index);
        orders(&[begun, &[*action]].concat(), &others, found);
    }
}

/// The cause of the error.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Its opcode
    Illegal,
    /// The host, which has no memory
    Host,
}

impl Trouble {
    const fn code(self) -> u32 {
        match self {
            Self::Illegal => cerror::ILL,
            Self::Host => cerror::ABT,
        }
    }
}

/// A queue whose first command fails, and its expected state.
struct Case<'a> {
    bench: &'a Bench,
    smmu: &'a Smmu<'a>,
    trouble: Trouble,
    /// Index of the command
    head: u32,
    is_bad: bool,
    is_enabled: bool,
    is_error: bool,
    is_consumed: bool,
    interrupts: u32,
}

impl Case<'_> {
    fn may_consume(&mut self) {
        if !self.is_enabled || self.is_error {
            return;
        }
        if self.is_bad {
            self.is_error = true;
            self.interrupts += 1;
        } else {
            self.is_consumed = true;
        }
    }

    fn act(&mut self, action: Action) {
        let smmu = self.smmu;
        match action {
            Repair => {
                self.is_bad = false;
                match self.trouble {
                    Trouble::Illegal => smmu.write_slots(self.head, &[command::SYNC]),
                    Trouble::Host => self.bench.script("clear"),
                }
                return;
            }
            Acknowledge => {
                smmu.acknowledge();
                self.is_error = false;
            }
            Disable => {
                smmu.disable(CMDQEN);
                self.is_enabled = false;
            }
            Enable => {
                smmu.enable(CMDQEN);
                self.is_enabled = true;
            }
            Add => {
                smmu.push(&[command::TLBI_NSNH_ALL, command::SYNC]);
                smmu.ring();
                self.is_consumed = false;
            }
        }
        self.may_consume();
    }

    #[track_caller]
    fn check(&self, order: &[Action]) {
        let smmu = self.smmu;
        let message = format!("{:?} after {order:?}", self.trouble);
        if self.is_error {
            until("a command error", || smmu.error().then_some(()));
            let seen = (smmu.cons_err(), smmu.cons());
            assert_eq!(seen, (self.trouble.code(), self.head), "{message}");
        } else if self.is_consumed {
            smmu.wait_consumed();
        } else if self.is_bad {
            assert_eq!(smmu.cons(), self.head, "{message}");
        }
        assert_eq!(smmu.error(), self.is_error, "{message}");
        let pulses = smmu.pulses()[irq::GERROR as usize];
        assert_eq!(pulses, self.interrupts, "{message}: interrupts");
    }
}

#[track_caller]
fn every_order(trouble: Trouble) {
    let mut found = Vec::new();
    orders(
        &[],
        &[Repair, Acknowledge, Disable, Enable, Add],
        &mut found,
    );
    assert_eq!(found.len(), 60);
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::stage1(0x4100_0000));
    smmu.write(reg::IRQ_CTRL, GERROR_IRQEN);
    smmu.intercept_irqs();
    for order in &found {
        let mut case = Case {
            bench: &bench,
            smmu: &smmu,
            trouble,
            head: smmu.prod(),
            is_bad: true,
            is_enabled: true,
            is_error: false,
            is_consumed: false,
            interrupts: 0,
        };
        smmu.pulses();
        match trouble {
            Trouble::Illegal => smmu.push(&[command::RESERVED]),
            Trouble::Host => {
                bench.script("fail HWPT_INVALIDATE errno=ENOMEM");
                smmu.push(&[command::tlbi_nh_va(5, 0x1000)]);
            }
        }
        smmu.push(&[command::SYNC]);
        smmu.ring();
        case.may_consume();
        case.check(&[]);
        for done in 1..=order.len() {
            case.interrupts = 0;
            case.act(order[done - 1]);
            case.check(&order[..done]);
        }
        // the steps that the order has left out
        if case.is_error {
            smmu.acknowledge();
        }
        smmu.wait_consumed();
        assert!(!smmu.error(), "{trouble:?}, {order:?}");
    }
    bench.finish();
}

#[test]
fn cerror_ill_recovers_in_every_order() {
    every_order(Trouble::Illegal);
}

#[test]
fn enomem_recovers_in_every_order() {
    every_order(Trouble::Host);
}
