// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Accesses to the register file, errors that become active between them, and
//! states that are saved and restored.

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::{registers::SIZE, Effects, Event, Features, Registers};

use crate::{
    common::Memory,
    pick::{below, features, one_of, several},
};

/// The end of the registers that are not RES0, without those for identification.
const END: u64 = 0x130;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const CR1: u64 = 0x28;
const IRQ_CTRL: u64 = 0x50;
const IRQ_CTRLACK: u64 = 0x54;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0xa8;

/// A step of software or of the SMMU.
#[derive(Clone, Debug)]
pub struct Accesses {
    features: Features,
    restored: Option<Box<Registers>>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { offset: u64, value: u64, size: u32 },
    Read { offset: u64, size: u32 },
    Activate(u32),
    Record { aborts: bool, msis_abort: bool },
    Migrate,
}

impl Accesses {
    /// Panics if a register has a value or an effect that it must not have.
    pub fn check(&self) {
        let mut file = File {
            features: self.features,
            registers: match &self.restored {
                Some(registers) => (**registers).clone(),
                None => Registers::reset(&self.features),
            },
        };
        // A saved state may have any value; the restored state may not.
        file.registers.clear_reserved(&file.features);
        for step in &self.steps {
            file.take(*step);
            let mut clean = file.registers.clone();
            clean.clear_reserved(&file.features);
            assert_eq!(file.registers, clean, "{step:x?}");
        }
    }
}

struct File {
    features: Features,
    registers: Registers,
}

impl File {
    fn take(&mut self, step: Step) {
        match step {
            Step::Write {
                offset,
                value,
                size,
            } => self.write(offset, value, size),
            Step::Read { offset, size } => self.read(offset, size),
            Step::Activate(bits) => self.activate(bits),
            Step::Record { aborts, msis_abort } => self.record(aborts, msis_abort),
            Step::Migrate => {
                let mut restored = self.registers.clone();
                restored.clear_reserved(&self.features);
                assert_eq!(restored, self.registers, "nothing to be dropped");
            }
        }
    }

    fn word(&self, offset: u64) -> u64 {
        self.registers.read(&self.features, offset, 4)
    }

    /// Returns the values of all registers.
    fn words(&self) -> Vec<u64> {
        (0..END)
            .step_by(4)
            .map(|offset| self.word(offset))
            .collect()
    }

    fn read(&self, offset: u64, size: u32) {
        let value = self.registers.read(&self.features, offset, size);
        let (low, high) = (offset, offset.wrapping_add(4));
        match size {
            4 if offset % 4 == 0 => assert!(value <= u64::from(u32::MAX)),
            8 if offset % 8 == 0 => assert_eq!(value, self.word(low) | (self.word(high) << 32)),
            _ => assert_eq!(value, 0),
        }
        if offset < SIZE {
            let other = self.registers.read(&self.features, offset ^ 0x1_0000, size);
            assert_eq!(value, other, "one page is the other's alias");
        } else {
            assert_eq!(value, 0);
        }
    }

    fn write(&mut self, offset: u64, value: u64, size: u32) {
        let before = self.registers.clone();
        let effects = self.registers.write(&self.features, offset, value, size);
        match size {
            4 if offset % 4 == 0 => self.wrote(&before, offset, effects),
            8 if offset % 8 == 0 => {
                let mut halves = before;
                let low = halves.write(&self.features, offset, value & 0xffff_ffff, 4);
                let high = halves.write(&self.features, offset.wrapping_add(4), value >> 32, 4);
                assert_eq!(halves, self.registers);
                assert_eq!(low.and(high), effects);
            }
            _ => {
                assert_eq!(before, self.registers, "no such access");
                assert_eq!(
                    (effects.streams, effects.eventq, effects.cmdq),
                    (false, false, false)
                );
                assert!(effects.guest_error.is_some());
            }
        }
        self.read(offset, size);
    }

