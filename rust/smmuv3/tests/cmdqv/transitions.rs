// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Queues that move between off, hardware and software.

use smmuv3::cmdqv::{
    Page0,
    QueueState::{Hardware, Off, Software},
};

use super::{
    guest::*,
    host::Call::{Allocate, Hide, Keep, Refuse, Release, Show, Stop},
};

/// `CMD_TLBI_NH_ASID`.
const TLBI: [u64; 2] = [0x11, 0];
/// `CMD_TLBI_NSNH_ALL`, which a guest's queue does not execute.
const FORBIDDEN: [u64; 2] = [0x30, 0];

const A: u64 = MEMORY[0];
const B: u64 = MEMORY[1];
const C: u64 = 0x5000_0000;

#[test]
fn linux_boot_allocates_ascending_and_shows_page() {
    let mut guest = Guest::booted();
    // The second VCMDQ that the VINTF gets has no memory yet: the page goes for a while.
    let calls = [Allocate(0, A), Show, Hide, Allocate(1, B), Show];
    assert_eq!(guest.host.take_calls(), calls);
    assert_eq!([guest.state(0), guest.state(1)], [Hardware; 2]);
    for lvcmdq in 0..2 {
        assert_eq!(guest.host.queue(lvcmdq).get(Page0::Config), 1);
        assert_eq!(guest.page0(lvcmdq, CMDQ_STATUS), 1);
    }
}

/// Each write that turns a queue off, and the one that turns it on again.
#[test]
fn each_enable_turns_queues_off_and_on() {
    let all = [Hide, Stop(1), Release(1), Stop(0), Release(0)];
    let both = [Allocate(0, A), Allocate(1, B), Show];
    for (offset, value) in [(CONFIG, 1), (VINTF_CONFIG, 1), (ALLOC_MAP, 1)] {
        let mut guest = Guest::booted();
        guest.host.take_calls();
        assert!(guest.write(offset, 0).reconcile);
        assert_eq!(guest.host.take_calls(), all, "{offset:#x}");
        let above = if offset == ALLOC_MAP { Software } else { Off };
        assert_eq!([guest.state(0), guest.state(1)], [Off, above]);
        assert!(guest.write(offset, value).reconcile);
        assert_eq!(guest.host.take_calls(), both, "{offset:#x}");
        assert_eq!([guest.state(0), guest.state(1)], [Hardware; 2]);
    }
}

#[test]
fn base_rewrite_releases_descending_allocates_ascending() {
    let mut guest = Guest::booted();
    guest.host.take_calls();
    guest.write64(LOGICAL1 + BASE, C | 4);
    let released = [Hide, Stop(1), Release(1), Stop(0), Release(0)];
    let calls = guest.host.take_calls();
    assert_eq!(calls[..5], released);
    assert_eq!(calls[5..], [Allocate(0, C), Allocate(1, B), Show]);
    // the upper one alone
    guest.write64(LOGICAL1 + 0x80 + BASE, A | 4);
    let again = [Hide, Stop(1), Release(1), Allocate(1, A), Show];
    assert_eq!(guest.host.take_calls(), again);
    // another size of the same memory
    guest.write64(LOGICAL1 + 0x80 + BASE, A | 5);
    assert_eq!(guest.host.take_calls().len(), 5);
    assert_eq!(guest.host.queue(1).queue.log2size, 5);
}

#[test]
fn zero_base_turns_queue_off() {
    let mut guest = Guest::booted();
    guest.host.take_calls();
    guest.write64(LOGICAL1 + 0x80 + BASE, 0);
    assert_eq!(guest.host.take_calls(), [Hide, Stop(1), Release(1)]);
    assert_eq!([guest.state(0), guest.state(1)], [Hardware, Off]);
    assert_eq!(guest.page0(1, GERROR), 0);
}

