// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bridges to the C interfaces that QEMU's Rust crates do not offer: the C base
//! type, guest memory, the PCI bus's view of an IOMMU, bottom halves, and a few
//! property types. Everything here is safe to call; every `unsafe` block says
//! why. What talks to iommufd is in [`accel::ffi`](crate::accel::ffi).

use std::{
    ffi::{c_char, c_int, c_uint, c_void, CStr},
    ptr::{self, addr_of, addr_of_mut, NonNull},
    sync::{
        atomic::{fence, Ordering},
        OnceLock,
    },
};

use common::{callbacks::FnCall, Opaque, Zeroable};
use foreign::prelude::*;
use hwcore::prelude::*;
use qom::prelude::*;
use smmuv3::cmdq::BusAbort;
use system::{prelude::*, MEMTXATTRS_UNSPECIFIED};
use util::{Error, Result};

use crate::{
    accel::ffi::HostDevice,
    bindings::{self, IOMMUTLBEntry, PCIIOMMUOps},
    device::Smmuv3,
};

// ---------------------------------------------------------------------------
// QOM types that C owns

/// The C base type `arm-smmu`: page-table walk and bus map of `smmu-common.c`.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct SmmuState(Opaque<bindings::SMMUState>);

// SAFETY: the C struct is only touched under the BQL or through its own locking
unsafe impl Send for SmmuState {}
// SAFETY: as above
unsafe impl Sync for SmmuState {}

// SAFETY: SMMUState is the instance and SMMUBaseClass the class of "arm-smmu"
unsafe impl ObjectType for SmmuState {
    type Class = bindings::SMMUBaseClass;
    const TYPE_NAME: &'static CStr = c"arm-smmu";
}

qom_isa!(SmmuState: SysBusDevice, DeviceState, Object);

/// The abstract C type of memory regions that translate.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct IommuMemoryRegion(Opaque<system::bindings::IOMMUMemoryRegion>);

// SAFETY: the region is only used through the memory core
unsafe impl Send for IommuMemoryRegion {}
// SAFETY: as above
unsafe impl Sync for IommuMemoryRegion {}

// SAFETY: instance and class struct of "iommu-memory-region"
unsafe impl ObjectType for IommuMemoryRegion {
    type Class = system::bindings::IOMMUMemoryRegionClass;
    const TYPE_NAME: &'static CStr = c"iommu-memory-region";
}

qom_isa!(IommuMemoryRegion: MemoryRegion, Object);

// ---------------------------------------------------------------------------
// Class initialization

/// The virtual methods of the C base that the device overrides and must call.
#[repr(C)]
pub struct ParentMethods {
    realize: bindings::DeviceRealize,
    phases: bindings::ResettablePhases,
}

impl ParentMethods {
    /// Saves the methods of the parent class. To be called before the class's
    /// own methods are filled in, which overwrites them.
    pub fn save(&mut self, class: &mut bindings::SMMUBaseClass) {
        let device_class: *mut bindings::DeviceClass =
            addr_of_mut!(class.parent_class.parent_class);
        // SAFETY: `class` begins with a DeviceClass, which implements Resettable;
        // the cast therefore returns a pointer into memory as long-lived as the class
        unsafe {
            self.realize = (*device_class).realize;
            let resettable: *mut hwcore::bindings::ResettableClass =
                qom::bindings::object_class_dynamic_cast(
                    device_class.cast(),
                    hwcore::bindings::TYPE_RESETTABLE_INTERFACE.as_ptr().cast(),
                )
                .cast();
            self.phases = (*resettable).phases;
        }
    }

    /// Realizes the C base: installs the PCI bus's IOMMU operations.
    pub fn realize(&self, device: &Smmuv3) -> Result<()> {
        let Some(realize) = self.realize else {
            return Ok(());
        };
        // SAFETY: `device` is an instance of a subclass of the class that
        // `realize` was saved from; the callee leaves `errp` untouched or valid
        unsafe {
            Error::with_errp(|errp| realize(device.upcast::<DeviceState>().as_mut_ptr(), errp))
        }
    }

    /// Runs the exit phase of the C base's reset: drops its caches.
    pub fn reset_exit(&self, device: &Smmuv3, reset_type: ResetType) {
        if let Some(exit) = self.phases.exit {
            // SAFETY: as in `realize`
            unsafe { exit(device.upcast::<Object>().as_mut_ptr(), reset_type) }
        }
    }
}

