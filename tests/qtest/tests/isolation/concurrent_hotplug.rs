// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Hot-plug and hot-unplug while another device is in use.

use std::os::fd::RawFd;

use smmuv3_qtest::{
    command::{self, Command},
    smmu::reg,
};

use crate::{
    bench::{sid, ste, Bench, Ecam, Guest, Setup, EXPLICIT},
    events::{wait_prod, with_eventq, Faults},
    journal::On,
};

/// Returns a machine with "d0" in slot 1, and devices to plug into slot 2 one
/// after the other.
fn with_spares() -> (Bench, Vec<(String, RawFd)>) {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1).slot(2);
    let spares = (1..=4)
        .map(|number| {
            let name = format!("d{number}");
            let fd = setup.spare(&name, "a");
            (name, fd)
        })
        .collect();
    (setup.start(), spares)
}

/// Distinct commands.
struct Invalidations(u64);

impl Invalidations {
    fn next(&mut self, count: usize) -> Vec<Command> {
        let first = self.0 + 1;
        self.0 += count as u64;
        (first..)
            .take(count)
            .map(|page| command::tlbi_nh_va(5, page << 12))
            .collect()
    }
}

/// The invalidations of the first device are pending when the second one is
/// plugged and unplugged.
#[test]
fn hot_plug_during_invalidations_of_other_device() {
    let (bench, spares) = with_spares();
    let smmu = bench.translating(&[ste::FIRST]);
    smmu.write_ste(sid(2), ste::SECOND);
    bench.mark();
    let mut invalidations = Invalidations(0);
    let mut asked = Vec::new();
    let mut leave = |count| {
        // more than a batch, and no CMD_SYNC: some commands stay in the queue
        let commands = invalidations.next(count);
        smmu.push(&commands);
        smmu.ring();
        asked.extend(commands);
    };
    for (name, fd) in &spares {
        leave(100);
        bench.plug(name, *fd, 2).expect("plugged");
        bench.expect("plugged", &[(name, On::Nested(ste::SECOND))]);
        leave(30);
        let ecam = Ecam::of(bench.machine());
        ecam.power_on(sid(0) >> 8, 2 << 3);
        ecam.function_level_reset(sid(2) >> 8, 0);
        leave(70);
        bench.unplug(name, 2);
        bench.expect("unplugged", &[(name, On::Nothing)]);
        leave(5);
        smmu.submit(&[command::SYNC]);
        assert!(!smmu.error());
    }
    let journal = bench.journal();
    let issued: Vec<Command> = journal
        .issued("a")
        .concat()
        .into_iter()
        // the host inserts its VMID
        .map(|[word0, word1]| [word0 & !(0xffff << 32), word1])
        .collect();
    assert!(issued == asked, "each once, in order");
    assert_eq!(journal.history("d0"), [], "d0 has stayed where it was");
    drop(journal);
    bench.finish();
}

#[test]
fn hot_plug_during_faults_of_other_device() {
    let (bench, spares) = with_spares();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    let mut expected = 0;
    let mut fault = || {
        faults.report(&bench, 1);
        expected += 1;
        // index and wrap bit of a queue of four
        wait_prod(&smmu, expected % 8);
        smmu.write(reg::EVENTQ_CONS, expected % 8);
    };
    for (name, fd) in &spares {
        fault();
        bench.plug(name, *fd, 2).expect("plugged");
        fault();
        bench.unplug(name, 2);
        fault();
    }
    bench.finish();
}
