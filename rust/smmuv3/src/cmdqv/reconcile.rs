// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Moving queues between hardware and software.

use super::{
    next_step,
    plan::{Backing, Step},
    registers::Control,
    vcmdq::Vcmdq,
    Assignment, Cmdqv, Effects, HostPage, Page0, QUEUES,
};
use crate::features::Features;

/// The host's queues.
pub trait Host: HostPage {
    /// Maps the host's page into the guest, or unmaps it. When this returns, no vCPU
    /// reaches a page that is not visible.
    fn show_page(&mut self, is_visible: bool);

    /// Allocates a queue, disabled and with indexes of 0. Returns whether the host did;
    /// if it did not, the queue is in software, so the reason is only to be reported.
    fn allocate(&mut self, lvcmdq: usize, queue: &Assignment) -> bool;

    /// Waits until a queue that was disabled has stopped, a few milliseconds at most. A
    /// queue that has not stopped by then is released all the same.
    fn wait_until_stopped(&mut self, lvcmdq: usize);

    /// Releases the queue of `lvcmdq`. Returns whether the host has it no longer.
    fn release(&mut self, lvcmdq: usize) -> bool;
}

/// The executor of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// None: the queue is off.
    Off,
    /// The host.
    Hardware,
    /// This device.
    Software,
}

/// Registers that are saved when a queue has stopped. `VCMDQ_CONFIG` and
/// `VCMDQ_PROD_INDX` are saved before.
const SAVED: [Page0; 3] = [Page0::Cons, Page0::Gerror, Page0::Gerrorn];

impl Cmdqv {
    /// Returns the executor of LVCMDQ `lvcmdq`, between two calls of
    /// [`reconcile`](Self::reconcile).
    pub fn state(&self, features: &Features, lvcmdq: usize) -> QueueState {
        let backing = self.host.get(lvcmdq).map(|slot| slot.backing);
        if matches!(backing, Some(Backing::Hardware(_))) {
            QueueState::Hardware
        } else if self.software(features, lvcmdq).is_some() {
            QueueState::Software
        } else {
            QueueState::Off
        }
    }

    /// Returns whether the host still has a queue that it did not release. The next
    /// [`reconcile`](Self::reconcile) tries again.
    pub fn is_stuck(&self) -> bool {
        let is_stuck = |backing| matches!(backing, Backing::Stuck { .. });
        self.host.iter().any(|slot| is_stuck(slot.backing))
    }

    /// Gives the host the queues that the registers ask for, as far as it takes them, and
    /// shows or hides its page.
    ///
    /// The page is hidden before anything else happens, and shown last. A queue that moves
    /// keeps its registers, and continues with the command at which it was. Returns the
    /// queues that are to be consumed in software now, and whether to pulse the interrupt.
    pub fn reconcile<H: Host>(&mut self, features: &Features, host: &mut H) -> Effects {
        for slot in &mut self.host {
            if let Backing::Stuck { is_tried } = &mut slot.backing {
                *is_tried = false;
            }
        }
        // While there is a step, a queue of the VINTF's is not the one in hardware.
        if !self.is_page_visible(features) {
            self.show_page(host, false);
        }
        // More than a pass has: see `next_step`.
        for _ in 0..2 * QUEUES {
            match next_step(&self.slots(features)) {
                Some(Step::Release(lvcmdq)) => self.release(host, lvcmdq),
                Some(Step::Allocate(lvcmdq, queue)) => self.allocate(host, lvcmdq, queue),
                None => break,
            }
        }
        let has_new_error = self.note_failures(features);
        self.show_page(host, self.is_page_visible(features));
        Effects {
            reconcile: false,
            consume: self.ready(features),
            interrupt: has_new_error && self.is_interrupt_enabled(),
            guest_error: None,
        }
    }