/// Marks a device class as creatable by users, but not hot-pluggable.
pub fn set_user_creatable(class: &mut bindings::DeviceClass) {
    class.hotpluggable = false;
    class.user_creatable = true;
}

/// Sets the description of a property, as `-device TYPE,help` shows it.
pub fn describe_property(class: &mut bindings::DeviceClass, name: &CStr, text: &CStr) {
    let class: *mut bindings::DeviceClass = class;
    // SAFETY: a DeviceClass begins with an ObjectClass; the callee copies the text
    unsafe {
        qom::bindings::object_class_property_set_description(
            class.cast(),
            name.as_ptr(),
            text.as_ptr(),
        );
    }
}

// ---------------------------------------------------------------------------
// Properties

macro_rules! property_type {
    ($(#[$doc:meta])* $name:ident($inner:ty) = $info:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name($inner);

        // SAFETY: the property's setter writes exactly a value of the inner type
        unsafe impl hwcore::QDevProp for $name {
            const BASE_INFO: *const hwcore::bindings::PropertyInfo =
                addr_of!(hwcore::bindings::$info);
        }
    };
}

property_type! {
    /// QAPI `OnOffAuto`.
    OnOffAuto(u32) = qdev_prop_on_off_auto
}
property_type! {
    /// QAPI `OasMode`: `auto`, or a number of bits.
    OasMode(u32) = qdev_prop_oas_mode
}
property_type! {
    /// QAPI `SsidSizeMode`: `auto`, or a number of bits.
    SsidSizeMode(u32) = qdev_prop_ssidsize_mode
}
property_type! {
    /// A string; NULL if not set. Owned by the property code of qdev.
    StringProperty(*mut c_char) = qdev_prop_string
}

// SAFETY: written only while properties are set, before any other thread reads it
unsafe impl Send for StringProperty {}
// SAFETY: as above
unsafe impl Sync for StringProperty {}

/// What a property with the values on, off and auto asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// To be taken from the host
    Auto,
    /// Given by the user
    Given(T),
}

impl OnOffAuto {
    /// The QAPI enumeration has auto = 0, on = 1, off = 2.
    pub const fn choice(self) -> Choice<bool> {
        match self.0 {
            0 => Choice::Auto,
            value => Choice::Given(value == 1),
        }
    }
}

impl OasMode {
    /// Number of output address bits asked for; `None` stands for a size that
    /// this device does not implement.
    pub const fn choice(self) -> Option<Choice<u8>> {
        match self.0 {
            bindings::OAS_MODE_AUTO => Some(Choice::Auto),
            bindings::OAS_MODE_44 => Some(Choice::Given(44)),
            bindings::OAS_MODE_48 => Some(Choice::Given(48)),
            _ => None,
        }
    }
}

impl SsidSizeMode {
    /// Number of `SubstreamID` bits asked for, 0 to 20.
    pub const fn choice(self) -> Choice<u8> {
        match self.0 {
            bindings::SSID_SIZE_MODE_AUTO => Choice::Auto,
            #[allow(clippy::cast_possible_truncation)]
            value => Choice::Given((value - bindings::SSID_SIZE_MODE_0) as u8),
        }
    }
}

impl StringProperty {
    /// The string, if one was given.
    pub fn get(&self) -> Option<&CStr> {
        // SAFETY: NULL or a NUL-terminated string that qdev frees together with
        // the object that contains `self`
        (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) })
    }
}

// ---------------------------------------------------------------------------
// Guest memory

/// Reads guest memory as the SMMU's own accesses do: coherent, and after
/// everything that the guest wrote before it rang the doorbell.
pub fn dma_read(address: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
    dma(address, buffer.as_mut_ptr(), buffer.len(), false)
}

/// Writes guest memory.
pub fn dma_write(address: u64, data: &[u8]) -> std::result::Result<(), BusAbort> {
    dma(address, data.as_ptr().cast_mut(), data.len(), true)
}

