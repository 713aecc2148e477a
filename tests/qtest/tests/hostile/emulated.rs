// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A guest with emulated devices behind an SMMU without accel: the SMMU walks
//! random page tables. The machine is migrated to another QEMU now and then.

use std::{env, fs, path::PathBuf, process, time::Instant};

use serde_json::json;
use smmuv3_qtest::{
    command::{self, Command},
    edu,
    machine::RAM,
    pci, qemu,
    smmu::{reg, EVENTQEN, SMMUEN},
    tables::Allow,
    translated::{Stages, Translated, ASID, VMID},
    until, Access, Builder, Edu, Machine, Random, Smmu,
};

use crate::{
    assigned::BOUND,
    generator::{self, below, once_in, SCRATCH},
    report::Report,
    resources::{Resources, RETURNING},
};

/// The devices. A valid driver sets up the stream of the first.
const SIDS: [u32; 2] = [pci::sid(0, 4), pci::sid(0, 5)];
/// The IOVAs that the driver maps.
const IOVA: u64 = 0x0123_4000;
/// The output addresses, one after the other.
const PAGES: [u64; 2] = [SCRATCH + 0x10_0000, SCRATCH + 0x20_0000];
/// Memory for the driver's tables, up to the random page tables.
const DRIVER: u64 = RAM + 0x10_0000;
/// Bytes that are filled at a time: QEMU keeps a buffer of that size.
const CHUNK: usize = 0x4_0000;
/// `GBPA.Update`, with `ABORT` clear
const BYPASS: u32 = 1 << 31;

/// Registers that are migrated, in the order in which they are compared.
const MOVING: [u64; 18] = [
    reg::CR0,
    reg::CR0ACK,
    reg::CR1,
    reg::CR2,
    reg::GBPA,
    reg::IRQ_CTRL,
    reg::GERROR,
    reg::GERRORN,
    reg::STRTAB_BASE,
    reg::STRTAB_BASE + 4,
    reg::STRTAB_BASE_CFG,
    reg::CMDQ_BASE,
    reg::CMDQ_BASE + 4,
    reg::CMDQ_PROD,
    reg::CMDQ_CONS,
    reg::EVENTQ_BASE,
    reg::EVENTQ_PROD,
    reg::EVENTQ_CONS,
];

fn builder(stages: Stages) -> Builder {
    let stage = stages.property();
    let smmu = Builder::virt(qemu()).device(format!(
        "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,stage={stage},msi=on"
    ));
    let smmu = smmu.env(RETURNING.0, RETURNING.1);
    SIDS.iter().fold(smmu, |builder, sid| {
        builder.device(format!("{},bus=pcie.0,addr={:#x}", edu::DEVICE, sid >> 3))
    })
}

/// Runs one guest.
#[track_caller]
pub fn run(seed: u64, steps: u64, report: &mut Report) {
    let mut random = Random::new(seed);
    let stages = random.of(&[Stages::One, Stages::Two, Stages::Both]);
    let mut machine = builder(stages).start();
    let mut rest = steps;
    while rest > 0 {
        let part = rest.min(20 + below(&mut random, 100));
        Station::new(&machine, stages, &mut random, report).run(part);
        rest -= part;
        if rest > 0 {
            machine = migrated_machine(machine, stages);
            report.migrations += 1;
        }
    }
    let finished = machine.quit();
    assert!(finished.status.success(), "{finished}");
}

/// Returns a file for the state of a machine.
struct State(PathBuf);

