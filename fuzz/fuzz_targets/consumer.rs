// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue, its registers and a host, in any order and state.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::consumer::Session;

fuzz_target!(|case: Session| case.check());