    /// Checks a write of one register; `before` is the state before it.
    fn wrote(&mut self, before: &Registers, offset: u64, effects: Effects) {
        let mut expected = self.registers.clone();
        if offset & 0xffff == CR1 {
            // Each of its fields has a guard of its own.
            self.guards_cr1(before);
            expected.cr1 = before.cr1;
        }
        if effects.guest_error.is_some() {
            assert_eq!(*before, expected, "a forbidden write has no effect");
        }
        self.only_changed(before, offset & 0xffff);
        let enables = before.cr0 ^ self.registers.cr0;
        assert_eq!(effects.eventq, enables & 4 != 0);
        let gbpa = before.gbpa != self.registers.gbpa && !self.registers.smmu_enabled();
        assert_eq!(effects.streams, enables & 1 != 0 || gbpa);
        if effects.cmdq {
            assert!(self.registers.cmdq_ready(&self.features));
        } else if !before.cmdq_ready(&self.features) {
            let moved = offset & 0xffff == CMDQ_CONS || offset & 0xfff8 == CMDQ_BASE;
            assert!(moved || !self.registers.cmdq_ready(&self.features));
        }
        // Writing the value that a register reads changes nothing.
        let settled = self.words();
        let value = self.word(offset);
        self.registers.write(&self.features, offset, value, 4);
        assert_eq!(self.words(), settled, "{offset:#x}");
    }

    /// Queues have their attributes in bits 5:0, tables in 11:6 (§6.3.11).
    fn guards_cr1(&self, before: &Registers) {
        let changed = before.cr1 ^ self.registers.cr1;
        assert!(changed & 0x3f == 0 || before.cr0 & 0xe == 0);
        assert!(changed & 0xfc0 == 0 || before.cr0 & 1 == 0);
    }

    /// No other register has changed.
    fn only_changed(&self, before: &Registers, offset: u64) {
        for other in (0..END).step_by(4) {
            let follows = match offset {
                CR0 => other == CR0ACK,
                IRQ_CTRL => other == IRQ_CTRLACK,
                // Indexes are shown as far as the queue reaches.
                CMDQ_BASE => other == CMDQ_CONS,
                EVENTQ_BASE => other == EVENTQ_PROD,
                _ => false,
            };
            let old = before.read(&self.features, other, 4);
            let new = self.word(other);
            assert!(
                old == new || other == offset || follows,
                "{offset:#x} changes {other:#x} from {old:#x} to {new:#x}"
            );
        }
    }

    fn activate(&mut self, bits: u32) {
        let bits = bits & smmuv3::gerror::defined(&self.features);
        let before = self.registers.active_errors();
        let new = self.registers.activate_errors(bits);
        assert_eq!(new, bits & !before);
        assert_eq!(self.registers.active_errors(), before | bits);
        assert_eq!(self.registers.activate_errors(bits), 0, "once only");
    }

    /// Records an event in a queue whose memory may abort, as may the MSIs'.
    fn record(&mut self, aborts: bool, msis_abort: bool) {
        use smmuv3::{
            eventq::{record, Recorded},
            gerror::{EVENTQ_ABT_ERR, MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR},
        };
        const OVERFLOW: u32 = 1 << 31;
        let before = self.registers.clone();
        let mut memory = Memory::default();
        let ring = before.eventq_layout(&self.features);
        let slot = ring.entry_address(before.eventq_prod);
        if aborts {
            memory.unwritable.push(slot..slot + 32);
        }
        if msis_abort {
            memory.unwritable.extend([0..slot, slot + 32..u64::MAX]);
        }
        let event = Event([0x10, 1, 2, 3]);
        let mut run = self.registers.begin_eventq(&self.features);
        let recorded = record(&mut run, &mut memory, &event);
        self.registers.finish_eventq(run);
        let after = &self.registers;
        let blocked = !before.eventq_enabled() || before.active_errors() & EVENTQ_ABT_ERR != 0;
        assert_eq!(recorded == Recorded::Disabled, blocked);
        let used = ring.used(before.eventq_prod, before.eventq_cons);
        match recorded {
            Recorded::Disabled => assert_eq!(before, *after),
            Recorded::Written { interrupt, gerror } => {
                assert!(!aborts && used.is_some_and(|used| used < ring.entries()));
                assert_eq!(interrupt, used == Some(0) && before.eventq_irq_enabled());
                let now = ring.used(after.eventq_prod, after.eventq_cons);
                assert_eq!(now, used.map(|used| used + 1));
                assert_eq!((before.eventq_prod ^ after.eventq_prod) & OVERFLOW, 0);
                let messages = memory.written.iter();
                let overwritten = messages
                    .clone()
                    .any(|(at, _)| (slot..slot + 32).contains(at));
                let stored = [0, 8, 16, 24].map(|at| memory.load_u64(slot + at));
                assert!(overwritten || stored == event.0);
                let sent = usize::from(interrupt && before.eventq_irq_cfg0 != 0);
                let new = after.active_errors() & !before.active_errors();
                let failed = new & MSI_EVENTQ_ABT_ERR != 0;
                assert!(!failed || (sent == 1 && msis_abort));
                assert_eq!(gerror, failed && before.gerror_irq_enabled());
                let sent_too = usize::from(gerror && before.gerror_irq_cfg0 != 0);
                assert_eq!(memory.written.len(), sent + sent_too);
                assert_eq!(new & !(MSI_EVENTQ_ABT_ERR | MSI_GERROR_ABT_ERR), 0);
            }
            Recorded::Overflowed => {
                assert!(used.is_none_or(|used| used == ring.entries()));
                assert_ne!((after.eventq_prod ^ after.eventq_cons) & OVERFLOW, 0);
                let index = |registers: &Registers| registers.eventq_prod & !OVERFLOW;
                assert_eq!(index(&before), index(after));
            }
            Recorded::Aborted { interrupt } => {
                assert!(aborts);
                assert_ne!(after.active_errors() & EVENTQ_ABT_ERR, 0);
                let sent = usize::from(interrupt && before.gerror_irq_cfg0 != 0);
                assert_eq!(memory.written.len(), sent);
                assert_eq!(interrupt, before.gerror_irq_enabled());
                assert_eq!(before.eventq_prod, after.eventq_prod);
                assert_eq!(before.eventq_cons, after.eventq_cons);
            }
        }
    }
}