impl State {
    fn uri(&self) -> String {
        format!("file:{}", self.0.display())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn registers(machine: &Machine) -> Vec<u32> {
    let smmu = Smmu::find(machine);
    MOVING.iter().map(|offset| smmu.read(*offset)).collect()
}

/// Waits until a migration has completed.
#[track_caller]
fn migrated(machine: &Machine) {
    until("end of the migration", || {
        let answer = machine.qmp("query-migrate", json!({}));
        match answer["status"].as_str() {
            Some("completed") => Some(()),
            Some("failed") => panic!("{answer}\n{}", machine.stderr()),
            _ => None,
        }
    });
}

/// Migrates the machine to another QEMU.
#[track_caller]
fn migrated_machine(source: Machine, stages: Stages) -> Machine {
    let file = State(env::temp_dir().join(format!("hostile-{}", process::id())));
    source.qmp("stop", json!({}));
    let before = registers(&source);
    source.qmp("migrate", json!({ "uri": file.uri() }));
    migrated(&source);
    let finished = source.quit();
    assert!(finished.status.success(), "{finished}");
    let machine = builder(stages).args(["-incoming", "defer"]).start();
    machine.qmp("migrate-incoming", json!({ "uri": file.uri() }));
    migrated(&machine);
    assert_eq!(
        registers(&machine),
        before,
        "registers of a migrated machine"
    );
    machine.qmp("cont", json!({}));
    machine
}

/// The machine in one QEMU.
struct Station<'a> {
    machine: &'a Machine,
    stages: Stages,
    smmu: Smmu<'a>,
    edus: Vec<Edu<'a>>,
    random: &'a mut Random,
    report: &'a mut Report,
}

impl<'a> Station<'a> {
    #[track_caller]
    fn new(
        machine: &'a Machine,
        stages: Stages,
        random: &'a mut Random,
        report: &'a mut Report,
    ) -> Self {
        let smmu = Smmu::find(machine);
        disable(&smmu);
        let edus = (0..)
            .zip(SIDS)
            .map(|(index, sid)| Edu::new(machine, sid, index))
            .collect();
        Self {
            machine,
            stages,
            smmu,
            edus,
            random,
            report,
        }
    }

    #[track_caller]
    fn run(&mut self, steps: u64) {
        self.reset();
        self.settle();
        let before = Resources::of(self.machine);
        for _ in 0..steps {
            self.step();
            self.check();
            self.report.steps += 1;
        }
        self.settle();
        before.return_to(self.machine, 0, self.report);
    }

    #[track_caller]
    fn step(&mut self) {
        let machine = self.machine;
        match below(self.random, 16) {
            0..=2 => generator::write_random_page(machine, self.random),
            3 | 4 => self.write_entries(),
            5..=7 => self.transact(),
            8 | 9 => self.command(),
            10..=12 => self.access(),
            13 => self.settle(),
            14 if once_in(self.random, 3) => self.reset(),
            14 => {
                machine.qmp("stop", json!({}));
                machine.qmp("cont", json!({}));
                self.report.stops += 1;
            }
            _ => self.enable(),
        }
    }

    /// Checks that QEMU answers in time.
    #[track_caller]
    fn check(&mut self) {
        let start = Instant::now();
        assert_eq!(self.machine.status(), "running");
        let silence = start.elapsed();
        assert!(silence < BOUND, "QMP answers after {silence:?}");
        self.report.silence = self.report.silence.max(silence);
    }

    /// Writes STEs for both streams, wherever the Stream table is.
    #[track_caller]
    fn write_entries(&mut self) {
        let base = self.smmu.read64(reg::STRTAB_BASE) & 0x000f_ffff_ffff_ffc0;
        if (RAM..SCRATCH).contains(&base) {
            for sid in SIDS {
                let entry = generator::entry(self.random);
                let bytes: Vec<u8> = entry.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.machine
                    .write_memory(base + 64 * u64::from(sid), &bytes);
            }
        }
    }

    /// Moves the Event queue out of flash memory, where each record makes QEMU
    /// rebuild its memory map. The tens of MiB that wait for RCU then would
    /// hide a leak.
    #[track_caller]
    fn leave_flash(&self) {
        const FLASH_END: u64 = 0x0800_0000;
        let smmu = &self.smmu;
        let base = smmu.read64(reg::EVENTQ_BASE);
        if base & 0x000f_ffff_ffff_ffe0 < FLASH_END {
            smmu.write(reg::CR0, smmu.read(reg::CR0) & !EVENTQEN);
            smmu.write64(reg::EVENTQ_BASE, base | SCRATCH);
            smmu.write(reg::CR0, smmu.read(reg::CR0) | EVENTQEN);
        }
    }

    #[track_caller]
    fn transact(&mut self) {
        self.leave_flash();
        for edu in &self.edus {
            for _ in 0..=below(self.random, 3) {
                let noise = self.random.next();
                let inside = generator::iova(self.random);
                let iova = self.random.of(&[inside, inside, inside, noise & !3]);
                // memory outside of the scratch area must not be written
                let access = if iova == inside {
                    self.random.of(&[Access::Read, Access::Write])
                } else {
                    Access::Read
                };
                edu.access(access, iova);
                self.report.transactions += 1;
            }
        }
    }

