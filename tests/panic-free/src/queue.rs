// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Queue index arithmetic (§3.5.1).

use smmuv3::{queue::QueueLayout, spec::register::QueueBase};

/// Returns the queue that a base register describes.
#[inline(never)]
pub fn layout(base: u64, max_log2size: u32, oas_bits: u32, log2_entry: u32) -> QueueLayout {
    QueueLayout::new(QueueBase::of(base), max_log2size, oas_bits, log2_entry)
}

/// Returns the geometry of a queue.
#[inline(never)]
pub fn geometry(queue: &QueueLayout) -> [u32; 3] {
    [queue.log2size(), queue.entries(), queue.pointer_mask()]
}

/// Returns the pointers behind `pointer`, and what is left.
#[inline(never)]
pub fn pointers(queue: &QueueLayout, pointer: u32, count: u32) -> [u32; 3] {
    [
        queue.index(pointer),
        queue.advance(pointer, count),
        queue.until_wrap(pointer),
    ]
}

/// Returns the address of an entry.
#[inline(never)]
pub fn address(queue: &QueueLayout, pointer: u32) -> u64 {
    queue.entry_address(pointer)
}

/// Returns the number of entries that are used.
#[inline(never)]
pub fn used(queue: &QueueLayout, prod: u32, cons: u32) -> (Option<u32>, bool, bool) {
    (
        queue.used(prod, cons),
        queue.is_empty(prod, cons),
        queue.is_full(prod, cons),
    )
}
