// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated host as a whole: the effects of a process's calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use crate::{
    errno::{Errno, Result},
    file::{from_link, File},
    given,
    log::{Log, Words},
    memory::Memory,
    migration::Migration,
    objects::{nested_kind, Device, Id, Object, Objects},
    script::{Circumstances, Fault, Script},
    shared::{self, Shared},
    stored::Stored,
    uapi,
    vfio::VfioDevice,
};

/// The effects of an ioctl, for the log.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The log is off, so that the fields are not formatted
    pub is_off: bool,
    /// Further fields of the line `call`
    pub fields: String,
    /// Lines that follow it
    pub lines: Vec<String>,
}

/// A simulated host, as one process uses it.
#[derive(Debug)]
pub struct Host {
    pub(crate) directory: PathBuf,
    pub(crate) script: Script,
    pub(crate) log: Log,
    pub(crate) iommufds: BTreeMap<String, Objects>,
    pub(crate) devices: BTreeMap<String, VfioDevice>,
    pub(crate) migrations: BTreeMap<String, Migration>,
    pub(crate) next_vmid: u16,
    /// The descriptors of each file that the process is known to have; empty if the host is shared
    open: BTreeMap<File, BTreeSet<RawFd>>,
    /// Devices that the log shows as blocked because they are being recovered
    recovering: BTreeSet<String>,
    /// The state that other processes see, too
    shared: Option<Shared>,
    /// The virtual event queues by the numbers of their sockets, if the host is shared
    sockets: BTreeMap<u64, (String, Id)>,
    /// The processes that use the host, if it is shared
    processes: BTreeSet<u32>,
    /// vIOMMUs, with their iommufd, that calls in progress use
    in_use: Vec<(String, Id)>,
}

/// An invalidation that has begun.
#[derive(Debug)]
pub struct Begun {
    /// For how long it lasts
    pub latency: Duration,
    viommu: (String, Id),
}

impl Host {
    /// Returns a host whose files are in `directory`.
    pub fn new(directory: &Path, script: Script, log: Log) -> Self {
        Self {
            directory: directory.to_owned(),
            script,
            log,
            iommufds: BTreeMap::new(),
            devices: BTreeMap::new(),
            migrations: BTreeMap::new(),
            next_vmid: 1,
            open: BTreeMap::new(),
            recovering: BTreeSet::new(),
            shared: None,
            sockets: BTreeMap::new(),
            processes: BTreeSet::new(),
            in_use: Vec::new(),
        }
    }

    /// Begins an invalidation, if that has a latency.
    pub fn begin_call(
        &mut self,
        memory: &dyn Memory,
        file: &File,
        request: u64,
        address: u64,
    ) -> Option<Begun> {
        let File::Iommufd(name) = file else {
            return None;
        };
        if request != uapi::HWPT_INVALIDATE.number {
            return None;
        }
        self.read_script();
        let latency = self.script.take_latency();
        if latency.is_zero() {
            return None;
        }
        let viommu = uapi::read_u32(memory, address + 4).ok()?;
        self.log
            .line(format_args!("begin op=HWPT_INVALIDATE on={name}"));
        let viommu = (name.clone(), viommu);
        self.in_use.push(viommu.clone());
        Some(Begun { latency, viommu })
    }

    /// Ends it, before it has its effect.
    pub fn end_call(&mut self, begun: &Begun) {
        let position = self.in_use.iter().position(|it| *it == begun.viommu);
        if let Some(position) = position {
            self.in_use.swap_remove(position);
        }
    }

    /// Returns whether a call in progress uses an object.
    pub(crate) fn is_in_use(&self, iommufd: &str, id: Id) -> bool {
        let mut used = self.in_use.iter();
        used.any(|(of, used)| of == iommufd && *used == id)
    }

    /// Reads the script for the first time. If it says so, the host is that of other processes,
    /// too, and each use of it is between [`enter`](Self::enter) and [`leave`](Self::leave).
    pub fn begin(&mut self) {
        self.read_script();
        if self.script.is_shared() {
            match Shared::open(&self.directory) {
                Ok(shared) => {
                    given::note_any();
                    self.shared = Some(shared);
                }
                Err(error) => self.log_shared(&error),
            }
        }
    }

