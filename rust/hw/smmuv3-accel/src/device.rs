// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QOM type `arm-smmuv3`.

use std::{
    ffi::{c_int, c_uint, CStr},
    pin::Pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use bql::prelude::*;
use common::prelude::*;
use hwcore::prelude::*;
use migration::prelude::*;
use qemu_ext::{
    arm_smmu::{ArmSmmu, ArmSmmuClass, ArmSmmuMethods},
    bh::BottomHalf,
    blocker::MigrationBlocker,
    memory::init_io,
    notify::Notifier,
    pci::add_bus_number_notifier,
    qapi_props::{OnOffAuto, StringProperty},
    qdev::{describe_property, DeviceExt, ParentMethods},
    runstate::{add_machine_init_done_notifier, VmStateHandler},
};
use qom::prelude::*;
use smmuv3::{
    cmdq::Cmdq, command::Leniency, features::Features, invalidation::FlushPolicy,
    registers::Registers, translation::Store,
};
use system::{prelude::*, MemoryRegionOps};
use util::{
    ensure,
    timer::{Timer, CLOCK_REALTIME, CLOCK_VIRTUAL},
    Error, Result, ResultExt,
};

use crate::{
    accel::Accel,
    events::Waiting,
    machine::RateLimit,
    pci,
    properties::{Choices, OasMode, SsidSizeMode, DESCRIPTIONS},
    translate::{Notified, Smmuv3MemoryRegion, Statistics},
    vmstate::{SavedRegisters, VMSTATE_SMMUV3},
};

::trace::include_trace!("hw_arm");

/// Size of the register file: two pages of 64 KiB (section 6.1).
const MMIO_SIZE: u64 = 0x2_0000;

static REGISTERS_OPS: MemoryRegionOps<Smmuv3> = MemoryRegionOpsBuilder::<Smmuv3>::new()
    .read(&Smmuv3::read)
    .write(&Smmuv3::write)
    .little_endian()
    .valid_sizes(4, 8)
    .impl_sizes(4, 8)
    .build();

/// Runs before the handler of every other device when the machine starts, and after them, but
/// before its state is saved, when it has stopped.
const RUN_STATE_PRIORITY: c_int = c_int::MIN;

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
    parent_obj: ParentField<ArmSmmu>,
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
    pub consume_later: BottomHalf,
    /// Records events that wait for the BQL
    pub record_later: BottomHalf,
    /// Has commands consumed that were deferred
    pub deferred: Timer,
    /// Tries again to attach streams that the host has refused for now
    pub retry: Timer,
    /// Finishes what is under way when the machine stops, and goes on when it starts
    run_state: VmStateHandler,
    /// Checks that `auto` properties were resolved when the machine is complete
    machine_done: Notifier,
    /// Attaches streams anew whose `StreamID` has changed
    bus_numbers: Notifier,
    /// When it was last logged that an ILLEGAL command is consumed
    pub tolerated: BqlRefCell<RateLimit>,
    migration_blocker: BqlRefCell<Option<MigrationBlocker>>,
    /// A function behind this SMMU has asked for its address space
    asked: BqlCell<bool>,
}

qom_isa!(Smmuv3: ArmSmmu, SysBusDevice, DeviceState, Object);

/// Class of [`Smmuv3`]: the parent's methods, which its own ones call.
#[repr(C)]
pub struct Smmuv3Class {
    parent_class: ArmSmmuClass,
    parent_methods: ParentMethods<Smmuv3>,
}

impl Smmuv3Class {
    fn class_init(&mut self) {
        self.parent_methods = ParentMethods::of(self);
        let sysbus_class: &mut <SysBusDevice as ObjectType>::Class =
            &mut self.parent_class.parent_class;
        sysbus_class.class_init::<Smmuv3>();
        let device_class = &mut sysbus_class.parent_class;
        device_class.user_creatable = true;
        device_class.hotpluggable = false;
        for (name, text) in DESCRIPTIONS {
            describe_property(device_class, name, text);
        }
    }
}

// SAFETY: Smmuv3 begins with its parent's instance, Smmuv3Class with its parent's class
unsafe impl ObjectType for Smmuv3 {
    type Class = Smmuv3Class;
    const TYPE_NAME: &'static CStr = crate::TYPE_ARM_SMMUV3;
}

