// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The ioctls of /dev/iommu.

use std::{
    fmt::Write,
    fs, io,
    os::{
        fd::{IntoRawFd, RawFd},
        unix::net::UnixDatagram,
    },
};

use crate::{
    cmdqv::{self, Pages},
    errno::{Errno, Result},
    file::{self, File},
    host::{Host, Report},
    invalidation::{self, Outcome, Viommu},
    log::Words,
    memory::Memory,
    objects::{nested_kind, Id, Mappings, Object, Objects},
    script::{Circumstances, Fault},
    smmu::{self, Smmu},
    uapi::{self, Argument, Command},
};

mod cmdqv_calls;

/// The ranges of an I/O address space: 48 bits except for the MSI window.
const IOVA_RANGES: [[u64; 2]; 2] = [[0, 0x7ff_ffff], [0x810_0000, (1 << 48) - 1]];

/// One call on one iommufd.
struct Call<'a> {
    memory: &'a mut dyn Memory,
    iommufd: &'a str,
    fd: RawFd,
    argument: Argument,
    report: Report,
}

impl Call<'_> {
    fn field(&mut self, key: &str, value: impl std::fmt::Display) {
        if self.report.is_off {
            return;
        }
        let _ = write!(self.report.fields, " {key}={value}");
    }

    /// Reports the arguments of `HW_QUEUE_ALLOC`, whether it succeeds or not.
    fn hw_queue_fields(&mut self) {
        self.field("viommu", self.argument.u32(8));
        self.field("index", self.argument.u32(16));
        self.field("iova", format_args!("{:#x}", self.argument.u64(24)));
        self.field("length", format_args!("{:#x}", self.argument.u64(32)));
    }

    /// Reports a new object, which `text` describes.
    fn added(&mut self, id: Id, text: &str) {
        self.field("id", id);
        let line = format!("new on={} id={id} {text}", self.iommufd);
        self.report.lines.push(line);
    }

    fn respond(&mut self) -> Result<()> {
        self.argument.respond(self.memory)
    }

    /// Changes the pages of the iommufd.
    fn with_pages(&mut self, change: impl FnOnce(&Pages) -> io::Result<()>) {
        if let Err(error) = Pages::of(self.fd).and_then(|pages| change(&pages)) {
            let line = format!("trouble pages={} error={error:?}", self.iommufd);
            self.report.lines.push(line);
        }
    }
}

impl Host {
    pub(crate) fn iommufd_ioctl(
        &mut self,
        memory: &mut dyn Memory,
        iommufd: &str,
        fd: RawFd,
        request: u64,
        address: u64,
    ) -> Result<i32> {
        let known = uapi::IOMMUFD_COMMANDS
            .iter()
            .find(|command| command.number == request);
        let Some(command) = known else {
            let by = self.by();
            self.log.line(format_args!(
                "call op={request:#x} on={iommufd}{by} result=ENOTTY"
            ));
            return Err(Errno::ENOTTY);
        };
        let mut call = Call {
            argument: Argument::of_iommufd(memory, address, command)?,
            memory,
            iommufd,
            fd,
            report: Report {
                is_off: self.log.is_off(),
                ..Report::default()
            },
        };
        let result = self.iommufd_command(&mut call, command);
        self.record(command.name, iommufd, call.report, result);
        result.map(|()| 0)
    }

