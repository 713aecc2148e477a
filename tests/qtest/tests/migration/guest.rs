// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state of a guest's SMMU before migration, and its checks afterwards.

use std::path::PathBuf;

use serde_json::json;
use smmuv3_qtest::{
    command::{self, CFGI_ALL, RESERVED, SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    smmu::{cerror, reg, CMDQEN, EVENTQEN, SMMUEN},
    Builder, Machine, RootPort, Smmu,
};

const QUEUE: u64 = RAM + (1 << 20);
const QUEUE_LOG2: u32 = 3;
const EVENTS: u64 = RAM + (2 << 20);
const EVENTS_LOG2: u32 = 2;
const TABLE: u64 = RAM + (4 << 20);
const SECOND_LEVEL: u64 = RAM + (5 << 20);
const SPLIT: u32 = 8;
/// Target address of the root port's writes.
pub const IOVA: u64 = RAM + (64 << 20) + 0x340;

/// `RA` or `WA` of a base register: a hint that reads as written
const HINT: u64 = 1 << 62;
/// `C_BAD_STE` (§7.3.5)
const C_BAD_STE: u32 = 4;
/// Bytes of an event record
const RECORD: u64 = 32;

/// Index of the command that stops the queue, and PROD.
const WRONG: u32 = QUEUE_LOG2_ENTRIES + 1;
const END: u32 = WRONG + 4;
const QUEUE_LOG2_ENTRIES: u32 = 1 << QUEUE_LOG2;

/// How the SMMU is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `-machine virt,iommu=smmuv3`
    Machine,
    /// `-device arm-smmuv3`
    Device,
}

/// The format of the Stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Linear,
    TwoLevels,
}

impl Form {
    /// Returns a machine of this form with a root port behind the SMMU.
    pub fn builder(self, binary: PathBuf) -> Builder {
        let (builder, bus) = match self {
            Self::Machine => (Builder::virt_with(binary, "iommu=smmuv3"), "pcie.0"),
            Self::Device => (Builder::virt(binary).smmu(""), "pcie.1"),
        };
        builder.device(format!("pcie-root-port,id=rp1,bus={bus},addr=5,chassis=1"))
    }

    /// Returns the root port's `StreamID`.
    pub const fn sid(self) -> u32 {
        match self {
            Self::Machine => 5 << 3,
            Self::Device => 0x800 | (5 << 3),
        }
    }
}

/// Every register that a driver may read, with a name.
const REGISTERS: [(&str, u64); 36] = [
    ("IDR0", reg::IDR0),
    ("IDR1", reg::IDR1),
    ("IDR2", reg::IDR2),
    ("IDR3", reg::IDR3),
    ("IDR4", reg::IDR4),
    ("IDR5", reg::IDR5),
    ("IIDR", reg::IIDR),
    ("AIDR", reg::AIDR),
    ("CR0", reg::CR0),
    ("CR0ACK", reg::CR0ACK),
    ("CR1", reg::CR1),
    ("CR2", reg::CR2),
    ("STATUSR", reg::STATUSR),
    ("GBPA", reg::GBPA),
    ("IRQ_CTRL", reg::IRQ_CTRL),
    ("IRQ_CTRLACK", reg::IRQ_CTRLACK),
    ("GERROR", reg::GERROR),
    ("GERRORN", reg::GERRORN),
    ("GERROR_IRQ_CFG0", reg::GERROR_IRQ_CFG0),
    ("GERROR_IRQ_CFG0 high", reg::GERROR_IRQ_CFG0 + 4),
    ("GERROR_IRQ_CFG1", reg::GERROR_IRQ_CFG1),
    ("GERROR_IRQ_CFG2", reg::GERROR_IRQ_CFG2),
    ("STRTAB_BASE", reg::STRTAB_BASE),
    ("STRTAB_BASE high", reg::STRTAB_BASE + 4),
    ("STRTAB_BASE_CFG", reg::STRTAB_BASE_CFG),
    ("CMDQ_BASE", reg::CMDQ_BASE),
    ("CMDQ_BASE high", reg::CMDQ_BASE + 4),
    ("CMDQ_PROD", reg::CMDQ_PROD),
    ("CMDQ_CONS", reg::CMDQ_CONS),
    ("EVENTQ_BASE", reg::EVENTQ_BASE),
    ("EVENTQ_BASE high", reg::EVENTQ_BASE + 4),
    ("EVENTQ_PROD", reg::EVENTQ_PROD),
    ("EVENTQ_CONS", reg::EVENTQ_CONS),
    ("EVENTQ_IRQ_CFG0", reg::EVENTQ_IRQ_CFG0),
    ("EVENTQ_IRQ_CFG1", reg::EVENTQ_IRQ_CFG1),
    ("EVENTQ_IRQ_CFG2", reg::EVENTQ_IRQ_CFG2),
];

/// Returns the values of all registers.
#[track_caller]
pub fn registers(machine: &Machine) -> Vec<(&'static str, u32)> {
    let smmu = Smmu::find(machine);
    REGISTERS
        .into_iter()
        .map(|(name, offset)| (name, smmu.read(offset)))
        .collect()
}

/// A guest whose SMMU has state in every register.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    pub form: Form,
    pub table: Table,
}

impl Guest {
    fn entry(self) -> u64 {
        let sid = u64::from(self.form.sid());
        match self.table {
            Table::Linear => TABLE + 64 * sid,
            Table::TwoLevels => SECOND_LEVEL + 64 * (sid & ((1 << SPLIT) - 1)),
        }
    }