    /// Submits commands to a queue that may be misconfigured or stopped.
    #[track_caller]
    fn command(&mut self) {
        let count = 1 + below(self.random, 40);
        let commands: Vec<Command> = (0..count)
            .map(|_| generator::command(self.random))
            .collect();
        self.smmu.acknowledge();
        self.smmu.adopt_queue();
        let base = self.smmu.slot(0);
        let log2size = self.smmu.read(reg::CMDQ_BASE) & 0x1f;
        if (RAM..SCRATCH).contains(&base) && (6..=19).contains(&log2size) {
            self.smmu.push(&commands);
            self.smmu.ring();
            self.report.commands += count;
        }
    }

    #[track_caller]
    fn access(&mut self) {
        let count = 1 + below(self.random, 40);
        for _ in 0..count {
            generator::access(&self.smmu, self.random);
        }
        self.report.accesses += count;
    }

    /// Enables the SMMU and its queues, which random accesses may have
    /// disabled.
    #[track_caller]
    fn enable(&mut self) {
        let smmu = &self.smmu;
        smmu.write(reg::CR0, 0);
        smmu.acknowledge();
        smmu.write64(reg::STRTAB_BASE, DRIVER + 0x20_0000);
        smmu.write(
            reg::STRTAB_BASE_CFG,
            self.random.of(&[12, 12, (1 << 16) | (8 << 6) | 12]),
        );
        smmu.setup_queue(DRIVER, 6 + below(self.random, 3) as u32);
        smmu.enable(SMMUEN | EVENTQEN);
    }

    #[track_caller]
    fn reset(&mut self) {
        self.machine.system_reset();
        self.report.resets += 1;
        for edu in &self.edus {
            edu.program();
        }
    }

    /// Resets the SMMU with a valid driver: translations follow its tables
    /// after each invalidation, and the other device is aborted.
    #[track_caller]
    fn settle(&mut self) {
        disable(&self.smmu);
        for at in (DRIVER..generator::RANDOM_TABLES).step_by(CHUNK) {
            self.machine.fill_memory(at, CHUNK as u64, 0);
        }
        let driver = Translated::new(self.machine, self.stages, SIDS[0]);
        let [good, other] = &self.edus[..] else {
            panic!("two devices");
        };
        let mut places = PAGES;
        if once_in(self.random, 2) {
            places.reverse();
        }
        let tables = driver.input();
        let invalidation = match self.stages {
            Stages::One | Stages::Both => command::tlbi_nh_va(ASID, IOVA),
            Stages::Two => command::tlbi_s2_ipa(VMID, IOVA),
        };
        let invalidation = match self.stages {
            Stages::Both => command::with_vmid(invalidation, VMID),
            _ => invalidation,
        };
        for place in places {
            tables.map(IOVA, place, Allow::ReadWrite);
            driver.submit(&[invalidation]);
            for page in PAGES {
                self.machine.write32(page, 0);
            }
            let word = good.write(IOVA);
            let found = PAGES.map(|page| self.machine.read32(page));
            let wanted = PAGES.map(|page| if page == place { word } else { 0 });
            self.report.lost += u64::from(found != wanted);
            assert_eq!(found, wanted, "{IOVA:#x} leads to {place:#x}");
            other.write(IOVA);
            let still = PAGES.map(|page| self.machine.read32(page));
            assert_eq!(still, wanted, "a stream without an entry");
            self.report.invalidations += 1;
        }
        let abort = [1, 0, 0, 0];
        driver.write_entry(abort);
        driver.submit(&[command::cfgi_ste(SIDS[0])]);
        let before = PAGES.map(|page| self.machine.read32(page));
        good.write(IOVA);
        let after = PAGES.map(|page| self.machine.read32(page));
        assert_eq!(before, after, "an entry that aborts");
        self.report.commands += 6;
        self.report.transactions += 5;
        self.report.checks += 1;
        driver.write_entry(driver.entry());
        driver.submit(&[command::CFGI_ALL]);
    }
}

/// Clears CR0, so that nothing is translated.
fn disable(smmu: &Smmu<'_>) {
    smmu.write(reg::CR0, 0);
    smmu.write(reg::IRQ_CTRL, 0);
    smmu.write(reg::CR2, 0);
    smmu.write(reg::GBPA, BYPASS);
    smmu.acknowledge();
    smmu.write(reg::CMDQ_CONS, 0);
    smmu.write(reg::EVENTQ_PROD, 0);
    smmu.write(reg::EVENTQ_CONS, 0);
}
