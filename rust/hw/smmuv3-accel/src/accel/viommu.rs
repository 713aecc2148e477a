// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The vIOMMU, which is the guest's slice of a host SMMU, and the two HWPTs that all
//! streams share: abort and bypass.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use qemu_ext::{
    error::warn,
    iommufd::{
        ArmSmmuv3Hwpt, Connection, HostDevice, HostFailure, HostObject, IommufdBackend, ViommuType,
    },
    qapi_events,
};
use qom::prelude::*;
use smmuv3::{
    batch::{EioReport, Granules, HostError},
    command::{Invalidation, Tlbi},
    features::Features,
};
use util::{Error, Result};

use super::{
    backoff::Backoff,
    counters::{count, AttachCounters},
    host_caps::HostInfo,
    saved::SavedAccel,
    stage2::Stage2,
    target::{submit, OpenTarget, Target},
    vintf::{Vintf, VintfRequest},
    Owner,
};
::trace::include_trace!("hw_arm");

/// STE.V, and STE.Config for a stream that bypasses stage 1 (§5.2).
const STE_VALID: u64 = 1;
const STE_CONFIG_BYPASS: u64 = 0b100 << 1;
/// STE.S1STALLD, in word 1.
const STE1_S1STALLD: u64 = 1 << 27;

/// `CMD_TLBI_NSNH_ALL` (§4.4.1).
const TLBI_NSNH_ALL: [u64; 2] = Invalidation::Tlbi(Tlbi::NSNH_ALL).to_words();

/// Two commands of which the host must refuse the second: `TLBI_NSNH_ALL`, which
/// does no harm, and the reserved opcode 0.
const PROBE: [[u64; 2]; 2] = [TLBI_NSNH_ALL, [0, 0]];

/// Returns words 0 and 1 of an STE as the host takes them.
pub const fn hwpt_data(ste: [u64; 2]) -> ArmSmmuv3Hwpt {
    ArmSmmuv3Hwpt {
        ste: [ste[0].to_le(), ste[1].to_le()],
    }
}

/// Has the host's SMMU execute a few commands, given as words in CPU order, and returns when they
/// are complete.
fn invalidate(
    viommu: &HostObject,
    commands: impl ExactSizeIterator<Item = [u64; 2]>,
) -> std::result::Result<(), HostError> {
    submit::<4>(commands, |batch| viommu.invalidate(batch))
}

/// Returns a failure for an invalidation without which stage 1 must not be used.
fn not_invalidated(errno: i32) -> HostFailure {
    let reason = std::io::Error::from_raw_os_error(errno);
    HostFailure::new(
        Error::msg(format!(
            "the host's SMMU does not invalidate its TLB: {reason}"
        )),
        // for any reason, because another attempt does no harm
        libc::EAGAIN,
    )
}

/// Adds to the refusal of a vIOMMU what the host needs for one: the kernel says only that it
/// does not support this.
fn explained(failure: HostFailure) -> Error {
    if failure.errno() != libc::EOPNOTSUPP {
        return failure.into();
    }
    Error::msg(format!(
        "{failure}: the host's SMMU needs both stages, and FWB or CANWBS (run scripts/check-host on the host)"
    ))
}

/// A vIOMMU. The fields are dropped in this order: calls first, then children.
#[derive(Debug)]
pub struct Viommu {
    /// The way of the guest's commands to it
    target: OpenTarget,
    /// The VINTF, if it has CMDQ virtualization
    pub vintf: Option<Vintf>,
    /// The HWPT that aborts every transaction
    pub abort: HostObject,
    /// The HWPT with stage 2 only
    pub bypass: HostObject,
    /// The object of `IOMMU_VIOMMU_ALLOC`
    pub object: HostObject,
    stage2: Stage2,
    /// The iommufd of these objects
    pub backend: Owned<IommufdBackend>,
    /// The host's SMMU can stall faulting transactions
    stalls: bool,
    /// TLBI commands are issued twice (erratum T264-SMMU-3)
    repeats: bool,
    /// The host may have cached translations of stage 1 that the guest believes to be
    /// invalidated: nothing may be attached to stage 1 before they are
    is_stale: bool,
    /// Set while the host fails to invalidate what is stale
    backoff: Option<Backoff>,
    /// Counters of what concerns all devices together
    pub counters: AttachCounters,
    /// The path of the guest's SMMU in QOM
    path: String,
}

