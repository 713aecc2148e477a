// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A randomized guest with assigned devices on a simulated host.

use std::{
    os::fd::RawFd,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use smmuv3_qtest::{
    assigned::{prepare, sid, ste, Bench, Ecam, Guest, Setup, EXPLICIT, GBPA_ABORT, QUEUE, TABLE},
    command::{self, Command},
    journal::On,
    machine::RAM,
    smmu::{cerror, reg, CMDQEN, EVENTQEN, SMMUEN},
    until, Random, RootPort, Smmu,
};

mod endpoints;
mod vcmdqs;

use crate::{
    generator::{self, below, once_in},
    host::{self, CALLS, CMDQV_CALLS, CONTRACTS},
    invalidations::{Ledger, COMMAND_QUEUE},
    model::{Model, SLOTS},
    report::Report,
    resources::{Resources, RETURNING},
};
use endpoints::Endpoints;
use vcmdqs::Vcmdqs;

/// Time limit for an answer of QEMU on a busy machine. The simulated host
/// delays calls by some milliseconds.
pub const BOUND: Duration = Duration::from_secs(10);

/// Guest physical address of the Event queue.
const EVENTS: u64 = RAM + 0x80_0000;
/// The root port without a device behind it, which writes to memory itself.
const PORT: u32 = 3;
/// Devices that can be plugged in during one run.
const SPARES: u64 = 100;
/// Successive errors after which host faults are cleared, so that the queue can
/// be consumed.
const PATIENCE: u64 = 8;

/// The operations so far, which are printed on failure.
struct History(Vec<String>);

impl Drop for History {
    fn drop(&mut self) {
        if thread::panicking() {
            let last = self.0.len().saturating_sub(60);
            println!("{}", self.0[last..].join("\n"));
        }
    }
}

struct World<'a> {
    bench: &'a Bench,
    smmu: Smmu<'a>,
    port: RootPort<'a>,
    random: Random,
    model: Model,
    ledger: Ledger,
    report: &'a mut Report,
    history: History,
    spares: Vec<(String, RawFd)>,
    /// Commands that the queue holds
    capacity: u32,
    /// The host does not detach devices
    holds: bool,
    /// A detach has failed: the HWPT of such a device cannot be destroyed
    has_held: bool,
    /// The host may not have released a queue with the last device
    has_kept: bool,
    /// The run is about to end
    ends: bool,
    /// The queues of CMDQ virtualization, if the SMMU has it
    vcmdqs: Option<Vcmdqs<'a>>,
    /// Emulated endpoints, if there are any
    endpoints: Option<Endpoints<'a>>,
    /// Last known attachments
    seen: [On; SLOTS],
}

/// Runs one guest.
#[track_caller]
pub fn run(seed: u64, steps: u64, report: &mut Report) {
    // without ranges of its own, the guest's invalidations are merged into some
    let properties = if seed % 3 == 0 {
        EXPLICIT.replace("ril=on", "ril=off")
    } else {
        EXPLICIT.into()
    };
    run_on("smmu a", &properties, seed, steps, report);
}

/// Runs one guest with CMDQ virtualization.
#[track_caller]
pub fn run_with_cmdqv(seed: u64, steps: u64, report: &mut Report) {
    // with `auto`, the guest may get a device without a VINTF
    let wanted = if seed % 3 == 0 { "auto" } else { "on" };
    let properties = format!("{EXPLICIT},cmdqv={wanted}");
    let host = "smmu a cmdqv=vintfs:63,vcmdqs:1,sids:4,version:1";
    run_on(host, &properties, seed, steps, report);
}

