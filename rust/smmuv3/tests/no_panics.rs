// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! No guest, host or saved state makes the crate panic or loop.

use crate::common::{vector_features, Answer, Machine};
use proptest::prelude::*;
use smmuv3::{
    batch::Granules,
    command::decode,
    command::Invalidation,
    event::EVENT_BYTES,
    gerror::{CMDQ_ERR, MSI_CMDQ_ABT_ERR, MSI_GERROR_ABT_ERR},
    ste::STE_BYTES,
    Backend, BusAbort, EioReport, Event, Features, FlushPolicy, GuestMemory, HostError, Platform,
    Registers, Ste, StreamConfig, StreamId,
};

/// Memory whose reads return random bytes.
struct AnyMemory {
    bytes: Vec<u8>,
    next: usize,
    aborts: u8,
}

impl AnyMemory {
    fn take(&mut self) -> u8 {
        self.next = self.next.wrapping_add(1);
        self.bytes[self.next % self.bytes.len()]
    }
}

impl GuestMemory for AnyMemory {
    fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        for byte in buffer.iter_mut() {
            *byte = self.take();
        }
        if self.take() < self.aborts {
            return Err(BusAbort);
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BusAbort> {
        if self.take() < 128 {
            return Err(BusAbort);
        }
        Ok(())
    }
}

/// A host that contradicts itself.
struct AnyHost {
    answers: Vec<(i32, u32, Option<u32>)>,
    next: usize,
    calls: usize,
}

impl AnyHost {
    fn take(&mut self) -> (i32, u32, Option<u32>) {
        self.next = self.next.wrapping_add(1);
        self.answers[self.next % self.answers.len()]
    }
}

impl Backend for AnyHost {
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        assert!((1..=63).contains(&commands.len()));
        self.calls += 1;
        let (errno, entry_num, _) = self.take();
        if errno < 0 {
            return Ok(());
        }
        Err(HostError { errno, entry_num })
    }

    fn next_stream(&mut self, _: StreamId, _: StreamId) -> Option<StreamId> {
        self.take().2
    }

    fn has_vdevice(&mut self, _: StreamId) -> bool {
        self.take().0 < 0
    }

    fn set_stream(&mut self, _: StreamId, _: &StreamConfig) -> bool {
        self.take().1 % 2 == 0
    }

    fn quarantine(&mut self, _: StreamId) {}

    fn fail_closed(&mut self) {}

    fn is_exhausted(&mut self) -> bool {
        self.take().1 % 5 == 0
    }

    fn give_up(&mut self) -> bool {
        self.take().1 % 2 == 0
    }

    fn is_gone(&mut self) -> bool {
        self.take().1 % 3 == 0
    }
}

fn any_features() -> impl Strategy<Value = Features> {
    prop_oneof![
        Just(vector_features()),
        any::<([u32; 6], u32, u32)>().prop_map(|(idr, iidr, aidr)| Features { idr, iidr, aidr }),
    ]
}

fn any_policy() -> impl Strategy<Value = FlushPolicy> {
    ([0..4_u32, 0..4, 0..4], any::<[bool; 5]>()).prop_map(
        |([timeout_retries, memory_retries, max_errors], flags)| {
            let [repeat_tlbi_cfgi, offender, defer_remainder, collect_across_sync, merges] = flags;
            FlushPolicy {
                max_errors,
                defer_remainder,
                collect_across_sync,
                merge_ranges: merges.then(|| Granules::of(&vector_features())),
                timeout_retries,
                memory_retries,
                repeat_tlbi_cfgi,
                eio: if offender {
                    EioReport::Offender
                } else {
                    EioReport::BlockStart
                },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_command_decode_is_total(
        words in any::<[u64; 2]>(),
        ste in any::<[u64; 8]>(),
        record in any::<[u8; EVENT_BYTES]>(),
        entry in any::<[u8; 32]>(),
        features in any_features(),
    ) {
        let _ = decode(words, &features);
        let _ = Ste(ste).config(&features);
        let mut bytes = [0; STE_BYTES];
        bytes[..32].copy_from_slice(&entry);
        let _ = Ste::from_bytes(&bytes).config(&features);
        let event = Event::from_bytes(&record);
        let _ = (event.number(), event.sid());
        prop_assert_eq!(event.to_bytes(), record);
    }

    #[test]
    fn consumer_returns_from_random_input(
        bytes in prop::collection::vec(any::<u8>(), 33..999),
        legal in any::<bool>(),
        aborts in prop::sample::select(vec![0, 0, 0, 30]),
        answers in prop::collection::vec(
            (prop::sample::select(vec![-1, -1, -1, 2, 4, 5, 11, 12, 14, 110, 999]), any::<u32>(),
             prop::option::of(0..0x20000_u32)),
            1..40,
        ),
        accesses in prop::collection::vec((0..0x130_u64, any::<u64>(), any::<bool>()), 0..20),
        features in any_features(),
        policy in any_policy(),
        queue in any::<(u64, u32, u32)>(),
        budget in 0..300_u32,
    ) {
        let mut bytes = bytes;
        if legal {
            // Most opcodes of the invalidations that are forwarded.
            for (at, byte) in bytes.iter_mut().enumerate() {
                if at % 16 < 2 {
                    *byte = [0x12, 0x11, 0x40, 0x05, 0x03, 0x04, 0x46, 0x30][usize::from(*byte % 8)];
                }
            }
        }
        let mut registers = Registers::reset(&features);
        for (offset, value, wide) in accesses {
            let size = if wide { 8 } else { 4 };
            registers.write(&features, offset & !3, value, size);
        }
        registers.cmdq_base = queue.0;
        registers.cmdq_prod = queue.1;
        registers.cmdq_cons = queue.2;
        registers.cr0 |= 0x9;
        registers.gerrorn = registers.gerror;
        let before = registers.gerror;
        let mut memory = AnyMemory { bytes, next: 0, aborts };
        let mut host = AnyHost { answers, next: 0, calls: 0 };
        let mut cmdq = smmuv3::Cmdq::new(policy);
        let mut signals = crate::common::Counters::default();
        let platform = Platform {
            memory: &mut memory,
            backend: &mut host,
            interrupts: &mut signals,
            observer: &mut (),
        };
        let mut run = registers.begin_cmdq(&features);
        cmdq.consume(&mut run, &features, platform, budget);
        registers.finish_cmdq(run);
        // Per command at most the retries of each kind, for both passes.
        prop_assert!(host.calls <= 200 * (budget as usize + 1));
        // No other error is the Command queue's; Service failure mode (§12.3) least of all.
        let own = CMDQ_ERR | MSI_CMDQ_ABT_ERR | MSI_GERROR_ABT_ERR;
        prop_assert_eq!(registers.gerror & !own, before & !own);
    }
}

#[test]
fn host_never_succeeding_is_lost_quickly() {
    for policy in [true, false].map(|repeat_tlbi_cfgi| FlushPolicy {
        repeat_tlbi_cfgi,
        ..FlushPolicy::default()
    }) {
        for errno in 0..134 {
            let mut machine = Machine::resized(vector_features(), policy, 8, 0);
            machine.host.streams = (0..0x100).collect();
            machine.host.afterwards = Some(Answer::error(errno, 1));
            let commands: Vec<_> = (0..200_u64)
                .map(|n| match n % 3 {
                    0 => [0x40 | (n << 32), 0],
                    _ => [0x12, n << 12],
                })
                .collect();
            machine.submit(&commands);
            assert!(machine.host.calls.len() < 100, "{errno}");
        }
    }
}
