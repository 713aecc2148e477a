// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The objects of one iommufd, their references, and what each device is
//! attached to.

use std::{collections::BTreeMap, fmt};

use crate::{
    cmdqv::{Vintf, STREAM_ID_BITS},
    errno::{Errno, Result},
    log::Words,
    smmu::Nested,
    stored::{stored_enum, stored_newtype, stored_struct},
};

/// ID of an object in its iommufd.
pub type Id = u32;

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// An I/O address space
    Ioas(Mappings),
    /// Stage 2: the page table of an address space
    Stage2 {
        /// The address space
        ioas: Id,
        /// The SMMU whose format it has
        smmu: String,
        /// Whether a vIOMMU can be allocated on it
        nest_parent: bool,
        /// Its VMID
        vmid: u16,
    },
    /// A guest's slice of an SMMU
    Viommu {
        /// Its stage 2
        stage2: Id,
        /// The SMMU
        smmu: String,
        /// Its VINTF, if it was allocated for CMDQ virtualization
        vintf: Option<Vintf>,
    },
    /// A guest's STE, nested in the stage 2 of a vIOMMU
    Nested {
        /// The vIOMMU
        viommu: Id,
        /// Words 0 and 1 of the STE
        ste: [u64; 2],
        /// The translation that it selects
        nested: Nested,
    },
    /// A vDEVICE
    Vdevice {
        /// The vIOMMU that it is behind
        viommu: Id,
        /// The device, or `None` after it was unbound
        device: Option<Id>,
        /// The guest's `StreamID`
        virt_id: u64,
    },
    /// A vEVENTQ
    Veventq {
        /// The vIOMMU whose events it has
        viommu: Id,
        /// Whether they are those of CMDQ virtualization
        cmdqv: bool,
        /// Whether its file is open
        open: bool,
        /// Whether its file was polled
        polled: bool,
    },
    /// A hardware queue
    HwQueue(HwQueue),
    /// A device that is bound
    Device(Device),
}

stored_enum!(Object {
    0 = Ioas(mappings),
    1 = Stage2 { ioas, smmu, nest_parent, vmid },
    2 = Viommu { stage2, smmu, vintf },
    3 = Nested { viommu, ste, nested },
    4 = Vdevice { viommu, device, virt_id },
    5 = Veventq { viommu, cmdqv, open, polled },
    6 = HwQueue(queue),
    7 = Device(device),
});

/// A hardware queue, which executes the commands in a part of an I/O address
/// space. It is not enabled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HwQueue {
    /// The vIOMMU whose VINTF it belongs to
    pub viommu: Id,
    /// Its index in the VINTF
    pub index: u32,
    /// Where its commands are
    pub iova: u64,
    /// The bytes of its commands
    pub length: u64,
    /// The queue with the index below, which must outlive it
    below: Option<Id>,
}

stored_struct!(HwQueue {
    viommu,
    index,
    iova,
    length,
    below
});

/// A device that is bound to an iommufd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Returns its name.
    pub name: String,
    /// The SMMU that it is behind
    pub smmu: String,
    /// Its `StreamID` in the host
    pub sid: u32,
    /// The HWPT that it is attached to, or `None` if it is blocked
    pub attached: Option<Id>,
    /// The guest's `StreamID` at the time of the attachment
    pub noted_vsid: Option<u64>,
}

stored_struct!(Device {
    name,
    smmu,
    sid,
    attached,
    noted_vsid
});

/// The mappings of an I/O address space, by their start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings(BTreeMap<u64, Mapping>);

stored_newtype!(Mappings);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    /// Its last address
    last: u64,
    writeable: bool,
}

stored_struct!(Mapping { last, writeable });

impl Mappings {
    const PAGE: u64 = 4096;

