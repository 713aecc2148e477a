// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Non-secure programming interface of an Arm `SMMUv3`, without any I/O.
//!
//! The crate holds what the architecture specification (Arm IHI 0070) says, NVIDIA's
//! CMDQ virtualization ([`cmdqv`]), and nothing else: the register file, the Command queue, the decoding of
//! commands and of the tables in memory, and the rules by which invalidations
//! are handed to a host SMMU in batches. Memory, host and interrupts are
//! reached through narrow traits ([`GuestMemory`], [`Backend`], [`Interrupts`]), so
//! that the same code runs in an emulator, in a test and in a fuzzer.
//!
//! Section numbers in the documentation are those of IHI 0070.
//!
//! Nothing that a guest, a host or a saved state can put into these functions
//! makes them panic or loop without bound.

#![forbid(unsafe_code)]

mod address;
pub mod batch;
pub mod cd;
pub mod cmdq;
pub mod cmdqv;
pub mod command;
pub mod event;
pub mod eventq;
pub mod features;
pub mod fragment;
pub mod gerror;
pub mod memory;
pub mod queue;
pub mod registers;
pub mod spec;
pub mod ste;
pub mod stream_table;
pub mod translation;

pub use batch::{EioReport, FlushPolicy, HostError};
pub use cd::Cd;
pub use cmdq::{Backend, Cmdq, Interrupts, LocalEffect, Observer, Platform, Progress};
pub use command::{Command, Illegal, Invalidation};
pub use event::Event;
pub use features::Features;
pub use gerror::CommandError;
pub use memory::{BusAbort, GuestMemory};
pub use registers::{Effects, Registers};
pub use ste::{BadSte, Ste, StreamConfig};
pub use stream_table::SteFault;

/// A `StreamID` (§3.2): which device a transaction or a command is about.
pub type StreamId = u32;
