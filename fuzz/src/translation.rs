// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tables of all shapes, transactions, and software that changes the tables
//! and invalidates the entries cached from them, between transactions and
//! concurrently with them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::{
    command::decode,
    command::Invalidation,
    translation::{
        translate, Caches, Entry, Outcome, Permissions, Range, Store, StreamContext, Tag,
        TlbiScope, Walk, WalkStep,
    },
    BusAbort, Command, GuestMemory, Registers, StreamId,
};

use crate::{
    common::smmu::{Uncached, CD, SID, STE, STRTAB},
    pick::{below, one_of, plausible_features, several},
    reference::{Doublewords, Reference, Setup},
};

/// Reads for the configuration, with two-level tables whose IPAs are
/// translated, and for a walk of 4 levels of which each takes another.
const MOST_READS: usize = 2 + 2 * 5 + 5 * 4 + 4;

/// Tables, and the steps of one input.
#[derive(Clone, Debug)]
pub struct Session {
    setup: Setup,
    memory: Tables,
    /// The addresses of transactions.
    addresses: Vec<u64>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Access {
        number: u8,
        wanted: Permissions,
        /// Software does this after so many accesses to memory and caches.
        concurrent: Option<(u8, Concurrent)>,
    },
    Change(Change),
    Command([u64; 2]),
    /// Invalidates the address with this number.
    Invalidate {
        number: u8,
        by: By,
        scope: Scope,
    },
}

/// Actions of software that race with a transaction.
#[derive(Clone, Copy, Debug)]
struct Concurrent {
    change: Option<Change>,
    request: Request,
}

/// Invalidation that software requests.
#[derive(Clone, Copy, Debug)]
enum Request {
    Everything,
    Command([u64; 2]),
    Invalidate { number: u8, by: By, scope: Scope },
}

/// A change of a descriptor that a walk has read, counted from the last.
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
    /// Of both stages.
    WholeVmid,
    /// An IPA that the current walk has led to.
    Ipa,
}

const ALL_BY: [By; 7] = [
    By::Address,
    By::AddressOfAnyAsid,
    By::Range,
    By::Asid,
    By::Vmid,
    By::WholeVmid,
    By::Ipa,
];

/// The tag by which an address is invalidated.
#[derive(Clone, Copy, Debug)]
struct Scope {
    whose: Whose,
    leaf: bool,
}

#[derive(Clone, Copy, Debug)]
enum Whose {
    /// The tag under which it is cached.
    Own,
    OtherAsid,
    OtherVmid,
}

impl Scope {
    /// Three bits: mostly its own.
    const fn of(bits: u8) -> Self {
        Self {
            whose: match (bits >> 1) & 3 {
                2 => Whose::OtherAsid,
                3 => Whose::OtherVmid,
                _ => Whose::Own,
            },
            leaf: bits & 1 != 0,
        }
    }
}

/// Memory in which every doubleword that was not stored has one of a few values.
#[derive(Clone, Debug)]
struct Tables {
    noise: Vec<u64>,
    /// `None` aborts.
    stored: BTreeMap<u64, Option<u64>>,
    /// Doublewords that were read, and the number of reads.
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
    /// Panics if an outcome differs from the specification's, or an entry hits that
    /// was invalidated.
    pub fn check(&self) {
        let mut registers = Registers::reset(&self.setup.features);
        registers.strtab_base = self.setup.strtab_base;
        registers.strtab_base_cfg = self.setup.strtab_base_cfg;
        registers.cr0 = 1;
        let mut smmu = Smmu {
            session: self,
            registers,
            world: RefCell::new(World {
                session: self,
                memory: self.memory.clone(),
                store: Store::default(),
                fresh: Fresh::everything(),
                walked: Vec::new(),
                configuration: BTreeSet::new(),
                flight: None,
            }),
        };
        for step in &self.steps {
            smmu.take(step);
        }
    }
}