fn dma(
    address: u64,
    data: *mut u8,
    len: usize,
    is_write: bool,
) -> std::result::Result<(), BusAbort> {
    fence(Ordering::SeqCst);
    // SAFETY: `data` points to `len` bytes, which are only read if `is_write`;
    // address_space_memory lives as long as the process
    let result = unsafe {
        system::bindings::address_space_rw(
            addr_of_mut!(system::bindings::address_space_memory),
            address,
            MEMTXATTRS_UNSPECIFIED,
            data.cast::<c_void>(),
            len as u64,
            is_write,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(BusAbort)
    }
}

/// The address space of assigned devices: an alias of the guest's memory. The
/// devices behind every accelerated SMMU share it, so that they can share one
/// stage 2 in the VFIO core.
fn shared_system_address_space() -> *mut bindings::AddressSpace {
    static SHARED: OnceLock<usize> = OnceLock::new();

    let address = *SHARED.get_or_init(|| {
        // SAFETY: the three objects are leaked, hence as long-lived as the
        // memory core may want; all-zeroes is what C initializes them from.
        // The caller holds the BQL (the PCI core asks for address spaces).
        unsafe {
            let root: *mut bindings::MemoryRegion = zeroed_leaked();
            let alias: *mut bindings::MemoryRegion = zeroed_leaked();
            let space: *mut bindings::AddressSpace = zeroed_leaked();
            let system = system::bindings::get_system_memory();
            system::bindings::memory_region_init(root, ptr::null_mut(), c"root".as_ptr(), u64::MAX);
            system::bindings::memory_region_init_alias(
                alias,
                ptr::null_mut(),
                c"smmuv3-accel-sysmem".as_ptr(),
                system,
                0,
                system::bindings::memory_region_size(system),
            );
            system::bindings::memory_region_add_subregion(root, 0, alias);
            system::bindings::address_space_init(space, root, c"smmuv3-accel-as-sysmem".as_ptr());
            space as usize
        }
    });
    address as *mut bindings::AddressSpace
}

/// Zeroed memory for a C struct that stays until the process ends.
///
/// # Safety
///
/// All-zeroes must be what C code expects of a `T` that is not yet initialized.
unsafe fn zeroed_leaked<T>() -> *mut T {
    // SAFETY: g_malloc0 aborts rather than return NULL, and aligns for any C type
    unsafe { glib_sys::g_malloc0(std::mem::size_of::<T>()).cast() }
}

// ---------------------------------------------------------------------------
// The register file's memory region

unsafe extern "C" fn read_register(opaque: *mut c_void, offset: hwaddr, size: c_uint) -> u64 {
    // SAFETY: the device that init_registers_region was called with
    unsafe { &*opaque.cast::<Smmuv3>() }.read(offset, size)
}

unsafe extern "C" fn write_register(opaque: *mut c_void, offset: hwaddr, value: u64, size: c_uint) {
    // SAFETY: as above
    unsafe { &*opaque.cast::<Smmuv3>() }.write(offset, value, size)
}

/// Makes `region` the register file of `device`, when it is realized.
///
/// [`MemoryRegion::init_io`] works in `instance_init` only, where the region
/// would show as one more child of the object than the C device has.
pub fn init_registers_region(device: &Smmuv3, region: &MemoryRegion, size: u64) {
    static OPS: system::bindings::MemoryRegionOps = system::bindings::MemoryRegionOps {
        read: Some(read_register),
        write: Some(write_register),
        endianness: system::bindings::device_endian::DEVICE_LITTLE_ENDIAN,
        valid: system::bindings::MemoryRegionOps__bindgen_ty_1 {
            min_access_size: 4,
            max_access_size: 8,
            ..Zeroable::ZERO
        },
        impl_: system::bindings::MemoryRegionOps__bindgen_ty_2 {
            min_access_size: 4,
            max_access_size: 8,
            ..Zeroable::ZERO
        },
        ..Zeroable::ZERO
    };
    // SAFETY: `region` is a field of `device`, zeroed and not yet initialized
    // (a device is realized once); the table is static
    unsafe {
        system::bindings::memory_region_init_io(
            region.as_mut_ptr(),
            device.upcast::<Object>().as_mut_ptr(),
            &OPS,
            (device as *const Smmuv3).cast_mut().cast(),
            c"arm-smmuv3".as_ptr(),
            size,
        );
    }
}

// ---------------------------------------------------------------------------
// The PCI bus's view

/// A function on a PCI bus, as the PCI core names it to an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciFunction {
    bus: NonNull<bindings::PCIBus>,
    devfn: u8,
}

impl PciFunction {
    fn new(bus: *mut bindings::PCIBus, devfn: c_int) -> Option<Self> {
        Some(Self {
            bus: NonNull::new(bus)?,
            devfn: u8::try_from(devfn).ok()?,
        })
    }

