// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The cdev of an assigned PCI device.

use std::{fmt::Write, os::fd::RawFd};

use crate::{
    errno::{Errno, Result},
    file::File,
    host::{Host, Report},
    memory::Memory,
    migration::{Capabilities, Migration, State},
    objects::{Device, Id, Object},
    pci::{ConfigSpace, BAR0_SIZE, CONFIG_SIZE},
    script::Circumstances,
    stored::stored_struct,
    uapi::{self, Argument},
};

const BAR0: u32 = 0;
/// Name prefix of devices whose BAR can be mapped; it is at offset 0 of their
/// file.
const MAPPED: &str = "mapped";
const CONFIG: u32 = 7;
const REGIONS: u32 = 9;
const IRQS: u32 = 5;
/// The error and the request interrupt have one vector each.
const FIRST_IRQ: u32 = 3;
/// The `data_fd` of a change of state that begins no session
const NO_FILE: u32 = u32::MAX;
/// The bits of a file offset that are the number of the region.
const REGION_SHIFT: u32 = 40;

/// An assigned device in VFIO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VfioDevice {
    /// The iommufd that it is bound to, and its ID there
    pub binding: Option<(String, Id)>,
    config: ConfigSpace,
}

stored_struct!(VfioDevice { binding, config });

impl Host {
    fn vfio_device(&mut self, name: &str) -> &mut VfioDevice {
        self.devices.entry(name.to_owned()).or_default()
    }

    /// Returns the migration of a device. It is one process's: in a live update of QEMU no device
    /// migrates.
    fn migration(&mut self, name: &str) -> &mut Migration {
        self.migrations.entry(name.to_owned()).or_default()
    }

    /// Returns the region of a file offset, and the offset in the region.
    fn region(offset: u64) -> (u32, u64) {
        (
            (offset >> REGION_SHIFT) as u32,
            offset & ((1 << REGION_SHIFT) - 1),
        )
    }

