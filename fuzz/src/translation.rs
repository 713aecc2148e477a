// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tables of all shapes, transactions, and software that changes the tables
//! and invalidates what is remembered of them, between transactions and while
//! they are under way.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::{
    bits::field64,
    command::decode,
    translation::{
        translate, Caches, Entry, Invalidation, Outcome, Permissions, Range, Store, StreamContext,
        Tag, WalkStep,
    },
    BusAbort, Command, Features, GuestMemory, Registers, StreamId,
};

use crate::{
    common::smmu::{Uncached, CD, SID, STE, STRTAB},
    pick::{below, one_of, plausible_features, several},
    reference::{Doublewords, Reference, Setup},
};

/// Reads for the configuration, with two-level tables whose IPAs are
/// translated, and for a walk of 4 levels of which each takes another.
const MOST_READS: usize = 2 + 2 * 5 + 5 * 4 + 4;

/// Tables, and what happens then.
#[derive(Clone, Debug)]
pub struct Session {
    setup: Setup,
    memory: Tables,
    /// What transactions are about.
    addresses: Vec<u64>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Access {
        number: u8,
        wanted: Permissions,
        /// Software does this when so many descriptors are read.
        meanwhile: Option<(u8, Change)>,
    },
    Change(Change),
    Command([u64; 2]),
    /// Of this address, with what it is remembered under.
    Invalidate {
        number: u8,
        by: By,
    },
}

/// A descriptor that a walk has read, counted from the last, gets this value.
#[derive(Clone, Copy, Debug)]
struct Change {
    which: u8,
    value: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum By {
    Address,
    AddressOfAnyAsid,
    Range,
    Asid,
    Vmid,
}

/// Memory in which every doubleword is one of a few, unless it was stored.
#[derive(Clone, Debug)]
struct Tables {
    noise: Vec<u64>,
    /// `None` cannot be read.
    stored: BTreeMap<u64, Option<u64>>,
    /// Doublewords that were read, and how often memory was.
    read: Vec<u64>,
    reads: usize,
}

impl Tables {
    fn store(&mut self, address: u64, words: &[u64]) {
        for (at, word) in (address..).step_by(8).zip(words) {
            self.stored.insert(at, Some(*word));
        }
    }
}

impl Doublewords for Tables {
    fn doubleword(&self, address: u64) -> Option<u64> {
        assert_eq!(address % 8, 0, "descriptors are aligned");
        if let Some(stored) = self.stored.get(&address) {
            return *stored;
        }
        let mixed = (address >> 3) ^ (address >> 14) ^ (address >> 25);
        let count = self.noise.len().max(1) as u64;
        let noise = self.noise.get((mixed % count) as usize);
        Some(noise.copied().unwrap_or(0))
    }
}

impl GuestMemory for Tables {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
        assert_eq!(buffer.len() % 8, 0);
        self.reads += 1;
        for (at, bytes) in (address..).step_by(8).zip(buffer.chunks_exact_mut(8)) {
            self.read.push(at);
            let word = self.doubleword(at).ok_or(BusAbort)?;
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> std::result::Result<(), BusAbort> {
        panic!("translation does not write");
    }
}

impl Session {
    /// Panics if an outcome is not what the specifications say, or something is
    /// remembered that was invalidated.
    pub fn check(&self) {
        let mut registers = Registers::reset(&self.setup.features);
        registers.strtab_base = self.setup.strtab_base;
        registers.strtab_base_cfg = self.setup.strtab_base_cfg;
        registers.cr[0] = 1;
        let mut smmu = Smmu {
            session: self,
            registers,
            world: RefCell::new(World {
                memory: self.memory.clone(),
                store: Store::default(),
                walked: Vec::new(),
                configuration: BTreeSet::new(),
            }),
            fresh: Fresh::everything(),
        };
        for step in &self.steps {
            smmu.take(step);
        }
    }
}

/// What transactions that are under way share with software.
struct World {
    memory: Tables,
    store: Store,
    /// Where walks have read descriptors, and of which stage.
    walked: Vec<(u64, u8)>,
    /// Where configuration was read.
    configuration: BTreeSet<u64>,
}

impl World {
    /// Tells what was changed, if there was anything to be changed.
    fn change(&mut self, change: Change) -> Option<Changed> {
        let last = self.walked.len().checked_sub(1)?;
        let (address, _) = self.walked[last - usize::from(change.which) % self.walked.len()];
        self.memory.stored.insert(address, change.value);
        Some(Changed {
            stage2: self.walked.contains(&(address, 2)),
            configuration: self.configuration.contains(&address),
        })
    }

