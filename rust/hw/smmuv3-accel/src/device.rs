// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QOM type `arm-smmuv3`.

use std::{
    ffi::{c_int, c_uint, CStr},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use bql::prelude::*;
use common::prelude::*;
use hwcore::prelude::*;
use migration::{prelude::*, InvalidError};
use qemu_ext::{
    arm_smmu::{ArmSmmu, ArmSmmuClass, ArmSmmuMethods, SmmuRegion},
    bh::BottomHalf,
    blocker::{MigrationBlocker, Modes},
    cpr,
    device_listener::DeviceListener,
    dma::{AddressSpace, DirectMemory},
    early_state::EarlyState,
    error::report,
    iommu::{
        IommuAccess, IommuMemoryRegion, IommuMemoryRegionClassExt, IommuMemoryRegionImpl,
        IommuTlbEntry, NotifierFlags,
    },
    iommufd::{HostDevice, HostIommuDevice, HostObject},
    lock::BigLock,
    memory::{enable_lockless_io, init_checked_io, init_io},
    notify::Notifier,
    object::ObjectExt,
    pci::{add_bus_number_notifier, PciDevice, PciFunction},
    pci_iommu::{PciIommuImpl, SetIommuDevice, ViommuFlags},
    property::{add_read_only, Value},
    qapi_props::{OnOffAuto, StringProperty},
    qdev::{describe_property, DeviceExt, ParentMethods},
    runstate::{
        add_machine_init_done_notifier, is_incoming, is_machine_ready, is_replay_enabled,
        VmStateHandler,
    },
    vcpu::{is_kvm_enabled, is_vcpu_thread, VcpuWork},
};
use qom::prelude::*;
use smmuv3::{cmdq::Progress, cmdqv::QUEUES, command::Leniency, features::Features};
use system::{prelude::*, MemoryRegionOps};
use util::{
    ensure,
    timer::{Timer, CLOCK_REALTIME, CLOCK_VIRTUAL},
    Error, Result, ResultExt,
};

use crate::{
    accel::{
        cmdq::{AccelBackend, LockingCaches, NoCaches},
        probe_cmdqv, Accel, Owner, SavedAccel, SavedFeatures, VcmdqErrors, VeventQ, Vintf,
        VintfRequest,
    },
    cmdq::{CommandQueue, Run, SLICES_AT_STOP, TIME_AT_STOP},
    cmdqv::{self, CmdqvRegions, CmdqvUnit, Surroundings},
    eventq::{PendingEvent, PendingEvents},
    introspection::{self, AllCounters},
    iommu::{invalidate_all, NotifiedFunctions, Page, SoftwareBackend, Translator},
    irq::IrqLines,
    memory::DirectRam,
    mmio,
    pci::{self, AddressSpaceRequests, EmulatedEndpoints},
    properties::{
        Auto, OasMode, SmmuProperties, SsidSizeMode, Values, DESCRIPTIONS, OWN_DESCRIPTIONS,
    },
    reentry::{is_from_outside, Engaged},
    state::GuestState,
    vmstate::{declare_vmstate, SavedRegisters},
};

::trace::include_trace!("hw_arm");

/// The QOM type name, as in `-device arm-smmuv3`.
pub const TYPE_ARM_SMMUV3: &CStr = c"arm-smmuv3";

/// `SMMUv3AccelCmdqvType` of QEMU.
const SMMUV3_CMDQV_NONE: c_uint = 0;
const SMMUV3_CMDQV_TEGRA241: c_uint = 1;

/// Size of the register file: two pages of 64 KiB (§6.1).
const MMIO_SIZE: u64 = 0x2_0000;

static CMDQV_OPS: MemoryRegionOps<Smmuv3> = MemoryRegionOpsBuilder::<Smmuv3>::new()
    .read(&Smmuv3::read_cmdqv)
    .write(&Smmuv3::write_cmdqv)
    .little_endian()
    .valid_sizes(4, 8)
    .impl_sizes(4, 8)
    .build();

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

declare_vmstate!(Smmuv3, saved, saved_features, saved_accel);

/// An `SMMUv3`.
///
/// ```text
///  * sysbus MMIO region 0: the register file, two pages
///  * sysbus IRQ 0: Event queue
///  * sysbus IRQ 1: PRI queue
///  * sysbus IRQ 2: CMD_SYNC
///  * sysbus IRQ 3: GERROR
///
///  and with CMDQ virtualization:
///
///  * sysbus MMIO region 1: its registers, five pages
///  * sysbus IRQ 4: errors of its queues
/// ```
///
/// The Big QEMU Lock (BQL) protects everything but `state` and `events`, which translation on
/// behalf of other devices uses without it, and `cmdq`, which vCPUs consume without it.
///
/// Each component uses only what its caller passes to it; this file connects them.
#[repr(C)]
#[derive(qom::Object, hwcore::Device)]
pub struct Smmuv3 {
    parent_obj: ParentField<ArmSmmu>,
    iomem: MemoryRegion,
    cmdqv_regions: CmdqvRegions,
    irqs: IrqLines,

    /// Stages of translation: "1" (or not given), "2", "nested"
    #[property(rename = "stage")]
    stage: StringProperty,
    /// Identifier of the node in the IORT
    #[property(rename = "identifier", default = 0)]
    identifier: u8,
    /// Nested translation for assigned devices
    #[property(rename = "accel", default = false)]
    accel: bool,
    /// Guest physical address of the MSI doorbell, set by the machine
    #[property(rename = "msi-gpa", default = 0)]
    msi_gpa: u64,
    /// Range invalidation
    #[property(rename = "ril", default = 0)]
    ril: OnOffAuto,
    /// Address Translation Services
    #[property(rename = "ats", default = 0)]
    ats: OnOffAuto,
    /// Message Signalled Interrupts of the SMMU itself
    #[property(rename = "msi", default = 0)]
    msi: OnOffAuto,
    /// Two-level Context descriptor tables
    #[property(rename = "cd2l", default = 2)]
    cd2l: OnOffAuto,
    /// 52-bit virtual addresses
    #[property(rename = "vax", default = 2)]
    vax: OnOffAuto,
    /// Output address size
    #[property(rename = "oas", default = 0)]
    oas: OasMode,
    /// Number of `SubstreamID` bits
    #[property(rename = "ssidsize", default = 0)]
    ssidsize: SsidSizeMode,
    /// CMDQ virtualization
    #[property(rename = "cmdqv", default = 0)]
    cmdqv: OnOffAuto,

    /// Registers and caches
    state: GuestState,
    /// Events that are pending for the Event queue
    events: PendingEvents,
    /// The Command queue's consumer
    cmdq: CommandQueue,
    /// Continues a run of it without the BQL
    cmdq_work: VcpuWork,
    /// vCPUs access registers without the BQL
    is_lockless: AtomicBool,
    /// Emulated functions that have an IOMMU notifier
    notified: NotifiedFunctions,
    /// Assigned devices
    assigned: Accel,
    /// CMDQ virtualization, which only some hosts have
    vcmdqs: CmdqvUnit,
    /// Functions that have asked for their address space
    requests: AddressSpaceRequests,
    /// Emulated endpoints behind an SMMU with accel=on
    endpoints: EmulatedEndpoints,
    /// The checked values of the properties, once the device is realized
    properties: BqlCell<Option<SmmuProperties>>,
    /// Registers in the layout of the migration stream, while one is written or read
    saved: BqlRefCell<SavedRegisters>,
    /// ID registers in the stream with accel=on, while one is written or read
    saved_features: BqlRefCell<SavedFeatures>,
    /// The same before the guest's memory
    early_state: EarlyState,
    /// Assigned devices in the stream of a live update, while one is written or read
    saved_accel: BqlRefCell<SavedAccel>,
    /// Blocks migration and live updates of an SMMU that has or had queues in hardware
    cmdqv_blocker: BqlRefCell<Option<MigrationBlocker>>,
    /// Quiesces when the machine stops, and resumes when it starts
    run_state: VmStateHandler,
    /// Checks that `auto` properties were resolved when the machine is complete
    machine_done: Notifier,
    /// Reattaches devices whose `StreamID` has changed
    bus_numbers: Notifier,
    /// Follows endpoints that come and go
    devices: DeviceListener,
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
        for (name, text) in DESCRIPTIONS.iter().chain(&OWN_DESCRIPTIONS) {
            describe_property(device_class, name, text);
        }
    }
}

