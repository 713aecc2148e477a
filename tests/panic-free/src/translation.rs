// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software, and its caches (§3.3, §3.4, §4.4).

use smmuv3::{
    command::Tlbi,
    registers::StreamTableRegisters,
    translation::{
        translate, Caches, Context, Entry, Fault, Outcome, Permissions, Range, Store,
        StreamContext, Tag, TlbiScope, Uncached, Walk, WalkStep,
    },
    Event, Features, GuestMemory, Registers, StreamId,
};

use crate::surroundings::{Cached, Least, Memory};

/// Takes a transaction through the SMMU.
#[inline(never)]
pub fn through(
    registers: &StreamTableRegisters,
    features: &Features,
    (memory, caches): (&mut dyn GuestMemory, &mut dyn Caches),
    sid: StreamId,
    address: u64,
    wanted: Permissions,
) -> Outcome {
    let (memory, caches) = (&mut Memory(memory), &mut Cached(caches));
    translate(registers, features, memory, caches, sid, address, wanted)
}

/// Takes one through an SMMU without caches.
#[inline(never)]
pub fn uncached(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut dyn GuestMemory,
    sid: StreamId,
    address: u64,
    wanted: Permissions,
) -> Outcome {
    let (memory, caches) = (&mut Least(memory), &mut Uncached);
    translate(registers, features, memory, caches, sid, address, wanted)
}

/// Takes one through an SMMU whose caches are the caller's alone.
#[inline(never)]
pub fn cached(
    registers: &StreamTableRegisters,
    features: &Features,
    (memory, store): (&mut dyn GuestMemory, &mut Store),
    sid: StreamId,
    address: u64,
    wanted: Permissions,
) -> Outcome {
    let memory = &mut Memory(memory);
    translate(registers, features, memory, store, sid, address, wanted)
}

/// Looks a transaction up in both caches.
#[inline(never)]
pub fn hit(store: &Store, sid: StreamId, address: u64, wanted: Permissions) -> Option<Outcome> {
    store.hit(sid, address, wanted)
}

/// Begins a walk.
#[inline(never)]
pub fn begin(store: &mut Store, sid: StreamId, address: u64, undisturbed: bool) -> (Walk, bool) {
    let walk = if undisturbed {
        store.begin_undisturbed(sid, address)
    } else {
        store.begin(sid, address)
    };
    let must_wait = store.must_wait() || walk.is_undisturbed();
    (walk, must_wait)
}

/// Looks up what a walk needs.
#[inline(never)]
pub fn lookup(
    store: &mut Store,
    walk: &mut Walk,
    tag: Tag,
    address: u64,
    step: &WalkStep,
) -> Option<Entry> {
    walk.note(step);
    store.lookup_for(walk, tag, address)
}

/// Inserts what a walk has found, and ends it.
#[inline(never)]
pub fn end(
    store: &mut Store,
    walk: &Walk,
    (sid, context): (StreamId, &StreamContext),
    (tag, address): (Tag, u64),
    entry: &Entry,
) -> bool {
    let is_current = store.is_current(walk);
    store.insert_context_for(walk, sid, context);
    store.insert_for(walk, tag, address, entry);
    store.end(walk);
    is_current
}

/// Invalidates translations.
#[inline(never)]
pub fn invalidate(store: &mut Store, tlbi: &Tlbi) -> TlbiScope {
    let scope = TlbiScope::of(tlbi);
    store.invalidate(&scope);
    scope
}

/// Invalidates configurations.
#[inline(never)]
pub fn invalidate_configurations(store: &mut Store, first: StreamId, last: StreamId) {
    store.invalidate_configurations(first, last);
}

/// Invalidates everything.
#[inline(never)]
pub fn clear(store: &mut Store) {
    store.clear();
}

/// Returns what a notifier's client has to unmap.
#[inline(never)]
pub fn unmapped(
    scope: &TlbiScope,
    store: &Store,
    context: &Context,
    globals: bool,
) -> Option<(Range, u8)> {
    let tag = context.tag();
    let range = store.tlb().widened(scope.reach(tag, globals)?);
    let granule = context.granule_shift_of(tag, range.first);
    let stages = context.stages.bits();
    let all = globals && store.tlb().has_seen_globals() && scope.is_leaf_only();
    Some((range.aligned(granule).enclosing(), stages | u8::from(all)))
}

/// Calls `unmap` with the blocks of a range.
#[inline(never)]
pub fn blocks(range: Range, unmap: &mut dyn FnMut(u64, u64)) {
    range.blocks().for_each(|(first, mask)| unmap(first, mask));
}

/// Returns the record of a fault.
#[inline(never)]
pub fn fault(
    fault: &Fault,
    registers: &Registers,
    sid: StreamId,
    input: u64,
    read: bool,
) -> Option<Event> {
    fault
        .is_recorded(registers)
        .then(|| fault.record(sid, input, read))
}

/// Returns the output of an entry.
#[inline(never)]
pub fn output(entry: &Entry, address: u64, wanted: Permissions) -> Option<u64> {
    let permitted = entry.permissions().and(entry.stage1).allow(wanted);
    permitted.then(|| entry.translate(address))
}