/// State that transactions share with concurrent software.
struct World<'a> {
    session: &'a Session,
    memory: Tables,
    store: Store,
    fresh: Fresh,
    /// Where walks have read descriptors, and of which stage.
    walked: Vec<(u64, u8)>,
    /// Where configuration was read.
    configuration: BTreeSet<u64>,
    /// The current walk.
    flight: Option<Flight>,
}

impl World<'_> {
    fn address(&self, number: u8) -> u64 {
        let addresses = &self.session.addresses;
        let base = addresses.get(usize::from(number) % addresses.len().max(1));
        // Close by, within the same page or block, or not.
        let offset = u64::from(number >> 4) << (8 + (number >> 4));
        base.copied().unwrap_or(0) ^ offset
    }

    /// Returns an address that the current walk depends on, or one close by.
    fn ipa(&self, number: u8) -> Option<u64> {
        let events = self.flight.iter().flat_map(|flight| &flight.events);
        let ipas = events.filter_map(|event| match event {
            Event::Lookup(Tag { asid: None, .. }, ipa, _) => Some(*ipa),
            _ => None,
        });
        let ipas: Vec<_> = ipas.collect();
        let ipa = ipas.get(usize::from(number % 16) % ipas.len().max(1));
        // In the same page, or below the same table.
        let offset = (u64::from(number >> 4) << 12) << (number >> 4);
        ipa.map(|ipa| ipa ^ if number & 0x80 == 0 { 0 } else { offset })
    }

    fn context(&self) -> Option<StreamContext> {
        self.store.configuration(SID).copied()
    }

    /// Returns whether both stages translate, according to the cached configuration.
    fn is_nested(&self) -> bool {
        match self.context() {
            Some(StreamContext::Translate(context)) => context.stages.bits() == 3,
            Some(_) => false,
            None => true,
        }
    }

    /// Returns log2 of the largest page or block of stage 1 that the TLB may have split.
    fn split(&self) -> u8 {
        let widened = self.store.tlb().widened(Range::page(0, 0));
        widened.last.trailing_ones() as u8
    }

    fn is_fresh(&self, address: u64) -> bool {
        self.fresh.is_fresh(address, self.is_nested())
    }

    /// Changes a descriptor, if a walk has read one.
    fn change(&mut self, change: Change) {
        let Some(last) = self.walked.len().checked_sub(1) else {
            return;
        };
        let (address, _) = self.walked[last - usize::from(change.which) % self.walked.len()];
        self.memory.stored.insert(address, change.value);
        let changed = Changed {
            stage2: self.walked.contains(&(address, 2)),
            configuration: self.configuration.contains(&address),
        };
        let nested = self.is_nested();
        self.fresh.changed(&changed, nested);
    }

    /// Lets software act, if its turn has come.
    fn pass(&mut self) {
        let Some(flight) = &mut self.flight else {
            return;
        };
        if flight.left > 0 {
            flight.left -= 1;
            return;
        }
        let Some(Concurrent { change, request }) = flight.concurrent.take() else {
            return;
        };
        let at = flight.events.len();
        // Entries may have been filled from stale ones by now.
        let nested = self.is_nested();
        self.fresh.used(nested);
        if let Some(change) = change {
            self.change(change);
        }
        let invalidated = match request {
            Request::Everything => {
                self.store.clear();
                self.fresh = Fresh::everything();
                Invalidated::Everything
            }
            Request::Command(words) => self.execute(words),
            Request::Invalidate { number, by, scope } => {
                let ipa = self.ipa(number).filter(|_| matches!(by, By::Ipa));
                let address = ipa.unwrap_or_else(|| self.address(number));
                self.invalidate(address, by, scope)
            }
        };
        if let Some(flight) = &mut self.flight {
            flight.invalidated = Some((at, invalidated));
        }
    }

    /// Notes the dependencies of a walk of this address, which may be changed later.
    /// Returns which addresses have the same descriptor of stage 1.
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

    /// Executes a command on the caches and returns its scope.
    fn invalidate_by(&mut self, words: [u64; 2]) -> Invalidated {
        match decode(words, &self.session.setup.features) {
            Ok(Command::Invalidate(command)) => match command {
                Invalidation::Tlbi(tlbi) => {
                    let scope = TlbiScope::of(&tlbi);
                    self.store.invalidate(&scope);
                    Invalidated::Translations(scope)
                }
                Invalidation::Cfgi(cfgi) => self.invalidate_configurations(cfgi.sid(), cfgi.sid()),
                Invalidation::AtcInv(_) => Invalidated::Nothing,
            },
            Ok(Command::CfgiSte { sid, .. }) => self.invalidate_configurations(sid, sid),
            Ok(Command::CfgiSteRange { first, last }) => {
                self.invalidate_configurations(first, last)
            }
            _ => Invalidated::Nothing,
        }
    }

    fn invalidate_configurations(&mut self, first: StreamId, last: StreamId) -> Invalidated {
        self.store.invalidate_configurations(first, last);
        if (first..=last).contains(&SID) {
            Invalidated::Configuration
        } else {
            Invalidated::Nothing
        }
    }

    /// Executes a command, and notes which translations cannot be stale then.
    fn execute(&mut self, words: [u64; 2]) -> Invalidated {
        let nested = self.is_nested();
        let tag = match self.context() {
            Some(StreamContext::Translate(context)) => Some(context.tag()),
            _ => None,
        };
        let globals = self.store.tlb().has_seen_globals();
        let invalidated = self.invalidate_by(words);
        match invalidated {
            Invalidated::Nothing | Invalidated::Everything => {}
            Invalidated::Configuration => self.fresh.configuration = true,
            Invalidated::Translations(TlbiScope::All) => {
                (self.fresh.all, self.fresh.stage2) = (true, true);
            }
            Invalidated::Translations(what) => {
                if let Some(tag) = tag.filter(|_| self.fresh.configuration) {
                    if what == TlbiScope::Vmid(tag.vmid) && nested {
                        self.fresh.stage2 = true;
                    }
                    self.refresh(&what, tag, globals);
                }
            }
        }
        invalidated
    }

    /// Notes which addresses cannot be stale after an invalidation.
    fn refresh(&mut self, what: &TlbiScope, tag: Tag, globals: bool) {
        // A TLBI by ASID does not affect global entries; one by another ASID affects only
        // those.
        let by_asid = matches!(what, TlbiScope::Asid { .. });
        let Some(range) = what.reach(tag, false).filter(|_| !(by_asid && globals)) else {
            return;
        };
        // One command is enough for all of a page or block that is cached.
        // The current walk may read one of another size.
        let by_address = matches!(what, TlbiScope::Address { .. }) && self.flight.is_none();
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

    /// Returns the command that software uses for this address.
    fn invalidate(&mut self, address: u64, by: By, scope: Scope) -> Invalidated {
        let Some(StreamContext::Translate(context)) = self.context() else {
            return Invalidated::Nothing;
        };
        let Tag { vmid, asid } = context.tag();
        let (vmid, number) = match (scope.whose, asid.unwrap_or(0)) {
            (Whose::Own, number) => (vmid, number),
            (Whose::OtherAsid, number) => (vmid, number ^ 1),
            (Whose::OtherVmid, number) => (vmid ^ 1, number),
        };
        let owner = (u64::from(vmid) << 32) | (u64::from(number) << 48);
        let leaf = u64::from(scope.leaf);
        let page = (address & !0xfff) | leaf;
        let granule = u64::from(context.granule_shift(address) - 10) / 2;
        let aligned = address & !((1 << context.granule_shift(address)) - 1);
        let range = aligned | (granule << 10) | leaf;
        let words = match (by, asid) {
            (By::Address, Some(_)) => [owner | 0x12, page],
            (By::AddressOfAnyAsid, Some(_)) => [owner | 0x13, page],
            (By::Range, Some(_)) => [owner | 0x12 | (1 << 12), range],
            (By::Asid, Some(_)) => [owner | 0x11, 0],
            (By::Vmid, Some(_)) => [owner | 0x10, 0],
            (By::Range, None) => [owner | 0x2a | (1 << 12), range],
            (By::Vmid, None) | (By::WholeVmid, _) => [owner | 0x28, 0],
            (By::Ipa, _) => [owner | 0x2a, page],
            (_, None) => [owner | 0x2a, page],
        };
        self.execute(words)
    }
}