    /// Device and function number.
    pub const fn devfn(self) -> u8 {
        self.devfn
    }

    /// The `StreamID`: bus, device and function number as the guest has
    /// programmed them by now.
    pub fn stream_id(self) -> u32 {
        // SAFETY: the PCI core's bus outlives the devices on it, and the device
        // is taken off its SMMU before it goes
        let bus = unsafe { bindings::pci_bus_num(self.bus.as_ptr()) };
        ((bus as u32 & 0xff) << 8) | u32::from(self.devfn)
    }

    /// What is plugged here: only what an accelerated SMMU can serve.
    fn classify(self) -> Endpoint {
        // SAFETY: as in `stream_id`; the result is NULL or an object that lives
        // while the BQL is held; the type names are NUL-terminated
        unsafe {
            let bus = self.bus.as_ptr();
            let device = bindings::pci_find_device(bus, bindings::pci_bus_num(bus), self.devfn);
            if device.is_null() {
                return Endpoint::Empty;
            }
            let object: *mut qom::bindings::Object = device.cast();
            let is = |type_name: &CStr| {
                !qom::bindings::object_dynamic_cast(object, type_name.as_ptr()).is_null()
            };
            if [c"base-pci-bridge", c"pxb-pcie", c"gpex-root"]
                .into_iter()
                .any(is)
            {
                return Endpoint::Bridge;
            }
            if !is(c"vfio-pci") {
                return Endpoint::Emulated;
            }
            let iommufd = qom::bindings::object_property_get_link(
                object,
                c"iommufd".as_ptr(),
                ptr::null_mut(),
            );
            if iommufd.is_null() {
                Endpoint::AssignedWithoutIommufd
            } else {
                Endpoint::Assigned
            }
        }
    }

    /// The base type's record of this function, made if it is not there yet.
    fn smmu_device(self, smmu: &Smmuv3) -> *mut bindings::SMMUDevice {
        let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
        // SAFETY: smmu_get_sbus returns a record with 256 slots, which lives as
        // long as the SMMU; `devfn` is at most 255. smmu_init_sdev wants zeroed
        // memory that stays.
        unsafe {
            let sbus = bindings::smmu_get_sbus(state, self.bus.as_ptr());
            let slot = (*sbus).pbdev.as_mut_ptr().add(usize::from(self.devfn));
            if (*slot).is_null() {
                *slot = zeroed_leaked();
                bindings::smmu_init_sdev(state, *slot, self.bus.as_ptr(), c_int::from(self.devfn));
            }
            *slot
        }
    }
}

/// What can be plugged into a bus behind an accelerated SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Empty,
    Bridge,
    Assigned,
    AssignedWithoutIommufd,
    Emulated,
}

unsafe extern "C" fn supports_address_space(
    bus: *mut bindings::PCIBus,
    _opaque: *mut c_void,
    devfn: c_int,
    errp: *mut *mut bindings::Error,
) -> bool {
    let result = match PciFunction::new(bus, devfn).map(PciFunction::classify) {
        Some(Endpoint::Emulated) => Err(Error::msg(
            "arm-smmuv3 with accel=on serves vfio-pci devices only: an emulated endpoint cannot \
             be behind it",
        )),
        Some(Endpoint::AssignedWithoutIommufd) => Err(Error::msg(
            "arm-smmuv3 with accel=on needs vfio-pci devices with an iommufd backend (iommufd=ID)",
        )),
        _ => Ok(()),
    };
    // SAFETY: errp comes from the C caller
    unsafe { Error::bool_or_propagate(result, errp) }
}

unsafe extern "C" fn get_address_space(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) -> *mut bindings::AddressSpace {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let Some(function) = PciFunction::new(bus, devfn) else {
        return shared_system_address_space();
    };
    let record = function.smmu_device(smmu);
    let endpoint = function.classify();
    if !matches!(endpoint, Endpoint::Empty | Endpoint::Bridge) {
        smmu.note_endpoint();
    }
    if endpoint == Endpoint::Assigned {
        // the host's SMMU translates; stage 2 there covers all guest memory
        shared_system_address_space()
    } else {
        // SAFETY: smmu_device returns a valid record
        unsafe { addr_of_mut!((*record).as_) }
    }
}