    /// Forbids queues in hardware, because the host's VINTF is about to go, or permits
    /// them again, because there is another one. [`reconcile`](Self::reconcile) follows.
    pub fn bar_hardware(&mut self, is_barred: bool) {
        self.is_barred = is_barred;
        if !is_barred {
            // another VINTF may take what this one did not
            self.host.iter_mut().for_each(|slot| slot.refused = None);
        }
    }

    /// Drops the record of queues that a VINTF did not release, because the caller keeps them and
    /// no other VINTF has them.
    pub fn drop_stuck(&mut self) {
        for slot in &mut self.host {
            if matches!(slot.backing, Backing::Stuck { .. }) {
                slot.backing = Backing::None;
            }
        }
    }

    /// Drops refusals of queues that the registers no longer ask for: the host may take
    /// the same queue another time.
    pub(super) fn drop_stale_refusals(&mut self, features: &Features) {
        for lvcmdq in 0..QUEUES {
            let wanted = self.wanted(features, lvcmdq);
            if let Some(slot) = self.host.get_mut(lvcmdq) {
                slot.refused = slot.refused.filter(|queue| wanted == Some(*queue));
            }
        }
    }

    /// Resets every register, and has the host release its queues.
    ///
    /// A queue that the host does not release stays recorded: see
    /// [`is_stuck`](Self::is_stuck).
    pub fn reset<H: Host>(&mut self, features: &Features, host: &mut H) {
        self.control = Control::default();
        self.drop_stale_refusals(features);
        self.reconcile(features, host);
        // After it, because it saves the registers of queues that were in hardware.
        self.vcmdqs.iter_mut().for_each(Vcmdq::reset);
    }

    fn show_page<H: Host>(&mut self, host: &mut H, is_visible: bool) {
        if core::mem::replace(&mut self.is_page_shown, is_visible) != is_visible {
            host.show_page(is_visible);
        }
    }

    fn release<H: Host>(&mut self, host: &mut H, lvcmdq: usize) {
        let Some(slot) = self.host.get_mut(lvcmdq) else {
            return;
        };
        if let Backing::Hardware(queue) = slot.backing {
            if let Some(registers) = self.vcmdqs.get_mut(queue.vcmdq) {
                stop_and_save(registers, host, lvcmdq);
            }
        }
        slot.backing = if host.release(lvcmdq) {
            Backing::None
        } else {
            Backing::Stuck { is_tried: true }
        };
    }

    fn allocate<H: Host>(&mut self, host: &mut H, lvcmdq: usize, queue: Assignment) {
        let Some(slot) = self.host.get_mut(lvcmdq) else {
            return;
        };
        if !host.allocate(lvcmdq, &queue) {
            slot.refused = Some(queue);
            return;
        }
        slot.refused = None;
        slot.backing = Backing::Hardware(queue);
        if let Some(registers) = self.vcmdqs.get_mut(queue.vcmdq) {
            registers.discard_run();
            restore(registers, host, lvcmdq);
        }
    }
}

/// Disables a queue in hardware and saves its registers.
fn stop_and_save<P: Host>(registers: &mut Vcmdq, host: &mut P, lvcmdq: usize) {
    for register in [Page0::Config, Page0::Prod] {
        registers.restore(register, host.read(lvcmdq, register));
    }
    host.write(lvcmdq, Page0::Config, 0);
    host.wait_until_stopped(lvcmdq);
    for register in SAVED {
        registers.restore(register, host.read(lvcmdq, register));
    }
    registers.discard_run();
}

/// Gives a queue in hardware the registers of one in software, which has no active error.
fn restore<P: HostPage>(registers: &Vcmdq, page: &mut P, lvcmdq: usize) {
    // One of an earlier queue's would keep this one from starting.
    let gerror = page.read(lvcmdq, Page0::Gerror) & Page0::Gerror.defined();
    page.write(lvcmdq, Page0::Gerrorn, gerror);
    // The queue starts with the last one.
    for register in [Page0::Cons, Page0::Prod, Page0::Config] {
        let value = registers.get(register) & register.writable();
        page.write(lvcmdq, register, value);
    }
}
