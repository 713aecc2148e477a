// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! How long a full Command queue of the largest size takes without
//! acceleration, from the doorbell until `CMDQ_CONS` is `CMDQ_PROD`, in both
//! devices in turn. `PAIRS` is the number of pairs (6); with `BENCH_OUT` the
//! results go to that file too, as JSON.

mod full_queue;

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use full_queue::{LARGEST, POINTER};
use serde_json::json;
use smmuv3_qtest::{qemu, qemu_c, smmu::reg, Builder, Machine};

/// Between two reads of `CMDQ_CONS`, which take the Big QEMU Lock.
const POLL: Duration = Duration::from_micros(200);
/// Pairs if the user names no number.
const PAIRS: usize = 6;

/// A device whose queue is full.
struct Device {
    machine: Machine,
    base: u64,
    prod: u64,
}

impl Device {
    fn start(builder: Builder) -> Self {
        let machine = builder.smmu("").start();
        let base = full_queue::fill(&machine);
        Self {
            machine,
            base,
            prod: 0,
        }
    }

    /// Returns what the consumption of the whole queue takes.
    fn consume(&mut self) -> Duration {
        self.prod ^= 1 << LARGEST;
        let (qtest, _) = self.machine.connections();
        let start = Instant::now();
        qtest
            .write_value(self.base + reg::CMDQ_PROD, self.prod, 4)
            .expect("QEMU runs");
        loop {
            let cons = qtest
                .read_value(self.base + reg::CMDQ_CONS, 4)
                .expect("QEMU runs");
            if cons & POINTER == self.prod {
                return start.elapsed();
            }
            assert_eq!((cons >> 24) & 0x7f, 0, "CMDQ_CONS.ERR");
            thread::sleep(POLL);
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Returns minimum, median and maximum.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    };
    [values[0], median, values[values.len() - 1]]
}

fn main() {
    let pairs = env::var("PAIRS").map_or(PAIRS, |text| text.parse().expect("PAIRS is a number"));
    assert!(pairs > 0, "PAIRS is 0");
    let mut c = Device::start(Builder::virt(qemu_c()));
    let mut rust = Device::start(Builder::virt(qemu()));
    // The first lap touches what later ones find in caches.
    c.consume();
    rust.consume();
    let measured: Vec<[f64; 2]> = (0..pairs)
        .map(|pair| {
            // C, Rust, Rust, C: a drift affects both alike.
            if pair % 2 == 0 {
                let first = c.consume();
                [milliseconds(first), milliseconds(rust.consume())]
            } else {
                let first = rust.consume();
                [milliseconds(c.consume()), milliseconds(first)]
            }
        })
        .collect();

    println!("A full queue of 2^{LARGEST} TLBIs without acceleration, {pairs} pairs, in ms: minimum, median, maximum.");
    for (name, values) in [
        ("C", measured.iter().map(|pair| pair[0]).collect()),
        ("Rust", measured.iter().map(|pair| pair[1]).collect()),
        (
            "Rust / C",
            measured.iter().map(|pair| pair[1] / pair[0]).collect(),
        ),
    ] {
        let [low, median, high] = spread(values);
        println!("{name:<8} {low:>8.2} {median:>8.2} {high:>8.2}");
    }
    if let Ok(path) = env::var("BENCH_OUT") {
        let out: Vec<_> = measured
            .iter()
            .map(|pair| json!({ "c_ms": pair[0], "rust_ms": pair[1] }))
            .collect();
        fs::write(path, json!(out).to_string()).expect("BENCH_OUT can be written");
    }
}
