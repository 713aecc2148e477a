// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization: the register space, its page of the host's hardware, and queues that
//! the host does not execute.
//!
//! An SMMU has it if its first device came with the machine, the host has it, and no emulated
//! endpoint came with the machine; it keeps it from then on. While there is no device, the host
//! refuses a queue, or there is an emulated endpoint, queues are executed here, which the guest
//! does not notice.

use std::ffi::CStr;

use bql::{BqlCell, BqlRefCell};
use common::callbacks::FnCall;
use hwcore::{prelude::*, InterruptSource};
use qemu_ext::{memory, page_window::PageWindow, qdev::DeviceExt};
use qom::prelude::*;
use smmuv3::{
    batch::FlushPolicy,
    cmdq::Interrupts,
    cmdqv::{largest_cmdqs, Cmdqv, Effects, VcmdqRun, PAGE_OFFSET, PAGE_SIZE, QUEUES, SIZE},
    features::Features,
    registers::StreamTableRegisters,
};
use system::{prelude::*, MemoryRegion, MemoryRegionOps};
use util::{Error, Result};

use crate::{
    accel::{Accel, ErrorRateLimit, Received, VcmdqErrors, Viommu},
    cmdq::CommandQueue,
    guest_errors::GuestErrors,
};

mod accesses;
mod counters;
mod host;

pub use counters::CmdqvStatus;
use counters::{count, CmdqvCounters};
use host::{HostQueues, Releases, WindowPage};

::trace::include_trace!("hw_arm");

/// Names of the regions, as users of the C device know them.
const REGION: &CStr = c"tegra241-cmdqv";
const PAGE_REGION: &CStr = c"tegra241-cmdqv vintf-page0";

/// The regions of a unit. Apart from it, because they are initialized in place when the SMMU gets
/// one.
pub struct CmdqvRegions {
    registers: MemoryRegion,
    page: MemoryRegion,
}

/// What the registers have an effect on.
pub struct Surroundings<'a> {
    /// The SMMU, for its name only
    pub smmu: &'a DeviceState,
    /// Its log of the guest's errors
    pub guest_errors: &'a GuestErrors,
    /// Its assigned devices, with their vIOMMU
    pub accel: &'a Accel,
    /// The unit's regions
    pub regions: &'a CmdqvRegions,
}

/// The unit of an SMMU; absent in most.
pub struct CmdqvUnit {
    irq: InterruptSource,
    window: BqlCell<Option<&'static PageWindow>>,
    /// `IDR1.CMDQS` of the host, if the machine that is being made can have the unit
    offered: BqlCell<Option<u8>>,
    /// None while the SMMU has no CMDQ virtualization. Borrowed across calls of the host and
    /// changes of the guest's memory map, none of which leads back here.
    present: BqlRefCell<Option<Box<Present>>>,
    /// Consumers of queues that are executed here
    pub queues: [CommandQueue; QUEUES],
}

struct Present {
    registers: Cmdqv,
    window: &'static PageWindow,
    cmdqs: u8,
    counters: CmdqvCounters,
    refusals: ErrorRateLimit,
    releases: Releases,
}

impl CmdqvUnit {
    /// Returns the unit of an SMMU without CMDQ virtualization.
    pub fn new(queues: [CommandQueue; QUEUES]) -> Self {
        Self {
            irq: InterruptSource::default(),
            window: BqlCell::default(),
            offered: BqlCell::default(),
            present: BqlRefCell::default(),
            queues,
        }
    }

    /// Returns whether the SMMU has CMDQ virtualization.
    pub fn is_present(&self) -> bool {
        self.present.borrow().is_some()
    }

