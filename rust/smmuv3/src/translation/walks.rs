// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Walks in flight, and which of them an invalidation can reach (§4.7.3).
//!
//! A walk reads tables without a lock, so an invalidation may be executed in the
//! midst of it. The walk's result may then be stale, but only if the invalidation
//! names one of the walk's dependencies:
//!
//! * its stream: Stream table entry and Context descriptor;
//! * the input address of stage 1, under its VMID and ASID;
//! * each IPA that stage 2 translates for it, under its VMID: of the Context
//!   descriptor, of every table of stage 1, and of the output of stage 1.
//!
//! A walk therefore registers each of these before it reads anything for it, and
//! an invalidation notes the distance to each. Which distance is too small depends on
//! the descriptors: a page is reached by the invalidation of any address
//! in it, and a table by that of any address that leads through it.

use super::{range::Range, Entry, Tag, TlbiScope, WalkStep};
use crate::StreamId;

/// No invalidation came near: larger than log2 of any block.
const NEVER: u8 = u8::MAX;

/// The smallest page: IPAs of one page need not be distinguished.
const PAGE_LOG2_BYTES: u8 = 12;

/// Bit 0 of a descriptor.
const VALID: u64 = 1 << 0;
/// `nG`, bit 11 of a page's or block's.
const NOT_GLOBAL: u64 = 1 << 11;

/// The sizes that the descriptors of one stage map that a walk has read, as log2 of
/// bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    /// By the first of them: all addresses in there may lead through the same
    /// tables.
    tables: u8,
    /// By the last of them: the page or block, or the place where one is missing.
    leaf: u8,
    /// The last of them may be global, which the invalidation of an address
    /// reaches regardless of the ASID that it names.
    global: bool,
}

impl Extent {
    /// The extent of a TLB entry: no table is read for it.
    fn of_entry(log2_bytes: u8, global: bool) -> Self {
        Self {
            tables: log2_bytes,
            leaf: log2_bytes,
            global,
        }
    }

    fn note(&mut self, step: &WalkStep) {
        self.tables = self.tables.max(step.log2_bytes);
        self.leaf = step.log2_bytes;
        // an invalid descriptor may have been global before
        self.global = step.descriptor & VALID == 0 || step.descriptor & NOT_GLOBAL == 0;
    }

    fn union(self, other: Self) -> Self {
        Self {
            tables: self.tables.max(other.tables),
            leaf: self.leaf.max(other.leaf),
            global: self.global || other.global,
        }
    }
}

/// An input address of a stage, and how near invalidations came to it: as log2 of
/// the smallest aligned block that has the address and one that was named.
#[derive(Clone, Copy, Debug)]
struct Input {
    tag: Tag,
    address: u64,
    /// Invalidations of tables and leaves.
    tables: u8,
    /// Invalidations of leaves alone.
    leaf: u8,
    /// Invalidations that mean it if it is global.
    global: u8,
    /// The extent of its descriptors.
    extent: Extent,
}

impl Input {
    const fn new(tag: Tag, address: u64) -> Self {
        Self {
            tag,
            address,
            tables: NEVER,
            leaf: NEVER,
            global: NEVER,
            extent: Extent {
                tables: 0,
                leaf: 0,
                global: false,
            },
        }
    }

    /// Returns whether `ipa` under `tag` is an address of the same page.
    fn has(&self, tag: Tag, ipa: u64) -> bool {
        self.tag == tag && (self.address ^ ipa) >> PAGE_LOG2_BYTES == 0
    }

    /// Notes an invalidation; returns whether it can mean anything under this tag.
    fn note(&mut self, what: &TlbiScope) -> bool {
        let (nearest, range) = if let Some(range) = what.reach(self.tag, false) {
            if what.is_leaf_only() {
                (&mut self.leaf, range)
            } else {
                (&mut self.tables, range)
            }
        } else if let Some(range) = what.reach(self.tag, true) {
            (&mut self.global, range)
        } else {
            return false;
        };
        *nearest = (*nearest).min(distance(self.address, range));
        true
    }