    /// What a walk of this address depends on may be changed later.
    /// Tells which addresses have the same descriptor of stage 1.
    fn note(&mut self, mut walk: impl FnMut(&mut Tables, &mut Noted) -> Outcome) -> Option<Range> {
        let mut noted = Noted::default();
        self.memory.read.clear();
        walk(&mut self.memory, &mut noted);
        let mut read = std::mem::take(&mut self.memory.read);
        for (address, _) in &noted.descriptors {
            if let Some(at) = read.iter().position(|other| other == address) {
                read.swap_remove(at);
            }
        }
        self.configuration.extend(read);
        self.walked.append(&mut noted.descriptors);
        noted.leaf
    }

    /// Tells what a command asked to be forgotten.
    fn execute(&mut self, words: [u64; 2], features: &Features) -> Forgotten {
        match decode(words, features) {
            Ok(Command::Forward { words, .. }) => match Invalidation::of(words) {
                Some(what) => {
                    self.store.tlb.invalidate(&what);
                    Forgotten::Translations(what)
                }
                // CMD_CFGI_CD and CMD_CFGI_CD_ALL
                None if words[0] as u8 != 0x40 => {
                    let sid = (words[0] >> 32) as StreamId;
                    self.forget(sid, sid)
                }
                None => Forgotten::Nothing,
            },
            Ok(Command::CfgiSte { sid, .. }) => self.forget(sid, sid),
            Ok(Command::CfgiSteRange { first, last }) => self.forget(first, last),
            _ => Forgotten::Nothing,
        }
    }

    fn forget(&mut self, first: StreamId, last: StreamId) -> Forgotten {
        self.store.configurations.forget(first, last);
        if (first..=last).contains(&SID) {
            Forgotten::Configuration
        } else {
            Forgotten::Nothing
        }
    }
}

/// What depends on a doubleword that was changed, besides some translations.
struct Changed {
    stage2: bool,
    configuration: bool,
}

enum Forgotten {
    Nothing,
    Configuration,
    Translations(Invalidation),
}

/// What can be relied on to be as the tables are.
#[derive(Default)]
struct Fresh {
    configuration: bool,
    /// All translations.
    all: bool,
    /// Those of stage 2, where both translate.
    stage2: bool,
    /// Those of stage 1, or of stage 2 where it is alone, of these addresses.
    addresses: BTreeSet<u64>,
    /// What is remembered of an address is of a descriptor of stage 1 for these.
    leaves: BTreeMap<u64, Range>,
}

impl Fresh {
    const fn everything() -> Self {
        Self {
            configuration: true,
            all: true,
            stage2: true,
            addresses: BTreeSet::new(),
            leaves: BTreeMap::new(),
        }
    }

    fn changed(&mut self, what: &Changed, nested: bool) {
        self.configuration &= !(what.configuration || (nested && what.stage2));
        self.stage2 &= !what.stage2;
        self.all = false;
        self.addresses.clear();
    }

    /// What is stale was used to fill the other cache.
    fn used(&mut self, nested: bool) {
        if !self.configuration {
            *self = Self::default();
        }
        if nested && !self.stage2 {
            self.configuration = false;
        }
    }