#[track_caller]
fn run_on(host: &str, properties: &str, seed: u64, steps: u64, report: &mut Report) {
    let mut random = Random::new(seed);
    let contract = random.of(&CONTRACTS);
    let script = format!("{host}\ncontract {contract}");
    let mut setup = Setup::on_host(&script, properties)
        .assign("d0", 1)
        .assign("d1", 2)
        .slot(PORT)
        .env(RETURNING.0, RETURNING.1);
    let spares = (0..SPARES.min(4 + steps / 8))
        .map(|number| {
            let name = format!("v{number}");
            let fd = setup.spare(&name, "a");
            (name, fd)
        })
        .collect();
    let has_cmdqv = host.contains("cmdqv");
    // without it, because there would be no queues beside emulated endpoints
    let has_endpoints = !has_cmdqv && (seed / 2) % 2 == 1;
    if has_endpoints {
        setup = endpoints::add(setup);
    }
    let permits_endpoint = has_cmdqv && properties.ends_with("cmdqv=auto");
    if permits_endpoint {
        setup = setup.slot(vcmdqs::ENDPOINT_SLOT);
    }
    let bench = setup.start();
    let smmu = bench.smmu();
    let endpoints = has_endpoints.then(|| Endpoints::of(&bench));
    let vcmdqs = has_cmdqv.then(|| Vcmdqs::of(&bench, &smmu, permits_endpoint));
    let mut world = World {
        port: RootPort::new(bench.machine(), (8 << 8) | (PORT << 3)),
        bench: &bench,
        smmu,
        random,
        model: Model::new(["d0", "d1"]),
        ledger: Ledger::default(),
        report,
        history: History(vec![format!("contract {contract}")]),
        spares,
        capacity: 0,
        holds: false,
        has_held: false,
        has_kept: false,
        ends: false,
        vcmdqs,
        endpoints,
        seen: [On::Nothing; SLOTS],
    };
    // run once through operations that allocate memory for good
    world.unplug(1);
    world.reset();
    let before = world.at_rest();
    let plugged = world.report.plugged;
    for _ in 0..steps {
        world.step();
        world.report.steps += 1;
    }
    world.ends = true;
    if let Some(present) = &mut world.endpoints {
        present.leave();
    }
    if let Some(present) = &mut world.vcmdqs {
        present.remove_endpoint();
    }
    world.reset();
    world.leave_host();
    let (_, after) = world.at_rest();
    let plugged = world.report.plugged - plugged;
    before.0.return_to(bench.machine(), plugged, world.report);
    if !world.has_held && !world.has_kept {
        assert_eq!(after, before.1, "objects that the host is left with");
    }
    let is_host_lost = once_in(&mut world.random, 2);
    if is_host_lost {
        world.lose_host();
    }
    world.report.ranges += world.ledger.ranges();
    drop(world);
    if is_host_lost {
        // the host does not log calls on files that it has lost
        bench.end_without_statistics();
    } else {
        bench.end();
    }
}

