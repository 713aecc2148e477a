// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stream table entries (§5.2).

use core::fmt;

use bilge::prelude::*;

use crate::{
    address::{exceeds, words},
    features::{address_bits, Features},
    spec::{
        mask,
        ste::{Eats, S1Fmt, SteConfig, SteWord0, SteWord1, SteWord2, SteWord3, Tg0},
    },
};

/// Size of a Stream table entry in bytes.
pub const STE_BYTES: usize = 64;

/// A Stream table entry: eight words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ste(pub [u64; 8]);

/// The reason that a Stream table entry is ILLEGAL (§5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadSte {
    /// `V` is 0.
    Invalid,
    /// `Config` asks for stage 1, which is not implemented.
    Stage1,
    /// `Config` asks for stage 2, which is not implemented.
    Stage2,
    /// `S1CDMax` is above `IDR1.SSIDSIZE`.
    CdMax,
    /// `S1Fmt` asks for a two-level table, which is not implemented.
    Format,
    /// `S1ContextPtr` is above the output address size.
    ContextPointer,
    /// `S1STALLD` is set although the Stall model cannot be configured.
    StallDisable,
    /// `EATS` asks for split-stage ATS, which takes two stages.
    Eats,
    /// `STRW` is not NS-EL1.
    StreamWorld,
    /// `S2AA64` asks for VMSAv8-32 tables, which are not implemented.
    Stage2Format,
    /// `S2TG` is Reserved, or a granule that is not implemented.
    Stage2Granule,
    /// `S2T0SZ` is out of range, or does not go with `S2SL0` and `S2TG`.
    Stage2Size,
    /// `S2SL0` does not name a level at which walks can start.
    Stage2Level,
    /// `S2TTB` is above the effective `S2PS`.
    Stage2Table,
    /// `S2ENDI` asks for big-endian tables, which are not implemented.
    Stage2Endianness,
    /// `S2HA` or `S2HD` asks for updates that are not implemented.
    Stage2Updates,
    /// `S2S` asks for stalls, which are not implemented.
    Stage2Stall,
    /// `S2VMID` has more bits than are implemented.
    Vmid,
}

impl fmt::Display for BadSte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "STE.V is 0",
            Self::Stage1 => "STE.Config selects stage 1, but IDR0.S1P is 0",
            Self::Stage2 => "STE.Config selects stage 2, but IDR0.S2P is 0",
            Self::CdMax => "STE.S1CDMax is greater than IDR1.SSIDSIZE",
            Self::Format => "STE.S1Fmt selects a 2-level table, but IDR0.CD2L is 0",
            Self::ContextPointer => "STE.S1ContextPtr is outside the size of IDR5.OAS",
            Self::StallDisable => "STE.S1STALLD is 1, but IDR0.STALL_MODEL is not 0b00",
            Self::Eats => "STE.EATS selects split-stage ATS, which is not implemented",
            Self::StreamWorld => "STE.STRW is not NS-EL1",
            Self::Stage2Format => "STE.S2AA64 selects VMSAv8-32 LPAE, which is not implemented",
            Self::Stage2Granule => "STE.S2TG selects a granule that IDR5 does not have",
            Self::Stage2Size => {
                "STE.S2T0SZ is out of range or inconsistent with STE.S2SL0 and STE.S2TG"
            }
            Self::Stage2Level => "STE.S2SL0 selects a level at which walks cannot start",
            Self::Stage2Table => "STE.S2TTB is outside the effective STE.S2PS",
            Self::Stage2Endianness => {
                "STE.S2ENDI selects big-endian tables, which are not implemented"
            }
            Self::Stage2Updates => {
                "STE.S2HA or STE.S2HD is 1, but hardware update of flags is not implemented"
            }
            Self::Stage2Stall => "STE.S2S is 1, but IDR0.STALL_MODEL is 0b01",
            Self::Vmid => "STE.S2VMID is greater than 255, but IDR0.VMID16 is 0",
        })
    }
}

/// Stage 2 as a Stream table entry sets it up (§5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// `S2TTB`: address of the tables at the start level.
    pub base: u64,
    /// `S2T0SZ`: 64 less the number of input address bits.
    pub tsz: u8,
    /// Level at which walks start, 0 to 3.
    pub start_level: u8,
    /// log2 of the granule in bytes: 12, 14 or 16.
    pub granule_shift: u8,
    /// Effective `S2PS`: output address size in bits, no more than the SMMU's.
    pub oas_bits: u8,
    /// `S2AFFD`: no Access flag faults.
    pub affd: bool,
    /// `S2PTW`: Context descriptors and tables of stage 1 are not read from
    /// Device memory.
    pub protected_walks: bool,
    /// `S2R`: faults are recorded.
    pub record_faults: bool,
}

