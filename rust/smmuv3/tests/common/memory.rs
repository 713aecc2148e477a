// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory: sparse, with places that abort.

use std::{collections::HashMap, ops::Range, sync::Arc};

use smmuv3::{BusAbort, GuestMemory};

const PAGE: u64 = 4096;

/// Reads as zero where nothing was stored.
#[derive(Clone, Default)]
pub struct Memory {
    /// Shared with copies until either is written to.
    pages: HashMap<u64, Arc<[u8; PAGE as usize]>>,
    /// Addresses whose reads abort.
    pub unreadable: Vec<Range<u64>>,
    /// Addresses whose writes abort.
    pub unwritable: Vec<Range<u64>>,
    /// Number of reads.
    pub reads: usize,
    /// 32-bit writes by the SMMU, including those that aborted.
    pub written: Vec<(u64, u32)>,
}

impl Memory {
    pub fn store(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[(at % PAGE) as usize] = *byte;
        }
    }

    pub fn store_words(&mut self, address: u64, words: &[u64]) {
        for (at, word) in (address..).step_by(8).zip(words) {
            self.store(at, &word.to_le_bytes());
        }
    }

    pub fn load_u32(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.load(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn load_u64(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.load(address, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn load(&self, address: u64, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let at = address.wrapping_add(done as u64);
            let within = (at % PAGE) as usize;
            let count = (PAGE as usize - within).min(buffer.len() - done);
            let to = &mut buffer[done..done + count];
            match self.pages.get(&(at / PAGE)) {
                Some(page) => to.copy_from_slice(&page[within..within + count]),
                None => to.fill(0),
            }
            done += count;
        }
    }
}

fn hit(ranges: &[Range<u64>], address: u64, len: u64) -> bool {
    ranges
        .iter()
        .any(|range| address < range.end && range.start < address.saturating_add(len))
}

impl GuestMemory for Memory {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        self.reads += 1;
        if hit(&self.unreadable, address, buffer.len() as u64) {
            return Err(BusAbort);
        }
        self.load(address, buffer);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        if hit(&self.unwritable, address, data.len() as u64) {
            return Err(BusAbort);
        }
        self.store(address, data);
        Ok(())
    }

    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        self.written.push((address, value));
        self.write(address, &value.to_le_bytes())
    }
}