impl Arbitrary<'_> for Accesses {
    fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let features = features(u)?;
        Ok(Self {
            features,
            restored: match below(u, 4)? {
                0 => Some(Box::new(saved(u)?)),
                _ => None,
            },
            steps: several(u, 100, step)?,
        })
    }
}

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match below(u, 16)? {
        0 => Step::Migrate,
        1 => Step::Activate(u32::arbitrary(u)?),
        2 => {
            let bits = u8::arbitrary(u)?;
            Step::Record {
                aborts: bits & 1 != 0,
                msis_abort: bits & 2 != 0,
            }
        }
        3 => Step::Read {
            offset: u32::arbitrary(u)?.into(),
            size: one_of(u, &[1, 2, 4, 8])?,
        },
        4 => Step::Write {
            offset: u64::arbitrary(u)?,
            value: u64::arbitrary(u)?,
            size: one_of(u, &[0, 1, 2, 4, 8, 16, u32::MAX])?,
        },
        kind => {
            let wide = kind & 1 != 0;
            let number = u64::from(below(u, (END / 4) as u8)?);
            Step::Write {
                offset: if wide { number / 2 * 8 } else { number * 4 },
                value: value(u)?,
                size: if wide { 8 } else { 4 },
            }
        }
    })
}

/// Returns a small value, or all ones, or any.
fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u8::arbitrary(u)? {
        0xff => u64::MAX,
        0xfe => u64::arbitrary(u)?,
        0xfd => u32::arbitrary(u)?.into(),
        small => small.into(),
    })
}

/// Returns a saved state of another implementation.
fn saved(u: &mut Unstructured<'_>) -> Result<Registers> {
    Ok(Registers {
        cr0: u32::arbitrary(u)?,
        cr1: u32::arbitrary(u)?,
        cr2: u32::arbitrary(u)?,
        statusr: u32::arbitrary(u)?,
        gbpa: u32::arbitrary(u)?,
        irq_ctrl: u32::arbitrary(u)?,
        gerror: u32::arbitrary(u)?,
        gerrorn: u32::arbitrary(u)?,
        gerror_irq_cfg0: u64::arbitrary(u)?,
        gerror_irq_cfg1: u32::arbitrary(u)?,
        gerror_irq_cfg2: u32::arbitrary(u)?,
        strtab_base: u64::arbitrary(u)?,
        strtab_base_cfg: u32::arbitrary(u)?,
        eventq_irq_cfg0: u64::arbitrary(u)?,
        eventq_irq_cfg1: u32::arbitrary(u)?,
        eventq_irq_cfg2: u32::arbitrary(u)?,
        cmdq_base: u64::arbitrary(u)?,
        cmdq_prod: u32::arbitrary(u)?,
        cmdq_cons: u32::arbitrary(u)?,
        eventq_base: u64::arbitrary(u)?,
        eventq_prod: u32::arbitrary(u)?,
        eventq_cons: u32::arbitrary(u)?,
        is_cmdq_running: false,
    })
}
