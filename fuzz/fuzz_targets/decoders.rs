// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands, table entries and event records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::decoders::Words;

fuzz_target!(|case: Words| case.check());
