// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Properties of a CMDQV that hold between any two accesses.

use smmuv3::cmdqv::{QueueState, QUEUES};

use super::guest::*;

/// Compares the error maps with the errors of the queues, read one by one.
pub fn check_maps(guest: &mut Guest) {
    let mut in_error = |page: u64| {
        (0..QUEUES as u64).fold(0, |map, queue| {
            let at = page + 0x80 * queue;
            let active = guest.read(at + GERROR) != guest.read(at + GERRORN);
            map | (u64::from(active) << queue)
        })
    };
    let [vcmdqs, lvcmdqs] = [DIRECT0, LOGICAL0].map(&mut in_error);
    assert_eq!(guest.maps(), [u64::from(lvcmdqs != 0), vcmdqs, lvcmdqs]);
    assert_eq!((guest.read(VINTF_STATUS) >> 1) & 7, u64::from(lvcmdqs != 0));
}

/// Compares the host's queues with those that the registers ask for.
pub fn check_host(guest: &mut Guest) {
    let mut is_complete = guest.read(VINTF_STATUS) & 1 != 0;
    let mut queues = 0;
    for lvcmdq in 0..QUEUES {
        let wanted = guest.cmdqv.wanted(&guest.features, lvcmdq);
        let has = guest.host.queues[lvcmdq].map(|queue| queue.queue);
        let state = match (wanted, has) {
            (None, None) => QueueState::Off,
            (Some(_), None) => QueueState::Software,
            (_, Some(_)) => QueueState::Hardware,
        };
        assert_eq!(guest.state(lvcmdq), state);
        assert!(has.is_none() || has == wanted, "{has:x?} {wanted:x?}");
        let map = (0..QUEUES as u64).map(|q| guest.read(ALLOC_MAP + 4 * q));
        let entries: Vec<_> = map.collect();
        let is_allocated = entries.iter().any(|e| e & 0x1f_80ff == allocated(lvcmdq));
        is_complete &= has.is_some() || !is_allocated;
        is_complete &= !guest.host.kept[lvcmdq];
        queues += usize::from(has.is_some());
        let at = 0x80 * lvcmdq as u64;
        if guest.read(LOGICAL0 + at + CMDQ_STATUS) == 1 && has.is_none() {
            assert_eq!(guest.read(LOGICAL0 + at + CMDQ_CONFIG), 1);
            assert!(wanted.is_some());
        }
    }
    assert_eq!(guest.host.is_shown, is_complete && queues != 0);
    let is_stuck = guest.host.kept.contains(&true);
    assert_eq!(guest.cmdqv.is_stuck(), is_stuck);
}
