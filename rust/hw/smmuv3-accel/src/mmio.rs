// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Register accesses.

use smmuv3::registers::Effects;

use crate::{eventq::PendingEvents, irq::IrqLines, state::GuestState};

::trace::include_trace!("hw_arm");

/// Page 1 shows the registers of page 0 (§6.1 leaves that choice).
const PAGE_MASK: u64 = 0xffff;

/// Offset of `CMDQ_PROD` (§6.3.27).
const CMDQ_PROD: u64 = 0x98;

/// Offset of `CMDQ_CONS` (§6.3.28), which is also the second half of the 8 bytes from
/// `CMDQ_PROD` on.
const CMDQ_CONS: u64 = 0x9c;

/// Returns whether an access of 4 or 8 bytes, aligned, is to `CMDQ_PROD` and `CMDQ_CONS` alone:
/// these reads, and a doorbell, need no Big QEMU Lock.
#[inline]
pub const fn is_of_cmdq(offset: u64) -> bool {
    offset & PAGE_MASK & !4 == CMDQ_PROD
}

/// Returns whether a write of 4 or 8 bytes, aligned, is a doorbell: of `CMDQ_PROD` alone.
#[inline]
pub const fn is_doorbell(offset: u64, size: u32) -> bool {
    offset & PAGE_MASK == CMDQ_PROD && size == 4
}

/// Returns whether a read of 4 or 8 bytes, aligned, has `CMDQ_CONS` in it.
#[inline]
pub const fn reads_cmdq_cons(offset: u64, size: u32) -> bool {
    CMDQ_CONS.wrapping_sub(offset & PAGE_MASK) < size as u64
}

/// Reads 4 or 8 bytes, aligned (§6.2).
pub fn read(state: &GuestState, offset: u64, size: u32) -> u64 {
    let value = {
        let locked = state.lock();
        locked.registers.read(&locked.features, offset, size)
    };
    trace::trace_smmuv3_read_mmio(offset & PAGE_MASK, value, size, 0);
    value
}

/// Writes 4 or 8 bytes, aligned. Returns the effects of the write.
pub fn write(
    state: &GuestState,
    events: &PendingEvents,
    irqs: &IrqLines,
    offset: u64,
    value: u64,
    size: u32,
) -> Effects {
    // events recorded before the queue is disabled must be in it (§7.2.1)
    events.flush(state, irqs);
    write_register(state, offset, value, size)
}

/// Writes `CMDQ_PROD`. Returns whether there may be commands to consume. Needs no Big QEMU Lock.
#[inline]
pub fn ring(state: &GuestState, offset: u64, value: u64) -> bool {
    write_register(state, offset, value, 4).cmdq
}

#[inline]
fn write_register(state: &GuestState, offset: u64, value: u64, size: u32) -> Effects {
    trace::trace_smmuv3_write_mmio(offset & PAGE_MASK, value, size, 0);
    let (effects, acknowledged, gerrorn) = {
        let mut locked = state.lock();
        let features = locked.features;
        let pending = locked.registers.gerror ^ locked.registers.gerrorn;
        let effects = locked.registers.write(&features, offset, value, size);
        let still = locked.registers.gerror ^ locked.registers.gerrorn;
        state.note_write(&locked);
        (effects, pending & !still, locked.registers.gerrorn)
    };
    if acknowledged != 0 {
        trace::trace_smmuv3_write_gerrorn(acknowledged, gerrorn);
    }
    if let Some(message) = effects.guest_error {
        state.guest_errors.bad_write(offset, value, message);
    }
    effects
}
