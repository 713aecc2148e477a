// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Threads that translate while a guest remaps and invalidates continuously, as in the
//! device: a few attempts that race with invalidations, then one that these wait for.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        Condvar, Mutex, MutexGuard, RwLock,
    },
    thread,
};

use smmuv3::{
    translation::{
        translate, Caches, Entry, Outcome, Store, StreamContext, Tag, TlbiScope, Walk, WalkStep,
    },
    BusAbort, Features, GuestMemory, Registers, StreamId,
};

use crate::common::{
    smmu::{Nested, Smmu, ASID, READ, SID, TABLES1, TABLES2, VMID},
    tables::{Tables, STAGE1, STAGE2},
    tlbi_scope, Memory,
};

const PAGE: u64 = 0x7654_3000;
const IPA: u64 = 0x20_4000_0000;
const OUTPUT: u64 = 0x5_0000_0000;

/// Attempts that race with invalidations.
const ATTEMPTS: u32 = 3;
const THREADS: u32 = 3;
/// Translations of each thread at least.
const TRANSLATIONS: u32 = 200;
/// Translations of each thread at most. Whether a walk races with an invalidation
/// is up to the machine's scheduler, so a busy machine needs more of them.
const MOST_TRANSLATIONS: u32 = 1_000 * TRANSLATIONS;

struct Shared {
    store: Store,
    /// The mapping of the last completed `CMD_SYNC`: no older one may be used.
    synced: u64,
}

struct Machine {
    registers: Registers,
    features: Features,
    memory: RwLock<Memory>,
    shared: Mutex<Shared>,
    ended: Condvar,
    done: AtomicBool,
    /// Translations that took the attempt that invalidations wait for.
    waited_for: AtomicU32,
}

/// A walk's view of it.
struct View<'a> {
    machine: &'a Machine,
    walk: Walk,
}

struct Ram<'a>(&'a Machine);

impl GuestMemory for Ram<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        // as if others had the CPU
        thread::yield_now();
        for (at, bytes) in (address..).step_by(8).zip(buffer.chunks_exact_mut(8)) {
            let word = self.0.memory.read().expect("no panics").load_u64(at);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BusAbort> {
        panic!("translation does not write");
    }
}

impl View<'_> {
    fn with<R>(&mut self, access: impl FnOnce(&mut Store, &mut Walk) -> R) -> R {
        let mut shared = self.machine.shared.lock().expect("no panics");
        access(&mut shared.store, &mut self.walk)
    }
}

impl Caches for View<'_> {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.with(|store, _| store.configuration(sid).copied())
    }

    fn insert_context(&mut self, sid: StreamId, context: &StreamContext) {
        self.with(|store, walk| store.insert_context_for(walk, sid, context));
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.with(|store, walk| store.lookup_for(walk, tag, address))
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        self.with(|store, walk| store.insert_for(walk, tag, address, entry));
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.with(|store, _| store.note_split(stage1_log2_bytes));
    }

    fn walked(&mut self, step: &WalkStep) {
        self.walk.note(step);
    }
}

impl Machine {
    fn attempt(&self, undisturbed: bool) -> Option<(Outcome, u64)> {
        let walk = {
            let shared = &mut *self.shared.lock().expect("no panics");
            if let Some(outcome) = shared.store.hit(SID, PAGE, READ) {
                return Some((outcome, shared.synced));
            }
            if undisturbed {
                shared.store.begin_undisturbed(SID, PAGE)
            } else {
                shared.store.begin(SID, PAGE)
            }
        };
        let mut view = View {
            machine: self,
            walk,
        };
        let outcome = translate(
            &self.registers.stream_table(),
            &self.features,
            &mut Ram(self),
            &mut view,
            SID,
            PAGE,
            READ,
        );
        let mut shared = self.shared.lock().expect("no panics");
        let is_current = shared.store.is_current(&view.walk);
        let synced = shared.synced;
        shared.store.end(&view.walk);
        drop(shared);
        self.ended.notify_all();
        is_current.then_some((outcome, synced))
    }