// SAFETY: Smmuv3 begins with its parent's instance, Smmuv3Class with its parent's class
unsafe impl ObjectType for Smmuv3 {
    type Class = Smmuv3Class;
    const TYPE_NAME: &'static CStr = TYPE_ARM_SMMUV3;
}

impl ObjectImpl for Smmuv3 {
    type ParentType = ArmSmmu;

    const INSTANCE_INIT: Option<unsafe fn(ParentInit<Self>)> = Some(Self::init);
    const CLASS_INIT: fn(&mut Self::Class) = Self::Class::class_init;
}

impl DeviceImpl for Smmuv3 {
    const VMSTATE: Option<VMStateDescription<Self>> = Some(VMSTATE);
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
        uninit_field_mut!(*this, irqs).write(Default::default());
        uninit_field_mut!(*this, state).write(GuestState::new(Features::arm_smmuv3()));
        uninit_field_mut!(*this, events).write(Default::default());
        // SAFETY: `init_callbacks` initializes the timer
        uninit_field_mut!(*this, cmdq).write(CommandQueue::new(unsafe { Timer::new() }));
        uninit_field_mut!(*this, cmdq_work).write(Default::default());
        uninit_field_mut!(*this, is_lockless).write(Default::default());
        uninit_field_mut!(*this, notified).write(Default::default());
        // SAFETY: `init_callbacks` initializes the timer
        uninit_field_mut!(*this, assigned).write(Accel::new(unsafe { Timer::new() }));
        uninit_field_mut!(*this, vcmdqs).write(CmdqvUnit::new(std::array::from_fn(|_| {
            // SAFETY: `init_callbacks` initializes the timer
            CommandQueue::new(unsafe { Timer::new() })
        })));
        uninit_field_mut!(*this, requests).write(Default::default());
        uninit_field_mut!(*this, endpoints).write(Default::default());
        uninit_field_mut!(*this, properties).write(Default::default());
        uninit_field_mut!(*this, saved).write(Default::default());
        uninit_field_mut!(*this, saved_features).write(Default::default());
        uninit_field_mut!(*this, early_state).write(Default::default());
        uninit_field_mut!(*this, saved_accel).write(Default::default());
        uninit_field_mut!(*this, cmdqv_blocker).write(Default::default());
        uninit_field_mut!(*this, run_state).write(Default::default());
        uninit_field_mut!(*this, machine_done).write(Default::default());
        uninit_field_mut!(*this, bus_numbers).write(Default::default());
        uninit_field_mut!(*this, devices).write(Default::default());
        // SAFETY: all other fields are initialized, or valid as the zeroes that they are; QOM
        // does not move objects
        Self::init_callbacks(unsafe { Pin::new_unchecked(this.assume_init_mut()) });
    }

    /// Binds the functions that run later to this device.
    fn init_callbacks(mut self: Pin<&mut Self>) {
        BottomHalf::init(
            self.as_mut(),
            c"arm-smmuv3-cmdq",
            &Self::continue_run,
            |device| &mut device.cmdq.continue_later,
        );
        VcpuWork::init(self.as_mut(), &Self::continue_on_vcpu, |device| {
            &mut device.cmdq_work
        });
        // Nothing is deferred in them, so their timers are never set.
        for lvcmdq in 0..QUEUES {
            BottomHalf::init(
                self.as_mut(),
                c"arm-smmuv3-vcmdq",
                &Self::consume_ready_vcmdqs,
                |device| &mut device.vcmdqs.queues[lvcmdq].continue_later,
            );
            Timer::init_full(
                self.as_mut(),
                None,
                CLOCK_VIRTUAL,
                Timer::NS,
                0,
                Self::consume_ready_vcmdqs,
                |device| &mut device.vcmdqs.queues[lvcmdq].deferred,
            );
        }
        BottomHalf::init(
            self.as_mut(),
            c"arm-smmuv3-events",
            &Self::record_events,
            |device| &mut device.events.record_later,
        );
        Timer::init_full(
            self.as_mut(),
            None,
            CLOCK_VIRTUAL,
            Timer::NS,
            0,
            Self::consume_later,
            |device| &mut device.cmdq.deferred,
        );
        Timer::init_full(
            self.as_mut(),
            None,
            CLOCK_REALTIME,
            Timer::NS,
            0,
            Self::retry_due,
            |device| &mut device.assigned.retry,
        );
        VmStateHandler::init(
            self.as_mut(),
            &Self::run_state_changed,
            &Self::prepare_run_state,
            |device| &mut device.run_state,
        );
        Notifier::init(self.as_mut(), &Self::machine_done, |device| {
            &mut device.machine_done
        });
        Notifier::init(self.as_mut(), &Self::bus_number_changed, |device| {
            &mut device.bus_numbers
        });
        DeviceListener::init(
            self,
            &Self::device_realized,
            &Self::device_unrealized,
            |device| &mut device.devices,
        );
    }

    fn realize(&self) -> Result<()> {
        let properties = SmmuProperties::new(&Values {
            stage: self.stage.get(),
            accel: self.accel,
            ril: self.ril.value(),
            ats: self.ats.value(),
            msi: self.msi.value(),
            cd2l: self.cd2l.value(),
            vax: self.vax.value(),
            oas: self.oas,
            ssidsize: self.ssidsize,
            cmdqv: self.cmdqv.value(),
        })?;
        self.state.lock().features = properties.features();
        self.properties.set(Some(properties));

        let name = self.name();
        if self.accel {
            self.use_pci_iommu_impl();
        }
        self.state.guest_errors.set_name(name.clone());
        self.set_region_type::<Smmuv3MemoryRegion>();
        self.get_class().parent_methods.realize(self)?;
        if self.accel {
            self.state.lock().uses_caches = false;
            self.find_endpoints()?;
        }

        // A host refuses commands about EL2, and its errors are reported to the guest; in
        // software they cost nothing, and firmware that runs on the C device needs them.
        let leniency = if self.accel {
            Leniency::Strict
        } else {
            Leniency::El2Tlbi
        };
        self.cmdq.enable(leniency);
        for queue in &self.vcmdqs.queues {
            queue.enable(Leniency::Strict);
        }
        self.run_state.register(RUN_STATE_PRIORITY);
        // with accel=off, too: it refuses a guest that was started with accel=on
        self.early_state.register(self, &VMSTATE_EARLY)?;
        if self.accel {
            let owner = Owner {
                name: name.into(),
                path: self.canonical_path().unwrap_or_default(),
            };
            self.assigned.enable(owner, properties);
            add_machine_init_done_notifier(&self.machine_done);
            self.devices.register();
        }
        add_bus_number_notifier(&self.bus_numbers);
        let (ops, region) = (&REGISTERS_OPS, c"arm-smmuv3");
        if self.accel {
            init_checked_io(self, &self.iomem, ops, &Self::accepts, region, MMIO_SIZE);
            enable_lockless_io(&self.iomem);
        } else {
            init_io(self, &self.iomem, ops, region, MMIO_SIZE);
        }
        self.init_mmio(&self.iomem);
        for interrupt in self.irqs.sources() {
            self.init_irq(interrupt);
        }
        add_read_only(self, c"implementation", c"string", &Self::implementation);
        add_read_only(self, c"statistics", c"Smmuv3Statistics", &Self::statistics);
        add_read_only(self, c"streams", c"Smmuv3Streams", &Self::streams);
        add_read_only(
            self,
            c"id-registers",
            c"Smmuv3IdRegisters",
            &Self::id_registers,
        );
        Ok(())
    }

    /// Adds CMDQ virtualization if the SMMU is to have it, and checks that `auto` properties have
    /// a host to take their values from, before the guest runs.
    ///
    /// The board connects regions and interrupts of devices later: its notifier is older than
    /// this one, and QEMU calls the newest first.
    fn machine_done(&self) {
        self.add_cmdqv().unwrap_fatal();
        // the guest of another QEMU has seen what they are
        let resolved = self.assigned.is_resolved() || is_incoming();
        let wants = |what: fn(&SmmuProperties) -> bool| {
            self.properties
                .get()
                .is_some_and(|properties| what(&properties))
        };
        let check = || {
            ensure!(
                self.vcmdqs.is_present() || !wants(|it| it.cmdqv == Auto::Value(true)),
                "arm-smmuv3 '{}' with cmdqv=on takes the queues of the host of an assigned device: give it at \
                 least one vfio-pci device on the command line, or set cmdqv=off",
                self.name()
            );
            ensure!(
                resolved || !wants(SmmuProperties::wants_host),
                "arm-smmuv3 '{}' with accel=on takes its 'auto' properties from the host of an assigned device: \
                 give it at least one vfio-pci device on the command line, or set ats, ril, oas and ssidsize, and leave \
                 cd2l and vax off",
                self.name()
            );
            Ok(())
        };
        check().unwrap_fatal();
    }

    /// Resets the device in the exit phase, when every other device has stopped its DMA.
    fn reset_exit(&self, reset_type: ResetType) {
        trace::trace_smmu_reset_exit();
        self.get_class().parent_methods.reset_exit(self, reset_type);
        self.reset();
    }

    /// Gives registers, queues and assigned devices the state after a reset.
    fn reset(&self) {
        // first, because the queues are the guest's until the host has released them
        self.vcmdqs
            .reset(&self.state.features(), &self.around_vcmdqs());
        self.limit_queues();
        self.state.reset();
        self.events.clear();
        invalidate_all(&self.state, &self.notified);
        self.cmdq.reset();
        self.sync_veventq();
        self.assigned.reset(&self.state);
    }

    /// Shows the guest queues that hardware can have. Memory with smaller pages may have been
    /// plugged in since the last reset.
    fn limit_queues(&self) {
        let features = self.vcmdqs.limit(self.state.features());
        self.state.lock().features = features;
    }

    /// Follows a change of a PCI bus's number. Devices whose `StreamID` has changed are
    /// translated by the Stream table entry of the new one from now on: assigned ones are
    /// reattached, and device IOTLBs (vhost) are notified to unmap everything.
    fn bus_number_changed(&self) {
        if self.is_in_reset() {
            // the end of a system reset attaches every stream
            return;
        }
        self.notified.unmap_all();
        self.assigned.reattach_renumbered(&self.state);
    }
}

