// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Functions that can panic. `scripts/panic-free` fails unless it finds that of each.

/// Indexes an array.
#[inline(never)]
pub fn index(array: &[u32; 4], index: usize) -> u32 {
    array[index]
}

/// Divides.
#[inline(never)]
pub fn divide(dividend: u32, divisor: u32) -> u32 {
    dividend / divisor
}

/// Takes a part of a slice.
#[inline(never)]
pub fn slice(words: &[u32], end: usize) -> &[u32] {
    &words[..end]
}

/// Copies a slice, which panics inside the standard library if the lengths differ.
#[inline(never)]
pub fn copy(to: &mut [u32], from: &[u32]) {
    to.copy_from_slice(from);
}

/// Asserts, as QEMU's builds do.
#[inline(never)]
pub fn assert(left: u32, right: u32) {
    debug_assert_eq!(left, right);
}

/// Calls one of several functions, by a table.
#[inline(never)]
pub fn table(number: u8, array: &[u32; 4], by: usize) -> u32 {
    type Function = fn(&[u32; 4], usize) -> u32;
    static FUNCTIONS: [Function; 2] = [|_, _| 0, |array, by| array[by]];
    FUNCTIONS
        .get(usize::from(number))
        .map_or(0, |function| function(array, by))
}

/// Calls a function that a vtable has.
#[inline(never)]
pub fn dynamic(value: Option<u32>) -> Box<dyn Fn() -> u32> {
    Box::new(move || value.unwrap())
}