#[test]
fn base_in_two_words_is_allocated_once_enabled() {
    let mut guest = Guest::out_of_reset();
    guest.write(ALLOC_MAP, allocated(0));
    guest.write(LOGICAL1 + BASE, A | 4);
    assert_eq!(guest.state(0), Off);
    assert_eq!(guest.cmdqv.wanted(&guest.features, 0), None);
    assert!(guest.host.take_calls().is_empty());
    guest.write(VINTF_CONFIG, 1);
    assert_eq!(guest.host.take_calls(), [Allocate(0, A), Show]);
    guest.write(LOGICAL1 + BASE + 4, 1);
    let moved = (1 << 32) | A;
    let calls = [Hide, Stop(0), Release(0), Allocate(0, moved), Show];
    assert_eq!(guest.host.take_calls(), calls);
}

/// A host that refuses one queue, then the next one, in both orders.
#[test]
fn refused_queue_and_those_above_are_in_software() {
    let cases = [
        (&[0][..], [Software, Software]),
        (&[1][..], [Hardware, Software]),
        (&[0, 1][..], [Software, Software]),
    ];
    for (refused, states) in cases {
        let mut guest = Guest::refused(refused);
        assert_eq!([guest.state(0), guest.state(1)], states, "{refused:?}");
        assert!(!guest.host.is_shown);
        for (lvcmdq, state) in states.into_iter().enumerate() {
            assert_eq!(guest.page0(lvcmdq, CMDQ_STATUS), 1);
            guest.submit(lvcmdq, &[TLBI]);
            let in_software = state == Software;
            assert_eq!(guest.page0(lvcmdq, CONS), u64::from(in_software));
        }
        // The host is not asked for the same again.
        let asked = guest.host.take_calls();
        let refusals = asked.iter().filter(|call| matches!(call, Refuse(..)));
        assert_eq!(refusals.count(), 1);
        guest.reconcile();
        assert!(guest.host.take_calls().is_empty());
        // When the queue was off in between, it is.
        guest.host.refused.clear();
        guest.write(VINTF_CONFIG, 0);
        guest.write(VINTF_CONFIG, 1);
        assert_eq!([guest.state(0), guest.state(1)], [Hardware; 2]);
        assert!(guest.host.is_shown);
    }
}

/// The registers that a queue takes with it, in both directions.
#[test]
fn queue_keeps_its_registers_when_it_moves() {
    let mut guest = Guest::booted();
    let queue = guest.host.queue(0);
    queue.set(Page0::Prod, 0x13);
    queue.set(Page0::Cons, 0x11);
    queue.set(Page0::Gerror, 1);
    queue.set(Page0::Gerrorn, 1);
    guest.host.refused.insert(C);
    guest.write64(LOGICAL1 + BASE, C | 4);
    assert_eq!([guest.state(0), guest.state(1)], [Software; 2]);
    let registers = [PROD, CMDQ_CONFIG, GERROR, GERRORN];
    // Memory at C is 0: the command at index 0x11 has the reserved opcode 0.
    assert_eq!(registers.map(|r| guest.page0(0, r)), [0x13, 1, 0, 1]);
    assert_eq!(guest.page0(0, CMDQ_STATUS), 1);
    assert_eq!(guest.page0(0, CONS), 0x0100_0011);
    // Back: the queue of the host starts without an error, at the same command.
    guest.write_page0(0, CMDQ_CONFIG, 0);
    guest.host.left_over = [1, 0];
    guest.write64(LOGICAL1 + BASE, A | 4);
    assert_eq!(guest.state(0), Software, "an error is active");
    assert!(guest.acknowledge(0).reconcile);
    assert_eq!(guest.state(0), Hardware);
    let moved = *guest.host.queue(0);
    assert_eq!(moved.get(Page0::Prod), 0x13);
    assert_eq!(moved.get(Page0::Cons), 0x11);
    assert_eq!(moved.get(Page0::Config), 0);
    assert_eq!(moved.get(Page0::Gerror), moved.get(Page0::Gerrorn));
    assert_eq!(guest.page0(1, CMDQ_STATUS), 1);
}

/// Commands that the hardware has not executed are executed in software.
#[test]
fn queue_leaving_hardware_continues_in_software() {
    let mut guest = Guest::booted();
    guest.memory.store_words(B + 0x10, &TLBI);
    guest.memory.store_words(B + 0x20, &TLBI);
    guest.host.queue(1).set(Page0::Cons, 1);
    guest.host.queue(1).set(Page0::Prod, 3);
    guest.host.refused.insert(C);
    guest.write64(LOGICAL1 + BASE, C | 4);
    assert_eq!(guest.page0(1, CONS), 3);
    assert_eq!(guest.backend.calls, [vec![TLBI, TLBI]]);
}

