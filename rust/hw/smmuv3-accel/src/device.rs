// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QOM type `arm-smmuv3`.

use std::{
    ffi::CStr,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bql::prelude::*;
use common::prelude::*;
use hwcore::prelude::*;
use migration::prelude::*;
use qom::prelude::*;
use smmuv3::{
    cmdq::Cmdq, command::Leniency, features::Features, invalidation::FlushPolicy,
    registers::Registers, translation::Store,
};
use system::prelude::*;
use util::{ensure, Error, Result};

use crate::{
    accel::Accel,
    bindings,
    callbacks::{on_bus_number_change, on_machine_done, Alarm, BottomHalf, Clock, RunStateHandler},
    events::Waiting,
    ffi::{self, ParentMethods, SmmuState},
    machine::{exit_with, MigrationBlocker, RateLimit},
    mmio::init_registers_region,
    pci,
    properties::{Choices, OasMode, OnOffAuto, SsidSizeMode, StringProperty, DESCRIPTIONS},
    translate::{self, Notified, Statistics},
    vmstate::{SavedRegisters, VMSTATE_SMMUV3},
};

::trace::include_trace!("hw_arm");

/// Size of the register file: two pages of 64 KiB (section 6.1).
const MMIO_SIZE: u64 = 0x2_0000;

/// The interrupt lines, in the order in which boards connect them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Interrupt {
    /// The Event queue is no longer empty
    EventQ = 0,
    /// PRI queue; never raised, IDR0.PRI is 0
    #[allow(dead_code)]
    PriQ = 1,
    /// Completion of a `CMD_SYNC`
    CmdSync = 2,
    /// Global error
    Gerror = 3,
}

/// What the guest can see, and what translation depends on.
pub struct Shared {
    /// The ID registers
    pub features: Features,
    /// All other registers
    pub registers: Registers,
    /// Configurations and translations of emulated devices
    pub store: Store,
    /// How often those were found
    pub statistics: Statistics,
    /// Grows with whatever separates accesses: commands, and changes of registers
    pub separations: u64,
}

/// An `SMMUv3`.
///
/// ```text
///  * sysbus MMIO region 0: the register file, two pages
///  * sysbus IRQ 0: Event queue
///  * sysbus IRQ 1: PRI queue
///  * sysbus IRQ 2: CMD_SYNC
///  * sysbus IRQ 3: GERROR
/// ```
///
/// The Big QEMU Lock protects everything but `shared`, `walks_ended` and
/// `waiting_events`, which translation on behalf of other devices uses without it.
/// These are locked for the length of a copy or a look-up only: never across an ioctl,
/// an access to guest memory, a notifier, or an interrupt.
#[repr(C)]
#[derive(qom::Object, hwcore::Device)]
pub struct Smmuv3 {
    parent_obj: ParentField<SmmuState>,
    iomem: MemoryRegion,
    interrupts: [InterruptSource; 4],

    /// Stages of translation: "1" (or not given), "2", "nested"
    #[property(rename = "stage")]
    pub stage: StringProperty,
    /// Identifier of the node in the IORT
    #[property(rename = "identifier", default = 0)]
    identifier: u8,
    /// Nested translation for assigned devices
    #[property(rename = "accel", default = false)]
    pub accel: bool,
    /// Guest physical address of the MSI doorbell, set by the machine
    #[property(rename = "msi-gpa", default = 0)]
    msi_gpa: u64,
    /// Range invalidation
    #[property(rename = "ril", default = 0)]
    pub ril: OnOffAuto,
    /// Address Translation Services
    #[property(rename = "ats", default = 0)]
    pub ats: OnOffAuto,
    /// Output address size
    #[property(rename = "oas", default = 0)]
    pub oas: OasMode,
    /// Number of `SubstreamID` bits
    #[property(rename = "ssidsize", default = 0)]
    pub ssidsize: SsidSizeMode,
    /// CMDQ virtualization
    #[property(rename = "cmdqv", default = 0)]
    pub cmdqv: OnOffAuto,

    shared: Mutex<Shared>,
    /// Walks that invalidations wait for have ended
    pub walks_ended: Condvar,
    /// Events of transactions that faulted without the BQL
    pub waiting_events: Waiting,
    /// Events are being recorded
    pub recording: BqlCell<bool>,
    /// Emulated functions whose translations somebody shadows
    pub notified: BqlRefCell<Notified>,
    /// Registers in the layout of the migration stream, while one is written or read
    pub saved: BqlRefCell<SavedRegisters>,
    /// The Command queue's consumer; taken out while it runs
    pub cmdq: BqlRefCell<Option<Cmdq>>,
    /// Assigned devices; none before the device is realized
    pub accel_state: BqlRefCell<Option<Accel>>,
    /// Goes on consuming commands when a doorbell's slice is used up
    pub consume_later: BqlRefCell<Option<BottomHalf>>,
    /// Records events that wait for the BQL; never changes after realize
    pub record_later: OnceLock<BottomHalf>,
    /// Has commands consumed that were deferred
    pub deferred: BqlRefCell<Option<Alarm>>,
    /// Tries again to attach streams that the host has refused for now
    pub retry: BqlRefCell<Option<Alarm>>,
    /// Finishes what is under way when the machine stops, and goes on when it starts
    run_state_handler: BqlRefCell<Option<RunStateHandler>>,
    /// When it was last logged that an ILLEGAL command is consumed
    pub tolerated: BqlRefCell<RateLimit>,
    migration_blocker: BqlRefCell<Option<MigrationBlocker>>,
    /// A function behind this SMMU has asked for its address space
    asked: BqlCell<bool>,
}