    /// Maps a range.
    ///
    /// # Errors
    ///
    /// `EINVAL`: not whole pages, or beyond the end of the address space;
    /// `EEXIST`: the range is occupied.
    pub fn map(&mut self, iova: u64, length: u64, writeable: bool) -> Result<()> {
        if length == 0 || (iova | length) % Self::PAGE != 0 {
            return Err(Errno::EINVAL);
        }
        let last = iova.checked_add(length - 1).ok_or(Errno::EINVAL)?;
        let below = self.0.range(..=last).next_back();
        if below.is_some_and(|(_, mapping)| mapping.last >= iova) {
            return Err(Errno::EEXIST);
        }
        self.0.insert(iova, Mapping { last, writeable });
        Ok(())
    }

    /// Checks the pages of a hardware queue.
    ///
    /// # Errors
    ///
    /// `ENOENT`: not all of it is mapped; `EPERM`: it is read-only.
    pub fn check_queue(&self, iova: u64, length: u64) -> Result<()> {
        let last = iova.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?;
        let mut next = iova;
        loop {
            let below = self.0.range(..=next).next_back();
            let (_, mapping) = below
                .filter(|(_, mapping)| mapping.last >= next)
                .ok_or(Errno::ENOENT)?;
            if !mapping.writeable {
                return Err(Errno::EPERM);
            }
            if mapping.last >= last {
                return Ok(());
            }
            next = mapping.last + 1;
        }
    }

    /// Unmaps a range and returns how many bytes were mapped. `pinned` are the
    /// first and the last address of each hardware queue: the mappings that
    /// they are in stay.
    ///
    /// # Errors
    ///
    /// `ENOENT`: nothing is mapped; `EINVAL`: the range cuts a mapping;
    /// `EBUSY`: a queue pins one. The mappings before that one are gone.
    fn unmap(&mut self, iova: u64, length: u64, pinned: &[[u64; 2]]) -> Result<u64> {
        let everything = iova == 0 && length == u64::MAX;
        let last = iova
            .checked_add(length.wrapping_sub(1))
            .ok_or(Errno::EOVERFLOW)?;
        let straddles = |(start, mapping): (&u64, &Mapping)| {
            mapping.last >= iova && (*start < iova || mapping.last > last)
        };
        if self.0.range(..=last).any(straddles) {
            return Err(Errno::EINVAL);
        }
        let starts: Vec<u64> = self.0.range(iova..=last).map(|(start, _)| *start).collect();
        if starts.is_empty() && !everything {
            return Err(Errno::ENOENT);
        }
        let mut unmapped = 0;
        for start in starts {
            let Some(mapping) = self.0.get(&start).copied() else {
                continue;
            };
            let is_inside = |queue: &[u64; 2]| queue[0] <= mapping.last && queue[1] >= start;
            if pinned.iter().any(is_inside) {
                return Err(Errno::EBUSY);
            }
            self.0.remove(&start);
            unmapped += mapping.last - start + 1;
        }
        Ok(unmapped)
    }
}

impl Object {
    /// Returns its name in scripts and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ioas(_) => "ioas",
            Self::Stage2 { .. } => "s2",
            Self::Viommu { vintf: None, .. } => "viommu",
            Self::Viommu { .. } => "cmdqv-viommu",
            Self::Nested { nested, .. } => nested_kind(*nested),
            Self::Vdevice { .. } => "vdevice",
            Self::Veventq { cmdqv: false, .. } => "veventq",
            Self::Veventq { .. } => "cmdqv-veventq",
            Self::HwQueue(_) => "hwqueue",
            Self::Device(_) => "device",
        }
    }

    /// Returns whether this object refers to `id`, which then cannot be
    /// destroyed.
    fn refers_to(&self, id: Id) -> bool {
        match self {
            Self::Ioas(_) => false,
            Self::Stage2 { ioas, .. } => *ioas == id,
            Self::Viommu { stage2, .. } => *stage2 == id,
            Self::Nested { viommu, .. }
            | Self::Vdevice { viommu, .. }
            | Self::Veventq { viommu, .. } => *viommu == id,
            Self::HwQueue(queue) => queue.viommu == id || queue.below == Some(id),
            Self::Device(device) => device.attached == Some(id),
        }
    }
}

