// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The scope of a `CMD_TLBI_*` (§4.4).

use super::{
    entry::{within, Tag},
    range::Range,
};
use crate::{
    address::{low_bits, truncate},
    command::{opcode::*, Tlbi},
    spec::vmsa::InputAddress,
};

/// The translations that a `CMD_TLBI_*` invalidates.
///
/// No more than complete translations are cached, so `Leaf` says nothing about what
/// the TLB has: it narrows what must be read again by walks in flight. Level hints
/// are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlbiScope {
    /// Everything (`CMD_TLBI_NSNH_ALL`).
    All,
    /// Everything of a VMID, at both stages (`CMD_TLBI_S12_VMALL`).
    Vmid(u16),
    /// Everything of a VMID that stage 1 has a part in, global or not
    /// (`CMD_TLBI_NH_ALL`).
    VmidStage1(u16),
    /// Everything of an ASID that is not global (`CMD_TLBI_NH_ASID`).
    Asid {
        /// The VMID that the ASID belongs to.
        vmid: u16,
        /// The ASID.
        asid: u16,
    },
    /// Virtual addresses of an ASID, and global ones regardless of their ASID
    /// (`CMD_TLBI_NH_VA`).
    Address {
        /// The VMID that the ASID belongs to.
        vmid: u16,
        /// The ASID; without one every ASID (`CMD_TLBI_NH_VAA`).
        asid: Option<u16>,
        /// The addresses.
        range: Range,
        /// The tables that lead to them are not meant (`Leaf`).
        leaf: bool,
    },
    /// Intermediate physical addresses, where stage 2 translates alone
    /// (`CMD_TLBI_S2_IPA`). Software invalidates combined translations by VMID or
    /// virtual address (§4.4.3.1).
    Ipa {
        /// The VMID.
        vmid: u16,
        /// The addresses.
        range: Range,
        /// The tables that lead to them are not meant (`Leaf`).
        leaf: bool,
    },
}

/// `SCALE` is no larger than this in effect (§4.4.1.1).
const MAX_SCALE: u8 = 39;
/// Bits of an address that are compared. TBI may apply to commands (§4.4.2).
const ADDRESS_BITS: u32 = 56;

impl TlbiScope {
    /// Returns the scope of a command.
    pub fn of(tlbi: &Tlbi) -> Self {
        let (vmid, asid, leaf) = (tlbi.vmid(), tlbi.asid(), tlbi.leaf());
        match tlbi.opcode() {
            TLBI_S12_VMALL => Self::Vmid(vmid),
            TLBI_NH_ALL => Self::VmidStage1(vmid),
            TLBI_NH_ASID => Self::Asid { vmid, asid },
            TLBI_NH_VA => Self::Address {
                vmid,
                asid: Some(asid),
                range: virtual_range(tlbi),
                leaf,
            },
            TLBI_NH_VAA => Self::Address {
                vmid,
                asid: None,
                range: virtual_range(tlbi),
                leaf,
            },
            TLBI_S2_IPA => Self::Ipa {
                vmid,
                range: range(tlbi, ADDRESS_BITS),
                leaf,
            },
            // TLBI_NSNH_ALL: there is no other
            _ => Self::All,
        }
    }

    /// Returns the range that a cache of translations with `tag` must invalidate, if any.
    /// `globals`: global translations may be among them.
    pub fn reach(&self, tag: Tag, globals: bool) -> Option<Range> {
        let stage1 = tag.asid.is_some();
        let (hit, range) = match *self {
            Self::All => (true, Range::ALL),
            Self::Vmid(vmid) => (tag.vmid == vmid, Range::ALL),
            Self::VmidStage1(vmid) => (stage1 && tag.vmid == vmid, Range::ALL),
            Self::Asid { vmid, asid } => (tag.vmid == vmid && tag.asid == Some(asid), Range::ALL),
            Self::Address {
                vmid, asid, range, ..
            } => (
                stage1 && tag.vmid == vmid && (globals || asid.is_none() || tag.asid == asid),
                range,
            ),
            Self::Ipa { vmid, range, .. } => (!stage1 && tag.vmid == vmid, range),
        };
        hit.then_some(range)
    }