/// Properties that users can read while the machine runs.
///
/// None of them calls the host or waits: every value is a copy of the device's state.
///
/// Nothing is borrowed mutably when a property is read. Cells are borrowed so only while the
/// device works under the Big QEMU Lock (BQL), which a monitor's command needs: QMP and HMP
/// execute commands from the main loop's I/O handlers, and no loop that the device's work
/// could run inside itself (for an ioctl, guest memory, or a message to vhost) polls these.
impl Smmuv3 {
    fn implementation(&self) -> Value {
        introspection::implementation()
    }

    fn statistics(&self) -> Value {
        let translations = self.state.lock().statistics;
        introspection::statistics(&AllCounters {
            cmdq: &self.cmdq.counters(),
            doorbells: self.cmdq.doorbells(),
            attach: self.assigned.counters(),
            events: self.events.counters(),
            translations,
            notifications: self.notified.notifications(),
            cmdqv: self.vcmdqs.status(&self.state.features()),
            vcmdqs: std::array::from_fn(|lvcmdq| {
                let queue = self.vcmdqs.queues.get(lvcmdq);
                queue.map(CommandQueue::counters).unwrap_or_default()
            }),
        })
    }

    fn streams(&self) -> Value {
        introspection::streams(self.assigned.status())
    }

    fn id_registers(&self) -> Value {
        let wants_host = self.accel && self.properties.get().is_some_and(|it| it.wants_host());
        let is_resolved = !wants_host || self.assigned.is_resolved();
        introspection::id_registers(&self.state.features(), is_resolved)
    }
}

