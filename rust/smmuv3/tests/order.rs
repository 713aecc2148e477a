// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The order in which changes become visible (§3.18, §7.1): effects, then registers,
//! then signals.

use std::{cell::RefCell, rc::Rc};

use crate::common::{
    log::Event,
    machine::{CR0, STOPPED},
    vector_features, Machine,
};
use smmuv3::{gerror::CommandError, FlushPolicy, Interrupts, Observer, Platform};

const SYNC_IRQ: [u64; 2] = [0x1046, 0];
const RESERVED: [u64; 2] = [0, 0];

fn va(number: u64) -> [u64; 2] {
    [0x5_0000_0000_0012, (number << 12) | 1]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// `CMDQ_CONS` has the reason.
    Reason(CommandError),
    /// Bits of GERROR were toggled.
    Toggled(u32),
    Interrupt,
}

#[derive(Clone, Default)]
struct Witness(Rc<RefCell<Vec<Seen>>>);

impl Interrupts for Witness {
    fn cmd_sync(&mut self) {}

    fn gerror(&mut self) {
        self.0.borrow_mut().push(Seen::Interrupt);
    }
}

impl Observer for Witness {
    fn error(&mut self, _: u8, code: CommandError) {
        self.0.borrow_mut().push(Seen::Reason(code));
    }

    fn activated(&mut self, toggled: u32, _: u32) {
        self.0.borrow_mut().push(Seen::Toggled(toggled));
    }
}

#[test]
fn cons_err_precedes_gerror_precedes_irq() {
    let mut machine = Machine::new(vector_features(), FlushPolicy::default());
    machine.write(CR0, STOPPED);
    machine.submit(&[va(1), RESERVED]);
    machine.registers.cr0 = 0x9;
    let mut witness = Witness::default();
    let mut run = machine.registers.begin_cmdq(&machine.features);
    machine.cmdq.consume(
        &mut run,
        &machine.features,
        Platform {
            memory: &mut machine.memory,
            backend: &mut machine.host,
            interrupts: &mut witness.clone(),
            observer: &mut witness,
        },
        machine.budget,
    );
    machine.registers.finish_cmdq(run);
    assert_eq!(
        *witness.0.borrow(),
        [
            Seen::Reason(CommandError::Illegal),
            Seen::Toggled(1),
            Seen::Interrupt
        ]
    );
    assert_eq!((machine.rd(), machine.error()), (1, Some(1)));
}

/// Where MSIs are written.
const MSI: u64 = 0x2000_0000;

const fn sync_msi(data: u64) -> [u64; 2] {
    [0x1046 | (data << 32), MSI]
}

#[test]
fn commands_complete_before_following_sync_msi() {
    let features = vector_features().with_msi(true);
    let mut machine = Machine::new(features, FlushPolicy::default());
    machine.submit(&[
        va(1),
        sync_msi(1),
        va(2),
        SYNC_IRQ,
        va(3),
        sync_msi(2),
        RESERVED,
    ]);
    assert_eq!(
        machine.host.log.events(),
        [
            Event::Executed(va(1)),
            Event::SyncCompleted(2),
            Event::Msi(MSI, 1),
            Event::Executed(va(2)),
            Event::SyncCompleted(4),
            Event::CmdSync,
            Event::Executed(va(3)),
            Event::SyncCompleted(6),
            Event::Msi(MSI, 2),
            Event::Gerror,
        ]
    );
}

/// A device at the address of an MSI may be slow: the deadline is checked after each, and
/// a run ends.
#[test]
fn syncs_with_msi_end_at_deadline() {
    let features = vector_features().with_msi(true);
    let mut machine = Machine::new(features, FlushPolicy::default());
    machine.write(CR0, STOPPED);
    machine.submit(&[sync_msi(1); 5]);
    machine.registers.cr0 = 0x9;
    machine.host.is_slow = true;
    for done in 1..=5 {
        machine.consume_once();
        assert_eq!(machine.memory.written.len(), done);
        assert_eq!(machine.rd(), done as u32);
    }
}

#[test]
fn commands_complete_before_following_sync_signal() {
    let mut machine = Machine::new(vector_features(), FlushPolicy::default());
    machine.submit(&[va(1), va(2), SYNC_IRQ, va(3), SYNC_IRQ, va(4), RESERVED]);
    assert_eq!(
        machine.host.log.events(),
        [
            Event::Executed(va(1)),
            Event::Executed(va(2)),
            Event::SyncCompleted(3),
            Event::CmdSync,
            Event::Executed(va(3)),
            Event::SyncCompleted(5),
            Event::CmdSync,
            Event::Executed(va(4)),
            Event::Gerror,
        ]
    );
}