    fn is_fresh(&self, address: u64, nested: bool) -> bool {
        let of_address = self.addresses.contains(&address) && (self.stage2 || !nested);
        self.configuration && (self.all || of_address)
    }
}

struct Smmu<'a> {
    session: &'a Session,
    registers: Registers,
    world: RefCell<World>,
    fresh: Fresh,
}

impl Smmu<'_> {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Access {
                number,
                wanted,
                meanwhile: None,
            } => self.access(self.address(number), wanted),
            Step::Access {
                number,
                wanted,
                meanwhile: Some((after, change)),
            } => self.interrupted(self.address(number), wanted, after, change),
            Step::Change(change) => {
                let nested = self.is_nested();
                if let Some(what) = self.world.get_mut().change(change) {
                    self.fresh.changed(&what, nested);
                }
            }
            Step::Command(words) => self.execute(words),
            Step::Invalidate { number, by } => self.invalidate(self.address(number), by),
        }
    }

    fn address(&self, number: u8) -> u64 {
        let addresses = &self.session.addresses;
        let base = addresses.get(usize::from(number) % addresses.len().max(1));
        // Close by, within the same page or block, or not.
        let offset = u64::from(number >> 4) << (8 + (number >> 4));
        base.copied().unwrap_or(0) ^ offset
    }

    fn context(&self) -> Option<StreamContext> {
        self.world.borrow().store.configurations.get(SID).copied()
    }

    /// Whether both stages translate, as far as is remembered.
    fn is_nested(&self) -> bool {
        match self.context() {
            Some(StreamContext::Translate(context)) => context.stages.bits() == 3,
            Some(_) => false,
            None => true,
        }
    }

    fn access(&mut self, address: u64, wanted: Permissions) {
        let features = &self.session.setup.features;
        let world = self.world.get_mut();
        let reference = Reference {
            setup: &self.session.setup,
            memory: &world.memory,
        };
        let expected = reference.translate(SID, address, wanted);
        let mut memory = world.memory.clone();
        let mut walk = |caches: &mut dyn FnMut(&mut Tables) -> Outcome| {
            memory.reads = 0;
            let outcome = caches(&mut memory);
            assert!(memory.reads <= MOST_READS, "{} reads", memory.reads);
            outcome
        };
        let registers = &self.registers;
        let walked = walk(&mut |memory| {
            translate(
                registers,
                features,
                memory,
                &mut Uncached,
                SID,
                address,
                wanted,
            )
        });
        assert_eq!(walked, expected, "a walk of {address:#x}");
        if let Outcome::Fault(fault) = walked {
            let event = fault.record(SID, address, wanted.read);
            assert_eq!((event.sid(), event.event_type()), (SID, Some(fault.event)));
            assert!(fault.is_recorded(registers) || !fault.recorded || event.number() == 2);
        }
        let hit = world.store.hit(SID, address, wanted);
        let store = &mut world.store;
        let cached =
            walk(&mut |memory| translate(registers, features, memory, store, SID, address, wanted));
        let leaf = world.note(|memory, noted| {
            translate(registers, features, memory, noted, SID, address, wanted)
        });
        let known = world.store.hit(SID, address, wanted);
        let nested = self.is_nested();
        if self.fresh.is_fresh(address, nested) {
            assert!(
                hit.is_none_or(|hit| hit == expected),
                "a hit of {address:#x}: {hit:x?}"
            );
            assert_eq!(cached, expected, "remembered {address:#x}");
            if !matches!(expected, Outcome::Fault(_)) {
                assert_eq!(known, Some(expected), "not remembered: {address:#x}");
                if let Some(leaf) = leaf {
                    self.fresh.leaves.insert(address, leaf);
                }
            }
        } else {
            self.fresh.leaves.clear();
        }
        self.fresh.used(nested);
    }

    /// A transaction that software gets in the way of: it changes a table and
    /// invalidates everything. What the transaction comes to is either; what
    /// is remembered is the new.
    fn interrupted(&mut self, address: u64, wanted: Permissions, after: u8, change: Change) {
        let mut caches = {
            let world = self.world.borrow();
            let session = world.store.begin();
            Interrupted {
                world: &self.world,
                configurations: session.configurations,
                tlb: session.tlb,
                left: after % 16,
                change: Some(change),
            }
        };
        let features = &self.session.setup.features;
        let mut memory = Shared(&self.world);
        translate(
            &self.registers,
            features,
            &mut memory,
            &mut caches,
            SID,
            address,
            wanted,
        );
        if caches.change.is_none() {
            self.fresh = Fresh::everything();
        } else {
            self.fresh.used(self.is_nested());
            self.fresh.leaves.clear();
        }
        let registers = &self.registers;
        self.world.get_mut().note(|memory, noted| {
            translate(registers, features, memory, noted, SID, address, wanted)
        });
    }

    fn execute(&mut self, words: [u64; 2]) {
        let nested = self.is_nested();
        let tag = match self.context() {
            Some(StreamContext::Translate(context)) => Some(context.tag()),
            _ => None,
        };
        let features = &self.session.setup.features;
        let globals = self.world.get_mut().store.tlb.has_seen_globals();
        match self.world.get_mut().execute(words, features) {
            Forgotten::Nothing => {}
            Forgotten::Configuration => self.fresh.configuration = true,
            Forgotten::Translations(Invalidation::All) => {
                (self.fresh.all, self.fresh.stage2) = (true, true);
            }
            Forgotten::Translations(what) => {
                let Some(tag) = tag.filter(|_| self.fresh.configuration) else {
                    return;
                };
                if what == Invalidation::Vmid(tag.vmid) && nested {
                    self.fresh.stage2 = true;
                }
                // Of an ASID, global ones are not meant.
                let by_asid = matches!(what, Invalidation::Asid { .. });
                let Some(range) = what.reach(tag, globals).filter(|_| !(by_asid && globals)) else {
                    return;
                };
                // One command is enough for all of a page or block.
                let by_address = matches!(what, Invalidation::Address { .. });
                for number in 0..=u8::MAX {
                    let address = self.address(number);
                    let leaf = self.fresh.leaves.get(&address).filter(|_| by_address);
                    if (range.first..=range.last).contains(&address)
                        || leaf.is_some_and(|leaf| leaf.overlaps(&range))
                    {
                        self.fresh.addresses.insert(address);
                    }
                }
            }
        }
    }

    /// The command that software uses for this address.
    fn invalidate(&mut self, address: u64, by: By) {
        let Some(StreamContext::Translate(context)) = self.context() else {
            return;
        };
        let Tag { vmid, asid } = context.tag();
        let owner = (u64::from(vmid) << 32) | (u64::from(asid.unwrap_or(0)) << 48);
        let page = address & !0xfff;
        let granule = u64::from(context.granule_shift(address) - 10) / 2;
        let aligned = address & !((1 << context.granule_shift(address)) - 1);
        let range = aligned | (granule << 10);
        let words = match (by, asid) {
            (By::Address, Some(_)) => [owner | 0x12, page],
            (By::AddressOfAnyAsid, Some(_)) => [owner | 0x13, page],
            (By::Range, Some(_)) => [owner | 0x12 | (1 << 12), range],
            (By::Asid, Some(_)) => [owner | 0x11, 0],
            (By::Vmid, Some(_)) => [owner | 0x10, 0],
            (By::Range, None) => [owner | 0x2a | (1 << 12), range],
            (By::Vmid, None) => [owner | 0x28, 0],
            (_, None) => [owner | 0x2a, page],
        };
        self.execute(words);
    }
}

