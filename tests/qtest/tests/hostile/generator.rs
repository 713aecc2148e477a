// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Generator of random registers, tables and commands.

use smmuv3_qtest::{
    command::{self, Command},
    machine::RAM,
    smmu::{self, reg, CMDQEN, EVENTQEN, SMMUEN},
    Machine, Random, Smmu,
};

/// Guest physical address of the random page tables: Context descriptors and
/// tables that point to one another.
pub const RANDOM_TABLES: u64 = RAM + 0x100_0000;
/// Bytes of the random page tables.
pub const RANDOM_TABLES_SIZE: u64 = 64 << 12;
/// Guest physical address of scratch memory, which the random page tables map.
pub const SCRATCH: u64 = RAM + 0x400_0000;
/// Bytes of scratch memory, to which devices write untranslated or through the
/// random page tables.
pub const SCRATCH_SIZE: u64 = 1 << 20;
/// Guest physical address of nothing.
const NOWHERE: u64 = 0x6000_0000;

/// Returns a random number below `limit`.
pub fn below(random: &mut Random, limit: u64) -> u64 {
    // the low bits of a xorshift are the worse ones
    (random.next() >> 11) % limit
}

/// Returns true once in `times`.
pub fn once_in(random: &mut Random, times: u64) -> bool {
    below(random, times) == 0
}

/// Returns `word`, sometimes with some bits flipped.
pub fn disturbed(random: &mut Random, word: u64) -> u64 {
    if once_in(random, 3) {
        word ^ (random.next() & random.next() & random.next() & random.next())
    } else {
        word
    }
}

fn random_page(random: &mut Random) -> u64 {
    RANDOM_TABLES + (below(random, RANDOM_TABLES_SIZE >> 12) << 12)
}

/// Returns a Context descriptor that is legal, or nearly.
fn context(random: &mut Random) -> [u64; 8] {
    let (granule, size) = (below(random, 3), 16 + below(random, 26));
    // V AA64 A R IPS=44 bits EPD1, TG0, T0SZ, ASID
    let word0 = (1 << 31) | (1 << 41) | (1 << 46) | (1 << 45) | (0b100 << 32) | (1 << 30);
    let word0 = word0 | (granule << 6) | size | (below(random, 4) << 48);
    let tables = [random_page(random), random_page(random)];
    [word0, tables[0], tables[1], 0, 0, 0, 0, 0].map(|word| disturbed(random, word))
}

/// Returns a random descriptor of a translation table.
fn descriptor(random: &mut Random) -> u64 {
    const AF: u64 = 1 << 10;
    // AP[2:1] or S2AP: mostly a value that permits reads
    let permissions = [0b01, 0b01, 0b11, 0b00][below(random, 4) as usize];
    let attributes = AF | (permissions << 6) | (below(random, 2) << 11);
    match below(random, 8) {
        0 => 0,
        1 => random.next(),
        2 => NOWHERE | attributes | 3,
        3 => SCRATCH | attributes | 1,
        4 => (SCRATCH + (below(random, SCRATCH_SIZE >> 16) << 16)) | attributes | 3,
        _ => random_page(random) | attributes | 3,
    }
}

/// Writes a page of the random page tables.
#[track_caller]
pub fn write_random_page(machine: &Machine, random: &mut Random) {
    let page = random_page(random);
    let contexts = once_in(random, 3);
    let words: Vec<u64> = (0..64)
        .flat_map(|_| {
            if contexts {
                context(random)
            } else {
                [(); 8].map(|()| descriptor(random))
            }
        })
        .collect();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    machine.write_memory(page, &bytes);
}

/// Returns words 0 to 3 of an STE that points to the random page tables.
pub fn entry(random: &mut Random) -> [u64; 4] {
    let config = below(random, 8);
    let contexts = below(random, 4) * below(random, 3);
    let word0 =
        1 | (config << 1) | (random_page(random) + 64 * below(random, 64)) | (contexts << 59);
    let word1 = below(random, 256) | (below(random, 2) << 28);
    // S2VMID, S2T0SZ, S2SL0, S2TG, S2PS, S2AA64, S2R
    let word2 = 3
        | ((20 + below(random, 20)) << 32)
        | (below(random, 3) << 38)
        | (below(random, 3) << 46)
        | (0b100 << 48)
        | (1 << 51)
        | (1 << 58);
    [word0, word1, word2, random_page(random)].map(|word| disturbed(random, word))
}

/// Returns an address with which a device reaches only scratch memory,
/// untranslated or through blocks of any size.
pub fn iova(random: &mut Random) -> u64 {
    SCRATCH + (below(random, SCRATCH_SIZE / 4) << 2)
}

/// Returns a command that may be legal.
pub fn command(random: &mut Random) -> Command {
    let opcode = random.of(&[
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30, 0x40, 0x41,
        0x44, 0x46,
    ]);
    if once_in(random, 16) {
        let targets = [iova(random), random_page(random), NOWHERE, 0x0900_0000];
        return command::sync_msi(random.of(&targets), random.next() as u32);
    }
    let stream = (8 + below(random, 4)) << 40;
    [
        (disturbed(random, stream) & !0xff) | opcode,
        match below(random, 3) {
            0 => 0,
            1 => 1 | (random.next() & !0xfff),
            _ => random.next(),
        },
    ]
}

/// Returns the offset of a random register, more often of one with effects.
fn offset(random: &mut Random) -> u64 {
    match below(random, 8) {
        0 => random.next() % smmu::SIZE,
        1 | 2 => random.of(&[reg::CR0, reg::CR2, reg::GBPA, reg::GERRORN, reg::IRQ_CTRL]),
        3 => random.of(&[
            reg::CMDQ_PROD,
            reg::CMDQ_CONS,
            reg::EVENTQ_CONS,
            reg::EVENTQ_PROD,
        ]),
        4 => random.of(&[
            reg::CMDQ_BASE,
            reg::STRTAB_BASE,
            reg::STRTAB_BASE_CFG,
            reg::EVENTQ_BASE,
            reg::GERROR_IRQ_CFG0,
            reg::EVENTQ_IRQ_CFG0,
        ]),
        _ => below(random, 0x100),
    }
}

/// Returns a random value, more often one with effects.
fn value(smmu: &Smmu<'_>, random: &mut Random) -> u64 {
    let noise = random.next();
    match below(random, 4) {
        0 => noise,
        1 => noise & 0x1f,
        2 => random.of(&[RANDOM_TABLES, NOWHERE, 0, smmu.base(), 0x0900_0000]) | noise & 0xf_ffff,
        _ => random.of(&[
            u64::MAX,
            0,
            CMDQEN.into(),
            (CMDQEN | SMMUEN | EVENTQEN).into(),
            1 << 31,
            12,
        ]),
    }
}

/// Makes a register access of random size.
#[track_caller]
pub fn access(smmu: &Smmu<'_>, random: &mut Random) {
    let size = random.of(&[4, 4, 4, 4, 8, 8, 1, 2]);
    let mut at = offset(random);
    if !once_in(random, 16) {
        at &= !(u64::from(size) - 1);
    }
    let address = smmu.base() + at.min(smmu::SIZE - u64::from(size));
    if once_in(random, 4) {
        smmu.machine().read_sized(address, size);
    } else {
        smmu.machine()
            .write_sized(address, value(smmu, random), size);
    }
}
