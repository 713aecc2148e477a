// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Event queue: recording events for the guest (§3.5, §7.2, §7.4).

use crate::{
    event::Event,
    gerror::EVENTQ_ABT_ERR,
    memory::GuestMemory,
    registers::EventqRun,
    spec::{mask, register::EventqIndex},
};

/// `OVFLG` of `EVENTQ_PROD` and `OVACKFLG` of `EVENTQ_CONS` (§6.3.95, §6.3.96).
const OVERFLOW: u32 = mask!(EventqIndex: overflow);

/// The outcome of recording an event, and the signals that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The queue is disabled, or an abort of it is not acknowledged yet: nothing
    /// is recorded, and nothing counts as lost (§7.2.1).
    Disabled,
    /// The record is in the queue. `interrupt`: it was empty before, and its
    /// interrupt is enabled (§3.18.2).
    Written {
        /// Pulse the Event queue's wired interrupt. Its MSI, if it has one, is sent.
        interrupt: bool,
        /// Pulse the GERROR interrupt: that MSI aborted, the error is new and its
        /// interrupt enabled (§7.5).
        gerror: bool,
    },
    /// The queue is full: the event is lost, and `OVFLG` shows it (§7.4).
    Overflowed,
    /// Writing the record aborted (`GERROR.EVENTQ_ABT_ERR`, §7.2.2).
    Aborted {
        /// Pulse the GERROR interrupt: the error is new and its interrupt enabled.
        interrupt: bool,
    },
}

/// Puts `event` into the queue.
pub fn record<M: GuestMemory>(run: &mut EventqRun, memory: &mut M, event: &Event) -> Recorded {
    if !run.takes_events() {
        return Recorded::Disabled;
    }
    let (ring, prod) = (*run.layout(), run.prod);
    // Indexes that contradict each other leave no slot that is surely free.
    let Some(used) = ring.used(prod, run.cons()) else {
        return overflow(run);
    };
    if used == ring.entries() {
        return overflow(run);
    }
    if memory
        .write(ring.entry_address(prod), &event.to_bytes())
        .is_err()
    {
        return Recorded::Aborted {
            interrupt: run.activate_errors(EVENTQ_ABT_ERR, memory).interrupt,
        };
    }
    run.prod = (prod & OVERFLOW) | ring.advance(prod, 1);
    let interrupt = used == 0 && run.irq_enabled();
    Recorded::Written {
        interrupt,
        gerror: interrupt && run.send_msi(memory),
    }
}

/// Notes that events were lost, here or before they got here (§7.4): `OVFLG` is
/// toggled unless software has yet to acknowledge the last time.
pub fn overflow(run: &mut EventqRun) -> Recorded {
    if !run.takes_events() {
        return Recorded::Disabled;
    }
    if (run.prod ^ run.cons()) & OVERFLOW == 0 {
        run.prod ^= OVERFLOW;
    }
    Recorded::Overflowed
}

#[cfg(test)]
mod tests {
    use super::{Event, EventqRun, GuestMemory, Recorded, EVENTQ_ABT_ERR, OVERFLOW};
    use crate::{
        event::EventType,
        features::Features,
        gerror::{MSI_EVENTQ_ABT_ERR, MSI_GERROR_ABT_ERR},
        registers::Registers,
        spec::{
            mask,
            register::{Cr0, IrqCtrl},
        },
        BusAbort,
    };

    /// Memory that logs writes, below a limit.
    struct Memory {
        written: Vec<(u64, Vec<u8>)>,
        limit: u64,
    }

    impl GuestMemory for Memory {
        fn read(&mut self, _address: u64, _buffer: &mut [u8]) -> Result<(), BusAbort> {
            Err(BusAbort)
        }

        fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
            if address >= self.limit {
                return Err(BusAbort);
            }
            self.written.push((address, data.to_vec()));
            Ok(())
        }
    }

    const BASE: u64 = 0x4000_0000;

    fn machine(log2size: u64) -> (Registers, Features, Memory) {
        let features = Features::arm_smmuv3();
        let mut registers = Registers::reset(&features);
        registers.eventq_base = BASE | log2size;
        registers.cr0 = mask!(Cr0: eventqen);
        registers.irq_ctrl = mask!(IrqCtrl: eventq_irqen | gerror_irqen);
        let memory = Memory {
            written: Vec::new(),
            limit: u64::MAX,
        };
        (registers, features, memory)
    }

    fn with_run<R>(
        (registers, features): (&mut Registers, &Features),
        function: impl FnOnce(&mut EventqRun) -> R,
    ) -> R {
        let mut run = registers.begin_eventq(features);
        let result = function(&mut run);
        registers.finish_eventq(run);
        result
    }

    fn record(
        registers: &mut Registers,
        features: &Features,
        memory: &mut Memory,
        event: &Event,
    ) -> Recorded {
        with_run((registers, features), |run| {
            super::record(run, memory, event)
        })
    }

    fn overflow(registers: &mut Registers, features: &Features) -> Recorded {
        with_run((registers, features), super::overflow)
    }

    fn event(sid: u32) -> Event {
        Event::new(EventType::Translation, sid)
    }

    #[test]
    fn eventq_irq_only_when_queue_was_empty() {
        let (mut registers, features, mut memory) = machine(2);
        for (sid, interrupt) in [(1, true), (2, false), (3, false)] {
            assert_eq!(
                record(&mut registers, &features, &mut memory, &event(sid)),
                Recorded::Written {
                    interrupt,
                    gerror: false
                }
            );
        }
        let addresses: Vec<u64> = memory.written.iter().map(|(address, _)| *address).collect();
        assert_eq!(addresses, [BASE, BASE + 32, BASE + 64]);
        assert_eq!(memory.written[1].1, event(2).to_bytes());
        assert_eq!(registers.eventq_prod, 3);
        registers.eventq_cons = 3;
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(4)),
            Recorded::Written {
                interrupt: true,
                gerror: false
            }
        );
    }

    /// A queue that an event has to be the first of, with an MSI for it and one for errors.
    fn with_msis() -> (Registers, Features, Memory) {
        let (_, features, memory) = machine(2);
        let features = features.with_msi(true);
        let mut registers = Registers::reset(&features);
        for (offset, value) in [
            (0xa0, BASE | 2),
            (0x68, MSIS),
            (0x70, 0x1111),
            (0xb0, MSIS + 4),
            (0xb8, 0x2222),
        ] {
            registers.write(&features, offset, value, 8);
        }
        registers.cr0 = mask!(Cr0: eventqen);
        registers.irq_ctrl = mask!(IrqCtrl: eventq_irqen | gerror_irqen);
        (registers, features, memory)
    }

    /// Address of the first of these MSIs.
    const MSIS: u64 = 0x5000_0000;

    #[test]
    fn eventq_msi_follows_record_of_empty_queue_only() {
        let (mut registers, features, mut memory) = with_msis();
        for sid in 1..4 {
            record(&mut registers, &features, &mut memory, &event(sid));
        }
        let (msis, records): (Vec<_>, Vec<_>) =
            memory.written.iter().partition(|(at, _)| *at >= MSIS);
        assert_eq!(records.len(), 3);
        assert_eq!(msis, [&(MSIS + 4, vec![0x22, 0x22, 0, 0])]);
        assert_eq!(memory.written[0].0, BASE, "the record comes first");
        // the interrupt is not enabled
        registers.eventq_cons = 3;
        registers.irq_ctrl = mask!(IrqCtrl: gerror_irqen);
        let before = memory.written.len();
        record(&mut registers, &features, &mut memory, &event(4));
        assert_eq!(memory.written.len(), before + 1);
    }

    #[test]
    fn aborted_eventq_msi_is_gerror_with_its_own_msi() {
        let (mut registers, features, mut memory) = with_msis();
        memory.limit = MSIS + 4;
        let first = record(&mut registers, &features, &mut memory, &event(1));
        assert_eq!(
            first,
            Recorded::Written {
                interrupt: true,
                gerror: true
            }
        );
        assert_eq!(registers.active_errors(), MSI_EVENTQ_ABT_ERR);
        assert_eq!(memory.written[1], (MSIS, vec![0x11, 0x11, 0, 0]));
        // an active error is no new one, and stops neither records nor MSIs
        memory.limit = u64::MAX;
        registers.eventq_cons = 1;
        let second = record(&mut registers, &features, &mut memory, &event(2));
        assert_eq!(
            second,
            Recorded::Written {
                interrupt: true,
                gerror: false
            }
        );
        assert_eq!(memory.written[3], (MSIS + 4, vec![0x22, 0x22, 0, 0]));
    }

    #[test]
    fn aborted_gerror_msi_raises_no_further_interrupt() {
        let (mut registers, features, mut memory) = with_msis();
        memory.limit = MSIS;
        let recorded = record(&mut registers, &features, &mut memory, &event(1));
        assert_eq!(
            recorded,
            Recorded::Written {
                interrupt: true,
                gerror: true
            }
        );
        assert_eq!(
            registers.active_errors(),
            MSI_EVENTQ_ABT_ERR | MSI_GERROR_ABT_ERR
        );
    }

    #[test]
    fn full_eventq_toggles_ovflg_once_until_acknowledged() {
        let (mut registers, features, mut memory) = machine(1);
        for _ in 0..2 {
            record(&mut registers, &features, &mut memory, &event(1));
        }
        for _ in 0..3 {
            assert_eq!(
                record(&mut registers, &features, &mut memory, &event(2)),
                Recorded::Overflowed
            );
            assert_eq!(registers.eventq_prod, OVERFLOW | 2);
        }
        assert_eq!(memory.written.len(), 2);
        assert_eq!(registers.gerror, 0, "an overflow is no abort (§7.2.2)");
        // acknowledged, and one record read
        registers.eventq_cons = OVERFLOW | 1;
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(3)),
            Recorded::Written {
                interrupt: false,
                gerror: false
            }
        );
        assert_eq!(registers.eventq_prod, OVERFLOW | 3);
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(4)),
            Recorded::Overflowed
        );
        assert_eq!(
            registers.eventq_prod, 3,
            "the second overflow toggles it back"
        );
    }

    #[test]
    fn eventq_write_abort_sets_gerror_and_drops_record() {
        let (mut registers, features, mut memory) = machine(2);
        memory.limit = BASE;
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(1)),
            Recorded::Aborted { interrupt: true }
        );
        // nothing is recorded, or counts as lost, before it is acknowledged
        memory.limit = u64::MAX;
        let before = registers.clone();
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(1)),
            Recorded::Disabled
        );
        assert_eq!(overflow(&mut registers, &features), Recorded::Disabled);
        assert_eq!(registers, before);
        assert_eq!(
            (registers.eventq_prod, registers.gerror),
            (0, EVENTQ_ABT_ERR)
        );
        registers.gerrorn = EVENTQ_ABT_ERR;
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(1)),
            Recorded::Written {
                interrupt: true,
                gerror: false
            }
        );
    }

    #[test]
    fn disabled_eventq_records_nothing() {
        let (mut registers, features, mut memory) = machine(0);
        registers.cr0 = 0;
        let before = registers.clone();
        assert_eq!(
            record(&mut registers, &features, &mut memory, &event(1)),
            Recorded::Disabled
        );
        assert_eq!(overflow(&mut registers, &features), Recorded::Disabled);
        assert_eq!((registers, memory.written.len()), (before, 0));
    }
}
