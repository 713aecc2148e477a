// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Insertions and commands, for the TLB and for a list of infinite length.

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::translation::{Entry, Permissions, Tag};

use crate::{
    common::tlb_model::{Both, Known, Step, BASES, SIZES},
    pick::{below, one_of, several},
};

/// Opcodes of all invalidations of the TLB.
const OPCODES: [u64; 7] = [0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30];

/// The steps of one input.
#[derive(Clone, Debug)]
pub struct Steps(Vec<Step>);

impl Steps {
    /// Panics if an entry hits that was invalidated or replaced, and, as long as there
    /// is room for all entries, if one misses that was not.
    pub fn check(&self) {
        let mut both = Both::new();
        let mut inserted: Vec<Known> = Vec::new();
        for step in &self.0 {
            both.take(step);
            if let Step::Insert(known) = step {
                inserted.push(*known);
                both.is_found(known);
                continue;
            }
            for known in &inserted {
                let found = both.is_found(known);
                // As many as one set has room for.
                if inserted.len() <= 4 {
                    assert_eq!(found, both.is_known(known), "{known:x?}");
                }
            }
        }
    }
}

impl Arbitrary<'_> for Steps {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let step = |u: &mut Unstructured<'_>| {
            Ok(if below(u, 4)? == 0 {
                Step::Execute(command(u)?)
            } else {
                Step::Insert(known(u)?)
            })
        };
        several(u, 200, step).map(Self)
    }
}

fn tag(u: &mut Unstructured<'_>) -> Result<Tag> {
    Ok(Tag {
        vmid: one_of(u, &[0, 1, 0x8000])?,
        asid: one_of(u, &[None, Some(0), Some(1), Some(0xffff)])?,
    })
}

/// A virtual address that is canonical.
fn address(u: &mut Unstructured<'_>) -> Result<u64> {
    let shift = one_of(u, &[12, 14, 16, 21])?;
    let address = one_of(u, &BASES)?.wrapping_add(u64::from(below(u, 64)?) << shift);
    Ok((((address << 8) as i64) >> 8) as u64)
}

fn known(u: &mut Unstructured<'_>) -> Result<Known> {
    let tag = tag(u)?;
    let log2_bytes = one_of(u, &SIZES)?;
    let within = (1 << log2_bytes) - 1;
    let bits = u8::arbitrary(u)?;
    let permissions = |bits: u8| Permissions {
        read: bits & 1 != 0,
        write: bits & 2 != 0,
    };
    let address = match (tag.asid, address(u)?) {
        (None, address) => address << 8 >> 8,
        (Some(_), address) => address,
    };
    Ok(Known {
        tag,
        first: address & !within,
        entry: Entry {
            output: u64::arbitrary(u)? & ((1 << 52) - 1) & !within,
            log2_bytes,
            stage1: permissions(bits),
            stage2: permissions(bits >> 2),
            device: bits & 0x20 != 0,
            // Stage 2 has no global entries.
            global: bits & 0x10 != 0 && tag.asid.is_some(),
        },
    })
}

/// Returns a TLBI with any value in each field that a guest can write.
fn command(u: &mut Unstructured<'_>) -> Result<[u64; 2]> {
    let opcode = one_of(u, &OPCODES)?;
    let Tag { vmid, asid } = tag(u)?;
    let range = u16::arbitrary(u)?;
    let (num, scale) = (u64::from(range & 0x1f), u64::from((range >> 5) & 0x1f));
    let hint = u64::from((range >> 10) & 0xf);
    let top = if range >> 14 == 3 { 0xa5 << 56 } else { 0 };
    let asid = asid.map_or(0x1234, u64::from);
    Ok([
        opcode | (num << 12) | (scale << 20) | (u64::from(vmid) << 32) | (asid << 48),
        (address(u)? ^ top) | (hint << 8),
    ])
}