/// Caches that depend on a doubleword that was changed, besides some translations.
struct Changed {
    stage2: bool,
    configuration: bool,
}

#[derive(Clone, Copy, Debug)]
enum Invalidated {
    Nothing,
    Everything,
    Configuration,
    Translations(TlbiScope),
}

/// The translations that agree with the tables.
#[derive(Default)]
struct Fresh {
    configuration: bool,
    /// All translations.
    all: bool,
    /// Translations of stage 2, where both stages translate.
    stage2: bool,
    /// Translations of these addresses by stage 1, or by stage 2 where it is alone.
    addresses: BTreeSet<u64>,
    /// The cached entry of an address is of a descriptor of stage 1 for these.
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

    /// A stale entry was used to fill the other cache.
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

/// A walk in flight, and the invalidation that it raced with.
struct Flight {
    walk: Walk,
    events: Vec<Event>,
    /// Accesses until software comes.
    left: u8,
    concurrent: Option<Concurrent>,
    /// The invalidation, and the number of dependencies observed before it.
    invalidated: Option<(usize, Invalidated)>,
}

/// A dependency of a walk.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An input address, and the TLB's entry for it.
    Lookup(Tag, u64, Option<Entry>),
    Step(WalkStep),
}

impl Flight {
    /// Whether this is the last descriptor that a stage was walked for.
    fn is_last(&self, index: usize, stage: u8) -> bool {
        let is_same = |event: &Event| matches!(event, Event::Step(step) if step.stage == stage);
        let rest = self.events.get(index + 1..).unwrap_or(&[]);
        match stage {
            1 => !rest.iter().any(is_same),
            _ => !rest.first().is_some_and(is_same),
        }
    }

