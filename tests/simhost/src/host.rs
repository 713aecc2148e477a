// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The simulated host as a whole: the effects of a process's calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::RawFd,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    errno::{Errno, Result},
    file::File,
    log::{Log, Words},
    memory::Memory,
    objects::{nested_kind, Device, Object, Objects},
    script::{Circumstances, Fault, Script},
    vfio::VfioDevice,
};

/// The effects of an ioctl, for the log.
#[derive(Debug, Default)]
pub(crate) struct Report {
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
    pub(crate) next_vmid: u16,
    /// The descriptors of each file that the process is known to have
    open: BTreeMap<File, BTreeSet<RawFd>>,
    /// Devices that the log shows as blocked because they are being recovered
    recovering: BTreeSet<String>,
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
            next_vmid: 1,
            open: BTreeMap::new(),
            recovering: BTreeSet::new(),
        }
    }

    /// Records a descriptor of the process.
    pub(crate) fn opened(&mut self, file: File, fd: RawFd) {
        self.open.entry(file).or_default().insert(fd);
    }

    /// Returns the virtual event queue of which `fd` is a descriptor.
    pub fn veventq(&self, fd: RawFd) -> Option<File> {
        let mut files = self.open.iter();
        let known =
            files.find(|(file, fds)| matches!(file, File::Veventq(..)) && fds.contains(&fd));
        known.map(|(file, _)| file.clone())
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
    fn arrive(&mut self, file: &File, fd: RawFd) -> Result<()> {
        if let Err(lines) = self.script.refresh() {
            for line in lines {
                self.log.line(format_args!("trouble script={line:?}"));
            }
        }
        self.opened(file.clone(), fd);
        self.detach_lost();
        self.note_recoveries();
        match self.script.loss_of(file.name()) {
            Some(errno) => Err(errno),
            None => Ok(()),
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
            let name = file.name();
            self.log.line(format_args!(
                "call op={request:#x} on={name} result={errno}"
            ));
            return Err(errno);
        }
        match file {
            File::Iommufd(name) => self.iommufd_ioctl(memory, name, request, address),
            File::Device(name) => self.device_ioctl(memory, name, request, address, iommufd_of),
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
        let last = self
            .open
            .get_mut(file)
            .is_some_and(|fds| fds.remove(&fd) && fds.is_empty());
        if !last {
            return;
        }
        self.open.remove(file);
        match file {
            File::Iommufd(name) => {
                self.iommufds.remove(name);
                self.log.line(format_args!("close iommufd={name}"));
            }
            File::Device(name) => self.close_device(name),
            File::Veventq(iommufd, id) => self.close_veventq(iommufd, *id),
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

    /// Writes the line of a call and those that follow from it.
    pub(crate) fn record(&mut self, operation: &str, on: &str, report: Report, result: Result<()>) {
        let result = match result {
            Ok(()) => "ok".to_owned(),
            Err(errno) => errno.to_string(),
        };
        let fields = report.fields;
        self.log.line(format_args!(
            "call op={operation} on={on}{fields} result={result}"
        ));
        for line in report.lines {
            self.log.line(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi;

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
            }
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
            self.host
                .ioctl(&mut self.memory, &of, fd, request, 0x1000, &file)?;
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
        p.host.close(&File::Iommufd("i".into()), 10);
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
        p.host.close(&File::Iommufd("i".into()), 10);
        assert_eq!(p.host.objects("i").iter().count(), 0);
    }
}
