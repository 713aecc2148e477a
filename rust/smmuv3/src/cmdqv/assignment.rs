// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The queue that the registers give to an LVCMDQ.

use crate::{
    address::{align_down, exceeds},
    features::Features,
    registers::COMMAND_LOG2_BYTES,
    spec::cmdqv::VcmdqBase,
};

/// The VCMDQ of an LVCMDQ, and its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Global number of the VCMDQ, less than [`QUEUES`](super::QUEUES).
    pub vcmdq: usize,
    /// Guest physical address of the queue, not 0 and aligned to its size.
    pub address: u64,
    /// log2 of the number of entries, at most `IDR1.CMDQS`.
    pub log2size: u32,
}

/// The kind of memory that `VCMDQ_BASE` describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// None: `ADDR` is 0.
    None,
    /// None that any queue can have.
    Invalid,
    /// A queue of 2^`log2size` entries at `address`.
    Valid { address: u64, log2size: u32 },
}

impl Memory {
    /// Returns the memory that `base` describes.
    ///
    /// Other than `CMDQ_BASE` (§6.3.26), an impossible value is not corrected but refused,
    /// because it is not known how hardware would correct it.
    pub(super) fn of(base: u64, features: &Features) -> Self {
        let base = VcmdqBase::of(base);
        let (address, log2size) = (base.queue(), u32::from(base.log2size().value()));
        if address == 0 {
            return Self::None;
        }
        let log2_bytes = log2size + COMMAND_LOG2_BYTES;
        if log2size > features.max_cmdqs()
            || align_down(address, log2_bytes) != address
            || exceeds(address, features.oas_bits())
        {
            return Self::Invalid;
        }
        Self::Valid { address, log2size }
    }
}

impl Assignment {
    /// Returns the size of the queue's memory in bytes.
    pub const fn bytes(&self) -> u64 {
        1 << (self.log2size + COMMAND_LOG2_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcmdq_base_is_none_invalid_or_valid() {
        let features = Features::arm_smmuv3().with_cmdqs(8);
        let valid = |address, log2size| Memory::Valid { address, log2size };
        let cases = [
            (0, Memory::None),
            (8, Memory::None),
            (0x4000_0008, valid(0x4000_0000, 8)),
            (0x4000_0009, Memory::Invalid),
            (0x4000_1008, valid(0x4000_1000, 8)),
            (0x4000_0808, Memory::Invalid),
            (0x4000_0807, valid(0x4000_0800, 7)),
            (0x20, valid(0x20, 0)),
            (0x21, valid(0x20, 1)),
            (0x0fff_ffff_f008, valid(0x0fff_ffff_f000, 8)),
            (0x1000_0000_0008, Memory::Invalid),
            (0xffff_0000_4000_0008, valid(0x4000_0000, 8)),
        ];
        for (base, memory) in cases {
            assert_eq!(Memory::of(base, &features), memory, "{base:#x}");
        }
        let large = Features::arm_smmuv3().with_oas(6);
        assert_eq!(
            Memory::of(0x1000_0000_0008, &large),
            valid(0x1000_0000_0000, 8)
        );
        assert_eq!(Memory::of(0x4000_001f, &large), Memory::Invalid);
    }

    #[test]
    fn assignment_bytes_are_16_per_entry() {
        let queue = |log2size| Assignment {
            vcmdq: 0,
            address: 0x4000_0000,
            log2size,
        };
        assert_eq!([queue(0).bytes(), queue(8).bytes()], [16, 4096]);
    }
}