/// Opens the way of the guest's commands to a vIOMMU.
fn open(target: &Arc<Target>, viommu: &HostObject) -> Result<OpenTarget> {
    let invalidator = viommu.invalidator().map_err(|error| {
        Error::msg(format!(
            "cannot duplicate the descriptor of the iommufd: {error}"
        ))
    })?;
    Ok(OpenTarget::new(target, invalidator))
}

/// The reason for which a vIOMMU is not taken over.
#[derive(Debug)]
pub enum AdoptError {
    /// The SMMU of this name has its stage 2.
    OfAnother(String),
    /// Something in this process has failed.
    Failed(Error),
}

impl Viommu {
    /// Makes the vIOMMU for the SMMU that `device` is behind, for the guest's SMMU `owner`:
    /// with a VINTF if one is requested and can be had.
    pub fn new(
        device: &HostDevice,
        info: &HostInfo,
        owner: &Owner,
        request: Option<&VintfRequest<'_>>,
        target: &Arc<Target>,
    ) -> Result<Self> {
        let stage2 = Stage2::new(device, &owner.name)?;
        // in this order, because on failure the VINTF has to go before the vIOMMU
        let (object, vintf) = Self::allocate(device, stage2.id(), &owner.name, request)?;
        let abort = device.allocate_nested(&object, &hwpt_data([STE_VALID, 0]))?;
        let bypass =
            device.allocate_nested(&object, &hwpt_data([STE_VALID | STE_CONFIG_BYPASS, 0]))?;
        let target = open(target, &object)?;
        target.set_lost(false);
        target.set_failures(0, 0);
        Ok(Self {
            target,
            vintf,
            abort,
            bypass,
            object,
            stage2,
            backend: device.backend(),
            stalls: info.features().stall_model() == 0b00,
            repeats: info.repeats_invalidations(),
            // Another vIOMMU may have had the VMID, and the guest's commands had no
            // effect while there was no vIOMMU.
            is_stale: true,
            backoff: None,
            counters: AttachCounters::default(),
            path: owner.path.clone(),
        })
    }

    /// Returns the vIOMMU of another QEMU's SMMU, which `device` is behind. The host is not called.
    ///
    /// # Errors
    ///
    /// See [`AdoptError`].
    pub fn adopt(
        device: &HostDevice,
        info: &HostInfo,
        owner: &Owner,
        saved: &SavedAccel,
        target: &Arc<Target>,
    ) -> std::result::Result<Self, AdoptError> {
        let stage2 = Stage2::adopted(device, saved.stage2_id, saved.is_stage2_vfios, &owner.name)
            .map_err(AdoptError::OfAnother)?;
        let object = |id| HostObject::adopt(device.backend(), id);
        let viommu = object(saved.viommu_id);
        let target = match open(target, &viommu) {
            Ok(target) => target,
            Err(error) => {
                // it is the other QEMU's
                viommu.abandon();
                if let Stage2::Own(own) = stage2 {
                    own.abandon();
                }
                return Err(AdoptError::Failed(error));
            }
        };
        target.set_lost(saved.is_lost);
        target.set_failures(saved.failing, saved.last_failure);
        Ok(Self {
            target,
            vintf: None,
            abort: object(saved.abort_id),
            bypass: object(saved.bypass_id),
            object: viommu,
            stage2,
            backend: device.backend(),
            stalls: info.features().stall_model() == 0b00,
            repeats: info.repeats_invalidations(),
            is_stale: saved.is_stale,
            backoff: Backoff::restored(&saved.backoff),
            counters: AttachCounters::default(),
            path: owner.path.clone(),
        })
    }

