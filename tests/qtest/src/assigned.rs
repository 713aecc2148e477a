// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine with assigned devices on a simulated host.

use std::{
    cell::{Ref, RefCell},
    collections::BTreeMap,
    env, fs,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
};

use crate::{
    binary::simulated_host,
    command::{self, Command},
    journal::{Journal, On},
    machine::RAM,
    pci, qemu,
    smmu::{reg, CMDQEN, SMMUEN},
    until,
    update::{self, Update},
    Builder, Finished, Machine, Smmu,
};
use serde_json::json;

/// Properties without `auto`, so that they do not depend on the host.
pub const EXPLICIT: &str = "accel=on,ats=on,ril=on,oas=44,ssidsize=0";

/// Guest physical address of the Command queue.
pub const QUEUE: u64 = RAM;
/// Guest physical address of the Stream table.
pub const TABLE: u64 = RAM + 0x10_0000;
/// log2 of the entries of the Stream table: buses 0 to 15.
pub const TABLE_LOG2: u32 = 12;
/// Guest physical address of nothing.
pub const NOWHERE: u64 = 0x0e00_0000_0000;

/// STE words 0 and 1: `V`, and `Config` as named (§5.2).
pub mod ste {
    /// Not valid: aborts
    pub const INVALID: [u64; 2] = [0, 0];
    /// Aborts without a record
    pub const ABORT: [u64; 2] = [1, 0];
    /// No stage 1
    pub const BYPASS: [u64; 2] = [1 | (0b100 << 1), 0];
    /// Stage 2, which this SMMU does not have
    pub const STAGE2: [u64; 2] = [1 | (0b110 << 1), 0];

    /// Returns a stage-1 STE with one CD at `context`, Write-Back, Inner
    /// Shareable.
    pub const fn stage1(context: u64) -> [u64; 2] {
        [
            1 | (0b101 << 1) | context,
            (0b11 << 6) | (0b01 << 4) | (0b01 << 2),
        ]
    }

    /// A stage-1 STE.
    pub const FIRST: [u64; 2] = stage1(0x4100_0000);
    /// Another stage-1 STE.
    pub const SECOND: [u64; 2] = stage1(0x4200_0000);
}

/// The host objects of a vIOMMU, without those of its devices.
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

/// A directory that is deleted with the test.
struct Directory(PathBuf);

impl Directory {
    /// Returns a directory with a script that begins with `lines`.
    fn new(lines: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // a failed test, whose process had this number, has left its directory
        let path = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("simhost-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made.expect("a directory for the simulated host");
                    break path;
                }
            }
        };
        fs::write(path.join("script"), format!("{lines}\n")).expect("the script");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // a failed test leaves its log
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

/// Returns the file of a device, as long as its BAR.
fn device_file(name: &str) -> OwnedFd {
    let file = File::from(memfd(&format!("simhost-device-{name}")));
    file.set_len(BAR_BYTES).expect("memory");
    file.into()
}

/// Bytes of BAR 0 of a device of the host.
const BAR_BYTES: u64 = 16 << 10;
/// Name prefix of devices whose BAR QEMU can map.
pub const MAPPED: &str = "mapped";
/// Properties of a device that is migrated although no dirty tracking is to be had.
const MIGRATABLE: &str = "enable-migration=on,x-device-dirty-page-tracking=off";
/// What QEMU warns of then.
const NO_DIRTY_TRACKING: &str = "VFIO device doesn't support device and IOMMU dirty tracking";
/// Vendor and device of a device of the host.
pub const IDENTITY: u32 = 0x0010_1b36;

/// Number of the root bus that the SMMU serves.
const ROOT_BUS: u32 = 8;

/// Returns the guest's `StreamID` of the device in `slot`, after
/// [`Bench::smmu`] has numbered the buses.
pub const fn sid(slot: u32) -> u32 {
    (ROOT_BUS + slot) << 8
}

/// A machine that is not started yet.
pub struct Setup {
    builder: Builder,
    directory: Arc<Directory>,
    slots: Vec<u32>,
    /// The devices that are assigned, with their slots
    devices: Vec<(String, u32)>,
    /// The memfds of the iommufds, by name
    iommufds: BTreeMap<String, File>,
    /// Another QEMU has the files of devices and iommufds already
    takes_over: bool,
}

/// A number of a descriptor, in place of one that comes from another QEMU.
const ANY_FD: RawFd = 0;

impl Setup {
    /// Returns a `virt` machine with an SMMU of these properties in front of
    /// `pcie.1`, on a host with one SMMU, "a", that has every feature.
    pub fn new(properties: &str) -> Self {
        Self::on_host("smmu a", properties)
    }

