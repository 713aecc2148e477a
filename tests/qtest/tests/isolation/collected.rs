// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Fewer calls of the host: TLBIs collected across `CMD_SYNC`s.

use smmuv3_qtest::{
    command,
    smmu::{cerror, irq},
    until,
};

use crate::{
    bench::Bench,
    invalidation::{completed, tlbis, translating},
};

/// Several vCPUs that unmap at once share a doorbell.
#[test]
fn tlbis_are_collected_across_cmd_sync() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.intercept_irqs();
    let interleaved: Vec<_> = tlbis(31)
        .into_iter()
        .flat_map(|tlbi| [tlbi, command::SYNC_IRQ])
        .collect();
    smmu.commands(&interleaved);
    assert_eq!(bench.journal().batches(), [tlbis(31)]);
    assert_eq!(smmu.pulses()[irq::CMD_SYNC as usize], 31);
    bench.finish();
}

#[test]
fn collected_syncs_before_error_are_signalled() {
    let bench = Bench::with_one_device();
    let smmu = translating(&bench);
    smmu.intercept_irqs();
    bench.script("smmu a refuses=0x13");
    let mut interleaved: Vec<_> = tlbis(10)
        .into_iter()
        .flat_map(|tlbi| [tlbi, command::SYNC_IRQ])
        .collect();
    interleaved[12] = command::tlbi_nh_vaa(0x9000);
    let start = smmu.prod();
    smmu.push(&interleaved);
    smmu.ring();
    until("a command error", || smmu.error().then_some(()));
    assert_eq!((smmu.cons_err(), smmu.cons() - start), (cerror::ILL, 12));
    assert_eq!(smmu.pulses()[irq::CMD_SYNC as usize], 6);
    assert_eq!(completed(&bench).len(), 6);
    bench.finish();
}
