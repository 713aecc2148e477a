// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state of a machine in a file, with access to the SMMU's section.

use std::{fs, io::Write, os::unix::net::UnixStream};

use serde_json::json;
pub use smmuv3_qtest::migration::{outcome, TemporaryFile};
use smmuv3_qtest::{Builder, Machine};

/// The header of the SMMU's section: its name with the length, instance 0,
/// version 1.
const HEADER: &[u8] = b"\x06smmuv3\0\0\0\0\0\0\0\x01";

/// A field of the SMMU's section: its offset and its size in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub size: usize,
}

/// The fields in their order. Each element of an array is a field.
const LAYOUT: [(&str, usize); 29] = [
    ("features", 4),
    ("sid_size", 1),
    ("sid_split", 1),
    ("cr0", 4),
    ("cr1", 4),
    ("cr2", 4),
    ("cr0ack", 4),
    ("statusr", 4),
    ("irq_ctrl", 4),
    ("gerror", 4),
    ("gerrorn", 4),
    ("gerror_irq_cfg0", 8),
    ("gerror_irq_cfg1", 4),
    ("gerror_irq_cfg2", 4),
    ("strtab_base", 8),
    ("strtab_base_cfg", 4),
    ("eventq_irq_cfg0", 8),
    ("eventq_irq_cfg1", 4),
    ("eventq_irq_cfg2", 4),
    ("cmdq.base", 8),
    ("cmdq.prod", 4),
    ("cmdq.cons", 4),
    ("cmdq.log2size", 1),
    ("eventq.base", 8),
    ("eventq.prod", 4),
    ("eventq.cons", 4),
    ("eventq.log2size", 1),
    // a subsection's mark, the length of its name, the name and its version
    ("", 1 + 1 + 11 + 4),
    ("gbpa", 4),
];

/// Returns all fields. The last, `gbpa`, is present only if it differs from its
/// reset value.
pub fn fields() -> Vec<Field> {
    let mut offset = 0;
    let place = |(name, size)| {
        let field = Field { name, offset, size };
        offset += size;
        field
    };
    LAYOUT
        .into_iter()
        .map(place)
        .filter(|field| !field.name.is_empty())
        .collect()
}

/// Returns the field called `name`.
pub fn field(name: &str) -> Field {
    fields()
        .into_iter()
        .find(|field| field.name == name)
        .unwrap_or_else(|| panic!("no field is called {name}"))
}

/// The saved state of a machine.
#[derive(Clone, Debug)]
pub struct Stream(Vec<u8>);

impl Stream {
    /// Stops the machine, saves it, and ends its QEMU.
    #[track_caller]
    pub fn save(machine: Machine) -> Self {
        let file = TemporaryFile::new();
        machine.qmp("stop", json!({}));
        machine.qmp("migrate", json!({ "uri": file.uri() }));
        assert_eq!(outcome(&machine), Ok(()));
        assert!(machine.quit().status.success(), "the source's end");
        Self(fs::read(file.path()).expect("the saved state"))
    }

    /// Stops the machine and saves it. It can be started again.
    #[track_caller]
    pub fn copy(machine: &Machine) -> Self {
        let file = TemporaryFile::new();
        machine.qmp("stop", json!({}));
        permit_downtime(machine);
        machine.qmp("migrate", json!({ "uri": file.uri() }));
        assert_eq!(outcome(machine), Ok(()), "{}", machine.stderr());
        Self(fs::read(file.path()).expect("the saved state"))
    }

    /// Returns the offset of the fields of the SMMU's subsection `name`, if it is there.
    pub fn subsection(&self, name: &str) -> Option<usize> {
        const MARK: u8 = 5;
        let length = u8::try_from(name.len()).expect("a short name");
        let version = [0, 0, 0, 1];
        let header = [&[MARK, length], name.as_bytes(), &version].concat();
        let mut windows = self.0.windows(header.len());
        let at = windows.position(|window| window == header)?;
        Some(at + header.len())
    }

    /// Returns the offset of the ID registers that come before the guest's memory, if they do.
    pub fn early(&self) -> Option<usize> {
        const HEADER: &[u8] = b"\x12smmuv3-accel-early\0\0\0\0\0\0\0\x01";
        self.find(HEADER).map(|at| at + HEADER.len())
    }

    /// Returns the offset of the first part of the guest's memory.
    #[track_caller]
    pub fn memory(&self) -> usize {
        self.find(b"\x03ram").expect("memory")
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.0
            .windows(bytes.len())
            .position(|window| window == bytes)
    }