/// A queue of the host that is in error stays so in software until it is acknowledged.
#[test]
fn error_of_hardware_survives_move_to_software() {
    let mut guest = Guest::booted();
    guest.host.queue(1).set(Page0::Cons, 0x0100_0000);
    guest.host.queue(1).set(Page0::Prod, 1);
    guest.host.queue(1).set(Page0::Gerror, 1);
    assert_eq!(guest.maps(), [1, 2, 2]);
    assert_eq!(guest.read(VINTF_STATUS), 0x0002_0003);
    guest.memory.store_words(B, &TLBI);
    guest.write64(LOGICAL1 + BASE, C | 4);
    assert_eq!([guest.state(0), guest.state(1)], [Hardware, Software]);
    assert_eq!((guest.error(1), guest.maps()), (Some(1), [1, 2, 2]));
    assert!(!guest.host.is_shown && guest.backend.calls.is_empty());
    assert!(guest.acknowledge(1).reconcile);
    assert_eq!(guest.state(1), Hardware);
    assert_eq!((guest.error(1), guest.maps()), (None, [0, 0, 0]));
    assert!(guest.host.is_shown);
}

#[test]
fn queue_not_released_is_in_software_until_it_is() {
    let mut guest = Guest::booted();
    guest.host.take_calls();
    guest.host.is_busy = [true, false];
    guest.write64(LOGICAL1 + BASE, C | 4);
    let calls = [Hide, Stop(1), Release(1), Stop(0), Keep(0)];
    assert_eq!(guest.host.take_calls(), calls);
    assert!(guest.cmdqv.is_stuck());
    assert_eq!([guest.state(0), guest.state(1)], [Software; 2]);
    // A write that asks for nothing does not try again.
    assert!(!guest.write(SID_MATCH, 1).reconcile);
    guest.submit(0, &[]);
    assert!(guest.host.take_calls().is_empty());
    guest.reconcile();
    assert_eq!(guest.host.take_calls(), [Keep(0)]);
    guest.host.is_busy = [false; 2];
    guest.reconcile();
    let retried = [Release(0), Allocate(0, C), Allocate(1, B), Show];
    assert_eq!(guest.host.take_calls(), retried);
    assert!(!guest.cmdqv.is_stuck());
}

/// A guest that is booted again without a reset in between is given the hardware.
#[test]
fn queue_not_released_is_tried_again_when_queues_change() {
    let mut guest = Guest::booted();
    guest.host.is_busy = [true; 2];
    guest.cmdqv.reset(&guest.features, &mut guest.host);
    guest.host.take_calls();
    guest.boot();
    let calls = guest.host.take_calls();
    assert!(
        calls.iter().all(|call| matches!(call, Keep(_))),
        "{calls:?}"
    );
    assert_eq!(calls.len(), 2 * 2, "one for each queue with each change");
    assert!(guest.cmdqv.is_stuck());
    guest.host.is_busy = [false; 2];
    guest.boot();
    assert!(!guest.cmdqv.is_stuck());
    assert_eq!([guest.state(0), guest.state(1)], [Hardware; 2]);
}

/// The upper queue is not released, so the lower one cannot be either.
#[test]
fn upper_queue_not_released_keeps_lower_one() {
    let mut guest = Guest::booted();
    guest.host.take_calls();
    guest.host.is_busy = [false, true];
    guest.write64(LOGICAL1 + 0x80 + BASE, C | 4);
    assert_eq!(guest.host.take_calls(), [Hide, Stop(1), Keep(1)]);
    assert_eq!([guest.state(0), guest.state(1)], [Hardware, Software]);
    guest.write(VINTF_CONFIG, 0);
    assert_eq!(guest.host.take_calls(), [Keep(1), Stop(0), Keep(0)]);
    assert_eq!([guest.state(0), guest.state(1)], [Off; 2]);
    guest.host.is_busy = [false; 2];
    guest.cmdqv.reset(&guest.features, &mut guest.host);
    assert_eq!(guest.host.take_calls(), [Release(1), Release(0)]);
}