qom_isa!(Smmuv3: SmmuState, SysBusDevice, DeviceState, Object);

/// Class of [`Smmuv3`]: the parent's methods, which its own ones call.
#[repr(C)]
pub struct Smmuv3Class {
    parent_class: bindings::SMMUBaseClass,
    parent_methods: ParentMethods,
}

impl Smmuv3Class {
    fn class_init(&mut self) {
        self.parent_methods.save(&mut self.parent_class);
        let sysbus_class: &mut <SysBusDevice as ObjectType>::Class =
            &mut self.parent_class.parent_class;
        sysbus_class.class_init::<Smmuv3>();
        let device_class = &mut sysbus_class.parent_class;
        ffi::set_user_creatable(device_class);
        for (name, text) in DESCRIPTIONS {
            ffi::describe_property(device_class, name, text);
        }
    }
}

// SAFETY: Smmuv3 begins with its parent's instance, Smmuv3Class with its parent's class
unsafe impl ObjectType for Smmuv3 {
    type Class = Smmuv3Class;
    const TYPE_NAME: &'static CStr = crate::TYPE_ARM_SMMUV3;
}

impl ObjectImpl for Smmuv3 {
    type ParentType = SmmuState;

    const INSTANCE_INIT: Option<unsafe fn(ParentInit<Self>)> = Some(Self::init);
    const CLASS_INIT: fn(&mut Self::Class) = Self::Class::class_init;
}

impl DeviceImpl for Smmuv3 {
    const VMSTATE: Option<VMStateDescription<Self>> = Some(VMSTATE_SMMUV3);
    const REALIZE: Option<fn(&Self) -> Result<()>> = Some(Self::realize);
}

impl ResettablePhasesImpl for Smmuv3 {
    const EXIT: Option<fn(&Self, ResetType)> = Some(Self::reset_exit);
}

impl SysBusDeviceImpl for Smmuv3 {}

impl Smmuv3 {
    /// # Safety
    ///
    /// Called by QOM, with memory that C has zeroed and whose parent fields are
    /// initialized.
    unsafe fn init(mut this: ParentInit<Self>) {
        let features = Features::arm_smmuv3();
        uninit_field_mut!(*this, interrupts).write(Default::default());
        uninit_field_mut!(*this, shared).write(Mutex::new(Shared {
            features,
            registers: Registers::reset(&features),
            store: Store::default(),
            statistics: Statistics::default(),
            separations: 0,
        }));
        uninit_field_mut!(*this, walks_ended).write(Condvar::new());
        uninit_field_mut!(*this, waiting_events).write(Waiting::new());
        uninit_field_mut!(*this, recording).write(Default::default());
        uninit_field_mut!(*this, notified).write(Default::default());
        uninit_field_mut!(*this, record_later).write(OnceLock::new());
        uninit_field_mut!(*this, saved).write(Default::default());
        uninit_field_mut!(*this, cmdq).write(Default::default());
        uninit_field_mut!(*this, accel_state).write(Default::default());
        uninit_field_mut!(*this, consume_later).write(Default::default());
        uninit_field_mut!(*this, deferred).write(Default::default());
        uninit_field_mut!(*this, retry).write(Default::default());
        uninit_field_mut!(*this, run_state_handler).write(Default::default());
        uninit_field_mut!(*this, tolerated).write(Default::default());
        uninit_field_mut!(*this, migration_blocker).write(Default::default());
        uninit_field_mut!(*this, asked).write(Default::default());
    }

