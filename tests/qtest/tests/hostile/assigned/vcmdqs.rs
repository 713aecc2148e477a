// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The guest's part with CMDQ virtualization. It uses its queues like a driver,
//! or writes anything anywhere, while the host refuses queues, does not release
//! them, and loses the VINTF with the last device. With `cmdqv=auto` an emulated
//! endpoint comes and goes, beside which no queue is in hardware.

use std::time::Instant;

use serde_json::{json, Value};
use smmuv3_qtest::{
    assigned::{sid, Bench},
    cmdqv::{cerror, reg, Cmdqv, CmdqvHardware, Register, ENABLE, QUEUES, SIZE, SLOT},
    command::{self, Command, SYNC},
    journal::Journal,
    smmu::reg::IDR1,
    Random, Smmu,
};

use super::{World, BOUND, PATIENCE};
use crate::generator::{self, below, once_in};

/// Entries of a queue.
const ENTRIES: u32 = 1 << Cmdqv::LOG2;
/// Commands that a queue gets at once, at most.
const BATCH: u64 = 20;
/// `IDR5.OAS` of the machine, in bits.
const OUTPUT_BITS: u32 = 44;
/// Offsets of the pages of queues.
const PAGES: [u64; 4] = [0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000];
/// Direct registers of queues on page 1.
const DIRECT_PAGE1: u64 = 0x2_0000;
/// The registers of a queue on page 0.
const REGISTERS: [Register; 6] = [
    Register::Cons,
    Register::Prod,
    Register::Config,
    Register::Status,
    Register::Gerror,
    Register::Gerrorn,
];

/// The slot of the emulated endpoint.
pub const ENDPOINT_SLOT: u32 = 4;

/// A queue as the host has it: the guest's address, and bytes.
type Memory = (u64, u64);

/// The queues of the guest.
pub struct Vcmdqs<'a> {
    bench: &'a Bench,
    cmdqv: Cmdqv<'a>,
    /// `IDR1.CMDQS`
    largest: u32,
    /// The guest has initialized its queues like a driver, and written nothing
    /// random since
    is_driven: bool,
    /// Calls for queues that the host has served
    allocated: u64,
    /// Calls for queues that the host has refused
    refused: u64,
    /// Of these, those that were interrupted, and may have been repeated
    interrupted: u64,
    /// Queues that the host has destroyed
    released: u64,
    /// Whether emulated endpoints may come
    permits_endpoint: bool,
    /// Number of the emulated endpoint that is plugged in, and of those that were
    endpoint: Option<u64>,
    endpoints: u64,
}

impl<'a> Vcmdqs<'a> {
    #[track_caller]
    pub fn of(bench: &'a Bench, smmu: &Smmu<'_>, permits_endpoint: bool) -> Self {
        Self {
            bench,
            cmdqv: Cmdqv::find(bench.machine()),
            largest: (smmu.read(IDR1) >> 21) & 31,
            is_driven: false,
            allocated: 0,
            refused: 0,
            interrupted: 0,
            released: 0,
            permits_endpoint,
            endpoint: None,
            endpoints: 0,
        }
    }

    /// Plugs in an emulated endpoint, or unplugs it, and returns a description.
    #[track_caller]
    fn change_endpoint(&mut self) -> String {
        let is_plugged = self.endpoint.is_some();
        if is_plugged {
            self.remove_endpoint();
        } else {
            self.endpoints += 1;
            let name = format!("e{}", self.endpoints);
            let device =
                json!({ "driver": "edu", "id": name, "bus": format!("slot{ENDPOINT_SLOT}") });
            self.bench.machine().qmp("device_add", device);
            self.endpoint = Some(self.endpoints);
        }
        format!(
            "an emulated endpoint, {}",
            if is_plugged { "gone" } else { "plugged in" }
        )
    }

    /// Unplugs the emulated endpoint, if there is one.
    #[track_caller]
    pub fn remove_endpoint(&mut self) {
        if let Some(number) = self.endpoint.take() {
            self.bench.unplug(&format!("e{number}"), ENDPOINT_SLOT);
        }
    }

