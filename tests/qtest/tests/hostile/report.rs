// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What was done to devices, and how they took it.

use std::{fmt, time::Duration};

/// Counts of a run.
#[derive(Default)]
pub struct Report {
    pub guests: u64,
    pub steps: u64,
    /// Accesses to registers of no purpose
    pub accesses: u64,
    pub commands: u64,
    /// Invalidations that were looked for in the host, or in what devices do
    pub invalidations: u64,
    /// Of these, those that were not there
    pub lost: u64,
    pub command_errors: u64,
    /// Calls of the host that failed
    pub failures: u64,
    /// Files of the host that died
    pub deaths: u64,
    /// Events that the host reported, good and bad
    pub events: u64,
    pub transactions: u64,
    pub resets: u64,
    pub stops: u64,
    pub plugged: u64,
    pub unplugged: u64,
    pub moves: u64,
    /// How often every device was exactly where the guest had said
    pub checks: u64,
    /// Guests at whose end files, the host's objects and memory were counted
    pub counted: u64,
    /// By how much QEMU's memory grew at most, in KiB
    pub growth: u64,
    /// The longest time that QEMU took to answer
    pub silence: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("guests", self.guests),
            ("steps", self.steps),
            ("accesses to registers at random", self.accesses),
            ("commands consumed", self.commands),
            ("  that stopped the queue", self.command_errors),
            ("invalidations followed", self.invalidations),
            ("  lost", self.lost),
            ("failures of the host", self.failures),
            ("deaths of the host's files", self.deaths),
            ("events of the host", self.events),
            ("transactions of emulated devices", self.transactions),
            ("system resets", self.resets),
            ("stops of the machine", self.stops),
            ("devices plugged in", self.plugged),
            ("devices unplugged", self.unplugged),
            ("machines moved", self.moves),
            ("checks of where every device is", self.checks),
            ("ends with nothing left behind", self.counted),
            ("  most growth of memory (KiB)", self.growth),
        ] {
            writeln!(f, "  {what:<36} {count:>10}")?;
        }
        let silence = self.silence.as_secs_f64() * 1000.0;
        writeln!(f, "  {:<36} {silence:>10.1}", "longest answer of QMP (ms)")
    }
}
