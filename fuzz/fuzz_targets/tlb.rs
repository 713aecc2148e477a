// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The TLB against a list of the entries that may hit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::tlb::Steps;

fuzz_target!(|case: Steps| case.check());
