// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What users can read while the machine runs: the properties `implementation`, `statistics`,
//! `streams` and `id-registers`. That the counters agree with the simulated host's log is
//! checked by every test of `isolation` when it ends.

mod properties;
mod qmp_events;
mod top;
mod values;
