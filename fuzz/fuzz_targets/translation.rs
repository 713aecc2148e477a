// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software, its caches, and commands that invalidate.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::translation::Session;

fuzz_target!(|case: Session| case.check());