/// Remembers nothing but where descriptors are.
#[derive(Default)]
struct Noted {
    /// And of which stage.
    descriptors: Vec<(u64, u8)>,
    /// The addresses of the last descriptor of stage 1.
    leaf: Option<Range>,
}

impl Caches for Noted {
    fn context(&mut self, _: StreamId) -> Option<StreamContext> {
        None
    }

    fn keep_context(&mut self, _: StreamId, _: &StreamContext) {}

    fn lookup(&mut self, _: Tag, _: u64) -> Option<Entry> {
        None
    }

    fn insert(&mut self, _: Tag, _: u64, _: &Entry) {}

    fn note_split(&mut self, _: u8) {}

    fn walked(&mut self, step: &WalkStep) {
        self.descriptors.push((step.address, step.stage));
        if step.stage == 1 {
            let within = (1 << step.log2_bytes) - 1;
            self.leaf = Some(Range {
                first: step.input & !within,
                last: step.input | within,
            });
        }
    }
}

/// Memory that changes while it is read.
struct Shared<'a>(&'a RefCell<World>);

impl GuestMemory for Shared<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
        self.0.borrow_mut().memory.read(address, buffer)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> std::result::Result<(), BusAbort> {
        self.0.borrow_mut().memory.write(address, data)
    }
}

