// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Reads and writes of the register file.

use super::{
    next_step,
    offset::{Name, Register, PAGE, STRIDE},
    Cmdqv, HostPage, Page0, QUEUES, SIZE,
};
use crate::{
    features::Features,
    spec::{
        cmdqv::{CmdqAllocMap, CmdqvConfig, SidMatch, SidReplace, VintfConfig, VintfMap},
        mask,
    },
};

/// Requests of a register write to the device, which serves the fields in the order in
/// which they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The host's queues, or the visibility of its page, differ from what the registers
    /// ask for, or they ask for others while the host has one that it did not release:
    /// [`Cmdqv::reconcile`] must be called before the guest continues, and its effects
    /// replace `consume`.
    pub reconcile: bool,
    /// LVCMDQs in software that may have something to do.
    pub consume: [bool; QUEUES],
    /// Pulse the interrupt: an error is new, or was unmasked.
    pub interrupt: bool,
    /// The guest has made an access that the device ignores. The caller rate-limits these
    /// messages.
    pub guest_error: Option<&'static str>,
}

/// Bits of `CONFIG` of a VINTF that are stored. `HYP_OWN` reads as 0, whatever is written:
/// software that finds it clear restricts itself to the commands of a guest.
const VINTF_CONFIG: u32 = mask!(VintfConfig: enable | vmid);

impl Cmdqv {
    /// Reads `size` bytes, 4 or 8, at `offset` into the register space.
    ///
    /// A 64-bit read returns two 32-bit words. Offsets without a register, an LVCMDQ that
    /// has no VCMDQ, and accesses of another size or alignment read as 0.
    pub fn read<P: HostPage>(
        &self,
        features: &Features,
        page: &mut P,
        offset: u64,
        size: u32,
    ) -> u64 {
        match size {
            4 if offset % 4 == 0 => self.read32(features, page, offset).into(),
            8 if offset % 8 == 0 => {
                let low = u64::from(self.read32(features, page, offset));
                let high = u64::from(self.read32(features, page, offset.wrapping_add(4)));
                low | (high << 32)
            }
            _ => 0,
        }
    }

    /// Writes `size` bytes, 4 or 8, at `offset` into the register space.
    ///
    /// A 64-bit write updates two 32-bit words, the lower first; the effects are those of
    /// both together, so that `VCMDQ_BASE` changes once. Writes to read-only registers, to
    /// offsets without one and to an LVCMDQ that has no VCMDQ are ignored, and so are
    /// accesses of another size or alignment.
    pub fn write<P: HostPage>(
        &mut self,
        features: &Features,
        page: &mut P,
        offset: u64,
        value: u64,
        size: u32,
    ) -> Effects {
        let was_ready = self.ready(features);
        let was_wanted = self.all_wanted(features);
        let was_masked = !self.is_interrupt_enabled();
        let words = match size {
            4 if offset % 4 == 0 => self.write32(page, offset, value as u32),
            8 if offset % 8 == 0 => {
                let low = self.write32(page, offset, value as u32);
                low.and(self.write32(page, offset.wrapping_add(4), (value >> 32) as u32))
            }
            _ => Written {
                guest_error: Some("access of an unsupported size or alignment"),
                ..Written::default()
            },
        };
        self.drop_stale_refusals(features);
        let has_new_error = self.note_failures(features);
        let ready = self.ready(features);
        Effects {
            reconcile: next_step(&self.slots(features)).is_some()
                || (self.is_stuck() && self.all_wanted(features) != was_wanted)
                || self.is_page_shown != self.is_page_visible(features),
            consume: core::array::from_fn(|lvcmdq| {
                let at = |flags: &[bool; QUEUES]| flags.get(lvcmdq).copied().unwrap_or(false);
                let is_written = words.vcmdq.is_some() && self.vcmdq_of(lvcmdq) == words.vcmdq;
                at(&ready) && (is_written || !at(&was_ready))
            }),
            interrupt: self.is_interrupt_enabled()
                && (has_new_error || (was_masked && self.vi_err_map(page) != 0)),
            guest_error: words.guest_error,
        }
    }

    /// Activates `CMDQ_INIT_ERR` of each VCMDQ that cannot start, and returns whether one
    /// of the errors is new. A VCMDQ in hardware has started.
    pub(super) fn note_failures(&mut self, features: &Features) -> bool {
        let mut is_new = false;
        for vcmdq in 0..QUEUES {
            let is_hardware = self.hardware_of(vcmdq).is_some();
            let fails = !is_hardware && self.fails_to_start(features, vcmdq);
            if let Some(queue) = self.vcmdqs.get_mut(vcmdq) {
                is_new |= queue.note_failure(fails);
            }
        }
        is_new
    }

