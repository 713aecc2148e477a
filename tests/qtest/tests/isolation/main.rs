// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Assigned devices on a simulated host: each device is always attached to what
//! the guest's registers and tables select.

use smmuv3_qtest::{assigned as bench, journal};

mod accel_off;
mod attach_retry;
mod cd2l_and_vax;
mod collected;
mod concurrent_hotplug;
mod device_memory;
mod emulated;
mod events;
mod host_features;
mod hotplug;
mod invalidation;
mod lost_fds;
mod lost_host;
mod multiple_smmus;
mod quarantine;
mod random_guest;
mod recovery;
mod refused_calls;
mod reset;
mod simulated_host;
mod smmuen;
mod ste_changes;
mod trace_events;
