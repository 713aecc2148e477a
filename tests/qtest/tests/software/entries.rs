// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stream table entries and Context descriptors, built from their fields.

use crate::tables::Tables;

/// A field of an entry: index of its 64-bit word, lowest bit, width.
#[derive(Clone, Copy, Debug)]
pub struct Field(usize, u32, u32);

impl Field {
    const fn mask(self) -> u64 {
        ((1 << self.2) - 1) << self.1
    }
}

/// The eight words of a Stream table entry or a Context descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry(pub [u64; 8]);

/// Bytes in an entry.
pub const BYTES: u64 = 64;

impl Entry {
    /// Returns the entry with another value in a field.
    pub fn with(mut self, field: Field, value: u64) -> Self {
        let Field(word, low, width) = field;
        assert!(value < 1 << width, "{value:#x} does not fit {field:?}");
        self.0[word] = self.0[word] & !field.mask() | (value << low);
        self
    }

    /// Returns the entry with an address in a field of address bits. Such a
    /// field starts at the same bit as in the address.
    pub fn with_address(mut self, field: Field, address: u64) -> Self {
        assert_eq!(address & !field.mask(), 0, "{address:#x} in {field:?}");
        self.0[field.0] = self.0[field.0] & !field.mask() | address;
        self
    }

    /// Returns the bytes of the entry in memory.
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// Stream table entries (§5.2).
pub mod ste {
    use super::{Entry, Field, Tables};

    pub const V: Field = Field(0, 0, 1);
    pub const CONFIG: Field = Field(0, 1, 3);
    pub const S1_CONTEXT_PTR: Field = Field(0, 6, 50);
    pub const S1_FMT: Field = Field(0, 4, 2);
    pub const S1_CD_MAX: Field = Field(0, 59, 5);
    pub const S1_DSS: Field = Field(1, 0, 2);
    pub const S1_CIR_COR_CSH: Field = Field(1, 2, 6);
    pub const S1_STALLD: Field = Field(1, 27, 1);
    pub const EATS: Field = Field(1, 28, 2);
    pub const STRW: Field = Field(1, 30, 2);
    /// `MemAttr`, `MTCFG`, `ALLOCCFG`
    pub const MEMORY: Field = Field(1, 32, 9);
    pub const SHCFG: Field = Field(1, 44, 2);
    pub const PRIVCFG: Field = Field(1, 48, 2);
    pub const INSTCFG: Field = Field(1, 50, 2);
    pub const S2_VMID: Field = Field(2, 0, 16);
    pub const S2_T0SZ: Field = Field(2, 32, 6);
    pub const S2_SL0: Field = Field(2, 38, 2);
    /// `S2IR0`, `S2OR0`, `S2SH0`
    pub const S2_CACHING: Field = Field(2, 40, 6);
    pub const S2_TG: Field = Field(2, 46, 2);
    pub const S2_PS: Field = Field(2, 48, 3);
    pub const S2_AA64: Field = Field(2, 51, 1);
    pub const S2_ENDI: Field = Field(2, 52, 1);
    pub const S2_AFFD: Field = Field(2, 53, 1);
    pub const S2_PTW: Field = Field(2, 54, 1);
    pub const S2_HD: Field = Field(2, 55, 1);
    pub const S2_HA: Field = Field(2, 56, 1);
    pub const S2_S: Field = Field(2, 57, 1);
    pub const S2_R: Field = Field(2, 58, 1);
    pub const S2_TTB: Field = Field(3, 4, 48);

    /// The VMID of these STEs.
    pub const VMID: u16 = 3;

    /// Returns a valid entry with this `Config`.
    pub fn of(config: u64) -> Entry {
        Entry::default().with(V, 1).with(CONFIG, config)
    }

    /// Returns an STE that aborts without a record.
    pub fn abort() -> Entry {
        of(0b000)
    }

    /// Returns an STE that bypasses.
    pub fn bypass() -> Entry {
        of(0b100)
    }

    /// Returns an STE of stage 1 alone, with its CD at `context`.
    pub fn stage1(context: u64) -> Entry {
        of(0b101).with_address(S1_CONTEXT_PTR, context)
    }