    fn iommufd_command(&mut self, call: &mut Call<'_>, command: &Command) -> Result<()> {
        match *command {
            uapi::HWPT_ALLOC => return self.hwpt_alloc(call),
            uapi::HWPT_INVALIDATE => return self.hwpt_invalidate(call),
            _ => {}
        }
        let device = match *command {
            uapi::GET_HW_INFO => Some(call.argument.u32(8)),
            uapi::VIOMMU_ALLOC => Some(call.argument.u32(12)),
            uapi::VDEVICE_ALLOC => Some(call.argument.u32(8)),
            _ => None,
        };
        let (kind, index) = match *command {
            uapi::DESTROY => self.kind(call.iommufd, call.argument.u32(4)),
            uapi::GET_HW_INFO => match call.argument.u32(24) {
                uapi::HW_INFO_TEGRA241_CMDQV => (Some("cmdqv"), None),
                _ => (Some("smmuv3"), None),
            },
            uapi::VIOMMU_ALLOC => match call.argument.u32(8) {
                uapi::VIOMMU_TEGRA241_CMDQV => (Some("cmdqv-viommu"), None),
                _ => (Some("viommu"), None),
            },
            uapi::VEVENTQ_ALLOC => match call.argument.u32(12) {
                uapi::VIOMMU_TEGRA241_CMDQV => (Some("cmdqv-veventq"), None),
                _ => (Some("veventq"), None),
            },
            uapi::HW_QUEUE_ALLOC => (Some("hwqueue"), Some(call.argument.u32(16))),
            _ => (None, None),
        };
        if *command == uapi::HW_QUEUE_ALLOC {
            call.hw_queue_fields();
        }
        let name = device.and_then(|id| self.device_name(call.iommufd, id));
        self.fault(&Circumstances {
            operation: command.name,
            device: name.as_deref(),
            kind,
            index,
        })?;
        match *command {
            uapi::DESTROY => self.destroy(call),
            uapi::IOAS_ALLOC => self.ioas_alloc(call),
            uapi::IOAS_IOVA_RANGES => self.ioas_iova_ranges(call),
            uapi::IOAS_MAP | uapi::IOAS_MAP_FILE => self.ioas_map(call),
            uapi::IOAS_UNMAP => self.ioas_unmap(call),
            uapi::GET_HW_INFO => self.get_hw_info(call),
            uapi::VIOMMU_ALLOC => self.viommu_alloc(call),
            uapi::VDEVICE_ALLOC => self.vdevice_alloc(call),
            uapi::VEVENTQ_ALLOC => self.veventq_alloc(call),
            uapi::HW_QUEUE_ALLOC => self.hw_queue_alloc(call),
            // nothing is pinned, for this process or another one
            uapi::IOAS_CHANGE_PROCESS => Ok(()),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// Returns the kind of an object, and the index of a hardware queue.
    fn kind(&mut self, iommufd: &str, id: Id) -> (Option<&'static str>, Option<u32>) {
        let object = self.objects(iommufd).get(id).ok();
        let index = match object {
            Some(Object::HwQueue(queue)) => Some(queue.index),
            _ => None,
        };
        (object.map(Object::kind), index)
    }

    fn device_name(&mut self, iommufd: &str, id: Id) -> Option<String> {
        let device = self.objects(iommufd).device(id).ok()?;
        Some(device.name.clone())
    }

    /// Returns the SMMU of a device.
    fn smmu_of(&mut self, iommufd: &str, device: Id) -> Result<Smmu> {
        let name = self.objects(iommufd).device(device)?.smmu.clone();
        self.script.smmu(&name).cloned().ok_or(Errno::ENODEV)
    }

    fn add(&mut self, call: &mut Call<'_>, object: Object) -> Id {
        let text = object.to_string();
        let id = self.objects(call.iommufd).add(object);
        call.added(id, &text);
        id
    }

    fn destroy(&mut self, call: &mut Call<'_>) -> Result<()> {
        let id = call.argument.u32(4);
        call.field("id", id);
        if self.is_in_use(call.iommufd, id) {
            return Err(Errno::EBUSY);
        }
        if let Ok(Some(vintf)) = self.objects(call.iommufd).vintf(id) {
            if cmdqv::is_mapped(call.iommufd, vintf.offset) {
                return Err(Errno::EBUSY);
            }
        }
        let object = self.objects(call.iommufd).destroy(id)?;
        let kind = object.kind();
        let index = match &object {
            Object::HwQueue(queue) => format!(" index={}", queue.index),
            _ => String::new(),
        };
        let iommufd = call.iommufd;
        let line = format!("gone on={iommufd} id={id} kind={kind}{index}");
        call.report.lines.push(line);
        if let Object::Veventq { .. } = object {
            let _ = fs::remove_file(file::veventq_path(&self.directory, call.iommufd, id));
        }
        if let Object::HwQueue(queue) = object {
            if let Some(vintf) = self.objects(call.iommufd).vintf(queue.viommu)? {
                call.with_pages(|pages| pages.clear_slot(vintf, queue.index));
            }
        }
        Ok(())
    }

    fn ioas_alloc(&mut self, call: &mut Call<'_>) -> Result<()> {
        if call.argument.u32(4) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let id = self.add(call, Object::Ioas(Mappings::default()));
        call.argument.set_u32(8, id);
        call.respond()
    }

    fn mappings(&mut self, iommufd: &str, id: Id) -> Result<&mut Mappings> {
        match self.objects(iommufd).get_mut(id)? {
            Object::Ioas(mappings) => Ok(mappings),
            _ => Err(Errno::ENOENT),
        }
    }

    fn ioas_iova_ranges(&mut self, call: &mut Call<'_>) -> Result<()> {
        self.mappings(call.iommufd, call.argument.u32(4))?;
        let room = call.argument.u32(8) as usize;
        let array = call.argument.u64(16);
        for (range, at) in IOVA_RANGES.iter().take(room).zip((array..).step_by(16)) {
            let bytes = range.map(u64::to_ne_bytes).concat();
            call.memory.write(at, &bytes)?;
        }
        call.argument.set_u32(8, IOVA_RANGES.len() as u32);
        call.argument.set_u64(24, 4096);
        call.respond()?;
        if room < IOVA_RANGES.len() {
            return Err(Errno::EMSGSIZE);
        }
        Ok(())
    }

    /// Handles `IOAS_MAP` and `IOAS_MAP_FILE`, which have length and address in
    /// the same places.
    fn ioas_map(&mut self, call: &mut Call<'_>) -> Result<()> {
        let (flags, id) = (call.argument.u32(4), call.argument.u32(8));
        let (length, iova) = (call.argument.u64(24), call.argument.u64(32));
        call.field("ioas", id);
        call.field("iova", format_args!("{iova:#x}"));
        call.field("length", format_args!("{length:#x}"));
        if flags & !uapi::MAP_FLAGS != 0 || flags & 1 == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let writeable = flags & uapi::MAP_WRITEABLE != 0;
        self.mappings(call.iommufd, id)?
            .map(iova, length, writeable)
    }

    fn ioas_unmap(&mut self, call: &mut Call<'_>) -> Result<()> {
        let (id, iova, length) = (
            call.argument.u32(4),
            call.argument.u64(8),
            call.argument.u64(16),
        );
        call.field("ioas", id);
        call.field("iova", format_args!("{iova:#x}"));
        call.field("length", format_args!("{length:#x}"));
        let unmapped = self.objects(call.iommufd).unmap(id, iova, length)?;
        call.argument.set_u64(16, unmapped);
        call.respond()
    }

    fn get_hw_info(&mut self, call: &mut Call<'_>) -> Result<()> {
        let (flags, device) = (call.argument.u32(4), call.argument.u32(8));
        let (room, address, wanted) = (
            call.argument.u32(12),
            call.argument.u64(16),
            call.argument.u32(24),
        );
        call.field("device", device);
        if flags & !uapi::HW_INFO_INPUT_TYPE != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let smmu = self.smmu_of(call.iommufd, device)?;
        let wanted = if flags == 0 { 0 } else { wanted };
        let (kind, bytes) = match (wanted, smmu.cmdqv) {
            (uapi::HW_INFO_TEGRA241_CMDQV, Some(cmdqv)) => (cmdqv.kind, cmdqv.hw_info().to_vec()),
            _ if wanted != 0 && wanted != smmu.kind => return Err(Errno::EOPNOTSUPP),
            _ => (smmu.kind, smmu.hw_info()),
        };
        let mut answer = bytes.clone();
        answer.resize(room as usize, 0);
        call.memory.write(address, &answer)?;
        call.argument.set_u32(12, bytes.len() as u32);
        call.argument.set_u32(24, kind);
        call.argument.set_u32(28, smmu.ssid_bits());
        let capabilities = if smmu.has_ats() {
            0
        } else {
            uapi::HW_CAP_ATS_NOT_SUPPORTED
        };
        call.argument.set_u64(32, capabilities);
        call.respond()
    }

    fn hwpt_alloc(&mut self, call: &mut Call<'_>) -> Result<()> {
        let [flags, device, parent] = [4, 8, 12].map(|at| call.argument.u32(at));
        let (reserved, data_type, data_len) = (
            call.argument.u32(20),
            call.argument.u32(24),
            call.argument.u32(28),
        );
        let data = call.argument.u64(32);
        let ste = match data_type {
            uapi::HWPT_DATA_ARM_SMMUV3 => Some(uapi::read_words::<2>(call.memory, data)?),
            _ => None,
        };
        let kind = match ste.map(smmu::nested) {
            None => "s2",
            Some(Ok(nested)) => nested_kind(nested),
            Some(Err(_)) => "bad",
        };
        call.field("device", device);
        call.field("parent", parent);
        call.field("kind", kind);
        if let Some(ste) = ste {
            call.field("ste", Words(&[ste]));
        }
        let name = self.device_name(call.iommufd, device);
        self.fault(&Circumstances {
            operation: uapi::HWPT_ALLOC.name,
            device: name.as_deref(),
            kind: Some(kind),
            index: None,
        })?;

        if reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if (data_type == uapi::HWPT_DATA_NONE) != (data_len == 0) {
            return Err(Errno::EINVAL);
        }
        let smmu = self.smmu_of(call.iommufd, device)?;
        let object = match self
            .objects(call.iommufd)
            .get(parent)
            .map_err(|_| Errno::EINVAL)?
        {
            Object::Ioas(_) => self.stage2(&smmu, parent, flags, data_type)?,
            Object::Viommu { .. } => {
                let ste = ste.ok_or(Errno::EINVAL)?;
                if flags & !(uapi::HWPT_FAULT_ID_VALID | uapi::HWPT_PASID) != 0 || flags != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                if data_len != 16 {
                    return Err(Errno::EINVAL);
                }
                Object::Nested {
                    viommu: parent,
                    ste,
                    nested: smmu::nested(ste)?,
                }
            }
            // nested HWPTs are allocated on vIOMMUs only
            Object::Stage2 { .. } => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EINVAL),
        };
        let id = self.add(call, object);
        call.argument.set_u32(16, id);
        call.respond()
    }

    fn stage2(&mut self, smmu: &Smmu, ioas: Id, flags: u32, data_type: u32) -> Result<Object> {
        let known = uapi::HWPT_NEST_PARENT | uapi::HWPT_DIRTY_TRACKING | uapi::HWPT_PASID;
        let nest_parent = flags & uapi::HWPT_NEST_PARENT != 0;
        let cannot = flags & !known != 0
            || flags & uapi::HWPT_DIRTY_TRACKING != 0
            || (nest_parent && !smmu.nesting);
        if cannot || data_type != uapi::HWPT_DATA_NONE {
            return Err(Errno::EOPNOTSUPP);
        }
        let vmid = self.next_vmid;
        self.next_vmid = vmid.wrapping_add(1);
        Ok(Object::Stage2 {
            ioas,
            smmu: smmu.name.clone(),
            nest_parent,
            vmid,
        })
    }

    fn viommu_alloc(&mut self, call: &mut Call<'_>) -> Result<()> {
        let [flags, kind, device, stage2] = [4, 8, 12, 16].map(|at| call.argument.u32(at));
        call.field("device", device);
        call.field("parent", stage2);
        call.field("type", kind);
        let smmu = self.smmu_of(call.iommufd, device)?;
        let cmdqv = match kind {
            uapi::VIOMMU_ARM_SMMUV3 => None,
            uapi::VIOMMU_TEGRA241_CMDQV => Some(smmu.cmdqv.ok_or(Errno::EOPNOTSUPP)?),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if flags != 0 || !smmu.nesting {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.objects(call.iommufd).get(stage2)? {
            Object::Stage2 {
                nest_parent: true,
                smmu: of,
                ..
            } if *of == smmu.name => {}
            Object::Stage2 { .. } => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOENT),
        }
        let vintf = match cmdqv {
            Some(cmdqv) => Some(self.take_vintf(call, &smmu, cmdqv)?),
            None => None,
        };
        let object = Object::Viommu {
            stage2,
            smmu: smmu.name,
            vintf,
        };
        let id = self.add(call, object);
        call.argument.set_u32(20, id);
        call.respond()
    }

    fn vdevice_alloc(&mut self, call: &mut Call<'_>) -> Result<()> {
        let (viommu, device, virt_id) = (
            call.argument.u32(4),
            call.argument.u32(8),
            call.argument.u64(16),
        );
        call.field("viommu", viommu);
        call.field("device", device);
        call.field("sid", format_args!("{virt_id:#x}"));
        let objects = self.objects(call.iommufd);
        let id = objects.add_vdevice(viommu, device, virt_id)?;
        let text = objects.get(id)?.to_string();
        call.added(id, &text);
        call.argument.set_u32(12, id);
        call.respond()
    }

    fn veventq_alloc(&mut self, call: &mut Call<'_>) -> Result<()> {
        let [flags, viommu, kind, depth] = [4, 8, 12, 16].map(|at| call.argument.u32(at));
        call.field("viommu", viommu);
        call.field("type", kind);
        call.field("depth", depth);
        if flags != 0 || kind == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if depth == 0 || depth > uapi::VEVENTQ_DEPTH {
            return Err(Errno::EINVAL);
        }
        let objects = self.objects(call.iommufd);
        let cmdqv = match (kind, objects.vintf(viommu)?) {
            (uapi::VIOMMU_ARM_SMMUV3, _) => false,
            (uapi::VIOMMU_TEGRA241_CMDQV, Some(_)) => true,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let exists = objects.iter().any(|(_, object)| {
            matches!(object, Object::Veventq { viommu: of, cmdqv: known, .. }
                if (*of, *known) == (viommu, cmdqv))
        });
        if exists {
            return Err(Errno::EEXIST);
        }
        let id = self.add(
            call,
            Object::Veventq {
                viommu,
                cmdqv,
                open: true,
                polled: false,
            },
        );
        let path = file::veventq_path(&self.directory, call.iommufd, id);
        // one read returns one datagram: whole entries, as in the kernel
        let fd = match UnixDatagram::bind(&path) {
            Ok(socket) => socket.into_raw_fd(),
            Err(error) => {
                let line = format!("trouble socket={} error={error:?}", path.display());
                call.report.lines.push(line);
                return Err(Errno::ENOMEM);
            }
        };
        self.opened(File::Veventq(call.iommufd.to_owned(), id), fd);
        call.argument.set_u32(20, id);
        call.argument.set_u32(24, fd as u32);
        call.respond()
    }

    /// Records that a thread polls the file. The kernel keeps it open until the
    /// poll ends, even if another thread closes it.
    pub(crate) fn poll_veventq(&mut self, iommufd: &str, id: Id) {
        if let Ok(Object::Veventq { polled, .. }) = self.objects(iommufd).get_mut(id) {
            *polled = true;
        }
    }

    /// Handles the close of the last descriptor. Models the worst case: a
    /// thread that has polled the file is still polling it.
    pub(crate) fn close_veventq(&mut self, iommufd: &str, id: Id) {
        if let Ok(Object::Veventq { open, polled, .. }) = self.objects(iommufd).get_mut(id) {
            *open = *polled;
            self.log
                .line(format_args!("close veventq={id} on={iommufd}"));
        }
    }

    fn hwpt_invalidate(&mut self, call: &mut Call<'_>) -> Result<()> {
        let count = call.argument.u32(24);
        call.field("viommu", call.argument.u32(4));
        call.field("n", count);
        let outcome = self
            .invalidate(call)
            .unwrap_or_else(|(errno, entry_num)| Outcome {
                result: Err(errno),
                entry_num,
                issued: Vec::new(),
            });
        call.field("entry_num", outcome.entry_num);
        call.argument.set_u32(24, outcome.entry_num);
        call.respond()?;
        outcome.result
    }

    /// Handles `HWPT_INVALIDATE`. Errors that are detected before any command
    /// is read come with the value that is written back.
    fn invalidate(&mut self, call: &mut Call<'_>) -> std::result::Result<Outcome, (Errno, u32)> {
        let [id, kind, length, count, reserved] =
            [4, 16, 20, 24, 28].map(|at| call.argument.u32(at));
        let array = call.argument.u64(8);
        let nothing = |errno| (errno, 0);
        if reserved != 0 {
            return Err(nothing(Errno::EOPNOTSUPP));
        }
        let bad_array = array == 0 || length == 0 || length > 4096 || count > invalidation::MOST;
        if count > 0 && bad_array {
            return Err(nothing(Errno::EINVAL));
        }
        let Some(target) = self.viommu(call.iommufd, id).map_err(nothing)? else {
            return Err(nothing(Errno::EOPNOTSUPP));
        };
        if kind != uapi::INVALIDATE_ARM_SMMUV3 || count == 0 || length < 16 {
            return Err(nothing(Errno::EINVAL));
        }
        if 16 * u64::from(count) > 4 << 20 {
            return Err((Errno::ENOMEM, count));
        }
        let commands = uapi::read_array(call.memory, array, length as usize, count as usize)
            .map_err(nothing)?;
        call.field("cmds", Words(&commands));

        let contract = self.script.contract();
        let outcome = match self.take_fault(&Circumstances {
            operation: uapi::HWPT_INVALIDATE.name,
            ..Circumstances::default()
        }) {
            Some(Fault {
                errno: Some(errno),
                entry_num,
                issued,
                ..
            }) => {
                let done = &commands[..commands.len().min(issued as usize)];
                let natural = match errno {
                    Errno::ETIMEDOUT => invalidation::entry_num_of_timeout(contract, count),
                    Errno::ENOMEM => count,
                    _ => 0,
                };
                Outcome {
                    result: Err(errno),
                    entry_num: entry_num.unwrap_or(natural),
                    issued: invalidation::run(contract, &target, done).issued,
                }
            }
            _ => invalidation::run(contract, &target, &commands),
        };
        let logged = if self.log.is_off() {
            &[][..]
        } else {
            &outcome.issued
        };
        for block in logged {
            let (smmu, n) = (&target.smmu.name, block.len());
            call.report
                .lines
                .push(format!("issue smmu={smmu} n={n} cmds={}", Words(block)));
        }
        Ok(outcome)
    }

    /// Returns the vIOMMU `id`, or `None` if the object caches nothing.
    fn viommu(&mut self, iommufd: &str, id: Id) -> Result<Option<Target>> {
        let objects = self.objects(iommufd).clone();
        let (stage2, name) = match objects.get(id)? {
            Object::Viommu { stage2, smmu, .. } => (*stage2, smmu.clone()),
            Object::Nested { .. } => return Ok(None),
            _ => return Err(Errno::EINVAL),
        };
        let Object::Stage2 { vmid, .. } = objects.get(stage2)? else {
            return Err(Errno::EINVAL);
        };
        let vmid = *vmid;
        let smmu = self.script.smmu(&name).cloned().ok_or(Errno::ENODEV)?;
        Ok(Some(Target {
            smmu,
            vmid,
            id,
            objects,
        }))
    }
}

/// A vIOMMU that commands go to.
struct Target {
    smmu: Smmu,
    vmid: u16,
    id: Id,
    objects: Objects,
}

impl Viommu for Target {
    fn smmu(&self) -> &Smmu {
        &self.smmu
    }

    fn vmid(&self) -> u16 {
        self.vmid
    }

    fn stream(&self, vsid: u32) -> Option<u32> {
        let device = self.objects.device_of(self.id, vsid.into())?;
        Some(device.sid)
    }
}
