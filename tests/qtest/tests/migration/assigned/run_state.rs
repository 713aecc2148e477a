// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Nothing that the guest can see happens between a stop of the machine and its start: the interrupt
//! controller, or memory, may have been saved.

use std::{os::unix::net::UnixDatagram, thread, time::Duration};

use serde_json::json;
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    command::{SYNC_IRQ, TLBI_NSNH_ALL},
    journal::On,
    machine::RAM,
    smmu::{reg, EVENTQEN},
    until, Smmu,
};

use super::{load, start, P2P};
use crate::stream::Stream;

const EVENTS: u64 = RAM + 0x80_0000;

/// Has the host report a fault of "d0".
#[track_caller]
fn report_fault(bench: &Bench, sequence: u32) {
    let id = bench.journal().id("veventq").expect("a queue in the host");
    let path = bench.file(&format!("veventq-iommufd0-{id}"));
    // flags, number, F_TRANSLATION (§7.3.12)
    let mut bytes = [0, sequence].map(u32::to_ne_bytes).concat();
    let record = [0x10 | (u64::from(sid(1)) << 32), 0, 0x1000, 0];
    bytes.extend(record.iter().flat_map(|word| word.to_le_bytes()));
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(&bytes, &path).expect("an event");
    // Linux returns 0 when there is nothing more to read
    let _ = socket.send_to(&[], path);
}

fn one() -> Setup {
    Setup::new(EXPLICIT).assign_migratable("d0", 1, P2P)
}

#[track_caller]
fn with_events(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.translating(&[ste::FIRST]);
    smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
    smmu.enable(EVENTQEN);
    smmu
}

/// Events that the host reports after the stop are not recorded by a source whose state may be saved.
/// They are when it goes on.
#[test]
fn stopped_source_reads_no_event_and_executes_no_command() {
    let bench = one().start();
    let smmu = with_events(&bench);
    smmu.intercept_irqs();
    bench.machine().qmp("stop", json!({}));
    report_fault(&bench, 0);
    smmu.push(&[TLBI_NSNH_ALL, SYNC_IRQ]);
    bench.mark();
    smmu.ring();
    thread::sleep(Duration::from_millis(200));
    let stream = Stream::copy(bench.machine());
    assert_eq!(smmu.read(reg::EVENTQ_PROD), 0, "an event was recorded");
    assert_eq!(
        bench.journal().batches(),
        [[[0; 2]; 0]; 0],
        "a command was executed"
    );
    assert_eq!(smmu.pulses(), [0; 4], "an interrupt was raised");
    start(&bench);
    until("the event", || {
        (smmu.read(reg::EVENTQ_PROD) == 1).then_some(())
    });
    smmu.wait_consumed();

    // at the destination the command is executed; the event was the source's host's
    let target = one().incoming().start();
    load(&stream, &target);
    let other = Smmu::find(target.machine());
    assert_eq!(other.cons(), smmu.cons() - 2);
    start(&target);
    other.wait_cons(smmu.cons());
    assert_eq!(other.read(reg::EVENTQ_PROD), 0);
    for ended in [bench, target] {
        ended.finish_migratable();
    }
}

/// A destination opens the host's vEVENTQ when it loads the state, and reads it when it starts.
#[test]
fn loaded_destination_reads_events_when_it_starts() {
    let source = one().start();
    with_events(&source);
    let stream = Stream::copy(source.machine());
    let target = one().incoming().start();
    load(&stream, &target);
    let smmu = Smmu::find(target.machine());
    report_fault(&target, 0);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(smmu.read(reg::EVENTQ_PROD), 0, "an event was recorded");
    start(&target);
    until("the event", || {
        (smmu.read(reg::EVENTQ_PROD) == 1).then_some(())
    });
    assert_eq!(target.machine().read32(EVENTS + 4), sid(1));
    target.finish_migratable();
}

/// An attachment that the host refuses for now is not retried while the machine is stopped.
#[test]
fn stopped_source_retries_no_attachment() {
    let bench = one().start();
    let smmu = bench.translating(&[ste::FIRST]);
    bench.script("fail ATTACH kind=nested errno=EBUSY");
    smmu.install(sid(1), ste::SECOND);
    bench.machine().qmp("stop", json!({}));
    bench.script("clear");
    bench.mark();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(bench.changes(), [""; 0], "while stopped");
    start(&bench);
    until("the retry", || {
        let on = bench.journal().device("d0").map(|device| device.on);
        (on == Some(On::Nested(ste::SECOND))).then_some(())
    });
    bench.end();
}
