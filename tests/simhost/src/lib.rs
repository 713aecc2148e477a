// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A simulated host for an unmodified QEMU.
//!
//! QEMU is started with this library in `LD_PRELOAD` and is given memfds as
//! `-object iommufd,fd=N` and `-device vfio-pci,fd=M,...`. Calls on file
//! descriptors whose memfd is named [`file::IOMMUFD_PREFIX`] or
//! [`file::DEVICE_PREFIX`] are handled by a model of Linux's
//! /dev/iommu and of the cdev of an assigned device behind an `SMMUv3`; every
//! other call goes to the kernel.
//!
//! A test and the library communicate through the directory that the
//! environment variable `SIMHOST_DIR` names:
//!
//! * `script`, written by the test at any time, read before every call that is
//!   simulated: the machine ([`script`]) and the failures to inject;
//! * `log`, written by the library before the call returns: every call with its
//!   arguments and its result, every object that is created or destroyed, and the
//!   HWPT of each device after each change ([`log`]);
//! * `veventq-*`, sockets, one for every virtual event queue that QEMU has open:
//!   QEMU reads the datagrams that the test sends.
//!
//! A host is used by one process, unless its script says `shared`: then QEMUs with the same
//! `SIMHOST_DIR` are on one host, and one can hand its files to another one (`shared`).
//!
//! The pages of CMDQ virtualization are in the iommufd's memfd, which the test
//! has too ([`cmdqv`]).

#![deny(unsafe_code)]

pub mod cmdqv;
pub mod errno;
#[cfg(not(test))]
#[allow(unsafe_code)]
mod ffi;
pub mod file;
pub mod given;
pub mod host;
pub mod invalidation;
mod iommufd;
pub mod log;
pub mod memory;
pub mod migration;
pub mod objects;
pub mod pci;
pub mod script;
mod shared;
pub mod smmu;
mod stored;
mod uapi;
mod vfio;