/// The configuration of a stream, to which its device is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamConfig {
    /// Transactions abort.
    Abort,
    /// Transactions pass untranslated.
    Bypass,
    /// Stage 1 translates.
    Stage1 {
        /// Words 0 and 1 with the fields that a nested stage 1 takes: `V`,
        /// `Config`, `S1Fmt`, `S1ContextPtr`, `S1CDMax`; `S1DSS`, `S1CIR`,
        /// `S1COR`, `S1CSH`, `S1STALLD`, `EATS`. A field that is IGNORED with
        /// the guest's features is 0: the host may have more of them. A
        /// Reserved encoding is replaced by what it behaves as.
        ste: [u64; 2],
    },
    /// Stage 2 translates.
    Stage2(Stage2),
    /// Stage 1 translates to IPAs, stage 2 those and the addresses of stage 1's
    /// tables.
    Nested {
        /// As for stage 1 alone.
        ste: [u64; 2],
        /// Stage 2.
        stage2: Stage2,
    },
    /// The entry is ILLEGAL (`C_BAD_STE`, §7.3.5): transactions abort.
    Bad(BadSte),
}

impl Ste {
    /// An entry as it lies in memory, little-endian.
    pub fn from_bytes(bytes: &[u8; STE_BYTES]) -> Self {
        Self(words(bytes))
    }

    const fn word0(&self) -> SteWord0 {
        SteWord0::of(self.0[0])
    }

    const fn word1(&self) -> SteWord1 {
        SteWord1::of(self.0[1])
    }

    const fn word2(&self) -> SteWord2 {
        SteWord2::of(self.0[2])
    }

    const fn word3(&self) -> SteWord3 {
        SteWord3::of(self.0[3])
    }

    /// Returns the configuration that this entry selects.
    pub fn config(&self, features: &Features) -> StreamConfig {
        let word0 = self.word0();
        if !word0.v() {
            return StreamConfig::Bad(BadSte::Invalid);
        }
        let config = match word0.config() {
            SteConfig::Abort => Ok(StreamConfig::Abort),
            SteConfig::Bypass => Ok(StreamConfig::Bypass),
            SteConfig::Stage1 => self
                .stage1(features)
                .map(|ste| StreamConfig::Stage1 { ste }),
            SteConfig::Stage2 => self.stage2(features).map(StreamConfig::Stage2),
            SteConfig::Nested => self.nested(features),
        };
        config.unwrap_or_else(StreamConfig::Bad)
    }

    /// Returns `S2VMID`, or 0 without stage 2.
    pub fn vmid(&self, features: &Features) -> u16 {
        if features.s2p() {
            self.word2().s2vmid()
        } else {
            0
        }
    }

    fn nested(&self, features: &Features) -> Result<StreamConfig, BadSte> {
        Ok(StreamConfig::Nested {
            ste: self.stage1(features)?,
            stage2: self.stage2(features)?,
        })
    }

    /// Returns an error if the VMID is too wide, which makes the entry ILLEGAL where it is
    /// used.
    fn check_vmid(&self, features: &Features) -> Result<(), BadSte> {
        if features.vmid16() || self.vmid(features) <= 0xff {
            Ok(())
        } else {
            Err(BadSte::Vmid)
        }
    }

    /// Returns stage 2, or why it is ILLEGAL (§5.2.2).
    fn stage2(&self, features: &Features) -> Result<Stage2, BadSte> {
        let (word2, word3) = (self.word2(), self.word3());
        if !features.s2p() {
            return Err(BadSte::Stage2);
        }
        self.check_vmid(features)?;
        if word2.s2s() && features.stall_model() == 0b01 {
            return Err(BadSte::Stage2Stall);
        }
        if !word2.s2aa64() {
            return Err(BadSte::Stage2Format);
        }
        // A walk in software updates nothing.
        if word2.s2hd() || word2.s2ha() {
            return Err(BadSte::Stage2Updates);
        }
        if word2.s2endi() {
            return Err(BadSte::Stage2Endianness);
        }
        let granule_shift = match word2.s2tg() {
            Tg0::Gran4K if features.gran4k() => 12,
            Tg0::Gran64K if features.gran64k() => 16,
            Tg0::Gran16K if features.gran16k() => 14,
            _ => return Err(BadSte::Stage2Granule),
        };
        let wide = granule_shift == 16;
        let limit = if wide { 52 } else { 48 };
        let oas_bits = address_bits(word2.s2ps().value())
            .min(features.oas_bits())
            .min(limit);
        let base = word3.table();
        if exceeds(base, oas_bits) {
            return Err(BadSte::Stage2Table);
        }
        let stage2 = Stage2 {
            base,
            tsz: word2.s2t0sz().value(),
            start_level: start_level(granule_shift, word2.s2sl0().value(), features)?,
            granule_shift,
            oas_bits: oas_bits as u8,
            affd: word2.s2affd(),
            protected_walks: word2.s2ptw(),
            record_faults: word2.s2r(),
        };
        // Without AArch32 IAS is OAS (§3.4).
        let smallest = 64 - features.oas_bits().min(limit) as u8;
        if (smallest..=39).contains(&stage2.tsz) && stage2.is_consistent() {
            Ok(stage2)
        } else {
            Err(BadSte::Stage2Size)
        }
    }