impl World<'_> {
    /// Returns to the initial state and returns the resources in use.
    #[track_caller]
    fn at_rest(&mut self) -> (Resources, Vec<(String, usize)>) {
        self.settle();
        for slot in 0..SLOTS {
            if self.model.device(slot).is_none() {
                self.plug(slot);
            }
        }
        self.model.table = [ste::FIRST, ste::SECOND];
        self.settle();
        self.check();
        let journal = self.bench.journal();
        let objects = journal.objects().into_iter();
        let objects = objects.map(|(kind, count)| (kind.to_owned(), count));
        (Resources::of(self.bench.machine()), objects.collect())
    }

    /// Gives all devices back with CMDQ virtualization: then the host has
    /// nothing of this guest's, not even what it did not release before.
    #[track_caller]
    fn leave_host(&mut self) {
        if self.vcmdqs.is_none() {
            return;
        }
        for slot in 0..SLOTS {
            self.unplug(slot);
        }
        self.bench.machine().system_reset();
        if !self.has_held {
            let journal = self.bench.journal();
            let mut objects = journal.objects();
            if self.has_kept {
                // VFIO's, which it tries to destroy once, when the queue is there
                objects.retain(|kind, _| !["s2", "ioas"].contains(kind));
            }
            assert!(objects.is_empty(), "without devices: {objects:?}");
        }
        self.reset();
    }

    #[track_caller]
    fn step(&mut self) {
        if self.vcmdqs.is_some() && once_in(&mut self.random, 2) {
            self.vcmdq_operation();
            self.check();
            return;
        }
        match below(&mut self.random, 24) {
            0..=2 => self.write_entry(),
            3..=6 => self.configure(),
            7 => self.configure_all(),
            8 => self.toggle(),
            9 => self.bypass_or_abort(),
            10..=12 => self.invalidate(),
            13 | 14 => self.noise(),
            15 | 16 => self.fail(),
            17 => self.heal(),
            18 => self.swap(),
            19 => self.reset_function(),
            20 => self.run_random(),
            21 if once_in(&mut self.random, 3) => self.reset(),
            22 if self.endpoints.is_some() => (0..4).for_each(|_| self.make_transaction()),
            _ => self.random_operation(),
        }
        self.check();
    }

    /// Makes a random operation that is possible in any state of registers and
    /// tables.
    #[track_caller]
    fn random_operation(&mut self) {
        let slot = below(&mut self.random, SLOTS as u64) as usize;
        match below(&mut self.random, 8) {
            0 | 1 if self.model.device(slot).is_some() => self.unplug(slot),
            0..=2 if self.model.device(slot).is_none() => self.plug(slot),
            3 | 4 => {
                let count = host::report_events(self.bench, &mut self.random);
                self.note(format!("{count} events"));
                self.report.events += count;
            }
            5 => self.pause(),
            6 => {
                generator::write_random_page(self.bench.machine(), &mut self.random);
                self.note("random page tables".into());
            }
            _ => self.make_transaction(),
        }
    }

    /// Has a device make a transaction that is translated in software.
    #[track_caller]
    fn make_transaction(&mut self) {
        self.report.transactions += 1;
        if self.endpoints.is_none() || once_in(&mut self.random, 4) {
            let iova = generator::iova(&mut self.random);
            self.port.write(iova);
            self.note(format!("the root port writes to {iova:#x}"));
        } else if let Some(endpoints) = &mut self.endpoints {
            let (text, is_change) = endpoints.operate(&self.smmu, &mut self.random);
            self.report.endpoints += u64::from(is_change);
            self.note(text);
        }
    }

    fn note(&mut self, what: String) {
        self.history.0.push(what);
    }

    /// Checks the attachments and the log of the host.
    #[track_caller]
    fn check(&mut self) {
        let start = Instant::now();
        self.bench.machine().status();
        let silence = start.elapsed();
        assert!(silence < BOUND, "QMP answers after {silence:?}");
        self.report.silence = self.report.silence.max(silence);
        self.observe();
        for slot in 0..SLOTS {
            let Some(name) = self.model.device(slot) else {
                continue;
            };
            let mut on = self.attachment(name);
            if self.model.random_state {
                assert_ne!(on, On::Stage2, "{name} has the guest's memory");
            } else {
                let allowed = self.model.allowed(slot);
                if matches!(on, On::Abort | On::Nothing) && !allowed.contains(&on) {
                    // blocked, and retried after a delay that depends on how long the
                    // host's last failure took: on a busy machine that can be long
                    let deadline = Instant::now() + BOUND;
                    while !allowed.contains(&on) && Instant::now() < deadline {
                        thread::sleep(Duration::from_millis(5));
                        on = self.attachment(name);
                    }
                }
                let held = self.holds && on == self.seen[slot];
                assert!(
                    allowed.contains(&on) || held,
                    "{name} is on {on:?}, not {allowed:?}"
                );
                self.report.checks += u64::from(allowed.len() == 1);
            }
            self.seen[slot] = on;
        }
        if let Some(vcmdqs) = &self.vcmdqs {
            vcmdqs.check();
        }
    }

    /// Returns what a device is attached to.
    #[track_caller]
    fn attachment(&self, name: &str) -> On {
        let device = self.bench.journal().device(name);
        device.map_or_else(|| panic!("{name} is not in the host"), |device| device.on)
    }

    /// Records the host's actions.
    #[track_caller]
    fn observe(&mut self) {
        let journal = self.bench.journal();
        let mut devices = (0..SLOTS).filter_map(|slot| self.model.device(slot));
        let is_use = devices.any(|name| {
            let device = journal.device(name);
            device.is_some_and(|device| matches!(device.on, On::Nested(_)))
        });
        self.ledger.observe(&journal, is_use);
        if let Some(vcmdqs) = &mut self.vcmdqs {
            vcmdqs.observe(&journal);
        }
        if self.model.failing {
            self.report.failures += journal.failures() as u64;
        }
        drop(journal);
        self.bench.mark();
    }

    /// Pushes commands into the queue, which has room for them.
    #[track_caller]
    fn push(&mut self, commands: &[Command]) {
        for (number, command) in (0..).zip(commands) {
            let pointer = (self.smmu.prod() + number) % (2 * self.capacity);
            self.ledger.queued(COMMAND_QUEUE, pointer, *command);
        }
        self.smmu.push(commands);
        self.report.commands += commands.len() as u64;
    }

    /// Returns how many commands fit into the queue besides a `CMD_SYNC`.
    fn room(&self) -> u64 {
        (self.capacity - self.ledger.waiting(COMMAND_QUEUE))
            .saturating_sub(1)
            .into()
    }

    /// Waits until the queue has room for `count` commands.
    #[track_caller]
    fn make_room(&mut self, count: u64) {
        if self.room() < count {
            self.finish();
        }
    }

    /// Consumes the queue like a driver that handles errors: replaces illegal
    /// commands and retries aborted ones. Returns the number of errors.
    #[track_caller]
    fn finish(&mut self) -> u64 {
        self.push(&[command::SYNC]);
        self.smmu.ring();
        let mut errors = 0;
        loop {
            let smmu = &self.smmu;
            let error = until("end of the queue, or an error", || {
                let error = smmu.error();
                (error || smmu.cons() == smmu.prod()).then_some(error)
            });
            let cons = smmu.cons();
            self.observe();
            let (count, lost) = self.ledger.consumed(COMMAND_QUEUE, cons);
            self.report.invalidations += count;
            self.report.lost += lost;
            assert_eq!(lost, 0, "invalidations that the host has not executed");
            if !error {
                break;
            }
            errors += 1;
            assert!(errors < 1000, "the queue does not resume");
            if errors == PATIENCE {
                self.heal();
            }
            if self.smmu.cons_err() == cerror::ILL {
                self.smmu.write_slots(cons, &[command::SYNC]);
                self.ledger.replaced(COMMAND_QUEUE);
            }
            self.smmu.acknowledge();
        }
        self.report.command_errors += errors;
        if errors > 0 {
            self.note(format!("{errors} command errors"));
        }
        errors
    }

    /// Submits a configuration command and applies `then` to the model.
    #[track_caller]
    fn configuring(&mut self, command: Command, then: impl FnOnce(&mut Model)) {
        self.make_room(1);
        self.push(&[command]);
        let failing = self.model.failing;
        let errors = self.finish();
        then(&mut self.model);
        if failing || errors > 0 {
            self.model.degrade();
        }
    }

    fn any_entry(&mut self) -> [u64; 2] {
        match below(&mut self.random, 8) {
            0 => ste::INVALID,
            1 => ste::ABORT,
            2 => ste::BYPASS,
            3 => ste::STAGE2,
            page => ste::stage1(generator::RANDOM_TABLES + 0x1000 * page),
        }
    }

    #[track_caller]
    fn write_entry(&mut self) {
        let number = below(&mut self.random, SLOTS as u64) as usize;
        let entry = self.any_entry();
        self.smmu.write_ste(sid(number as u32 + 1), entry);
        self.model.table[number] = entry;
        self.note(format!("STE {:#x} = {entry:x?}", sid(number as u32 + 1)));
        if self.model.failing {
            // after a host failure the STE may be read at any time
            self.model.degrade();
        }
    }

    #[track_caller]
    fn configure(&mut self) {
        let number = below(&mut self.random, SLOTS as u64) as usize;
        let stream = sid(number as u32 + 1);
        self.note(format!("CFGI_STE {stream:#x}"));
        self.configuring(command::cfgi_ste(stream), |model| model.configure(number));
    }

    #[track_caller]
    fn configure_all(&mut self) {
        self.note("CFGI_ALL".into());
        self.configuring(command::CFGI_ALL, Model::configure_all);
    }

    #[track_caller]
    fn toggle(&mut self) {
        if self.model.enabled {
            self.smmu.disable(SMMUEN);
            self.model.enabled = false;
        } else {
            self.smmu.enable(SMMUEN);
            self.model.enable();
        }
        if self.model.failing {
            self.model.degrade();
        }
        self.note(format!("SMMUEN={}", self.model.enabled));
    }

    #[track_caller]
    fn bypass_or_abort(&mut self) {
        self.model.gbpa_abort = once_in(&mut self.random, 2);
        let abort = if self.model.gbpa_abort { GBPA_ABORT } else { 0 };
        self.smmu.gbpa(abort);
        if self.model.failing {
            self.model.degrade();
        }
        self.note(format!("GBPA.ABORT={}", self.model.gbpa_abort));
    }

    /// Submits invalidations, with or without a `CMD_SYNC`.
    #[track_caller]
    fn invalidate(&mut self) {
        let wanted = 1 + below(&mut self.random, 150);
        self.make_room(wanted);
        let count = wanted.min(self.room());
        let mut commands: Vec<Command> = (0..count).map(|_| self.ledger.fresh()).collect();
        if once_in(&mut self.random, 5) {
            let at = below(&mut self.random, count) as usize;
            commands[at] = self.random.of(&[
                command::RESERVED,
                command::SYNC,
                command::of(0xff),
                command::atc_inv_all(sid(1)),
                command::cfgi_cd_all(sid(2)),
            ]);
        }
        self.push(&commands);
        let waits = once_in(&mut self.random, 2);
        self.note(format!("{count} invalidations, waited for: {waits}"));
        let failing = self.model.failing;
        if waits {
            self.finish();
        } else {
            self.smmu.ring();
            if once_in(&mut self.random, 2) {
                self.bench.machine().clock_step(20_000_000);
            }
        }
        if failing {
            self.model.degrade();
        }
    }

    /// Submits random commands.
    #[track_caller]
    fn noise(&mut self) {
        self.make_room(8);
        let count = self.room().min(8);
        let commands: Vec<Command> = (0..count)
            .flat_map(|_| [generator::command(&mut self.random), self.ledger.fresh()])
            .take(count as usize)
            .collect();
        let text = format!("commands {commands:x?}");
        self.note(text);
        self.push(&commands);
        self.finish();
        // the model does not decode these commands
        self.configure_all();
    }

    #[track_caller]
    fn fail(&mut self) {
        let is_of_cmdqv = self.vcmdqs.is_some() && once_in(&mut self.random, 2);
        let calls: &[&str] = if is_of_cmdqv { &CMDQV_CALLS } else { &CALLS };
        let line = host::failure(&mut self.random, calls);
        self.bench.script(&line);
        self.model.failing = true;
        self.model.degrade();
        if line.starts_with("fail DETACH") {
            self.holds = true;
            self.has_held = true;
        }
        // it is tried once, unless it is that of a queue
        self.has_held |= line.starts_with("fail DESTROY kind=cmdqv-viommu");
        self.has_kept |= line.starts_with("fail DESTROY kind=hwqueue");
        self.note(line);
    }

    #[track_caller]
    fn heal(&mut self) {
        self.bench.script("clear");
        self.model.failing = false;
        self.note("host faults cleared".into());
    }

    #[track_caller]
    fn swap(&mut self) {
        self.model.swap();
        self.number_buses();
        self.note("bus numbers swapped".into());
    }

    #[track_caller]
    fn number_buses(&self) {
        self.bench.number_buses();
        let ecam = Ecam::of(self.bench.machine());
        for slot in 0..SLOTS {
            let bus = sid(self.model.entry(slot) as u32 + 1) >> 8;
            ecam.number(8, (slot as u32 + 1) << 3, bus);
        }
    }

    #[track_caller]
    fn reset_function(&mut self) {
        let slot = below(&mut self.random, SLOTS as u64) as usize;
        if self.model.device(slot).is_none() {
            return;
        }
        let ecam = Ecam::of(self.bench.machine());
        ecam.power_on(8, (slot as u32 + 1) << 3);
        let stream = sid(self.model.entry(slot) as u32 + 1);
        ecam.function_level_reset(stream >> 8, 0);
        self.note(format!("the function {stream:#x} is reset"));
    }

    #[track_caller]
    fn pause(&mut self) {
        let machine = self.bench.machine();
        machine.qmp("stop", json!({}));
        for _ in 0..below(&mut self.random, 3) {
            assert_eq!(machine.status(), "paused");
        }
        machine.qmp("cont", json!({}));
        self.report.stops += 1;
        self.note("stop, cont".into());
    }

    #[track_caller]
    fn unplug(&mut self, slot: usize) {
        let Some(name) = self.model.device(slot).map(str::to_owned) else {
            return;
        };
        self.bench.unplug(&name, slot as u32 + 1);
        self.model.unplug(slot);
        let on = self.bench.journal().device(&name).map(|device| device.on);
        assert_eq!(on, Some(On::Nothing), "{name} is unplugged");
        self.report.unplugged += 1;
        self.note(format!("{name} is unplugged from slot {}", slot + 1));
    }

    #[track_caller]
    fn plug(&mut self, slot: usize) {
        // the last are for the end of the run, without host faults
        let reserve = if self.ends { 0 } else { SLOTS };
        if self.spares.len() <= reserve {
            return;
        }
        let (name, fd) = self.spares.pop().expect("a spare device");
        let result = self.bench.plug(&name, fd, slot as u32 + 1);
        self.note(format!("{name} into slot {}: {result:?}", slot + 1));
        if result.is_ok() {
            self.model.plug(slot, &name);
            self.report.plugged += 1;
        } else {
            assert!(
                self.model.failing || self.model.random_state,
                "{name}: {result:?}"
            );
            self.model.refuse();
            let on = self.bench.journal().device(&name).map(|device| device.on);
            assert!(
                matches!(on, None | Some(On::Nothing)),
                "{name} is on {on:?}"
            );
        }
    }

    /// Makes random accesses and commands for a while.
    #[track_caller]
    fn run_random(&mut self) {
        self.note("random accesses".into());
        self.model.random_state = true;
        self.ledger.drop_queue(COMMAND_QUEUE);
        for _ in 0..=below(&mut self.random, 6) {
            let machine = self.bench.machine();
            match below(&mut self.random, 4) {
                0 => {
                    let commands: Vec<Command> = (0..256)
                        .map(|_| generator::command(&mut self.random))
                        .collect();
                    let place = generator::RANDOM_TABLES + (below(&mut self.random, 16) << 12);
                    machine.write_memory(place, &command::to_bytes(&commands));
                }
                1 => {
                    for stream in [sid(1), sid(2)] {
                        let entry = generator::entry(&mut self.random);
                        let bytes: Vec<u8> =
                            entry.iter().flat_map(|word| word.to_le_bytes()).collect();
                        machine.write_memory(TABLE + 64 * u64::from(stream), &bytes);
                    }
                }
                2 => self.fail(),
                _ => self.random_operation(),
            }
            let accesses = below(&mut self.random, 60);
            for _ in 0..accesses {
                generator::access(&self.smmu, &mut self.random);
            }
            self.report.accesses += accesses;
            if once_in(&mut self.random, 3) {
                self.access_vcmdqs();
            }
            self.check();
        }
        self.settle();
    }

    #[track_caller]
    fn reset(&mut self) {
        self.bench.machine().system_reset();
        self.note("system_reset".into());
        self.report.resets += 1;
        if let Some(endpoints) = &self.endpoints {
            endpoints.program();
        }
        self.model.reset();
        self.ledger.drop_queue(COMMAND_QUEUE);
        self.abandon_vcmdqs();
        self.check();
        self.settle();
    }

    /// Loses the host's files one after the other; the guest keeps running.
    #[track_caller]
    fn lose_host(&mut self) {
        let devices = (0..SLOTS).filter_map(|slot| self.model.device(slot));
        let mut files: Vec<String> = devices.map(str::to_owned).collect();
        files.push("iommufd0".into());
        self.model.failing = true;
        self.model.random_state = true;
        self.access_vcmdqs();
        // the host does not log what it is asked from now on
        let vcmdqs = self.vcmdqs.take();
        while !files.is_empty() {
            let number = below(&mut self.random, files.len() as u64) as usize;
            let name = files.swap_remove(number);
            let errno = self.random.of(&["EBADF", "ENODEV", "EIO"]);
            self.bench.script(&format!("lose {name} errno={errno}"));
            self.note(format!("{name} is lost"));
            self.report.lost_files += 1;
            self.invalidate_on_failing_host();
            for _ in 0..4 {
                self.random_operation();
                self.check();
            }
        }
        for _ in 0..20 {
            generator::access(&self.smmu, &mut self.random);
        }
        self.report.accesses += 20;
        if let Some(vcmdqs) = vcmdqs {
            vcmdqs.access_lost(&mut self.random);
        }
        self.bench.machine().system_reset();
        self.check();
    }

    /// Submits invalidations, of which none may complete that the host has not
    /// executed.
    #[track_caller]
    fn invalidate_on_failing_host(&mut self) {
        let commands = [(); 3].map(|()| self.ledger.fresh());
        self.ledger.drop_queue(COMMAND_QUEUE);
        self.smmu.disable(CMDQEN);
        self.smmu.setup_queue(QUEUE, 4);
        self.push(&[&commands[..], &[command::SYNC]].concat());
        self.smmu.ring();
        until("end of the queue, or an error", || {
            (self.smmu.error() || self.smmu.cons() == self.smmu.prod()).then_some(())
        });
        self.observe();
        let (count, lost) = self.ledger.consumed(COMMAND_QUEUE, self.smmu.cons());
        self.report.invalidations += count;
        self.report.lost += lost;
        assert_eq!(lost, 0, "invalidations that a lost host has not executed");
        self.smmu.acknowledge();
    }

    /// Clears host faults and initializes the SMMU like a driver, so that the
    /// model is exact again.
    #[track_caller]
    fn settle(&mut self) {
        self.heal();
        let smmu = &self.smmu;
        smmu.write(reg::CR0, 0);
        smmu.write(reg::IRQ_CTRL, 0);
        smmu.write(reg::CR2, 0);
        smmu.acknowledge();
        self.model.enabled = false;
        self.number_buses();
        self.port.program();
        prepare(&self.smmu, QUEUE, TABLE);
        // IDR1.CMDQS is smaller with CMDQ virtualization
        let largest = (self.smmu.read(reg::IDR1) >> 21) & 31;
        let log2size = (3 + below(&mut self.random, 7) as u32).min(largest);
        self.smmu.setup_queue(QUEUE, log2size);
        self.capacity = 1 << log2size;
        self.ledger.drop_queue(COMMAND_QUEUE);
        for (number, entry) in (1..).zip(self.model.table) {
            self.smmu.write_ste(sid(number), entry);
        }
        self.bypass_or_abort();
        self.smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
        self.smmu.write(reg::EVENTQ_PROD, 0);
        self.smmu.write(reg::EVENTQ_CONS, 0);
        self.smmu.enable(SMMUEN | EVENTQEN);
        self.model.enable();
        self.model.random_state = false;
        self.note(format!("settled, a queue of 2^{log2size}"));
        self.push(&[command::CFGI_ALL]);
        let errors = self.finish();
        assert_eq!(errors, 0, "a driver that does nothing wrong");
        self.model.configure_all();
        self.holds = false;
        self.check();
    }
}
