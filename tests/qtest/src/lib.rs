// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A client for QEMU as a test bench: it starts a binary, drives its devices
//! through the qtest protocol, sends QMP commands, and checks the exit status.
//!
//! Everything here is for tests: failures panic with the command line and
//! QEMU's standard error. Every wait has a time limit, and QEMU does not
//! outlive the [`Machine`] that stands for it.

pub mod assigned;
pub mod binary;
pub mod cmdqv;
pub mod command;
pub mod edu;
pub mod emulated;
pub mod fw_cfg;
pub mod journal;
mod line;
pub mod machine;
pub mod migration;
pub mod pci;
pub mod process;
pub mod qmp;
pub mod qtest;
pub mod random;
pub mod root_port;
pub mod smmu;
pub mod tables;
pub mod translated;
pub mod update;
pub mod vcpus;
pub mod virtio;
mod wait;

pub use binary::{qemu, qemu_c, qemu_testbed, sanitizer};
pub use edu::{Access, Edu};
pub use machine::Machine;
pub use process::{Builder, Finished};
pub use random::Random;
pub use root_port::RootPort;
pub use smmu::Smmu;
pub use wait::{until, TIMEOUT};
