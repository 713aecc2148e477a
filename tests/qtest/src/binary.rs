// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which binaries are tested.

use std::{env, ffi::OsString, path::PathBuf};

/// Returns the binary with the Rust device, from `QEMU_BIN`.
///
/// # Panics
///
/// If the variable does not name a file: a test that has nothing to test has
/// failed.
pub fn qemu() -> PathBuf {
    named("QEMU_BIN", "qemu-system-aarch64 with the Rust arm-smmuv3")
}

/// Returns the same QEMU with the C device, from `QEMU_C_BIN`.
///
/// # Panics
///
/// See [`qemu`].
pub fn qemu_c() -> PathBuf {
    named(
        "QEMU_C_BIN",
        "qemu-system-aarch64 of the same sources, configured with --disable-rust",
    )
}

/// Returns the same QEMU with devices that only tests have, from `QEMU_TESTBED_BIN`.
///
/// # Panics
///
/// See [`qemu`].
pub fn qemu_testbed() -> PathBuf {
    named(
        "QEMU_TESTBED_BIN",
        "qemu-system-aarch64 that scripts/qemu-build x86-testbed has built",
    )
}

/// Returns the runtime of `AddressSanitizer`, from `QEMU_ASAN`, if the binary
/// needs it.
pub fn sanitizer() -> Option<OsString> {
    set("QEMU_ASAN")
}

/// Returns the simulated host, from `SIMHOST`; otherwise the one that cargo
/// puts beside the tests.
///
/// # Panics
///
/// If the device is not there.
pub fn simulated_host() -> PathBuf {
    let own = || {
        let test = env::current_exe().expect("this test's path");
        test.with_file_name("libsmmuv3_simhost.so")
    };
    let path = set("SIMHOST").map_or_else(own, PathBuf::from);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

/// Returns the patterns of trace events in `QEMU_TRACE`, separated by commas.
pub fn traced() -> Vec<String> {
    let patterns = set("QEMU_TRACE").unwrap_or_default();
    let patterns = patterns.to_string_lossy();
    let patterns = patterns.split(',').filter(|pattern| !pattern.is_empty());
    patterns.map(str::to_owned).collect()
}

/// Returns whether each QEMU waits for a debugger, as `QEMU_GDB` requests.
pub fn is_debugged() -> bool {
    set("QEMU_GDB").is_some()
}

fn set(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

fn named(variable: &str, what: &str) -> PathBuf {
    let Some(path) = set(variable).map(PathBuf::from) else {
        panic!("{variable} is not set: it has to name a {what}");
    };
    assert!(
        path.is_file(),
        "{variable} names {}, which is not a file: it has to be a {what}",
        path.display()
    );
    path
}