    /// Returns whether the tables that lead to the addresses are not affected.
    pub const fn is_leaf_only(&self) -> bool {
        matches!(
            self,
            Self::Address { leaf: true, .. } | Self::Ipa { leaf: true, .. }
        )
    }
}

/// Returns the range of a virtual address. It belongs to the table that its first
/// address does: a part that would overflow from `TTB0`'s region into `TTB1`'s, or
/// from there to the bottom, need not be invalidated (§4.4.1.1).
fn virtual_range(tlbi: &Tlbi) -> Range {
    let half = range(tlbi, ADDRESS_BITS - 1);
    if !InputAddress::is_upper(tlbi.address()) {
        return half;
    }
    let upper = !low_bits(ADDRESS_BITS - 1);
    Range {
        first: half.first | upper,
        last: half.last | upper,
    }
}

/// `Address` and the range behind it (§4.4.1.1), of addresses that have `bits`
/// bits. Without `TG` it is a 4KB page: the smallest that there is.
///
/// An address that is not aligned to its granule is UNPREDICTABLE: all that
/// can be meant is included.
fn range(tlbi: &Tlbi, bits: u32) -> Range {
    let top = low_bits(bits);
    let first = truncate(tlbi.address(), bits);
    let Some(log2_granule) = tlbi.granule_shift() else {
        return Range::page(first, 12);
    };
    let scale = tlbi.scale().min(MAX_SCALE);
    // At most 2^(5 + 39 + 16).
    let bytes = ((u64::from(tlbi.num()) + 1) << scale) << log2_granule;
    let last = first.saturating_add(bytes - 1) | within(log2_granule);
    Range {
        first: first & !within(log2_granule),
        last: last.min(top),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{decode, Invalidation},
        Command, Features,
    };

    /// The scope of the words of a command, on an SMMU that has everything.
    fn scope(words: [u64; 2]) -> Option<TlbiScope> {
        let features = Features::arm_smmuv3().with_s2p(true).with_ds(true);
        match decode(words, &features) {
            Ok(Command::Invalidate(Invalidation::Tlbi(tlbi))) => Some(TlbiScope::of(&tlbi)),
            _ => None,
        }
    }

    const VMID: u16 = 0xbbcc;
    const ASID: u16 = 0xaaaa;
    const OWNER: u64 = 0xaaaa_bbcc_0000_0000;

    fn range_of(words: [u64; 2]) -> Range {
        match scope(words) {
            Some(TlbiScope::Address { range, .. } | TlbiScope::Ipa { range, .. }) => range,
            other => panic!("no range: {other:?}"),
        }
    }

    fn range(first: u64, last: u64) -> Range {
        Range { first, last }
    }

    #[test]
    fn tlbi_scope_by_command() {
        let of = |opcode: u64| scope([OWNER | opcode, 0x1000]);
        let (vmid, asid, range) = (VMID, ASID, Range::page(0x1000, 12));
        let by_address = |whose| TlbiScope::Address {
            vmid,
            asid: whose,
            range,
            leaf: false,
        };
        for opcode in 0..=0xff {
            let scope = match opcode {
                0x10 => Some(TlbiScope::VmidStage1(vmid)),
                0x11 => Some(TlbiScope::Asid { vmid, asid }),
                0x12 => Some(by_address(Some(asid))),
                0x13 => Some(by_address(None)),
                0x28 => Some(TlbiScope::Vmid(vmid)),
                0x2a => Some(TlbiScope::Ipa {
                    vmid,
                    range,
                    leaf: false,
                }),
                0x30 => Some(TlbiScope::All),
                _ => None,
            };
            assert_eq!(of(opcode), scope, "{opcode:#x}");
        }
    }

    #[test]
    fn tlbi_leaf_keeps_table_entries() {
        for opcode in 0..=0xff {
            let of = |leaf: u64| scope([OWNER | opcode, 0x1000 | leaf]);
            let is_leaf_only = |leaf| of(leaf).is_some_and(|what| what.is_leaf_only());
            assert!(!is_leaf_only(0), "{opcode:#x}");
            let by_address = matches!(opcode, 0x12 | 0x13 | 0x2a);
            assert_eq!(is_leaf_only(1), by_address, "{opcode:#x}");
        }
    }

    #[test]
    fn tlbi_range_length_by_num_scale_and_tg() {
        let at = |num: u64, scale: u64, granule: u64| {
            range_of([
                0x12 | (num << 12) | (scale << 20),
                // with a level hint, without which a single granule is ILLEGAL
                0x1_0300 | (granule << 10),
            ])
        };
        assert_eq!(at(0, 0, 0), range(0x1_0000, 0x1_0fff));
        assert_eq!(at(0, 0, 1), range(0x1_0000, 0x1_0fff));
        assert_eq!(at(0, 0, 2), range(0x1_0000, 0x1_3fff));
        assert_eq!(at(0, 0, 3), range(0x1_0000, 0x1_ffff));
        assert_eq!(at(2, 4, 1), range(0x1_0000, 0x3_ffff));
        assert_eq!(at(31, 31, 3), range(0x1_0000, 0x10_0000_0000_ffff));
        assert_eq!(at(1, 39, 1), range(0x1_0000, 0x10_0000_0000_ffff));
        assert_eq!(at(1, 63, 1), at(1, 39, 1));
        assert_eq!(at(1, 38, 1), at(0, 39, 1));
    }

    #[test]
    fn tlbi_range_stops_at_table_end() {
        let longest = |opcode: u64, address: u64| {
            range_of([opcode | (31 << 12) | (63 << 20), address | (3 << 10)])
        };
        let lower = range(0x1_0000, 0x007f_ffff_ffff_ffff);
        let upper = range(0xff80_0000_0000_0000, u64::MAX);
        assert_eq!(longest(0x12, 0x1_0000), lower);
        assert_eq!(longest(0x13, 0x1_0000), lower);
        assert_eq!(longest(0x12, 0x5500_0000_0001_0000), lower);
        assert_eq!(longest(0x12, 0x0080_0000_0000_0000), upper);
        assert_eq!(longest(0x12, 0xff80_0000_0000_0000), upper);
        let ipas = range(0x1_0000, 0x00ff_ffff_ffff_ffff);
        assert_eq!(longest(0x2a, 0xff00_0000_0001_0000), ipas);
    }

    #[test]
    fn tlbi_unaligned_range_rounds_to_granules() {
        let unaligned = range_of([0x12 | (1 << 12), 0x1_3000 | (3 << 10)]);
        assert_eq!(unaligned, range(0x1_0000, 0x3_ffff));
    }

    #[test]
    fn tlbi_matches_own_tag_only() {
        let combined = Tag {
            vmid: VMID,
            asid: Some(ASID),
        };
        let stage2 = Tag {
            vmid: VMID,
            asid: None,
        };
        let page = Some(Range::page(0x1000, 12));
        let all = Some(Range::ALL);
        let words = |opcode: u64| scope([OWNER | opcode, 0x1000]);
        let reach = |opcode, tag| words(opcode).and_then(|what| what.reach(tag, false));
        for (opcode, of_combined, of_stage2) in [
            (0x10, all, None),
            (0x11, all, None),
            (0x12, page, None),
            (0x13, page, None),
            (0x28, all, all),
            (0x2a, None, page),
            (0x30, all, all),
        ] {
            assert_eq!(reach(opcode, combined), of_combined, "{opcode:#x}");
            assert_eq!(reach(opcode, stage2), of_stage2, "{opcode:#x}");
            for stranger in [combined, stage2].map(|tag| Tag { vmid: 1, ..tag }) {
                let everybody = if opcode == 0x30 { all } else { None };
                assert_eq!(reach(opcode, stranger), everybody, "{opcode:#x}");
            }
        }
    }

    #[test]
    fn tlbi_by_address_matches_global_for_any_asid() {
        let other = Tag {
            vmid: VMID,
            asid: Some(1),
        };
        let reach = |opcode: u64, globals| {
            scope([OWNER | opcode, 0x1000]).and_then(|what| what.reach(other, globals))
        };
        let page = Some(Range::page(0x1000, 12));
        assert_eq!([reach(0x12, false), reach(0x12, true)], [None, page]);
        assert_eq!([reach(0x13, false), reach(0x13, true)], [page, page]);
        assert_eq!([reach(0x11, false), reach(0x11, true)], [None, None]);
    }
}