    /// Returns such a machine on a host whose script begins with `lines`.
    pub fn on_host(lines: &str, properties: &str) -> Self {
        Self::without_smmu(lines).smmu(properties)
    }

    /// Returns a machine without an SMMU yet.
    pub fn without_smmu(lines: &str) -> Self {
        Self::of(&qemu(), lines)
    }

    /// Returns a machine without an SMMU, run by `binary`.
    pub fn of(binary: &Path, lines: &str) -> Self {
        let setup = Self::with(Builder::virt(binary), Arc::new(Directory::new(lines)));
        setup.iommufd("iommufd0")
    }

    /// Returns a machine without an SMMU, whose QEMU can be updated.
    pub fn updatable(lines: &str) -> Self {
        let directory = Directory::new(&format!("shared\n{lines}"));
        Self::with(update::builder(), Arc::new(directory)).iommufd("iommufd0")
    }

    /// Returns a machine without an SMMU, whose QEMU takes over the guest of `old` by `update`.
    pub fn taking_over(old: &Bench, update: &Update) -> Self {
        let builder = update::builder().args(update.arguments());
        let setup = Self {
            takes_over: true,
            ..Self::with(builder, Arc::clone(&old.directory))
        };
        setup.iommufd("iommufd0")
    }

    fn with(builder: Builder, directory: Arc<Directory>) -> Self {
        Self {
            builder: builder
                .preload(simulated_host())
                .env("SIMHOST_DIR", &directory.0),
            directory,
            slots: Vec::new(),
            devices: Vec::new(),
            iommufds: BTreeMap::new(),
            takes_over: false,
        }
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
        let fd = if self.takes_over {
            ANY_FD
        } else {
            let memfd = memfd(&format!("simhost-iommufd-{id}"));
            let copy = memfd.try_clone().expect("a copy");
            self.iommufds.insert(id.to_owned(), copy.into());
            self.builder.fd(memfd)
        };
        let object = format!("iommufd,id={id},fd={fd}");
        self.builder = self.builder.args(["-object", &object]);
        self
    }

    /// Appends `-device` with a device that is not the host's.
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

    /// Enables trace events on standard error.
    #[must_use]
    pub fn trace(mut self, pattern: &str) -> Self {
        self.builder = self.builder.args(["-trace", pattern]);
        self
    }

    /// Appends a line to the host's script.
    #[must_use]
    pub fn script(self, line: &str) -> Self {
        append(&self.directory.0, line);
        self
    }

    /// Adds a device `name` behind the SMMU `smmu` to the host without
    /// assigning it. Returns the number of its descriptor in QEMU.
    pub fn spare(&mut self, name: &str, smmu: &str) -> RawFd {
        self.spare_with(name, smmu, "")
    }

    /// Does what [`spare`](Self::spare) does, with further fields of the line in the
    /// host's script.
    pub fn spare_with(&mut self, name: &str, smmu: &str, fields: &str) -> RawFd {
        static SID: AtomicU32 = AtomicU32::new(0x70);
        let sid = SID.fetch_add(1, Ordering::Relaxed);
        append(
            &self.directory.0,
            &format!("device {name} smmu={smmu} sid={sid:#x} {fields}"),
        );
        self.builder.fd(device_file(name))
    }

    /// Returns the number of the descriptor in QEMU of the device `name` behind the SMMU `smmu`,
    /// which is added to the host unless this QEMU takes over the device.
    pub fn device_fd(&mut self, name: &str, smmu: &str) -> RawFd {
        if self.takes_over {
            ANY_FD
        } else {
            self.spare(name, smmu)
        }
    }

