// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state of the register file, and everything that is computed from it.

use bilge::prelude::*;

use super::{
    assignment::{Assignment, Memory},
    offset::Name,
    plan::{Backing, Slot},
    vcmdq::Vcmdq,
    HostPage, Page0, QUEUES, SIDS,
};
use crate::{
    features::Features,
    spec::{
        cmdqv::{
            CmdqAllocMap, CmdqvConfig, CmdqvParam, CmdqvStatus, VcmdqStatus, VintfConfig, VintfMap,
            VintfStatus,
        },
        mask,
    },
};

/// `CMDQV_VER` of a Tegra241.
const VERSION: u8 = 1;

/// `CONFIG` out of reset: enabled, with the batch limits that QEMU's device shows.
const CONFIG: u32 = 0x0002_0083;

/// `STATUS` of a VINTF with a queue in error.
const STATUS_VCMDQ_ERROR: u8 = 1;

/// The registers that are reset as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) config: u32,
    pub(super) int_mask: u32,
    pub(super) alloc_map: [u32; QUEUES],
    pub(super) vintf_config: u32,
    pub(super) sid_match: [u32; SIDS],
    pub(super) sid_replace: [u32; SIDS],
}

impl Default for Control {
    fn default() -> Self {
        Self {
            config: CONFIG,
            int_mask: 0,
            alloc_map: [0; QUEUES],
            vintf_config: 0,
            sid_match: [0; SIDS],
            sid_replace: [0; SIDS],
        }
    }
}

/// The host's part of an LVCMDQ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostSlot {
    pub(super) backing: Backing,
    pub(super) refused: Option<Assignment>,
}

/// The registers of a CMDQV with one VINTF, and the queues that the host has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdqv {
    pub(super) control: Control,
    pub(super) vcmdqs: [Vcmdq; QUEUES],
    pub(super) host: [HostSlot; QUEUES],
    /// The guest has the host's page mapped.
    pub(super) is_page_shown: bool,
    /// The host must have no queue: see [`Cmdqv::bar_hardware`].
    pub(super) is_barred: bool,
}

impl Cmdqv {
    /// Returns the registers out of reset, of a host without queues.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the VCMDQ of LVCMDQ `lvcmdq`, or `None` if it has none. Of two entries of
    /// `CMDQ_ALLOC_MAP` that give it one, the first counts.
    pub(super) fn vcmdq_of(&self, lvcmdq: usize) -> Option<usize> {
        self.control.alloc_map.iter().position(|entry| {
            let entry = CmdqAllocMap::of(*entry);
            entry.alloc()
                && entry.vintf().value() == 0
                && usize::from(entry.lvcmdq().value()) == lvcmdq
        })
    }

    /// Returns the LVCMDQ that VCMDQ `vcmdq` is.
    pub(super) fn lvcmdq_of(&self, vcmdq: usize) -> Option<usize> {
        (0..QUEUES).find(|lvcmdq| self.vcmdq_of(*lvcmdq) == Some(vcmdq))
    }

    /// Returns the VCMDQ that an access names.
    pub(super) fn resolve(&self, name: Name) -> Option<usize> {
        match name {
            Name::Vcmdq(vcmdq) => Some(vcmdq),
            Name::Lvcmdq(lvcmdq) => self.vcmdq_of(lvcmdq),
        }
    }

    /// Returns whether `CONFIG.CMDQV_EN` is set.
    pub const fn is_enabled(&self) -> bool {
        self.control.config & mask!(CmdqvConfig: cmdqv_en) != 0
    }

    /// Returns whether the VINTF is enabled: its `STATUS.ENABLE_OK`.
    pub const fn is_vintf_enabled(&self) -> bool {
        self.is_enabled() && self.control.vintf_config & mask!(VintfConfig: enable) != 0
    }

    /// Returns whether an error raises the interrupt: `VI_INT_MASK` does not have the bit
    /// of the VINTF.
    pub const fn is_interrupt_enabled(&self) -> bool {
        self.control.int_mask & mask!(VintfMap: vintf0) == 0
    }

    /// Returns the queue that the registers ask for as LVCMDQ `lvcmdq`, or `None` if it is
    /// off: a number that is too large, an enable that is not set, no VCMDQ, or no
    /// memory that a queue can have.
    ///
    /// `VCMDQ_CONFIG` has no part in it: the host's queue is enabled by the guest.
    pub fn wanted(&self, features: &Features, lvcmdq: usize) -> Option<Assignment> {
        if !self.is_vintf_enabled() {
            return None;
        }
        let vcmdq = self.vcmdq_of(lvcmdq)?;
        match Memory::of(self.vcmdqs.get(vcmdq)?.base, features) {
            Memory::Valid { address, log2size } => Some(Assignment {
                vcmdq,
                address,
                log2size,
            }),
            Memory::None | Memory::Invalid => None,
        }
    }

    /// Returns the queue that the registers ask for as each LVCMDQ.
    pub(super) fn all_wanted(&self, features: &Features) -> [Option<Assignment>; QUEUES] {
        core::array::from_fn(|lvcmdq| self.wanted(features, lvcmdq))
    }

    /// Returns whether VCMDQ `vcmdq` is enabled, but its memory is none that a queue can
    /// have.
    pub(super) fn fails_to_start(&self, features: &Features, vcmdq: usize) -> bool {
        self.is_vintf_enabled()
            && self.lvcmdq_of(vcmdq).is_some()
            && self.vcmdqs.get(vcmdq).is_some_and(|queue| {
                queue.is_enabled() && Memory::of(queue.base, features) == Memory::Invalid
            })
    }

