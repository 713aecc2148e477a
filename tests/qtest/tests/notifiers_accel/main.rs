// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The tests of `notifiers`, with accel=on: vhost behind an accelerated SMMU. Machines with
//! stage 2 have accel=off here, too, as accel=on has none.

/// Properties of an SMMU with stage 1.
const STAGE1: &str = smmuv3_qtest::emulated::ACCEL;

#[path = "../notifiers/backend.rs"]
mod backend;
#[path = "../notifiers/bench.rs"]
mod bench;
#[path = "../notifiers/clients.rs"]
mod clients;
#[path = "../notifiers/trace_events.rs"]
mod trace_events;
#[path = "../notifiers/translation.rs"]
mod translation;
#[path = "../notifiers/unmap.rs"]
mod unmap;
