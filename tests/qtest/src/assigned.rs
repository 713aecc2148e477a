// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine with assigned devices on a simulated host.

use std::{
    cell::{Ref, RefCell},
    env, fs,
    fs::{File, OpenOptions},
    io::Write,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    binary::simulated_host,
    command::{self, Command},
    journal::{Journal, On},
    machine::RAM,
    pci, qemu,
    smmu::{reg, CMDQEN, SMMUEN},
    until, Builder, Finished, Machine, Smmu,
};
use serde_json::json;

/// Properties that need no host: what `auto` would give is named.
pub const EXPLICIT: &str = "accel=on,ats=on,ril=on,oas=44,ssidsize=0";

/// Guest physical address of the Command queue.
pub const QUEUE: u64 = RAM;
/// Guest physical address of the Stream table.
pub const TABLE: u64 = RAM + 0x10_0000;
/// log2 of the entries of the Stream table: buses 0 to 15.
pub const TABLE_LOG2: u32 = 12;
/// Guest physical address where nothing is.
pub const NOWHERE: u64 = 0x0e00_0000_0000;

/// STE words 0 and 1: `V`, and `Config` as named (5.2).
pub mod ste {
    /// Not valid: aborts
    pub const INVALID: [u64; 2] = [0, 0];
    /// Aborts without a record
    pub const ABORT: [u64; 2] = [1, 0];
    /// No stage 1
    pub const BYPASS: [u64; 2] = [1 | (0b100 << 1), 0];
    /// Stage 2, which this SMMU does not have
    pub const STAGE2: [u64; 2] = [1 | (0b110 << 1), 0];

    /// Stage 1 with one Context descriptor at `context`, Write-Back, Inner Shareable.
    pub const fn stage1(context: u64) -> [u64; 2] {
        [
            1 | (0b101 << 1) | context,
            (0b11 << 6) | (0b01 << 4) | (0b01 << 2),
        ]
    }

    /// A stage 1.
    pub const FIRST: [u64; 2] = stage1(0x4100_0000);
    /// Another one.
    pub const SECOND: [u64; 2] = stage1(0x4200_0000);
}

/// What a vIOMMU takes in the host, without devices' own objects.
pub const VIOMMU: [(&str, usize); 5] = [
    ("ioas", 1),
    ("s2", 1),
    ("viommu", 1),
    ("abort", 1),
    ("bypass", 1),
];

