// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The calls of CMDQ virtualization.

use std::os::fd::RawFd;

use super::Call;
use crate::{
    cmdqv::{self, Cmdqv, Vintf},
    errno::{Errno, Result},
    file::File,
    host::{Host, Report},
    script::Circumstances,
    smmu::Smmu,
    uapi,
};

impl Host {
    /// Takes a VINTF for a vIOMMU, creates its page, and returns it to the
    /// caller. Virtual machines share the VINTFs of an SMMU.
    pub(super) fn take_vintf(
        &mut self,
        call: &mut Call<'_>,
        smmu: &Smmu,
        cmdqv: Cmdqv,
    ) -> Result<Vintf> {
        let (length, data) = (call.argument.u32(24), call.argument.u64(32));
        if length < 16 {
            return Err(Errno::EINVAL);
        }
        let taken: Vec<u64> = self
            .iommufds
            .values()
            .flat_map(|objects| objects.vintfs(&smmu.name))
            .map(|vintf| vintf.number.into())
            .collect();
        if taken.len() as u64 >= cmdqv.vintfs.into() {
            return Err(Errno::ENOSPC);
        }
        let occupied = self.objects(call.iommufd).pages();
        let vintf = Vintf {
            number: cmdqv::lowest_free(1, 1, &taken) as u32,
            offset: cmdqv::lowest_free(cmdqv::FIRST_PAGE, cmdqv::PAGE, &occupied),
            queues: 1 << cmdqv.vcmdqs,
            queue_bytes: smmu.command_queue_bytes(),
            streams: 1 << cmdqv.sids,
        };
        let answer = [vintf.offset, cmdqv.page].map(u64::to_ne_bytes).concat();
        call.memory.write(data, &answer)?;
        call.with_pages(|pages| pages.create(vintf.offset));
        Ok(vintf)
    }

    pub(super) fn hw_queue_alloc(&mut self, call: &mut Call<'_>) -> Result<()> {
        let [flags, viommu, kind, index] = [4, 8, 12, 16].map(|at| call.argument.u32(at));
        let (iova, length) = (call.argument.u64(24), call.argument.u64(32));
        if flags != 0 || kind == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        iova.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?;
        let objects = self.objects(call.iommufd);
        let vintf = objects.vintf(viommu)?.ok_or(Errno::EOPNOTSUPP)?;
        if kind != uapi::HW_QUEUE_TEGRA241_CMDQV {
            return Err(Errno::EOPNOTSUPP);
        }
        let id = objects.add_hw_queue(viommu, index, iova, length)?;
        let text = objects.get(id)?.to_string();
        call.added(id, &text);
        call.with_pages(|pages| pages.clear_slot(vintf, index));
        call.argument.set_u32(20, id);
        call.respond()
    }

    /// Handles an `mmap` of an iommufd, which the kernel then carries out.
    ///
    /// # Errors
    ///
    /// The errno of the kernel or of the script.
    pub fn mmap(
        &mut self,
        file: &File,
        fd: RawFd,
        length: u64,
        protection: i32,
        flags: i32,
        offset: u64,
    ) -> Result<()> {
        let File::Iommufd(iommufd) = file else {
            // the BAR of a device
            return Ok(());
        };
        let result = self.arrive(file, fd).and_then(|()| {
            self.fault(&Circumstances {
                operation: "MMAP",
                ..Circumstances::default()
            })?;
            let pages = self.objects(iommufd).pages();
            cmdqv::check_mmap(&pages, length, protection, flags, offset)
        });
        let report = Report {
            fields: format!(" offset={offset:#x} length={length:#x}"),
            ..Report::default()
        };
        self.record("MMAP", iommufd, report, result);
        result
    }
}