/// As a device uses the caches: what was invalidated since the beginning of a
/// transaction is not remembered.
struct Interrupted<'a> {
    world: &'a RefCell<World>,
    configurations: u64,
    tlb: u64,
    /// Descriptors until software comes.
    left: u8,
    change: Option<Change>,
}

impl Caches for Interrupted<'_> {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.world.borrow().store.configurations.get(sid).copied()
    }

    fn keep_context(&mut self, sid: StreamId, context: &StreamContext) {
        let store = &mut self.world.borrow_mut().store;
        store.configurations.keep(self.configurations, sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.world.borrow().store.tlb.lookup(tag, address)
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        let store = &mut self.world.borrow_mut().store;
        store.tlb.insert(self.tlb, tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.world
            .borrow_mut()
            .store
            .tlb
            .note_split(stage1_log2_bytes);
    }

    fn walked(&mut self, step: &WalkStep) {
        let mut world = self.world.borrow_mut();
        world.walked.push((step.address, step.stage));
        if self.left > 0 {
            self.left -= 1;
        } else if let Some(change) = self.change.take() {
            world.change(change);
            world.store.clear();
        }
    }
}

impl Arbitrary<'_> for Session {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let mut features = plausible_features(u)?;
        // A guest that cannot invalidate cannot be checked.
        features = features.with_ril(true).with_ats(false).with_hyp(false);
        let ssidsize = one_of(u, &[0, 0, 5, 20])?;
        features = features.with_ssidsize(ssidsize);
        let two_levels = below(u, 8)? == 0;
        let mut memory = Tables {
            noise: Vec::new(),
            stored: BTreeMap::new(),
            read: Vec::new(),
            reads: 0,
        };
        let setup = Setup {
            features,
            strtab_base: STRTAB,
            strtab_base_cfg: 6 | if two_levels { (1 << 16) | (6 << 6) } else { 0 },
        };
        let mut at = STE;
        if two_levels {
            memory.store(STRTAB, &[0xa000_0000 | u64::from(below(u, 9)?)]);
            at = 0xa000_0000 + 64 * u64::from(SID);
        }
        memory.store(at, &ste(u)?);
        let cd = cd(u)?;
        memory.store(CD, &cd);
        let addresses = {
            let count = 1 + below(u, 8)?;
            (0..count).map(|_| address(u)).collect::<Result<_>>()?
        };
        let count = 1 + below(u, 24)?;
        memory.noise = (0..count).map(|_| descriptor(u)).collect::<Result<_>>()?;
        // Stage 2 has the Context descriptor elsewhere.
        let reference = Reference {
            setup: &setup,
            memory: &memory,
        };
        if let Some(place) = reference.cd_place(SID) {
            memory.store(place, &cd);
        }
        Ok(Self {
            setup,
            memory,
            addresses,
            steps: several(u, 60, step)?,
        })
    }
}