    /// Returns an STE of stage 2 alone.
    pub fn stage2(tables: &Tables<'_>) -> Entry {
        of(0b110)
            .with(S2_VMID, VMID.into())
            .with(S2_T0SZ, tables.size_field())
            .with(S2_SL0, tables.start_field())
            .with(S2_TG, tables.granule.tg0())
            .with(S2_PS, 0b100)
            .with(S2_AA64, 1)
            .with(S2_R, 1)
            .with_address(S2_TTB, tables.base())
    }

    /// Returns an STE of both stages; `context` is an IPA.
    pub fn nested(context: u64, tables: &Tables<'_>) -> Entry {
        stage2(tables)
            .with(CONFIG, 0b111)
            .with_address(S1_CONTEXT_PTR, context)
    }
}

/// Context descriptors (§5.4).
pub mod cd {
    use super::{Entry, Field, Tables};

    pub const T0SZ: Field = Field(0, 0, 6);
    pub const TG0: Field = Field(0, 6, 2);
    /// `IR0`, `OR0`, `SH0`
    pub const CACHING0: Field = Field(0, 8, 6);
    pub const EPD0: Field = Field(0, 14, 1);
    pub const ENDI: Field = Field(0, 15, 1);
    pub const T1SZ: Field = Field(0, 16, 6);
    pub const TG1: Field = Field(0, 22, 2);
    pub const EPD1: Field = Field(0, 30, 1);
    pub const V: Field = Field(0, 31, 1);
    pub const IPS: Field = Field(0, 32, 3);
    pub const WXN_UWXN: Field = Field(0, 36, 2);
    pub const AFFD: Field = Field(0, 35, 1);
    pub const TBI0: Field = Field(0, 38, 1);
    pub const TBI1: Field = Field(0, 39, 1);
    pub const PAN: Field = Field(0, 40, 1);
    pub const AA64: Field = Field(0, 41, 1);
    pub const HD: Field = Field(0, 42, 1);
    pub const HA: Field = Field(0, 43, 1);
    pub const S: Field = Field(0, 44, 1);
    pub const R: Field = Field(0, 45, 1);
    pub const A: Field = Field(0, 46, 1);
    pub const ASET: Field = Field(0, 47, 1);
    pub const ASID: Field = Field(0, 48, 16);
    pub const HAD0: Field = Field(1, 1, 1);
    pub const E0PD0: Field = Field(1, 2, 1);
    pub const TTB0: Field = Field(1, 4, 48);
    pub const MAIR0: Field = Field(3, 0, 32);
    pub const HAD1: Field = Field(2, 1, 1);
    pub const TTB1: Field = Field(2, 4, 48);

    /// The ASID of these CDs.
    pub const NUMBER: u16 = 7;

    /// Returns a CD that records faults, with 44 output bits and both halves
    /// disabled.
    fn empty() -> Entry {
        Entry::default()
            .with(V, 1)
            .with(AA64, 1)
            .with(EPD0, 1)
            .with(EPD1, 1)
            .with(IPS, 0b100)
            .with(A, 1)
            .with(R, 1)
            .with(ASID, NUMBER.into())
    }

    /// Returns a CD that translates the lower half by `tables`.
    pub fn lower(tables: &Tables<'_>) -> Entry {
        and_lower(empty(), tables)
    }

    /// Returns a CD that translates the upper half by `tables`.
    pub fn upper(tables: &Tables<'_>) -> Entry {
        and_upper(empty(), tables)
    }

    fn and_lower(entry: Entry, tables: &Tables<'_>) -> Entry {
        entry
            .with(EPD0, 0)
            .with(T0SZ, tables.size_field())
            .with(TG0, tables.granule.tg0())
            .with_address(TTB0, tables.base())
    }

    /// Returns `entry` with the upper half translated by `tables`, too.
    pub fn and_upper(entry: Entry, tables: &Tables<'_>) -> Entry {
        entry
            .with(EPD1, 0)
            .with(T1SZ, tables.size_field())
            .with(TG1, tables.granule.tg1())
            .with_address(TTB1, tables.base())
    }
}
