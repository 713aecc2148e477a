// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which binaries are tested.

use std::{env, path::PathBuf};

/// The binary with the Rust device, from `QEMU_BIN`.
///
/// # Panics
///
/// If the variable does not name a file: a test without its subject has failed.
pub fn qemu() -> PathBuf {
    named("QEMU_BIN", "qemu-system-aarch64 with the Rust arm-smmuv3")
}

/// The same QEMU with the C device, from `QEMU_C_BIN`.
///
/// # Panics
///
/// As [`qemu`].
pub fn qemu_c() -> PathBuf {
    named(
        "QEMU_C_BIN",
        "qemu-system-aarch64 of the same sources, configured with --disable-rust",
    )
}

fn named(variable: &str, what: &str) -> PathBuf {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    let Some(path) = value.map(PathBuf::from) else {
        panic!("{variable} is not set: it has to name a {what}");
    };
    assert!(
        path.is_file(),
        "{variable} names {}, which is not a file: it has to be a {what}",
        path.display()
    );
    path
}