fn permissions(bits: u8) -> Permissions {
    Permissions {
        read: bits & 1 != 0,
        write: bits & 2 != 0,
    }
}

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    let kind = u8::arbitrary(u)?;
    let wanted = permissions(kind >> 5);
    Ok(match kind & 0x1f {
        0..=13 => Step::Access {
            number: u8::arbitrary(u)?,
            wanted,
            meanwhile: None,
        },
        14..=16 => Step::Access {
            number: u8::arbitrary(u)?,
            wanted,
            meanwhile: Some((u8::arbitrary(u)?, change(u)?)),
        },
        17..=20 => Step::Change(change(u)?),
        21..=25 => Step::Invalidate {
            number: u8::arbitrary(u)?,
            by: one_of(
                u,
                &[
                    By::Address,
                    By::AddressOfAnyAsid,
                    By::Range,
                    By::Asid,
                    By::Vmid,
                ],
            )?,
        },
        26..=27 => Step::Command([0x30, 0]),
        28 => Step::Command([0x04, 31]),
        29 => Step::Command([0x03 | (u64::from(SID) << 32), 1]),
        30 => Step::Command([0x06 | (u64::from(SID) << 32), 0]),
        _ => Step::Command(<[u64; 2]>::arbitrary(u)?),
    })
}

fn change(u: &mut Unstructured<'_>) -> Result<Change> {
    let which = u8::arbitrary(u)?;
    let value = match which {
        0xf8.. => None,
        _ => Some(descriptor(u)?),
    };
    Ok(Change { which, value })
}

/// Mostly one that is valid, and whose address is not too large.
fn descriptor(u: &mut Unstructured<'_>) -> Result<u64> {
    let [kind, flags] = <[u8; 2]>::arbitrary(u)?;
    let address = u64::from(u32::arbitrary(u)?) << 12;
    let valid = match kind & 0xf {
        0 => 0b00,
        1..=4 => 0b01,
        5 => return u64::arbitrary(u),
        _ => 0b11,
    };
    // Of 44 bits, or of 32.
    let address = if kind & 0x10 != 0 {
        address
    } else {
        address & 0xffff_f000
    };
    let flags = u64::from(flags);
    // AF, S2AP and AP[2:1], nG, APTable; MemAttr of stage 2, seldom of Device memory
    let memory_type = if kind >> 5 == 7 { 0 } else { 0b1111 << 2 };
    let attributes = ((!flags & 1) << 10)
        | (((!flags >> 1) & 3) << 6)
        | (((flags >> 3) & 1) << 11)
        | memory_type;
    let hierarchy = ((flags >> 4) & 3) << 61;
    Ok(address | attributes | valid | if flags >> 6 == 3 { hierarchy } else { 0 })
}

fn address(u: &mut Unstructured<'_>) -> Result<u64> {
    let shape = u8::arbitrary(u)?;
    let low = u64::from(u32::arbitrary(u)?) << (shape & 0xf);
    let low = if shape & 0x10 != 0 { !low } else { low };
    let top = match shape >> 5 {
        7 => 0xa5,
        _ => 0,
    };
    Ok(low ^ (top << 56))
}

/// An address of a table.
fn root(u: &mut Unstructured<'_>) -> Result<u64> {
    let number = u64::from(u16::arbitrary(u)?) << 12;
    Ok(if number == 0xffff << 12 {
        u64::arbitrary(u)?
    } else {
        number
    })
}

/// Mostly within 16 to 39.
fn size(u: &mut Unstructured<'_>) -> Result<u64> {
    let byte = u64::from(u8::arbitrary(u)?);
    Ok(if byte < 0xf8 {
        16 + byte % 24
    } else {
        byte % 64
    })
}