/// Registers, commands and events.
///
/// With accel=on registers may be accessed without the BQL, which KVM's vCPUs do. A doorbell and a
/// read of `CMDQ_CONS` do not take it, every other access does. The consumer takes it for everything
/// but the queue, the host's invalidations and the completion of a `CMD_SYNC`.
impl Smmuv3 {
    /// Returns whether an access to a register is permitted.
    fn accepts(&self) -> bool {
        is_from_outside(self)
    }

    /// Notes that this thread is in this SMMU: no access of the SMMU leads to its own registers.
    /// Without accel QEMU's own guard sees to that.
    #[inline]
    fn enter(&self) -> Option<Engaged> {
        self.accel.then(|| Engaged::enter(self))
    }

    fn read(&self, offset: u64, size: u32) -> u64 {
        let _engaged = self.enter();
        if !mmio::is_of_cmdq(offset) {
            let _lock = BigLock::acquire();
            return mmio::read(&self.state, offset, size);
        }
        // A guest that reads CMDQ_CONS waits: for space, or for commands without a CMD_SYNC.
        if self.cmdq.is_deferred() && mmio::reads_cmdq_cons(offset, size) {
            self.consume();
        }
        mmio::read(&self.state, offset, size)
    }

    fn write(&self, offset: u64, value: u64, size: u32) {
        let _engaged = self.enter();
        let rings = if mmio::is_doorbell(offset, size) {
            mmio::ring(&self.state, offset, value)
        } else {
            let _lock = BigLock::acquire();
            self.write_register(offset, value, size)
        };
        if rings {
            self.cmdq.note_doorbell();
            self.consume();
        }
    }

    /// Writes a register, with the BQL. Returns whether there may be commands to consume.
    fn write_register(&self, offset: u64, value: u64, size: u32) -> bool {
        let effects = mmio::write(&self.state, &self.events, &self.irqs, offset, value, size);
        if effects.streams {
            invalidate_all(&self.state, &self.notified);
            // The guest decides about every stream again, and no ATC has a stale translation:
            // an attachment to stage 1 leaves nothing in an ATC.
            self.assigned.clear_quarantines();
            self.assigned.reattach_all(&self.state);
        }
        if effects.eventq {
            self.state.separate_accesses();
            self.sync_veventq();
        }
        effects.cmdq
    }

    /// Prepares for a start of the machine, before VFIO lets devices run.
    fn prepare_run_state(&self, running: bool) {
        if running {
            self.assigned.start_loaded(&self.state);
        }
    }

    /// Follows a start or a stop of the machine. Commands that could not be consumed before it
    /// stopped, or that came with a saved state, are consumed when it starts.
    fn run_state_changed(&self, running: bool) {
        if running {
            self.resume_assigned();
            self.consume_later();
        } else {
            self.quiesce();
        }
    }

    /// Records the pending events and consumes commands, because the machine has stopped: a
    /// saved state has no place for a run that has begun, and the C device that may load it
    /// consumes nothing before the next doorbell.
    fn quiesce(&self) {
        if self.accel {
            // Commands stay in the queue for the QEMU that starts the machine, because the host
            // may be slow. Between runs of the consumer none is pending anywhere else.
            self.record_all(self.assigned.stop());
            self.flush_events();
            return;
        }
        self.flush_events();
        let end = Instant::now() + TIME_AT_STOP;
        for _ in 0..SLICES_AT_STOP {
            if self.consume_slice() == Progress::Idle {
                return;
            }
            if !self.notified.is_empty() && Instant::now() >= end {
                break;
            }
        }
        self.consume_later();
    }

    /// Consumes commands: one slice, the rest later.
    ///
    /// A stop or a reset of the machine waits for vCPUs only, so any other thread, of a device
    /// whose DMA leads here, holds the BQL for the whole run.
    fn consume(&self) {
        let is_lockless = !bql::is_locked() && is_vcpu_thread();
        let _lock = (!is_lockless).then(BigLock::acquire);
        if is_lockless {
            self.is_lockless.store(true, Ordering::Relaxed);
        }
        self.cmdq.arm(self.consume_slice());
    }

    fn consume_later(&self) {
        self.cmdq.consume_later();
    }

    /// Continues a run, from the main loop. That must not wait for the host, so a vCPU's thread
    /// does it, where these have no BQL.
    fn continue_run(&self) {
        let is_lockless = is_kvm_enabled() || self.is_lockless.load(Ordering::Relaxed);
        if self.accel
            && is_lockless
            && !is_replay_enabled()
            && (self.assigned.is_stopped() || self.cmdq_work.schedule())
        {
            return;
        }
        let _engaged = self.enter();
        self.consume();
    }

    /// Continues a run in the thread of a vCPU.
    fn continue_on_vcpu(&self, is_paused: bool) {
        if is_paused {
            // This vCPU may be paused for a moment, so ask again; when the machine has
            // stopped, its start does.
            self.consume_later();
            return;
        }
        let _engaged = self.enter();
        self.consume();
    }

    fn consume_slice(&self) -> Progress {
        if self.assigned.is_stopped() {
            return Progress::Idle;
        }
        let Some(mut run) = self.cmdq.claim(&self.state) else {
            return Progress::Idle;
        };
        loop {
            let progress = self.consume_run(&mut run);
            run = match self.cmdq.release(&self.state, run, progress) {
                Ok(next) => next,
                Err(progress) => return progress,
            };
        }
    }

