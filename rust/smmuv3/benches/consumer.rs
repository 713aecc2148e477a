// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What the consumer costs per command.

fn main() {
    divan::main();
}
