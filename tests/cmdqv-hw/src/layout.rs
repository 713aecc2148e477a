// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The places of registers: pages of 64 KiB.
//!
//! ```text
//! 0x00000                 CONFIG page: global registers, CMDQ_ALLOC_MAP, VINTFs
//! 0x10000, 0x20000        pages 0 and 1 of all queues, by their number
//! 0x30000 + 0x20000 * v   pages 0 and 1 of the queues of VINTF v, by their number there
//! ```

/// Number of virtual interfaces.
pub const VINTFS: usize = 4;
/// Number of queues.
pub const QUEUES: usize = 8;
/// Number of queues that Linux assigns to each VINTF.
pub const QUEUES_PER_VINTF: usize = QUEUES / VINTFS;
/// Number of pairs of `StreamID`s of each VINTF.
pub const SIDS: usize = 16;

/// Size of all registers.
pub const SIZE: usize = VINTF_PAGES + VINTFS * PAGES_PER_VINTF;

const PAGE: usize = 0x1_0000;
const VINTF_PAGES: usize = 0x3_0000;
const PAGES_PER_VINTF: usize = 2 * PAGE;
const SLOT_SIZE: usize = 0x80;
const VINTF_SIZE: usize = 0x100;

/// A 32-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Config,
    Param,
    Status,
    /// `VI_ERR_MAP`, with its index
    VintfErrors(usize),
    /// `VI_INT_MASK`, with its index
    InterruptMask(usize),
    /// `CMDQ_ERR_MAP`, with its index
    QueueErrors(usize),
    /// `CMDQ_ALLOC_MAP`, with the queue
    AllocMap(usize),
    /// With the VINTF
    Vintf(usize, VintfRegister),
    /// By the number of the queue
    Queue(usize, QueueRegister),
    /// By the VINTF and the number there
    Slot(usize, usize, QueueRegister),
    /// Nothing: reads as zero, ignores writes
    None,
}

/// A register of a VINTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VintfRegister {
    Config,
    Status,
    /// `SID_MATCH`, with its index
    Match(usize),
    /// `SID_REPLACE`, with its index
    Replace(usize),
    /// `LVCMDQ_ERR_MAP`, with its index
    SlotErrors(usize),
}

/// A register of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRegister {
    Cons,
    Prod,
    Config,
    Status,
    Gerror,
    Gerrorn,
    BaseLow,
    BaseHigh,
}

/// Returns the register at an offset.
pub fn register(offset: usize) -> Register {
    let in_page = offset % PAGE;
    match offset / PAGE {
        0 => config_page(in_page),
        page @ (1 | 2) => match (in_page / SLOT_SIZE, queue_register(page == 2, in_page)) {
            (queue, Some(register)) if queue < QUEUES => Register::Queue(queue, register),
            _ => Register::None,
        },
        page => {
            let (vintf, is_page_1) = ((page - 3) / 2, page % 2 == 0);
            match queue_register(is_page_1, in_page) {
                Some(register) => Register::Slot(vintf, in_page / SLOT_SIZE, register),
                None => Register::None,
            }
        }
    }
}

fn config_page(offset: usize) -> Register {
    let index = |first: usize| (offset - first) / 4;
    match offset {
        0x000 => Register::Config,
        0x004 => Register::Param,
        0x008 => Register::Status,
        0x014..0x01c => Register::VintfErrors(index(0x014)),
        0x01c..0x024 => Register::InterruptMask(index(0x01c)),
        0x024..0x034 => Register::QueueErrors(index(0x024)),
        0x200..0x400 if index(0x200) < QUEUES => Register::AllocMap(index(0x200)),
        0x1000.. if (offset - 0x1000) / VINTF_SIZE < VINTFS => {
            match vintf_register(offset % VINTF_SIZE) {
                Some(register) => Register::Vintf((offset - 0x1000) / VINTF_SIZE, register),
                None => Register::None,
            }
        }
        _ => Register::None,
    }
}

fn vintf_register(offset: usize) -> Option<VintfRegister> {
    let index = |first: usize| (offset - first) / 4;
    Some(match offset {
        0x00 => VintfRegister::Config,
        0x04 => VintfRegister::Status,
        0x40..0x80 => VintfRegister::Match(index(0x40)),
        0x80..0xc0 => VintfRegister::Replace(index(0x80)),
        0xc0..0xd0 => VintfRegister::SlotErrors(index(0xc0)),
        _ => return None,
    })
}

fn queue_register(is_page_1: bool, offset: usize) -> Option<QueueRegister> {
    Some(match (is_page_1, offset % SLOT_SIZE) {
        (false, 0x00) => QueueRegister::Cons,
        (false, 0x04) => QueueRegister::Prod,
        (false, 0x08) => QueueRegister::Config,
        (false, 0x0c) => QueueRegister::Status,
        (false, 0x10) => QueueRegister::Gerror,
        (false, 0x14) => QueueRegister::Gerrorn,
        (true, 0x00) => QueueRegister::BaseLow,
        (true, 0x04) => QueueRegister::BaseHigh,
        // CONS_INDX_BASE_DRAM: Linux writes zero, which turns the function off
        _ => return None,
    })
}