    fn consume_run(&self, run: &mut Run) -> Progress {
        // a CMD_SYNC is not seen to complete before the events of what it waits for
        self.flush_events();
        let (state, irqs) = (&self.state, &self.irqs);
        if !self.accel {
            return run.consume(state, irqs, false, &mut self.own_caches());
        }
        if self.assigned.is_pending() {
            let _lock = BigLock::acquire();
            self.record_all(self.assigned.begin_commands());
        }
        // Asked in every run: commands about an endpoint that came meanwhile are in a later one.
        if self.endpoints.is_empty() {
            run.consume(state, irqs, true, &mut self.host_with(NoCaches))
        } else {
            let own = {
                let _lock = BigLock::acquire();
                LockingCaches(self.own_caches())
            };
            run.consume(state, irqs, true, &mut self.host_with(own))
        }
    }

    fn flush_events(&self) {
        if self.events.are_pending() {
            let _lock = BigLock::acquire();
            self.events.flush(&self.state, &self.irqs);
        }
    }

    /// Records events from the main loop.
    fn record_events(&self) {
        let _engaged = self.enter();
        self.flush_events();
    }

    fn record_all(&self, events: Vec<PendingEvent>) {
        for event in events {
            self.events.record(event, &self.state, &self.irqs);
        }
    }

    /// Forwards the host's events of assigned devices.
    fn forward_events(&self) {
        self.record_all(self.assigned.drain_ready_veventq());
    }

    /// Follows CR0.EVENTQEN.
    fn sync_veventq(&self) {
        let is_enabled = self.state.lock().registers.eventq_enabled();
        self.assigned.sync_veventq(is_enabled, |viommu| {
            VeventQ::new(self, &Self::forward_events, viommu)
        });
    }

    fn retry_due(&self) {
        self.assigned.retry_due();
        if self.assigned.is_veventq_due() {
            self.sync_veventq();
        }
    }
}

/// Emulated endpoints behind an SMMU with accel=on.
///
/// While there is one, commands are executed in the caches here, too, all of them come to QEMU, and
/// translations are cached. While there is none, a command costs a test.
impl Smmuv3 {
    /// Finds the endpoints that are on the bus already.
    ///
    /// The PCI core has not asked about them. An assigned device among them would keep untranslated
    /// access to the guest's memory.
    fn find_endpoints(&self) -> Result<()> {
        let name = self.name();
        if let Some(endpoint) = pci::first_untranslated(&self.requests) {
            return Err(Error::msg(format!(
                "arm-smmuv3 '{name}' with accel=on must come before the assigned devices behind it, but {endpoint} \
                 is there already: move -device arm-smmuv3 to the front of the command line"
            )));
        }
        self.endpoints.find(&self.requests);
        match self.endpoints.first() {
            Some(endpoint) if self.requires_cmdqv() => Err(pci::refuse_emulated(&name, &endpoint)),
            Some(_) => {
                self.follow_endpoints();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Follows a device of the machine that is realized, and that the guest cannot use yet.
    fn device_realized(&self, device: &DeviceState) {
        if let Some(device) = device.dynamic_cast::<PciDevice>() {
            if self.endpoints.add(&self.requests, device) {
                self.follow_endpoints();
            }
        }
    }

    /// Follows a device of the machine that is gone.
    fn device_unrealized(&self, device: &DeviceState) {
        if let Some(device) = device.dynamic_cast::<PciDevice>() {
            if self.endpoints.remove(device) {
                self.follow_endpoints();
            }
        }
    }

    /// Follows the first endpoint, or the end of the last one. In between nothing is cached here.
    fn follow_endpoints(&self) {
        let is_any = !self.endpoints.is_empty();
        if is_any {
            // first, because commands that do not come here would not be executed here
            let features = self.state.features();
            let ready = self.vcmdqs.use_software(&features, &self.around_vcmdqs());
            self.consume_vcmdqs(ready);
        }
        self.state.lock().uses_caches = is_any;
        invalidate_all(&self.state, &self.notified);
        if !is_any {
            self.use_hardware();
        }
    }

    fn requires_cmdqv(&self) -> bool {
        let properties = self.properties.get();
        properties.is_some_and(|properties| properties.cmdqv == Auto::Value(true))
    }

    /// Returns the host of the assigned devices, for one run of a consumer.
    fn host_with<L>(&self, own: L) -> AccelBackend<'_, L> {
        AccelBackend::new(&self.assigned, &self.state, self.upcast(), own)
    }

    /// Returns this SMMU's own caches, for one run of a consumer.
    fn own_caches(&self) -> SoftwareBackend<'_> {
        SoftwareBackend::new(&self.state, &self.notified, &self.events, &self.irqs)
    }
}

/// CMDQ virtualization.
impl Smmuv3 {
    /// Adds the unit, if an assigned device came with the machine whose host has it, and no
    /// emulated endpoint did.
    fn add_cmdqv(&self) -> Result<()> {
        let Some(cmdqs) = self.vcmdqs.take_offer() else {
            return Ok(());
        };
        if !self.endpoints.is_empty() {
            self.assigned.with_viommu(|viommu| {
                let vintf = viommu.and_then(|viommu| viommu.vintf.as_mut());
                vintf.map(Vintf::retire);
            });
            // The guest has no such queues, so it can be migrated. But a new QEMU could not adopt
            // the vIOMMU.
            *self.cmdqv_blocker.borrow_mut() = None;
            *self.cmdqv_blocker.borrow_mut() = Some(self.block_cmdqv(Modes::LIVE_UPDATE)?);
            return Ok(());
        }
        self.vcmdqs
            .add_to(self, &self.cmdqv_regions, &CMDQV_OPS, &Self::accepts, cmdqs)?;
        self.limit_queues();
        Ok(())
    }

    /// Gives the host the guest's queues, if it has a VINTF and no emulated endpoint needs their
    /// commands.
    fn use_hardware(&self) {
        if self.has_vintf() && self.endpoints.is_empty() {
            let features = self.state.features();
            let ready = self.vcmdqs.give_host(&features, &self.around_vcmdqs());
            self.consume_vcmdqs(ready);
        }
    }

    fn has_vintf(&self) -> bool {
        self.assigned
            .with_viommu(|viommu| viommu.is_some_and(|viommu| viommu.vintf.is_some()))
    }