    /// Returns the state of each LVCMDQ, for [`next_step`](super::next_step).
    pub fn slots(&self, features: &Features) -> [Slot; QUEUES] {
        core::array::from_fn(|lvcmdq| {
            let HostSlot { backing, refused } = self.host.get(lvcmdq).copied().unwrap_or_default();
            let wanted = self.wanted(features, lvcmdq);
            let queue = wanted.and_then(|queue| self.vcmdqs.get(queue.vcmdq));
            Slot {
                wanted,
                backing,
                refused,
                has_error: queue.is_some_and(|queue| queue.active_errors() != 0),
                is_barred: self.is_barred,
            }
        })
    }

    /// Returns the LVCMDQ whose queue in hardware VCMDQ `vcmdq` is.
    pub(super) fn hardware_of(&self, vcmdq: usize) -> Option<usize> {
        self.host.iter().position(
            |slot| matches!(slot.backing, Backing::Hardware(queue) if queue.vcmdq == vcmdq),
        )
    }

    /// Returns whether the guest may have the host's page mapped: the VINTF is enabled,
    /// each of its queues is in hardware, there is one, and the host has no other.
    pub fn is_page_visible(&self, features: &Features) -> bool {
        let (mut has_queue, mut is_complete) = (false, true);
        for (lvcmdq, slot) in self.host.iter().enumerate() {
            match slot.backing {
                Backing::None => is_complete &= self.vcmdq_of(lvcmdq).is_none(),
                Backing::Hardware(queue) => {
                    has_queue = true;
                    is_complete &= self.wanted(features, lvcmdq) == Some(queue);
                }
                Backing::Stuck { .. } => is_complete = false,
            }
        }
        self.is_vintf_enabled() && has_queue && is_complete && !self.is_barred
    }

    /// Returns whether an error of VCMDQ `vcmdq` is active.
    pub(super) fn has_error<P: HostPage>(&self, page: &mut P, vcmdq: usize) -> bool {
        let gerror = self.page0(page, vcmdq, Page0::Gerror);
        gerror != self.page0(page, vcmdq, Page0::Gerrorn)
    }

    /// Returns a register of page 0 of VCMDQ `vcmdq`, but for `VCMDQ_STATUS` of one that
    /// is not in hardware.
    pub(super) fn page0<P: HostPage>(&self, page: &mut P, vcmdq: usize, register: Page0) -> u32 {
        match self.hardware_of(vcmdq) {
            Some(lvcmdq) => page.read(lvcmdq, register) & register.defined(),
            None => self.vcmdqs.get(vcmdq).map_or(0, |q| q.get(register)),
        }
    }

    /// Returns `VCMDQ_STATUS` of VCMDQ `vcmdq`. A queue in software starts at once.
    pub(super) fn vcmdq_status<P: HostPage>(
        &self,
        features: &Features,
        page: &mut P,
        vcmdq: usize,
    ) -> u32 {
        if self.hardware_of(vcmdq).is_some() {
            return self.page0(page, vcmdq, Page0::Status);
        }
        let wanted = self.lvcmdq_of(vcmdq).and_then(|l| self.wanted(features, l));
        let mut status = VcmdqStatus::of(0);
        status.set_cmdq_en_ok(
            wanted.is_some() && self.vcmdqs.get(vcmdq).is_some_and(Vcmdq::is_enabled),
        );
        status.raw()
    }

    /// Returns `CMDQ_ERR_MAP`, word 0: a bit for each VCMDQ in error. The others are 0.
    pub(super) fn cmdq_err_map<P: HostPage>(&self, page: &mut P) -> u32 {
        (0..QUEUES).fold(0, |map, vcmdq| {
            map | (u32::from(self.has_error(page, vcmdq)) << vcmdq)
        })
    }

    /// Returns `LVCMDQ_ERR_MAP`, word 0: a bit for each LVCMDQ in error. The others are 0.
    pub(super) fn lvcmdq_err_map<P: HostPage>(&self, page: &mut P) -> u32 {
        (0..QUEUES).fold(0, |map, lvcmdq| {
            let vcmdq = self.vcmdq_of(lvcmdq);
            let has_error = vcmdq.is_some_and(|vcmdq| self.has_error(page, vcmdq));
            map | (u32::from(has_error) << lvcmdq)
        })
    }

    /// Returns `VI_ERR_MAP`, word 0: VINTF 0 has an LVCMDQ in error. The other is 0.
    pub(super) fn vi_err_map<P: HostPage>(&self, page: &mut P) -> u32 {
        let mut map = VintfMap::of(0);
        map.set_vintf0(self.lvcmdq_err_map(page) != 0);
        map.raw()
    }

    /// Returns `PARAM`: this guest's share, whatever the host has.
    pub(super) fn param() -> u32 {
        let mut param = CmdqvParam::of(0);
        param.set_ver(u4::new(VERSION));
        param.set_log2_vcmdqs(u4::new(QUEUES.ilog2() as u8));
        param.set_log2_sids(u4::new(SIDS.ilog2() as u8));
        param.raw()
    }

    /// Returns `STATUS`.
    pub(super) fn status(&self) -> u32 {
        let mut status = CmdqvStatus::of(0);
        status.set_cmdqv_enabled(self.is_enabled());
        status.raw()
    }

    /// Returns `STATUS` of the VINTF.
    pub(super) fn vintf_status<P: HostPage>(&self, page: &mut P) -> u32 {
        let mut status = VintfStatus::of(0);
        status.set_enable_ok(self.is_vintf_enabled());
        if self.lvcmdq_err_map(page) != 0 {
            status.set_status(u3::new(STATUS_VCMDQ_ERROR));
        }
        let queues = (0..QUEUES).filter(|lvcmdq| self.vcmdq_of(*lvcmdq).is_some());
        status.set_num_lvcmdq(queues.count() as u8);
        status.raw()
    }
}