    fn realize(&self) -> Result<()> {
        let choices = Choices::of(self)?;
        self.shared().features = choices.features();

        let blocker = if self.accel {
            pci::use_accel_ops(self);
            Some(MigrationBlocker::new(&Error::msg(
                "the translations of an arm-smmuv3 with accel=on live in the host and cannot be migrated",
            ))?)
        } else {
            None
        };
        translate::set_region_type(self, translate::REGION_TYPE);
        self.get_class().parent_methods.realize(self)?;
        // What is on the bus already was never asked whether it can be there, and
        // an assigned device would stay on the guest's memory, translated by nothing.
        ensure!(
            !self.accel || !pci::has_endpoint(self),
            "arm-smmuv3 must come before the devices behind it on the command line (with -nic none or \
             -nodefaults if it is the machine's own network device)"
        );

        *self.migration_blocker.borrow_mut() = blocker;
        // A host refuses commands about EL2, and its errors are the guest's; in software
        // they cost nothing, and firmware that runs on the C device needs them.
        let leniency = if self.accel {
            Leniency::Strict
        } else {
            Leniency::El2Tlbi
        };
        *self.cmdq.borrow_mut() = Some(Cmdq::new(FlushPolicy::default()).with_leniency(leniency));
        *self.deferred.borrow_mut() = Some(Alarm::new(self, Clock::Virtual, &Self::consume_soon));
        *self.consume_later.borrow_mut() =
            Some(BottomHalf::new(self, c"arm-smmuv3-cmdq", &Self::consume));
        *self.run_state_handler.borrow_mut() =
            Some(RunStateHandler::new(self, &Self::run_state_changed));
        self.record_later
            .get_or_init(|| BottomHalf::new(self, c"arm-smmuv3-events", &Self::record_waiting));
        if self.accel {
            *self.accel_state.borrow_mut() = Some(Accel::new(choices));
            *self.retry.borrow_mut() =
                Some(Alarm::new(self, Clock::Realtime, &Self::retry_streams));
            if choices.wants_host() {
                on_machine_done(self, &Self::machine_done);
            }
        }
        on_bus_number_change(self, &Self::bus_number_changed);
        init_registers_region(self, &self.iomem, MMIO_SIZE);
        self.init_mmio(&self.iomem);
        for interrupt in &self.interrupts {
            self.init_irq(interrupt);
        }
        Ok(())
    }

    /// `auto` needs a host to take its values from, before the guest runs.
    fn machine_done(&self) {
        let resolved = self
            .accel_state
            .borrow()
            .as_ref()
            .is_some_and(Accel::is_resolved);
        if !resolved {
            exit_with(&Error::msg(
                "arm-smmuv3 with accel=on takes its 'auto' properties from the host of an assigned device: \
                 give it at least one vfio-pci device on the command line, or set ats, ril, oas and ssidsize",
            ));
        }
    }

    /// In the exit phase, when every other device has stopped its DMA.
    fn reset_exit(&self, reset_type: ResetType) {
        trace::trace_smmu_reset_exit();
        self.get_class().parent_methods.reset_exit(self, reset_type);
        {
            let mut shared = self.shared();
            shared.registers = Registers::reset(&shared.features);
        }
        self.waiting_events.clear();
        self.forget_translations();
        if let Some(cmdq) = self.cmdq.borrow_mut().as_mut() {
            cmdq.reset();
        }
        self.evaluate_events();
        self.reset_streams();
    }

    /// What the user calls this device: its ID, or else its place in the machine.
    pub fn name(&self) -> String {
        ffi::name_of(self.upcast())
    }

    /// The number of a PCI bus has changed. Devices that have another `StreamID` by
    /// that are translated by its Stream table entry from now on: assigned ones are
    /// attached to that, and device IOTLBs (vhost) keep nothing of the old one.
    fn bus_number_changed(&self) {
        if ffi::is_in_reset(self.upcast()) {
            // the end of a system reset evaluates every stream
            return;
        }
        self.unmap_notified();
        self.attach_streams(|_| false);
    }

    /// Locks registers and ID registers. Keep it short: see [`Smmuv3`].
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        // nothing panics while it is locked, and if it did, every value is valid
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ID registers and all others as they are now.
    pub fn snapshot(&self) -> (Features, Registers) {
        let shared = self.shared();
        (shared.features, shared.registers.clone())
    }

    /// Has the events that wait recorded from the main loop.
    pub fn record_soon(&self) {
        if let Some(bottom_half) = self.record_later.get() {
            bottom_half.schedule();
        }
    }

    /// The ID registers as the guest sees them.
    pub fn features(&self) -> Features {
        self.shared().features
    }

    /// Where assigned devices' MSIs go, in the guest's physical address space.
    pub const fn msi_gpa(&self) -> u64 {
        self.msi_gpa
    }

    /// A function behind this SMMU asks for its address space.
    pub fn note_asked(&self) {
        self.asked.set(true);
    }

    /// Has one asked since the last time?
    pub fn take_asked(&self) -> bool {
        self.asked.replace(false)
    }

    /// Pulses an interrupt line: interrupts of the SMMU are edges (section 3.18).
    pub fn pulse(&self, interrupt: Interrupt) {
        trace::trace_smmuv3_trigger_irq(interrupt as i32);
        if let Some(line) = self.interrupts.get(interrupt as usize) {
            line.pulse();
        }
    }
}