/// `GBPA.Update`
pub const GBPA_UPDATE: u32 = 1 << 31;
/// `GBPA.ABORT`
pub const GBPA_ABORT: u32 = 1 << 20;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("simhost-{}-{number}", process::id()));
        fs::create_dir(&path).expect("a directory for the simulated host");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // a test that fails leaves its log
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn memfd(name: &str) -> OwnedFd {
    let name = std::ffi::CString::new(name).expect("a name without NUL");
    // SAFETY: a valid string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A device's file, with as much memory as its BAR has.
fn device_file(name: &str) -> OwnedFd {
    let file = File::from(memfd(&format!("simhost-device-{name}")));
    file.set_len(BAR_BYTES).expect("memory");
    file.into()
}

/// Bytes of BAR 0 of a device of the host.
const BAR_BYTES: u64 = 16 << 10;
/// How the names of those begin whose BAR the host lets QEMU map.
pub const MAPPED: &str = "mapped";
/// Vendor and device of a device of the host.
pub const IDENTITY: u32 = 0x0010_1b36;

/// Number of the root bus that the SMMU serves.
const ROOT_BUS: u32 = 8;

/// The guest's `StreamID` of the device in slot `slot`, once the guest has
/// numbered its buses ([`Bench::smmu`]).
pub const fn sid(slot: u32) -> u32 {
    (ROOT_BUS + slot) << 8
}

/// A machine that is not started yet.
pub struct Setup {
    builder: Builder,
    directory: Directory,
    slots: Vec<u32>,
}

impl Setup {
    /// A `virt` machine with an SMMU of these properties before `pcie.1`, on a
    /// host with one SMMU, "a", that has everything.
    pub fn new(properties: &str) -> Self {
        Self::on_host("smmu a", properties)
    }

    /// The same on a host whose script begins with `lines`.
    pub fn on_host(lines: &str, properties: &str) -> Self {
        Self::without_smmu(lines).smmu(properties)
    }

    /// A machine without an SMMU yet.
    pub fn without_smmu(lines: &str) -> Self {
        Self::of(&qemu(), lines)
    }

    /// The same with another binary.
    pub fn of(binary: &Path, lines: &str) -> Self {
        let directory = Directory::new();
        fs::write(directory.0.join("script"), format!("{lines}\n")).expect("the script");
        let setup = Self {
            builder: Builder::virt(binary)
                .preload(simulated_host())
                .env("SIMHOST_DIR", &directory.0),
            directory,
            slots: Vec::new(),
        };
        setup.iommufd("iommufd0")
    }

    /// Appends the SMMU that serves `pcie.1`.
    #[must_use]
    pub fn smmu(mut self, properties: &str) -> Self {
        self.builder = self.builder.smmu(properties);
        self
    }

    /// Sets a variable of QEMU's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.env(name, value);
        self
    }

    /// Opens /dev/iommu once more.
    #[must_use]
    pub fn iommufd(mut self, id: &str) -> Self {
        let fd = self.builder.fd(memfd(&format!("simhost-iommufd-{id}")));
        let object = format!("iommufd,id={id},fd={fd}");
        self.builder = self.builder.args(["-object", &object]);
        self
    }

    /// Appends `-device` with what is no device of the host.
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.builder = self.builder.device(device);
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args(mut self, args: [&str; 2]) -> Self {
        self.builder = self.builder.args(args);
        self
    }

    /// Has these trace events written to standard error.
    #[must_use]
    pub fn trace(mut self, pattern: &str) -> Self {
        self.builder = self.builder.args(["-trace", pattern]);
        self
    }

    /// Says something to the host.
    #[must_use]
    pub fn say(self, line: &str) -> Self {
        say(&self.directory.0, line);
        self
    }

    /// Makes the host have a device `name`, behind its SMMU `smmu`, without
    /// assigning it; gives the descriptor's number in QEMU.
    pub fn spare(&mut self, name: &str, smmu: &str) -> RawFd {
        static SID: AtomicU32 = AtomicU32::new(0x70);
        let sid = SID.fetch_add(1, Ordering::Relaxed);
        say(
            &self.directory.0,
            &format!("device {name} smmu={smmu} sid={sid:#x}"),
        );
        self.builder.fd(device_file(name))
    }

    /// Adds a root port, called after its number, in front of which a device
    /// can be plugged in.
    #[must_use]
    pub fn slot(mut self, slot: u32) -> Self {
        self.slots.push(slot);
        self.device(&format!(
            "pcie-root-port,id=slot{slot},bus=pcie.1,addr={slot},chassis={slot}"
        ))
    }

    /// Assigns a device of the host, called `name` there and in QEMU, to a slot
    /// of its own.
    #[must_use]
    pub fn assign(mut self, name: &str, slot: u32) -> Self {
        let fd = self.spare(name, "a");
        self.slot(slot)
            .device(&vfio_pci(name, fd, &format!("slot{slot}")))
    }

    /// Starts QEMU.
    #[track_caller]
    pub fn start(self) -> Bench {
        match self.try_start() {
            Ok(bench) => bench,
            Err(finished) => panic!("QEMU did not start\n{finished}"),
        }
    }

    /// Starts a QEMU that may refuse.
    ///
    /// # Errors
    ///
    /// How it ended.
    #[track_caller]
    pub fn try_start(self) -> Result<Bench, Box<Finished>> {
        let journal = Journal::new(&self.directory.0.join("log"));
        let bench = Bench {
            machine: self.builder.try_start()?,
            journal: RefCell::new(journal),
            directory: self.directory,
            slots: self.slots,
        };
        bench.journal.borrow_mut().update();
        Ok(bench)
    }

    /// Starts a QEMU that is to refuse.
    #[track_caller]
    pub fn refuse(self) -> Box<Finished> {
        match self.builder.try_start() {
            Ok(_) => panic!("QEMU started"),
            Err(finished) => finished,
        }
    }
}