    /// Returns whether an invalidation was executed after the walk had read something
    /// that it names.
    fn must_be_repeated(&self) -> bool {
        let (before, what) = match self.invalidated {
            None | Some((_, Invalidated::Nothing)) => return false,
            Some((_, Invalidated::Everything | Invalidated::Configuration)) => return true,
            Some((before, Invalidated::Translations(what))) => (before, what),
        };
        let mut tags = [None; 2];
        let mut is_named = false;
        for (index, event) in self.events.iter().enumerate().take(before) {
            is_named |= match *event {
                Event::Lookup(tag, input, hit) => {
                    let stage = stage_of(tag);
                    tags[usize::from(stage) - 1] = Some(tag);
                    // An entry that does not permit the access is not used.
                    let is_used = match self.events.get(index + 1) {
                        None => true,
                        Some(Event::Step(step)) => stage == 2 && step.stage == 1,
                        Some(Event::Lookup(..)) => stage == 2,
                    };
                    hit.filter(|_| is_used).is_some_and(|entry| {
                        let size = entry.log2_bytes;
                        names(&what, tag, input, size, Some((size, entry.global)))
                    })
                }
                Event::Step(step) => tags[usize::from(step.stage) - 1].is_some_and(|tag| {
                    let is_leaf = step.descriptor & 3 == if step.level == 3 { 3 } else { 1 };
                    let size = step.log2_bytes;
                    let leaf = is_leaf.then_some((size, is_global(&step)));
                    names(&what, tag, step.input, size, leaf)
                }),
            };
        }
        is_named
    }

