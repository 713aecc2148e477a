// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Events outside the SMMU, in their order.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The host completed a command.
    Executed([u64; 2]),
    Installed(u32),
    Quarantined(u32),
    FailedClosed,
    /// A `CMD_SYNC` completed, and this is `CMDQ_CONS.RD` before its signal.
    SyncCompleted(u32),
    /// The wired interrupt of a `CMD_SYNC`.
    CmdSync,
    /// An MSI, whether or not it aborted: address and data.
    Msi(u64, u32),
    /// The interrupt of a global error.
    Gerror,
}

/// Shared by all that write into it.
#[derive(Clone, Debug, Default)]
pub struct Log(Rc<RefCell<Vec<Event>>>);

impl Log {
    pub fn push(&self, event: Event) {
        self.0.borrow_mut().push(event);
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.borrow().clone()
    }

    /// The commands that the host completed, in order.
    pub fn executed(&self) -> Vec<[u64; 2]> {
        let command = |event: &Event| match event {
            Event::Executed(words) => Some(*words),
            _ => None,
        };
        self.0.borrow().iter().filter_map(command).collect()
    }

    /// Returns the events that a guest or a device can see, each with the commands that
    /// the host had completed by then.
    pub fn visible(&self) -> Vec<(Option<Event>, BTreeSet<[u64; 2]>)> {
        let mut executed = BTreeSet::new();
        let mut visible = Vec::new();
        for event in self.0.borrow().iter() {
            match event {
                Event::Executed(words) => {
                    executed.insert(*words);
                }
                // When a device is found not to answer depends on the batch.
                Event::Quarantined(_) => {}
                event => visible.push((Some(*event), executed.clone())),
            }
        }
        visible.push((None, executed));
        visible
    }

    /// Returns the commands that the host completed, without order and repetition,
    /// between the events that a guest or a device can see.
    pub fn segments(&self) -> Vec<(Vec<[u64; 2]>, Option<Event>)> {
        let mut segments = Vec::new();
        let mut executed = Vec::new();
        for event in self.0.borrow().iter() {
            match event {
                Event::Executed(words) => executed.push(*words),
                // When a device is found not to answer depends on the batch.
                Event::Quarantined(_) => {}
                visible => {
                    segments.push((std::mem::take(&mut executed), Some(*visible)));
                }
            }
        }
        segments.push((executed, None));
        for (set, _) in &mut segments {
            set.sort_unstable();
            set.dedup();
        }
        segments
    }
}