/// Of a field of flags, those that are seldom set.
fn rare(u: &mut Unstructured<'_>, flags: &[u32]) -> Result<u64> {
    let byte = u8::arbitrary(u)?;
    Ok(match flags.get(usize::from(byte)) {
        Some(flag) => 1 << flag,
        None => 0,
    })
}

fn ste(u: &mut Unstructured<'_>) -> Result<[u64; 8]> {
    let config: u64 = one_of(u, &[5, 5, 5, 6, 6, 7, 7, 7, 4, 0])?;
    let [format, flags, cd_max] = <[u8; 3]>::arbitrary(u)?;
    let cd_max = u64::from(if cd_max < 0xc0 { 0 } else { cd_max % 12 });
    let word0 = 1 ^ rare(u, &[0])?;
    let word0 = word0 | (config << 1) | (u64::from(format & 3) << 4) | CD | (cd_max << 59);
    let word1 = u64::from(if (format >> 2) & 7 == 0 {
        format >> 5
    } else {
        2
    });
    let flags = u64::from(flags);
    let word2 = shape(u)?
        | u64::from(one_of(u, &[0_u16, 5, 0x1234])?)
        | ((flags & 7) << 48)
        | (1 << 51)
        | (((flags >> 3) & 1) << 53)
        | (((flags >> 5) & 1) << 54)
        | (((flags >> 4) & 1) << 58);
    let word2 = word2 ^ rare(u, &[51, 52, 55, 56, 57])?;
    Ok([word0, word1, word2, root(u)?, 0, 0, 0, 0])
}

/// `S2TG`, `S2SL0` and `S2T0SZ`: mostly such that they go together.
fn shape(u: &mut Unstructured<'_>) -> Result<u64> {
    let [format, extra] = <[u8; 2]>::arbitrary(u)?;
    let extra = u64::from(extra);
    if format >= 0xf8 {
        return Ok((u64::from(format & 3) << 46) | ((extra >> 6) << 38) | ((extra & 0x3f) << 32));
    }
    let (tg, granule) = [(0b00, 12), (0b10, 14), (0b01, 16)][usize::from(format % 3)];
    let sl0 = u64::from([0_u8, 1, 1, 2][usize::from((format >> 3) & 3)]);
    let tables = if granule == 12 { sl0 + 1 } else { sl0 };
    let smallest = granule + tables * (granule - 3) + 1;
    let input = (smallest + extra % (granule + 1)).clamp(25, 44);
    Ok((tg << 46) | (sl0 << 38) | ((64 - input) << 32))
}

fn cd(u: &mut Unstructured<'_>) -> Result<[u64; 8]> {
    let [granules, flags, more] = <[u8; 3]>::arbitrary(u)?.map(u64::from);
    let tg0 = field64(granules, 0, 2) % 3;
    let tg1 = 1 + field64(granules, 2, 2) % 3;
    let epd0 = u64::from(field64(granules, 4, 4) == 1);
    let epd1 = u64::from(field64(granules, 4, 2) == 2);
    let asid = field64(more, 0, 2) * 0x55;
    let word0 = (1 << 31) // V
        | (1 << 41) // AA64
        | (1 << 46) // A
        | size(u)?
        | (size(u)? << 16)
        | (tg0 << 6)
        | (tg1 << 22)
        | (epd0 << 14)
        | (epd1 << 30)
        | (field64(flags, 0, 3) << 32) // IPS
        | (field64(flags, 3, 1) << 35) // AFFD
        | (field64(flags, 4, 2) << 38) // TBI
        | (field64(flags, 6, 1) << 45) // R
        | (asid << 48);
    let word0 = word0 ^ rare(u, &[31, 41, 46, 15, 44, 42, 43, 63])?;
    let had = |bit| field64(more, bit, 1) << 1;
    Ok([word0, root(u)? | had(2), root(u)? | had(3), 0, 0, 0, 0, 0])
}