    /// Adds the state that another QEMU takes over.
    pub fn save(&self, saved: &mut SavedAccel) {
        let nanoseconds = |of: Duration| u64::try_from(of.as_nanos()).unwrap_or(u64::MAX);
        saved.viommu_id = self.object.id();
        saved.abort_id = self.abort.id();
        saved.bypass_id = self.bypass.id();
        saved.stage2_id = self.stage2.id();
        saved.is_stage2_vfios = self.stage2.is_vfios();
        saved.is_stale = self.is_stale;
        saved.is_lost = self.target.is_lost();
        saved.failing = nanoseconds(self.target.failing());
        saved.last_failure = nanoseconds(self.target.last_failure());
        saved.backoff = Backoff::save(self.backoff);
    }

    /// Gives the vIOMMU up without calling the host, because another QEMU has it.
    pub fn abandon(self) {
        self.abort.abandon();
        self.bypass.abandon();
        self.object.abandon();
        if let Stage2::Own(object) = self.stage2 {
            object.abandon();
        }
    }

    /// Allocates the host's object, with a VINTF if one is requested and can be had.
    fn allocate(
        device: &HostDevice,
        stage2: u32,
        owner: &str,
        request: Option<&VintfRequest<'_>>,
    ) -> Result<(HostObject, Option<Vintf>)> {
        if let Some(request) = request {
            match Vintf::allocate(device, stage2, request) {
                Ok((vintf, object)) => return Ok((object, Some(vintf))),
                Err(error) if request.is_required => {
                    return Err(Error::msg(format!(
                        "arm-smmuv3 '{owner}' cannot have cmdqv=on, because the host refuses it: {error}"
                    )));
                }
                Err(error) => warn(&Error::msg(format!(
                    "arm-smmuv3 '{owner}' has no CMDQ virtualization (cmdqv), because the host refuses it: {error}"
                ))),
            }
        }
        let object = device
            .allocate_viommu(ViommuType::ArmSmmuv3, stage2)
            .map_err(explained)?;
        Ok((object, None))
    }

    /// Returns the guest's STE as the host is to have it.
    ///
    /// `IDR0.STALL_MODEL` says that nothing stalls, yet the guest's CD.S takes effect
    /// on a host that can stall: a stalled transaction waits for a
    /// `CMD_RESUME` that can never come.
    pub const fn host_ste(&self, ste: [u64; 2]) -> [u64; 2] {
        let stall_disable = if self.stalls { STE1_S1STALLD } else { 0 };
        [ste[0], ste[1] | stall_disable]
    }

    /// Returns whether `device` is bound to the iommufd of this vIOMMU.
    pub fn shares_iommufd(&self, device: &HostDevice) -> bool {
        self.backend.as_ptr::<IommufdBackend>() == device.backend().as_ptr::<IommufdBackend>()
    }

    /// Detects the form in which this kernel reports an illegal command in a
    /// batch, by submitting one. Kernels that validate a batch as a whole point
    /// at its start, others at the offending command.
    pub fn probe_eio_report(&mut self) -> EioReport {
        count(&mut self.counters.invalidations);
        match invalidate(&self.object, PROBE.into_iter()) {
            Err(HostError {
                errno: libc::EIO,
                entry_num: 1,
            }) => EioReport::Offender,
            _ => EioReport::BlockStart,
        }
    }

