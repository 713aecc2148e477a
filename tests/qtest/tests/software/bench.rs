// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine with an SMMU and a device behind it, with the operations of the
//! tests.

use std::{cell::Cell, fmt::Display, path::PathBuf};

use smmuv3_qtest::{
    command::{self, Command, SYNC},
    edu,
    machine::RAM,
    pci, qemu,
    smmu::{reg, EVENTQEN, SMMUEN},
    Access, Builder, Edu, Machine, Smmu,
};

use crate::{
    entries::{cd, ste, Entry, BYTES},
    record::{Class, Kind, Record},
    tables::{Granule, Tables},
};

const MIB: u64 = 1 << 20;

/// The layout of guest memory.
const QUEUE: u64 = RAM + 0x1_0000;
pub const EVENT_QUEUE: u64 = RAM + 0x2_0000;
/// Data that a test reads back from the device
const DUMP: u64 = RAM + 0x3_0000;
pub const STREAM_TABLE: u64 = RAM + MIB;
pub const CONTEXT: u64 = RAM + 3 * MIB;
/// Tables, up to [`DATA`]
const TABLES: u64 = RAM + 4 * MIB;
/// Output addresses, up to the end of memory
pub const DATA: u64 = RAM + 64 * MIB;
const END: u64 = RAM + 128 * MIB;

/// Physical address of nothing.
pub const NOWHERE: u64 = 0x6000_0000;

/// Log2 of the entries of the Event queue.
pub const EVENT_LOG2SIZE: u32 = 7;
/// Log2 of the entries of the Stream table.
pub const LOG2SIZE: u32 = 12;

/// `CR2.RECINVSID`
pub const RECINVSID: u32 = 1 << 1;

/// The stream of the device behind the SMMU.
pub const SID: u32 = pci::sid(0, 4);

/// An address that tests map with every page size: its index differs at each
/// level, and it fits the smallest input ranges.
pub const IOVA: u64 = 0x0123_0000;

/// Offset of the IPAs of stage-1 tables and CDs from their physical addresses.
pub const IPA_OFFSET: u64 = 1 << 36;
/// Output address of a nested stage 1.
pub const IPA: u64 = 1 << 38;
/// Bits of an IPA
pub const IPA_BITS: u32 = 40;

/// Returns the properties of an SMMU with these stages.
pub fn properties(stage: &str) -> String {
    match stage {
        "1" => crate::STAGE1.into(),
        _ => format!("stage={stage}"),
    }
}

/// Returns a machine whose SMMU has these stages, with a device behind it.
pub fn machine(stage: &str) -> Builder {
    machine_of(qemu(), stage)
}

/// Returns such a machine for another binary.
pub fn machine_of(binary: PathBuf, stage: &str) -> Builder {
    machine_with(binary, &properties(stage))
}

/// Returns such a machine whose SMMU has these properties.
pub fn machine_with(binary: PathBuf, properties: &str) -> Builder {
    Builder::virt(binary)
        .device(format!(
            "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0,{properties}"
        ))
        .device(format!("{},bus=pcie.0,addr=4", edu::DEVICE))
}

/// The enabled SMMU of a machine, and the device behind it. RECINVSID is set.
pub struct Bench<'a> {
    pub machine: &'a Machine,
    pub smmu: Smmu<'a>,
    pub edu: Edu<'a>,
    allocated: Cell<u64>,
    marked: Cell<u32>,
}

impl<'a> Bench<'a> {
    /// Sets up the device of [`machine`].
    #[track_caller]
    pub fn new(machine: &'a Machine) -> Self {
        Self::of(machine, SID)
    }

    /// Sets up the `edu` whose stream is `sid`.
    #[track_caller]
    pub fn of(machine: &'a Machine, sid: u32) -> Self {
        let bench = Self {
            machine,
            smmu: Smmu::find(machine),
            edu: Edu::new(machine, sid, 0),
            allocated: Cell::new(TABLES),
            marked: Cell::new(0),
        };
        bench.program();
        bench
    }

    /// Programs the SMMU as after a reset.
    #[track_caller]
    pub fn program(&self) {
        let smmu = &self.smmu;
        smmu.setup_queue(QUEUE, 8);
        self.setup_event_queue(EVENT_QUEUE, EVENT_LOG2SIZE);
        smmu.write(reg::CR2, RECINVSID);
        smmu.setup_stream_table(STREAM_TABLE, LOG2SIZE);
        smmu.enable(SMMUEN);
    }

    /// Disables the Event queue, gives it a base, and enables it, empty.
    #[track_caller]
    pub fn setup_event_queue(&self, base: u64, log2size: u32) {
        let smmu = &self.smmu;
        smmu.disable(EVENTQEN);
        smmu.write64(reg::EVENTQ_BASE, base | u64::from(log2size));
        smmu.write(reg::EVENTQ_PROD, 0);
        smmu.write(reg::EVENTQ_CONS, 0);
        smmu.enable(EVENTQEN);
    }