    /// Returns the state with other bytes from `at` on.
    #[track_caller]
    pub fn with_bytes(&self, at: usize, bytes: &[u8]) -> Self {
        let mut changed = self.clone();
        changed.0[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    }

    /// Returns the bytes of the state.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the state up to the byte `end`.
    #[track_caller]
    pub fn truncated(&self, end: usize) -> Self {
        Self(self.0[..end].to_owned())
    }

    /// Starts a QEMU with this state, with the guest stopped.
    #[track_caller]
    pub fn load(&self, builder: Builder) -> Machine {
        let machine = builder.args(["-incoming", "defer"]).start();
        assert_eq!(self.load_into(&machine), Ok(()), "{}", machine.stderr());
        machine
    }

    /// Loads this state into a QEMU that waits for it, which keeps running if
    /// it refuses the state.
    #[track_caller]
    pub fn load_into(&self, machine: &Machine) -> Result<(), String> {
        let file = self.write();
        machine.qmp(
            "migrate-incoming",
            json!({ "uri": file.uri(), "exit-on-error": false }),
        );
        outcome(machine)
    }

    /// Loads this state into a QEMU that waits for it, and sends the part from
    /// `section` on after `between` has run.
    #[track_caller]
    pub fn load_in_two(&self, machine: &Machine, section: &str, between: impl FnOnce()) {
        let (first, second) = self.0.split_at(self.section(section));
        let file = TemporaryFile::new();
        let uri = format!("unix:{}", file.path().display());
        machine.qmp(
            "migrate-incoming",
            json!({ "uri": uri, "exit-on-error": false }),
        );
        let mut socket = UnixStream::connect(file.path()).expect("a connection");
        socket.write_all(first).expect("the first part is read");
        between();
        socket.write_all(second).expect("the rest is read");
        drop(socket);
        assert_eq!(outcome(machine), Ok(()), "{}", machine.stderr());
    }

    /// Returns the offset of the section `name`, which follows the SMMU's.
    #[track_caller]
    fn section(&self, name: &str) -> usize {
        /// The kind of the section, and its number
        const BEGIN: usize = 1 + 4;
        let mut named = vec![u8::try_from(name.len()).expect("a short name")];
        named.extend_from_slice(name.as_bytes());
        let smmu = self.smmu();
        let after = self.0[smmu..]
            .windows(named.len())
            .position(|window| window == named)
            .unwrap_or_else(|| panic!("no {name} after the SMMU"));
        smmu + after - BEGIN
    }

    /// Writes this state to a file.
    pub fn write(&self) -> TemporaryFile {
        let file = TemporaryFile::new();
        fs::write(file.path(), &self.0).expect("a file with the state");
        file
    }

    /// Returns the offset of the SMMU's fields.
    #[track_caller]
    pub fn smmu(&self) -> usize {
        let mut found = self
            .0
            .windows(HEADER.len())
            .enumerate()
            .filter(|(_, window)| *window == HEADER)
            .map(|(at, _)| at + HEADER.len());
        let first = found.next().expect("the SMMU's section");
        assert_eq!(found.next(), None, "another section of the SMMU");
        first
    }

    /// Returns the value of a field.
    #[track_caller]
    pub fn get(&self, field: Field) -> u64 {
        let at = self.smmu() + field.offset;
        let bytes = &self.0[at..at + field.size];
        bytes
            .iter()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    /// Returns the state with another value in one field.
    #[track_caller]
    pub fn with(&self, field: Field, value: u64) -> Self {
        let mut changed = self.clone();
        let at = self.smmu() + field.offset;
        changed.0[at..at + field.size].copy_from_slice(&value.to_be_bytes()[8 - field.size..]);
        changed
    }

    /// Returns the state with another version of the SMMU's section.
    #[track_caller]
    pub fn with_version(&self, version: u8) -> Self {
        let mut changed = self.clone();
        changed.0[self.smmu() - 1] = version;
        changed
    }

    /// Returns the state up to the byte `end` of the SMMU's fields.
    #[track_caller]
    pub fn cut(&self, end: usize) -> Self {
        Self(self.0[..self.smmu() + end].to_owned())
    }
}

/// Lets a migration end although all memory is dirty: a device whose DMA is not tracked can have
/// written anything.
pub fn permit_downtime(machine: &Machine) {
    let parameters = json!({ "downtime-limit": 2_000_000, "max-bandwidth": 1_u64 << 40 });
    machine.qmp("migrate-set-parameters", parameters);
}