impl ObjectImpl for Smmuv3 {
    type ParentType = ArmSmmu;

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
        uninit_field_mut!(*this, saved).write(Default::default());
        uninit_field_mut!(*this, cmdq).write(Default::default());
        uninit_field_mut!(*this, accel_state).write(Default::default());
        uninit_field_mut!(*this, consume_later).write(Default::default());
        uninit_field_mut!(*this, record_later).write(Default::default());
        // SAFETY: `init_callbacks` initializes both timers
        uninit_field_mut!(*this, deferred).write(unsafe { Timer::new() });
        // SAFETY: see above
        uninit_field_mut!(*this, retry).write(unsafe { Timer::new() });
        uninit_field_mut!(*this, run_state).write(Default::default());
        uninit_field_mut!(*this, machine_done).write(Default::default());
        uninit_field_mut!(*this, bus_numbers).write(Default::default());
        uninit_field_mut!(*this, tolerated).write(Default::default());
        uninit_field_mut!(*this, migration_blocker).write(Default::default());
        uninit_field_mut!(*this, asked).write(Default::default());
        // SAFETY: all other fields are initialized, or valid as the zeroes that they are; QOM
        // does not move objects
        Self::init_callbacks(unsafe { Pin::new_unchecked(this.assume_init_mut()) });
    }

    /// Binds the functions that run later to this device.
    fn init_callbacks(mut self: Pin<&mut Self>) {
        BottomHalf::init(
            self.as_mut(),
            c"arm-smmuv3-cmdq",
            &Self::consume,
            |device| &mut device.consume_later,
        );
        BottomHalf::init(
            self.as_mut(),
            c"arm-smmuv3-events",
            &Self::record_waiting,
            |device| &mut device.record_later,
        );
        Timer::init_full(
            self.as_mut(),
            None,
            CLOCK_VIRTUAL,
            Timer::NS,
            0,
            Self::consume_soon,
            |device| &mut device.deferred,
        );
        Timer::init_full(
            self.as_mut(),
            None,
            CLOCK_REALTIME,
            Timer::NS,
            0,
            Self::retry_streams,
            |device| &mut device.retry,
        );
        VmStateHandler::init(self.as_mut(), &Self::run_state_changed, |device| {
            &mut device.run_state
        });
        Notifier::init(self.as_mut(), &Self::machine_done, |device| {
            &mut device.machine_done
        });
        Notifier::init(self, &Self::bus_number_changed, |device| {
            &mut device.bus_numbers
        });
    }

    fn realize(&self) -> Result<()> {
        let choices = Choices::of(self)?;
        self.shared().features = choices.features();

        let blocker = if self.accel {
            self.set_iommu_ops(&pci::ACCEL_OPS);
            Some(MigrationBlocker::new(&Error::msg(
                "the translations of an arm-smmuv3 with accel=on live in the host and cannot be migrated",
            ))?)
        } else {
            None
        };
        self.set_region_type::<Smmuv3MemoryRegion>();
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
        self.run_state.register(RUN_STATE_PRIORITY);
        if self.accel {
            *self.accel_state.borrow_mut() = Some(Accel::new(choices));
            if choices.wants_host() {
                add_machine_init_done_notifier(&self.machine_done);
            }
        }
        add_bus_number_notifier(&self.bus_numbers);
        init_io(self, &self.iomem, &REGISTERS_OPS, c"arm-smmuv3", MMIO_SIZE);
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
        let check = || {
            ensure!(
                resolved,
                "arm-smmuv3 with accel=on takes its 'auto' properties from the host of an assigned device: \
                 give it at least one vfio-pci device on the command line, or set ats, ril, oas and ssidsize"
            );
            Ok(())
        };
        check().unwrap_fatal();
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

    /// The number of a PCI bus has changed. Devices that have another `StreamID` by
    /// that are translated by its Stream table entry from now on: assigned ones are
    /// attached to that, and device IOTLBs (vhost) keep nothing of the old one.
    fn bus_number_changed(&self) {
        if self.is_in_reset() {
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
        self.record_later.schedule();
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

/// Returns whether this SMMU shows ATS to the guest. Called when the IORT is built.
///
/// # Safety
///
/// `smmu` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_ats_enabled(smmu: *mut Smmuv3) -> bool {
    // SAFETY: promised by the caller
    unsafe { &*smmu }.features().ats()
}

/// Returns which CMDQ virtualization the SMMU has: none (`SMMUV3_CMDQV_NONE`).
#[no_mangle]
pub extern "C" fn smmuv3_accel_cmdqv_type(_object: *mut qom::bindings::Object) -> c_uint {
    0
}
