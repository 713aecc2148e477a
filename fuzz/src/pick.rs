// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Building blocks that several inputs share.

use arbitrary::{Arbitrary, Result, Unstructured};
use smmuv3::{batch::Granules, EioReport, Features, FlushPolicy};

use crate::common::vector_features;

/// Returns a number in `0..count`, from one byte, so that mutations stay local.
pub fn below(u: &mut Unstructured<'_>, count: u8) -> Result<u8> {
    u.int_in_range(0..=count - 1)
}

/// Returns one of a few values.
pub fn one_of<T: Copy>(u: &mut Unstructured<'_>, choices: &[T]) -> Result<T> {
    u.choose(choices).copied()
}

/// Returns as many values as there are bytes for, up to `most`.
pub fn several<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    mut make: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut made = Vec::new();
    while made.len() < most && !u.is_empty() {
        made.push(make(u)?);
    }
    Ok(made)
}

/// Returns ID registers: of an existing device with a few features more, or any.
pub fn features(u: &mut Unstructured<'_>) -> Result<Features> {
    if below(u, 8)? == 0 {
        return Ok(Features {
            idr: <[u32; 6]>::arbitrary(u)?,
            iidr: 0,
            aidr: 1,
        });
    }
    plausible_features(u)
}

/// Returns such ID registers without features that contradict each other.
pub fn plausible_features(u: &mut Unstructured<'_>) -> Result<Features> {
    let [one, other] = <[u8; 2]>::arbitrary(u)?;
    let has = |byte: u8, bit: u8| (byte >> bit) & 1 != 0;
    Ok(vector_features()
        .with_s2p(has(one, 0))
        .with_msi(has(one, 1))
        .with_sev(has(one, 2))
        .with_pri(has(one, 3))
        .with_dpt(has(one, 4))
        .with_ats(!has(one, 5))
        .with_ril(!has(one, 6))
        .with_hyp(has(one, 7))
        .with_vmid16(!has(other, 0))
        .with_asid16(!has(other, 1))
        .with_cd2l(has(other, 2))
        .with_queues_preset(has(other, 3) && has(other, 4))
        .with_tables_preset(has(other, 3) && has(other, 5))
        .with_oas(if has(other, 6) { 5 } else { 4 })
        .with_ssidsize(if has(other, 7) { 0 } else { 20 }))
}

/// Returns a policy for a failing host.
pub fn policy(u: &mut Unstructured<'_>) -> Result<FlushPolicy> {
    let [byte, other] = <[u8; 2]>::arbitrary(u)?;
    Ok(FlushPolicy {
        timeout_retries: u32::from(byte & 3),
        memory_retries: u32::from((byte >> 2) & 3),
        // Few, so that a host is given up on within a session.
        max_errors: match byte & 0x80 {
            0 => FlushPolicy::default().max_errors,
            _ => u32::from((byte >> 1) & 3),
        },
        repeat_tlbi_cfgi: byte & 0x10 != 0,
        defer_remainder: byte & 0x20 != 0,
        eio: eio(byte & 0x40 != 0),
        collect_across_sync: other & 1 != 0,
        merge_ranges: (other & 2 != 0).then(|| {
            let features = vector_features()
                .with_gran16k(other & 4 == 0)
                .with_gran64k(other & 8 == 0);
            Granules::of(&features)
        }),
    })
}

/// Returns how the host reports an illegal command.
pub const fn eio(offender: bool) -> EioReport {
    if offender {
        EioReport::Offender
    } else {
        EioReport::BlockStart
    }
}
