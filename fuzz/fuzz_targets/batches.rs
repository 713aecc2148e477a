// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Batches of commands, and the same commands one by one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::batches::Case;

fuzz_target!(|case: Case| case.check());