    fn is_reached(&self, extent: Extent) -> bool {
        extent.tables >= self.tables
            || extent.leaf >= self.leaf
            || (extent.global && extent.leaf >= self.global)
    }
}

/// Returns log2 of the smallest aligned block that has `address` and some address of
/// `range`.
const fn distance(address: u64, range: Range) -> u8 {
    let nearest = if address < range.first {
        range.first
    } else if address > range.last {
        range.last
    } else {
        address
    };
    // at most 64
    (64 - (address ^ nearest).leading_zeros()) as u8
}

/// The dependencies of a walk in flight.
#[derive(Clone, Debug, Default)]
struct Dependencies {
    in_flight: bool,
    sid: StreamId,
    /// The configuration of the stream was invalidated.
    configuration: bool,
    /// Something was invalidated that may be near: as a rule nothing is, and then
    /// nothing has to be compared.
    is_noted: bool,
    /// One of stage 1, and one for each page of IPAs: fewer than ten.
    inputs: Vec<Input>,
}

/// A walk in flight, with its own notes about the tables that it has read.
///
/// Made by [`Store::begin`](super::Store::begin); to be given back with
/// [`Store::end`](super::Store::end).
#[derive(Debug)]
pub struct Walk {
    slot: usize,
    stage1: Extent,
    stage2: Extent,
    /// Index of the input that stage 2 translates now.
    ipa: Option<usize>,
    pub(super) undisturbed: bool,
}

impl Walk {
    /// Returns whether invalidations wait until the walk ends.
    pub const fn is_undisturbed(&self) -> bool {
        self.undisturbed
    }

    /// Notes a descriptor that was read.
    pub fn note(&mut self, step: &WalkStep) {
        match step.stage {
            1 => self.stage1.note(step),
            _ => self.stage2.note(step),
        }
    }
}

/// All walks in flight: at most one for each thread that translates, as a rule.
#[derive(Debug, Default)]
pub(super) struct Walks {
    slots: Vec<Dependencies>,
    in_flight: usize,
}

