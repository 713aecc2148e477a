// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The log of calls and objects that a test reads, one event a line.
//!
//! A line is a word and fields `key=value`:
//!
//! * `call op=OP on=FILE ... result=ok|ERRNO`, and what else the call gave; `by=` is the process
//!   that made it, if the host is shared;
//! * `begin op=HWPT_INVALIDATE on=FILE`: a call with a latency (see `script.rs`) is in progress;
//! * `new id=N kind=KIND ...` and `gone id=N kind=KIND`: objects of an iommufd.
//!   Those of CMDQ virtualization are `cmdqv-viommu`, with `vintf=` and the
//!   `offset=` of its page, `cmdqv-veventq`, and `hwqueue`, with `index=`,
//!   `iova=` and `length=`, and `index=` when it is gone;
//! * `device name=D hwpt=N kind=none|s2|abort|bypass|nested ste=W0,W1`: the page
//!   table that a device's transactions now go through; `none` is blocked;
//! * `migration name=D state=S`: a step of the device's migration;
//! * `issue smmu=S n=N cmds=...`: commands that the SMMU has completed, as it
//!   got them;
//! * `trouble ...`: the simulation itself is at a loss. No test expects one.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// The destination of log lines.
#[derive(Debug)]
pub struct Log {
    sink: Sink,
    is_off: bool,
}

#[derive(Debug)]
enum Sink {
    File(File),
    #[cfg(test)]
    Lines(Vec<String>),
}

impl Log {
    /// Appends to the file `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            sink: Sink::File(file),
            is_off: false,
        })
    }

    /// Keeps the lines.
    #[cfg(test)]
    pub const fn in_memory() -> Self {
        Self {
            sink: Sink::Lines(Vec::new()),
            is_off: false,
        }
    }

    /// Returns the lines since the last time.
    #[cfg(test)]
    pub fn take(&mut self) -> Vec<String> {
        match &mut self.sink {
            Sink::File(_) => Vec::new(),
            Sink::Lines(lines) => std::mem::take(lines),
        }
    }

    /// Turns the log off or on.
    pub const fn turn_off(&mut self, is_off: bool) {
        self.is_off = is_off;
    }

    /// Returns whether lines are dropped.
    pub const fn is_off(&self) -> bool {
        self.is_off
    }

    /// Writes a line with one call, so that a reader sees all of it or nothing.
    pub fn line(&mut self, line: impl fmt::Display) {
        if self.is_off {
            return;
        }
        match &mut self.sink {
            Sink::File(file) => {
                // errors cannot be reported here; the test fails because the
                // line is missing
                let _ = file.write_all(format!("{line}\n").as_bytes());
            }
            #[cfg(test)]
            Sink::Lines(lines) => lines.push(line.to_string()),
        }
    }
}

/// Commands or words of an STE, in hexadecimal: `w0:w1;w0:w1`.
#[derive(Debug)]
pub struct Words<'a>(pub &'a [[u64; 2]]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, [word0, word1]) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{word0:#x}:{word1:#x}")?;
        }
        Ok(())
    }
}