/// `VIOMMU_FLAG_*` of QEMU's hw/core/iommu.h, which QEMU's bindings lack.
const VIOMMU_FLAG_WANT_NESTING_PARENT: u64 = 1 << 0;
const VIOMMU_FLAG_PASID_SUPPORTED: u64 = 1 << 1;

unsafe extern "C" fn get_viommu_flags(opaque: *mut c_void) -> u64 {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let mut flags = VIOMMU_FLAG_WANT_NESTING_PARENT;
    if smmu.wants_pasid() {
        flags |= VIOMMU_FLAG_PASID_SUPPORTED;
    }
    flags
}

unsafe extern "C" fn set_iommu_device(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    host_device: *mut bindings::HostIOMMUDevice,
    errp: *mut *mut bindings::Error,
) -> bool {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let result = match (
        PciFunction::new(bus, devfn),
        // SAFETY: NULL or a valid object, by contract of the PCI core
        unsafe { HostDevice::of(host_device.cast()) },
    ) {
        (Some(function), Some(device)) => smmu.plug(function, device),
        // not backed by iommufd: supports_address_space has refused the others
        _ => Ok(()),
    };
    // SAFETY: errp comes from the C caller
    unsafe { Error::bool_or_propagate(result, errp) }
}

unsafe extern "C" fn unset_iommu_device(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    if let Some(function) = PciFunction::new(bus, devfn) {
        smmu.unplug(function);
    }
}

unsafe extern "C" fn get_msi_direct_gpa(
    _bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    _devfn: c_int,
) -> u64 {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    unsafe { smmu_of(opaque) }.msi_gpa()
}

/// # Safety
///
/// `opaque` must be what the C base registered with the PCI core: its own
/// instance, which is a [`Smmuv3`] if it uses [`ACCEL_OPS`].
unsafe fn smmu_of<'a>(opaque: *mut c_void) -> &'a Smmuv3 {
    // SAFETY: promised by the caller
    unsafe { &*opaque.cast::<Smmuv3>() }
}

/// The operations through which the PCI core and VFIO reach an accelerated SMMU.
static ACCEL_OPS: OpsTable = OpsTable(PCIIOMMUOps {
    supports_address_space: Some(supports_address_space),
    get_address_space: Some(get_address_space),
    get_viommu_flags: Some(get_viommu_flags),
    set_iommu_device: Some(set_iommu_device),
    unset_iommu_device: Some(unset_iommu_device),
    get_msi_direct_gpa: Some(get_msi_direct_gpa),
    // SAFETY: a struct of nullable function pointers
    ..unsafe { std::mem::MaybeUninit::zeroed().assume_init() }
});

struct OpsTable(PCIIOMMUOps);

// SAFETY: function pointers, never written
unsafe impl Sync for OpsTable {}

/// Makes the C base register the accelerated mode's operations when it is realized.
pub fn use_accel_ops(smmu: &Smmuv3) {
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: not yet realized: nobody else uses the field
    unsafe { (*state).iommu_ops = &ACCEL_OPS.0 }
}

/// Has every PCI function in the machine asked for its address space once more.
/// [`Smmuv3::note_endpoint`] is called if one of them is behind `smmu`.
pub fn ask_present_functions() {
    unsafe extern "C" fn visit(object: *mut qom::bindings::Object, _opaque: *mut c_void) -> c_int {
        // SAFETY: a valid object, by contract of the caller; if it is a PCI device
        // on a bus, it may ask for its address space at any time
        unsafe {
            let device: *mut bindings::PCIDevice =
                qom::bindings::object_dynamic_cast(object, c"pci-device".as_ptr()).cast();
            if !device.is_null() && (*object.cast::<hwcore::bindings::DeviceState>()).realized {
                bindings::pci_device_iommu_address_space(device);
            }
        }
        0
    }
    // SAFETY: the callback keeps nothing; the BQL keeps the tree as it is
    unsafe {
        qom::bindings::object_child_foreach_recursive(
            qom::bindings::object_get_root(),
            Some(visit),
            ptr::null_mut(),
        );
    }
}

/// Names the type of the memory regions that the C base makes for each function.
pub fn set_region_type(smmu: &Smmuv3, type_name: &'static CStr) {
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: as in `use_accel_ops`
    unsafe { (*state).mrtypename = type_name.as_ptr() }
}

// ---------------------------------------------------------------------------
// Translation for emulated functions

