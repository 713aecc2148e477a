// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Statistics of a run.

use std::{fmt, time::Duration};

/// The counts of a run.
#[derive(Default)]
pub struct Report {
    pub guests: u64,
    pub steps: u64,
    /// Random register accesses
    pub accesses: u64,
    pub commands: u64,
    /// Invalidations that were checked in the host, or by a device's DMA
    pub invalidations: u64,
    /// Of these, those that were lost
    pub lost: u64,
    /// Ranges into which QEMU has merged invalidations
    pub ranges: u64,
    pub command_errors: u64,
    /// Commands that hardware queues have executed
    pub hardware_commands: u64,
    /// Calls of the host that failed
    pub failures: u64,
    /// Files of the host that were lost
    pub lost_files: u64,
    /// Events that the host reported, valid or not
    pub events: u64,
    pub transactions: u64,
    pub resets: u64,
    pub stops: u64,
    pub plugged: u64,
    pub unplugged: u64,
    pub endpoints: u64,
    pub migrations: u64,
    /// How often the attachment of every device was checked
    pub checks: u64,
    /// Guests after which files, host objects and memory were checked
    pub counted: u64,
    /// Largest growth of QEMU's memory, in KiB
    pub growth: u64,
    /// Longest time that QEMU took to answer
    pub silence: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("guests", self.guests),
            ("steps", self.steps),
            ("random register accesses", self.accesses),
            ("commands consumed", self.commands),
            ("  that stopped the queue", self.command_errors),
            ("commands executed by hardware", self.hardware_commands),
            ("invalidations checked", self.invalidations),
            ("  lost", self.lost),
            ("ranges that QEMU has merged", self.ranges),
            ("host errors", self.failures),
            ("host files lost", self.lost_files),
            ("host events", self.events),
            ("transactions of emulated devices", self.transactions),
            ("system resets", self.resets),
            ("machine stops", self.stops),
            ("devices plugged in", self.plugged),
            ("devices unplugged", self.unplugged),
            ("changes of emulated endpoints", self.endpoints),
            ("migrations", self.migrations),
            ("checks of every attachment", self.checks),
            ("guests checked for leaks", self.counted),
            ("  largest growth of memory (KiB)", self.growth),
        ] {
            writeln!(f, "  {what:<36} {count:>10}")?;
        }
        let silence = self.silence.as_secs_f64() * 1000.0;
        writeln!(f, "  {:<36} {silence:>10.1}", "longest QMP reply (ms)")
    }
}