impl Walks {
    pub(super) fn begin(&mut self, sid: StreamId) -> Walk {
        let free = self.slots.iter().position(|slot| !slot.in_flight);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(Dependencies::default());
            self.slots.len() - 1
        });
        if let Some(dependencies) = self.slots.get_mut(slot) {
            dependencies.in_flight = true;
            dependencies.sid = sid;
            dependencies.configuration = false;
            dependencies.is_noted = false;
            dependencies.inputs.clear();
        }
        self.in_flight += 1;
        Walk {
            slot,
            stage1: Extent::default(),
            stage2: Extent::default(),
            ipa: None,
            undisturbed: false,
        }
    }

    pub(super) fn end(&mut self, walk: &Walk) {
        if let Some(dependencies) = self.slots.get_mut(walk.slot) {
            dependencies.in_flight = false;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Registers an input address. To be called before anything is read for it.
    pub(super) fn register(&mut self, walk: &mut Walk, tag: Tag, address: u64) {
        let Some(dependencies) = self.slots.get_mut(walk.slot) else {
            return;
        };
        let inputs = &mut dependencies.inputs;
        if tag.asid.is_some() {
            inputs.push(Input::new(tag, address));
            return;
        }
        // The descriptors of the preceding stage 2 walk belong to that walk's input.
        let before = walk.ipa.and_then(|index| inputs.get_mut(index));
        if let Some(input) = before {
            input.extent = input.extent.union(walk.stage2);
        }
        walk.stage2 = Extent::default();
        let known = inputs.iter().position(|input| input.has(tag, address));
        walk.ipa = Some(known.unwrap_or_else(|| {
            inputs.push(Input::new(tag, address));
            inputs.len() - 1
        }));
    }

    /// The TLB had an entry for the input address registered last; `log2_bytes`
    /// says which addresses are invalidated with it.
    pub(super) fn found(&self, walk: &mut Walk, tag: Tag, entry: &Entry, log2_bytes: u8) {
        let extent = Extent::of_entry(log2_bytes, entry.global);
        match tag.asid {
            Some(_) => walk.stage1 = extent,
            None => walk.stage2 = extent,
        }
    }

    /// Returns whether nothing that the walk has read can be stale.
    pub(super) fn is_current(&self, walk: &Walk) -> bool {
        let Some(dependencies) = self.slots.get(walk.slot) else {
            return false;
        };
        if !dependencies.is_noted {
            return !dependencies.configuration;
        }
        let mut inputs = dependencies.inputs.iter().enumerate();
        let is_reached = inputs.any(|(index, input)| {
            let extent = if input.tag.asid.is_some() {
                walk.stage1
            } else if walk.ipa == Some(index) {
                input.extent.union(walk.stage2)
            } else {
                input.extent
            };
            input.is_reached(extent)
        });
        !dependencies.configuration && !is_reached
    }

    pub(super) fn invalidate(&mut self, what: &TlbiScope) {
        self.for_each(|walk| {
            for input in &mut walk.inputs {
                walk.is_noted |= input.note(what);
            }
        });
    }

    pub(super) fn invalidate_configurations(&mut self, first: StreamId, last: StreamId) {
        self.for_each(|walk| {
            walk.configuration |= (first..=last).contains(&walk.sid);
        });
    }

    fn for_each(&mut self, function: impl FnMut(&mut Dependencies)) {
        if self.in_flight != 0 {
            let in_flight = self.slots.iter_mut().filter(|slot| slot.in_flight);
            in_flight.for_each(function);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_distance_is_to_nearest_address() {
        let range = Range {
            first: 0x4000,
            last: 0x7fff,
        };
        for (address, log2) in [
            (0x4000, 0),
            (0x5678, 0),
            (0x7fff, 0),
            (0x3fff, 15),
            (0x8000, 16),
            (0, 15),
            (1 << 63, 64),
        ] {
            assert_eq!(distance(address, range), log2, "{address:#x}");
            for size in 0..=64 {
                let block = Range::page(address, size);
                assert_eq!(block.overlaps(&range), size >= log2, "{address:#x} {size}");
            }
        }
    }

    /// Stage 2 has mapped an earlier table of stage 1 by a block: any address of the
    /// block reaches the walk, although it has gone on to another page since.
    #[test]
    fn walk_keeps_extents_of_earlier_stage2_walks() {
        let tag = Tag {
            vmid: 1,
            asid: None,
        };
        let step = |input, log2_bytes| WalkStep {
            stage: 2,
            level: 2,
            input,
            log2_bytes,
            address: 0,
            index: 0,
            descriptor: VALID,
        };
        for (named, is_current) in [(0x4001_0000, false), (0x4020_0000, true)] {
            let mut walks = Walks::default();
            let mut walk = walks.begin(1);
            walks.register(&mut walk, tag, 0x4000_0000);
            walk.note(&step(0x4000_0000, 21));
            walks.register(&mut walk, tag, 0x8000_0000);
            walk.note(&step(0x8000_0000, 12));
            walks.invalidate(&TlbiScope::Ipa {
                vmid: 1,
                range: Range::page(named, 12),
                leaf: true,
            });
            assert_eq!(walks.is_current(&walk), is_current, "{named:#x}");
        }
    }

    #[test]
    fn walk_slots_are_reused_empty() {
        let mut walks = Walks::default();
        let one = walks.begin(1);
        let mut two = walks.begin(2);
        let tag = Tag {
            vmid: 0,
            asid: None,
        };
        walks.register(&mut two, tag, 0x1000);
        walks.invalidate_configurations(2, 2);
        walks.invalidate(&TlbiScope::All);
        assert!(walks.is_current(&one) && !walks.is_current(&two));
        walks.end(&two);
        let again = walks.begin(2);
        assert!(walks.is_current(&again));
        assert_eq!(walks.slots.len(), 2);
    }
}
