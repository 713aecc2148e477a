// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The log of the guest's errors (`-d guest_errors`).
//!
//! A guest can cause any number of them, and the log is a file of the host: each kind has one
//! line a second at most.

use std::{
    ffi::{CStr, CString},
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use qemu_ext::log;
use smmuv3::{event::EventType, translation::BadConfig};

::trace::include_trace!("hw_arm");

/// Limits lines to one a second.
#[derive(Debug, Default)]
struct RateLimit(Mutex<Option<Instant>>);

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Returns whether a line may be written now, and counts it if so.
    fn permits(&self) -> bool {
        // nothing panics while it is locked, and if it did, every value is valid
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let permitted = last.is_none_or(|last| last.elapsed() >= Self::INTERVAL);
        if permitted {
            *last = Some(Instant::now());
        }
        permitted
    }
}

/// Logs what the guest of one SMMU does wrong. Does not need the BQL.
#[derive(Debug, Default)]
pub struct GuestErrors {
    /// The SMMU's name for users
    name: OnceLock<String>,
    configurations: RateLimit,
    faults: RateLimit,
    writes: RateLimit,
    commands: RateLimit,
}

impl GuestErrors {
    /// Sets the name by which the user knows the SMMU.
    pub fn set_name(&self, name: String) {
        // a device is realized once
        let _ = self.name.set(name);
    }

    fn log(&self, limit: &RateLimit, message: fmt::Arguments<'_>) {
        if log::is_enabled() && limit.permits() {
            let name = self.name.get().map_or("arm-smmuv3", String::as_str);
            log::guest_error(format_args!("{name}: {message}"));
        }
    }

    /// Reports that the configuration of a stream is ILLEGAL. The guest gets `C_BAD_STE` or
    /// `C_BAD_CD` at most, and neither has room for the reason (§7.3.5, §7.3.11).
    pub fn bad_config(&self, stream_id: u32, reason: BadConfig) {
        if trace::trace_smmuv3_illegal_config_enabled() {
            let text = CString::new(reason.to_string()).unwrap_or_default();
            trace::trace_smmuv3_illegal_config(stream_id, &text);
        }
        let kind = match reason {
            BadConfig::Ste(_) => "STE",
            BadConfig::Cd(_) => "CD",
        };
        self.log(
            &self.configurations,
            format_args!("the {kind} of StreamID {stream_id:#x} is ILLEGAL: {reason}"),
        );
    }

    /// Reports that an access of an emulated function has no translation.
    pub fn fault(&self, stream_id: u32, iova: u64, event: EventType) {
        self.log(
            &self.faults,
            format_args!("no translation of {iova:#x} for StreamID {stream_id:#x}: {event:?}"),
        );
    }

    /// Reports a write of a register that the specification does not permit.
    pub fn bad_write(&self, offset: u64, value: u64, reason: &str) {
        self.log(
            &self.writes,
            format_args!("{reason} (write of {value:#x} to {offset:#x})"),
        );
    }

    /// Reports a write of a register of CMDQ virtualization that has no effect.
    pub fn bad_cmdqv_write(&self, offset: u64, value: u64, reason: &str) {
        self.log(
            &self.writes,
            format_args!("CMDQV: {reason} (write of {value:#x} to {offset:#x})"),
        );
    }

    /// Reports an ILLEGAL command about EL2 that is consumed all the same.
    pub fn tolerated_command(&self, name: &CStr) {
        let name = name.to_string_lossy();
        self.log(
            &self.commands,
            format_args!("{name} is ILLEGAL because IDR0.Hyp is 0; everything is invalidated"),
        );
    }
}
