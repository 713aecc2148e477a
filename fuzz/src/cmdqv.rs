// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A guest with a CMDQV on a host that refuses queues, does not release them, and asserts
//! the order of its calls.

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::cmdqv::{Page0, QUEUES};

use crate::{
    common,
    pick::{below, one_of, several},
};

#[allow(dead_code, missing_docs)]
#[path = "../../rust/smmuv3/tests/cmdqv/guest.rs"]
mod guest;
#[allow(dead_code, missing_docs)]
#[path = "../../rust/smmuv3/tests/cmdqv/host.rs"]
mod host;
#[allow(missing_docs)]
#[path = "../../rust/smmuv3/tests/cmdqv/invariants.rs"]
mod invariants;

use guest::{Guest, MEMORY};

/// Offsets of registers without those of queues.
const CONTROL: [u64; 6] = [0x0, 0x1c, 0x200, 0x204, 0x1000, 0x1040];

/// The steps of a guest, and of the host.
#[derive(Clone, Debug)]
pub struct Life {
    is_booted: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        offset: u64,
        value: u64,
        size: u32,
    },
    /// The guest writes a register of the page that it has mapped, or the hardware does.
    Page {
        lvcmdq: u8,
        register: u8,
        value: u32,
    },
    Refuse(u64),
    Accept,
    Busy([bool; QUEUES]),
    Command {
        slot: u8,
        words: [u64; 2],
    },
    Reset,
}

impl Life {
    /// Panics if the host is called in another order than its own, has another queue than
    /// the registers ask for, or if a computed register is wrong.
    pub fn check(&self) {
        let mut guest = if self.is_booted {
            Guest::booted()
        } else {
            Guest::out_of_reset()
        };
        for step in &self.steps {
            take(&mut guest, *step);
            invariants::check_maps(&mut guest);
            invariants::check_host(&mut guest);
        }
        guest.host.is_busy = [false; QUEUES];
        guest.cmdqv.reset(&guest.features, &mut guest.host);
        assert_eq!(guest.host.queues, [None; QUEUES]);
        assert_eq!(guest.host.kept, [false; QUEUES]);
    }
}

fn take(guest: &mut Guest, step: Step) {
    match step {
        Step::Write {
            offset,
            value,
            size,
        } => {
            guest.write_sized(offset, value, size);
            let read = guest.read_sized(offset, size);
            assert!(size == 8 || read <= u64::from(u32::MAX));
        }
        Step::Page {
            lvcmdq,
            register,
            value,
        } => {
            if let Some(queue) = &mut guest.host.queues[usize::from(lvcmdq)] {
                queue.set(Page0::ALL[usize::from(register)], value);
            }
        }
        Step::Refuse(address) => {
            guest.host.refused.insert(address);
        }
        Step::Accept => guest.host.refused.clear(),
        Step::Busy(is_busy) => guest.host.is_busy = is_busy,
        Step::Command { slot, words } => {
            let queue = MEMORY[usize::from(slot / 16)];
            let at = queue + 16 * u64::from(slot % 16);
            guest.memory.store_words(at, &words);
        }
        Step::Reset => guest.cmdqv.reset(&guest.features, &mut guest.host),
    }
}

impl Arbitrary<'_> for Life {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            is_booted: bool::arbitrary(u)?,
            steps: several(u, 100, step)?,
        })
    }
}

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match below(u, 16)? {
        0 => Step::Refuse(one_of(u, &MEMORY)?),
        1 => Step::Accept,
        2 => Step::Busy(<[bool; QUEUES]>::arbitrary(u)?),
        3 => Step::Reset,
        4..=5 => Step::Page {
            lvcmdq: below(u, QUEUES as u8)?,
            register: below(u, 6)?,
            value: u32::arbitrary(u)?,
        },
        6..=7 => Step::Command {
            slot: below(u, 32)?,
            words: [u64::from(u8::arbitrary(u)?), u64::arbitrary(u)?],
        },
        _ => Step::Write {
            offset: offset(u)?,
            value: value(u)?,
            size: one_of(u, &[4, 4, 8, 8, 1, 2, 0, 16])?,
        },
    })
}

fn offset(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 8)? {
        0 => u64::arbitrary(u)?,
        1 => 4 * u64::from(u16::arbitrary(u)?),
        2..=4 => one_of(u, &CONTROL)?,
        _ => {
            let page = one_of(u, &[0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000])?;
            page + 0x80 * u64::from(below(u, 2)?) + 4 * u64::from(below(u, 6)?)
        }
    })
}

fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 4)? {
        0 => u64::arbitrary(u)?,
        1 => one_of(u, &MEMORY)? | u64::from(below(u, 12)?),
        _ => u64::from(below(u, 32)?),
    })
}
