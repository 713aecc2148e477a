// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation as the specifications describe it: slowly, in the order in
//! which they list the faults (§7.3.22), each rule where it is needed.

use smmuv3::{
    event::{Class, EventType},
    translation::{Entry, Fault, Outcome, Permissions},
    Features,
};

use crate::common::tables::level_bits;

/// Bits `high` to `low` of a value.
fn bits(value: u64, high: u32, low: u32) -> u64 {
    (value >> low) & ((1_u64 << (high - low)) | ((1_u64 << (high - low)) - 1))
}

fn bit(value: u64, number: u32) -> bool {
    bits(value, number, number) == 1
}

/// Whether an address has no more than so many bits.
fn fits(address: u64, size: u32) -> bool {
    size >= 64 || address < 1 << size
}

fn address_size(encoding: u64) -> u32 {
    [32, 36, 40, 42, 44, 48, 52, 56][encoding as usize]
}

/// A doubleword of memory, or an abort.
pub trait Doublewords {
    fn doubleword(&self, address: u64) -> Option<u64>;
}

/// The registers that affect translation.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub features: Features,
    pub strtab_base: u64,
    pub strtab_base_cfg: u32,
}

enum Stop {
    Bypass,
    Abort,
    Fault(Fault),
}

/// The tables of one stage.
#[derive(Clone, Copy)]
struct Regime {
    granule: u32,
    input_bits: u32,
    start_level: usize,
    root: u64,
    output_bits: u32,
    access_faults: bool,
}

/// The failure of a stage.
enum Wrong {
    Fault(EventType),
    Abort(u64),
    /// In stage 2, on behalf of stage 1.
    Below(Fault),
}

struct Found {
    output: u64,
    log2_bytes: u32,
    leaf: u64,
    /// The table descriptors above.
    tables: Vec<u64>,
}

impl Regime {
    /// D8.2, without the permissions: these differ between the stages.
    fn walk(
        &self,
        input: u64,
        read: &mut dyn FnMut(u64) -> Result<u64, Wrong>,
    ) -> Result<Found, Wrong> {
        let mut table = self.root;
        let mut tables = Vec::new();
        let mut top = self.input_bits - 1;
        for level in self.start_level..=3 {
            let (low, _) = level_bits(self.granule as u8)[level].expect("a level that exists");
            let low = u32::from(low);
            let entries = 1_u64 << (top - low + 1);
            let aligned = table / (8 * entries) * (8 * entries);
            let descriptor = read(aligned + 8 * bits(input, top, low))?;
            let blocks = match self.granule {
                12 => level == 1 || level == 2,
                _ => level == 2,
            };
            let is_leaf = match (bits(descriptor, 1, 0), level) {
                (0b11, 3) => true,
                (0b11, _) => false,
                (0b01, _) if blocks => true,
                _ => return Err(Wrong::Fault(EventType::Translation)),
            };
            let aligned_to = if is_leaf { low } else { self.granule };
            let address = bits(descriptor, 47, aligned_to) << aligned_to;
            if !fits(address, self.output_bits) {
                return Err(Wrong::Fault(EventType::AddressSize));
            }
            if is_leaf {
                if self.access_faults && !bit(descriptor, 10) {
                    return Err(Wrong::Fault(EventType::Access));
                }
                return Ok(Found {
                    output: address,
                    log2_bytes: low,
                    leaf: descriptor,
                    tables,
                });
            }
            tables.push(descriptor);
            table = address;
            top = low - 1;
        }
        unreachable!("level 3 has no tables");
    }
}

struct Stage2 {
    regime: Regime,
    record: bool,
    protected_table_walk: bool,
}

struct Stage1 {
    /// None: `EPDx`.
    halves: [Option<Regime>; 2],
    had: [bool; 2],
    ignore_top: [bool; 2],
    record: bool,
}

pub struct Reference<'a, M> {
    pub setup: &'a Setup,
    pub memory: &'a M,
}

const fn config(event: EventType, address: u64) -> Stop {
    Stop::Fault(Fault {
        event,
        address,
        stage2: false,
        class: Class::Cd,
        recorded: true,
    })
}