/// The properties of an assigned device.
pub fn vfio_pci(name: &str, fd: RawFd, bus: &str) -> String {
    format!("vfio-pci,id={name},fd={fd},iommufd=iommufd0,bus={bus}")
}

fn say(directory: &Path, line: &str) {
    let path = directory.join("script");
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .expect("the script");
    file.write_all(format!("{line}\n").as_bytes())
        .expect("the script");
}

/// A machine with assigned devices.
pub struct Bench {
    // ended before the directory goes
    machine: Machine,
    journal: RefCell<Journal>,
    directory: Directory,
    slots: Vec<u32>,
}

impl Bench {
    /// One SMMU, and the device "d0" in slot 1.
    #[track_caller]
    pub fn with_one_device() -> Self {
        Setup::new(EXPLICIT).assign("d0", 1).start()
    }

    /// The same, and "d1" in slot 2.
    #[track_caller]
    pub fn with_two_devices() -> Self {
        Setup::new(EXPLICIT).assign("d0", 1).assign("d1", 2).start()
    }

    /// The machine.
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine, to be used by more than one.
    pub const fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The guest boots: it numbers its buses, and gives its only SMMU a Command
    /// queue and an empty Stream table. The SMMU is disabled.
    #[track_caller]
    pub fn smmu(&self) -> Smmu<'_> {
        self.number_buses();
        let smmu = Smmu::find(&self.machine);
        prepare(&smmu, QUEUE, TABLE);
        smmu
    }

    /// The guest boots and translates: "d0" in slot 1 has the first of these
    /// stages 1, "d1" in slot 2 the second.
    #[track_caller]
    pub fn translating(&self, entries: &[[u64; 2]]) -> Smmu<'_> {
        let smmu = self.smmu();
        smmu.enable(SMMUEN);
        for (entry, (name, slot)) in entries.iter().zip([("d0", 1), ("d1", 2)]) {
            smmu.install(sid(slot), *entry);
            self.expect("stage 1", &[(name, On::Nested(*entry))]);
        }
        smmu
    }

    /// Numbers the buses behind the slots, as [`sid`] has it.
    #[track_caller]
    pub fn number_buses(&self) {
        let ecam = Ecam::of(&self.machine);
        for slot in &self.slots {
            ecam.number(ROOT_BUS, slot << 3, ROOT_BUS + slot);
        }
    }

    /// Plugs in a spare device.
    ///
    /// # Errors
    ///
    /// What QEMU says about it.
    #[track_caller]
    pub fn plug(&self, name: &str, fd: RawFd, slot: u32) -> Result<(), String> {
        let arguments = json!({
            "driver": "vfio-pci", "id": name, "fd": fd.to_string(), "iommufd": "iommufd0",
            "bus": format!("slot{slot}"),
        });
        let result = self.machine.try_qmp("device_add", arguments);
        result.map(|_| ()).map_err(|error| error.description)
    }

    /// Unplugs the device in a slot, with the guest's consent.
    #[track_caller]
    pub fn unplug(&self, name: &str, slot: u32) {
        self.machine.qmp("device_del", json!({ "id": name }));
        Ecam::of(&self.machine).power_off(ROOT_BUS, slot << 3);
        self.machine.wait_event("DEVICE_DELETED");
    }

    /// A file of the host.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// Tells the host something.
    pub fn say(&self, line: &str) {
        say(&self.directory.0, line);
    }

    /// The host's log up to now.
    #[track_caller]
    pub fn journal(&self) -> Ref<'_, Journal> {
        self.journal.borrow_mut().update();
        self.journal.borrow()
    }

    /// Forgets which calls were made.
    #[track_caller]
    pub fn mark(&self) {
        let mut journal = self.journal.borrow_mut();
        journal.update();
        journal.mark();
    }

    /// Checks what devices are attached to.
    #[track_caller]
    pub fn expect(&self, when: &str, devices: &[(&str, On)]) {
        let journal = self.journal();
        for (name, on) in devices {
            let actual = journal.device(name).map(|device| device.on);
            assert_eq!(actual, Some(*on), "{name}, {when}");
        }
    }

    /// Checks how many objects of each kind the host has; what is not named
    /// must not be there. Devices are not counted.
    #[track_caller]
    pub fn expect_objects(&self, when: &str, expected: &[(&str, usize)]) {
        let journal = self.journal();
        let mut actual = journal.objects();
        actual.remove("device");
        let expected: std::collections::BTreeMap<_, _> = expected.iter().copied().collect();
        assert_eq!(actual, expected, "{when}");
    }

    /// Calls since the mark that make or destroy an object, or attach a device.
    #[track_caller]
    pub fn changes(&self) -> Vec<String> {
        let journal = self.journal();
        [
            "HWPT_ALLOC",
            "VDEVICE_ALLOC",
            "VIOMMU_ALLOC",
            "DESTROY",
            "ATTACH",
            "DETACH",
        ]
        .iter()
        .flat_map(|operation| journal.calls(operation))
        .map(|call| format!("{} {}", call.operation(), call.kind()))
        .collect()
    }

    /// Asks QEMU to end, and checks that it ended well and had nothing to
    /// complain about.
    #[track_caller]
    pub fn finish(self) {
        let finished = self.end();
        assert_eq!(finished.complaints(), [""; 0], "{finished}");
    }

    /// The same for a QEMU that the host has given reason to complain.
    #[track_caller]
    pub fn finish_after_complaints(self) {
        let finished = self.end();
        assert_ne!(finished.complaints(), [""; 0], "{finished}");
    }

    /// Asks QEMU to end, and checks that it ended well.
    #[track_caller]
    pub fn end(self) -> Finished {
        let finished = self.machine.quit();
        assert!(finished.status.success(), "{finished}");
        finished
    }
}