    /// Counts the host's calls since the mark.
    #[track_caller]
    pub fn observe(&mut self, journal: &Journal) {
        for call in journal.calls("HW_QUEUE_ALLOC") {
            self.allocated += u64::from(call.result() == "ok");
            self.refused += u64::from(call.result() != "ok");
            self.interrupted += u64::from(["EINTR", "EAGAIN"].contains(&call.result()));
        }
        let changes = journal.queue_changes();
        let gone = changes.iter().filter(|change| change.starts_with("gone"));
        self.released += gone.count() as u64;
    }

    /// Returns whether VINTF 0 is enabled.
    fn is_enabled(&self) -> bool {
        self.cmdqv.read(reg::CONFIG) & self.cmdqv.read(reg::VINTF_CONFIG) & ENABLE != 0
    }

    /// Returns the global queue that is queue `slot` of VINTF 0.
    fn queue_of(&self, slot: u32) -> Option<u64> {
        (0..u64::from(QUEUES)).find(|queue| {
            let entry = self.cmdqv.read(reg::CMDQ_ALLOC_MAP + 4 * queue);
            let (vintf, lvcmdq) = ((entry >> 15) & 0x3f, (entry >> 1) & 0x7f);
            entry & 1 != 0 && vintf == 0 && lvcmdq == slot
        })
    }

    /// Returns the queue that the registers ask for.
    fn wanted(&self, slot: u32) -> Option<Memory> {
        let queue = self.queue_of(slot).filter(|_| self.is_enabled())?;
        let at = self.cmdqv.base() + DIRECT_PAGE1 + SLOT * queue;
        let base = self.bench.machine().read64(at);
        let (address, log2) = (base & 0xffff_ffff_ffe0, (base & 31) as u32);
        let length = command::BYTES << log2;
        let is_valid = log2 <= self.largest
            && address != 0
            && address % length == 0
            && address >> OUTPUT_BITS == 0;
        is_valid.then_some((address, length))
    }

    fn statistics(&self) -> Value {
        let machine = self.bench.machine();
        let path = machine.smmus().remove(0);
        machine.qom_get(&path, "statistics")["cmdqv"].clone()
    }

    /// Compares registers, the host's queues, the guest's view of the page, and
    /// statistics.
    #[track_caller]
    pub fn check(&self) {
        let statistics = self.statistics();
        let count = |member: &str| statistics[member].as_u64().expect("a counter");
        let is_stuck = statistics["stuck"].as_bool().expect("a state");
        let hardware = CmdqvHardware::mapped(self.bench);
        let queues = hardware.map_or_else(Vec::new, |hardware| hardware.queues());
        let (mut has_all, mut in_hardware, mut wanted) = (true, 0, 0);
        for slot in 0..QUEUES {
            let wants = self.wanted(slot);
            let has = queues.iter().find(|queue| queue.slot == slot);
            let has = has.map(|queue| (queue.iova, queue.length));
            assert!(
                has.is_none() || has == wants || is_stuck,
                "queue {slot}: the host has {has:x?}, the registers ask for {wants:x?}"
            );
            has_all &= self.queue_of(slot).is_none() || has.is_some();
            in_hardware += u64::from(has.is_some());
            wanted += u64::from(wants.is_some());
        }
        assert!(queues.len() <= QUEUES as usize, "{queues:x?}");
        assert!(
            self.endpoint.is_none() || queues.is_empty() || is_stuck,
            "beside an emulated endpoint: {queues:x?}"
        );
        let executed = count("in-hardware") + count("in-software");
        assert_eq!(executed, wanted, "{statistics}");
        assert!(
            count("in-hardware") == in_hardware || is_stuck,
            "{statistics}"
        );
        let is_shown = self.is_enabled() && has_all && in_hardware > 0 && !is_stuck;
        assert_eq!(self.cmdqv.page_is_enabled(), is_shown, "{queues:x?}");
        assert_eq!(count("allocations"), self.allocated, "{statistics}");
        let refused = self.refused - self.interrupted..=self.refused;
        assert!(refused.contains(&count("refused")), "{statistics}");
        // those of a VINTF without a device are not counted
        assert!(count("releases") <= self.released, "{statistics}");
        assert!(
            count("allocations") - count("releases") >= in_hardware,
            "{statistics}"
        );
    }

