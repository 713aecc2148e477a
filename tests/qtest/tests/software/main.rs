// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software: DMA of an emulated device behind an SMMU without
//! acceleration. Tables, descriptors and expected records follow the
//! specification, not the device's code.

/// Properties of an SMMU with stage 1.
const STAGE1: &str = "stage=1";

mod bench;
mod commands;
mod configuration;
mod differential;
mod entries;
mod event_queue;
mod guest_errors;
mod hostile_guest;
mod illegal_config;
mod invalidation;
mod nested;
mod random_guest;
mod range_invalidation;
mod record;
mod record_merging;
mod reset;
mod sbsa;
mod stage1;
mod stage1_faults;
mod stage2;
mod stage2_faults;
mod stream_table;
mod streams;
mod tables;
mod topology;
mod trace_events;