/// Gives an SMMU a Command queue and an empty Stream table.
#[track_caller]
pub fn prepare(smmu: &Smmu<'_>, queue: u64, table: u64) {
    smmu.machine().fill_memory(table, 64 << TABLE_LOG2, 0);
    smmu.setup_queue(queue, 8);
    smmu.setup_stream_table(table, TABLE_LOG2);
}

/// What a guest does with its SMMU.
pub trait Guest {
    /// Writes words 0 and 1 of an STE of the table at `TABLE`.
    fn write_ste(&self, sid: u32, ste: [u64; 2]);

    /// The same and `CMD_CFGI_STE`, `CMD_SYNC`.
    fn install(&self, sid: u32, ste: [u64; 2]);

    /// Commands and `CMD_SYNC`, which must be consumed without an error.
    fn commands(&self, commands: &[Command]);

    /// A command and `CMD_SYNC`, which must end in a command error.
    fn fails(&self, command: Command);

    /// `GBPA` with `Update`.
    fn gbpa(&self, value: u32);
}

impl Guest for Smmu<'_> {
    #[track_caller]
    fn write_ste(&self, sid: u32, ste: [u64; 2]) {
        let at = (self.read64(reg::STRTAB_BASE) & !0x3f) + 64 * u64::from(sid);
        let bytes: Vec<u8> = ste.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.machine().write_memory(at, &bytes);
    }

    #[track_caller]
    fn install(&self, sid: u32, ste: [u64; 2]) {
        self.write_ste(sid, ste);
        self.commands(&[command::cfgi_ste(sid)]);
    }

    #[track_caller]
    fn commands(&self, commands: &[Command]) {
        assert_ne!(self.read(reg::CR0) & CMDQEN, 0, "the queue is on");
        self.submit(&[commands, &[command::SYNC]].concat());
        assert!(!self.error(), "CMDQ_ERR, code {}", self.cons_err());
    }

    #[track_caller]
    fn fails(&self, command: Command) {
        self.push(&[command, command::SYNC]);
        self.ring();
        until("a command error", || self.error().then_some(()));
    }

    #[track_caller]
    fn gbpa(&self, value: u32) {
        self.write(reg::GBPA, value | GBPA_UPDATE);
        assert_eq!(
            self.read(reg::GBPA) & (GBPA_UPDATE | GBPA_ABORT),
            value & GBPA_ABORT
        );
    }
}

