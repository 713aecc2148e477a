// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The other side of the Command queue without a host SMMU: the device's own
//! caches, and those who shadow them.

use smmuv3::{
    cmdq,
    command::opcode::{CFGI_CD, CFGI_CD_ALL},
    invalidation::{HostError, MAX_BATCH},
    translation::Invalidation,
};

use crate::{device::Smmuv3, machine::Deadline};

/// The device's own caches as what commands are sent to. They never fail.
///
/// Once something is invalidated no fault of what was before is still to come
/// ([`Smmuv3::translate`] sees to it), and those that waited are recorded: so they
/// are there before the `CMD_SYNC` that follows completes (section 4.7.3).
pub struct LocalHost<'a> {
    device: &'a Smmuv3,
    deadline: Deadline,
    batch_limit: usize,
}

impl<'a> LocalHost<'a> {
    /// The caches of `device`.
    pub fn new(device: &'a Smmuv3) -> Self {
        // Each notification can be a message that vhost's process takes its time to
        // answer, while the Big QEMU Lock is held.
        let is_notified = !device.notified.borrow().is_empty();
        Self {
            device,
            deadline: Deadline::of_a_slice(),
            batch_limit: if is_notified { 1 } else { MAX_BATCH },
        }
    }
}

impl cmdq::Host for LocalHost<'_> {
    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Result<(), HostError> {
        for words in commands {
            let sid = (words[0] >> 32) as u32;
            match Invalidation::of(*words) {
                Some(what) => self.device.invalidate_translations(&what),
                None if matches!(words[0] as u8, CFGI_CD | CFGI_CD_ALL) => {
                    self.device.forget_configurations(sid, sid);
                }
                None => {}
            }
        }
        self.device.record_waiting();
        Ok(())
    }

    fn forget_configurations(&mut self, first: u32, last: u32) {
        self.device.forget_configurations(first, last);
        self.device.record_waiting();
    }

    fn next_stream(&mut self, _first: u32, _last: u32) -> Option<u32> {
        // there is nothing to attach
        None
    }

    fn has_vdevice(&mut self, _sid: u32) -> bool {
        // a configuration may be remembered of every stream
        true
    }

    fn install_ste(&mut self, _sid: u32) -> bool {
        false
    }

    fn quarantine(&mut self, _sid: u32) {}

    fn fail_closed(&mut self) {}

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    fn is_out_of_time(&mut self) -> bool {
        self.deadline.is_over()
    }

    fn gone(&mut self) -> bool {
        false
    }
}