    /// Adds the root port `slotN`, which takes a hot-plugged device.
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
        let fd = self.device_fd(name, "a");
        self.devices.push((name.to_owned(), slot));
        self.slot(slot)
            .device(&vfio_pci(name, fd, &format!("slot{slot}")))
    }

    /// Does what [`assign`](Self::assign) does with a device that can be migrated:
    /// `how` as in the host's script.
    #[must_use]
    pub fn assign_migratable(mut self, name: &str, slot: u32, how: &str) -> Self {
        let fd = self.spare_with(name, "a", &format!("migration={how}"));
        self.devices.push((name.to_owned(), slot));
        let device = vfio_pci(name, fd, &format!("slot{slot}"));
        self.slot(slot).device(&format!("{device},{MIGRATABLE}"))
    }

    /// Has QEMU wait for the state of another one.
    #[must_use]
    pub fn incoming(self) -> Self {
        self.args(["-incoming", "defer"])
    }

    /// Starts QEMU.
    #[track_caller]
    pub fn start(self) -> Bench {
        match self.try_start() {
            Ok(bench) => bench,
            Err(finished) => panic!("QEMU did not start\n{finished}"),
        }
    }

    /// Starts a QEMU that takes over the guest of `old` by `update`, up to the moment when it has
    /// the files.
    #[track_caller]
    pub fn start_beside(self, old: &Bench, update: &Update) -> Bench {
        match self.try_start_beside(old, update) {
            Ok(bench) => bench,
            Err(finished) => panic!("the new QEMU did not start\n{finished}"),
        }
    }

    /// Does what [`start_beside`](Self::start_beside) does, but QEMU may refuse the command line.
    ///
    /// # Errors
    ///
    /// The exit of the new QEMU.
    #[track_caller]
    pub fn try_start_beside(self, old: &Bench, update: &Update) -> Result<Bench, Box<Finished>> {
        self.try_start_with(|| update.send_files(&old.machine))
    }

    /// Starts QEMU, which may refuse the command line.
    ///
    /// # Errors
    ///
    /// The exit of the QEMU process.
    #[track_caller]
    pub fn try_start(self) -> Result<Bench, Box<Finished>> {
        self.try_start_with(|| ())
    }

    fn try_start_with(self, prompt: impl FnOnce()) -> Result<Bench, Box<Finished>> {
        let journal = Journal::new(&self.directory.0.join("log"));
        let bench = Bench {
            machine: self.builder.try_start_with(prompt)?,
            journal: RefCell::new(journal),
            directory: self.directory,
            slots: self.slots,
            devices: self.devices,
            iommufds: self.iommufds,
        };
        bench.journal.borrow_mut().update();
        Ok(bench)
    }

    /// Runs a QEMU that must refuse the command line.
    #[track_caller]
    pub fn refuse(self) -> Box<Finished> {
        match self.builder.try_start() {
            Ok(_) => panic!("QEMU started"),
            Err(finished) => finished,
        }
    }
}

/// Returns the properties of an assigned device.
pub fn vfio_pci(name: &str, fd: RawFd, bus: &str) -> String {
    format!("vfio-pci,id={name},fd={fd},iommufd=iommufd0,bus={bus}")
}

fn append(directory: &Path, line: &str) {
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
    // ended before the directory is deleted
    machine: Machine,
    journal: RefCell<Journal>,
    directory: Arc<Directory>,
    slots: Vec<u32>,
    devices: Vec<(String, u32)>,
    iommufds: BTreeMap<String, File>,
}

impl Bench {
    /// Starts a machine with one SMMU and the device "d0" in slot 1.
    #[track_caller]
    pub fn with_one_device() -> Self {
        Setup::new(EXPLICIT).assign("d0", 1).start()
    }

    /// Starts a machine with one SMMU and the devices "d0" in slot 1 and "d1"
    /// in slot 2.
    #[track_caller]
    pub fn with_two_devices() -> Self {
        Setup::new(EXPLICIT).assign("d0", 1).assign("d1", 2).start()
    }

