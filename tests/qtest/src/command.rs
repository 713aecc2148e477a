// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands as a guest writes them (§4), built from their fields.

/// The two words of a command.
pub type Command = [u64; 2];

/// Bytes in a command.
pub const BYTES: u64 = 16;

/// A command that is Reserved: `CERROR_ILL` (§4.1.1).
pub const RESERVED: Command = [0, 0];
/// `CMD_SYNC` without a completion signal (§4.7.3).
pub const SYNC: Command = [0x46, 0];
/// `CMD_SYNC` with the interrupt as completion signal.
pub const SYNC_IRQ: Command = [0x1046, 0];
/// `CMD_TLBI_NSNH_ALL` (§4.4.4.1).
pub const TLBI_NSNH_ALL: Command = [0x30, 0];
/// `CMD_CFGI_ALL` (§4.3.6).
pub const CFGI_ALL: Command = [0x04, 31];

/// Returns a `CMD_SYNC` whose completion signal is an MSI (§4.7.3).
pub const fn sync_msi(address: u64, data: u32) -> Command {
    [0x1046 | ((data as u64) << 32), address]
}

/// Returns a command with an opcode and nothing else.
pub const fn of(opcode: u8) -> Command {
    [opcode as u64, 0]
}

/// Returns a `CMD_CFGI_STE` of one stream (§4.3.1).
pub const fn cfgi_ste(sid: u32) -> Command {
    [0x03 | ((sid as u64) << 32), 1]
}

/// Returns a `CMD_CFGI_STE_RANGE` of 2^(range+1) streams (§4.3.2).
pub const fn cfgi_ste_range(sid: u32, range: u8) -> Command {
    [0x04 | ((sid as u64) << 32), range as u64 & 31]
}

/// Returns a `CMD_CFGI_CD` of one Context descriptor (§4.3.3).
pub const fn cfgi_cd(sid: u32, ssid: u32) -> Command {
    [0x05 | ((ssid as u64) << 12) | ((sid as u64) << 32), 1]
}

/// Returns a `CMD_CFGI_CD_ALL` of one stream (§4.3.4).
pub const fn cfgi_cd_all(sid: u32) -> Command {
    [0x06 | ((sid as u64) << 32), 0]
}

/// Returns a `CMD_TLBI_NH_ALL` (§4.4.2.1).
pub const fn tlbi_nh_all(vmid: u16) -> Command {
    [0x10 | ((vmid as u64) << 32), 0]
}

/// Returns a `CMD_TLBI_NH_ASID` (§4.4.2.2).
pub const fn tlbi_nh_asid(asid: u16) -> Command {
    [0x11 | ((asid as u64) << 48), 0]
}

/// Returns a `CMD_TLBI_NH_VA` of one page's last level (§4.4.2.4).
pub const fn tlbi_nh_va(asid: u16, address: u64) -> Command {
    [0x12 | ((asid as u64) << 48), (address & !0xfff) | 1]
}

/// Returns a `CMD_TLBI_NH_VAA` of one page's last level (§4.4.2.3).
pub const fn tlbi_nh_vaa(address: u64) -> Command {
    [0x13, (address & !0xfff) | 1]
}

/// Returns a `CMD_TLBI_S12_VMALL` (§4.4.3.2).
pub const fn tlbi_s12_vmall(vmid: u16) -> Command {
    [0x28 | ((vmid as u64) << 32), 0]
}

/// Returns a `CMD_TLBI_S2_IPA` of one page's last level (§4.4.3.1).
pub const fn tlbi_s2_ipa(vmid: u16, address: u64) -> Command {
    [0x2a | ((vmid as u64) << 32), (address & !0xfff) | 1]
}

/// The fields that make a TLBI by address one of a range (§4.4.1.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// Translation granule: 4, 16 or 64 KiB as 1, 2 or 3
    pub tg: u64,
    /// One less than the multiplier
    pub num: u64,
    /// Log2 of the number of pages in a unit
    pub scale: u64,
    /// The level of the entries, or 0
    pub ttl: u64,
}

impl Range {
    /// Returns `command` for this range.
    pub const fn of(self, command: Command) -> Command {
        [
            command[0] | (self.num << 12) | (self.scale << 20),
            command[1] | (self.tg << 10) | (self.ttl << 8),
        ]
    }
}

/// Returns a command for the entries of a VMID.
pub const fn with_vmid(command: Command, vmid: u16) -> Command {
    [command[0] | ((vmid as u64) << 32), command[1]]
}

/// Returns a `CMD_ATC_INV` of everything that a stream has cached (§4.5.1).
pub const fn atc_inv_all(sid: u32) -> Command {
    [0x40 | ((sid as u64) << 32), 52]
}

/// Returns the bytes of commands in memory.
pub fn to_bytes(commands: &[Command]) -> Vec<u8> {
    commands
        .iter()
        .flatten()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}