    /// Returns whether the invalidation can have affected anything.
    fn may_be_repeated(&self, split: u8) -> bool {
        let (before, what) = match self.invalidated {
            None | Some((_, Invalidated::Nothing)) => return false,
            Some((_, Invalidated::Everything | Invalidated::Configuration)) => return true,
            Some((before, Invalidated::Translations(what))) => (before, what),
        };
        self.events.iter().take(before).any(|event| {
            let Event::Lookup(tag, input, _) = *event else {
                return false;
            };
            let stage = stage_of(tag);
            let is_same = |other: u64| stage == 1 || other >> 12 == input >> 12;
            let (mut tables, mut leaf, mut global) = (0, 0, false);
            for (index, event) in self.events.iter().enumerate() {
                match event {
                    Event::Lookup(of, other, Some(entry)) if *of == tag && is_same(*other) => {
                        let size = match stage {
                            1 => entry.log2_bytes.max(split),
                            _ => entry.log2_bytes,
                        };
                        (tables, leaf) = (size.max(tables), size.max(leaf));
                        global |= entry.global;
                    }
                    Event::Step(step) if step.stage == stage && is_same(step.input) => {
                        tables = tables.max(step.log2_bytes);
                        if self.is_last(index, stage) {
                            leaf = leaf.max(step.log2_bytes);
                            // An invalid descriptor may have been global.
                            global |= step.descriptor & 1 == 0 || is_global(step);
                        }
                    }
                    _ => {}
                }
            }
            names(&what, tag, input, tables, Some((leaf, global)))
        })
    }
}

const fn stage_of(tag: Tag) -> u8 {
    if tag.asid.is_some() {
        1
    } else {
        2
    }
}

const fn is_global(step: &WalkStep) -> bool {
    step.stage == 1 && step.descriptor & (1 << 11) == 0
}

/// Returns whether an invalidation affects descriptors that map so many addresses around
/// `input`; `leaf` is the size of the last one, and whether it is global.
fn names(what: &TlbiScope, tag: Tag, input: u64, size: u8, leaf: Option<(u8, bool)>) -> bool {
    let within = |size: u8, range: Range| Range::page(input, size).overlaps(&range);
    match (what.reach(tag, false), leaf) {
        (Some(range), _) if !what.is_leaf_only() => within(size, range),
        (Some(range), Some((leaf, _))) => within(leaf, range),
        (None, Some((leaf, true))) => what
            .reach(tag, true)
            .is_some_and(|range| within(leaf, range)),
        _ => false,
    }
}

struct Smmu<'a> {
    session: &'a Session,
    registers: Registers,
    world: RefCell<World<'a>>,
}