    /// Returns the fields of stage 1, or why they are ILLEGAL (§5.2.2).
    fn stage1(&self, features: &Features) -> Result<[u64; 2], BadSte> {
        const PASSED_ON_0: u64 = mask!(SteWord0: v | config | s1contextptr);
        const PASSED_ON_1: u64 = mask!(SteWord1: s1cir | s1cor | s1csh | s1stalld);
        let (word0, word1) = (self.word0(), self.word1());
        if !features.s1p() {
            return Err(BadSte::Stage1);
        }
        if features.hyp() && word1.strw() != u2::new(0) {
            return Err(BadSte::StreamWorld);
        }
        if word1.s1stalld() && features.stall_model() != 0b00 {
            return Err(BadSte::StallDisable);
        }
        // SMMUv3.1 and later do not truncate this address (§3.4.3).
        if exceeds(word0.context_table(), features.oas_bits()) {
            return Err(BadSte::ContextPointer);
        }
        self.check_vmid(features)?;
        let mut kept0 = SteWord0::of(word0.raw() & PASSED_ON_0);
        let mut kept1 = SteWord1::of(word1.raw() & PASSED_ON_1);
        kept1.set_eats(self.eats(features)?);
        // `S1CDMax`, `S1Fmt` and `S1DSS` are IGNORED without substreams.
        if let Some((cd_max, format)) = self.substreams(features)? {
            kept0.set_s1cdmax(cd_max);
            kept0.set_s1fmt(format);
            kept1.set_s1dss(word1.s1dss());
        }
        Ok([kept0.raw(), kept1.raw()])
    }

    /// Returns the effective value of `EATS`: split-stage ATS is not implemented.
    fn eats(&self, features: &Features) -> Result<Eats, BadSte> {
        match self.word1().eats() {
            _ if !features.ats() => Ok(Eats::Disabled),
            Eats::SplitStage => Err(BadSte::Eats),
            Eats::Full => Ok(Eats::Full),
            // Without a Device Permission Table there are no checks by it.
            Eats::Disabled | Eats::DptChecked => Ok(Eats::Disabled),
        }
    }

    /// `S1CDMax` and `S1Fmt`, where there are substreams.
    fn substreams(&self, features: &Features) -> Result<Option<(u5, S1Fmt)>, BadSte> {
        let word0 = self.word0();
        let cd_max = word0.s1cdmax();
        if features.ssidsize() == 0 || cd_max == u5::new(0) {
            return Ok(None);
        }
        if cd_max.value() > features.ssidsize() {
            return Err(BadSte::CdMax);
        }
        let format = word0.s1fmt();
        if format != S1Fmt::Linear && !features.cd2l() {
            return Err(BadSte::Format);
        }
        Ok(Some((cd_max, format)))
    }
}

impl Stage2 {
    /// Returns whether the tables of the start level, of which up to 16 are
    /// concatenated, are what the input addresses need (Arm ARM D8.2).
    const fn is_consistent(&self) -> bool {
        let stride = self.granule_shift - 3;
        let below = self.granule_shift + (3 - self.start_level) * stride;
        let input = 64 - self.tsz;
        below < input && input - below <= stride + 4
    }
}

