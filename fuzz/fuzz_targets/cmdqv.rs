// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file of CMDQ virtualization, and its queues.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::cmdqv::Life;

fuzz_target!(|case: Life| case.check());
