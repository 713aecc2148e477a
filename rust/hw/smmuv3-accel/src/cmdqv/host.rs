// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's part: its queues, and its page.

use std::time::{Duration, Instant};

use hwcore::prelude::*;
use qemu_ext::{error::report, memory, page_window::PageWindow, qdev::DeviceExt};
use smmuv3::cmdqv::{Assignment, Host, HostPage, Page0};
use system::MemoryRegion;
use util::Error;

use super::counters::{count, CmdqvCounters};
use crate::accel::{ErrorRateLimit, Viommu};

/// The time for a queue that was disabled to stop. The host waits again, much longer.
const STOP_TIME: Duration = Duration::from_millis(10);

/// The time that releases of queues take.
///
/// They run under the Big QEMU Lock, and a guest can cause any number, so the share of the time
/// that slow ones take is bounded: after one, [`Self::SHARE`] times its duration passes before
/// the host is asked for another queue, or to release one again that it has kept.
#[derive(Debug, Default)]
pub struct Releases {
    /// Failures are reported once
    reports: ErrorRateLimit,
    /// End and duration of the last slow one
    slow: Option<(Instant, Duration)>,
    /// The last one has failed
    has_failed: bool,
}

impl Releases {
    /// Releases that take less than this are no matter: even on a busy machine they take less.
    const SLOW: Duration = Duration::from_millis(100);
    /// Multiple of a slow release's duration that passes before another one can be caused.
    const SHARE: u32 = 10;

    /// Notes a release.
    fn note(&mut self, duration: Duration, is_released: bool) {
        self.has_failed = !is_released;
        if duration >= Self::SLOW {
            self.slow = Some((Instant::now(), duration));
        }
    }

    /// Returns whether the time for slow releases is used up.
    fn is_exhausted(&self) -> bool {
        self.slow
            .is_some_and(|(ended, took)| ended.elapsed() < took.saturating_mul(Self::SHARE))
    }
}

/// The host's page, through the window.
pub struct WindowPage(pub &'static PageWindow);

impl HostPage for WindowPage {
    fn read(&mut self, lvcmdq: usize, register: Page0) -> u32 {
        self.0.read_u32(register.offset_of(lvcmdq) as usize)
    }

    fn write(&mut self, lvcmdq: usize, register: Page0, value: u32) {
        self.0.write_u32(register.offset_of(lvcmdq) as usize, value);
    }
}

/// The host, while its queues change.
pub struct HostQueues<'a> {
    /// None while there is no device
    pub viommu: Option<&'a mut Viommu>,
    pub page: WindowPage,
    pub region: &'a MemoryRegion,
    pub counters: &'a mut CmdqvCounters,
    pub refusals: &'a mut ErrorRateLimit,
    pub releases: &'a mut Releases,
    pub smmu: &'a DeviceState,
}

impl HostPage for HostQueues<'_> {
    fn read(&mut self, lvcmdq: usize, register: Page0) -> u32 {
        self.page.read(lvcmdq, register)
    }

    fn write(&mut self, lvcmdq: usize, register: Page0, value: u32) {
        self.page.write(lvcmdq, register, value);
    }
}

impl HostQueues<'_> {
    /// Reports why a queue stays in software.
    fn report_refusal(&mut self, message: String) {
        if self.refusals.failure() {
            report(&Error::msg(message));
        }
    }
}

impl Host for HostQueues<'_> {
    fn show_page(&mut self, is_visible: bool) {
        if is_visible {
            count(&mut self.counters.page_shown);
        }
        memory::set_enabled(self.region, is_visible);
    }

    fn allocate(&mut self, lvcmdq: usize, queue: &Assignment) -> bool {
        let Some(viommu) = self.viommu.as_deref_mut() else {
            return false;
        };
        let Some(vintf) = viommu.vintf.as_mut() else {
            return false;
        };
        // The host pins the memory of its queues. VFIO could not unmap memory that is unplugged,
        // and would end QEMU when other memory is plugged in at the same address.
        if !memory::is_permanent_ram(queue.address, queue.bytes()) {
            count(&mut self.counters.outside_ram);
            self.report_refusal(format!(
                "{}: QEMU executes VCMDQ {lvcmdq}, because its memory is not in the machine's own RAM, which \
                 cannot be unplugged",
                self.smmu.name()
            ));
            return false;
        }
        if self.releases.is_exhausted() {
            count(&mut self.counters.postponed);
            return false;
        }
        match vintf.allocate_queue(&viommu.object, lvcmdq, queue) {
            Ok(()) => {
                count(&mut self.counters.allocations);
                self.refusals.success();
                true
            }
            Err(failure) => {
                count(&mut self.counters.refused);
                self.report_refusal(format!(
                    "{}: QEMU executes VCMDQ {lvcmdq}, because the host refuses it: {failure}",
                    self.smmu.name()
                ));
                false
            }
        }
    }

    fn wait_until_stopped(&mut self, lvcmdq: usize) {
        let begun = Instant::now();
        while self.page.read(lvcmdq, Page0::Status) & 1 != 0 && begun.elapsed() < STOP_TIME {
            std::hint::spin_loop();
        }
    }

    fn release(&mut self, lvcmdq: usize) -> bool {
        let vintf = self
            .viommu
            .as_deref_mut()
            .and_then(|viommu| viommu.vintf.as_mut());
        let Some(vintf) = vintf else {
            return true;
        };
        if self.releases.has_failed && self.releases.is_exhausted() {
            return false;
        }
        let begun = Instant::now();
        let is_released = vintf.release_queue(lvcmdq);
        let duration = begun.elapsed();
        self.releases.note(duration, is_released);
        let duration = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let counters = &mut *self.counters;
        counters.release_ns = counters.release_ns.wrapping_add(duration);
        counters.longest_release_ns = counters.longest_release_ns.max(duration);
        if is_released {
            count(&mut counters.releases);
            self.releases.reports.success();
        } else {
            count(&mut counters.release_failures);
            if self.releases.reports.failure() {
                report(&Error::msg(format!(
                    "{}: the host does not release VCMDQ {lvcmdq}; QEMU executes the \
                     guest's queues until it does",
                    self.smmu.name()
                )));
            }
        }
        is_released
    }
}
