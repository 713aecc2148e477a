// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The QOM type `smmuv3-test-vcpus`: accesses to devices by the threads of vCPUs, without the Big
//! QEMU Lock, as under KVM.
//!
//! A machine of a functional test executes no instruction, but has the threads of its vCPUs, and a
//! stop or a reset of the machine waits for them as under KVM. Each has a bank of registers by
//! which a test has its thread access memory.

use std::{
    ffi::{c_int, CStr},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use common::prelude::*;
use hwcore::prelude::*;
use qemu_ext::{
    memory::init_io,
    vcpu::{self, VcpuWork},
};
use qom::prelude::*;
use system::{prelude::*, MemoryRegionOps};
use util::{ensure, Result};

use crate::{
    board,
    unmaps::{read_register, write_register, Queue},
};

/// Most vCPUs.
const BANKS: usize = 16;
/// Registers of a bank, of 8 bytes each.
const REGISTERS: usize = 16;
/// Size of a register and of a bank in bytes.
const REGISTER_BYTES: usize = 8;
const BANK_BYTES: usize = REGISTERS * REGISTER_BYTES;

/// Address of the register to be accessed; for unmaps that of the SMMU's registers
const ADDRESS: usize = 0;
/// What is written, or was read; for unmaps log2 of the entries of the Command queue
const VALUE: usize = 1;
/// Number of unmaps
const COUNT: usize = 2;
/// Address of the Command queue
const QUEUE: usize = 3;
/// What to do: a write of this register begins it
const START: usize = 4;
/// Number of actions that have ended
const DONE: usize = 5;
/// Duration of the last one in nanoseconds
const DURATION: usize = 6;

/// Actions.
const WRITE: u64 = 1;
const READ: u64 = 2;
const UNMAP: u64 = 3;

static REGISTERS_OPS: MemoryRegionOps<TestVcpus> = MemoryRegionOpsBuilder::<TestVcpus>::new()
    .read(&TestVcpus::read)
    .write(&TestVcpus::write)
    .little_endian()
    .valid_sizes(8, 8)
    .impl_sizes(8, 8)
    .build();

/// The registers of one vCPU.
type Bank = [AtomicU64; REGISTERS];

/// All vCPUs, as a device of the machine.
#[repr(C)]
#[derive(qom::Object, hwcore::Device)]
pub struct TestVcpus {
    parent_obj: ParentField<DeviceState>,
    iomem: MemoryRegion,

    /// Physical address of the registers
    #[property(rename = "base", default = 0)]
    base: u64,

    banks: [Bank; BANKS],
    works: [VcpuWork; BANKS],
}

qom_isa!(TestVcpus: DeviceState, Object);

/// Class of [`TestVcpus`].
#[repr(C)]
pub struct TestVcpusClass {
    parent_class: <DeviceState as ObjectType>::Class,
}

impl TestVcpusClass {
    fn class_init(&mut self) {
        self.parent_class.class_init::<TestVcpus>();
        self.parent_class.user_creatable = true;
        self.parent_class.hotpluggable = false;
    }
}

// SAFETY: TestVcpus begins with its parent's instance, TestVcpusClass with its parent's class
unsafe impl ObjectType for TestVcpus {
    type Class = TestVcpusClass;
    const TYPE_NAME: &'static CStr = c"smmuv3-test-vcpus";
}

impl ObjectImpl for TestVcpus {
    type ParentType = DeviceState;

    const INSTANCE_INIT: Option<unsafe fn(ParentInit<Self>)> = Some(Self::init);
    const CLASS_INIT: fn(&mut Self::Class) = Self::Class::class_init;
}

impl DeviceImpl for TestVcpus {
    const REALIZE: Option<fn(&Self) -> Result<()>> = Some(Self::realize);
}

impl ResettablePhasesImpl for TestVcpus {}

impl TestVcpus {
    /// # Safety
    ///
    /// Called by QOM, with memory that C has zeroed and whose parent fields are
    /// initialized.
    unsafe fn init(mut this: ParentInit<Self>) {
        uninit_field_mut!(*this, banks).write(Default::default());
        uninit_field_mut!(*this, works).write(Default::default());
        // SAFETY: all other fields are initialized, or valid as the zeroes that they are; QOM
        // does not move objects
        let mut device = unsafe { Pin::new_unchecked(this.assume_init_mut()) };
        for bank in 0..BANKS {
            VcpuWork::init(device.as_mut(), &Self::act, |device| {
                &mut device.works[bank]
            });
        }
    }

    fn realize(&self) -> Result<()> {
        ensure!(self.base != 0, "property 'base' must be set");
        let size = (BANKS * BANK_BYTES) as u64;
        init_io(self, &self.iomem, &REGISTERS_OPS, Self::TYPE_NAME, size);
        board::map(&self.iomem, self.base);
        Ok(())
    }

    fn register(&self, offset: u64) -> Option<(usize, usize, &AtomicU64)> {
        let number = offset as usize / REGISTER_BYTES;
        let (bank, register) = (number / REGISTERS, number % REGISTERS);
        Some((bank, register, self.banks.get(bank)?.get(register)?))
    }

    fn read(&self, offset: u64, _size: u32) -> u64 {
        let register = self.register(offset);
        register.map_or(0, |(_, _, it)| it.load(Ordering::Acquire))
    }

    fn write(&self, offset: u64, value: u64, _size: u32) {
        let Some((bank, register, place)) = self.register(offset) else {
            return;
        };
        place.store(value, Ordering::Release);
        if let (START, Some(work)) = (register, self.works.get(bank)) {
            work.schedule_on(bank as c_int);
        }
    }

    /// Does what the registers of this thread's vCPU say.
    fn act(&self, is_paused: bool) {
        let index = vcpu::current_index().and_then(|index| usize::try_from(index).ok());
        let Some(bank) = index.and_then(|index| self.banks.get(index)) else {
            return;
        };
        let get = |register: usize| bank[register].load(Ordering::Acquire);
        let begun = Instant::now();
        if !is_paused {
            match get(START) {
                WRITE => write_register(get(ADDRESS), get(VALUE) as u32),
                READ => bank[VALUE].store(read_register(get(ADDRESS)).into(), Ordering::Release),
                UNMAP => {
                    let queue = Queue::of(get(ADDRESS), get(QUEUE), get(VALUE) as u32);
                    (0..get(COUNT)).for_each(|page| queue.unmap(page));
                }
                _ => {}
            }
        }
        let duration = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        bank[DURATION].store(duration, Ordering::Release);
        bank[DONE].fetch_add(1, Ordering::AcqRel);
    }
}