#[test]
fn cmdqv_reset_releases_queues_and_clears_registers() {
    let mut guest = Guest::booted();
    guest.host.queue(0).set(Page0::Prod, 7);
    guest.write(SID_MATCH, 1);
    guest.write(SID_REPLACE, 1);
    guest.write(VI_INT_MASK, 1);
    guest.host.take_calls();
    guest.cmdqv.reset(&guest.features, &mut guest.host);
    let calls = [Hide, Stop(1), Release(1), Stop(0), Release(0)];
    assert_eq!(guest.host.take_calls(), calls);
    let mut fresh = Guest::out_of_reset();
    for offset in (0..0x5_0000).step_by(4) {
        assert_eq!(guest.read(offset), fresh.read(offset), "{offset:#x}");
    }
    guest.boot();
    assert_eq!([guest.state(0), guest.state(1)], [Hardware; 2]);
}

/// `LVCMDQ` of `CMDQ_ALLOC_MAP` decides, not the number of the VCMDQ.
#[test]
fn alloc_map_selects_lvcmdq() {
    let mut guest = Guest::booted();
    guest.write(VINTF_CONFIG, 0);
    guest.write(ALLOC_MAP, allocated(1));
    guest.write(ALLOC_MAP + 4, allocated(0));
    guest.host.take_calls();
    guest.write(VINTF_CONFIG, 1);
    assert_eq!(
        guest.host.take_calls(),
        [Allocate(0, B), Allocate(1, A), Show]
    );
    guest.write(DIRECT0 + PROD, 3);
    assert_eq!(guest.host.queue(1).get(Page0::Prod), 3);
    guest.host.queue(1).set(Page0::Gerror, 1);
    assert_eq!(guest.maps(), [1, 1, 2]);
}

/// The last assigned device goes, and another one comes.
#[test]
fn barred_queues_continue_in_software_and_return() {
    let mut guest = Guest::booted();
    guest.host.queue(0).set(Page0::Prod, 1);
    guest.host.queue(0).set(Page0::Cons, 1);
    guest.host.take_calls();
    guest.bar_hardware(true);
    let all = [Hide, Stop(1), Release(1), Stop(0), Release(0)];
    assert_eq!(guest.host.take_calls(), all);
    assert_eq!([guest.state(0), guest.state(1)], [Software; 2]);
    guest.submit(0, &[TLBI]);
    assert_eq!(guest.page0(0, CONS), 2);
    // nothing that the guest does brings them back
    guest.write(VINTF_CONFIG, 0);
    guest.write(VINTF_CONFIG, 1);
    assert_eq!([guest.state(0), guest.state(1)], [Software; 2]);
    assert_eq!(guest.host.take_calls(), []);
    guest.bar_hardware(false);
    let both = [Allocate(0, A), Allocate(1, B), Show];
    assert_eq!(guest.host.take_calls(), both);
    assert_eq!(guest.host.queue(0).get(Page0::Cons), 2);
}

/// A VINTF that goes with a queue that was not released: the next one has none.
#[test]
fn stuck_queue_of_earlier_vintf_is_dropped() {
    let mut guest = Guest::booted();
    guest.host.is_busy = [true; 2];
    guest.host.take_calls();
    guest.bar_hardware(true);
    let calls = [Hide, Stop(1), Keep(1), Stop(0), Keep(0)];
    assert_eq!(guest.host.take_calls(), calls);
    assert!(guest.cmdqv.is_stuck());
    guest.cmdqv.drop_stuck();
    assert!(!guest.cmdqv.is_stuck());
    guest.host.kept = [false; 2];
    guest.host.is_busy = [false; 2];
    guest.bar_hardware(false);
    let both = [Allocate(0, A), Allocate(1, B), Show];
    assert_eq!(guest.host.take_calls(), both);
}

/// A VINTF that refuses nothing replaces one that did.
#[test]
fn next_vintf_is_asked_for_refused_queue() {
    let mut guest = Guest::refused(&[0, 1]);
    guest.host.take_calls();
    guest.bar_hardware(true);
    guest.host.refused.clear();
    guest.bar_hardware(false);
    let both = [Allocate(0, A), Allocate(1, B), Show];
    assert_eq!(guest.host.take_calls(), both);
}