    /// Returns the place for the host's page.
    pub fn window(&self) -> Result<&'static PageWindow> {
        if let Some(window) = self.window.get() {
            return Ok(window);
        }
        let window = PageWindow::new(PAGE_SIZE as usize)?;
        // never freed, because the memory core may use it as long as there is a device
        let window: &'static PageWindow = Box::leak(Box::new(window));
        self.window.set(Some(window));
        Ok(window)
    }

    /// Notes that a vIOMMU with a VINTF is there for the unit, on a host with this `IDR1.CMDQS`.
    /// Devices that come later may exclude the unit, so it is added when the machine is complete.
    pub fn offer(&self, cmdqs: u8) {
        self.offered.set(Some(cmdqs));
    }

    /// Returns the `IDR1.CMDQS` with which the unit is to be added, if it is.
    pub fn take_offer(&self) -> Option<u8> {
        self.offered.take()
    }

    /// Adds the unit to `smmu`, which has it and `regions` as fields: a region behind its others, and an
    /// interrupt. The board connects both when the machine is complete. `cmdqs` is
    /// `IDR1.CMDQS` of the host, which takes no larger queue. An access that `accepts` refuses aborts.
    pub fn add_to<T, A>(
        &self,
        smmu: &T,
        regions: &CmdqvRegions,
        ops: &'static MemoryRegionOps<T>,
        accepts: &A,
        cmdqs: u8,
    ) -> Result<()>
    where
        T: IsA<SysBusDevice> + IsA<DeviceState> + IsA<Object> + Sync,
        A: for<'a> FnCall<(&'a T,), bool>,
    {
        let window = self.window()?;
        memory::init_checked_io(smmu, &regions.registers, ops, accepts, REGION, SIZE);
        memory::init_device_page(smmu, &regions.page, PAGE_REGION, window);
        memory::set_enabled(&regions.page, false);
        memory::add_overlapping(&regions.registers, &regions.page, PAGE_OFFSET);
        smmu.init_mmio(&regions.registers);
        smmu.init_irq(&self.irq);
        *self.present.borrow_mut() = Some(Box::new(Present {
            registers: Cmdqv::new(),
            window,
            cmdqs,
            counters: CmdqvCounters::default(),
            refusals: ErrorRateLimit::default(),
            releases: Releases::default(),
        }));
        Ok(())
    }

    /// Returns `features` with queues that the host takes, and that fit into the pages of the
    /// guest's memory, because hardware needs physically contiguous ones.
    pub fn limit(&self, features: Features) -> Features {
        let limited = self.with(|present| {
            let largest = largest_cmdqs(memory::smallest_ram_page());
            let shown = u8::try_from(features.max_cmdqs()).unwrap_or(u8::MAX);
            features.with_cmdqs(largest.min(shown).min(present.cmdqs))
        });
        limited.unwrap_or(features)
    }

    /// Sets the policy for batches. No command is left in a queue for later: the guest polls
    /// for each.
    pub fn set_policy(&self, policy: FlushPolicy) {
        for queue in &self.queues {
            queue.set_policy(FlushPolicy {
                defer_remainder: false,
                ..policy
            });
        }
    }

    fn with<R>(&self, function: impl FnOnce(&mut Present) -> R) -> Option<R> {
        self.present.borrow_mut().as_deref_mut().map(function)
    }

    /// Reads 4 or 8 bytes, aligned.
    pub fn read(&self, features: &Features, offset: u64, size: u32) -> u64 {
        let value = self.with(|present| {
            let mut page = WindowPage(present.window);
            let value = present.registers.read(features, &mut page, offset, size);
            if let Some(at) = present.registers.queue_offset(offset) {
                accesses::queue_read(&at, value);
            }
            value
        });
        let value = value.unwrap_or(0);
        trace::trace_tegra241_cmdqv_read_mmio(offset, value, size);
        value
    }

    /// Writes 4 or 8 bytes, aligned, and has the host follow. Returns the queues that are to
    /// be consumed here.
    pub fn write(
        &self,
        features: &Features,
        around: &Surroundings<'_>,
        offset: u64,
        value: u64,
        size: u32,
    ) -> [bool; QUEUES] {
        trace::trace_tegra241_cmdqv_write_mmio(offset, value, size);
        self.serve(|present| {
            let mut page = WindowPage(present.window);
            if let Some(at) = present.registers.queue_offset(offset) {
                accesses::queue_write(&at, value);
            }
            let effects = present
                .registers
                .write(features, &mut page, offset, value, size);
            if let Some(message) = effects.guest_error {
                around.guest_errors.bad_cmdqv_write(offset, value, message);
            }
            if !effects.reconcile {
                return effects;
            }
            let after = reconcile(present, features, around);
            Effects {
                interrupt: effects.interrupt || after.interrupt,
                ..after
            }
        })
    }

    /// Permits the host to have queues, because there is a VINTF. Returns the queues that are
    /// to be consumed here.
    pub fn give_host(&self, features: &Features, around: &Surroundings<'_>) -> [bool; QUEUES] {
        self.serve(|present| {
            present.registers.bar_hardware(false);
            reconcile(present, features, around)
        })
    }

    /// Takes all queues back from the host, because commands must not bypass QEMU. Returns the
    /// queues that are to be consumed here.
    pub fn use_software(&self, features: &Features, around: &Surroundings<'_>) -> [bool; QUEUES] {
        self.serve(|present| {
            present.registers.bar_hardware(true);
            reconcile(present, features, around)
        })
    }

    /// Takes all queues back from the host, because the VINTF of `viommu` is about to go.
    pub fn take_from_host(
        &self,
        features: &Features,
        around: &Surroundings<'_>,
        viommu: &mut Viommu,
    ) {
        self.serve(|present| {
            present.registers.bar_hardware(true);
            let effects = reconcile_with(present, features, around, Some(viommu));
            // the VINTF is kept until it has released them
            present.registers.drop_stuck();
            effects
        });
    }

    /// Resets the registers, and has the host release its queues.
    pub fn reset(&self, features: &Features, around: &Surroundings<'_>) {
        self.with(|present| {
            around.accel.with_viommu(|viommu| {
                let (registers, mut host) = split(present, around, viommu);
                registers.reset(features, &mut host);
            });
            let mut page = WindowPage(present.window);
            // the offset of PARAM
            let param = present.registers.read(features, &mut page, 4, 4);
            trace::trace_tegra241_cmdqv_init_regs(param as u32);
        });
        self.queues.iter().for_each(CommandQueue::reset);
    }

    /// Pulses the interrupt for errors that the host reports, unless it is masked.
    pub fn note_errors(&self, received: &[Received<VcmdqErrors>]) {
        self.serve(|present| {
            for entry in received {
                match entry {
                    Received::Event(VcmdqErrors(map)) => {
                        count(&mut present.counters.events);
                        let word = |at: usize| {
                            let both = map.get(at / 2).copied().unwrap_or(0);
                            (both >> (32 * (at % 2))) as u32
                        };
                        trace::trace_tegra241_cmdqv_err_map(word(3), word(2), word(1), word(0));
                    }
                    Received::Lost => count(&mut present.counters.lost_events),
                }
            }
            Effects {
                interrupt: !received.is_empty() && present.registers.is_interrupt_enabled(),
                ..Effects::default()
            }
        });
    }

    /// Returns the queues that have commands to be consumed here.
    pub fn ready(&self, features: &Features) -> [bool; QUEUES] {
        self.with(|present| present.registers.ready(features))
            .unwrap_or_default()
    }

    /// Takes out the state of a queue for its consumer, if it is executed here.
    pub fn begin(
        &self,
        features: &Features,
        lvcmdq: usize,
        stream_table: StreamTableRegisters,
    ) -> Option<VcmdqRun> {
        self.with(|present| present.registers.begin(features, lvcmdq, stream_table))
            .flatten()
    }

    /// Puts the state of a queue back.
    pub fn finish(&self, run: VcmdqRun) {
        self.with(|present| present.registers.finish(run));
    }

    /// Returns the interrupts of a queue that is executed here.
    pub const fn interrupts(&self) -> CmdqvIrqs<'_> {
        CmdqvIrqs(self)
    }

    /// Returns the state of the queues, if the SMMU has CMDQ virtualization.
    pub fn status(&self, features: &Features) -> Option<CmdqvStatus> {
        self.with(|present| CmdqvStatus {
            queues: std::array::from_fn(|lvcmdq| present.registers.state(features, lvcmdq)),
            is_stuck: present.registers.is_stuck(),
            counters: present.counters,
        })
    }

    fn serve(&self, function: impl FnOnce(&mut Present) -> Effects) -> [bool; QUEUES] {
        let effects = self.with(function).unwrap_or_default();
        if effects.interrupt {
            self.pulse();
        }
        effects.consume
    }

    fn pulse(&self) {
        self.with(|present| count(&mut present.counters.interrupts));
        self.irq.pulse();
    }
}