    /// Waits until no other process uses the host, and takes over its state. Follows the end of
    /// processes.
    pub fn enter(&mut self) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        match shared.lock() {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                if self.load(&bytes).is_none() {
                    self.log.line("trouble shared state");
                }
            }
            Err(error) => self.log_shared(&error),
        }
        self.processes.insert(process::id());
        let is_alive = |process: &u32| *process == process::id() || shared::is_alive(*process);
        if !self.processes.iter().all(is_alive) {
            self.processes.retain(is_alive);
            for file in self.files() {
                if !self.is_open(&file, None) {
                    self.close_last(&file);
                }
            }
        }
    }

    /// Lets other processes use the host.
    pub fn leave(&mut self) {
        if self.shared.is_none() {
            return;
        }
        let bytes = self.store();
        if let Some(Err(error)) = self.shared.as_mut().map(|shared| shared.unlock(bytes)) {
            self.log_shared(&error);
        }
    }

    fn log_shared(&mut self, error: &io::Error) {
        self.log
            .line(format_args!("trouble shared state error={error:?}"));
    }

    fn store(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.iommufds.store(&mut bytes);
        self.devices.store(&mut bytes);
        self.next_vmid.store(&mut bytes);
        self.recovering.store(&mut bytes);
        self.sockets.store(&mut bytes);
        self.processes.store(&mut bytes);
        self.script.matches().store(&mut bytes);
        bytes
    }

    fn load(&mut self, mut bytes: &[u8]) -> Option<()> {
        let bytes = &mut bytes;
        self.iommufds = Stored::load(bytes)?;
        self.devices = Stored::load(bytes)?;
        self.next_vmid = Stored::load(bytes)?;
        self.recovering = Stored::load(bytes)?;
        self.sockets = Stored::load(bytes)?;
        self.processes = Stored::load(bytes)?;
        self.script.set_matches(Stored::load(bytes)?);
        bytes.is_empty().then_some(())
    }

    /// Returns the files that the host has something of.
    fn files(&self) -> Vec<File> {
        let iommufds = self.iommufds.keys().cloned().map(File::Iommufd);
        let devices = self.devices.keys().cloned().map(File::Device);
        let queues = self.sockets.values().cloned();
        // queues first, because they are in an iommufd
        queues
            .map(|(iommufd, id)| File::Veventq(iommufd, id))
            .chain(devices)
            .chain(iommufds)
            .collect()
    }

    /// Returns whether a process has a descriptor of `file`, other than this process's `closing`.
    fn is_open(&self, file: &File, closing: Option<RawFd>) -> bool {
        let is_other = |process: u32, fd| process != process::id() || Some(fd) != closing;
        let has_it = |process: &u32| {
            let mut open = shared::open_files(*process).into_iter();
            open.any(|(fd, target)| {
                is_other(*process, fd) && self.file_of_link(&target).as_ref() == Some(file)
            })
        };
        self.processes.iter().any(has_it)
    }

    /// Returns the file that a link in /proc names.
    fn file_of_link(&self, target: &str) -> Option<File> {
        let veventq = || self.veventq_of(shared::socket(target)?);
        from_link(target).or_else(veventq)
    }

    /// Returns the virtual event queue whose socket has this number.
    fn veventq_of(&self, socket: u64) -> Option<File> {
        let (iommufd, id) = self.sockets.get(&socket)?;
        Some(File::Veventq(iommufd.clone(), *id))
    }

    /// Records a descriptor of the process.
    pub(crate) fn opened(&mut self, file: File, fd: RawFd) {
        if matches!(file, File::Veventq(..) | File::Migration(_)) {
            given::note(fd);
        }
        if self.shared.is_none() {
            self.open.entry(file).or_default().insert(fd);
        } else if let File::Veventq(iommufd, id) = file {
            if let Some(socket) = shared::socket_of(fd) {
                self.sockets.insert(socket, (iommufd, id));
            }
        }
    }

    /// Returns the virtual event queue of which `fd` is a descriptor.
    pub fn veventq(&self, fd: RawFd) -> Option<File> {
        if self.shared.is_some() {
            return self.veventq_of(shared::socket_of(fd)?);
        }
        let mut files = self.open.iter();
        let known =
            files.find(|(file, fds)| matches!(file, File::Veventq(..)) && fds.contains(&fd));
        known.map(|(file, _)| file.clone())
    }

    /// Returns the file of which `fd` is a descriptor, if it is one that the host has
    /// opened for the process.
    pub fn own_file(&self, fd: RawFd) -> Option<File> {
        let migration = || {
            let mut files = self.open.iter();
            let known =
                files.find(|(file, fds)| matches!(file, File::Migration(_)) && fds.contains(&fd));
            known.map(|(file, _)| file.clone())
        };
        self.veventq(fd).or_else(migration)
    }

    /// Records that the process polls a descriptor.
    pub fn poll(&mut self, fd: RawFd) {
        if let Some(File::Veventq(iommufd, id)) = self.veventq(fd) {
            self.poll_veventq(&iommufd, id);
        }
    }

    /// Applies the script to a `read` of a virtual event queue. Returns whether
    /// the queue is read at all.
    ///
    /// # Errors
    ///
    /// The errno of the script.
    pub fn read_veventq(&mut self, file: &File, fd: RawFd) -> Result<bool> {
        let call = |operation| Circumstances {
            operation,
            ..Circumstances::default()
        };
        self.arrive(file, fd)?;
        self.fault(&call("VEVENTQ_READ"))?;
        Ok(self.take_fault(&call("VEVENTQ_EMPTY")).is_none())
    }

    /// Reads new lines of the script, and records a descriptor.
    ///
    /// # Errors
    ///
    /// The errno of a lost file.
    pub(crate) fn arrive(&mut self, file: &File, fd: RawFd) -> Result<()> {
        self.read_script();
        self.opened(file.clone(), fd);
        self.detach_lost();
        self.note_recoveries();
        match self.script.loss_of(file.name()) {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }

    fn read_script(&mut self) {
        let result = self.script.refresh();
        self.log.turn_off(self.script.is_silent());
        if let Err(lines) = result {
            for line in lines {
                self.log.line(format_args!("trouble script={line:?}"));
            }
        }
    }

    /// Detaches lost devices. Their driver waits for QEMU to close the file
    /// before it unbinds them, so their objects stay until then.
    fn detach_lost(&mut self) {
        let lost: Vec<String> = self.script.lost().map(str::to_owned).collect();
        for name in lost {
            let binding = self.devices.get(&name).and_then(|it| it.binding.clone());
            let Some((iommufd, id)) = binding else {
                continue;
            };
            let is_attached = |device: &Device| device.attached.is_some();
            if self.objects(&iommufd).device(id).is_ok_and(is_attached) {
                let _ = self.objects(&iommufd).detach(id);
                let state = self.state_of_device(&name);
                self.log.line(state);
            }
        }
    }

    /// Logs the attachment of devices whose recovery has started or ended.
    /// After a recovery a device is attached to its last HWPT again, as in
    /// Linux.
    fn note_recoveries(&mut self) {
        let names: Vec<String> = self.devices.keys().cloned().collect();
        for name in names {
            let is_recovering = self.script.is_recovering(&name);
            let was_recovering = self.recovering.contains(&name);
            if is_recovering == was_recovering {
                continue;
            }
            if is_recovering {
                self.recovering.insert(name.clone());
            } else {
                self.recovering.remove(&name);
            }
            let state = self.state_of_device(&name);
            self.log.line(state);
        }
    }

    /// Handles an `ioctl` with a descriptor `fd` of `file`.
    ///
    /// # Errors
    ///
    /// The errno of the kernel or of the script.
    pub fn ioctl(
        &mut self,
        memory: &mut dyn Memory,
        file: &File,
        fd: RawFd,
        request: u64,
        address: u64,
        iommufd_of: &dyn Fn(RawFd) -> Option<File>,
    ) -> Result<i32> {
        if let Err(errno) = self.arrive(file, fd) {
            let (name, by) = (file.name(), self.by());
            self.log.line(format_args!(
                "call op={request:#x} on={name}{by} result={errno}"
            ));
            return Err(errno);
        }
        match file {
            File::Iommufd(name) => self.iommufd_ioctl(memory, name, fd, request, address),
            File::Device(name) => self.device_ioctl(memory, name, request, address, iommufd_of),
            File::Migration(name) => self.session_ioctl(memory, name, request, address),
            File::Veventq(..) => Err(Errno::ENOTTY),
        }
    }

    /// Handles a `pread` with a descriptor of `file`.
    ///
    /// # Errors
    ///
    /// See [`ioctl`](Self::ioctl).
    pub fn pread(
        &mut self,
        file: &File,
        fd: RawFd,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        self.arrive(file, fd)?;
        match file {
            File::Device(name) => self.device_pread(name, buffer, offset),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Handles a `pwrite` with a descriptor of `file`.
    ///
    /// # Errors
    ///
    /// See [`ioctl`](Self::ioctl).
    pub fn pwrite(&mut self, file: &File, fd: RawFd, bytes: &[u8], offset: u64) -> Result<usize> {
        self.arrive(file, fd)?;
        match file {
            File::Device(name) => self.device_pwrite(name, bytes, offset),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Handles the close of a descriptor. The last one of a file destroys what
    /// the file stands for.
    pub fn close(&mut self, file: &File, fd: RawFd) {
        let last = if self.shared.is_some() {
            !self.is_open(file, Some(fd))
        } else {
            let fds = self.open.get_mut(file);
            fds.is_some_and(|fds| fds.remove(&fd) && fds.is_empty())
        };
        if last {
            self.open.remove(file);
            self.close_last(file);
        }
    }

    /// Destroys what a file stands for.
    fn close_last(&mut self, file: &File) {
        match file {
            File::Iommufd(name) => {
                self.iommufds.remove(name);
                self.log.line(format_args!("close iommufd={name}"));
            }
            File::Device(name) => self.close_device(name),
            File::Veventq(iommufd, id) => {
                // the number of a socket is used again
                self.sockets
                    .retain(|_, (on, queue)| (&*on, &*queue) != (iommufd, id));
                self.close_veventq(iommufd, *id);
            }
            File::Migration(_) => {}
        }
    }

    /// Applies the script to a call and returns its error.
    pub(crate) fn fault(&mut self, call: &Circumstances<'_>) -> Result<()> {
        match self.take_fault(call) {
            Some(Fault {
                errno: Some(errno), ..
            }) => Err(errno),
            _ => Ok(()),
        }
    }

    /// Applies the script to a call, and sleeps for its delay.
    pub(crate) fn take_fault(&mut self, call: &Circumstances<'_>) -> Option<Fault> {
        let fault = self.script.take(call)?;
        thread::sleep(fault.delay);
        Some(fault)
    }

    /// Returns the objects of an iommufd.
    pub(crate) fn objects(&mut self, iommufd: &str) -> &mut Objects {
        self.iommufds.entry(iommufd.to_owned()).or_default()
    }

    /// Returns the log line of a device's attachment.
    pub(crate) fn state_of_device(&self, name: &str) -> String {
        let attached = || {
            let (iommufd, id) = self.devices.get(name)?.binding.as_ref()?;
            let objects = self.iommufds.get(iommufd)?;
            let device = objects.device(*id).ok()?;
            let table = device.attached?;
            Some((table, device.noted_vsid, objects.get(table).ok()?))
        };
        match attached() {
            _ if self.recovering.contains(name) => format!("device name={name} kind=none"),
            None => format!("device name={name} kind=none"),
            Some((table, vsid, Object::Nested { nested, ste, .. })) => {
                let kind = nested_kind(*nested);
                let vsid = vsid
                    .map(|vsid| format!(" sid={vsid:#x}"))
                    .unwrap_or_default();
                let ste = [*ste];
                let words = Words(&ste);
                format!("device name={name} hwpt={table} kind={kind} ste={words}{vsid}")
            }
            Some((table, _, object)) => {
                format!("device name={name} hwpt={table} kind={}", object.kind())
            }
        }
    }

    /// Returns the field of the process that makes a call, if there are several.
    pub(crate) fn by(&self) -> String {
        if self.shared.is_some() {
            format!(" by={}", process::id())
        } else {
            String::new()
        }
    }

    /// Writes the line of a call and those that follow from it.
    pub(crate) fn record(&mut self, operation: &str, on: &str, report: Report, result: Result<()>) {
        if self.log.is_off() {
            return;
        }
        let result = match result {
            Ok(()) => "ok".to_owned(),
            Err(errno) => errno.to_string(),
        };
        let (by, fields) = (self.by(), report.fields);
        self.log.line(format_args!(
            "call op={operation} on={on}{by}{fields} result={result}"
        ));
        for line in report.lines {
            self.log.line(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        os::{fd::AsRawFd, unix::fs::FileExt},
        process,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::cmdqv;

    /// Memory of one page at 0x1000.
    struct Page(Vec<u8>);

    impl Memory for Page {
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
            let start = address.checked_sub(0x1000).ok_or(Errno::EFAULT)? as usize;
            let bytes = self
                .0
                .get(start..start + buffer.len())
                .ok_or(Errno::EFAULT)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        }

        fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
            let start = address.checked_sub(0x1000).ok_or(Errno::EFAULT)? as usize;
            let place = self
                .0
                .get_mut(start..start + bytes.len())
                .ok_or(Errno::EFAULT)?;
            place.copy_from_slice(bytes);
            Ok(())
        }
    }

    /// A process with one iommufd (descriptor 10) and the devices d0, d1, ..
    /// (descriptors 20, 21, ..).
    struct Process {
        host: Host,
        memory: Page,
        /// What descriptor 10 is open on
        pages: fs::File,
    }

    /// Returns a new file without a name.
    fn unnamed() -> fs::File {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("simhost-pages-{}-{number}", process::id()));
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("a new file");
        fs::remove_file(path).expect("it is there");
        file
    }

    fn file(fd: RawFd) -> Option<File> {
        match fd {
            10 => Some(File::Iommufd("i".into())),
            20.. => Some(File::Device(format!("d{}", fd - 20))),
            _ => None,
        }
    }

    impl Process {
        fn new() -> Self {
            let mut script = Script::default();
            for line in [
                "smmu a",
                "smmu b",
                "device d0 smmu=a sid=0x70",
                "device d1 smmu=b sid=0x71",
            ] {
                script.apply(line).expect("a good line");
            }
            Self {
                host: Host::new(Path::new("/none"), script, Log::in_memory()),
                memory: Page(vec![0; 4096]),
                pages: unnamed(),
            }
        }

        /// Returns the process's own number of a descriptor of the test.
        fn actual(&self, fd: RawFd) -> RawFd {
            if fd == 10 {
                self.pages.as_raw_fd()
            } else {
                fd
            }
        }

        fn close_iommufd(&mut self) {
            let fd = self.actual(10);
            self.host.close(&File::Iommufd("i".into()), fd);
        }

        fn script(&mut self, line: &str) {
            self.host.script.apply(line).expect("a good line");
        }

        /// Makes an ioctl with a struct of 32-bit words, to which the size is
        /// prepended. Returns the struct.
        fn ioctl(&mut self, fd: RawFd, request: u64, words: &[u32]) -> Result<Vec<u32>> {
            let size = 4 * (1 + words.len() as u32);
            let bytes: Vec<u8> = [&[size], words]
                .concat()
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
            self.memory.write(0x1000, &bytes)?;
            let of = file(fd).expect("a descriptor of the test");
            let actual = self.actual(fd);
            self.host
                .ioctl(&mut self.memory, &of, actual, request, 0x1000, &file)?;
            Ok((0..=words.len() as u64)
                .map(|index| uapi::read_u32(&self.memory, 0x1000 + 4 * index).expect("in the page"))
                .collect())
        }

        fn bind(&mut self, fd: RawFd) -> u32 {
            self.ioctl(fd, uapi::DEVICE_BIND_IOMMUFD, &[0, 10, 0])
                .expect("bound")[3]
        }

        fn ioas(&mut self) -> u32 {
            self.ioctl(10, uapi::IOAS_ALLOC.number, &[0, 0])
                .expect("allocated")[2]
        }

        fn stage2(&mut self, device: u32, ioas: u32) -> Result<u32> {
            let words = [uapi::HWPT_NEST_PARENT, device, ioas, 0, 0, 0, 0, 0, 0, 0, 0];
            Ok(self.ioctl(10, uapi::HWPT_ALLOC.number, &words)?[4])
        }

        fn viommu(&mut self, device: u32, stage2: u32) -> Result<u32> {
            let words = [0, uapi::VIOMMU_ARM_SMMUV3, device, stage2, 0, 0, 0, 0, 0];
            Ok(self.ioctl(10, uapi::VIOMMU_ALLOC.number, &words)?[5])
        }

        /// Allocates a vIOMMU with a VINTF. Returns its ID, and the offset and
        /// the length of its page.
        fn cmdqv_viommu(&mut self, device: u32, stage2: u32) -> Result<(u32, [u64; 2])> {
            let kind = uapi::VIOMMU_TEGRA241_CMDQV;
            let words = [0, kind, device, stage2, 0, 16, 0, 0x1800, 0];
            let id = self.ioctl(10, uapi::VIOMMU_ALLOC.number, &words)?[5];
            Ok((id, uapi::read_words::<2>(&self.memory, 0x1800)?))
        }

        fn map_memory(&mut self, ioas: u32, iova: u32, length: u32) -> Result<()> {
            let words = [7, ioas, 0, 0, 0, length, 0, iova, 0];
            self.ioctl(10, uapi::IOAS_MAP.number, &words).map(|_| ())
        }

        fn hw_queue(&mut self, viommu: u32, index: u32, iova: u32, length: u32) -> Result<u32> {
            let kind = uapi::HW_QUEUE_TEGRA241_CMDQV;
            let words = [0, viommu, kind, index, 0, iova, 0, length, 0];
            Ok(self.ioctl(10, uapi::HW_QUEUE_ALLOC.number, &words)?[5])
        }

        fn mmap(&mut self, offset: u64) -> Result<()> {
            let fd = self.actual(10);
            let file = File::Iommufd("i".into());
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            self.host
                .mmap(&file, fd, cmdqv::PAGE, protection, flags, offset)
        }

        fn nested(&mut self, device: u32, viommu: u32, ste: [u64; 2]) -> Result<u32> {
            for (word, at) in ste.iter().zip([0x1800, 0x1808]) {
                self.memory.write(at, &word.to_le_bytes())?;
            }
            let words = [
                0,
                device,
                viommu,
                0,
                0,
                uapi::HWPT_DATA_ARM_SMMUV3,
                16,
                0x1800,
                0,
                0,
                0,
            ];
            Ok(self.ioctl(10, uapi::HWPT_ALLOC.number, &words)?[4])
        }

        fn attach(&mut self, fd: RawFd, table: u32) -> Result<()> {
            self.ioctl(fd, uapi::DEVICE_ATTACH_IOMMUFD_PT, &[0, table, 0])
                .map(|_| ())
        }

        fn invalidate(&mut self, viommu: u32, commands: &[[u64; 2]]) -> (Result<()>, u32) {
            for (word, at) in commands.iter().flatten().zip((0x1800..).step_by(8)) {
                self.memory
                    .write(at, &word.to_le_bytes())
                    .expect("in the page");
            }
            let n = commands.len() as u32;
            let words = [viommu, 0x1800, 0, 1, 16, n, 0];
            let result = self
                .ioctl(10, uapi::HWPT_INVALIDATE.number, &words)
                .map(|_| ());
            let entry_num = uapi::read_u32(&self.memory, 0x1000 + 24).expect("in the page");
            (result, entry_num)
        }

        fn destroy(&mut self, id: u32) -> Result<()> {
            self.ioctl(10, uapi::DESTROY.number, &[id]).map(|_| ())
        }

        fn state(&self) -> String {
            self.host.state_of_device("d0")
        }
    }

    #[test]
    fn device_attaches_to_every_hwpt_kind() {
        let mut p = Process::new();
        let device = p.bind(20);
        assert_eq!(p.state(), "device name=d0 kind=none");
        let ioas = p.ioas();
        let stage2 = p.stage2(device, ioas).expect("nesting");
        p.attach(20, stage2).expect("its own SMMU");
        assert_eq!(p.state(), format!("device name=d0 hwpt={stage2} kind=s2"));
        let viommu = p.viommu(device, stage2).expect("nesting");
        let abort = p.nested(device, viommu, [1, 0]).expect("a good STE");
        p.attach(20, abort).expect("no vDEVICE is needed");
        assert_eq!(
            p.state(),
            format!("device name=d0 hwpt={abort} kind=abort ste=0x1:0x0")
        );
        assert_eq!(p.nested(device, viommu, [0b1101, 0]), Err(Errno::EIO));
        let table = p.nested(device, viommu, [0x100b, 0]).expect("a good STE");
        assert_eq!(p.attach(20, table), Err(Errno::ENOENT));
        let words = [viommu, device, 0, 0x808, 0];
        let vdevice = p
            .ioctl(10, uapi::VDEVICE_ALLOC.number, &words)
            .expect("free")[3];
        p.attach(20, table).expect("there is a vDEVICE");
        let state = format!("device name=d0 hwpt={table} kind=nested ste=0x100b:0x0 sid=0x808");
        assert_eq!(p.state(), state);
        assert_eq!(p.destroy(table), Err(Errno::EBUSY));
        p.ioctl(20, uapi::DEVICE_DETACH_IOMMUFD_PT, &[0, 0])
            .expect("attached");
        assert_eq!(p.state(), "device name=d0 kind=none");
        for id in [table, vdevice, abort, viommu, stage2, ioas] {
            assert_eq!(p.destroy(id), Ok(()), "{id}");
        }
        p.host.close(&File::Device("d0".into()), 20);
        assert_eq!(p.host.objects("i").iter().count(), 0);
    }

    #[test]
    fn polled_veventq_file_is_busy_on_destroy() {
        for polled in [false, true] {
            let mut p = Process::new();
            let device = p.bind(20);
            let ioas = p.ioas();
            let stage2 = p.stage2(device, ioas).expect("nesting");
            let viommu = p.viommu(device, stage2).expect("nesting");
            let queue = p.host.objects("i").add(Object::Veventq {
                viommu,
                cmdqv: false,
                open: true,
                polled: false,
            });
            let queue_file = File::Veventq("i".into(), queue);
            p.host.opened(queue_file.clone(), 11);
            if polled {
                p.host.poll(11);
            }
            p.host.close(&queue_file, 11);
            let expected = if polled { Err(Errno::EBUSY) } else { Ok(()) };
            assert_eq!(p.destroy(queue), expected, "polled: {polled}");
        }
    }

    #[test]
    fn scripted_failure_changes_no_state() {
        let mut p = Process::new();
        let device = p.bind(20);
        let ioas = p.ioas();
        let stage2 = p.stage2(device, ioas).expect("nesting");
        p.script("fail ATTACH errno=EBUSY count=1");
        p.script("fail HWPT_ALLOC errno=ENOMEM kind=abort");
        assert_eq!(p.attach(20, stage2), Err(Errno::EBUSY));
        assert_eq!(p.state(), "device name=d0 kind=none");
        p.attach(20, stage2).expect("it fails once");
        let viommu = p.viommu(device, stage2).expect("nesting");
        assert_eq!(p.nested(device, viommu, [1, 0]), Err(Errno::ENOMEM));
        p.nested(device, viommu, [9, 0]).expect("only abort fails");
    }

    #[test]
    fn lost_file_fails_calls_and_lost_device_detaches() {
        let mut p = Process::new();
        let device = p.bind(20);
        let ioas = p.ioas();
        let stage2 = p.stage2(device, ioas).expect("nesting");
        p.attach(20, stage2).expect("its own SMMU");
        p.script("lose d0");
        p.script("clear");
        assert_eq!(p.attach(20, stage2), Err(Errno::ENODEV));
        let of = File::Device("d0".into());
        let config = p.host.pread(&of, 20, &mut [0; 4], 7 << 40);
        assert_eq!(config, Err(Errno::ENODEV));
        assert_eq!(p.state(), "device name=d0 kind=none");
        p.ioas();
        p.script("lose i errno=EBADF");
        let words = [0, 0];
        let result = p.ioctl(10, uapi::IOAS_ALLOC.number, &words);
        assert_eq!(result, Err(Errno::EBADF));
        assert_eq!(p.destroy(stage2), Err(Errno::EBADF));
        p.host.close(&of, 20);
        p.close_iommufd();
        assert_eq!(p.host.objects("i").iter().count(), 0);
    }

    #[test]
    fn recovering_device_is_blocked_then_reattached() {
        let mut p = Process::new();
        let device = p.bind(20);
        let ioas = p.ioas();
        let stage2 = p.stage2(device, ioas).expect("nesting");
        p.attach(20, stage2).expect("its own SMMU");
        let attached = p.state();
        p.script("recover d0");
        assert_eq!(p.attach(20, stage2), Err(Errno::EBUSY));
        assert_eq!(p.state(), "device name=d0 kind=none");
        p.script("recovered d0");
        p.ioas();
        assert_eq!(p.state(), attached, "its attachment is restored");
        p.script("recover d0");
        p.ioctl(20, uapi::DEVICE_DETACH_IOMMUFD_PT, &[0, 0])
            .expect("a detachment is always possible");
        p.script("recovered d0");
        p.ioas();
        assert_eq!(p.state(), "device name=d0 kind=none");
    }

    #[test]
    fn invalidate_executes_and_reports_entry_num() {
        let mut p = Process::new();
        let device = p.bind(20);
        let ioas = p.ioas();
        let stage2 = p.stage2(device, ioas).expect("nesting");
        let viommu = p.viommu(device, stage2).expect("nesting");
        p.host.log.take();
        assert_eq!(p.invalidate(viommu, &[[0x30, 0], [0x30, 0]]), (Ok(()), 2));
        let lines = p.host.log.take();
        assert_eq!(
            lines,
            [
                format!("call op=HWPT_INVALIDATE on=i viommu={viommu} n=2 cmds=0x30:0x0;0x30:0x0 entry_num=2 result=ok"),
                "issue smmu=a n=2 cmds=0x100000010:0x0;0x100000010:0x0".into(),
            ]
        );
        let bad = [[0x30, 0], [0, 0]];
        assert_eq!(p.invalidate(viommu, &bad), (Err(Errno::EIO), 1));
        p.script("contract block-start");
        assert_eq!(p.invalidate(viommu, &bad), (Err(Errno::EIO), 0));
        assert_eq!(p.invalidate(viommu, &[]), (Err(Errno::EINVAL), 0));
        assert_eq!(p.invalidate(99, &[[0x30, 0]]), (Err(Errno::ENOENT), 0));
        assert_eq!(p.invalidate(stage2, &[[0x30, 0]]), (Err(Errno::EINVAL), 0));
        p.host.log.take();
        p.script("fail HWPT_INVALIDATE errno=EIO entry_num=77 issued=1 count=1");
        assert_eq!(p.invalidate(viommu, &[[0x30, 0]; 3]), (Err(Errno::EIO), 77));
        assert_eq!(p.host.log.take().len(), 2);
        p.script("fail HWPT_INVALIDATE errno=ENOMEM");
        assert_eq!(
            p.invalidate(viommu, &[[0x30, 0]; 3]),
            (Err(Errno::ENOMEM), 3)
        );
    }

    #[test]
    fn call_before_bind_or_unknown_is_refused() {
        let mut p = Process::new();
        assert_eq!(p.attach(20, 1), Err(Errno::EINVAL));
        assert_eq!(
            p.ioctl(20, uapi::DEVICE_GET_INFO, &[0; 5]),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            p.ioctl(22, uapi::DEVICE_BIND_IOMMUFD, &[0, 10, 0]),
            Err(Errno::ENODEV)
        );
        assert_eq!(
            p.ioctl(20, uapi::DEVICE_BIND_IOMMUFD, &[0, 5, 0]),
            Err(Errno::EBADF)
        );
        assert_eq!(p.ioctl(10, 0x3b99, &[0]), Err(Errno::ENOTTY));
        assert_eq!(
            p.ioctl(10, uapi::IOAS_ALLOC.number, &[]),
            Err(Errno::EINVAL)
        );
        let mut long = [0; 20];
        p.ioctl(10, uapi::IOAS_ALLOC.number, &long)
            .expect("zeroes are no fields");
        long[19] = 1;
        assert_eq!(
            p.ioctl(10, uapi::IOAS_ALLOC.number, &long),
            Err(Errno::E2BIG)
        );
    }

    #[test]
    fn close_destroys_objects_of_file() {
        let mut p = Process::new();
        let device = p.bind(20);
        let ioas = p.ioas();
        let stage2 = p.stage2(device, ioas).expect("nesting");
        p.attach(20, stage2).expect("its own SMMU");
        assert_eq!(p.destroy(stage2), Err(Errno::EBUSY));
        p.host.close(&File::Device("d0".into()), 20);
        assert_eq!(p.destroy(stage2), Ok(()));
        assert_eq!(p.destroy(device), Err(Errno::ENOENT));
        assert_eq!(p.bind(20), device, "the file can be opened again");
        p.close_iommufd();
        assert_eq!(p.host.objects("i").iter().count(), 0);
    }
    /// Binds "d0" and returns its ID, its address space with 1 MiB at
    /// 1 GiB, and its stage 2.
    fn with_cmdqv(p: &mut Process, cmdqv: &str) -> [u32; 3] {
        p.script(&format!("smmu a cmdqv={cmdqv}"));
        let device = p.bind(20);
        let ioas = p.ioas();
        p.map_memory(ioas, 0x4000_0000, 0x10_0000).expect("free");
        let stage2 = p.stage2(device, ioas).expect("nesting");
        [device, ioas, stage2]
    }

    #[test]
    fn hw_info_of_cmdqv_is_scripted() {
        let mut p = Process::new();
        let device = p.bind(20);
        let words = [
            uapi::HW_INFO_INPUT_TYPE,
            device,
            8,
            0x1800,
            0,
            uapi::HW_INFO_TEGRA241_CMDQV,
            0,
            0,
            0,
        ];
        let number = uapi::GET_HW_INFO.number;
        assert_eq!(p.ioctl(10, number, &words), Err(Errno::EOPNOTSUPP));
        for (text, expected) in [
            ("version:1", (3, [0, 0x0004_0101])),
            ("vcmdqs:0,sids:2,version:2", (3, [0, 0x0002_0002])),
            ("type:2", (2, [0, 0x0004_0101])),
        ] {
            p.script(&format!("smmu a cmdqv={text}"));
            let answer = p.ioctl(10, number, &words).expect("it has one");
            let info =
                [0x1800, 0x1804].map(|at| uapi::read_u32(&p.memory, at).expect("in the page"));
            assert_eq!((answer[6], info), expected, "{text}");
        }
        p.script("fail GET_HW_INFO kind=cmdqv errno=EIO");
        assert_eq!(p.ioctl(10, number, &words), Err(Errno::EIO));
        let default = [0, device, 0, 0x1800, 0, 0, 0, 0, 0];
        p.ioctl(10, number, &default).expect("the other type");
    }

    #[test]
    fn vintfs_are_shared_and_limited() {
        let mut p = Process::new();
        let [device, ioas, stage2] = with_cmdqv(&mut p, "vintfs:2");
        assert_eq!(p.cmdqv_viommu(device, ioas), Err(Errno::ENOENT));
        let plain = p.viommu(device, stage2).expect("it needs no VINTF");
        let first = p.cmdqv_viommu(device, stage2).expect("free");
        assert_eq!(first.1, [0x1000, 0x1_0000]);
        p.script("smmu a cmdqv=vintfs:2,page:4096");
        let second = p.cmdqv_viommu(device, stage2).expect("free");
        assert_eq!(second.1, [0x1_1000, 0x1000]);
        p.script("smmu a cmdqv=vintfs:2");
        assert_eq!(p.cmdqv_viommu(device, stage2), Err(Errno::ENOSPC));
        p.destroy(first.0).expect("unused");
        let again = p.cmdqv_viommu(device, stage2).expect("free again");
        assert_eq!(again, first);
        p.script("smmu a");
        p.destroy(plain).expect("unused");
        assert_eq!(p.cmdqv_viommu(device, stage2), Err(Errno::EOPNOTSUPP));
        assert!(p.pages.metadata().expect("a file").len() >= 0x2_1000);
        let lines = p.host.log.take().join("\n");
        let line = format!(
            "new on=i id={} kind=cmdqv-viommu stage2={stage2} smmu=a vintf=1 offset=0x1000",
            first.0
        );
        assert!(lines.contains(&line), "{lines}");
        assert!(!lines.contains("trouble"), "{lines}");
    }

    #[test]
    fn vintf_page_can_be_mapped_unless_scripted() {
        let mut p = Process::new();
        let [device, _, stage2] = with_cmdqv(&mut p, "vintfs:1");
        assert_eq!(p.mmap(0x1000), Err(Errno::ENXIO));
        let (_, [offset, _]) = p.cmdqv_viommu(device, stage2).expect("free");
        assert_eq!(p.mmap(offset), Ok(()));
        p.script("fail MMAP errno=ENOMEM count=1");
        assert_eq!(p.mmap(offset), Err(Errno::ENOMEM));
        assert_eq!(p.mmap(offset), Ok(()));
        let bar = p.host.mmap(&File::Device("d0".into()), 20, 4096, 0, 0, 0);
        assert_eq!(bar, Ok(()), "the BAR of a device");
    }

    #[test]
    fn hw_queue_clears_its_registers_and_pins() {
        let mut p = Process::new();
        let [device, ioas, stage2] = with_cmdqv(&mut p, "vintfs:1");
        let (viommu, [offset, _]) = p.cmdqv_viommu(device, stage2).expect("free");
        let dirty = |process: &Process| {
            let bytes = [0xff; 2 * cmdqv::SLOT as usize];
            process
                .pages
                .write_all_at(&bytes, offset)
                .expect("in the page");
        };
        let slots = |process: &Process| {
            let mut bytes = [0; 2 * cmdqv::SLOT as usize];
            process
                .pages
                .read_exact_at(&mut bytes, offset)
                .expect("the page");
            [bytes[4], bytes[cmdqv::SLOT as usize + 4]]
        };
        assert_eq!(p.hw_queue(viommu, 0, 0x4000_0000, 0), Err(Errno::EINVAL));
        dirty(&p);
        let first = p.hw_queue(viommu, 0, 0x4000_0000, 4096).expect("free");
        assert_eq!(slots(&p), [0, 0xff]);
        let second = p.hw_queue(viommu, 1, 0x4000_1000, 4096).expect("free");
        assert_eq!(slots(&p), [0, 0]);
        dirty(&p);
        assert_eq!(p.destroy(first), Err(Errno::EBUSY));
        p.script("fail DESTROY kind=hwqueue index=1 errno=EIO count=1");
        assert_eq!(p.destroy(second), Err(Errno::EIO));
        assert_eq!(slots(&p), [0xff, 0xff]);
        let words = [ioas, 0x4000_0000, 0, 0x10_0000, 0];
        let unmapped = p.ioctl(10, uapi::IOAS_UNMAP.number, &words);
        assert_eq!(unmapped, Err(Errno::EBUSY));
        p.destroy(second).expect("unused");
        assert_eq!(slots(&p), [0xff, 0]);
        p.destroy(first).expect("unused");
        assert_eq!(slots(&p), [0, 0]);
        p.ioctl(10, uapi::IOAS_UNMAP.number, &words)
            .expect("no longer pinned");
        p.destroy(viommu).expect("unused");
        let lines = p.host.log.take().join("\n");
        for line in [
            format!("call op=HW_QUEUE_ALLOC on=i viommu={viommu} index=0 iova=0x40000000 length=0x0 result=EINVAL"),
            format!("new on=i id={first} kind=hwqueue viommu={viommu} index=0 iova=0x40000000 length=0x1000"),
            format!("gone on=i id={second} kind=hwqueue index=1"),
        ] {
            assert!(lines.contains(&line), "{line}\n{lines}");
        }
        assert!(!lines.contains("trouble"), "{lines}");
    }

    #[test]
    fn hw_queue_needs_vintf_and_type() {
        let mut p = Process::new();
        let [device, _, stage2] = with_cmdqv(&mut p, "vintfs:1");
        let plain = p.viommu(device, stage2).expect("nesting");
        let (viommu, _) = p.cmdqv_viommu(device, stage2).expect("free");
        let mut alloc = |flags, on, kind| {
            let words = [flags, on, kind, 0, 0, 0x4000_0000, 0, 4096, 0];
            p.ioctl(10, uapi::HW_QUEUE_ALLOC.number, &words).map(|_| ())
        };
        assert_eq!(alloc(1, viommu, 1), Err(Errno::EOPNOTSUPP));
        assert_eq!(alloc(0, viommu, 0), Err(Errno::EOPNOTSUPP));
        assert_eq!(alloc(0, viommu, 2), Err(Errno::EOPNOTSUPP));
        assert_eq!(alloc(0, plain, 1), Err(Errno::EOPNOTSUPP));
        assert_eq!(alloc(0, 99, 1), Err(Errno::ENOENT));
        assert_eq!(alloc(0, stage2, 1), Err(Errno::ENOENT));
        assert_eq!(alloc(0, viommu, 1), Ok(()));
    }

    #[test]
    fn vintf_has_veventq_of_each_type() {
        let mut p = Process::new();
        p.host.directory = env::temp_dir().join(format!("simhost-veventqs-{}", process::id()));
        fs::create_dir_all(&p.host.directory).expect("a directory");
        let [device, _, stage2] = with_cmdqv(&mut p, "vintfs:1");
        let plain = p.viommu(device, stage2).expect("nesting");
        let (viommu, _) = p.cmdqv_viommu(device, stage2).expect("free");
        let mut alloc = |on, kind, depth| {
            let words = [0, on, kind, depth, 0, 0, 0];
            p.ioctl(10, uapi::VEVENTQ_ALLOC.number, &words).map(|_| ())
        };
        assert_eq!(alloc(plain, 2, 16), Err(Errno::EOPNOTSUPP));
        assert_eq!(alloc(viommu, 2, (1 << 19) + 1), Err(Errno::EINVAL));
        for kind in [2, 1] {
            assert_eq!(alloc(viommu, kind, 1 << 19), Ok(()), "{kind}");
            assert_eq!(alloc(viommu, kind, 1 << 19), Err(Errno::EEXIST), "{kind}");
        }
        fs::remove_dir_all(&p.host.directory).expect("a directory");
    }
}
