// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The registers that say where a stream's configuration is.

use super::Registers;

/// The registers that decide over every stream (§6.3.9.6, §6.3.14, §6.3.24, §6.3.25).
///
/// Small, so that a translation takes them with it while other threads use the
/// register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTableRegisters {
    /// `STRTAB_BASE`.
    pub strtab_base: u64,
    /// `STRTAB_BASE_CFG`.
    pub strtab_base_cfg: u32,
    /// `CR0.SMMUEN`: streams are checked against the Stream table.
    pub smmu_enabled: bool,
    /// `GBPA.ABORT`: traffic aborts while `SMMUEN` is 0; else it bypasses.
    pub gbpa_abort: bool,
}

impl Registers {
    /// Returns the registers that decide over every stream.
    #[inline]
    pub const fn stream_table(&self) -> StreamTableRegisters {
        StreamTableRegisters {
            strtab_base: self.strtab_base,
            strtab_base_cfg: self.strtab_base_cfg,
            smmu_enabled: self.smmu_enabled(),
            gbpa_abort: self.gbpa_abort(),
        }
    }
}