    fn set_entry(self, machine: &Machine, word0: u64) {
        machine.write64(self.entry(), word0);
    }

    fn program_table(self, smmu: &Smmu<'_>) {
        smmu.write64(reg::STRTAB_BASE, HINT | TABLE);
        let config = match self.table {
            Table::Linear => 12,
            Table::TwoLevels => {
                let index = u64::from(self.form.sid() >> SPLIT);
                let whole = u64::from(SPLIT) + 1;
                smmu.machine()
                    .write64(TABLE + 8 * index, SECOND_LEVEL | whole);
                (1 << 16) | (SPLIT << 6) | 13
            }
        };
        smmu.write(reg::STRTAB_BASE_CFG, config);
    }

    /// Writes a value other than the reset value to every register.
    fn program(self, smmu: &Smmu<'_>) {
        smmu.write(reg::CR1, 0xd75);
        smmu.write(reg::CR2, 2);
        smmu.write(reg::GBPA, 0x8012_2514);
        smmu.write(reg::IRQ_CTRL, 5);
        self.program_table(smmu);
        smmu.setup_queue_at(QUEUE, QUEUE_LOG2, QUEUE_LOG2_ENTRIES - 1);
        smmu.write64(reg::EVENTQ_BASE, HINT | EVENTS | u64::from(EVENTS_LOG2));
        // the next record is the last before the wrap
        smmu.write(reg::EVENTQ_PROD, 3);
        smmu.write(reg::EVENTQ_CONS, 3);
        smmu.write(reg::CR0, SMMUEN | EVENTQEN | CMDQEN);
        assert_eq!(smmu.read(reg::CR0ACK), SMMUEN | EVENTQEN | CMDQEN);
    }

    /// Creates the state to migrate: an unread event, an acknowledged error, an
    /// unacknowledged one, and commands behind it.
    #[track_caller]
    pub fn run_to_state(self, machine: &Machine) {
        let smmu = Smmu::find(machine);
        let mut port = RootPort::new(machine, self.form.sid());
        self.program(&smmu);
        self.set_entry(machine, 0);
        port.is_aborted(IOVA, &[IOVA]);
        assert_eq!(smmu.read(reg::EVENTQ_PROD), 4, "an event");
        self.set_entry(machine, ste::BYPASS);

        smmu.push(&[RESERVED]);
        smmu.ring();
        assert!(smmu.error());
        smmu.write_slots(smmu.cons(), &[CFGI_ALL]);
        smmu.acknowledge();
        smmu.wait_consumed();
        smmu.push(&[SYNC]);
        smmu.submit(&[]);
        smmu.push(&[RESERVED, TLBI_NSNH_ALL, CFGI_ALL, SYNC]);
        smmu.ring();
        assert!(smmu.error());
        assert_eq!(smmu.cons(), WRONG);
        port.arrives(IOVA, IOVA);
    }

    /// Checks that the guest can resume where it was.
    #[track_caller]
    pub fn resume(self, machine: &Machine) {
        machine.qmp("cont", json!({}));
        let smmu = Smmu::find(machine);
        smmu.adopt_queue();
        self.commands_go_on(&smmu);
        let mut port = RootPort::new(machine, self.form.sid());
        self.events_go_on(&smmu, &mut port);
        smmu.disable(SMMUEN);
        // GBPA.ABORT
        port.is_aborted(IOVA, &[IOVA]);
        smmu.write(reg::GBPA, 1 << 31);
        port.arrives(IOVA, IOVA);
    }

    fn commands_go_on(self, smmu: &Smmu<'_>) {
        assert!(smmu.error(), "the error has gone");
        assert_eq!((smmu.cons_err(), smmu.cons()), (cerror::ILL, WRONG));
        smmu.ring();
        assert_eq!(smmu.cons(), WRONG, "consumed in spite of the error");
        smmu.write_slots(WRONG, &[SYNC]);
        smmu.acknowledge();
        smmu.wait_cons(END);
        assert!(!smmu.error());
        smmu.submit(&[command::cfgi_ste(self.form.sid()), SYNC]);
    }

    fn events_go_on(self, smmu: &Smmu<'_>, port: &mut RootPort<'_>) {
        let machine = smmu.machine();
        let last = EVENTS + 3 * RECORD;
        assert_eq!(machine.read32(last), C_BAD_STE, "the event not read yet");
        assert_eq!(machine.read32(last + 4), self.form.sid());
        port.arrives(IOVA, IOVA);
        self.set_entry(machine, 0);
        smmu.submit(&[command::cfgi_ste(self.form.sid()), SYNC]);
        port.is_aborted(IOVA, &[IOVA]);
        assert_eq!(smmu.read(reg::EVENTQ_PROD), 5, "the next event");
        assert_eq!(machine.read32(EVENTS), C_BAD_STE);
        assert_eq!(machine.read32(EVENTS + 4), self.form.sid());
        smmu.write(reg::EVENTQ_CONS, 5);
        port.is_aborted(IOVA, &[IOVA]);
        assert_eq!(smmu.read(reg::EVENTQ_PROD), 6, "the one after it");
        assert_eq!(smmu.read(reg::EVENTQ_CONS), 5);
    }
}

/// Word 0 of a Stream table entry (§5.2).
pub mod ste {
    pub const BYPASS: u64 = 1 | (0b100 << 1);
}
