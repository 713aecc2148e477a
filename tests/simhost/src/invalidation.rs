// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! `IOMMU_HWPT_INVALIDATE` on a vIOMMU: which commands a kernel accepts, what
//! it issues, and how it reports an illegal one.

use crate::{
    errno::{Errno, Result},
    smmu::Smmu,
};

/// A command: two words.
pub type Command = [u64; 2];

/// Commands that the driver issues with one `CMD_SYNC`.
pub const BLOCK: usize = 63;
/// The longest array that the kernel accepts.
pub const MOST: u32 = 1 << 19;

const TLBI_NH_ALL: u64 = 0x10;
const TLBI_NH_ASID: u64 = 0x11;
const TLBI_NH_VA: u64 = 0x12;
const TLBI_NH_VAA: u64 = 0x13;
const TLBI_NSNH_ALL: u64 = 0x30;
const CFGI_CD: u64 = 0x05;
const CFGI_CD_ALL: u64 = 0x06;
const ATC_INV: u64 = 0x40;

const OPCODE: u64 = 0xff;
const VMID: u64 = 0xffff << 32;
const ASID: u64 = 0xffff << 48;
const ASID8: u64 = 0xff << 48;
const SID: u64 = 0xffff_ffff << 32;
const SSID: u64 = 0xf_ffff << 12;
const SSV: u64 = 1 << 11;
const GLOBAL: u64 = 1 << 9;
const NUM: u64 = 0x1f << 12;
const SCALE5: u64 = 0x1f << 20;
const SCALE6: u64 = 0x3f << 20;
const PAGE: u64 = !0xfff;
const LEAF: u64 = 1;
const TTL: u64 = 0b11 << 8;
const TG: u64 = 0b11 << 10;

/// How a kernel reports an array with an illegal command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contract {
    /// Opcodes and `StreamIDs` are validated, but no other field; otherwise as
    /// [`Validating`](Self::Validating). Linux 6.13 to 7.3.3.
    Unvalidated,
    /// Every field is validated, one command after the other. `entry_num` is
    /// the index of the illegal command, so it counts the commands before it in
    /// its block, which were not issued. Linux 7.3.4.
    #[default]
    Validating,
    /// A block is validated as a whole before it is issued. `entry_num` is the
    /// start of the block, so it counts only commands that were issued. Not in
    /// 7.3.4; in iommufd's development tree since September 2026.
    BlockStart,
}

impl Contract {
    /// Returns the contract with this name in scripts.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "unvalidated" => Some(Self::Unvalidated),
            "validating" => Some(Self::Validating),
            "block-start" => Some(Self::BlockStart),
            _ => None,
        }
    }
}

/// The properties of the vIOMMU that the kernel uses.
pub trait Viommu {
    /// Returns the SMMU that commands are issued to.
    fn smmu(&self) -> &Smmu;
    /// Returns the VMID of stage 2.
    fn vmid(&self) -> u16;
    /// Returns the host's `StreamID` of the vDEVICE `vsid`.
    fn stream(&self, vsid: u32) -> Option<u32>;
}

/// The result of an array of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The return value of the ioctl
    pub result: Result<()>,
    /// The `entry_num` that is written back
    pub entry_num: u32,
    /// The blocks that were issued and completed, as they were issued
    pub issued: Vec<Vec<Command>>,
}

/// Handles an array.
pub fn run(contract: Contract, viommu: &dyn Viommu, commands: &[Command]) -> Outcome {
    let mut outcome = Outcome {
        result: Ok(()),
        entry_num: commands.len() as u32,
        issued: Vec::new(),
    };
    for (number, block) in commands.chunks(BLOCK).enumerate() {
        let mut converted = Vec::with_capacity(block.len());
        for command in block {
            match convert(contract, viommu, *command) {
                Ok(command) => converted.push(command),
                Err(errno) => {
                    let start = number * BLOCK;
                    let entry_num = match contract {
                        Contract::BlockStart => start,
                        _ => start + converted.len(),
                    };
                    outcome.result = Err(errno);
                    outcome.entry_num = entry_num as u32;
                    return outcome;
                }
            }
        }
        outcome.issued.push(converted);
    }
    outcome
}

