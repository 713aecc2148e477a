// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The backend of the Command queue without a host SMMU: the device's own caches, and device
//! IOTLBs. Beside a host it executes the same commands, for emulated devices.

use smmuv3::{
    batch::{HostError, MAX_BATCH},
    cmdq::Backend,
    command::Invalidation,
    ste::StreamConfig,
};

use super::notify::{invalidate_atc, invalidate_configs, invalidate_tlb, NotifiedFunctions};
use crate::{deadline::TimeSlice, eventq::PendingEvents, irq::IrqLines, state::GuestState};

/// The device's own caches as the target of commands. They never fail.
///
/// Once something is invalidated, no fault of a stale translation is still to come
/// ([`Translator`](super::Translator) sees to it), and the pending events are recorded: so they
/// are there before the `CMD_SYNC` that follows completes (§4.7.3).
pub struct SoftwareBackend<'a> {
    state: &'a GuestState,
    notified: &'a NotifiedFunctions,
    events: &'a PendingEvents,
    irqs: &'a IrqLines,
    slice: TimeSlice,
    batch_limit: usize,
}

impl<'a> SoftwareBackend<'a> {
    /// Returns the backend for one run of the consumer.
    pub fn new(
        state: &'a GuestState,
        notified: &'a NotifiedFunctions,
        events: &'a PendingEvents,
        irqs: &'a IrqLines,
    ) -> Self {
        let mut slice = TimeSlice::new();
        // Each notification can be a message that vhost's process takes its time to
        // answer, while the Big QEMU Lock is held.
        let batch_limit = if notified.is_empty() {
            MAX_BATCH
        } else {
            slice.note_delay();
            1
        };
        Self {
            state,
            notified,
            events,
            irqs,
            slice,
            batch_limit,
        }
    }
}

impl Backend for SoftwareBackend<'_> {
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        let is_tlbi = |command: &Invalidation| matches!(command, Invalidation::Tlbi(_));
        for run in commands.chunk_by(|a, b| is_tlbi(a) && is_tlbi(b)) {
            match run {
                [Invalidation::Cfgi(cfgi)] => {
                    invalidate_configs(self.state, self.notified, cfgi.sid(), cfgi.sid());
                }
                [Invalidation::AtcInv(atc)] => invalidate_atc(self.notified, atc),
                _ => invalidate_tlb(self.state, self.notified, run),
            }
        }
        self.events.flush(self.state, self.irqs);
        Ok(())
    }

    fn invalidate_configurations(&mut self, first: u32, last: u32) {
        invalidate_configs(self.state, self.notified, first, last);
        self.events.flush(self.state, self.irqs);
    }

    fn next_stream(&mut self, _first: u32, _last: u32) -> Option<u32> {
        // there is nothing to attach
        None
    }

    fn has_vdevice(&mut self, _sid: u32) -> bool {
        // the configuration of any stream may be cached
        true
    }

    fn set_stream(&mut self, _sid: u32, _config: &StreamConfig) -> bool {
        false
    }

    fn quarantine(&mut self, _sid: u32) {}

    fn fail_closed(&mut self) {}

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    fn deadline_expired(&mut self) -> bool {
        self.slice.is_over()
    }

    fn is_gone(&mut self) -> bool {
        false
    }
}
