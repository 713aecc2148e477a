// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The configuration space of an assigned device: an `NVMe` controller with one
//! 64-bit BAR, a PCI Express endpoint with Function Level Reset.

use std::collections::BTreeMap;

use crate::stored::Stored;

/// Bytes of configuration space.
pub const CONFIG_SIZE: u64 = 4096;
/// Bytes of BAR 0.
pub const BAR0_SIZE: u64 = 16 << 10;

const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;
const INTERRUPT_LINE: usize = 0x3c;
/// The PCI Express capability: Device Capabilities with Function Level Reset.
const EXPRESS: usize = 0x40;
const EXPRESS_CAPABILITY: [u8; 8] = [0x10, 0x00, 0x02, 0x00, 0x00, 0x80, 0x00, 0x10];
/// Device Control
const DEVICE_CONTROL: usize = EXPRESS + 8;
/// The byte of Device Control with Initiate Function Level Reset, and that bit
const RESET: (usize, u8) = (DEVICE_CONTROL + 1, 0x80);

/// A configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE as usize],
    writable: [u8; CONFIG_SIZE as usize],
}

impl Default for ConfigSpace {
    fn default() -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_SIZE as usize],
            writable: [0; CONFIG_SIZE as usize],
        };
        let identity: [(usize, &[u8]); 9] = [
            (0x06, &[0x10]),          // there is a list of capabilities
            (0x34, &[EXPRESS as u8]), // which begins here
            (EXPRESS, &EXPRESS_CAPABILITY),
            (0x100, &[0x03, 0x00, 0x01, 0x00]), // serial number
            (0x00, &[0x36, 0x1b, 0x10, 0x00]),  // vendor, device
            (0x08, &[0x02, 0x02, 0x08, 0x01]),  // revision, class: NVM Express
            (BAR0, &[0x04]),                    // memory, 64 bits
            (0x2c, &[0xf4, 0x1a, 0x00, 0x11]),  // subsystem
            (0x0e, &[0x00]),                    // header type 0, one function
        ];
        for (at, bytes) in identity {
            space.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let size_mask = (!(BAR0_SIZE - 1)).to_le_bytes();
        let masks: [(usize, &[u8]); 4] = [
            (DEVICE_CONTROL, &[0xff, 0x7f]),
            (COMMAND, &[0x47, 0x05]),
            (BAR0, &size_mask),
            (INTERRUPT_LINE, &[0xff]),
        ];
        for (at, bytes) in masks {
            space.writable[at..at + bytes.len()].copy_from_slice(bytes);
        }
        space
    }
}

impl ConfigSpace {
    /// Reads up to the end of the space and returns the length.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..))
            .unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }

    /// Returns whether this write initiates a Function Level Reset.
    pub fn asks_for_reset(offset: u64, bytes: &[u8]) -> bool {
        let (at, bit) = RESET;
        let index = (at as u64).checked_sub(offset).map(|index| index as usize);
        index
            .and_then(|index| bytes.get(index))
            .is_some_and(|byte| byte & bit != 0)
    }

    /// Writes the writable bits up to the end of the space and returns the
    /// length.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let start = offset.min(CONFIG_SIZE) as usize;
        let count = bytes.len().min(self.bytes.len() - start);
        let bytes_here = self.bytes[start..start + count].iter_mut();
        let masks = self.writable[start..start + count].iter();
        for ((byte, mask), new) in bytes_here.zip(masks).zip(bytes) {
            *byte = (*byte & !mask) | (new & mask);
        }
        count
    }

    /// Performs a Function Level Reset.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Stores the bytes that differ from those after a reset, which are few.
impl Stored for ConfigSpace {
    fn store(&self, bytes: &mut Vec<u8>) {
        let after_reset = Self::default();
        let pairs = self.bytes.iter().zip(&after_reset.bytes).enumerate();
        let changed: BTreeMap<usize, u8> = pairs
            .filter(|(_, (now, before))| now != before)
            .map(|(at, (now, _))| (at, *now))
            .collect();
        changed.store(bytes);
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        let mut space = Self::default();
        for (at, byte) in BTreeMap::<usize, u8>::load(bytes)? {
            *space.bytes.get_mut(at)? = byte;
        }
        Some(space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_ids_are_read_only_and_bar_reports_size() {
        let mut space = ConfigSpace::default();
        assert_eq!(space.write(0, &[0xff; 256]), 256);
        assert!(ConfigSpace::asks_for_reset(0, &[0xff; 256]));
        assert!(ConfigSpace::asks_for_reset(0x48, &[0, 0x80]));
        assert!(!ConfigSpace::asks_for_reset(0x48, &[0xff, 0x7f]));
        assert!(!ConfigSpace::asks_for_reset(0x4a, &[0xff; 256]));
        let mut bytes = [0; 256];
        assert_eq!(space.read(0, &mut bytes), 256);
        assert_eq!(bytes[..4], [0x36, 0x1b, 0x10, 0x00]);
        assert_eq!(bytes[4..6], [0x47, 0x05]);
        let mut bar = [0; 8];
        bar.copy_from_slice(&bytes[0x10..0x18]);
        assert_eq!(u64::from_le_bytes(bar), !(BAR0_SIZE - 1) | 0x04);
        space.reset();
        assert_eq!(space.read(4, &mut bytes[..2]), 2);
        assert_eq!(bytes[..2], [0, 0]);
    }

    #[test]
    fn pci_config_is_stored_as_written() {
        let mut space = ConfigSpace::default();
        space.write(COMMAND as u64, &[6]);
        space.write(BAR0 as u64, &[0, 0x40]);
        let mut bytes = Vec::new();
        space.store(&mut bytes);
        assert!(bytes.len() < 64, "{}", bytes.len());
        assert_eq!(ConfigSpace::load(&mut &bytes[..]), Some(space));
    }

    #[test]
    fn pci_config_access_is_truncated_at_end() {
        let mut space = ConfigSpace::default();
        assert_eq!(space.read(CONFIG_SIZE - 1, &mut [0; 4]), 1);
        assert_eq!(space.read(CONFIG_SIZE, &mut [0; 4]), 0);
        assert_eq!(space.read(u64::MAX, &mut [0; 4]), 0);
        assert_eq!(space.write(u64::MAX, &[0; 4]), 0);
    }
}
