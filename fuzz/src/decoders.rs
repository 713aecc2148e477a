// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Decoding of arbitrary words with any ID registers.

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::{
    cd,
    command::{decode, Command, CompletionSignal, Invalidation},
    event::EVENT_BYTES,
    ste::{Stage2, STE_BYTES},
    stream_table,
    translation::TlbiScope,
    BusAbort, Cd, Event, Features, GuestMemory, Registers, Ste, SteFault, StreamConfig,
};

use crate::pick::{below, features};

/// Words, decoded as each structure in turn.
#[derive(Clone, Debug)]
pub struct Words {
    features: Features,
    words: [u64; 8],
    sid: u32,
    ssid: u32,
    table: (u64, u32),
    /// The words that fill the rest of memory, repeated.
    memory: Vec<u64>,
    aborts_after: usize,
}

impl Words {
    /// Panics if a structure cannot be decoded, or in two ways.
    pub fn check(&self) {
        self.command();
        self.event();
        self.stream_table_entry();
        self.context_descriptor();
        self.context_descriptor_table();
        self.stream_table();
    }

    fn command(&self) {
        let features = &self.features;
        let [word0, word1, ..] = self.words;
        let Ok(command) = decode([word0, word1], features) else {
            return;
        };
        let is_sid = |sid| sid <= features.max_sid();
        match command {
            Command::Invalidate(invalidation) => {
                let words = invalidation.to_words();
                let [fields0, fields1] = fields(words[0] as u8);
                assert_eq!((words[0] & !fields0, words[1] & !fields1), (0, 0));
                // No host accepts TLBIs of EL2, so everything is invalidated instead.
                assert_eq!(decode(words, features), Ok(command));
                if !matches!(word0 as u8, 0x20..=0x23) {
                    assert_eq!(words[0] as u8, word0 as u8);
                    assert_eq!((words[0] & !word0, words[1] & !word1), (0, 0));
                }
                assert_eq!(invalidation.opcode(), words[0] as u8);
                match (invalidation, invalidation.target()) {
                    (Invalidation::Tlbi(tlbi), None) => Self::scope(&TlbiScope::of(&tlbi)),
                    (Invalidation::Tlbi(_), Some(_)) | (_, None) => panic!("{invalidation:?}"),
                    (_, Some(sid)) => assert!(is_sid(sid) && u64::from(sid) == words[0] >> 32),
                }
            }
            Command::CfgiSte { sid, .. } => assert!(is_sid(sid)),
            Command::CfgiSteRange { first, last } => assert!(first <= last && is_sid(last)),
            Command::Sync {
                signal: CompletionSignal::Msi { address, .. },
            } => {
                assert!(features.msi());
                assert_eq!(address % 4, 0);
                assert_eq!(u128::from(address) >> features.oas_bits(), 0);
            }
            Command::Sync { .. }
            | Command::PrefetchConfig
            | Command::PrefetchAddr
            | Command::NoEffect => {}
        }
    }

    fn scope(scope: &TlbiScope) {
        if let TlbiScope::Address { range, .. } | TlbiScope::Ipa { range, .. } = scope {
            assert!(range.first <= range.last);
            assert!(range.blocks().count() <= 128);
        }
    }

    fn event(&self) {
        let [word0, word1, word2, word3, ..] = self.words;
        let event = Event([word0, word1, word2, word3]);
        let bytes = event.to_bytes();
        assert_eq!(bytes.len(), EVENT_BYTES);
        assert_eq!(Event::from_bytes(&bytes), event);
        let renamed = event.with_sid(self.sid);
        assert_eq!(
            (renamed.sid(), renamed.number()),
            (self.sid, event.number())
        );
        assert_eq!(renamed.with_sid(event.sid()), event);
    }

    fn stream_table_entry(&self) {
        let mut bytes = [0; STE_BYTES];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        let ste = Ste(self.words);
        assert_eq!(Ste::from_bytes(&bytes), ste);
        match ste.config(&self.features) {
            StreamConfig::Stage1 { ste } => self.host_entry(&ste),
            StreamConfig::Stage2(stage2) => self.stage2(&stage2),
            StreamConfig::Nested { ste, stage2 } => {
                self.host_entry(&ste);
                self.stage2(&stage2);
            }
            StreamConfig::Abort | StreamConfig::Bypass | StreamConfig::Bad(_) => {}
        }
    }

    /// Words for the host decode to the same command, and have no bit that the guest
    /// did not set.
    fn host_entry(&self, ste: &[u64; 2]) {
        assert_eq!(ste[0] & !self.words[0], 0);
        assert_eq!(ste[0] & 1, 1);
        let mut again = self.words;
        again[..2].copy_from_slice(ste);
        let same = match Ste(again).config(&self.features) {
            StreamConfig::Stage1 { ste } | StreamConfig::Nested { ste, .. } => Some(ste),
            _ => None,
        };
        assert_eq!(same, Some(*ste));
    }