    /// Checks that every queue is in hardware, and the page is the guest's.
    #[track_caller]
    fn expect_hardware(&self) {
        let statistics = self.statistics();
        if self.endpoint.is_some() {
            assert_eq!(statistics["in-software"], u64::from(QUEUES), "{statistics}");
            return;
        }
        if statistics["postponed"].as_u64() > Some(0) {
            // on a machine so busy that a release took 100 ms
            return;
        }
        assert_eq!(statistics["in-hardware"], u64::from(QUEUES), "{statistics}");
        assert!(self.cmdqv.page_is_enabled(), "{statistics}");
    }

    /// Returns an offset, more often that of a register with effects.
    fn offset(random: &mut Random) -> u64 {
        match below(random, 6) {
            0 => random.next() % SIZE,
            1 => random.of(&[
                reg::CONFIG,
                reg::VINTF_CONFIG,
                reg::VINTF_CONFIG,
                reg::VI_INT_MASK,
                reg::CMDQ_ALLOC_MAP,
                reg::CMDQ_ALLOC_MAP + 4,
            ]),
            2 => below(random, 0x1100),
            _ => {
                let page = random.of(&PAGES);
                page + SLOT * below(random, 3) + 4 * below(random, 6)
            }
        }
    }

    fn value(&self, random: &mut Random) -> u64 {
        let noise = random.next();
        match below(random, 6) {
            0 => noise,
            1 => noise & 0x1f,
            2 => u64::from(Cmdqv::allocation(below(random, 2) as u32)),
            3 | 4 => {
                let slot = below(random, 4) as u32;
                Cmdqv::ring(slot) | below(random, 10)
            }
            _ => {
                // a queue in the registers themselves
                let own = self.cmdqv.base() + random.of(&PAGES) + 8;
                random.of(&[u64::MAX, 0, 1, generator::SCRATCH | 8, 0x0900_0008, own])
            }
        }
    }

    /// Makes random accesses, and initializes the queues, while every call of
    /// the host fails.
    #[track_caller]
    pub fn access_lost(&self, random: &mut Random) {
        self.cmdqv.boot();
        (0..40).for_each(|_| self.access(random));
    }

    /// Makes a register access of random size.
    #[track_caller]
    fn access(&self, random: &mut Random) {
        let machine = self.bench.machine();
        let size = random.of(&[4, 4, 4, 8, 8, 8, 1, 2]);
        let mut at = Self::offset(random);
        if !once_in(random, 16) {
            at &= !(u64::from(size) - 1);
        }
        let address = self.cmdqv.base() + at.min(SIZE - u64::from(size));
        if once_in(random, 4) {
            machine.read_sized(address, size);
        } else {
            machine.write_sized(address, self.value(random), size);
        }
    }
}

/// Returns the number of a queue in the ledger.
const fn ledger(slot: u32) -> usize {
    slot as usize + 1
}