/// Returns `entry_num` when the first block times out: all of it but the last
/// command, except under the contract that counts issued commands only.
pub fn entry_num_of_timeout(contract: Contract, count: u32) -> u32 {
    match contract {
        Contract::BlockStart => 0,
        _ => count.min(BLOCK as u32).saturating_sub(1),
    }
}

/// Returns the command as the host issues it.
///
/// # Errors
///
/// `EIO`
pub fn convert(contract: Contract, viommu: &dyn Viommu, command: Command) -> Result<Command> {
    let [word0, word1] = command;
    let opcode = word0 & OPCODE;
    let smmu = viommu.smmu();
    let allowed = allowed(smmu, opcode).ok_or(Errno::EIO)?;
    if contract != Contract::Unvalidated {
        let excess = [word0 & !(allowed[0] | OPCODE), word1 & !allowed[1]];
        if excess != [0, 0] || !is_legal(smmu, command) {
            return Err(Errno::EIO);
        }
    }
    let vmid = u64::from(viommu.vmid()) << 32;
    match opcode {
        TLBI_NSNH_ALL => Ok([TLBI_NH_ALL | vmid, 0]),
        TLBI_NH_ALL | TLBI_NH_ASID | TLBI_NH_VA | TLBI_NH_VAA => {
            Ok([(word0 & !VMID) | vmid, word1])
        }
        _ => {
            let stream = viommu.stream((word0 >> 32) as u32).ok_or(Errno::EIO)?;
            Ok([(word0 & !SID) | (u64::from(stream) << 32), word1])
        }
    }
}

/// Returns the fields that a command may have besides the opcode, or `None` if
/// the command is not supported.
fn allowed(smmu: &Smmu, opcode: u64) -> Option<Command> {
    if smmu.refuses.map(u64::from) == Some(opcode) {
        return None;
    }
    let asid = if smmu.asid_bits() == 16 { ASID } else { ASID8 };
    let (range, page) = match (smmu.has_ranges(), smmu.has_ds()) {
        (false, _) => (0, PAGE | LEAF),
        (true, false) => (NUM | SCALE5, PAGE | LEAF | TTL | TG),
        (true, true) => (NUM | SCALE6, PAGE | LEAF | TTL | TG),
    };
    let substream = if smmu.ssid_bits() > 0 { SSID } else { 0 };
    match opcode {
        TLBI_NSNH_ALL => Some([0, 0]),
        TLBI_NH_ALL => Some([VMID, 0]),
        TLBI_NH_ASID => Some([VMID | asid, 0]),
        TLBI_NH_VA => Some([VMID | asid | range, page]),
        TLBI_NH_VAA => Some([VMID | range, page]),
        CFGI_CD => Some([SID | substream, LEAF]),
        CFGI_CD_ALL => Some([SID, 0]),
        ATC_INV if smmu.has_ats() && substream != 0 => {
            Some([SID | SSID | SSV | GLOBAL, PAGE | 0x3f])
        }
        ATC_INV if smmu.has_ats() => Some([SID, PAGE | 0x3f]),
        _ => None,
    }
}