unsafe extern "C" fn translate(
    region: *mut system::bindings::IOMMUMemoryRegion,
    iova: hwaddr,
    access: system::bindings::IOMMUAccessFlags,
    _index: c_int,
) -> IOMMUTLBEntry {
    // SAFETY: regions of this type are only made by smmu_init_sdev, as the field
    // `iommu` of an SMMUDevice whose `smmu` is a Smmuv3
    let (smmu, stream_id) = unsafe {
        let record: *mut bindings::SMMUDevice = region
            .byte_sub(std::mem::offset_of!(bindings::SMMUDevice, iommu))
            .cast();
        let function = PciFunction::new((*record).bus, (*record).devfn);
        (
            &*(*record).smmu.cast::<Smmuv3>(),
            function.map(PciFunction::stream_id),
        )
    };
    let outcome = stream_id.and_then(|sid| smmu.translate(sid, iova, access));
    let (translated_addr, addr_mask, perm) =
        outcome.unwrap_or((0, 0, system::bindings::IOMMU_NONE));
    IOMMUTLBEntry {
        target_as: addr_of_mut!(system::bindings::address_space_memory),
        iova: iova & !addr_mask,
        translated_addr,
        addr_mask,
        perm,
        pasid: 0,
    }
}

/// Refuses notifiers: accelerated devices need none, and there are no emulated
/// endpoints whose translations somebody could shadow.
unsafe extern "C" fn notify_flag_changed(
    _region: *mut system::bindings::IOMMUMemoryRegion,
    _old: system::bindings::IOMMUNotifierFlag,
    new: system::bindings::IOMMUNotifierFlag,
    errp: *mut *mut bindings::Error,
) -> c_int {
    if new == system::bindings::IOMMU_NOTIFIER_NONE {
        return 0;
    }
    // SAFETY: errp comes from the C caller
    unsafe {
        Error::msg("arm-smmuv3 with accel=on has no translations to notify about").propagate(errp);
    }
    -libc::EINVAL
}

/// Fills in the methods of the device's memory-region type.
pub fn set_region_methods(class: &mut system::bindings::IOMMUMemoryRegionClass) {
    class.translate = Some(translate);
    class.notify_flag_changed = Some(notify_flag_changed);
}

/// One stage 1 walk by the C base, without its TLB.
///
/// Returns output address, mask of the page, and permission bits; `None` on any
/// fault.
pub fn walk(
    smmu: &Smmuv3,
    context: &smmuv3::cd::Translation,
    iova: u64,
    access: u32,
) -> Option<(u64, u64, u32)> {
    let table = |ttb: &smmuv3::cd::TranslationTable| bindings::SMMUTransTableInfo {
        disabled: ttb.disabled,
        ttb: ttb.base,
        tsz: ttb.tsz,
        granule_sz: ttb.granule_shift,
        had: ttb.had,
    };
    // SAFETY: a plain C struct, for which all-zeroes is valid
    let mut config: bindings::SMMUTransCfg = unsafe { std::mem::zeroed() };
    config.stage = bindings::SMMU_STAGE_1;
    config.aa64 = true;
    config.affd = context.affd;
    config.oas = context.oas_bits;
    config.tbi = context.tbi;
    config.asid = c_int::from(context.asid);
    config.tt = [table(&context.tables[0]), table(&context.tables[1])];
    config.s2cfg.vmid = -1;

    // SAFETY: as above
    let (mut entry, mut fault): (bindings::SMMUTLBEntry, bindings::SMMUPTWEventInfo) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: all pointers are valid for the call, which keeps none of them
    let status =
        unsafe { bindings::smmu_ptw(state, &mut config, iova, access, &mut entry, &mut fault) };
    (status == 0).then_some((
        entry.entry.translated_addr,
        entry.entry.addr_mask,
        entry.entry.perm,
    ))
}

// ---------------------------------------------------------------------------
// Bottom halves, notifiers, migration blockers, reports

/// A bottom half that calls back into the device that owns it.
#[derive(Debug)]
#[repr(transparent)]
pub struct BottomHalf(*mut util::bindings::QEMUBH);

// SAFETY: qemu_bh_schedule may be called from any thread
unsafe impl Send for BottomHalf {}
// SAFETY: as above
unsafe impl Sync for BottomHalf {}