    /// Translates, and counts the attempts that invalidations wait for.
    fn translate(&self) {
        let beside = (0..ATTEMPTS).find_map(|_| self.attempt(false));
        if beside.is_none() {
            self.waited_for.fetch_add(1, Ordering::Relaxed);
        }
        let result = beside.or_else(|| self.attempt(true));
        let (outcome, synced) = result.expect("no invalidation races with the last attempt");
        let Outcome::Translated { entry, .. } = outcome else {
            panic!("it is always mapped: {outcome:x?}");
        };
        let version = (entry.translate(PAGE) - OUTPUT) >> 12;
        assert!(version >= synced, "{version} after {synced}");
    }

    /// Whether a thread that has made `count` translations makes another one.
    fn continues(&self, count: u32) -> bool {
        count < TRANSLATIONS
            || (count < MOST_TRANSLATIONS && self.waited_for.load(Ordering::Relaxed) == 0)
    }

    /// Waits for the walks that no invalidation may race with.
    fn undisturbed(&self) -> MutexGuard<'_, Shared> {
        let shared = self.shared.lock().expect("no panics");
        self.ended
            .wait_while(shared, |shared| shared.store.must_wait())
            .expect("no panics")
    }

    /// Remaps the page, invalidates, and completes a `CMD_SYNC`.
    fn remap(&self, version: u64, slot: u64, attributes: u64, commands: &[TlbiScope]) {
        let descriptor = (OUTPUT + (version << 12)) | attributes | 0b11;
        let mut memory = self.memory.write().expect("no panics");
        memory.store_words(slot, &[descriptor]);
        drop(memory);
        for command in commands {
            self.undisturbed().store.invalidate(command);
        }
        self.shared.lock().expect("no panics").synced = version;
    }
}

/// Runs threads against a guest. Returns how many translations took the attempt that
/// invalidations wait for.
fn race(smmu: Smmu, slot: u64, attributes: u64, commands: &[TlbiScope]) -> u32 {
    let machine = Machine {
        registers: smmu.registers,
        features: smmu.features,
        memory: RwLock::new(smmu.memory),
        shared: Mutex::new(Shared {
            store: Store::default(),
            synced: 0,
        }),
        ended: Condvar::new(),
        done: AtomicBool::new(false),
        waited_for: AtomicU32::new(0),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in (1..).take_while(|_| !machine.done.load(Ordering::Relaxed)) {
                machine.remap(version, slot, attributes, commands);
            }
        });
        let translating = (0..THREADS).map(|_| {
            scope.spawn(|| {
                (0..)
                    .take_while(|count| machine.continues(*count))
                    .for_each(|_| machine.translate());
            })
        });
        let threads: Vec<_> = translating.collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        machine.done.store(true, Ordering::Relaxed);
        results
            .into_iter()
            .for_each(|result| result.expect("no panics"));
    });
    machine.waited_for.into_inner()
}

#[test]
fn stage1_tlbi_storm_starves_no_thread() {
    let mut tables = Tables::stage1(12, 48, TABLES1);
    let mut smmu = Smmu::stage1(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE1);
    let slot = tables.place(&mut smmu.memory, PAGE, 3);
    let word0 = 0x12 | (u64::from(VMID) << 32) | (u64::from(ASID) << 48);
    let command = tlbi_scope([word0, PAGE | 1]);
    let last = race(smmu, slot, STAGE1, &[command]);
    assert_ne!(last, 0, "attempts that were waited for");
}

#[test]
fn stage2_tlbi_storm_starves_no_thread() {
    let stage1 = Tables::stage1(12, 48, TABLES1);
    let mut nested = Nested::new(stage1, Tables::new(12, 44, 0, TABLES2));
    nested.map1(PAGE, 3, IPA, STAGE1);
    nested.map2(IPA, 3, OUTPUT, STAGE2);
    let slot = nested.place2(IPA, 3);
    let vmid = u64::from(VMID) << 32;
    let of = |opcode: u64, address| tlbi_scope([opcode | vmid, address]);
    let commands = [of(0x2a, IPA | 1), of(0x10, 0)];
    let last = race(nested.smmu, slot, STAGE2, &commands);
    assert_ne!(last, 0, "attempts that were waited for");
}
