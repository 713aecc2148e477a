// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QOM type `tegra241-cmdqv-hw`.

use std::{ffi::CStr, slice};

use bql::prelude::*;
use common::prelude::*;
use hwcore::prelude::*;
use qemu_ext::{
    dma::AddressSpace,
    log,
    memory::init_io,
    property::{add_read_only, Value},
};
use qom::prelude::*;
use smmuv3_accel::Smmuv3;
use system::{prelude::*, MemoryRegionOps, MEMTXATTRS_UNSPECIFIED};
use util::{ensure, Result};

use crate::{
    board,
    fields::Field,
    hardware::{Cmdqv, Platform, Work},
    layout,
};

static REGISTERS_OPS: MemoryRegionOps<CmdqvHw> = MemoryRegionOpsBuilder::<CmdqvHw>::new()
    .read(&CmdqvHw::read)
    .write(&CmdqvHw::write)
    .little_endian()
    .valid_sizes(4, 8)
    .impl_sizes(4, 8)
    .build();

/// The hardware as a device of the machine.
///
/// It has no reset, because the testbed never resets its lowest level.
#[repr(C)]
#[derive(qom::Object, hwcore::Device)]
pub struct CmdqvHw {
    parent_obj: ParentField<DeviceState>,
    iomem: MemoryRegion,
    interrupt: InterruptSource,

    /// Physical address of the registers
    #[property(rename = "base", default = 0)]
    base: u64,
    /// Shared peripheral interrupt for errors
    #[property(rename = "spi", default = 0)]
    spi: u16,

    hardware: BqlRefCell<Cmdqv>,
    smmu: BqlRefCell<Option<Owned<Smmuv3>>>,
}

qom_isa!(CmdqvHw: DeviceState, Object);

/// Class of [`CmdqvHw`].
#[repr(C)]
pub struct CmdqvHwClass {
    parent_class: <DeviceState as ObjectType>::Class,
}

impl CmdqvHwClass {
    fn class_init(&mut self) {
        self.parent_class.class_init::<CmdqvHw>();
        self.parent_class.user_creatable = true;
        self.parent_class.hotpluggable = false;
    }
}

// SAFETY: CmdqvHw begins with its parent's instance, CmdqvHwClass with its parent's class
unsafe impl ObjectType for CmdqvHw {
    type Class = CmdqvHwClass;
    const TYPE_NAME: &'static CStr = c"tegra241-cmdqv-hw";
}

impl ObjectImpl for CmdqvHw {
    type ParentType = DeviceState;

    const INSTANCE_INIT: Option<unsafe fn(ParentInit<Self>)> = Some(Self::init);
    const CLASS_INIT: fn(&mut Self::Class) = Self::Class::class_init;
}

impl DeviceImpl for CmdqvHw {
    const REALIZE: Option<fn(&Self) -> Result<()>> = Some(Self::realize);
}

impl ResettablePhasesImpl for CmdqvHw {}

impl CmdqvHw {
    /// # Safety
    ///
    /// Called by QOM, with memory that C has zeroed and whose parent fields are
    /// initialized.
    unsafe fn init(mut this: ParentInit<Self>) {
        uninit_field_mut!(*this, interrupt).write(Default::default());
        uninit_field_mut!(*this, hardware).write(Default::default());
        uninit_field_mut!(*this, smmu).write(Default::default());
    }

    fn realize(&self) -> Result<()> {
        ensure!(self.base != 0, "property 'base' must be set");
        *self.smmu.borrow_mut() = Some(board::smmu()?);
        self.init_gpio_out(slice::from_ref(&self.interrupt));
        board::connect(self, 0, self.spi.into())?;
        init_io(
            self,
            &self.iomem,
            &REGISTERS_OPS,
            Self::TYPE_NAME,
            layout::SIZE as u64,
        );
        board::map(&self.iomem, self.base);
        add_read_only(self, c"vintfs", c"CmdqvHwVintfs", &Self::vintfs);
        Ok(())
    }

    fn read(&self, offset: u64, size: u32) -> u64 {
        let (offset, hardware) = (offset as usize, self.hardware.borrow());
        let low = hardware.read(offset);
        let high = if size == 8 {
            hardware.read(offset + 4)
        } else {
            0
        };
        Field::HIGH.with(low, high)
    }

    fn write(&self, offset: u64, value: u64, size: u32) {
        let (offset, mut hardware) = (offset as usize, self.hardware.borrow_mut());
        hardware.write(offset, Field::LOW.get(value), &mut Board(self));
        if size == 8 {
            hardware.write(offset + 4, Field::HIGH.get(value), &mut Board(self));
        }
    }

    /// Returns the work of all VINTFs: the testbed compares it with that of the guests.
    fn vintfs(&self) -> Value {
        let hardware = self.hardware.borrow();
        Value::List(hardware.work().map(|work| describe(&work)).collect())
    }
}

fn describe(work: &Work<'_>) -> Value {
    let executed = work.vintf.executed().iter();
    let commands = executed.map(|(opcode, count)| {
        Value::Struct(vec![
            (c"opcode", u64::from(*opcode).into()),
            (c"count", (*count).into()),
        ])
    });
    Value::Struct(vec![
        (c"enabled", work.vintf.is_enabled().into()),
        (c"hypervisor", work.vintf.is_hypervisors().into()),
        (c"vmid", work.vintf.vmid().into()),
        (c"queues-assigned", (work.assigned as u64).into()),
        (c"queues-enabled", (work.enabled as u64).into()),
        (c"commands", Value::List(commands.collect())),
        (c"errors", work.vintf.errors().into()),
    ])
}

/// The machine, during an access to registers.
struct Board<'a>(&'a CmdqvHw);

impl Platform for Board<'_> {
    fn fetch(&mut self, address: u64) -> Option<[u64; 2]> {
        let mut command = [0; 16];
        AddressSpace::memory()
            .read(address, MEMTXATTRS_UNSPECIFIED, &mut command)
            .ok()?;
        let both = u128::from_le_bytes(command);
        Some([both as u64, (both >> 64) as u64])
    }

    fn execute(&mut self, command: [u64; 2]) -> bool {
        let smmu = self.0.smmu.borrow();
        smmu.as_ref()
            .is_some_and(|smmu| smmu.execute(command).is_ok())
    }

    fn interrupt(&mut self) {
        self.0.interrupt.pulse();
    }

    fn report(&mut self, message: &str, vintf: usize, detail: u64) {
        log::guest_error(format_args!(
            "tegra241-cmdqv-hw: VINTF {vintf}: {message}: {detail:#x}"
        ));
    }
}
