// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host with its order of allocation and release.

use std::collections::BTreeSet;

use smmuv3::cmdqv::{Assignment, Host, HostPage, Page0, QUEUES};

/// A call, as far as a guest could see its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Show,
    Hide,
    Allocate(usize, u64),
    Refuse(usize, u64),
    Stop(usize),
    Release(usize),
    Keep(usize),
}

/// A queue of the host: its registers by their order in [`Page0::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostQueue {
    pub queue: Assignment,
    registers: [u32; 6],
}

impl HostQueue {
    pub fn get(&self, register: Page0) -> u32 {
        self.registers[register as usize]
    }

    pub fn set(&mut self, register: Page0, value: u32) {
        self.registers[register as usize] = value;
        if register == Page0::Config {
            self.registers[Page0::Status as usize] = value & 1;
        }
    }
}

#[derive(Default)]
pub struct TestHost {
    pub queues: [Option<HostQueue>; QUEUES],
    /// Queues that are disabled, but were not released.
    pub kept: [bool; QUEUES],
    /// Addresses of queues that are refused.
    pub refused: BTreeSet<u64>,
    /// LVCMDQs that are not released.
    pub is_busy: [bool; QUEUES],
    /// `GERROR` and `GERRORN` of the next queue.
    pub left_over: [u32; 2],
    pub is_shown: bool,
    pub calls: Vec<Call>,
}

impl TestHost {
    /// Returns the calls since the last time.
    pub fn take_calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.calls)
    }

    /// Returns the registers of a queue in hardware.
    ///
    /// # Panics
    ///
    /// If the host has none for this LVCMDQ.
    pub fn queue(&mut self, lvcmdq: usize) -> &mut HostQueue {
        self.queues[lvcmdq].as_mut().expect("a queue in hardware")
    }
}

impl HostPage for TestHost {
    fn read(&mut self, lvcmdq: usize, register: Page0) -> u32 {
        self.queue(lvcmdq).get(register)
    }

    fn write(&mut self, lvcmdq: usize, register: Page0, value: u32) {
        assert!(
            !matches!(register, Page0::Status | Page0::Gerror),
            "{register:?} is read-only"
        );
        self.queue(lvcmdq).set(register, value);
    }
}

impl Host for TestHost {
    fn show_page(&mut self, is_visible: bool) {
        assert_ne!(self.is_shown, is_visible, "only changes");
        self.is_shown = is_visible;
        self.calls
            .push(if is_visible { Call::Show } else { Call::Hide });
    }

    fn allocate(&mut self, lvcmdq: usize, queue: &Assignment) -> bool {
        assert!(!self.is_shown, "allocated while the page is visible");
        assert_eq!(self.queues[lvcmdq], None, "EEXIST");
        assert!(!self.kept[lvcmdq], "EEXIST");
        let below = lvcmdq.checked_sub(1).map(|below| self.queues[below]);
        assert_ne!(below, Some(None), "EIO");
        if self.refused.contains(&queue.address) {
            self.calls.push(Call::Refuse(lvcmdq, queue.address));
            return false;
        }
        self.calls.push(Call::Allocate(lvcmdq, queue.address));
        let mut new = HostQueue {
            queue: *queue,
            registers: [0; 6],
        };
        new.set(Page0::Gerror, self.left_over[0]);
        new.set(Page0::Gerrorn, self.left_over[1]);
        self.queues[lvcmdq] = Some(new);
        true
    }

    fn wait_until_stopped(&mut self, lvcmdq: usize) {
        assert_eq!(self.queue(lvcmdq).get(Page0::Config), 0, "not disabled");
        self.calls.push(Call::Stop(lvcmdq));
    }

    fn release(&mut self, lvcmdq: usize) -> bool {
        assert!(!self.is_shown, "released while the page is visible");
        assert!(self.queues[lvcmdq].take().is_some() || self.kept[lvcmdq]);
        let is_needed = (lvcmdq + 1..QUEUES).any(|l| self.queues[l].is_some() || self.kept[l]);
        self.kept[lvcmdq] = self.is_busy[lvcmdq] || is_needed;
        let call = if self.kept[lvcmdq] {
            Call::Keep
        } else {
            Call::Release
        };
        self.calls.push(call(lvcmdq));
        !self.kept[lvcmdq]
    }
}