impl BottomHalf {
    /// A bottom half in the main loop that runs `F` on `device`.
    ///
    /// It is guarded against re-entry like the device's MMIO: what it does to
    /// guest memory cannot come back as an access to the device's registers.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, _callback: &F) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(opaque: *mut c_void) {
            // SAFETY: the device that was passed to qemu_bh_new_full; it deletes
            // the bottom half before it goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() },))
        }
        const { assert!(F::IS_SOME) };
        let state: *mut hwcore::bindings::DeviceState = device.upcast::<DeviceState>().as_mut_ptr();
        // SAFETY: the arguments outlive the bottom half, see `drop`
        Self(unsafe {
            util::bindings::qemu_bh_new_full(
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
                c"arm-smmuv3-cmdq".as_ptr(),
                addr_of_mut!((*state).mem_reentrancy_guard).cast(),
            )
        })
    }

    /// Runs the callback from the main loop, soon.
    pub fn schedule(&self) {
        // SAFETY: `self.0` is a valid bottom half
        unsafe { util::bindings::qemu_bh_schedule(self.0) }
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        // SAFETY: `self.0` is a valid bottom half and is not used again
        unsafe { util::bindings::qemu_bh_delete(self.0) }
    }
}

/// Calls `F` on `device` when the machine is complete.
pub fn on_machine_done<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, _callback: &F) {
    #[repr(C)]
    struct MachineDone {
        notifier: util::bindings::Notifier,
        device: *const Smmuv3,
    }
    unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(
        notifier: *mut util::bindings::Notifier,
        _data: *mut c_void,
    ) {
        // SAFETY: the notifier is the first field of a leaked MachineDone; a
        // realized SMMU cannot be unplugged, so the device is still there
        F::call((unsafe { &*(*notifier.cast::<MachineDone>()).device },))
    }
    // SAFETY: all-zeroes is an unlinked notifier; the memory is leaked because
    // the list of notifiers keeps it
    unsafe {
        let record: *mut MachineDone = zeroed_leaked();
        (*record).notifier.notify = Some(call::<F>);
        (*record).device = device;
        bindings::qemu_add_machine_init_done_notifier(addr_of_mut!((*record).notifier));
    }
}

/// Forbids migration for as long as the value exists.
#[derive(Debug)]
pub struct MigrationBlocker(Box<*mut bindings::Error>);

// SAFETY: only used under the BQL
unsafe impl Send for MigrationBlocker {}

impl MigrationBlocker {
    /// Forbids migration because of `reason`; fails if QEMU must stay
    /// migratable (`-only-migratable`) or is migrating.
    pub fn new(reason: &Error) -> Result<Self> {
        let mut slot = Box::new(reason.clone_to_foreign_ptr());
        // SAFETY: the slot holds a valid Error, which the callee owns from here
        // (it clears the slot if it fails); the box keeps the slot in place
        unsafe {
            Error::with_errp(|errp| bindings::migrate_add_blocker(&mut *slot, errp))?;
        }
        Ok(Self(slot))
    }
}

impl Drop for MigrationBlocker {
    fn drop(&mut self) {
        // SAFETY: the slot was registered by migrate_add_blocker
        unsafe { bindings::migrate_del_blocker(&mut *self.0) }
    }
}

/// Is the machine complete, so that the guest may have looked at its devices?
pub fn machine_is_ready() -> bool {
    // SAFETY: reads a variable of the main thread
    unsafe {
        hwcore::bindings::phase_check(hwcore::bindings::MachineInitPhase::PHASE_MACHINE_READY)
    }
}

/// Reports an error on the monitor or stderr.
pub fn report(error: &Error) {
    // SAFETY: the callee frees the Error that it is given
    unsafe { util::bindings::error_report_err(error.clone_to_foreign_ptr()) }
}

/// Is the virtual machine at its end? Ends QEMU as a failed start does.
pub fn exit_with(error: &Error) -> ! {
    report(error);
    std::process::exit(1)
}

// ---------------------------------------------------------------------------
// What C code calls

/// Does this SMMU show ATS to the guest? Called when the IORT is built.
///
/// # Safety
///
/// `smmu` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_ats_enabled(smmu: *mut Smmuv3) -> bool {
    // SAFETY: promised by the caller
    unsafe { &*smmu }.features().ats()
}

/// Which CMDQ virtualization the SMMU has: none (`SMMUV3_CMDQV_NONE`).
#[no_mangle]
pub extern "C" fn smmuv3_accel_cmdqv_type(_object: *mut qom::bindings::Object) -> c_uint {
    0
}