impl<M: Doublewords> Reference<'_, M> {
    pub fn translate(&self, sid: u32, address: u64, wanted: Permissions) -> Outcome {
        match self.attempt(sid, address, wanted) {
            Ok((entry, stages)) => Outcome::Translated { entry, stages },
            Err(Stop::Bypass) => Outcome::Bypass,
            Err(Stop::Abort) => Outcome::Abort,
            Err(Stop::Fault(fault)) => Outcome::Fault(fault),
        }
    }

    fn oas(&self) -> u32 {
        address_size(self.setup.features.oas().into())
    }

    fn words(&self, address: u64) -> Option<[u64; 8]> {
        let mut words = [0; 8];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.memory.doubleword(address + 8 * index as u64)?;
        }
        Some(words)
    }

    fn attempt(&self, sid: u32, address: u64, wanted: Permissions) -> Result<(Entry, u8), Stop> {
        let ste = self.stream_table_entry(sid)?;
        let [word0, word1, ..] = ste;
        if !bit(word0, 0) {
            return Err(config(EventType::BadSte, 0));
        }
        let wants1 = bit(word0, 1);
        let wants2 = bit(word0, 2);
        if !bit(word0, 3) {
            return Err(Stop::Abort);
        }
        if self.is_illegal(&ste, wants1, wants2) {
            return Err(config(EventType::BadSte, 0));
        }
        let stage2 = wants2.then(|| self.stage2(&ste));
        let substreams = match self.setup.features.ssidsize() {
            0 => 0,
            _ => bits(word0, 63, 59),
        };
        let bypass1 = !wants1 || (substreams > 0 && bits(word1, 1, 0) == 0b01);
        if bypass1 {
            if !fits(address, self.oas()) {
                return Err(Stop::Fault(Fault {
                    event: EventType::AddressSize,
                    address: 0,
                    stage2: false,
                    class: Class::In,
                    recorded: true,
                }));
            }
            let stage2 = stage2.ok_or(Stop::Bypass)?;
            let entry = self.by_stage2(&stage2, address, wanted, Class::In)?;
            return Ok((entry, 2));
        }
        if substreams > 0 && bits(word1, 1, 0) != 0b10 {
            return Err(config(EventType::StreamDisabled, 0));
        }
        let stage1 = self.context(word0, substreams, stage2.as_ref())?;
        let outer = self.by_stage1(&stage1, stage2.as_ref(), address, wanted)?;
        let Some(stage2) = stage2 else {
            return Ok((outer, 1));
        };
        let inner_mask = (1 << outer.log2_bytes) - 1;
        let ipa = outer.output + (address & inner_mask);
        let inner = self.by_stage2(&stage2, ipa, wanted, Class::In)?;
        let log2_bytes = outer.log2_bytes.min(inner.log2_bytes);
        let physical = inner.output + (ipa & ((1 << inner.log2_bytes) - 1));
        let entry = Entry {
            output: physical - (physical & ((1 << log2_bytes) - 1)),
            log2_bytes,
            stage1: outer.stage1,
            stage2: inner.stage2,
            device: inner.device,
            global: outer.global,
        };
        Ok((entry, 3))
    }

    /// §3.3.1, §5.1
    fn stream_table_entry(&self, sid: u32) -> Result<[u64; 8], Stop> {
        let Setup {
            features,
            strtab_base,
            strtab_base_cfg,
        } = *self.setup;
        let config_word = u64::from(strtab_base_cfg);
        let out_of_range = config(EventType::BadStreamId, 0);
        let log2size = bits(config_word, 5, 0).min(features.sidsize().into());
        if !fits(sid.into(), log2size as u32) {
            return Err(out_of_range);
        }
        let base = strtab_base % (1 << self.oas());
        let table = |address: u64, bytes: u128| {
            let below = u128::from(address) % bytes.max(64);
            address - u64::try_from(below).expect("less than the base")
        };
        let ste = if features.st_level() == 1 && bits(config_word, 17, 16) == 1 {
            let split = match bits(config_word, 10, 6) {
                8 => 8,
                10 => 10,
                _ => 6,
            };
            let written = bits(config_word, 5, 0);
            let descriptors = 1_u128 << written.max(split).saturating_sub(split);
            let at = table(base, 8 * descriptors) + 8 * (u64::from(sid) >> split);
            let l1std = self.memory.doubleword(at);
            let l1std = l1std.ok_or_else(|| config(EventType::SteFetch, at))?;
            let span = bits(l1std, 4, 0);
            let index = u64::from(sid) % (1 << split);
            if span == 0 || span > 11 || span > split + 1 || index >= 1 << (span - 1) {
                return Err(out_of_range);
            }
            let second = l1std & ((1 << self.oas()) - 1);
            table(second, 64 << (span - 1)) + 64 * index
        } else {
            let entries = 1_u128 << bits(config_word, 5, 0);
            table(base, 64 * entries) + 64 * u64::from(sid)
        };
        self.words(ste)
            .ok_or_else(|| config(EventType::SteFetch, ste))
    }

    /// §5.2.2
    fn is_illegal(&self, ste: &[u64; 8], wants1: bool, wants2: bool) -> bool {
        let features = &self.setup.features;
        let [word0, word1, word2, word3, ..] = *ste;
        let mut illegal = false;
        if wants1 {
            illegal |= !features.s1p();
            illegal |= bit(word1, 27);
            illegal |= !fits(bits(word0, 55, 6) << 6, self.oas());
            if features.ssidsize() > 0 {
                illegal |= bits(word0, 63, 59) > features.ssidsize().into();
                let linear = matches!(bits(word0, 5, 4), 0b00 | 0b11);
                illegal |= bits(word0, 63, 59) > 0 && !linear && !features.cd2l();
            }
        }
        if wants2 {
            illegal |= !features.s2p();
            // S2S, S2AA64, S2HA and S2HD, S2ENDI
            illegal |= bit(word2, 57);
            illegal |= !bit(word2, 51);
            illegal |= bit(word2, 55) || bit(word2, 56);
            illegal |= bit(word2, 52);
            let granule = match bits(word2, 47, 46) {
                0b00 if features.gran4k() => 12,
                0b01 if features.gran64k() => 16,
                0b10 if features.gran16k() => 14,
                _ => return true,
            };
            let level = match (granule, bits(word2, 39, 38)) {
                (_, 0b11) => return true,
                (12, level) => 2 - level,
                (_, level) => 3 - level,
            };
            // VTCR_EL2.SL0: the first level takes a physical address as large.
            let needed = match (granule, level) {
                (12, 0) | (16, 1) => 44,
                (14, 1) => 42,
                _ => 0,
            };
            illegal |= self.oas() < needed;
            let t0sz = bits(word2, 37, 32) as u32;
            if !(16..=39).contains(&t0sz) || 64 - t0sz > self.oas() {
                return true;
            }
            let input_bits = 64 - t0sz;
            let Some((low, high)) = level_bits(granule)[level as usize] else {
                return true;
            };
            // Up to 16 tables side by side, at least two descriptors.
            let (low, high) = (u32::from(low), u32::from(high));
            let widest = if low + u32::from(granule) - 3 > 48 {
                48
            } else {
                high + 1 + 4
            };
            illegal |= input_bits <= low || input_bits > widest;
            let s2ps = address_size(bits(word2, 50, 48)).min(self.oas());
            illegal |= !fits(bits(word3, 51, 4) << 4, s2ps);
        }
        if wants1 || wants2 {
            let vmid = bits(word2, 15, 0);
            illegal |= features.s2p() && !features.vmid16() && vmid > 0xff;
        }
        illegal
    }

    /// §5.2, of an entry that is not ILLEGAL
    fn stage2(&self, ste: &[u64; 8]) -> Stage2 {
        let [_, _, word2, word3, ..] = *ste;
        let (granule, start_level) = match (bits(word2, 47, 46), bits(word2, 39, 38)) {
            (0b00, level) => (12, 2 - level),
            (0b01, level) => (16, 3 - level),
            (_, level) => (14, 3 - level),
        };
        Stage2 {
            regime: Regime {
                granule,
                input_bits: 64 - bits(word2, 37, 32) as u32,
                start_level: start_level as usize,
                root: bits(word3, 51, 4) << 4,
                output_bits: address_size(bits(word2, 50, 48)).min(self.oas()),
                access_faults: !bit(word2, 53),
            },
            record: bit(word2, 58),
            protected_table_walk: bit(word2, 54),
        }
    }

    /// A fetch of configuration (§3.4.3): of an IPA, if there is stage 2.
    fn context_address(&self, address: u64, stage2: Option<&Stage2>) -> Result<u64, Stop> {
        match stage2 {
            None => Ok(address),
            Some(stage2) => {
                let page = self.by_stage2(stage2, address, Permissions::READ, Class::Cd)?;
                Ok(page.translate(address))
            }
        }
    }

    /// Where the Context descriptor of a stream lies, if it has one and that is
    /// found.
    pub fn cd_place(&self, sid: u32) -> Option<u64> {
        let ste = self.stream_table_entry(sid).ok()?;
        let substreams = match self.setup.features.ssidsize() {
            0 => 0,
            _ => bits(ste[0], 63, 59),
        };
        let [wants1, wants2] = [1, 2].map(|number| bit(ste[0], number));
        if !wants1 || self.is_illegal(&ste, wants1, wants2) {
            return None;
        }
        let stage2 = wants2.then(|| self.stage2(&ste));
        self.context_place(ste[0], substreams, stage2.as_ref()).ok()
    }

    /// §5.3
    fn context_place(
        &self,
        word0: u64,
        substreams: u64,
        stage2: Option<&Stage2>,
    ) -> Result<u64, Stop> {
        let mut address = bits(word0, 55, 6) << 6;
        let format = bits(word0, 5, 4);
        if substreams > 0 && (format == 0b01 || format == 0b10) {
            let at = self.context_address(address, stage2)?;
            let l1cd = self.memory.doubleword(at);
            let l1cd = l1cd.ok_or_else(|| config(EventType::CdFetch, at))?;
            let leaf = if format == 0b01 { 12 } else { 16 };
            address = bits(l1cd, 55, leaf) << leaf;
            if !bit(l1cd, 0) || !fits(bits(l1cd, 55, 12) << 12, self.oas()) {
                return Err(config(EventType::BadSubstreamId, 0));
            }
        }
        self.context_address(address, stage2)
    }

    /// §5.4
    fn context(
        &self,
        word0: u64,
        substreams: u64,
        stage2: Option<&Stage2>,
    ) -> Result<Stage1, Stop> {
        let at = self.context_place(word0, substreams, stage2)?;
        let words = self.words(at);
        let words = words.ok_or_else(|| config(EventType::CdFetch, at))?;
        self.stage1(&words)
            .ok_or_else(|| config(EventType::BadCd, 0))
    }

    /// §5.4.2
    fn stage1(&self, cd: &[u64; 8]) -> Option<Stage1> {
        let features = &self.setup.features;
        let [word0, ttb0, ttb1, ..] = *cd;
        let enabled = [!bit(word0, 14), !bit(word0, 30)];
        let legal = bit(word0, 31)
            && bit(word0, 41)
            && bit(word0, 46)
            && !bit(word0, 44)
            && !bit(word0, 42)
            && !bit(word0, 43)
            && !(bit(word0, 15) && (enabled[0] || enabled[1]))
            && (features.asid16() || bits(word0, 63, 56) == 0);
        if !legal {
            return None;
        }
        let output_bits = address_size(bits(word0, 34, 32)).min(self.oas());
        let mut halves = [None; 2];
        for half in 0..2 {
            if !enabled[half] {
                continue;
            }
            let at = 16 * half as u32;
            let granule = match (half, bits(word0, at + 7, at + 6)) {
                (0, 0b00) | (1, 0b10) if features.gran4k() => 12,
                (0, 0b01) | (1, 0b11) if features.gran64k() => 16,
                (0, 0b10) | (1, 0b01) if features.gran16k() => 14,
                _ => return None,
            };
            let txsz = bits(word0, at + 5, at) as u32;
            let root = bits([ttb0, ttb1][half], 51, 4) << 4;
            let largest = if granule == 16 && features.vax() == 1 {
                52
            } else {
                48
            };
            if !(25..=largest).contains(&(64 - txsz)) || !fits(root, output_bits) {
                return None;
            }
            let input_bits = 64 - txsz;
            let levels = level_bits(granule);
            let starts = |level: &Option<(u8, u8)>| {
                level.is_some_and(|(low, high)| {
                    (u32::from(low)..=u32::from(high)).contains(&(input_bits - 1))
                })
            };
            halves[half] = Some(Regime {
                granule: granule.into(),
                input_bits,
                start_level: levels.iter().position(starts)?,
                root,
                output_bits,
                access_faults: !bit(word0, 35),
            });
        }
        Some(Stage1 {
            halves,
            had: [ttb0, ttb1].map(|word| features.had() && bit(word, 1)),
            ignore_top: [bit(word0, 38), bit(word0, 39)],
            record: bit(word0, 45),
        })
    }

    fn by_stage1(
        &self,
        stage1: &Stage1,
        stage2: Option<&Stage2>,
        address: u64,
        wanted: Permissions,
    ) -> Result<Entry, Stop> {
        let found = self.walk_stage1(stage1, stage2, address, wanted);
        found.map_err(|wrong| {
            Stop::Fault(match wrong {
                Wrong::Fault(event) => Fault {
                    event,
                    address: 0,
                    stage2: false,
                    class: Class::In,
                    recorded: stage1.record,
                },
                Wrong::Abort(at) => Fault {
                    event: EventType::WalkAbort,
                    address: at,
                    stage2: false,
                    class: Class::Tt,
                    recorded: true,
                },
                Wrong::Below(fault) => fault,
            })
        })
    }

    fn walk_stage1(
        &self,
        stage1: &Stage1,
        stage2: Option<&Stage2>,
        address: u64,
        wanted: Permissions,
    ) -> Result<Entry, Wrong> {
        let half = usize::from(bit(address, 55));
        let unmapped = Wrong::Fault(EventType::Translation);
        let Some(regime) = stage1.halves[half] else {
            return Err(unmapped);
        };
        let top = if stage1.ignore_top[half] { 55 } else { 63 };
        // All bits above the input are as bit 55 (§3.4.1).
        let above = (regime.input_bits..=top).map(|number| bit(address, number));
        if !above.into_iter().all(|one| one == (half == 1)) {
            return Err(unmapped);
        }
        let found = regime.walk(address, &mut |descriptor| {
            let mut at = descriptor;
            if let Some(stage2) = stage2 {
                match self.by_stage2(stage2, descriptor, Permissions::READ, Class::Tt) {
                    Ok(page) => at = page.translate(descriptor),
                    Err(Stop::Fault(fault)) => return Err(Wrong::Below(fault)),
                    Err(_) => unreachable!("stage 2 translates"),
                }
            }
            self.memory.doubleword(at).ok_or(Wrong::Abort(at))
        })?;
        // D8.4, for unprivileged accesses to data (§13.7).
        let mut permissions = match bits(found.leaf, 7, 6) {
            0b01 => Permissions::ALL,
            0b11 => Permissions::READ,
            _ => Permissions::NONE,
        };
        if !stage1.had[half] {
            for table in &found.tables {
                match bits(*table, 62, 61) {
                    0b00 => {}
                    0b10 => permissions.write = false,
                    _ => permissions = Permissions::NONE,
                }
            }
        }
        if (wanted.read && !permissions.read) || (wanted.write && !permissions.write) {
            return Err(Wrong::Fault(EventType::Permission));
        }
        Ok(Entry {
            output: found.output,
            log2_bytes: found.log2_bytes as u8,
            stage1: permissions,
            stage2: Permissions::ALL,
            device: false,
            global: !bit(found.leaf, 11),
        })
    }

    fn by_stage2(
        &self,
        stage2: &Stage2,
        ipa: u64,
        wanted: Permissions,
        class: Class,
    ) -> Result<Entry, Stop> {
        let fault = |event| {
            Stop::Fault(Fault {
                event,
                address: ipa,
                stage2: true,
                class,
                recorded: stage2.record,
            })
        };
        if !fits(ipa, stage2.regime.input_bits) {
            return Err(fault(EventType::Translation));
        }
        let read = |at| self.memory.doubleword(at).ok_or(Wrong::Abort(at));
        let found = stage2
            .regime
            .walk(ipa, &mut { read })
            .map_err(|wrong| match wrong {
                Wrong::Fault(event) => fault(event),
                Wrong::Below(below) => Stop::Fault(below),
                Wrong::Abort(at) => Stop::Fault(Fault {
                    event: EventType::WalkAbort,
                    address: at,
                    stage2: true,
                    class,
                    recorded: true,
                }),
            })?;
        let permissions = Permissions {
            read: bit(found.leaf, 6),
            write: bit(found.leaf, 7),
        };
        if (wanted.read && !permissions.read) || (wanted.write && !permissions.write) {
            return Err(fault(EventType::Permission));
        }
        // D8.6: nGnRnE, nGnRE, nGRE, GRE
        let device = matches!(bits(found.leaf, 5, 2), 0b0000..=0b0011);
        // §3.26.2 has this behind the permissions.
        if device && stage2.protected_table_walk && class != Class::In {
            return Err(fault(EventType::Permission));
        }
        Ok(Entry {
            output: found.output,
            log2_bytes: found.log2_bytes as u8,
            stage1: Permissions::ALL,
            stage2: permissions,
            device,
            global: false,
        })
    }
}