    /// Allocates zeroed memory for a table, aligned to its size.
    pub fn allocate(&self, size: u64) -> u64 {
        let align = size.next_power_of_two().max(64);
        let at = self.allocated.get().next_multiple_of(align);
        self.allocated.set(at + size);
        assert!(at + size <= DATA, "no memory for tables");
        at
    }

    /// Frees all tables.
    pub fn free_tables(&self) {
        self.machine
            .fill_memory(TABLES, self.allocated.get() - TABLES, 0);
        self.allocated.set(TABLES);
    }

    /// Writes the entry of a stream into the linear Stream table.
    #[track_caller]
    pub fn set_ste(&self, sid: u32, entry: Entry) {
        let at = STREAM_TABLE + BYTES * u64::from(sid);
        self.machine.write_memory(at, &entry.to_bytes());
    }

    /// Writes the Context descriptor.
    #[track_caller]
    pub fn set_cd(&self, entry: Entry) {
        self.machine.write_memory(CONTEXT, &entry.to_bytes());
    }

    /// Executes commands and waits for them.
    #[track_caller]
    pub fn commands(&self, commands: &[Command]) {
        self.smmu.submit(commands);
        self.smmu.submit(&[SYNC]);
        assert!(!self.smmu.error(), "{commands:x?}");
    }

    /// Invalidates everything.
    #[track_caller]
    pub fn invalidate(&self) {
        self.commands(&[command::CFGI_ALL, command::TLBI_NSNH_ALL]);
    }

    /// Installs this STE for the device.
    #[track_caller]
    pub fn install(&self, entry: Entry) {
        self.set_ste(self.edu.sid(), entry);
        self.invalidate();
    }

    /// Installs stage 1 with this CD for the device.
    #[track_caller]
    pub fn install_stage1(&self, context: Entry) {
        self.set_cd(context);
        self.install(ste::stage1(CONTEXT));
    }

    /// Installs both stages for the device. The IPA of the CD is [`IPA_OFFSET`]
    /// higher.
    #[track_caller]
    pub fn install_nested(&self, context: Entry, stage2: &Tables<'_>) {
        self.set_cd(context);
        self.install(ste::nested(CONTEXT + IPA_OFFSET, stage2));
    }

