// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The files of QEMU's `fw_cfg` device, with the ACPI tables that QEMU passes
//! to firmware.

use crate::{machine::RAM, until, Machine};

/// The DMA interface of the `virt` machine's `fw_cfg`.
const DMA: u64 = 0x0902_0010;
/// Guest physical addresses of a request and of its result.
const REQUEST: u64 = RAM + 0x700_0000;
const BUFFER: u64 = REQUEST + 0x1000;

/// The directory of files.
const DIRECTORY: u16 = 0x19;
const ENTRY_BYTES: usize = 64;
/// Bits of a request: read, and select first.
const READ: u32 = 1 << 1;
const SELECT: u32 = 1 << 3;

fn read(machine: &Machine, selector: u16, size: usize) -> Vec<u8> {
    let control = (u32::from(selector) << 16) | SELECT | READ;
    let mut request = Vec::new();
    request.extend(control.to_be_bytes());
    request.extend((size as u32).to_be_bytes());
    request.extend(BUFFER.to_be_bytes());
    machine.write_memory(REQUEST, &request);
    machine.write64(DMA, REQUEST.swap_bytes());
    until("fw_cfg", || {
        (machine.read_memory(REQUEST, 4) == [0; 4]).then_some(())
    });
    machine.read_memory(BUFFER, size)
}

fn be32(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | usize::from(*byte))
}

/// Returns the file `name`.
///
/// # Panics
///
/// If there is none.
#[track_caller]
pub fn file(machine: &Machine, name: &str) -> Vec<u8> {
    let count = be32(&read(machine, DIRECTORY, 4));
    let directory = read(machine, DIRECTORY, 4 + ENTRY_BYTES * count);
    for entry in directory[4..].chunks(ENTRY_BYTES) {
        let end = entry[8..].iter().position(|byte| *byte == 0);
        if &entry[8..8 + end.unwrap_or(ENTRY_BYTES - 8)] == name.as_bytes() {
            let selector = be32(&entry[4..6]) as u16;
            return read(machine, selector, be32(&entry[..4]));
        }
    }
    panic!("fw_cfg has no file {name}");
}

/// Returns the ACPI table with this signature, if there is one.
///
/// # Panics
///
/// If the file is no row of tables.
#[track_caller]
pub fn acpi_table(machine: &Machine, signature: &str) -> Option<Vec<u8>> {
    let tables = file(machine, "etc/acpi/tables");
    let mut rest = &tables[..];
    while let [a, b, c, d, l0, l1, l2, l3, ..] = *rest {
        if a == 0 {
            break;
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let table = rest.get(..length).expect("a whole table");
        if [a, b, c, d] == signature.as_bytes() {
            return Some(table.to_vec());
        }
        rest = &rest[length..];
    }
    None
}