    fn read32<P: HostPage>(&self, features: &Features, page: &mut P, offset: u64) -> u32 {
        let element = |array: &[u32], index: usize| array.get(index).copied().unwrap_or(0);
        let control = &self.control;
        match register(offset) {
            None => 0,
            Some(Register::Config) => control.config,
            Some(Register::Param) => Self::param(),
            Some(Register::Status) => self.status(),
            Some(Register::ViErrMap(0)) => self.vi_err_map(page),
            Some(Register::ViIntMask(0)) => control.int_mask,
            Some(Register::CmdqErrMap(0)) => self.cmdq_err_map(page),
            Some(Register::CmdqAllocMap(vcmdq)) => element(&control.alloc_map, vcmdq),
            Some(Register::VintfConfig) => control.vintf_config,
            Some(Register::VintfStatus) => self.vintf_status(page),
            Some(Register::SidMatch(index)) => element(&control.sid_match, index),
            Some(Register::SidReplace(index)) => element(&control.sid_replace, index),
            Some(Register::LvcmdqErrMap(0)) => self.lvcmdq_err_map(page),
            Some(
                Register::ViErrMap(_)
                | Register::ViIntMask(_)
                | Register::CmdqErrMap(_)
                | Register::LvcmdqErrMap(_),
            ) => 0,
            Some(Register::Page0(name, register)) => {
                self.resolve(name).map_or(0, |vcmdq| match register {
                    Page0::Status => self.vcmdq_status(features, page, vcmdq),
                    _ => self.page0(page, vcmdq, register),
                })
            }
            Some(Register::Page1(name, half)) => self
                .resolve(name)
                .and_then(|vcmdq| self.vcmdqs.get(vcmdq))
                .map_or(0, |queue| queue.get_base(half)),
        }
    }

    fn write32<P: HostPage>(&mut self, page: &mut P, offset: u64, value: u32) -> Written {
        let control = &mut self.control;
        let place = match register(offset) {
            Some(Register::Config) => Some((&mut control.config, CmdqvConfig::DEFINED)),
            Some(Register::ViIntMask(0)) => Some((&mut control.int_mask, VintfMap::DEFINED)),
            Some(Register::VintfConfig) => Some((&mut control.vintf_config, VINTF_CONFIG)),
            Some(Register::CmdqAllocMap(vcmdq)) => {
                let entry = control.alloc_map.get_mut(vcmdq);
                entry.map(|entry| (entry, CmdqAllocMap::DEFINED))
            }
            Some(Register::SidMatch(index)) => {
                let entry = control.sid_match.get_mut(index);
                entry.map(|entry| (entry, SidMatch::DEFINED))
            }
            Some(Register::SidReplace(index)) => {
                let entry = control.sid_replace.get_mut(index);
                entry.map(|entry| (entry, SidReplace::DEFINED))
            }
            Some(Register::Page0(name, register)) => {
                return self.write_page0(page, name, register, value);
            }
            Some(Register::Page1(name, half)) => {
                let Some(vcmdq) = self.resolve(name) else {
                    return Written::default();
                };
                if let Some(queue) = self.vcmdqs.get_mut(vcmdq) {
                    queue.write_base(half, value);
                }
                return Written::to(vcmdq, Ok(()));
            }
            _ => None,
        };
        if let Some((stored, writable)) = place {
            *stored = value & writable;
        }
        Written::default()
    }

    /// Writes a register of page 0: the host's, if the queue is in hardware.
    fn write_page0<P: HostPage>(
        &mut self,
        page: &mut P,
        name: Name,
        register: Page0,
        value: u32,
    ) -> Written {
        let Some(vcmdq) = self.resolve(name) else {
            return Written::default();
        };
        if let Some(lvcmdq) = self.hardware_of(vcmdq) {
            if register.writable() != 0 {
                page.write(lvcmdq, register, value & register.writable());
            }
            return Written::default();
        }
        match self.vcmdqs.get_mut(vcmdq) {
            Some(queue) => Written::to(vcmdq, queue.write(register, value)),
            None => Written::default(),
        }
    }
}

/// An offset in the pages of queues, for traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOffset {
    /// The number in the offset: of a VCMDQ, or of an LVCMDQ.
    pub index: usize,
    /// The offset names a VCMDQ by its global number.
    pub is_direct: bool,
    /// It is in page 0, of control registers, and not in page 1.
    pub is_page0: bool,
    /// The host executes the queue.
    pub is_hardware: bool,
    /// From the first register of the queue in that page, in bytes.
    pub offset: u64,
}

impl Cmdqv {
    /// Returns the place of `offset`, if it is in the pages of queues.
    pub fn queue_offset(&self, offset: u64) -> Option<QueueOffset> {
        let (is_direct, is_page0) = match offset / PAGE {
            1 => (true, true),
            2 => (true, false),
            3 => (false, true),
            4 => (false, false),
            _ => return None,
        };
        let index = (offset % PAGE / STRIDE) as usize;
        let name = if is_direct {
            Name::Vcmdq(index)
        } else {
            Name::Lvcmdq(index)
        };
        let vcmdq = self.resolve(name);
        Some(QueueOffset {
            index,
            is_direct,
            is_page0,
            is_hardware: vcmdq.and_then(|vcmdq| self.hardware_of(vcmdq)).is_some(),
            offset: offset % STRIDE,
        })
    }
}

/// The register at `offset` into the register space.
fn register(offset: u64) -> Option<Register> {
    if offset < SIZE {
        Register::at(offset)
    } else {
        None
    }
}

/// The part of a write's effects that depends on the register.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// The VCMDQ, not in hardware, one of whose registers was written.
    vcmdq: Option<usize>,
    guest_error: Option<&'static str>,
}

impl Written {
    fn to(vcmdq: usize, result: Result<(), &'static str>) -> Self {
        Self {
            vcmdq: result.is_ok().then_some(vcmdq),
            guest_error: result.err(),
        }
    }

    /// The two of a 64-bit write, whose words are those of one queue.
    fn and(self, other: Self) -> Self {
        Self {
            vcmdq: self.vcmdq.or(other.vcmdq),
            guest_error: self.guest_error.or(other.guest_error),
        }
    }
}