/// Returns the name of a nested HWPT in scripts and logs.
pub const fn nested_kind(nested: Nested) -> &'static str {
    match nested {
        Nested::Abort => "abort",
        Nested::Bypass => "bypass",
        Nested::Translate => "nested",
    }
}

impl fmt::Display for Object {
    /// Returns the fields of the log's line `new`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kind={}", self.kind())?;
        match self {
            Self::Ioas(_) => Ok(()),
            Self::Stage2 {
                ioas, smmu, vmid, ..
            } => {
                write!(f, " ioas={ioas} smmu={smmu} vmid={vmid}")
            }
            Self::Viommu {
                stage2,
                smmu,
                vintf,
            } => {
                write!(f, " stage2={stage2} smmu={smmu}")?;
                match vintf {
                    Some(Vintf { number, offset, .. }) => {
                        write!(f, " vintf={number} offset={offset:#x}")
                    }
                    None => Ok(()),
                }
            }
            Self::Nested { viommu, ste, .. } => {
                write!(f, " viommu={viommu} ste={}", Words(&[*ste]))
            }
            Self::Vdevice {
                viommu,
                device,
                virt_id,
            } => {
                let device = device.unwrap_or_default();
                write!(f, " viommu={viommu} device={device} sid={virt_id:#x}")
            }
            Self::Veventq { viommu, .. } => write!(f, " viommu={viommu}"),
            Self::HwQueue(queue) => {
                let HwQueue {
                    viommu,
                    index,
                    iova,
                    length,
                    ..
                } = queue;
                write!(
                    f,
                    " viommu={viommu} index={index} iova={iova:#x} length={length:#x}"
                )
            }
            Self::Device(device) => write!(f, " name={}", device.name),
        }
    }
}

/// The objects of an iommufd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects(BTreeMap<Id, Object>);

stored_newtype!(Objects);

impl Objects {
    /// Adds an object with the lowest free ID.
    pub fn add(&mut self, object: Object) -> Id {
        let mut id = 1;
        while self.0.contains_key(&id) {
            id += 1;
        }
        self.0.insert(id, object);
        id
    }

    /// Returns the object `id`.
    ///
    /// # Errors
    ///
    /// `ENOENT`
    pub fn get(&self, id: Id) -> Result<&Object> {
        self.0.get(&id).ok_or(Errno::ENOENT)
    }

    /// Returns the object `id`.
    ///
    /// # Errors
    ///
    /// `ENOENT`
    pub fn get_mut(&mut self, id: Id) -> Result<&mut Object> {
        self.0.get_mut(&id).ok_or(Errno::ENOENT)
    }