impl Smmu<'_> {
    fn take(&mut self, step: &Step) {
        let world = self.world.get_mut();
        match *step {
            Step::Access {
                number,
                wanted,
                concurrent,
            } => {
                let address = world.address(number);
                match concurrent {
                    None => self.access(address, wanted),
                    Some((after, what)) => self.interrupted(address, wanted, after, what),
                }
            }
            Step::Change(change) => world.change(change),
            Step::Command(words) => {
                world.execute(words);
            }
            Step::Invalidate { number, by, scope } => {
                world.invalidate(world.address(number), by, scope);
            }
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
        let tables = registers.stream_table();
        let walked = walk(&mut |memory| {
            translate(
                &tables,
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
            assert_eq!((event.sid(), event.number()), (SID, fault.event as u8));
            assert!(fault.is_recorded(registers) || !fault.recorded || event.number() == 2);
        }
        let hit = world.store.hit(SID, address, wanted);
        let store = &mut world.store;
        let cached =
            walk(&mut |memory| translate(&tables, features, memory, store, SID, address, wanted));
        let leaf = world.note(|memory, noted| {
            translate(&tables, features, memory, noted, SID, address, wanted)
        });
        let known = world.store.hit(SID, address, wanted);
        if world.is_fresh(address) {
            assert!(
                hit.is_none_or(|hit| hit == expected),
                "a hit of {address:#x}: {hit:x?}"
            );
            assert_eq!(cached, expected, "cached {address:#x}");
            if !matches!(expected, Outcome::Fault(_)) {
                assert_eq!(known, Some(expected), "not cached: {address:#x}");
                if let Some(leaf) = leaf {
                    world.fresh.leaves.insert(address, leaf);
                }
            }
        } else {
            world.fresh.leaves.clear();
        }
        let nested = world.is_nested();
        world.fresh.used(nested);
    }

    /// Checks a transaction that races with software, which changes a table and
    /// invalidates something. If it has read an entry that was invalidated, it has to
    /// be retried and leaves nothing in the caches; otherwise it is cached.
    fn interrupted(&mut self, address: u64, wanted: Permissions, after: u8, what: Concurrent) {
        let features = &self.session.setup.features;
        let tables = self.registers.stream_table();
        let note = |world: &mut World<'_>| {
            world.note(|memory, noted| {
                translate(&tables, features, memory, noted, SID, address, wanted)
            })
        };
        let world = self.world.get_mut();
        note(world);
        let split = world.split();
        world.flight = Some(Flight {
            walk: world.store.begin(SID, address),
            events: Vec::new(),
            left: after % 64,
            concurrent: Some(what),
            invalidated: None,
        });
        let shared = &self.world;
        let outcome = translate(
            &tables,
            features,
            &mut Shared(shared),
            &mut Interrupted(shared),
            SID,
            address,
            wanted,
        );
        let world = self.world.get_mut();
        let flight = world.flight.take().expect("a walk is in flight");
        let is_current = world.store.is_current(&flight.walk);
        world.store.end(&flight.walk);
        let invalidated = flight.invalidated;
        assert!(
            !(is_current && flight.must_be_repeated()),
            "{address:#x} has read stale entries: {invalidated:x?}"
        );
        let split = world.split().max(split);
        assert!(
            is_current || flight.may_be_repeated(split),
            "{address:#x} is out of reach: {invalidated:x?}"
        );
        let known = world.store.hit(SID, address, wanted);
        let reference = Reference {
            setup: &self.session.setup,
            memory: &world.memory,
        };
        let expected = reference.translate(SID, address, wanted);
        if world.is_fresh(address) {
            assert!(
                known.is_none_or(|known| known == expected),
                "cached {address:#x}: {known:x?} after {invalidated:x?}"
            );
            if is_current {
                assert_eq!(outcome, expected, "a walk of {address:#x}");
            }
            if is_current && !matches!(expected, Outcome::Fault(_)) {
                assert_eq!(known, Some(expected), "not cached: {address:#x}");
            }
        }
        let nested = world.is_nested();
        world.fresh.used(nested);
        world.fresh.leaves.clear();
        note(world);
    }
}

/// A cache that is always empty and records where descriptors are.
#[derive(Default)]
struct Noted {
    /// Where descriptors are, and of which stage.
    descriptors: Vec<(u64, u8)>,
    /// The addresses of the last descriptor of stage 1.
    leaf: Option<Range>,
}

impl Caches for Noted {
    fn context(&mut self, _: StreamId) -> Option<StreamContext> {
        None
    }

    fn insert_context(&mut self, _: StreamId, _: &StreamContext) {}

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
struct Shared<'a, 'b>(&'a RefCell<World<'b>>);

impl GuestMemory for Shared<'_, '_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
        let mut world = self.0.borrow_mut();
        world.pass();
        world.memory.read(address, buffer)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> std::result::Result<(), BusAbort> {
        self.0.borrow_mut().memory.write(address, data)
    }
}

/// The caches as a device uses them: entries that were invalidated since the
/// beginning of a transaction are not inserted.
struct Interrupted<'a, 'b>(&'a RefCell<World<'b>>);

impl Interrupted<'_, '_> {
    fn with<R>(&self, access: impl FnOnce(&mut Store, &mut Flight) -> R) -> R {
        let world = &mut *self.0.borrow_mut();
        let flight = world.flight.as_mut().expect("a walk is in flight");
        access(&mut world.store, flight)
    }
}

impl Caches for Interrupted<'_, '_> {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.with(|store, _| store.configuration(sid).copied())
    }

    fn insert_context(&mut self, sid: StreamId, context: &StreamContext) {
        self.with(|store, flight| store.insert_context_for(&flight.walk, sid, context));
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        let found = self.with(|store, flight| {
            let found = store.lookup_for(&mut flight.walk, tag, address);
            flight.events.push(Event::Lookup(tag, address, found));
            found
        });
        self.0.borrow_mut().pass();
        found
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        self.with(|store, flight| store.insert_for(&flight.walk, tag, address, entry));
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.with(|store, _| store.note_split(stage1_log2_bytes));
    }

    fn walked(&mut self, step: &WalkStep) {
        self.with(|_, flight| {
            flight.walk.note(step);
            flight.events.push(Event::Step(*step));
        });
        let mut world = self.0.borrow_mut();
        world.walked.push((step.address, step.stage));
        world.pass();
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
            concurrent: None,
        },
        14..=16 => Step::Access {
            number: u8::arbitrary(u)?,
            wanted,
            concurrent: Some((u8::arbitrary(u)?, concurrent(u)?)),
        },
        17..=20 => Step::Change(change(u)?),
        21..=25 => Step::Invalidate {
            number: u8::arbitrary(u)?,
            by: one_of(u, &ALL_BY)?,
            scope: Scope::of(kind >> 5),
        },
        26..=27 => Step::Command([0x30, 0]),
        28 => Step::Command([0x04, 31]),
        29 => Step::Command(of_stream(0x03, SID, 1)),
        30 => Step::Command(of_stream(0x06, SID, 0)),
        _ => Step::Command(<[u64; 2]>::arbitrary(u)?),
    })
}

