// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stream table entries (5.2).

use crate::{
    bits::{bit64, field64, mask64},
    features::Features,
};

/// Size of a Stream table entry in bytes.
pub const STE_BYTES: usize = 64;

/// A Stream table entry: eight words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ste(pub [u64; 8]);

/// Why a Stream table entry is ILLEGAL (5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadSte {
    /// `V` is 0.
    Invalid,
    /// `Config` asks for stage 1, which is not implemented.
    Stage1,
    /// `Config` asks for stage 2, which a guest is not given.
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
}

/// What a stream is to be attached to.
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
    /// The entry is ILLEGAL (`C_BAD_STE`, 7.3.5): transactions abort.
    Bad(BadSte),
}

/// `V`, `Config` of word 0.
const V_CONFIG: u64 = mask64(0, 4);
/// `S1ContextPtr`, bits 55:6 of word 0.
const CONTEXT_POINTER: u64 = mask64(6, 50);
/// `S1CIR`, `S1COR`, `S1CSH`: bits 7:2 of word 1.
const CONTEXT_ATTRIBUTES: u64 = mask64(2, 6);
/// `S1STALLD`, bit 27 of word 1.
const STALL_DISABLE: u64 = mask64(27, 1);

/// `EATS` for full ATS.
const EATS_FULL: u64 = 0b01;
/// `EATS` for split-stage ATS.
const EATS_SPLIT: u64 = 0b10;

impl Ste {
    /// An entry as it lies in memory, little-endian.
    pub fn from_bytes(bytes: &[u8; STE_BYTES]) -> Self {
        let mut words = [0; 8];
        for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = eight
                .iter()
                .rev()
                .fold(0, |high, byte| (high << 8) | u64::from(*byte));
        }
        Self(words)
    }

    /// What this entry says.
    pub fn config(&self, features: &Features) -> StreamConfig {
        let [word0, ..] = self.0;
        if !bit64(word0, 0) {
            return StreamConfig::Bad(BadSte::Invalid);
        }
        match field64(word0, 1, 3) {
            0b000..=0b011 => StreamConfig::Abort,
            0b100 => StreamConfig::Bypass,
            0b101 => match self.stage1(features) {
                Ok(ste) => StreamConfig::Stage1 { ste },
                Err(reason) => StreamConfig::Bad(reason),
            },
            _ => StreamConfig::Bad(BadSte::Stage2),
        }
    }

    /// The fields of stage 1, or why they are ILLEGAL (5.2.2).
    fn stage1(&self, features: &Features) -> Result<[u64; 2], BadSte> {
        let [word0, word1, ..] = self.0;
        if !features.s1p() {
            return Err(BadSte::Stage1);
        }
        if features.hyp() && field64(word1, 30, 2) != 0 {
            return Err(BadSte::StreamWorld);
        }
        if word1 & STALL_DISABLE != 0 && features.stall_model() != 0b00 {
            return Err(BadSte::StallDisable);
        }
        // SMMUv3.1 and later do not truncate this address (3.4.3).
        let context_pointer = word0 & CONTEXT_POINTER;
        if context_pointer & !mask64(0, features.oas_bits()) != 0 {
            return Err(BadSte::ContextPointer);
        }
        let eats = self.eats(features)?;
        let [table0, table1] = self.substreams(features)?;
        Ok([
            (word0 & V_CONFIG) | context_pointer | table0,
            (word1 & (CONTEXT_ATTRIBUTES | STALL_DISABLE)) | (eats << 28) | table1,
        ])
    }

    /// The effective value of `EATS` for stage 1 alone.
    const fn eats(&self, features: &Features) -> Result<u64, BadSte> {
        if !features.ats() {
            return Ok(0);
        }
        match field64(self.0[1], 28, 2) {
            EATS_SPLIT => Err(BadSte::Eats),
            EATS_FULL => Ok(EATS_FULL),
            // 0b11 takes a Device Permission Table and behaves as 0b00 here.
            _ => Ok(0),
        }
    }

    /// `S1CDMax`, `S1Fmt` and `S1DSS`: all of them IGNORED without substreams.
    const fn substreams(&self, features: &Features) -> Result<[u64; 2], BadSte> {
        let [word0, word1, ..] = self.0;
        let cd_max = field64(word0, 59, 5);
        if features.ssidsize() == 0 || cd_max == 0 {
            return Ok([0, 0]);
        }
        if cd_max > features.ssidsize() as u64 {
            return Err(BadSte::CdMax);
        }
        let format = match field64(word0, 4, 2) {
            format @ (0b01 | 0b10) if features.cd2l() => format,
            0b01 | 0b10 => return Err(BadSte::Format),
            // 0b11 behaves as 0b00.
            _ => 0,
        };
        let default_substream = match field64(word1, 0, 2) {
            0b11 => 0,
            value => value,
        };
        Ok([(cd_max << 59) | (format << 4), default_substream])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID_S1: u64 = 1 | (0b101 << 1);
    const BASE: Features = Features::arm_smmuv3();

    fn config(word0: u64, word1: u64, features: &Features) -> StreamConfig {
        Ste([word0, word1, 0, 0, 0, 0, 0, 0]).config(features)
    }

    fn bad(reason: BadSte) -> StreamConfig {
        StreamConfig::Bad(reason)
    }

    #[test]
    fn config_decides_in_a_valid_entry_only() {
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
    fn only_fields_of_a_nested_stage_1_are_passed_on() {
        let features = BASE.with_ssidsize(20).with_cd2l(true).with_ats(true);
        let ones = config(
            VALID_S1 | mask64(4, 40) & !(0b11 << 4) | (20 << 59) | (0b10 << 4),
            !(0b11 << 28) & !STALL_DISABLE & !0b11 | (0b01 << 28) | 0b10,
            &features,
        );
        assert_eq!(
            ones,
            StreamConfig::Stage1 {
                ste: [
                    VALID_S1 | mask64(6, 38) | (20 << 59) | (0b10 << 4),
                    mask64(2, 6) | (0b01 << 28) | 0b10,
                ]
            }
        );
    }

    #[test]
    fn substream_fields_are_ignored_without_substreams() {
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
    fn reserved_encodings_become_what_they_behave_as() {
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
    fn stage_1_is_illegal_where_the_specification_says_so() {
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

        let split = EATS_SPLIT << 28;
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

    #[test]
    fn entries_are_little_endian() {
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