    /// Returns the device `id`.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no object of that ID, or it is no device.
    pub fn device(&self, id: Id) -> Result<&Device> {
        match self.get(id)? {
            Object::Device(device) => Ok(device),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Returns all objects.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Object)> {
        self.0.iter().map(|(id, object)| (*id, object))
    }

    /// Destroys an object (`IOMMU_DESTROY`).
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY`: another object refers to it, its file is open, or
    /// VFIO holds it.
    pub fn destroy(&mut self, id: Id) -> Result<Object> {
        let object = self.get(id)?;
        let held = matches!(
            object,
            Object::Device(_) | Object::Veventq { open: true, .. }
        );
        if held || self.0.values().any(|other| other.refers_to(id)) {
            return Err(Errno::EBUSY);
        }
        self.0.remove(&id).ok_or(Errno::ENOENT)
    }

    /// Returns the VINTF of a vIOMMU.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no such vIOMMU.
    pub fn vintf(&self, viommu: Id) -> Result<Option<Vintf>> {
        match self.get(viommu)? {
            Object::Viommu { vintf, .. } => Ok(*vintf),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Returns the VINTFs of `smmu` that its vIOMMUs have.
    pub fn vintfs<'a>(&'a self, smmu: &'a str) -> impl Iterator<Item = Vintf> + 'a {
        self.0.values().filter_map(move |object| match object {
            Object::Viommu {
                smmu: of, vintf, ..
            } if of == smmu => *vintf,
            _ => None,
        })
    }

    /// Returns the offsets of the pages of all VINTFs.
    pub fn pages(&self) -> Vec<u64> {
        let page = |object: &Object| match object {
            Object::Viommu { vintf, .. } => vintf.map(|vintf| vintf.offset),
            _ => None,
        };
        self.0.values().filter_map(page).collect()
    }

    /// Allocates a hardware queue (`IOMMU_HW_QUEUE_ALLOC`).
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such vIOMMU, or not all of the queue is mapped;
    /// `EOPNOTSUPP`: the vIOMMU has no VINTF; `EPERM`: the queue is read-only;
    /// `EINVAL`: its index, size or alignment; `EEXIST`: the index is taken;
    /// `EIO`: the index below is free.
    pub fn add_hw_queue(&mut self, viommu: Id, index: u32, iova: u64, length: u64) -> Result<Id> {
        const PAGE_MASK: u64 = Mappings::PAGE - 1;

        let vintf = self.vintf(viommu)?.ok_or(Errno::EOPNOTSUPP)?;
        let last = iova.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?;
        let pages = [iova & !PAGE_MASK, last | PAGE_MASK];
        self.mappings_of(viommu)?
            .check_queue(pages[0], pages[1] - pages[0] + 1)?;
        let bad_size = !length.is_power_of_two() || length < 32 || length > vintf.queue_bytes;
        if index >= vintf.queues || bad_size || iova % length != 0 {
            return Err(Errno::EINVAL);
        }
        let queue_at = |wanted: u32| {
            self.0.iter().find_map(|(id, object)| match object {
                Object::HwQueue(queue) if (queue.viommu, queue.index) == (viommu, wanted) => {
                    Some(*id)
                }
                _ => None,
            })
        };
        if queue_at(index).is_some() {
            return Err(Errno::EEXIST);
        }
        let below = match index.checked_sub(1) {
            Some(below) => Some(queue_at(below).ok_or(Errno::EIO)?),
            None => None,
        };
        Ok(self.add(Object::HwQueue(HwQueue {
            viommu,
            index,
            iova,
            length,
            below,
        })))
    }

    /// Returns the I/O address space that a vIOMMU's stage 2 translates to.
    fn ioas_of(&self, viommu: Id) -> Result<Id> {
        let Object::Viommu { stage2, .. } = self.get(viommu)? else {
            return Err(Errno::ENOENT);
        };
        match self.get(*stage2)? {
            Object::Stage2 { ioas, .. } => Ok(*ioas),
            _ => Err(Errno::ENOENT),
        }
    }

    fn mappings_of(&self, viommu: Id) -> Result<&Mappings> {
        match self.get(self.ioas_of(viommu)?)? {
            Object::Ioas(mappings) => Ok(mappings),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Unmaps a range of an I/O address space (`IOMMU_IOAS_UNMAP`) and returns
    /// how many bytes were mapped.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no such address space, or nothing is mapped;
    /// `EINVAL`: the range cuts a mapping; `EBUSY`: a hardware queue is in one.
    pub fn unmap(&mut self, ioas: Id, iova: u64, length: u64) -> Result<u64> {
        let pin = |object: &Object| match object {
            Object::HwQueue(queue) if self.ioas_of(queue.viommu) == Ok(ioas) => {
                Some([queue.iova, queue.iova + (queue.length - 1)])
            }
            _ => None,
        };
        let pinned: Vec<_> = self.0.values().filter_map(pin).collect();
        match self.get_mut(ioas)? {
            Object::Ioas(mappings) => mappings.unmap(iova, length, &pinned),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Returns the vDEVICE of the device `device`.
    pub fn vdevice_of(&self, device: Id) -> Option<(Id, u64)> {
        self.0.values().find_map(|object| match object {
            Object::Vdevice {
                viommu,
                device: of,
                virt_id,
            } if *of == Some(device) => Some((*viommu, *virt_id)),
            _ => None,
        })
    }

    /// Returns the device that is bound to `virt_id` in `viommu`.
    pub fn device_of(&self, viommu: Id, virt_id: u64) -> Option<&Device> {
        self.0.values().find_map(|object| match object {
            Object::Vdevice {
                viommu: of,
                device: Some(device),
                virt_id: known,
            } if (*of, *known) == (viommu, virt_id) => self.device(*device).ok(),
            _ => None,
        })
    }

    /// Allocates a vDEVICE (`IOMMU_VDEVICE_ALLOC`).
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such vIOMMU or device; `EINVAL`: they are of different
    /// SMMUs, or the `StreamID` is larger than the hardware's; `EEXIST`: the
    /// device has a vDEVICE, or the `StreamID` is taken; `ENOSPC`: the VINTF of
    /// the vIOMMU matches no more streams.
    pub fn add_vdevice(&mut self, viommu: Id, device: Id, virt_id: u64) -> Result<Id> {
        let Object::Viommu { smmu, vintf, .. } = self.get(viommu)? else {
            return Err(Errno::ENOENT);
        };
        if *smmu != self.device(device)?.smmu {
            return Err(Errno::EINVAL);
        }
        if self.vdevice_of(device).is_some() || self.device_of(viommu, virt_id).is_some() {
            return Err(Errno::EEXIST);
        }
        if let Some(vintf) = vintf {
            if virt_id >> STREAM_ID_BITS != 0 {
                return Err(Errno::EINVAL);
            }
            let is_behind = |object: &Object| matches!(object, Object::Vdevice { viommu: of, .. } if *of == viommu);
            let streams = self.0.values().filter(|object| is_behind(object)).count();
            if streams >= vintf.streams {
                return Err(Errno::ENOSPC);
            }
        }
        Ok(self.add(Object::Vdevice {
            viommu,
            device: Some(device),
            virt_id,
        }))
    }

    /// Attaches a device, or replaces its attachment
    /// (`VFIO_DEVICE_ATTACH_IOMMUFD_PT`). On failure the device stays attached
    /// to what it has.
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such object, or the HWPT translates stage 1 and the device
    /// has no vDEVICE in the vIOMMU; `EINVAL`: it is no HWPT, or one of another
    /// SMMU.
    pub fn attach(&mut self, device: Id, table: Id) -> Result<()> {
        let smmu = &self.device(device)?.smmu;
        let vsid = match self.get(table)? {
            Object::Stage2 { smmu: of, .. } if of == smmu => None,
            Object::Nested { viommu, nested, .. } => {
                let same =
                    matches!(self.get(*viommu)?, Object::Viommu { smmu: of, .. } if of == smmu);
                let vsid = self
                    .vdevice_of(device)
                    .and_then(|(of, virt_id)| (of == *viommu).then_some(virt_id));
                match (same, nested, vsid) {
                    (false, ..) => return Err(Errno::EINVAL),
                    (true, Nested::Translate, None) => return Err(Errno::ENOENT),
                    (true, _, vsid) => vsid,
                }
            }
            _ => return Err(Errno::EINVAL),
        };
        if let Some(Object::Device(device)) = self.0.get_mut(&device) {
            if device.attached != Some(table) {
                device.attached = Some(table);
                device.noted_vsid = vsid;
            }
        }
        Ok(())
    }

    /// Detaches a device, which blocks it (`VFIO_DEVICE_DETACH_IOMMUFD_PT`).
    ///
    /// # Errors
    ///
    /// `ENOENT`
    pub fn detach(&mut self, device: Id) -> Result<()> {
        match self.get_mut(device)? {
            Object::Device(device) => {
                device.attached = None;
                device.noted_vsid = None;
                Ok(())
            }
            _ => Err(Errno::ENOENT),
        }
    }

    /// Unbinds the device when its file is closed. Its vDEVICE remains and can
    /// only be destroyed.
    pub fn unbind(&mut self, device: Id) {
        self.0.remove(&device);
        for object in self.0.values_mut() {
            if let Object::Vdevice { device: of, .. } = object {
                if *of == Some(device) {
                    *of = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSLATE: Nested = Nested::Translate;

    struct Table {
        objects: Objects,
        ioas: Id,
        stage2: Id,
        viommu: Id,
        devices: [Id; 2],
    }

    fn device(objects: &mut Objects, name: &str, smmu: &str) -> Id {
        objects.add(Object::Device(Device {
            name: name.into(),
            smmu: smmu.into(),
            sid: 0x10,
            attached: None,
            noted_vsid: None,
        }))
    }

    fn table() -> Table {
        let mut objects = Objects::default();
        let devices = [
            device(&mut objects, "d0", "smmu0"),
            device(&mut objects, "d1", "smmu1"),
        ];
        let ioas = objects.add(Object::Ioas(Mappings::default()));
        let stage2 = objects.add(Object::Stage2 {
            ioas,
            smmu: "smmu0".into(),
            nest_parent: true,
            vmid: 1,
        });
        let viommu = objects.add(Object::Viommu {
            stage2,
            smmu: "smmu0".into(),
            vintf: None,
        });
        Table {
            objects,
            ioas,
            stage2,
            viommu,
            devices,
        }
    }

    impl Table {
        fn nested(&mut self, nested: Nested) -> Id {
            let viommu = self.viommu;
            self.objects.add(Object::Nested {
                viommu,
                ste: [0; 2],
                nested,
            })
        }

        fn attached(&self, index: usize) -> Option<Id> {
            self.objects
                .device(self.devices[index])
                .expect("bound")
                .attached
        }
    }

    #[test]
    fn object_in_use_is_ebusy_and_ids_are_reused() {
        let mut t = table();
        let nested = t.nested(Nested::Bypass);
        t.objects.attach(t.devices[0], nested).expect("same SMMU");
        for id in [t.ioas, t.stage2, t.viommu, nested, t.devices[0]] {
            assert_eq!(t.objects.destroy(id), Err(Errno::EBUSY), "{id}");
        }
        t.objects.detach(t.devices[0]).expect("attached");
        for id in [nested, t.viommu, t.stage2, t.ioas] {
            assert!(t.objects.destroy(id).is_ok(), "{id}");
            assert_eq!(t.objects.destroy(id), Err(Errno::ENOENT), "{id}");
        }
        assert_eq!(t.objects.add(Object::Ioas(Mappings::default())), t.ioas);
    }

    #[test]
    fn stage1_attach_needs_vdevice_of_same_viommu() {
        let mut t = table();
        let (nested, abort) = (t.nested(TRANSLATE), t.nested(Nested::Abort));
        t.objects
            .attach(t.devices[0], abort)
            .expect("no vDEVICE is needed");
        assert_eq!(t.objects.attach(t.devices[0], nested), Err(Errno::ENOENT));
        assert_eq!(t.attached(0), Some(abort), "it stays attached");
        let other = t.objects.add(Object::Viommu {
            stage2: t.stage2,
            smmu: "smmu0".into(),
            vintf: None,
        });
        let vdevice = t.objects.add_vdevice(other, t.devices[0], 8).expect("free");
        assert_eq!(t.objects.attach(t.devices[0], nested), Err(Errno::ENOENT));
        t.objects.destroy(vdevice).expect("unused");
        t.objects
            .add_vdevice(t.viommu, t.devices[0], 8)
            .expect("free");
        t.objects
            .attach(t.devices[0], nested)
            .expect("all is there");
        let device = t.objects.device(t.devices[0]).expect("bound");
        assert_eq!(
            (device.attached, device.noted_vsid),
            (Some(nested), Some(8))
        );
    }

    #[test]
    fn device_of_other_smmu_is_refused() {
        let mut t = table();
        let abort = t.nested(Nested::Abort);
        for id in [abort, t.stage2, t.viommu, t.ioas] {
            assert_eq!(
                t.objects.attach(t.devices[1], id),
                Err(Errno::EINVAL),
                "{id}"
            );
        }
        assert_eq!(t.objects.attach(t.devices[1], 99), Err(Errno::ENOENT));
        let result = t.objects.add_vdevice(t.viommu, t.devices[1], 8);
        assert_eq!(result, Err(Errno::EINVAL));
    }

    #[test]
    fn vdevice_is_unique_per_device_and_stream_id() {
        let mut t = table();
        let third = device(&mut t.objects, "d2", "smmu0");
        t.objects
            .add_vdevice(t.viommu, t.devices[0], 8)
            .expect("free");
        let again = t.objects.add_vdevice(t.viommu, t.devices[0], 9);
        assert_eq!(again, Err(Errno::EEXIST));
        assert_eq!(
            t.objects.add_vdevice(t.viommu, third, 8),
            Err(Errno::EEXIST)
        );
        t.objects.unbind(t.devices[0]);
        assert!(t.objects.device_of(t.viommu, 8).is_none());
        t.objects
            .add_vdevice(t.viommu, third, 8)
            .expect("free again");
    }

    #[test]
    fn open_veventq_is_ebusy() {
        let mut t = table();
        let queue = t.objects.add(Object::Veventq {
            viommu: t.viommu,
            cmdqv: false,
            open: true,
            polled: false,
        });
        assert_eq!(t.objects.destroy(queue), Err(Errno::EBUSY));
        assert_eq!(t.objects.destroy(t.viommu), Err(Errno::EBUSY));
        if let Ok(Object::Veventq { open, .. }) = t.objects.get_mut(queue) {
            *open = false;
        }
        t.objects.destroy(queue).expect("closed");
        t.objects.destroy(t.viommu).expect("unused");
    }

    #[test]
    fn mappings_do_not_overlap_and_unmap_whole() {
        let mut mappings = Mappings::default();
        assert_eq!(mappings.map(0x1000, 0x3000, true), Ok(()));
        assert_eq!(mappings.map(0x3000, 0x1000, true), Err(Errno::EEXIST));
        assert_eq!(mappings.map(0, 0x2000, true), Err(Errno::EEXIST));
        assert_eq!(mappings.map(0x800, 0x1000, true), Err(Errno::EINVAL));
        assert_eq!(mappings.map(!0xfff, 0x2000, true), Err(Errno::EINVAL));
        assert_eq!(mappings.map(0x4000, 0x1000, true), Ok(()));
        assert_eq!(mappings.unmap(0x2000, 0x1000, &[]), Err(Errno::EINVAL));
        assert_eq!(mappings.unmap(0x1000, 0x4000, &[]), Ok(0x4000));
        assert_eq!(mappings.unmap(0x1000, 0x4000, &[]), Err(Errno::ENOENT));
        assert_eq!(mappings.unmap(0, u64::MAX, &[]), Ok(0));
    }
    /// Allocates a vIOMMU with a VINTF of two queues and two streams. Its
    /// address space has 1 MiB at 1 GiB in two mappings, a read-only page, and
    /// 16 MiB at 2 GiB.
    fn with_vintf(t: &mut Table) -> Id {
        let Ok(Object::Ioas(mappings)) = t.objects.get_mut(t.ioas) else {
            panic!("it is the address space");
        };
        mappings.map(RAM, 0x8_0000, true).expect("free");
        mappings.map(RAM + 0x8_0000, 0x8_0000, true).expect("free");
        mappings.map(ROM, 0x1000, false).expect("free");
        mappings.map(LARGE, 1 << 24, true).expect("free");
        t.objects.add(Object::Viommu {
            stage2: t.stage2,
            smmu: "smmu0".into(),
            vintf: Some(Vintf {
                number: 1,
                offset: 0x1000,
                queues: 2,
                queue_bytes: 16 << 19,
                streams: 2,
            }),
        })
    }

    const RAM: u64 = 1 << 30;
    const ROM: u64 = RAM + 0x20_0000;
    const LARGE: u64 = 2 << 30;

    #[test]
    fn hw_queue_arguments_are_checked_pages_first() {
        let mut t = table();
        let viommu = with_vintf(&mut t);
        let mut queue = |on, index, iova, length| {
            let id = t.objects.add_hw_queue(on, index, iova, length)?;
            t.objects.destroy(id).map(|_| ())
        };
        assert_eq!(queue(99, 0, RAM, 4096), Err(Errno::ENOENT));
        assert_eq!(queue(t.viommu, 0, RAM, 4096), Err(Errno::EOPNOTSUPP));
        assert_eq!(
            queue(viommu, 0, u64::MAX - 4095, 8192),
            Err(Errno::EOVERFLOW)
        );
        // the pages, even if the driver would refuse the rest
        assert_eq!(queue(viommu, 7, 0x1000, 48), Err(Errno::ENOENT));
        assert_eq!(queue(viommu, 0, RAM + 0xf_f000, 0x2000), Err(Errno::ENOENT));
        assert_eq!(queue(viommu, 7, ROM, 48), Err(Errno::EPERM));
        for (index, iova, length) in [
            (2, RAM, 4096),
            (0, RAM, 16),
            (0, RAM, 48),
            (0, RAM + 1024, 2048),
        ] {
            let result = queue(viommu, index, iova, length);
            assert_eq!(result, Err(Errno::EINVAL), "{index} {iova:#x} {length}");
        }
        assert_eq!(queue(viommu, 1, RAM, 4096), Err(Errno::EIO));
        assert_eq!(queue(viommu, 0, RAM, 32), Ok(()));
        assert_eq!(queue(viommu, 0, RAM, 1 << 20), Ok(()), "two mappings");
        assert_eq!(queue(viommu, 0, LARGE, 1 << 23), Ok(()));
        assert_eq!(
            queue(viommu, 0, LARGE, 1 << 24),
            Err(Errno::EINVAL),
            "CMDQS"
        );
    }

    #[test]
    fn hw_queues_come_ascending_and_go_descending() {
        let mut t = table();
        let viommu = with_vintf(&mut t);
        let mut add = |index| t.objects.add_hw_queue(viommu, index, RAM, 4096);
        let first = add(0).expect("free");
        assert_eq!(add(0), Err(Errno::EEXIST));
        let second = add(1).expect("free");
        for busy in [first, viommu] {
            assert_eq!(t.objects.destroy(busy), Err(Errno::EBUSY), "{busy}");
        }
        for id in [second, first, viommu] {
            assert!(t.objects.destroy(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn hw_queue_pins_its_whole_mapping() {
        let mut t = table();
        let viommu = with_vintf(&mut t);
        let add = t.objects.add_hw_queue(viommu, 0, RAM + 0x8_1000, 4096);
        let queue = add.expect("free");
        let (ioas, half) = (t.ioas, 0x8_0000);
        assert_eq!(t.objects.unmap(ioas, RAM + half, half), Err(Errno::EBUSY));
        assert_eq!(t.objects.unmap(ioas, RAM, half), Ok(half));
        t.objects.destroy(queue).expect("unused");
        assert_eq!(t.objects.unmap(ioas, RAM + half, half), Ok(half));
        assert_eq!(t.objects.unmap(viommu, RAM, half), Err(Errno::ENOENT));
    }

    #[test]
    fn vintf_limits_streams() {
        let mut t = table();
        let viommu = with_vintf(&mut t);
        let mut vdevice = |name: &str, sid| {
            let device = device(&mut t.objects, name, "smmu0");
            t.objects.add_vdevice(viommu, device, sid)
        };
        assert_eq!(vdevice("e0", 1 << 20), Err(Errno::EINVAL));
        let first = vdevice("e1", (1 << 20) - 1).expect("free");
        vdevice("e2", 8).expect("free");
        assert_eq!(vdevice("e3", 9), Err(Errno::ENOSPC));
        t.objects.destroy(first).expect("unused");
        let e4 = device(&mut t.objects, "e4", "smmu0");
        t.objects
            .add_vdevice(viommu, e4, 9)
            .expect("one is free again");
    }
}