fn reconcile(present: &mut Present, features: &Features, around: &Surroundings<'_>) -> Effects {
    around
        .accel
        .with_viommu(|viommu| reconcile_with(present, features, around, viommu))
}

fn reconcile_with(
    present: &mut Present,
    features: &Features,
    around: &Surroundings<'_>,
    viommu: Option<&mut Viommu>,
) -> Effects {
    let (registers, mut host) = split(present, around, viommu);
    registers.reconcile(features, &mut host)
}

/// Splits `present` into the registers and the host's part.
fn split<'a>(
    present: &'a mut Present,
    around: &'a Surroundings<'a>,
    viommu: Option<&'a mut Viommu>,
) -> (&'a mut Cmdqv, HostQueues<'a>) {
    let Present {
        registers,
        window,
        counters,
        refusals,
        releases,
        ..
    } = present;
    let host = HostQueues {
        viommu,
        page: WindowPage(window),
        region: &around.regions.page,
        counters,
        refusals,
        releases,
        smmu: around.smmu,
    };
    (registers, host)
}

/// The interrupts of queues that are executed here.
pub struct CmdqvIrqs<'a>(&'a CmdqvUnit);

impl Interrupts for CmdqvIrqs<'_> {
    fn cmd_sync(&mut self) {
        // no command of such a queue signals completion
    }

    fn gerror(&mut self) {
        self.0.pulse();
    }
}

/// Returns the message for a host without CMDQ virtualization.
pub fn missing(owner: &DeviceState, reason: &Error) -> Error {
    Error::msg(format!(
        "arm-smmuv3 '{}' has cmdqv=on, but the host SMMU of this device has no CMDQ virtualization that \
         can be used: {reason}; set cmdqv=auto or off",
        owner.name()
    ))
}