fn concurrent(u: &mut Unstructured<'_>) -> Result<Concurrent> {
    let change = change(u)?;
    let how = u8::arbitrary(u)?;
    let request = match how & 0x1f {
        0..=7 => Request::Everything,
        8..=9 => Request::Command([0x30, 0]),
        10 => Request::Command(of_stream(0x03, SID, 1)),
        11 => Request::Command(of_stream(0x03, SID ^ 1, 1)),
        12 => Request::Command(of_stream(0x06, SID, 0)),
        _ => Request::Invalidate {
            number: u8::arbitrary(u)?,
            by: one_of(u, &ALL_BY)?,
            scope: Scope::of(how >> 5),
        },
    };
    Ok(Concurrent {
        change: (how & 0x1f < 26).then_some(change),
        request,
    })
}

fn of_stream(opcode: u64, sid: StreamId, word1: u64) -> [u64; 2] {
    [opcode | (u64::from(sid) << 32), word1]
}

fn change(u: &mut Unstructured<'_>) -> Result<Change> {
    let which = u8::arbitrary(u)?;
    let value = match which {
        0xf8.. => None,
        _ => Some(descriptor(u)?),
    };
    Ok(Change { which, value })
}

/// Returns a descriptor, mostly a valid one with an address that is not too large.
fn descriptor(u: &mut Unstructured<'_>) -> Result<u64> {
    let [kind, flags] = <[u8; 2]>::arbitrary(u)?;
    let address = u64::from(u32::arbitrary(u)?) << 12;
    let valid = match kind & 0xf {
        0 => 0b00,
        1..=4 => 0b01,
        5 => return u64::arbitrary(u),
        _ => 0b11,
    };
    // An address of 44 bits, or of 32.
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

/// Returns the address of a table.
fn root(u: &mut Unstructured<'_>) -> Result<u64> {
    let number = u64::from(u16::arbitrary(u)?) << 12;
    Ok(if number == 0xffff << 12 {
        u64::arbitrary(u)?
    } else {
        number
    })
}

/// Returns a `TxSZ`, mostly within 16 to 39.
fn size(u: &mut Unstructured<'_>) -> Result<u64> {
    let byte = u64::from(u8::arbitrary(u)?);
    Ok(if byte < 0xf8 {
        16 + byte % 24
    } else {
        byte % 64
    })
}

/// Returns those flags of a field that are seldom set.
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

/// Returns `S2TG`, `S2SL0` and `S2T0SZ`, which mostly fit together.
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

/// Returns `width` bits of `value` from bit `low` upwards.
fn field64(value: u64, low: u32, width: u32) -> u64 {
    (value >> low) & ((1 << width) - 1)
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
