// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A randomized hostile guest on a host that fails at random.

use proptest::prelude::*;
use smmuv3::cmdqv::{Page0, QUEUES};

use super::{
    guest::*,
    invariants::{check_host, check_maps},
};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u32),
    Page(usize, usize, u32),
    Refuse(u64),
    Accept,
    Busy([bool; QUEUES]),
    Command(u64, u64),
    /// The last device goes, or another one comes.
    Bar(bool),
    Reset,
}

fn offset() -> impl Strategy<Value = u64> {
    let at = |pages: Vec<u64>, registers: Vec<u64>| {
        (
            prop::sample::select(pages),
            prop::sample::select(registers),
            0..2_u64,
        )
            .prop_map(|(page, register, queue)| page + register + 0x80 * queue)
    };
    let words = vec![CONFIG, ALLOC_MAP, ALLOC_MAP + 4, VINTF_CONFIG, VI_INT_MASK];
    prop_oneof![
        4 => prop::sample::select(words),
        3 => at(vec![DIRECT0, LOGICAL0], vec![CONS, PROD, CMDQ_CONFIG, GERRORN]),
        3 => at(vec![DIRECT1, LOGICAL1], vec![BASE]),
        1 => (0..0x1_8000_u64).prop_map(|word| 4 * word),
        1 => any::<u64>(),
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..8_u64,
        3 => prop::sample::select(vec![MEMORY[0] | 4, MEMORY[1] | 4, MEMORY[0] | 9, 0]),
        1 => any::<u64>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop::sample::select(vec![4, 4, 4, 8, 8, 1, 2, 16]);
    prop_oneof![
        20 => (offset(), value(), size).prop_map(|(o, v, s)| Step::Write(o, v, s)),
        4 => (0..QUEUES, 0..6_usize, any::<u32>()).prop_map(|(l, r, v)| Step::Page(l, r, v)),
        1 => prop::sample::select(MEMORY.to_vec()).prop_map(Step::Refuse),
        1 => Just(Step::Accept),
        1 => any::<[bool; QUEUES]>().prop_map(Step::Busy),
        4 => (0..32_u64, any::<u64>()).prop_map(|(slot, word)| Step::Command(slot, word)),
        1 => any::<bool>().prop_map(Step::Bar),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The host asserts its own order, and the device follows it.
    #[test]
    fn hostile_cmdqv_guest_keeps_invariants(steps in prop::collection::vec(step(), 1..120)) {
        let mut guest = Guest::booted();
        for step in steps {
            match step {
                Step::Write(offset, value, size) => {
                    guest.write_sized(offset, value, size);
                    let read = guest.read_sized(offset, size);
                    prop_assert!(size == 8 || read <= u64::from(u32::MAX));
                }
                Step::Page(lvcmdq, register, value) => {
                    if let Some(queue) = &mut guest.host.queues[lvcmdq] {
                        queue.set(Page0::ALL[register], value);
                    }
                }
                Step::Refuse(address) => {
                    guest.host.refused.insert(address);
                }
                Step::Accept => guest.host.refused.clear(),
                Step::Busy(is_busy) => guest.host.is_busy = is_busy,
                Step::Command(slot, word) => {
                    let at = MEMORY[(slot / 16) as usize] + 16 * (slot % 16);
                    guest.memory.store_words(at, &[word & 0xffff_ffff_0000_0077, 0]);
                }
                Step::Bar(is_barred) => {
                    guest.bar_hardware(is_barred);
                    prop_assert!(!is_barred || guest.host.queues == [None; QUEUES]);
                }
                Step::Reset => guest.cmdqv.reset(&guest.features, &mut guest.host),
            }
            check_maps(&mut guest);
            check_host(&mut guest);
        }
        // Nothing is left of it.
        guest.host.is_busy = [false; QUEUES];
        guest.cmdqv.reset(&guest.features, &mut guest.host);
        prop_assert_eq!(guest.host.queues, [None; QUEUES]);
        prop_assert_eq!(guest.host.kept, [false; QUEUES]);
    }
}
