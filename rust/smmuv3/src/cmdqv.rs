// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization (CMDQV) as NVIDIA's Tegra241 has it: additional Command queues
//! (VCMDQs) whose registers a guest accesses directly.
//!
//! No hardware specification is public: see [`spec::cmdqv`](crate::spec::cmdqv) for the
//! sources. Behaviour that they leave open is a choice of this device, and listed in
//! `docs/conformance.md`.
//!
//! A guest has one virtual interface (VINTF) with [`QUEUES`] queues. Queue *n* of the
//! VINTF (LVCMDQ *n*) is the VCMDQ that `CMDQ_ALLOC_MAP` names. It is *in hardware* if
//! the host executes it: then its control page is the host's page, reached through
//! [`HostPage`], which the guest has mapped while [`Cmdqv::is_page_visible`] holds. It is
//! *in software* if the host refuses it, because Linux's driver does without the whole
//! SMMU if a queue does not start. Then [`Cmdqv::begin`] has it consumed by
//! [`Cmdq`](crate::Cmdq). [`Cmdqv::reconcile`] moves queues between the two, which a
//! guest does not notice.

mod access;
mod assignment;
mod offset;
mod page;
mod plan;
mod reconcile;
mod registers;
mod run;
mod vcmdq;

pub use self::{
    access::{Effects, QueueOffset},
    assignment::Assignment,
    page::{HostPage, NoPage, Page0},
    plan::{next_step, Backing, Slot, Step},
    reconcile::{Host, QueueState},
    registers::Cmdqv,
    run::VcmdqRun,
};

/// Number of queues of the VINTF, and of VCMDQs: what a host with the fewest has.
pub const QUEUES: usize = 2;

/// Number of pairs of `SID_MATCH` and `SID_REPLACE` of the VINTF.
pub const SIDS: usize = 16;

/// Size of the register space in bytes: the CONFIG page, two pages of VCMDQs by their
/// global number, and two of the VINTF's.
pub const SIZE: u64 = 0x5_0000;

/// Offset of the page that a guest can have mapped: the VINTF's control registers.
pub const PAGE_OFFSET: u64 = 0x3_0000;

/// Size of that page in bytes.
pub const PAGE_SIZE: u64 = 0x1_0000;

/// Returns the largest `IDR1.CMDQS` with which every queue fits into one page of the
/// host's, `page_bytes` in size: hardware needs physically contiguous queues.
///
/// The result is log2 of a number of entries of 16 bytes, 19 at most (§6.3.2).
pub const fn largest_cmdqs(page_bytes: u64) -> u8 {
    match page_bytes.checked_ilog2() {
        Some(log2 @ 4..=22) => (log2 - 4) as u8,
        Some(23..) => 19,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmdqs_is_limited_by_host_page_size() {
        let cases = [
            (0, 0),
            (1, 0),
            (16, 0),
            (0x1000, 8),
            (0x1_0000, 12),
            (0x20_0000, 17),
            (0x80_0000, 19),
            (0x100_0000, 19),
            (u64::MAX, 19),
        ];
        for (bytes, cmdqs) in cases {
            assert_eq!(largest_cmdqs(bytes), cmdqs, "{bytes:#x}");
        }
    }
}
