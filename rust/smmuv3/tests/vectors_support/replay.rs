// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Executes a vector's lines and compares the results.

use smmuv3::{Features, FlushPolicy};

use super::notation::{Checkpoint, Register, Step, Vector};
use crate::common::{vector_features, Machine};

pub fn replay(vector: &Vector<'_>) {
    let mut replay = Replay::start(vector);
    let mut checks = 0;
    for step in &vector.steps {
        checks += u32::from(matches!(
            step,
            Step::Read(..) | Step::Peek(..) | Step::Check(_)
        ));
        replay.step(vector.id, step);
    }
    assert!(checks > 0, "{} compares nothing", vector.id);
}

struct Replay {
    machine: Machine,
    /// Number of calls that earlier checkpoints have compared.
    calls_seen: usize,
    installs_seen: usize,
    msis_seen: usize,
}

impl Replay {
    fn start(vector: &Vector<'_>) -> Self {
        let mut features = vector_features();
        let mut policy = FlushPolicy::default();
        let mut streams = None;
        for step in &vector.steps {
            let Step::Configure(pairs) = step else {
                continue;
            };
            for (name, values) in pairs {
                match *name {
                    "erratum" => policy.repeat_tlbi_cfgi = values[0] != 0,
                    "streams" => streams = Some(values),
                    _ => features = configured(features, name, values[0]),
                }
            }
        }
        let mut machine = Machine::new(features, policy);
        if let Some(streams) = streams {
            machine.host.streams = streams.iter().map(|sid| *sid as u32).collect();
        }
        Self {
            machine,
            calls_seen: 0,
            installs_seen: 0,
            msis_seen: 0,
        }
    }

    fn step(&mut self, id: &str, step: &Step<'_>) {
        let machine = &mut self.machine;
        match step {
            Step::Configure(_) => {}
            Step::Host { answers, forever } => {
                machine.host.answers = answers.iter().copied().collect();
                machine.host.afterwards = answers.last().copied().filter(|_| *forever);
            }
            Step::Gone => machine.host.is_gone = true,
            Step::AbortReads(address) => {
                machine.memory.unreadable.push(*address..address + 16);
            }
            Step::AbortWrites(address) => {
                machine.memory.unwritable.push(*address..address + 16);
            }
            Step::Slot(index, commands) => machine.store_commands(*index, commands),
            Step::Memory(address, commands) => {
                machine
                    .memory
                    .store_words(*address, commands.as_flattened());
            }
            Step::Write(register, value) => {
                if register.size == 8 {
                    machine.write64(register.offset, *value);
                } else {
                    machine.write(register.offset, *value);
                }
            }
            Step::Read(register, value) => {
                let read = self.read(*register);
                assert_eq!(read, *value, "{id}: register {:#x}", register.offset);
            }
            Step::Peek(address, value) => {
                let read = machine.memory.load_u32(*address);
                assert_eq!(read, *value, "{id}: memory {address:#x}");
            }
            Step::Check(expected) => self.check(id, expected),
        }
    }

    fn read(&self, register: Register) -> u64 {
        if register.size == 8 {
            self.machine.read64(register.offset)
        } else {
            self.machine.read(register.offset)
        }
    }

    fn check(&mut self, id: &str, expected: &Checkpoint) {
        let machine = &self.machine;
        let host = &machine.host;
        let counters = &machine.signals;
        assert_eq!(
            host.calls[self.calls_seen..],
            expected.calls,
            "{id}: calls of the host"
        );
        assert_eq!(machine.rd(), expected.rd, "{id}: CMDQ_CONS.RD");
        assert_eq!(machine.error(), expected.err, "{id}: CMDQ_CONS.ERR");
        assert_eq!(machine.registers.gerror, expected.gerror, "{id}: GERROR");
        assert_eq!(machine.registers.gerrorn, expected.gerrorn, "{id}: GERRORN");
        assert_eq!(counters.gerror, expected.irq_g, "{id}: GERROR interrupts");
        assert_eq!(
            counters.cmd_sync, expected.irq_s,
            "{id}: CMD_SYNC interrupts"
        );
        let written = &machine.memory.written[self.msis_seen..];
        assert_eq!(written, expected.msi, "{id}: MSIs");
        let installed = &host.installed[self.installs_seen..];
        assert_eq!(installed, expected.local, "{id}: attached entries");
        assert_eq!(host.quarantined, expected.quarantine, "{id}: quarantine");
        assert_eq!(host.failed_closed, 0, "{id}: the host was given up");
        self.calls_seen = host.calls.len();
        self.installs_seen = host.installed.len();
        self.msis_seen = machine.memory.written.len();
    }
}

fn configured(features: Features, name: &str, value: u64) -> Features {
    let flag = value != 0;
    match name {
        "ats" => features.with_ats(flag),
        "msi" => features.with_msi(flag),
        "pri" => features.with_pri(flag),
        "s1p" => features.with_s1p(flag),
        "s2p" => features.with_s2p(flag),
        "ril" => features.with_ril(flag),
        "ssidsize" => features.with_ssidsize(value as u8),
        "cmdqs" => features.with_cmdqs(value as u8),
        _ => panic!("no such feature: {name}"),
    }
}