    fn stage2(&self, stage2: &Stage2) {
        assert!(self.features.s2p());
        assert!(matches!(stage2.granule_shift, 12 | 14 | 16));
        assert!(u32::from(stage2.oas_bits) <= self.features.oas_bits());
        assert_eq!(u128::from(stage2.base) >> stage2.oas_bits, 0);
        assert!(stage2.start_level <= 3 && (12..=39).contains(&stage2.tsz));
        let shift = stage2.granule_shift + (3 - stage2.start_level) * (stage2.granule_shift - 3);
        assert!(64 - stage2.tsz > shift, "at least two descriptors");
    }

    fn context_descriptor(&self) {
        let Ok(stage1) = Cd(self.words).translation(&self.features) else {
            return;
        };
        assert!(u32::from(stage1.oas_bits) <= self.features.oas_bits());
        assert!(self.features.asid16() || stage1.asid < 0x100);
        for table in stage1.tables.iter().filter(|table| !table.disabled) {
            assert!(matches!(table.granule_shift, 12 | 14 | 16));
            assert!((16..=39).contains(&table.tsz));
            assert_eq!(u128::from(table.base) >> stage1.oas_bits, 0);
        }
    }

    fn context_descriptor_table(&self) {
        let mut memory = self.words_in_memory();
        let ste = [self.words[0], self.words[1]];
        let found = cd::fetch(&ste, &self.features, &mut memory, self.ssid);
        assert!(memory.reads <= 2);
        assert!(found.is_err() || memory.reads > 0);
    }

    fn stream_table(&self) {
        let mut registers = Registers::reset(&self.features);
        (registers.strtab_base, registers.strtab_base_cfg) = self.table;
        let mut memory = self.words_in_memory();
        let found = stream_table::fetch(
            &registers.stream_table(),
            &self.features,
            &mut memory,
            self.sid,
        );
        assert!(memory.reads <= 2);
        if self.sid > self.features.max_sid() {
            assert_eq!(found, Err(SteFault::BadStreamId));
            assert_eq!(memory.reads, 0);
        }
        let reads = memory.reads;
        let mut again = self.words_in_memory();
        let config = stream_table::evaluate(
            &registers.stream_table(),
            &self.features,
            &mut again,
            self.sid,
        );
        assert_eq!(config, StreamConfig::Bypass, "SMMUEN is 0");
        assert_eq!(again.reads, 0);
        registers.cr0 = 1;
        let config = stream_table::evaluate(
            &registers.stream_table(),
            &self.features,
            &mut again,
            self.sid,
        );
        assert_eq!(again.reads, reads);
        match found {
            Ok(ste) => assert_eq!(config, ste.config(&self.features)),
            Err(_) => assert_eq!(config, StreamConfig::Abort),
        }
    }

    fn words_in_memory(&self) -> Answers<'_> {
        Answers {
            words: self,
            next: 0,
            reads: 0,
        }
    }
}

/// Returns the bits of a forwarded command that are not Reserved: a host refuses
/// Reserved ones.
fn fields(opcode: u8) -> [u64; 2] {
    const SID: u64 = 0xffff_ffff << 32;
    const SSID: u64 = 0xf_ffff << 12;
    const VMID: u64 = 0xffff << 32;
    const ASID: u64 = 0xffff << 48;
    const NUM_SCALE: u64 = 0x3f1_f000;
    // Address, TG, TTL, Leaf
    const BY_ADDRESS: u64 = !0xff | 1;
    let [word0, word1] = match opcode {
        0x05 => [SID | SSID, 1],
        0x06 => [SID, 0],
        0x10 | 0x28 => [VMID, 0],
        0x11 => [VMID | ASID, 0],
        0x12 => [VMID | ASID | NUM_SCALE, BY_ADDRESS],
        0x13 | 0x2a => [VMID | NUM_SCALE, BY_ADDRESS],
        0x30 => [0, 0],
        // SSV and Global; Size
        0x40 => [SID | SSID | (1 << 11) | (1 << 9), !0xfff | 0x3f],
        other => panic!("{other:#x} is forwarded"),
    };
    [word0 | 0xff, word1]
}

/// Memory whose reads return one word after the other.
struct Answers<'a> {
    words: &'a Words,
    next: usize,
    reads: usize,
}

impl GuestMemory for Answers<'_> {
    fn read(&mut self, _: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
        assert_eq!(buffer.len() % 8, 0);
        self.reads += 1;
        for bytes in buffer.chunks_exact_mut(8) {
            let memory = &self.words.memory;
            let word = memory.get(self.next % memory.len().max(1));
            bytes.copy_from_slice(&word.copied().unwrap_or(0).to_le_bytes());
            self.next += 1;
        }
        if self.reads > self.words.aborts_after {
            return Err(BusAbort);
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> std::result::Result<(), BusAbort> {
        panic!("nothing is written");
    }
}

impl Arbitrary<'_> for Words {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            features: features(u)?,
            words: <[u64; 8]>::arbitrary(u)?,
            sid: u32::arbitrary(u)?,
            ssid: u32::arbitrary(u)?,
            table: <(u64, u32)>::arbitrary(u)?,
            aborts_after: below(u, 4)?.into(),
            memory: {
                let count = (u.len() / 8).min(20);
                (0..count)
                    .map(|_| u64::arbitrary(u))
                    .collect::<Result<_>>()?
            },
        })
    }
}