    /// Returns tables of stage 2 that map memory up to [`DATA`] at
    /// [`IPA_OFFSET`] in blocks. The test maps [`IPA`] itself.
    #[track_caller]
    pub fn stage2_for_tables(&self, granule: Granule) -> Tables<'_> {
        let tables = Tables::stage2(self, granule, IPA_BITS);
        let block = 1 << granule.shift(2);
        for at in (RAM..DATA).step_by(block) {
            tables.map_block(at + IPA_OFFSET, at, 2);
        }
        tables
    }

    /// Removes the records from the Event queue and returns them.
    #[track_caller]
    pub fn records(&self) -> Vec<Record> {
        let smmu = &self.smmu;
        let pointers = (2 << EVENT_LOG2SIZE) - 1;
        let prod = smmu.read(reg::EVENTQ_PROD) & pointers;
        let mut cons = smmu.read(reg::EVENTQ_CONS) & pointers;
        let mut records = Vec::new();
        while cons != prod {
            records.push(self.record(cons & (pointers >> 1)));
            cons = (cons + 1) & pointers;
        }
        smmu.write(reg::EVENTQ_CONS, cons);
        records
    }

    /// Returns an entry of the Event queue.
    #[track_caller]
    pub fn record(&self, index: u32) -> Record {
        let at = EVENT_QUEUE + 32 * u64::from(index);
        let word = |offset| self.machine.read64(at + offset);
        Record([word(0), word(8), word(16), word(24)])
    }

    /// Returns the last data that the device has read, written to memory with
    /// SMMUEN clear, which may drop cached translations.
    #[track_caller]
    pub fn read_by_device(&self) -> u32 {
        self.smmu.disable(SMMUEN);
        self.edu.deliver(DUMP, 4);
        self.smmu.enable(SMMUEN);
        self.machine.read32(DUMP)
    }

    /// Writes a unique number, which no device writes.
    fn mark(&self, address: u64) -> u32 {
        let mark = self.marked.get() + 1;
        self.marked.set(mark);
        self.machine.write32(address, mark);
        mark
    }

    /// Checks that a write to `iova` arrives at `address`.
    #[track_caller]
    pub fn writes(&self, iova: u64, address: u64) {
        self.mark(address);
        let word = self.edu.write(iova);
        let arrived = self.machine.read32(address) == word;
        let records = self.records();
        assert!(
            arrived && records.is_empty(),
            "a write to {iova:#x} has to reach {address:#x}: {arrived}, {records:?}"
        );
    }

    /// Checks that a read from `iova` does not fault.
    #[track_caller]
    pub fn reads(&self, iova: u64) {
        self.edu.read(iova, 4);
        assert_eq!(self.records(), [], "a read from {iova:#x}");
    }

    /// Checks a write and a read of `iova` without dropping cached
    /// translations.
    #[track_caller]
    pub fn passes(&self, iova: u64, address: u64) {
        self.writes(iova, address);
        self.reads(iova);
    }

    /// Checks a write and a read of `iova`, and that the data read are those at
    /// `address`.
    #[track_caller]
    pub fn transfers(&self, iova: u64, address: u64) {
        self.writes(iova, address);
        let mark = self.mark(address);
        self.reads(iova);
        let read = self.read_by_device();
        assert_eq!(read, mark, "a read from {iova:#x}, of {address:#x}");
    }

    /// Checks that an access to `iova` changes neither memory there nor at
    /// [`DATA`], and returns its records.
    #[track_caller]
    pub fn refused(&self, access: Access, iova: u64) -> Vec<Record> {
        let mut watched = vec![DATA + (iova & 0xfff)];
        if (RAM..END).contains(&iova) {
            watched.push(iova);
        }
        let marks: Vec<u32> = watched.iter().map(|at| self.mark(*at)).collect();
        self.edu.access(access, iova);
        let records = self.records();
        let after: Vec<u32> = watched.iter().map(|at| self.machine.read32(*at)).collect();
        assert_eq!(marks, after, "{access:?} of {iova:#x} arrives");
        records
    }

    /// Checks that an access to `iova` is aborted with this record.
    #[track_caller]
    pub fn faults(&self, access: Access, iova: u64, record: Record) {
        assert_eq!(self.refused(access, iova), [record]);
    }

    /// Checks that an access to `iova` is aborted with this record; `what`
    /// describes the case.
    #[track_caller]
    pub fn faults_when(&self, when: impl Display, access: Access, iova: u64, record: Record) {
        assert_eq!(self.refused(access, iova), [record], "{when}");
    }

    /// Checks that an access to `iova` is aborted without a record.
    #[track_caller]
    pub fn aborts(&self, access: Access, iova: u64) {
        assert_eq!(self.refused(access, iova), []);
    }

    /// Returns a record of the device's stream.
    pub const fn event(&self, kind: Kind) -> Record {
        Record::new(kind, self.edu.sid())
    }

    /// Returns the record of a stage-1 fault of an access.
    pub const fn fault1(&self, kind: Kind, access: Access, iova: u64) -> Record {
        self.event(kind).of(access, iova).stage1(Class::Input)
    }

    /// Returns the record of a stage-2 fault with an IPA.
    pub const fn fault2(
        &self,
        kind: Kind,
        access: Access,
        iova: u64,
        class: Class,
        ipa: u64,
    ) -> Record {
        self.event(kind).of(access, iova).stage2(class).ipa(ipa)
    }
}

/// Both directions of access.
pub const ACCESSES: [Access; 2] = [Access::Read, Access::Write];

/// An installed stage 1 for the lower half that maps a page from [`IOVA`] to
/// [`DATA`].
pub struct Stage1<'a> {
    pub tables: Tables<'a>,
    pub context: Entry,
}

impl<'a> Stage1<'a> {
    /// Installs stage 1 for input addresses of `bits` bits.
    #[track_caller]
    pub fn new(bench: &'a Bench<'a>, granule: Granule, bits: u32) -> Self {
        let tables = Tables::stage1(bench, granule, bits);
        tables.map(IOVA, DATA);
        let context = cd::lower(&tables);
        bench.install_stage1(context);
        Self { tables, context }
    }
}

/// Installs a stage 2 that maps a page from [`IOVA`] to [`DATA`].
#[track_caller]
pub fn install_stage2<'a>(bench: &'a Bench<'a>, granule: Granule, bits: u32) -> Tables<'a> {
    let tables = Tables::stage2(bench, granule, bits);
    tables.map(IOVA, DATA);
    bench.install(ste::stage2(&tables));
    tables
}

/// Both stages: stage 1 maps [`IOVA`] to [`IPA`], stage 2 that to [`DATA`].
pub struct Nested<'a> {
    pub stage1: Tables<'a>,
    pub stage2: Tables<'a>,
    pub context: Entry,
}

impl<'a> Nested<'a> {
    /// Installs both stages for input addresses of `bits` bits.
    #[track_caller]
    pub fn new(bench: &'a Bench<'a>, granules: [Granule; 2], bits: u32) -> Self {
        let stage2 = bench.stage2_for_tables(granules[1]);
        let stage1 = Tables::stage1(bench, granules[0], bits).seen_at(IPA_OFFSET);
        stage1.map(IOVA, IPA);
        stage2.map(IPA, DATA);
        let context = cd::lower(&stage1);
        bench.install_nested(context, &stage2);
        Self {
            stage1,
            stage2,
            context,
        }
    }
}