/// The PCI Express configuration space, as a guest reaches it.
pub struct Ecam<'a> {
    machine: &'a Machine,
    base: u64,
}

impl<'a> Ecam<'a> {
    /// That of a machine.
    pub const fn of(machine: &'a Machine) -> Self {
        Self {
            machine,
            base: pci::VIRT.ecam,
        }
    }

    const fn address(&self, bus: u32, devfn: u32, offset: u32) -> u64 {
        self.base + (((bus << 20) | (devfn << 12) | offset) as u64)
    }

    /// Guest physical address of the window.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Gives the bridge at `bus` and `devfn` bus numbers.
    #[track_caller]
    pub fn number(&self, bus: u32, devfn: u32, secondary: u32) {
        let at = self.address(bus, devfn, 0x18);
        self.machine
            .write32(at, bus | (secondary << 8) | (secondary << 16));
    }

    /// Reads 16 bits.
    #[track_caller]
    fn read16(&self, bus: u32, devfn: u32, offset: u32) -> u32 {
        self.machine.read_sized(self.address(bus, devfn, offset), 2) as u32
    }

    /// Tells the slot of the root port at `bus` and `devfn` that its device may
    /// go: power off, indicator off (PCI Express, Slot Control).
    #[track_caller]
    pub fn power_off(&self, bus: u32, devfn: u32) {
        let control = self.slot_control(bus, devfn);
        self.machine
            .write_sized(control, (1 << 10) | (0b11 << 8), 2);
    }

    /// Gives the slot of the root port at `bus` and `devfn` power: without it the
    /// function there does not answer.
    #[track_caller]
    pub fn power_on(&self, bus: u32, devfn: u32) {
        let control = self.slot_control(bus, devfn);
        self.machine.write_sized(control, 0b01 << 8, 2);
    }

    /// Guest physical address of the Slot Control register of the root port at
    /// `bus` and `devfn`.
    #[track_caller]
    pub fn slot_control(&self, bus: u32, devfn: u32) -> u64 {
        let express = self.capability(bus, devfn, 0x10);
        self.address(bus, devfn, express + 0x18)
    }

    /// Resets the function at `bus` and `devfn`, and nothing else.
    #[track_caller]
    pub fn function_level_reset(&self, bus: u32, devfn: u32) {
        let control = self.capability(bus, devfn, 0x10) + 8;
        let at = self.address(bus, devfn, control);
        self.machine.write_sized(at, 1 << 15, 2);
    }

    /// Offset of an extended capability, if the function has it.
    #[track_caller]
    pub fn extended_capability(&self, bus: u32, devfn: u32, id: u32) -> Option<u32> {
        let mut at = 0x100;
        while at != 0 {
            let header = self.machine.read32(self.address(bus, devfn, at));
            assert_ne!(header, !0, "{bus:#x}:{devfn:#x} does not answer");
            if header & 0xffff == id {
                return Some(at);
            }
            at = header >> 20;
        }
        None
    }

    #[track_caller]
    fn capability(&self, bus: u32, devfn: u32, id: u32) -> u32 {
        let mut at = self.read16(bus, devfn, 0x34) & 0xff;
        while at != 0 {
            let header = self.read16(bus, devfn, at);
            assert_ne!(header, 0xffff, "{bus:#x}:{devfn:#x} does not answer");
            if header & 0xff == id {
                return at;
            }
            at = header >> 8;
        }
        panic!("{bus:#x}:{devfn:#x} has no capability {id:#x}");
    }
}