    /// Blocks modes of migration, because queues in hardware can be neither saved nor adopted.
    fn block_cmdqv(&self, modes: Modes) -> Result<MigrationBlocker> {
        let reason = format!(
            "arm-smmuv3 '{}' has CMDQ virtualization (cmdqv), whose queues in hardware can be neither migrated nor \
             taken over by a new QEMU: start the guest with cmdqv=off to be able to migrate it, or to update QEMU \
             under it",
            self.name()
        );
        MigrationBlocker::new(&Error::msg(reason), modes)
    }

    fn around_vcmdqs(&self) -> Surroundings<'_> {
        Surroundings {
            smmu: self.upcast(),
            guest_errors: &self.state.guest_errors,
            accel: &self.assigned,
            regions: &self.cmdqv_regions,
        }
    }

    fn read_cmdqv(&self, offset: u64, size: u32) -> u64 {
        let _engaged = self.enter();
        self.vcmdqs.read(&self.state.features(), offset, size)
    }

    fn write_cmdqv(&self, offset: u64, value: u64, size: u32) {
        let _engaged = self.enter();
        let features = self.state.features();
        let around = self.around_vcmdqs();
        let ready = self.vcmdqs.write(&features, &around, offset, value, size);
        self.consume_vcmdqs(ready);
    }

    fn consume_ready_vcmdqs(&self) {
        let _engaged = self.enter();
        self.consume_vcmdqs(self.vcmdqs.ready(&self.state.features()));
    }

    fn consume_vcmdqs(&self, ready: [bool; QUEUES]) {
        for (lvcmdq, queue) in self.vcmdqs.queues.iter().enumerate() {
            if ready.get(lvcmdq) == Some(&true) {
                queue.note_doorbell();
                queue.arm(self.consume_vcmdq(lvcmdq, queue));
            }
        }
    }

    /// Consumes one slice of commands of a queue that the host does not execute.
    fn consume_vcmdq(&self, lvcmdq: usize, queue: &CommandQueue) -> Progress {
        let (stream_table, features) = self.state.stream_table();
        let Some(mut run) = self.vcmdqs.begin(&features, lvcmdq, stream_table) else {
            return Progress::Idle;
        };
        self.flush_events();
        if self.assigned.is_pending() {
            self.record_all(self.assigned.begin_commands());
        }
        let mut interrupts = self.vcmdqs.interrupts();
        let state = &self.state;
        let progress = if self.endpoints.is_empty() {
            let mut backend = self.host_with(NoCaches);
            queue.consume_vcmdq(&mut run, state, &features, &mut interrupts, &mut backend)
        } else {
            let mut backend = self.host_with(self.own_caches());
            queue.consume_vcmdq(&mut run, state, &features, &mut interrupts, &mut backend)
        };
        let Some(progress) = progress else {
            return Progress::Idle;
        };
        self.vcmdqs.finish(run);
        progress
    }

    /// Raises the interrupt for errors of queues that the host executes.
    fn vcmdq_errors(&self) {
        let (received, error) = self.assigned.with_viommu(|viommu| {
            let vintf = viommu.and_then(|viommu| viommu.vintf.as_mut());
            vintf.map(Vintf::drain_errors).unwrap_or_default()
        });
        self.vcmdqs.note_errors(&received);
        if let Some(error) = error {
            report(&Error::msg(format!(
                "{}: the host reports no more errors of VCMDQs (cmdqv): {error}",
                self.name()
            )));
        }
    }

    /// Returns the request for a VINTF with which the next vIOMMU is made, if one is wanted.
    ///
    /// The unit is part of the machine: a guest that has started without it cannot be given
    /// it, and one that has it keeps it.
    fn vintf_request<'a>(
        &self,
        device: &HostDevice,
        open_errors: &'a dyn Fn(&HostObject) -> Result<VeventQ<VcmdqErrors>>,
    ) -> Result<Option<VintfRequest<'a>>> {
        let wanted = self.properties.get().map(|properties| properties.cmdqv);
        let is_required = wanted == Some(Auto::Value(true));
        let is_undecided = !is_machine_ready() && self.endpoints.is_empty();
        // an SMMU that has it is not updated, so the other QEMU's has none
        if cpr::is_incoming() {
            return Ok(None);
        }
        let may_be_had = self.vcmdqs.is_present() || is_undecided;
        if wanted == Some(Auto::Value(false)) || !may_be_had {
            return Ok(None);
        }
        if let Err(error) = probe_cmdqv(device) {
            if is_required {
                return Err(cmdqv::missing(self.upcast(), &error));
            }
            return Ok(None);
        }
        Ok(Some(VintfRequest {
            is_required,
            window: self.vcmdqs.window()?,
            open_errors,
        }))
    }

    /// Follows a new vIOMMU with a VINTF, on a host with this `IDR1.CMDQS`.
    fn use_vintf(&self, cmdqs: u8) {
        if self.vcmdqs.is_present() {
            self.use_hardware();
        } else {
            self.vcmdqs.offer(cmdqs);
        }
    }
}

/// Command queues that are not this device's own.
#[cfg(feature = "cmdqv-hw")]
impl Smmuv3 {
    /// Executes a command as though the Command queue held it alone, and completes it.
    ///
    /// Tests emulate hardware that has further Command queues (`tests/cmdqv-hw`). A `CMD_SYNC`
    /// has nothing to wait for.
    ///
    /// # Errors
    ///
    /// Fails if the command is illegal, or the commands of this SMMU are executed by a host.
    pub fn execute(&self, command: [u64; 2]) -> std::result::Result<(), smmuv3::command::Illegal> {
        use smmuv3::{
            cmdq::Backend,
            command::{decode, Command, Illegal},
        };

        if self.accel {
            return Err(Illegal);
        }
        let decoded = decode(command, &self.state.features())?;
        self.flush_events();
        let mut backend = self.own_caches();
        match decoded {
            Command::Invalidate(invalidation) => {
                backend.invalidate(&[invalidation]).map_err(|_| Illegal)
            }
            Command::CfgiSte { sid } => {
                backend.invalidate_configurations(sid, sid);
                Ok(())
            }
            Command::CfgiSteRange { first, last } => {
                backend.invalidate_configurations(first, last);
                Ok(())
            }
            Command::PrefetchConfig
            | Command::PrefetchAddr
            | Command::NoEffect
            | Command::Sync { .. } => Ok(()),
        }
    }
}

