// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The tests of `software` about stage 1, with accel=on: the same tables, commands and records,
//! for an emulated device behind an accelerated SMMU.
//!
//! An SMMU with accel=on has no stage 2, so machines with another stage have none here either:
//! modules about them alone are left out, and the one about commands for EL2, which accel=on
//! does not tolerate because no host does.

// of modules that are left out
#![allow(dead_code)]

/// Properties of an SMMU with stage 1.
const STAGE1: &str = smmuv3_qtest::emulated::ACCEL;

#[path = "../software/bench.rs"]
mod bench;
#[path = "../software/configuration.rs"]
mod configuration;
#[path = "../software/entries.rs"]
mod entries;
#[path = "../software/event_queue.rs"]
mod event_queue;
#[path = "../software/guest_errors.rs"]
mod guest_errors;
#[path = "../software/hostile_guest.rs"]
mod hostile_guest;
#[path = "../software/illegal_config.rs"]
mod illegal_config;
#[path = "../software/invalidation.rs"]
mod invalidation;
#[path = "../software/range_invalidation.rs"]
mod range_invalidation;
#[path = "../software/record.rs"]
mod record;
#[path = "../software/record_merging.rs"]
mod record_merging;
#[path = "../software/reset.rs"]
mod reset;
#[path = "../software/stage1.rs"]
mod stage1;
#[path = "../software/stage1_faults.rs"]
mod stage1_faults;
#[path = "../software/stream_table.rs"]
mod stream_table;
#[path = "../software/streams.rs"]
mod streams;
#[path = "../software/tables.rs"]
mod tables;
#[path = "../software/topology.rs"]
mod topology;