    /// Returns the granules whose pages are invalidated by ranges although the guest, which
    /// sees `guest`, invalidates page by page; `None` if the host lacks ranges, too, or if
    /// they are left to the guest. The host's ID register is the hardware's, so the host is
    /// asked for a harmless range whether its kernel takes them.
    pub fn granules_to_merge(&mut self, guest: &Features, info: &HostInfo) -> Option<Granules> {
        if guest.ril() || !info.features().ril() {
            return None;
        }
        let granules = Granules::of(guest);
        let probe = granules.probe()?.to_words();
        count(&mut self.counters.invalidations);
        invalidate(&self.object, [probe].into_iter())
            .is_ok()
            .then_some(granules)
    }

    /// Asks the host for no more invalidations until it has invalidated everything.
    /// No stream may be on stage 1. Returns whether that is new.
    pub fn give_up(&mut self) -> bool {
        self.is_stale = true;
        let is_new = !self.target.set_lost(true);
        if is_new {
            count(&mut self.counters.host_lost);
            let now = Instant::now();
            // The duration of one attempt: many quick ones must not delay the next one.
            let begun = now.checked_sub(self.target.last_failure()).unwrap_or(now);
            self.backoff = Some(Backoff::after(None, begun));
        }
        is_new
    }

    /// Permits the next [`Self::invalidate_stale`] regardless of the duration of failed
    /// attempts. For requests of the user, such as plugging a device: only a guest can make
    /// attempts without end.
    pub fn permit_attempt(&mut self) {
        self.backoff = None;
    }

    /// Notes that the guest's memory, and with it its tables, was replaced without an invalidation by
    /// the guest. No stream may be on stage 1.
    pub fn note_loaded_tables(&mut self) {
        self.is_stale = true;
        self.permit_attempt();
    }

    /// Has the host invalidate all translations of this vIOMMU, if any of them may be
    /// stale. To be called before a stream is attached to stage 1.
    ///
    /// No stream is on stage 1 while something is stale, so nothing becomes stale
    /// between this and the attachment.
    pub fn invalidate_stale(&mut self) -> std::result::Result<(), HostFailure> {
        if !self.is_stale {
            return Ok(());
        }
        let begun = Instant::now();
        if self.backoff.is_some_and(|backoff| !backoff.permits(begun)) {
            return Err(not_invalidated(libc::EAGAIN));
        }
        let passes = if self.repeats { 2 } else { 1 };
        for _ in 0..passes {
            count(&mut self.counters.invalidations);
            let result = invalidate(&self.object, [TLBI_NSNH_ALL].into_iter());
            let errno = result.as_ref().map_or_else(|error| error.errno, |()| 0);
            trace::trace_smmuv3_accel_invalidate_batch(1, errno, u32::from(errno == 0));
            if result.is_err() {
                self.backoff = Some(Backoff::after(self.backoff, begun));
                return Err(not_invalidated(errno));
            }
        }
        self.is_stale = false;
        if self.target.set_lost(false) {
            count(&mut self.counters.host_recovered);
            qapi_events::host_recovered(&self.path);
        }
        self.target.set_failures(0, 0);
        self.backoff = None;
        Ok(())
    }
}

/// A vIOMMU without a device, which waits for the host to release a queue of its VINTF: the
/// host does not destroy it before.
#[derive(Debug)]
pub struct Leftover {
    viommu: Viommu,
    /// Keeps the iommufd open. Otherwise it would be closed with the last device, and the IDs
    /// of these objects could be those of others later.
    _connection: Connection,
}

impl Leftover {
    /// Returns the vIOMMU if its queues are not released, and `None` if it is destroyed.
    pub fn of(mut viommu: Viommu) -> Option<Self> {
        // commands do not reach it any more
        viommu.target.close();
        viommu.vintf.as_mut().map(Vintf::retire);
        let mut leftover = Self {
            _connection: viommu.backend.connect().ok()?,
            viommu,
        };
        (!leftover.is_released()).then_some(leftover)
    }

    /// Tries again to release the queues. If the result is true, the value can be dropped.
    pub fn is_released(&mut self) -> bool {
        self.viommu.vintf.as_mut().is_none_or(Vintf::release_queues)
    }
}