/// Accesses of a queue in hardware reach the host's page, writable bits only.
#[test]
fn trapped_accesses_reach_host_page() {
    let mut guest = Guest::booted();
    for page in [DIRECT0, LOGICAL0] {
        for (register, name, mask) in [
            (CONS, Page0::Cons, 0xf_ffff),
            (PROD, Page0::Prod, 0xf_ffff),
            (CMDQ_CONFIG, Page0::Config, 1),
            (GERRORN, Page0::Gerrorn, 7),
        ] {
            guest.host.queue(1).set(name, 0);
            guest.write(page + 0x80 + register, u64::MAX);
            assert_eq!(guest.host.queue(1).get(name), mask, "{name:?}");
        }
        for (register, name, mask) in [
            (CONS, Page0::Cons, 0x7f0f_ffff),
            (PROD, Page0::Prod, 0xf_ffff),
            (CMDQ_STATUS, Page0::Status, 1),
            (GERROR, Page0::Gerror, 7),
        ] {
            guest.host.queue(1).set(name, u32::MAX);
            assert_eq!(guest.read(page + 0x80 + register), mask, "{name:?}");
            guest.write(page + 0x80 + CMDQ_STATUS, 0);
            guest.write(page + 0x80 + GERROR, 0);
        }
    }
}

/// An invalid base of an enabled queue is `CMDQ_INIT_ERR`, once for each attempt.
#[test]
fn invalid_base_of_enabled_queue_is_init_err() {
    // too large, unaligned, beyond the output address size
    for base in [A | 9, (A + 0x80) | 4, (1 << 44) | 4] {
        let mut guest = Guest::booted();
        guest.write_page0(1, CMDQ_CONFIG, 0);
        guest.write64(LOGICAL1 + 0x80 + BASE, base);
        assert_eq!([guest.state(0), guest.state(1)], [Hardware, Off]);
        assert_eq!(guest.page0(1, GERROR), 0, "not enabled");
        guest.write_page0(1, CMDQ_CONFIG, 1);
        assert_eq!(guest.page0(1, GERROR), 4);
        assert_eq!(guest.page0(1, CMDQ_STATUS), 0);
        assert_eq!((guest.irqs.error, guest.maps()), (1, [1, 2, 2]));
        guest.acknowledge(1);
        guest.write_page0(1, PROD, 3);
        assert_eq!((guest.irqs.error, guest.page0(1, GERROR)), (1, 4));
        guest.write_page0(1, CMDQ_CONFIG, 0);
        guest.write_page0(1, CMDQ_CONFIG, 1);
        assert_eq!((guest.irqs.error, guest.page0(1, GERROR)), (2, 0));
    }
}

/// The queue was in hardware: the error follows when it is not any more.
#[test]
fn invalid_base_of_hardware_queue_is_init_err() {
    let mut guest = Guest::booted();
    guest.write64(LOGICAL1 + 0x80 + BASE, B | 9);
    assert_eq!([guest.state(0), guest.state(1)], [Hardware, Off]);
    assert_eq!((guest.irqs.error, guest.page0(1, GERROR)), (1, 4));
}

#[test]
fn vi_int_mask_delays_interrupt() {
    let mut guest = Guest::refused(&[0, 1]);
    guest.write(VI_INT_MASK, 1);
    assert!(!guest.cmdqv.is_interrupt_enabled());
    guest.submit(0, &[FORBIDDEN]);
    assert_eq!((guest.error(0), guest.irqs.error), (Some(1), 0));
    assert_eq!(guest.maps(), [1, 1, 1]);
    assert!(guest.write(VI_INT_MASK, 0).interrupt);
    assert_eq!(guest.irqs.error, 1);
    assert!(!guest.write(VI_INT_MASK, 0).interrupt, "an edge");
    guest.write(VI_INT_MASK, 1);
    guest.acknowledge(0);
    guest.write_page0(0, CMDQ_CONFIG, 0);
    guest.acknowledge(0);
    assert!(!guest.write(VI_INT_MASK, 0).interrupt, "no error");
}