/// Returns the level that `S2SL0` means (Arm ARM, `VTCR_EL2.SL0`). 0b11 takes small
/// translation tables or 52-bit addresses, which are not implemented; 0b10 takes
/// output addresses as large as the tables could map.
const fn start_level(granule_shift: u8, s2sl0: u8, features: &Features) -> Result<u8, BadSte> {
    let oas_bits = features.oas_bits();
    match (granule_shift, s2sl0) {
        (_, 3) => Err(BadSte::Stage2Level),
        (12 | 16, 2) if oas_bits < 44 => Err(BadSte::Stage2Level),
        (14, 2) if oas_bits < 42 => Err(BadSte::Stage2Level),
        (12, _) => Ok(2 - s2sl0),
        _ => Ok(3 - s2sl0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID_S1: u64 = 1 | (0b101 << 1);
    const BASE: Features = Features::arm_smmuv3();
    const STALL_DISABLE: u64 = 1 << 27;

    fn config(word0: u64, word1: u64, features: &Features) -> StreamConfig {
        Ste([word0, word1, 0, 0, 0, 0, 0, 0]).config(features)
    }

    fn bad(reason: BadSte) -> StreamConfig {
        StreamConfig::Bad(reason)
    }

    #[test]
    fn ste_config_ignored_unless_valid() {
        assert_eq!(config(0b101 << 1, 0, &BASE), bad(BadSte::Invalid));
        for reserved in 0..4 {
            assert_eq!(config(1 | (reserved << 1), 0, &BASE), StreamConfig::Abort);
        }
        assert_eq!(config(1 | (0b100 << 1), 0, &BASE), StreamConfig::Bypass);
        assert_eq!(config(1 | (0b110 << 1), 0, &BASE), bad(BadSte::Stage2));
        assert_eq!(config(1 | (0b111 << 1), 0, &BASE), bad(BadSte::Stage2));
        let stage2_only = BASE.with_s1p(false);
        assert_eq!(config(VALID_S1, 0, &stage2_only), bad(BadSte::Stage1));
    }

    #[test]
    fn nested_ste_passes_only_stage1_fields() {
        let features = BASE.with_ssidsize(20).with_cd2l(true).with_ats(true);
        let ones = config(
            VALID_S1 | 0x0fff_ffff_ffc0 | (20 << 59) | (0b10 << 4),
            !(0b11 << 28) & !STALL_DISABLE & !0b11 | (0b01 << 28) | 0b10,
            &features,
        );
        assert_eq!(
            ones,
            StreamConfig::Stage1 {
                ste: [
                    VALID_S1 | 0x0fff_ffff_ffc0 | (20 << 59) | (0b10 << 4),
                    0xfc | (0b01 << 28) | 0b10,
                ]
            }
        );
    }

    #[test]
    fn ste_s1cdmax_ignored_without_substreams() {
        let word0 = VALID_S1 | (9 << 59) | (0b10 << 4) | 0x1000;
        let one_cd = StreamConfig::Stage1 {
            ste: [VALID_S1 | 0x1000, 0],
        };
        assert_eq!(config(word0, 0b01, &BASE), one_cd);
        let substreams = BASE.with_ssidsize(8);
        assert_eq!(config(word0, 0, &substreams), bad(BadSte::CdMax));
        let nine = BASE.with_ssidsize(9);
        assert_eq!(config(word0, 0, &nine), bad(BadSte::Format));
        let disabled = VALID_S1 | (0b10 << 4) | 0x1000;
        assert_eq!(config(disabled, 0b01, &nine), one_cd);
    }

    #[test]
    fn ste_reserved_encodings_are_normalized() {
        let features = BASE.with_ssidsize(20).with_ats(true);
        assert_eq!(
            config(
                VALID_S1 | (1 << 59) | (0b11 << 4),
                0b11 | (0b11 << 28),
                &features
            ),
            StreamConfig::Stage1 {
                ste: [VALID_S1 | (1 << 59), 0]
            }
        );
    }

    #[test]
    fn illegal_stage1_ste_is_rejected() {
        assert_eq!(
            config(VALID_S1, STALL_DISABLE, &BASE),
            bad(BadSte::StallDisable)
        );
        let stalls = BASE.with_stall_model(0);
        let kept = StreamConfig::Stage1 {
            ste: [VALID_S1, STALL_DISABLE],
        };
        assert_eq!(config(VALID_S1, STALL_DISABLE, &stalls), kept);

        assert_eq!(
            config(VALID_S1 | (1 << 44), 0, &BASE),
            bad(BadSte::ContextPointer)
        );

        let split = 0b10 << 28;
        assert_eq!(
            config(VALID_S1, split, &BASE.with_ats(true)),
            bad(BadSte::Eats)
        );
        let ignored = StreamConfig::Stage1 { ste: [VALID_S1, 0] };
        assert_eq!(config(VALID_S1, split, &BASE), ignored);

        let el2 = 0b10 << 30;
        assert_eq!(
            config(VALID_S1, el2, &BASE.with_hyp(true)),
            bad(BadSte::StreamWorld)
        );
        assert_eq!(config(VALID_S1, el2, &BASE), ignored);
    }

    /// 40-bit input, 4KB granule, start at level 1: two concatenated tables.
    const VALID_S2: u64 = 24 | (1 << 6) | (0b101 << 16) | (1 << 19);

    fn stage2(low: u64, features: &Features) -> StreamConfig {
        let word0 = 1 | (0b110 << 1);
        Ste([word0, 0, (low << 32) | 5, 0x4000_0000, 0, 0, 0, 0]).config(features)
    }

    #[test]
    fn stage2_ste_fields_are_decoded() {
        let nested = BASE.with_s2p(true);
        let expected = Stage2 {
            base: 0x4000_0000,
            tsz: 24,
            start_level: 1,
            granule_shift: 12,
            oas_bits: 44,
            affd: false,
            protected_walks: false,
            record_faults: true,
        };
        let recording = VALID_S2 | (1 << 26);
        assert_eq!(stage2(recording, &nested), StreamConfig::Stage2(expected));
        let protected = Stage2 {
            protected_walks: true,
            ..expected
        };
        assert_eq!(
            stage2(recording | (1 << 22), &nested),
            StreamConfig::Stage2(protected)
        );
        assert_eq!(stage2(recording, &BASE), bad(BadSte::Stage2));
        let both = Ste([
            1 | (0b111 << 1) | 0x1000,
            0,
            recording << 32,
            0x4000_0000,
            0,
            0,
            0,
            0,
        ]);
        assert_eq!(
            both.config(&nested),
            StreamConfig::Nested {
                ste: [1 | (0b111 << 1) | 0x1000, 0],
                stage2: expected
            }
        );
        assert_eq!(Ste([0, 0, 0x1_0005, 0, 0, 0, 0, 0]).vmid(&nested), 5);
        assert_eq!(Ste([0, 0, 5, 0, 0, 0, 0, 0]).vmid(&BASE), 0);
    }

    #[test]
    fn illegal_stage2_ste_is_rejected() {
        let features = BASE.with_s2p(true);
        for (low, reason) in [
            (VALID_S2 & !(1 << 19), BadSte::Stage2Format),
            (VALID_S2 | (1 << 20), BadSte::Stage2Endianness),
            (VALID_S2 | (1 << 23), BadSte::Stage2Updates),
            (VALID_S2 | (1 << 24), BadSte::Stage2Updates),
            (VALID_S2 | (1 << 25), BadSte::Stage2Stall),
            (VALID_S2 | (0b11 << 14), BadSte::Stage2Granule),
            (VALID_S2 | (0b11 << 6), BadSte::Stage2Level),
            // 32 concatenated tables; no table at all; above IAS; above 39
            (VALID_S2 & !0x3f | 20, BadSte::Stage2Size),
            (VALID_S2 & !0x3f | 34, BadSte::Stage2Size),
            (VALID_S2 & !0xff | (2 << 6) | 19, BadSte::Stage2Size),
            (VALID_S2 & !0xff | 40, BadSte::Stage2Size),
        ] {
            assert_eq!(stage2(low, &features), bad(reason), "{low:#x}");
        }
        let small = features.with_oas(0b010);
        let level0 = (VALID_S2 & !0xff) | (2 << 6) | 24;
        assert_eq!(stage2(level0, &small), bad(BadSte::Stage2Level));
        let no_64k = features.with_gran64k(false);
        assert_eq!(
            stage2(VALID_S2 | (1 << 14), &no_64k),
            bad(BadSte::Stage2Granule)
        );
        // S2PS of 32 bits: a table at 4GB is outside
        let low = VALID_S2 & !(0b111 << 16);
        let high = Ste([1 | (0b110 << 1), 0, low << 32, 1 << 32, 0, 0, 0, 0]);
        assert_eq!(high.config(&features), bad(BadSte::Stage2Table));
        let narrow = features.with_vmid16(false);
        let wide = Ste([1 | (0b110 << 1), 0, (VALID_S2 << 32) | 0x100, 0, 0, 0, 0, 0]);
        assert_eq!(wide.config(&narrow), bad(BadSte::Vmid));
    }

    #[test]
    fn ste_is_little_endian() {
        let mut bytes = [0; STE_BYTES];
        bytes[0] = 0x0b;
        bytes[15] = 0x80;
        bytes[63] = 0x01;
        let words = Ste::from_bytes(&bytes).0;
        assert_eq!(
            (words[0], words[1], words[7]),
            (0x0b, 0x80 << 56, 0x01 << 56)
        );
    }
}
