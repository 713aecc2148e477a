// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! How long a guest can stall the machine: it publishes a full queue of the
//! largest size repeatedly, while another thread sends QMP commands. Prints the
//! longest doorbell write and the longest QMP reply for both devices in the
//! same run.

mod full_queue;

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use full_queue::{LARGEST, POINTER};
use serde_json::json;
use smmuv3_qtest::{
    assigned::{Setup, EXPLICIT},
    qemu, qemu_c,
    qmp::Qmp,
    qtest::Qtest,
    smmu::reg,
    Builder, Machine,
};

/// Number of times that the queue is published.
const LAPS: u32 = 4;

/// The longest times.
#[derive(Clone, Copy, Default)]
struct Stall {
    doorbell: Duration,
    answer: Duration,
    answers: u32,
    total: Duration,
}

/// Runs the guest: writes doorbells and waits until the queue is consumed.
fn guest(qtest: &mut Qtest, base: u64, laps: u32) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    for lap in 1..=laps {
        // the wrap bit alone: the index is 0 whenever the queue is full
        let prod = u64::from(lap % 2) << LARGEST;
        let start = Instant::now();
        qtest.write_value(base + reg::CMDQ_PROD, prod, 4)?;
        longest = longest.max(start.elapsed());
        while qtest.read_value(base + reg::CMDQ_CONS, 4)? & POINTER != prod {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(longest)
}

/// Runs the administrator: sends QMP commands until the guest is done.
fn administrator(qmp: &mut Qmp, over: &AtomicBool) -> io::Result<(Duration, u32)> {
    let mut longest = Duration::ZERO;
    let mut answers = 0;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        qmp.execute("query-status", &json!({}))?
            .map_err(|error| io::Error::other(error.to_string()))?;
        longest = longest.max(start.elapsed());
        answers += 1;
    }
    Ok((longest, answers))
}

fn measure(machine: &mut Machine, laps: u32) -> Stall {
    let base = full_queue::fill(machine);
    let (qtest, qmp) = machine.connections();
    let over = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        let administrator = scope.spawn(|| administrator(qmp, &over));
        let doorbell = guest(qtest, base, laps);
        let total = start.elapsed();
        over.store(true, Ordering::Relaxed);
        let asked = administrator.join().expect("no panic");
        let (answer, answers) = asked.expect("QMP answers");
        Stall {
            doorbell: doorbell.expect("the queue is consumed"),
            answer,
            answers,
            total,
        }
    })
}

/// Measures without accel, where the SMMU's own caches are invalidated.
fn in_software(binary: &Path) -> Stall {
    measure(&mut Builder::virt(binary).smmu("").start(), LAPS)
}

/// Measures with an assigned device of a simulated host, each of whose calls is
/// delayed.
fn on_a_host(binary: &Path) -> Stall {
    let mut bench = Setup::of(binary, "smmu a")
        .smmu(EXPLICIT)
        .assign("d0", 1)
        .start();
    bench.number_buses();
    measure(bench.machine_mut(), 1)
}

fn row(what: &str, stall: Stall) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{what:<24} {:>12.2} {:>12.2} {:>10} {:>12.0}",
        milliseconds(stall.doorbell),
        milliseconds(stall.answer),
        stall.answers,
        milliseconds(stall.total),
    );
}

fn main() {
    println!("A full queue of 2^{LARGEST} invalidations, concurrent QMP. Times in ms.");
    println!(
        "{:<24} {:>12} {:>12} {:>10} {:>12}",
        "", "doorbell", "QMP answer", "answers", "all"
    );
    for (what, measured) in [
        (
            format!("accel=off, {LAPS} times"),
            in_software as fn(&Path) -> Stall,
        ),
        ("accel=on, once".to_owned(), on_a_host),
    ] {
        println!("{what}");
        let rust = measured(&qemu());
        row("  Rust device", rust);
        let c = measured(&qemu_c());
        row("  C device", c);
        let ratio = |theirs: Duration, ours: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
        println!(
            "{:<24} {:>12.1} {:>12.1} {:>10} {:>12.1}",
            "  C / Rust",
            ratio(c.doorbell, rust.doorbell),
            ratio(c.answer, rust.answer),
            "",
            ratio(c.total, rust.total),
        );
    }
}