impl World<'_> {
    /// Makes a random operation with CMDQ virtualization, if the SMMU has it.
    #[track_caller]
    pub fn vcmdq_operation(&mut self) {
        let Some(vcmdqs) = self.vcmdqs.as_ref() else {
            return;
        };
        let is_driven = vcmdqs.is_driven;
        match below(&mut self.random, 8) {
            0 => self.access_vcmdqs(),
            1 => self.write_page(),
            2..=4 if is_driven => self.use_vcmdq(),
            5 if is_driven => self.toggle_vintf(),
            6 if is_driven => {
                self.note("the hardware runs".into());
                self.run_hardware();
            }
            7 if once_in(&mut self.random, 2) => self.report_vcmdq_errors(),
            7 => self.change_endpoint(),
            _ => self.boot_vcmdqs(),
        }
    }

    /// Plugs in or unplugs an emulated endpoint, if the machine may have one.
    #[track_caller]
    fn change_endpoint(&mut self) {
        let vcmdqs = self.vcmdqs.as_mut();
        if let Some(vcmdqs) = vcmdqs.filter(|vcmdqs| vcmdqs.permits_endpoint) {
            let text = vcmdqs.change_endpoint();
            self.note(text);
            self.report.endpoints += 1;
            if self.model.failing {
                self.model.degrade();
            }
        }
    }

    /// Drops the record of the commands in the queues, because the guest has overwritten their registers.
    pub fn abandon_vcmdqs(&mut self) {
        if let Some(vcmdqs) = self.vcmdqs.as_mut() {
            vcmdqs.is_driven = false;
            (0..QUEUES).for_each(|slot| self.ledger.drop_queue(ledger(slot)));
        }
    }

    /// Makes random accesses to the registers.
    #[track_caller]
    pub fn access_vcmdqs(&mut self) {
        self.abandon_vcmdqs();
        let Some(vcmdqs) = self.vcmdqs.as_ref() else {
            return;
        };
        let accesses = 1 + below(&mut self.random, 40);
        for _ in 0..accesses {
            vcmdqs.access(&mut self.random);
        }
        self.report.accesses += accesses;
        self.note(format!("{accesses} random accesses to CMDQV"));
        if self.model.failing {
            self.model.degrade();
        }
    }

    /// Writes random values where the hardware's registers are.
    #[track_caller]
    fn write_page(&mut self) {
        self.abandon_vcmdqs();
        let Some(hardware) = CmdqvHardware::mapped(self.bench) else {
            return;
        };
        for _ in 0..1 + below(&mut self.random, 8) {
            let slot = below(&mut self.random, QUEUES.into()) as u32;
            let register = self.random.of(&REGISTERS);
            hardware.set(slot, register, self.random.next() as u32);
        }
        self.note("the page is random".into());
    }

    /// Initializes the queues like a driver. Without host faults all are in
    /// hardware then.
    #[track_caller]
    fn boot_vcmdqs(&mut self) {
        self.abandon_vcmdqs();
        let Some(vcmdqs) = self.vcmdqs.as_mut() else {
            return;
        };
        vcmdqs.cmdqv.boot();
        vcmdqs.is_driven = true;
        if !self.model.failing && CmdqvHardware::mapped(self.bench).is_some() {
            vcmdqs.expect_hardware();
        }
        self.note("the queues of CMDQV are initialized".into());
    }

    /// Disables and enables the VINTF, or the whole CMDQV: its queues leave the
    /// hardware, and continue where they were.
    #[track_caller]
    fn toggle_vintf(&mut self) {
        let Some(vcmdqs) = self.vcmdqs.as_ref() else {
            return;
        };
        let register = self.random.of(&[reg::VINTF_CONFIG, reg::CONFIG]);
        let value = vcmdqs.cmdqv.read(register);
        vcmdqs.cmdqv.write(register, value & !ENABLE);
        vcmdqs.check_off();
        vcmdqs.cmdqv.write(register, value);
        self.note(format!("{register:#x} of CMDQV is toggled"));
        if self.model.failing {
            self.model.degrade();
        }
    }

    /// Lets the hardware execute what it has.
    #[track_caller]
    fn run_hardware(&mut self) {
        let Some(mut hardware) = CmdqvHardware::mapped(self.bench) else {
            return;
        };
        for executed in hardware.step() {
            self.ledger.executed(executed.command);
            self.report.hardware_commands += 1;
        }
    }

    /// Has the host report errors, whether or not there are any.
    #[track_caller]
    fn report_vcmdq_errors(&mut self) {
        let Some(mut hardware) = CmdqvHardware::mapped(self.bench) else {
            return;
        };
        let count = 1 + below(&mut self.random, 4);
        for _ in 0..count {
            hardware.set_sequence(self.random.next() as u32);
            let words = [self.random.next(), self.random.next()];
            let length = below(&mut self.random, 3) as usize;
            let flags = u32::from(once_in(&mut self.random, 5));
            hardware.report_as(flags, &words[..length]);
        }
        self.report.events += count;
        self.note(format!("{count} errors of VCMDQs are reported"));
    }

    /// Submits commands, and waits for them or not.
    #[track_caller]
    fn use_vcmdq(&mut self) {
        let slot = below(&mut self.random, QUEUES.into()) as u32;
        if u64::from(self.ledger.waiting(ledger(slot))) + BATCH + 1 >= ENTRIES.into() {
            self.finish_vcmdq(slot);
        }
        let count = 1 + below(&mut self.random, BATCH);
        let mut commands: Vec<Command> = (0..count).map(|_| self.ledger.fresh()).collect();
        if once_in(&mut self.random, 4) {
            let at = below(&mut self.random, count) as usize;
            commands[at] = match below(&mut self.random, 3) {
                0 => command::atc_inv_all(sid(1)),
                1 => SYNC,
                _ => generator::command(&mut self.random),
            };
        }
        commands.push(SYNC);
        let Some(vcmdqs) = self.vcmdqs.as_ref() else {
            return;
        };
        let prod = vcmdqs.cmdqv.get(slot, Register::Prod);
        for (number, command) in (prod..).zip(&commands) {
            let pointer = number % (2 * ENTRIES);
            self.ledger.queued(ledger(slot), pointer, *command);
        }
        vcmdqs.cmdqv.submit(slot, &commands);
        self.report.commands += commands.len() as u64;
        let waits = once_in(&mut self.random, 2);
        self.note(format!("{count} commands in VCMDQ {slot}, waits: {waits}"));
        if self.model.failing {
            self.model.degrade();
        }
        if waits {
            self.finish_vcmdq(slot);
        }
    }

    /// Waits until a queue is empty, and handles errors like a driver. Every
    /// invalidation that its index has passed must have been executed.
    #[track_caller]
    fn finish_vcmdq(&mut self, slot: u32) {
        let begun = Instant::now();
        let mut errors = 0;
        loop {
            self.run_hardware();
            let Some(vcmdqs) = self.vcmdqs.as_ref() else {
                return;
            };
            let is_error = vcmdqs.cmdqv.error(slot);
            let prod = vcmdqs.cmdqv.get(slot, Register::Prod);
            let cons = vcmdqs.cmdqv.get(slot, Register::Cons);
            let (index, code) = (cons & (2 * ENTRIES - 1), cons >> 24);
            self.observe();
            let (count, lost) = self.ledger.consumed(ledger(slot), index);
            self.report.invalidations += count;
            self.report.lost += lost;
            assert_eq!(lost, 0, "invalidations of VCMDQ {slot} that were lost");
            if !is_error && index == prod {
                break;
            }
            let waited = begun.elapsed();
            assert!(waited < 3 * BOUND, "VCMDQ {slot} is not consumed");
            if !is_error {
                continue;
            }
            errors += 1;
            assert!(errors < 1000, "VCMDQ {slot} does not resume");
            if errors == PATIENCE {
                self.heal();
            }
            let Some(Vcmdqs { cmdqv, .. }) = &self.vcmdqs else {
                return;
            };
            if [cerror::ILL_OPCODE, cerror::ILL_ACCESS].contains(&code) {
                let at = command::BYTES * u64::from(index % ENTRIES);
                let bytes = command::to_bytes(&[SYNC]);
                let machine = self.bench.machine();
                machine.write_memory(Cmdqv::ring(slot) + at, &bytes);
                self.ledger.replaced(ledger(slot));
            }
            cmdqv.acknowledge(slot);
        }
        self.report.command_errors += errors;
        if errors > 0 {
            self.note(format!("{errors} errors of VCMDQ {slot}"));
            self.model.degrade();
        }
    }
}

impl Vcmdqs<'_> {
    /// Checks that a disabled VINTF has no queue, unless the host keeps it.
    #[track_caller]
    fn check_off(&self) {
        assert!(!self.cmdqv.page_is_enabled(), "of a disabled VINTF");
        let hardware = CmdqvHardware::mapped(self.bench);
        let queues = hardware.map_or_else(Vec::new, |hardware| hardware.queues());
        let statistics = self.statistics();
        assert_eq!(
            statistics["stuck"],
            !queues.is_empty(),
            "{queues:x?}, {statistics}"
        );
    }
}