    /// Returns the machine.
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the machine, to be used from several threads.
    pub const fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Boots the guest: numbers its buses and gives its only SMMU a Command
    /// queue and an empty Stream table. The SMMU is disabled.
    #[track_caller]
    pub fn smmu(&self) -> Smmu<'_> {
        self.number_buses();
        let smmu = Smmu::find(&self.machine);
        prepare(&smmu, QUEUE, TABLE);
        smmu
    }

    /// Boots the guest with SMMUEN set: "d0" in slot 1 gets the first of these
    /// STEs, "d1" in slot 2 the second.
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

    /// Numbers the buses behind the slots as [`sid`] expects.
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
    /// The error that QEMU returns.
    #[track_caller]
    pub fn plug(&self, name: &str, fd: RawFd, slot: u32) -> Result<(), String> {
        let arguments = json!({
            "driver": "vfio-pci", "id": name, "fd": fd.to_string(), "iommufd": "iommufd0",
            "bus": format!("slot{slot}"),
        });
        let result = self.machine.try_qmp("device_add", arguments);
        result.map(|_| ()).map_err(|error| error.description)
    }

    /// Unplugs the device in a slot; the guest powers the slot off.
    #[track_caller]
    pub fn unplug(&self, name: &str, slot: u32) {
        self.machine.qmp("device_del", json!({ "id": name }));
        Ecam::of(&self.machine).power_off(ROOT_BUS, slot << 3);
        self.machine.wait_event("DEVICE_DELETED");
    }

    /// Returns the path of a file in the host's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// Returns the memfd of an iommufd, which has the pages of CMDQ
    /// virtualization.
    #[track_caller]
    pub fn iommufd(&self, name: &str) -> &File {
        self.iommufds.get(name).expect("an iommufd")
    }

    /// Appends a line to the host's script.
    pub fn script(&self, line: &str) {
        append(&self.directory.0, line);
    }

    /// Reads the host's log up to now.
    #[track_caller]
    pub fn journal(&self) -> Ref<'_, Journal> {
        self.journal.borrow_mut().update();
        self.journal.borrow()
    }

    /// Drops the calls that were made so far.
    #[track_caller]
    pub fn mark(&self) {
        let mut journal = self.journal.borrow_mut();
        journal.update();
        journal.mark();
    }

    /// Checks the attachments of devices.
    #[track_caller]
    pub fn expect(&self, when: &str, devices: &[(&str, On)]) {
        let journal = self.journal();
        for (name, on) in devices {
            let actual = journal.device(name).map(|device| device.on);
            assert_eq!(actual, Some(*on), "{name}, {when}");
        }
    }

    /// Returns what registers and (linear) Stream table of the only SMMU say about a
    /// stream now.
    #[track_caller]
    pub fn configured(&self, sid: u32) -> On {
        const V: u64 = 1;
        const CONFIG: u64 = 0b1110;
        let smmu = Smmu::find(&self.machine);
        if smmu.read(reg::CR0) & SMMUEN == 0 {
            let is_abort = smmu.read(reg::GBPA) & GBPA_ABORT != 0;
            return if is_abort { On::Abort } else { On::Bypass };
        }
        let log2size = smmu.read(reg::STRTAB_BASE_CFG) & 0x3f;
        if u64::from(sid) >> log2size != 0 {
            return On::Abort;
        }
        let at = (smmu.read64(reg::STRTAB_BASE) & 0x00ff_ffff_ffff_ffc0) + 64 * u64::from(sid);
        let entry = [0, 8].map(|offset| self.machine.read64(at + offset));
        match entry[0] & (V | CONFIG) {
            0b1001 => On::Bypass,
            0b1011 => On::Nested(entry),
            _ => On::Abort,
        }
    }

    /// Checks that every device that may do DMA is attached to what registers and
    /// Stream table say.
    #[track_caller]
    pub fn expect_as_configured(&self, when: &str) {
        for (name, slot) in &self.devices {
            let (device, may_do_dma) = {
                let journal = self.journal();
                (journal.device(name), journal.may_do_dma(name))
            };
            if let (Some(device), true) = (device, may_do_dma) {
                assert_eq!(device.on, self.configured(sid(*slot)), "{name}, {when}");
            }
        }
    }

    /// Checks that since the mark every device was attached to what registers and
    /// Stream table say now, for as long as it could do DMA.
    #[track_caller]
    pub fn expect_only_as_configured(&self, when: &str) {
        for (name, slot) in &self.devices {
            let expected = self.configured(sid(*slot));
            let found = self.journal().attached_during_dma(name);
            assert_eq!(found, [expected], "{name}, {when}");
        }
    }

    /// Checks how many objects of each kind the host has; kinds that are not
    /// named must not exist. Devices are not counted.
    #[track_caller]
    pub fn expect_objects(&self, when: &str, expected: &[(&str, usize)]) {
        let journal = self.journal();
        let mut actual = journal.objects();
        actual.remove("device");
        let expected: std::collections::BTreeMap<_, _> = expected.iter().copied().collect();
        assert_eq!(actual, expected, "{when}");
    }

    /// Returns the calls since the mark that create or destroy an object, or
    /// attach a device.
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

    /// Ends QEMU, and checks its exit status and that it logged nothing.
    #[track_caller]
    pub fn finish(self) {
        let finished = self.end();
        assert_eq!(finished.error_lines(), [""; 0], "{finished}");
    }

    /// Ends a QEMU with devices that can be migrated, and checks that its devices are
    /// attached as they should, its exit status, and that it logged only what QEMU
    /// warns of.
    #[track_caller]
    pub fn finish_migratable(self) {
        self.expect_as_configured("at the end");
        let finished = self.end();
        let is_expected = |line: &&str| line.ends_with(NO_DIRTY_TRACKING);
        let lines = finished.error_lines();
        assert!(lines.iter().all(is_expected), "{finished}");
    }

    /// Waits until QEMU has logged `words`.
    #[track_caller]
    pub fn expect_message(&self, words: &str) {
        let what = format!("{words:?} in {:?}", self.messages());
        until(&what, || {
            self.messages().join("\n").contains(words).then_some(())
        });
    }

    /// Returns what QEMU has logged so far, without what it warns of.
    pub fn messages(&self) -> Vec<String> {
        let logged = self.machine.stderr();
        let lines = logged.lines().filter(|line| !line.is_empty());
        let ours = lines.filter(|line| !line.ends_with(NO_DIRTY_TRACKING));
        ours.map(str::to_owned).collect()
    }

    /// Ends a QEMU that has logged host errors, and checks its exit status.
    #[track_caller]
    pub fn finish_with_errors(self) {
        let finished = self.end();
        assert_ne!(finished.error_lines(), [""; 0], "{finished}");
    }

    /// Waits until every SMMU's counters agree with the host's log. They are read one after the
    /// other, and a deferred batch may be submitted in between.
    #[track_caller]
    fn expect_statistics(&self) {
        let paths = self.machine.smmus();
        if paths.is_empty() {
            // the C device
            return;
        }
        until("statistics that agree with the host's log", || {
            let counted = |group: &str, member: &str| -> u64 {
                let values = paths.iter().map(|path| {
                    let statistics = self.machine.qom_get(path, "statistics");
                    statistics[group][member].as_u64().expect("a counter")
                });
                values.sum()
            };
            let invalidations = counted("host", "calls") + counted("attach", "invalidations");
            let attached = ["stage1", "bypass", "abort", "blocked"]
                .map(|member| counted("attach", member))
                .iter()
                .sum::<u64>();
            let journal = self.journal();
            // VFIO attaches and detaches devices, too, and calls may fail
            let total = |operation| journal.total(operation, self.machine.pid());
            let agrees = invalidations == total("HWPT_INVALIDATE")
                && attached <= total("ATTACH") + total("DETACH");
            agrees.then_some(())
        });
    }

    /// Ends QEMU and checks its counters and its exit status.
    #[track_caller]
    pub fn end(self) -> Finished {
        self.expect_statistics();
        self.end_without_statistics()
    }

    /// Ends QEMU and checks its exit status. For calls that the host cannot log.
    #[track_caller]
    pub fn end_without_statistics(self) -> Finished {
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

/// The SMMU as a guest driver uses it.
pub trait Guest {
    /// Writes words 0 and 1 of an STE of the table at `TABLE`.
    fn write_ste(&self, sid: u32, ste: [u64; 2]);

    /// Writes words 0 and 1 of an STE, then submits `CMD_CFGI_STE` and
    /// `CMD_SYNC`.
    fn install(&self, sid: u32, ste: [u64; 2]);

    /// Submits commands and `CMD_SYNC`, which must be consumed without an
    /// error.
    fn commands(&self, commands: &[Command]);

    /// Submits a command and `CMD_SYNC`, which must end in a command error.
    fn fails(&self, command: Command);

    /// Writes `GBPA` with `Update`.
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

/// The PCI Express configuration space as the guest accesses it.
pub struct Ecam<'a> {
    machine: &'a Machine,
    base: u64,
}

impl<'a> Ecam<'a> {
    /// Returns the configuration space of a machine.
    pub const fn of(machine: &'a Machine) -> Self {
        Self {
            machine,
            base: pci::VIRT.ecam,
        }
    }

    const fn address(&self, bus: u32, devfn: u32, offset: u32) -> u64 {
        self.base + (((bus << 20) | (devfn << 12) | offset) as u64)
    }

    /// Returns the guest physical address of the window.
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

    /// Powers the slot of the root port at `bus` and `devfn` off, so that its
    /// device can be removed (PCI Express, Slot Control).
    #[track_caller]
    pub fn power_off(&self, bus: u32, devfn: u32) {
        let control = self.slot_control(bus, devfn);
        self.machine
            .write_sized(control, (1 << 10) | (0b11 << 8), 2);
    }

    /// Powers the slot of the root port at `bus` and `devfn` on: without power
    /// the function does not answer.
    #[track_caller]
    pub fn power_on(&self, bus: u32, devfn: u32) {
        let control = self.slot_control(bus, devfn);
        self.machine.write_sized(control, 0b01 << 8, 2);
    }

    /// Returns the guest physical address of the Slot Control register of the
    /// root port at `bus` and `devfn`.
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

    /// Returns the offset of an extended capability, if the function has it.
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