impl PciIommuImpl for Smmuv3 {
    const SUPPORTS_ADDRESS_SPACE: Option<fn(&Self, PciFunction<'_>) -> Result<()>> =
        Some(Self::permit);
    const VIOMMU_FLAGS: Option<fn(&Self) -> ViommuFlags> = Some(Self::viommu_flags);
    const SET_IOMMU_DEVICE: Option<SetIommuDevice<Self>> = Some(Self::plug);
    const UNSET_IOMMU_DEVICE: Option<fn(&Self, PciFunction<'_>)> = Some(Self::unplug);
    const MSI_DIRECT_GPA: Option<fn(&Self, PciFunction<'_>) -> u64> = Some(|smmu, _| smmu.msi_gpa);

    fn address_space<'a>(&'a self, function: PciFunction<'a>) -> &'a AddressSpace {
        pci::address_space(self.upcast(), &self.requests, function)
    }
}

/// The PCI bus, with assigned devices.
impl Smmuv3 {
    fn permit(&self, function: PciFunction<'_>) -> Result<()> {
        pci::permit(self.upcast(), function, self.requires_cmdqv())
    }

    fn viommu_flags(&self) -> ViommuFlags {
        let features = self.state.features();
        pci::viommu_flags(features.ssidsize() > 0)
    }

    fn plug(&self, function: PciFunction<'_>, device: &HostIommuDevice) -> Result<()> {
        let Some(device) = HostDevice::of(device) else {
            // not backed by iommufd: `permit` has refused the others
            return Ok(());
        };
        let open_errors = |viommu: &HostObject| VeventQ::new(self, &Self::vcmdq_errors, viommu);
        let vintf = self.vintf_request(&device, &open_errors)?;
        let blocker = vintf.as_ref().map(|_| self.block_cmdqv(Modes::ALL));
        let blocker = blocker.transpose()?;
        let new = self
            .assigned
            .plug(&self.state, function, device, vintf.as_ref())?;
        if self.has_vintf() {
            let mut kept = self.cmdqv_blocker.borrow_mut();
            *kept = kept.take().or(blocker);
        }
        if let Some(new) = new {
            self.cmdq.set_policy(new.policy);
            self.vcmdqs.set_policy(new.policy);
            if let Some(cmdqs) = new.vintf_cmdqs {
                self.use_vintf(cmdqs);
            }
            self.sync_veventq();
        }
        Ok(())
    }

    fn unplug(&self, function: PciFunction<'_>) {
        let features = self.state.features();
        let around = self.around_vcmdqs();
        self.assigned.unplug(function, |viommu| {
            self.vcmdqs.take_from_host(&features, &around, viommu);
        });
        // Queues may have moved with commands in them, for which the guest does not ring again.
        self.consume_ready_vcmdqs();
    }
}

/// Migration.
impl Smmuv3 {
    fn gbpa_needed(&self) -> bool {
        self.saved.borrow().has_gbpa(&self.state.features())
    }

    fn pre_save(&self) -> std::result::Result<(), InvalidError> {
        *self.saved.borrow_mut() = SavedRegisters::of(&self.state.snapshot());
        Ok(())
    }

    fn pre_load(&self) -> std::result::Result<(), InvalidError> {
        *self.saved.borrow_mut() = SavedRegisters::before_load(&self.state.features());
        *self.saved_features.borrow_mut() = SavedFeatures::default();
        *self.saved_accel.borrow_mut() = SavedAccel::default();
        Ok(())
    }

    fn features_needed(&self) -> bool {
        // the state of assigned devices for a live update has them, too
        self.accel && !cpr::is_outgoing()
    }

    fn save_features(&self) -> std::result::Result<(), InvalidError> {
        *self.saved_features.borrow_mut() = self.state.features().into();
        Ok(())
    }

    /// Refuses a guest before its memory is loaded, if a host lacks what it has seen.
    fn check_early(&self, _version_id: u8) -> std::result::Result<(), InvalidError> {
        let saved = *self.saved_features.borrow();
        let result = self
            .accepts_features(&saved)
            .and_then(|()| self.assigned.check_features(&saved));
        result.map_err(|error| {
            report(&error);
            InvalidError
        })
    }

    fn post_load(&self, _version_id: u8) -> std::result::Result<(), InvalidError> {
        self.load().map_err(|error| {
            report(&error);
            InvalidError
        })
    }

    fn load(&self) -> Result<()> {
        let is_update = self.accel && cpr::is_incoming();
        let devices = self.saved_accel.borrow();
        ensure!(
            is_update || !devices.is_present,
            "{}: the stream is that of a live update, but this QEMU was not started for one, or has accel=off",
            self.name()
        );
        if is_update {
            self.assigned
                .adopt_features(&self.state, &devices)
                .map_err(|error| self.not_updated(&error))?;
        } else {
            self.load_features()?;
        }
        let saved = *self.saved.borrow();
        let registers = saved.registers(&self.state.features()).map_err(|field| {
            Error::msg(format!(
                "{}: the migration stream is damaged: {field} has a value that no device saves",
                self.name()
            ))
        })?;
        self.state.restore(registers);
        invalidate_all(&self.state, &self.notified);
        if is_update {
            return self
                .adopt(&devices)
                .map_err(|error| self.not_updated(&error));
        }
        // Commands that the source had not consumed are consumed when the machine starts: an
        // interrupt controller that is loaded later has no pending bit for a CMD_SYNC, so
        // its interrupt would be lost.
        if self.accel {
            self.attach_loaded()
        } else {
            Ok(())
        }
    }

    /// Checks that this QEMU was started for a guest that has read the ID registers of a state.
    fn accepts_features(&self, saved: &SavedFeatures) -> Result<()> {
        ensure!(
            self.accel || !saved.is_present,
            "{}: cannot load this state: the guest was started with accel=on, and this QEMU with accel=off",
            self.name()
        );
        ensure!(
            !self.vcmdqs.is_present(),
            "{}: cannot load this state: the guest was started without CMDQ virtualization (cmdqv), and this QEMU \
             with it: set cmdqv=off",
            self.name()
        );
        Ok(())
    }

    /// Shows the guest the ID registers that it has read at the source.
    fn load_features(&self) -> Result<()> {
        let saved = *self.saved_features.borrow();
        self.accepts_features(&saved)?;
        let policy = self.cmdq.policy();
        let policy = self.assigned.load_features(&self.state, &saved, policy)?;
        self.cmdq.set_policy(policy);
        Ok(())
    }

    /// Attaches the assigned devices as the loaded state says, all of them or none.
    ///
    /// A quarantine and a `CERROR_ATC_INV_SYNC` that is not reported yet are not in the state: the
    /// ATCs of the devices here are empty.
    fn attach_loaded(&self) -> Result<()> {
        self.cmdq.resume_from(false);
        let result = self.assigned.attach_loaded(&self.state);
        if result.is_err() {
            self.reset();
        }
        self.sync_veventq();
        result
    }
}

/// Live update of QEMU.
impl Smmuv3 {
    fn accel_needed(&self) -> bool {
        self.accel && cpr::is_outgoing()
    }

    fn save_accel(&self) -> std::result::Result<(), InvalidError> {
        let saved = self.assigned.save(&self.state, &self.cmdq.policy());
        let saved = saved.map_err(|error| {
            report(&error);
            InvalidError
        })?;
        *self.saved_accel.borrow_mut() = SavedAccel {
            atc_inv_failed: self.cmdq.atc_inv_failed(),
            ..saved
        };
        Ok(())
    }

    /// Takes over the assigned devices of another QEMU. Their attachments are what the guest's
    /// last configuration commands have said: its tables are not read, because it may have
    /// written entries of which it has not said so yet.
    fn adopt(&self, saved: &SavedAccel) -> Result<()> {
        let policy = self.assigned.adopt(saved, |object, file, expected| {
            VeventQ::adopt(self, &Self::forward_events, object, file, expected)
        })?;
        if let Some(policy) = policy {
            self.cmdq.set_policy(policy);
        }
        self.cmdq.resume_from(saved.atc_inv_failed);
        Ok(())
    }

    fn not_updated(&self, error: &Error) -> Error {
        Error::msg(format!(
            "{}: cannot take over from the other QEMU, which can go on: {error}",
            self.name()
        ))
    }

    /// Goes on with the assigned devices, because the machine starts: also in a QEMU that has
    /// saved its state for another one, which has failed.
    fn resume_assigned(&self) {
        let resumed = self.assigned.start();
        if resumed.was_reset {
            self.assigned.reset(&self.state);
        }
        self.record_all(resumed.events);
        self.sync_veventq();
    }
}

/// The memory region through which a function behind the SMMU sees memory.
#[repr(C)]
#[derive(qom::Object)]
pub struct Smmuv3MemoryRegion {
    parent_obj: ParentField<IommuMemoryRegion>,
}

qom_isa!(Smmuv3MemoryRegion: IommuMemoryRegion, MemoryRegion, Object);

// SAFETY: the struct begins with its parent's instance; the class adds nothing
unsafe impl ObjectType for Smmuv3MemoryRegion {
    type Class = <IommuMemoryRegion as ObjectType>::Class;
    const TYPE_NAME: &'static CStr = c"smmuv3-iommu-memory-region";
}

impl ObjectImpl for Smmuv3MemoryRegion {
    type ParentType = IommuMemoryRegion;

    const CLASS_INIT: fn(&mut Self::Class) = Self::Class::class_init::<Self>;
}

// SAFETY: only Smmuv3::realize names this type, and users cannot make objects of it
unsafe impl SmmuRegion for Smmuv3MemoryRegion {
    type Smmu = Smmuv3;
}

impl IommuMemoryRegionImpl for Smmuv3MemoryRegion {
    /// Translates an access of a PCI function.
    ///
    /// `MemTxAttrs` do not come here, because the type has no `attrs_to_index`, and would
    /// decide nothing: a transaction without PASID is Data and Unprivileged regardless of the
    /// function's intention (§13.7), and the SMMU has no Secure streams.
    #[inline]
    fn translate<'a>(
        &'a self,
        iova: u64,
        access: IommuAccess,
        memory: DirectMemory<'a>,
    ) -> IommuTlbEntry<'a> {
        let (smmu, function) = (self.smmu(), self.function());
        let region = function.region();
        // Without an endpoint no client is notified of commands: so a client that caches
        // translations gets none.
        let page = if smmu.accel && region.has_notifier() && smmu.endpoints.is_empty() {
            Page::ABORT
        } else {
            let translator = Translator {
                state: &smmu.state,
                events: &smmu.events,
                irqs: &smmu.irqs,
            };
            let stream_id = function.pci().requester_id().into();
            translator.translate(region.name(), stream_id, iova, access, DirectRam(memory))
        };
        page.to_entry(iova)
    }

    /// Accepts every notifier but those of new mappings, because the guest's tables are
    /// walked on demand and not tracked.
    ///
    /// vhost and TCG register UNMAP notifiers when the guest starts their device, or turns on
    /// its ATS whatever IDR0.ATS is, and exit QEMU if that fails: it never does.
    ///
    /// MAP notifiers come from clients to which the refusal does no harm, and which are left
    /// without any mapping. VFIO and vfio-user register theirs while the device is plugged,
    /// which then fails: the region is all of the device's address space, for as long as that
    /// exists, so no region can appear later, when their error would be fatal. vhost-vdpa
    /// drops the error. To accept one would have the memory core replay 2^52 pages.
    fn notify_flag_changed(&self, flags: NotifierFlags) -> Result<()> {
        let function = self.function();
        ensure!(
            !flags.has_map(),
            "{} needs MAP notifiers, which arm-smmuv3 '{}' does not support: set accel=on of the SMMU and \
             iommufd=ID of the device, or plug the device into another root complex",
            device_at(function.pci()),
            self.smmu().name()
        );
        let name = function.region().name();
        let notified = &self.smmu().notified;
        if flags.is_empty() {
            trace::trace_smmuv3_notify_flag_del(name);
            notified.remove(function);
        } else {
            trace::trace_smmuv3_notify_flag_add(name);
            notified.add(function);
        }
        Ok(())
    }
}

/// Returns the device at a place on a bus, as users name it.
fn device_at(function: PciFunction<'_>) -> String {
    function.device().map_or_else(
        || format!("device {}", function.slot_and_function()),
        |device| device.type_and_id(),
    )
}

/// Returns whether this SMMU shows ATS to the guest. Called when the IORT is built.
///
/// # Safety
///
/// `smmu` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_ats_enabled(smmu: *mut Smmuv3) -> bool {
    // SAFETY: promised by the caller
    unsafe { &*smmu }.state.features().ats()
}

/// Returns the type of CMDQ virtualization that the SMMU has. Called when the DSDT is built.
///
/// # Safety
///
/// `object` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_accel_cmdqv_type(object: *mut Smmuv3) -> c_uint {
    // SAFETY: promised by the caller
    if unsafe { &*object }.vcmdqs.is_present() {
        SMMUV3_CMDQV_TEGRA241
    } else {
        SMMUV3_CMDQV_NONE
    }
}