/// Returns whether the combination of allowed fields is legal.
fn is_legal(smmu: &Smmu, [word0, word1]: Command) -> bool {
    match word0 & OPCODE {
        TLBI_NH_VA | TLBI_NH_VAA => {
            let range = word0 & (NUM | SCALE6);
            let (granule, level) = (word1 & TG, word1 & TTL);
            let sixteen_k = 0b10 << 10;
            if granule == 0 {
                range == 0 && level == 0
            } else if granule == sixteen_k && level == 0b01 << 8 && !smmu.has_ds() {
                false
            } else {
                range != 0 || level != 0
            }
        }
        ATC_INV => word1 & 0x3f <= 52,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Guest(Smmu);

    impl Viommu for Guest {
        fn smmu(&self) -> &Smmu {
            &self.0
        }

        fn vmid(&self) -> u16 {
            9
        }

        fn stream(&self, vsid: u32) -> Option<u32> {
            (vsid == 8).then_some(0x70)
        }
    }

    fn guest() -> Guest {
        Guest(Smmu::new("smmu0"))
    }

    const VA: Command = [0x5_0000_0000_0012, 0x1001];
    const BAD: Command = [0, 0];

    /// Returns the success, `entry_num`, and the number of issued commands.
    fn summary(contract: Contract, count: usize, bad: Option<usize>) -> (bool, u32, usize) {
        let mut commands = vec![VA; count];
        if let Some(bad) = bad {
            commands[bad] = BAD;
        }
        let outcome = run(contract, &guest(), &commands);
        let issued = outcome.issued.iter().map(Vec::len).sum();
        (outcome.result.is_ok(), outcome.entry_num, issued)
    }

    #[test]
    fn bad_command_drops_its_block() {
        let validating = |count, bad| summary(Contract::Validating, count, bad);
        assert_eq!(validating(200, None), (true, 200, 200));
        assert_eq!(validating(5, Some(2)), (false, 2, 0));
        assert_eq!(validating(64, Some(62)), (false, 62, 0));
        assert_eq!(validating(64, Some(63)), (false, 63, 63));
        assert_eq!(validating(100, Some(80)), (false, 80, 63));
        assert_eq!(validating(200, Some(150)), (false, 150, 126));
    }

    #[test]
    fn validating_contract_counts_issued_commands() {
        let block_start = |count, bad| summary(Contract::BlockStart, count, bad);
        assert_eq!(block_start(5, Some(2)), (false, 0, 0));
        assert_eq!(block_start(100, Some(80)), (false, 63, 63));
    }

    #[test]
    fn timeout_counts_all_but_last_command() {
        let timeout = |count| entry_num_of_timeout(Contract::Validating, count);
        assert_eq!([1, 5, 63, 100].map(timeout), [0, 4, 62, 62]);
        assert_eq!(entry_num_of_timeout(Contract::BlockStart, 5), 0);
    }

    #[test]
    fn stream_id_and_vmid_are_rewritten() {
        let convert = |command| convert(Contract::Validating, &guest(), command);
        assert_eq!(convert([0x30, 0]), Ok([0x9_0000_0010, 0]));
        assert_eq!(
            convert([0x5_0077_0000_0011, 0]),
            Ok([0x5_0009_0000_0011, 0])
        );
        assert_eq!(convert([0x8_0000_0006, 0]), Ok([0x70_0000_0006, 0]));
        assert_eq!(convert([0x9_0000_0006, 0]), Err(Errno::EIO));
    }

    #[test]
    fn unsupported_commands_are_eio() {
        for opcode in 0..=0xff {
            let taken = [0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40].contains(&opcode);
            for contract in [Contract::Unvalidated, Contract::Validating] {
                let result = convert(contract, &guest(), [opcode | (8 << 32), 0]);
                let vmid_of_nsnh = opcode == 0x30 && contract == Contract::Validating;
                assert_eq!(result.is_ok(), taken && !vmid_of_nsnh, "{opcode:#x}");
            }
        }
    }

    #[test]
    fn fields_are_validated_against_host_features() {
        let check = |guest: &Guest, command| convert(Contract::Validating, guest, command).is_ok();
        let full = guest();
        let mut poor = guest();
        poor.0.idr = [0x0000_0002, 0x20, 0, 0, 0, 0];
        let range = [0x5_0000_0010_3012, 0x1701];
        let wide_asid = [0x0100_0000_0000_0011, 0];
        let substream = [0x8_0000_1005, 1];
        let atc = [0x8_0000_0040, 52];
        for command in [range, wide_asid, substream, atc] {
            assert!(check(&full, command), "{command:x?}");
            assert!(!check(&poor, command), "{command:x?}");
        }
        for command in [
            [0x10_1012, 0x1001],                    // NUM and SCALE without TG
            [0x12, 0x1401],                         // TG and nothing else
            [0x12 | (1 << 12), 0x1901],             // 16K, level 1
            [0x8_0000_0040, 53],                    // Size
            [0x8_0000_0805, 1],                     // SSV of CFGI_CD
            [0x12 | (1 << 10), 0x1001],             // SSec
            [0x12 | (1 << 25) | (1 << 12), 0x1501], // SCALE bit 5 without DS
        ] {
            assert!(!check(&full, command), "{command:x?}");
        }
    }
}