    pub(crate) fn device_pread(
        &mut self,
        name: &str,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        match Self::region(offset) {
            (CONFIG, at) => Ok(self.vfio_device(name).config.read(at, buffer)),
            (BAR0, at) if at < BAR0_SIZE => {
                // registers without function
                buffer.fill(0);
                Ok(buffer.len())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn device_pwrite(&mut self, name: &str, bytes: &[u8], offset: u64) -> Result<usize> {
        match Self::region(offset) {
            (CONFIG, at) => {
                let config = &mut self.vfio_device(name).config;
                let count = config.write(at, bytes);
                if ConfigSpace::asks_for_reset(at, bytes) {
                    config.reset();
                    self.log.line(format_args!("flr device={name}"));
                    self.reset_migration(name);
                }
                Ok(count)
            }
            (BAR0, at) if at < BAR0_SIZE => Ok(bytes.len()),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn device_ioctl(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        request: u64,
        address: u64,
        file_of: &dyn Fn(RawFd) -> Option<File>,
    ) -> Result<i32> {
        let mut report = Report::default();
        let (operation, result) = match request {
            uapi::DEVICE_BIND_IOMMUFD => (
                "BIND",
                self.bind(memory, name, address, file_of, &mut report),
            ),
            uapi::DEVICE_ATTACH_IOMMUFD_PT => {
                ("ATTACH", self.attach(memory, name, address, &mut report))
            }
            uapi::DEVICE_DETACH_IOMMUFD_PT => {
                ("DETACH", self.detach(memory, name, address, &mut report))
            }
            uapi::DEVICE_GET_INFO => ("GET_INFO", self.get_info(memory, name, address)),
            uapi::DEVICE_GET_REGION_INFO => (
                "GET_REGION_INFO",
                self.get_region_info(memory, name, address),
            ),
            uapi::DEVICE_GET_IRQ_INFO => ("GET_IRQ_INFO", self.get_irq_info(memory, name, address)),
            uapi::DEVICE_SET_IRQS => ("SET_IRQS", self.simple("SET_IRQS", name)),
            uapi::DEVICE_RESET => ("RESET", self.reset(name)),
            uapi::DEVICE_FEATURE => ("FEATURE", self.feature(memory, name, address, &mut report)),
            _ => ("unknown", Err(Errno::ENOTTY)),
        };
        if operation == "unknown" {
            let _ = write!(report.fields, " request={request:#x}");
        }
        self.record(operation, name, report, result);
        result.map(|()| 0)
    }

    /// Applies the script to a call that concerns only the device.
    fn simple(&mut self, operation: &str, name: &str) -> Result<()> {
        self.fault(&Circumstances {
            operation,
            device: Some(name),
            ..Circumstances::default()
        })
    }

    fn bind(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        address: u64,
        file_of: &dyn Fn(RawFd) -> Option<File>,
        report: &mut Report,
    ) -> Result<()> {
        let mut argument = Argument::of_vfio(memory, address, 16, 16)?;
        self.simple("BIND", name)?;
        let line = self.script.device(name).cloned().ok_or(Errno::ENODEV)?;
        if argument.u32(4) != 0 || self.vfio_device(name).binding.is_some() {
            return Err(Errno::EINVAL);
        }
        let iommufd = match file_of(argument.u32(8) as RawFd) {
            Some(File::Iommufd(iommufd)) => iommufd,
            Some(_) => return Err(Errno::EINVAL),
            None => return Err(Errno::EBADF),
        };
        let id = self.objects(&iommufd).add(Object::Device(Device {
            name: name.to_owned(),
            smmu: line.smmu,
            sid: line.sid,
            attached: None,
            noted_vsid: None,
        }));
        let _ = write!(report.fields, " iommufd={iommufd} id={id}");
        report
            .lines
            .push(format!("new on={iommufd} id={id} kind=device name={name}"));
        self.vfio_device(name).binding = Some((iommufd, id));
        report.lines.push(self.state_of_device(name));
        argument.set_u32(12, id);
        argument.respond(memory)
    }

    fn binding(&mut self, name: &str) -> Result<(String, Id)> {
        self.vfio_device(name).binding.clone().ok_or(Errno::EINVAL)
    }

    fn attach(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        address: u64,
        report: &mut Report,
    ) -> Result<()> {
        let mut argument = Argument::of_vfio(memory, address, 12, 16)?;
        let (flags, table) = (argument.u32(4), argument.u32(8));
        let (iommufd, id) = self.binding(name)?;
        let kind = self
            .objects(&iommufd)
            .get(table)
            .map_or("missing", Object::kind);
        let _ = write!(report.fields, " hwpt={table} kind={kind}");
        self.fault(&Circumstances {
            operation: "ATTACH",
            device: Some(name),
            kind: Some(kind),
            index: None,
        })?;
        if flags != 0 {
            // no PASIDs
            return Err(Errno::EOPNOTSUPP);
        }
        if self.script.is_recovering(name) {
            return Err(Errno::EBUSY);
        }
        self.objects(&iommufd).attach(id, table)?;
        report.lines.push(self.state_of_device(name));
        argument.set_u32(8, table);
        argument.respond(memory)
    }

    fn detach(
        &mut self,
        memory: &dyn Memory,
        name: &str,
        address: u64,
        report: &mut Report,
    ) -> Result<()> {
        let argument = Argument::of_vfio(memory, address, 8, 12)?;
        self.simple("DETACH", name)?;
        if argument.u32(4) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (iommufd, id) = self.binding(name)?;
        self.objects(&iommufd).detach(id)?;
        report.lines.push(self.state_of_device(name));
        Ok(())
    }

    /// Calls are refused until the device is bound.
    fn get_info(&mut self, memory: &mut dyn Memory, name: &str, address: u64) -> Result<()> {
        let mut argument = Argument::of_vfio(memory, address, 16, 24)?;
        self.binding(name)?;
        self.simple("GET_INFO", name)?;
        argument.set_u32(4, uapi::DEVICE_FLAGS);
        argument.set_u32(8, REGIONS);
        argument.set_u32(12, IRQS);
        argument.respond(memory)
    }

    fn get_region_info(&mut self, memory: &mut dyn Memory, name: &str, address: u64) -> Result<()> {
        let mut argument = Argument::of_vfio(memory, address, 32, 32)?;
        self.binding(name)?;
        self.simple("GET_REGION_INFO", name)?;
        let index = argument.u32(8);
        let size = match index {
            BAR0 => BAR0_SIZE,
            CONFIG => CONFIG_SIZE,
            _ if index < REGIONS => 0,
            _ => return Err(Errno::EINVAL),
        };
        let mut flags = if size > 0 { uapi::REGION_READ_WRITE } else { 0 };
        if index == BAR0 && name.starts_with(MAPPED) {
            flags |= uapi::REGION_MMAP;
        }
        argument.set_u32(4, flags);
        argument.set_u32(12, 0);
        argument.set_u64(16, size);
        argument.set_u64(24, u64::from(index) << REGION_SHIFT);
        argument.respond(memory)
    }

    fn get_irq_info(&mut self, memory: &mut dyn Memory, name: &str, address: u64) -> Result<()> {
        let mut argument = Argument::of_vfio(memory, address, 16, 16)?;
        self.binding(name)?;
        self.simple("GET_IRQ_INFO", name)?;
        let index = argument.u32(8);
        if index >= IRQS {
            return Err(Errno::EINVAL);
        }
        argument.set_u32(4, uapi::IRQ_EVENTFD);
        argument.set_u32(12, u32::from(index >= FIRST_IRQ));
        argument.respond(memory)
    }

    fn reset(&mut self, name: &str) -> Result<()> {
        self.binding(name)?;
        self.simple("RESET", name)?;
        self.vfio_device(name).config.reset();
        self.reset_migration(name);
        Ok(())
    }

    fn reset_migration(&mut self, name: &str) {
        if self.migration(name).reset() {
            self.log_migration(name);
        }
    }

    fn log_migration(&mut self, name: &str) {
        let state = self.migration(name).state();
        self.log
            .line(format_args!("migration name={name} state={state}"));
    }

    /// A device offers nothing but migration.
    fn feature(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        address: u64,
        report: &mut Report,
    ) -> Result<()> {
        let mut argument = Argument::of_vfio(memory, address, 8, 16)?;
        let flags = argument.u32(4);
        let number = flags & uapi::FEATURE_MASK;
        let line = self.script.device(name);
        let capabilities = line.and_then(|line| line.migration).ok_or(Errno::ENOTTY)?;
        let (probe, length) = match number {
            uapi::FEATURE_MIG_DEVICE_STATE => (uapi::FEATURE_GET | uapi::FEATURE_SET, 8),
            uapi::FEATURE_MIGRATION | uapi::FEATURE_MIG_DATA_SIZE => (uapi::FEATURE_GET, 8),
            uapi::FEATURE_MIG_PRECOPY_INFO_V2 if capabilities.has(State::PreCopy) => {
                (uapi::FEATURE_SET, 0)
            }
            uapi::FEATURE_DMA_LOGGING_START if capabilities.dma_logging => (uapi::FEATURE_SET, 8),
            _ => return Err(Errno::ENOTTY),
        };
        let _ = write!(report.fields, " feature={number}");
        let wanted = flags & (uapi::FEATURE_GET | uapi::FEATURE_SET);
        if wanted & !probe != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & uapi::FEATURE_PROBE != 0 {
            return Ok(());
        }
        // the caller's size, which is at the beginning
        if argument.u32(0) < 8 + length {
            return Err(Errno::EINVAL);
        }
        match (number, wanted) {
            (uapi::FEATURE_MIGRATION, uapi::FEATURE_GET) => {
                argument.set_u64(8, capabilities.flags());
            }
            (uapi::FEATURE_MIG_DATA_SIZE, uapi::FEATURE_GET) => {
                argument.set_u64(8, capabilities.size);
            }
            (uapi::FEATURE_MIG_DEVICE_STATE, uapi::FEATURE_GET) => {
                argument.set_u32(8, self.migration(name).state().number());
                argument.set_u32(12, NO_FILE);
            }
            (uapi::FEATURE_MIG_DEVICE_STATE, uapi::FEATURE_SET) => {
                let state = State::of(argument.u32(8)).ok_or(Errno::EINVAL)?;
                let _ = write!(report.fields, " state={state}");
                let file = self.change_state(name, state, capabilities)?;
                argument.set_u32(12, file.map_or(NO_FILE, |file| file as u32));
            }
            (uapi::FEATURE_MIG_PRECOPY_INFO_V2, uapi::FEATURE_SET) => return Ok(()),
            _ => return Err(Errno::EINVAL),
        }
        argument.respond(memory)
    }

    /// Has the device go to a state, step by step. Returns the file of a session that
    /// begins.
    fn change_state(
        &mut self,
        name: &str,
        wanted: State,
        capabilities: Capabilities,
    ) -> Result<Option<RawFd>> {
        self.fault(&Circumstances {
            operation: "MIG_DEVICE_STATE",
            device: Some(name),
            kind: Some(wanted.name()),
            index: None,
        })?;
        let from = self.migration(name).state();
        let mut file = None;
        for next in capabilities.path(from, wanted)? {
            let result = self.migration(name).enter(next, capabilities);
            self.log_migration(name);
            if let Some(fd) = result? {
                self.opened(File::Migration(name.to_owned()), fd);
                file = Some(fd);
            }
        }
        Ok(file)
    }

    /// Handles an `ioctl` on the file of a session. Nothing is left to read before the
    /// device stops.
    pub(crate) fn session_ioctl(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        request: u64,
        address: u64,
    ) -> Result<i32> {
        if request != uapi::MIG_GET_PRECOPY_INFO {
            return Err(Errno::ENOTTY);
        }
        let state = self.migration(name).state();
        if !matches!(state, State::PreCopy | State::PreCopyP2p) {
            return Err(Errno::EINVAL);
        }
        let mut argument = Argument::of_vfio(memory, address, 24, 24)?;
        argument.set_u64(8, 0);
        argument.set_u64(16, 0);
        argument.respond(memory)?;
        Ok(0)
    }

    /// Handles the close of the last descriptor: the device is unbound.
    pub(crate) fn close_device(&mut self, name: &str) {
        if let Some((iommufd, id)) = self.devices.remove(name).and_then(|device| device.binding) {
            self.objects(&iommufd).unbind(id);
            self.log.line(format_args!("close device={name}"));
            self.log
                .line(format_args!("gone on={iommufd} id={id} kind=device"));
            let state = self.state_of_device(name);
            self.log.line(state);
        }
    }
}
