// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use smmuv3_fuzz::registers::Accesses;

fuzz_target!(|case: Accesses| case.check());
