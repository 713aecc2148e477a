// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! vCPUs that do not have the Big QEMU Lock, as under KVM, with a simulated host each of whose calls
//! takes its time: the throughput of unmaps with several vCPUs and SMMUs, and for how long a slow
//! host holds up others.

mod full_queue;

use std::time::{Duration, Instant};

use full_queue::{LARGEST, POINTER};
use serde_json::json;
use smmuv3_qtest::{
    assigned::{vfio_pci, Bench, Setup, EXPLICIT, QUEUE},
    command::{self, SYNC},
    qemu_testbed,
    smmu::{bases, reg},
    until,
    vcpus::{with_vcpus, Vcpu},
    Smmu,
};

/// Modelled duration of a call of the host in microseconds.
const LATENCY: u32 = 50;
/// Unmaps of each vCPU.
const UNMAPS: u64 = 2000;
/// log2 of the entries of each Command queue.
const LOG2SIZE: u32 = 8;
/// Most vCPUs.
const VCPUS: usize = 16;

/// Starts a machine with so many SMMUs, each with an assigned device of its own.
fn machine(smmus: usize) -> Bench {
    let names = ["a", "b", "c", "d"];
    let host: Vec<String> = names.iter().map(|name| format!("smmu {name}")).collect();
    let lines = format!("{}\nlog off", host.join("\n"));
    let mut setup = Setup::of(&qemu_testbed(), &lines)
        .smmu(EXPLICIT)
        .assign("d0", 1);
    for (number, name) in names.iter().enumerate().take(smmus).skip(1) {
        let (bus, device) = (number + 1, format!("d{number}"));
        let fd = setup.spare(&device, name);
        setup = setup
            .device(&format!(
                "pxb-pcie,id=pcie.{bus},bus_nr={},bus=pcie.0",
                16 * number
            ))
            .device(&format!("arm-smmuv3,primary-bus=pcie.{bus},{EXPLICIT}"))
            .device(&format!(
                "pcie-root-port,id=far{number},bus=pcie.{bus},addr=1,chassis={}",
                16 + number
            ))
            .device(&vfio_pci(&device, fd, &format!("far{number}")));
    }
    with_vcpus(setup, VCPUS).start()
}

/// The SMMUs of a machine with their Command queues.
fn queues(bench: &Bench) -> Vec<(u64, u64)> {
    let queue = |number: usize| QUEUE + 0x1_0000 * number as u64;
    let bases = bases(bench.machine()).into_iter().enumerate();
    let queues: Vec<_> = bases.map(|(number, base)| (base, queue(number))).collect();
    for (base, address) in &queues {
        Smmu::at(bench.machine(), *base).setup_queue(*address, LOG2SIZE);
    }
    queues
}

/// Returns the unmaps a second of so many vCPUs, which are spread over the SMMUs.
fn throughput(bench: &Bench, queues: &[(u64, u64)], vcpus: usize) -> f64 {
    let machine = bench.machine();
    let begun: Vec<_> = (0..vcpus)
        .map(|number| {
            let (registers, queue) = queues[number % queues.len()];
            Vcpu::of(machine, number).unmap(registers, queue, LOG2SIZE, UNMAPS)
        })
        .collect();
    let durations = begun.into_iter().map(|action| action.wait(machine));
    let longest = durations.max().expect("a vCPU");
    (UNMAPS * vcpus as u64) as f64 / longest.as_secs_f64()
}

fn scaling() {
    println!("Unmaps a second, a call of the host takes {LATENCY} us: vCPUs by SMMUs");
    println!("{:>8} {:>10} {:>10} {:>10} {:>10}", "SMMUs", 1, 2, 3, 4);
    let mut columns = Vec::new();
    for smmus in 1..=4 {
        let bench = machine(smmus);
        let queues = queues(&bench);
        bench.script(&format!("latency us={LATENCY}"));
        let rates = [1, 2, 4, 8, VCPUS]
            .map(|vcpus| (vcpus >= smmus).then(|| throughput(&bench, &queues, vcpus)));
        columns.push(rates);
        let _ = bench.end_without_statistics();
    }
    for (row, vcpus) in [1, 2, 4, 8, VCPUS].into_iter().enumerate() {
        let cells = columns.iter().map(|rates| {
            rates[row].map_or_else(|| format!("{:>10}", "-"), |rate| format!("{rate:>10.0}"))
        });
        println!("{vcpus:>8} {}", cells.collect::<Vec<_>>().join(" "));
    }
    if let (Some(one), Some(two)) = (columns[0][0], columns[1][1]) {
        println!("two SMMUs with a vCPU each, against one: {:.2}", two / one);
    }
}

/// Prints a duration with the goal that it has.
fn line(what: &str, measured: Duration, goal: u64) {
    let milliseconds = measured.as_secs_f64() * 1000.0;
    println!("{what:<60} {milliseconds:>8.2} ms (goal: < {goal} ms)");
}

/// Returns the longest answer of QMP until `is_over`.
fn longest_answer(bench: &Bench, mut is_over: impl FnMut() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    while !is_over() {
        let begun = Instant::now();
        bench.machine().qmp("query-status", json!({}));
        longest = longest.max(begun.elapsed());
    }
    longest
}

/// Measures others while a call of the host takes a second.
fn hanging() {
    let bench = machine(1);
    let machine = bench.machine();
    let smmu = Smmu::find(machine);
    smmu.setup_queue(QUEUE, LOG2SIZE);
    let hang = || {
        bench.script("latency us=1000000 count=1");
        smmu.push(&[command::tlbi_nh_va(1, 0x1000), SYNC]);
        Vcpu::of(machine, 0).write(smmu.base() + reg::CMDQ_PROD, smmu.prod())
    };
    let doorbell = hang();
    let answer = longest_answer(&bench, || doorbell.is_done(machine));
    line("QMP, while a call of the host takes 1 s", answer, 20);
    let second = hang();
    let mut longest = Duration::ZERO;
    while !second.is_done(machine) {
        let (_, duration) = Vcpu::of(machine, 1).read(0x0901_0000);
        longest = longest.max(duration);
    }
    line(
        "another vCPU's read of the real-time clock meanwhile",
        longest,
        20,
    );
    let _ = bench.end_without_statistics();
}

/// Measures QMP while the largest queue is consumed, with a host that takes no time.
fn full() {
    let bench = machine(1);
    let machine = bench.machine();
    let base = full_queue::fill(machine);
    let prod = 1_u64 << LARGEST;
    let begun = Instant::now();
    let doorbell = Vcpu::of(machine, 0).write(base + reg::CMDQ_PROD, prod as u32);
    let is_over = || u64::from(machine.read32(base + reg::CMDQ_CONS)) & POINTER == prod;
    let answer = longest_answer(&bench, is_over);
    line(
        &format!(
            "QMP, while 2^{LARGEST} TLBIs are consumed in {:.0?}",
            begun.elapsed()
        ),
        answer,
        5,
    );
    doorbell.wait(machine);
    until("the end", || is_over().then_some(()));
    let _ = bench.end_without_statistics();
}

fn main() {
    let parts: [(&str, fn()); 3] = [("scaling", scaling), ("hanging", hanging), ("full", full)];
    // cargo itself adds `--bench`
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            part();
        }
    }
}
