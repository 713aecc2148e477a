// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software (3.3, 3.4, chapter 15): configuration, walks, the
//! events that they end with, and the cache entries that they leave.

mod caches;
mod configuration;
mod nested;
mod random;
mod reference;
mod stage1;
mod stage2;
mod threads;
