// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A disk full of zeroes, read by an I/O thread into pages behind the SMMU.

use std::{fs, ops::Deref, process};

use smmuv3_qtest::{
    command::{self, Command, TLBI_NSNH_ALL},
    pci, qemu,
    tables::Allow,
    translated::{Stages, Translated, FREE, VMID},
    until,
    virtio::{Buffer, Driver, Queue},
    Builder, Machine,
};

/// `StreamID` of the disk.
pub const SID: u32 = pci::sid(0, 6);

/// IOVAs of the queue, of headers and statuses of requests, and of data. There
/// is RAM at these addresses too, for accesses that are not translated:
/// otherwise the disk would access MMIO and could wait for the BQL while the
/// main thread waits for the disk.
const RING: u64 = FREE + (64 << 20);
const HEADERS: u64 = RING + 0x1000;
const DATA: u64 = RING + (8 << 20);

/// Guest physical addresses of these.
const RING_AT: u64 = FREE;
const HEADERS_AT: u64 = FREE + 0x1000;
const STATUSES: u64 = 0x800;
const DATA_AT: u64 = FREE + (16 << 20);

/// Distance of the other data pages.
const ELSEWHERE: u64 = 8 << 20;

/// Concurrent requests: each has three descriptors.
pub const REQUESTS: u16 = 16;
/// Bytes of a request: several pages
const BYTES: u32 = 1 << 16;

/// Content of a page before the disk is read.
const FRESH: u8 = 0xa5;
/// Value of a status before the disk is read.
const UNKNOWN: u8 = 0xff;

/// The disk's thread and its contents.
pub const ARGUMENTS: [[&str; 2]; 2] = [
    ["-object", "iothread,id=thread"],
    [
        "-blockdev",
        "null-co,node-name=zeroes,size=16777216,read-zeroes=on,latency-ns=1000000",
    ],
];

const SMMU: &str = "arm-smmuv3,id=smmuv3.1,primary-bus=pcie.0";

/// Adds the SMMU and the disk behind it.
pub fn devices(stages: Stages) -> [String; 2] {
    [
        match stages {
            Stages::One => format!("{SMMU},{}", crate::STAGE1),
            Stages::Two | Stages::Both => format!("{SMMU},stage={}", stages.property()),
        },
        "virtio-blk-pci,drive=zeroes,iothread=thread,bus=pcie.0,addr=6,num-queues=1,\
         iommu_platform=on,disable-legacy=on"
            .into(),
    ]
}

/// Returns a machine whose disk is behind the SMMU.
pub fn machine(stages: Stages) -> Machine {
    let with_arguments = ARGUMENTS
        .into_iter()
        .fold(Builder::virt(qemu()), Builder::args);
    devices(stages)
        .into_iter()
        .fold(with_arguments, Builder::device)
        .start()
}

/// Lets the disk's I/O thread run only while QEMU's main thread is idle, and
/// preempts it at any point: both share a CPU, and the main thread has
/// priority.
#[track_caller]
pub fn yield_to_the_main_thread(machine: &Machine) {
    let run = |program: &str, arguments: &[&str]| {
        let done = process::Command::new(program).args(arguments).output();
        let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    };
    let status = fs::read_to_string("/proc/self/status").expect("this process");
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = allowed.and_then(|list| list.trim().split([',', '-']).next());
    let cpu = first.expect("a CPU");
    let pid = machine.pid();
    run(
        "taskset",
        &["--all-tasks", "--cpu-list", "--pid", cpu, &pid.to_string()],
    );
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).expect("QEMU's threads");
    let of_the_disk = threads.find_map(|thread| {
        let thread = thread.ok()?;
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        name.starts_with("IO ").then(|| thread.file_name())
    });
    let thread = of_the_disk.expect("the disk's thread");
    run("chrt", &["--idle", "--pid", "0", &thread.to_string_lossy()]);
}

/// The disk, its queue, and its SMMU.
pub struct Disk<'a> {
    driver: Driver<'a>,
    queue: Queue<'a>,
    translated: Translated<'a>,
}

impl<'a> Deref for Disk<'a> {
    type Target = Translated<'a>;

    fn deref(&self) -> &Self::Target {
        &self.translated
    }
}

impl<'a> Disk<'a> {
    /// Sets up the disk of [`machine`] with everything mapped.
    #[track_caller]
    pub fn new(machine: &'a Machine, stages: Stages) -> Self {
        let disk = Self {
            driver: Driver::new(machine, SID),
            queue: Queue::new(machine, RING_AT),
            translated: Translated::new(machine, stages, SID),
        };
        disk.input().map(RING, RING_AT, Allow::ReadWrite);
        disk.input().map(HEADERS, HEADERS_AT, Allow::ReadWrite);
        for request in 0..REQUESTS {
            disk.map_data(request);
        }
        disk.driver.start(RING);
        disk
    }

    /// Returns the IOVA of the data of a request.
    pub fn data(request: u16) -> u64 {
        DATA + u64::from(BYTES) * u64::from(request)
    }

    /// Returns the address of the table that has the descriptors of all data.
    pub fn table_of_data(&self) -> u64 {
        self.input().pages(DATA)
    }

    /// Returns the descriptors of a data table that maps unused pages.
    pub fn remapped(descriptors: &[u8]) -> Vec<u8> {
        let remap = |bytes: &[u8]| {
            let descriptor = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            let is_valid = descriptor & 1 != 0;
            (descriptor + if is_valid { ELSEWHERE } else { 0 }).to_le_bytes()
        };
        descriptors.chunks_exact(8).flat_map(remap).collect()
    }

    /// Returns how many pages of data have changed since before the read.
    pub fn touched(&self) -> usize {
        let page = |number| format!("readb {:#x}", DATA_AT + 4096 * number as u64);
        let requests: Vec<String> = (0..Self::pages()).map(page).collect();
        let bytes = self.machine.requests(&requests);
        bytes
            .iter()
            .filter(|byte| **byte != u64::from(FRESH))
            .count()
    }

    /// Returns the number of pages of data.
    pub const fn pages() -> usize {
        REQUESTS as usize * BYTES as usize / 4096
    }

    /// Makes `table` the table of all data.
    #[track_caller]
    pub fn lead_data(&self, table: u64) {
        self.input().lead(DATA, table);
        self.submit(&[TLBI_NSNH_ALL]);
    }

    fn data_at(request: u16) -> u64 {
        DATA_AT + u64::from(BYTES) * u64::from(request)
    }

    /// Maps the data of a request.
    pub fn map_data(&self, request: u16) {
        for page in (0..u64::from(BYTES)).step_by(4096) {
            let (iova, address) = (Self::data(request) + page, Self::data_at(request) + page);
            self.input().map(iova, address, Allow::ReadWrite);
        }
    }

    /// Invalidates the translation of the first page of a request.
    pub fn invalidate(&self, request: u16) -> Command {
        let page = Self::data(request);
        match self.stages() {
            Stages::Two => command::tlbi_s2_ipa(VMID, page),
            Stages::One | Stages::Both => command::with_vmid(command::tlbi_nh_vaa(page), VMID),
        }
    }

    /// Unmaps the first page of a request's data and waits until no thread uses
    /// it.
    #[track_caller]
    pub fn unmap_data(&self, request: u16) {
        self.input().unmap(Self::data(request));
        self.submit(&[self.invalidate(request)]);
    }

    /// Maps it again.
    #[track_caller]
    pub fn remap_data(&self, request: u16) {
        self.input().map(
            Self::data(request),
            Self::data_at(request),
            Allow::ReadWrite,
        );
        self.submit(&[self.invalidate(request)]);
    }

    /// Makes requests to read the disk available and notifies the device.
    #[track_caller]
    pub fn read(&self) {
        self.make_available();
        self.driver.notify();
    }

    /// Makes requests to read the disk available without a notification.
    #[track_caller]
    pub fn make_available(&self) {
        let machine = self.machine;
        machine.fill_memory(DATA_AT, u64::from(REQUESTS) * u64::from(BYTES), FRESH);
        machine.fill_memory(HEADERS_AT, STATUSES, 0);
        machine.fill_memory(HEADERS_AT + STATUSES, REQUESTS.into(), UNKNOWN);
        for request in 0..REQUESTS {
            let number = u64::from(request);
            let buffer = |address, length, writable| Buffer {
                address,
                length,
                writable,
            };
            self.queue.push(
                3 * request,
                &[
                    buffer(HEADERS + 16 * number, 16, false),
                    buffer(Self::data(request), BYTES, true),
                    buffer(HEADERS + STATUSES + number, 1, true),
                ],
            );
        }
    }

    /// Returns the notification as a request of the qtest protocol.
    pub fn notify_request(&self) -> String {
        self.driver.notify_request()
    }

    /// Returns whether all requests are complete.
    pub fn is_idle(&self) -> bool {
        self.queue.pending() == 0
    }

    /// Waits until all requests are complete and checks the data of each.
    #[track_caller]
    pub fn arrives(&self) {
        until("end of the requests", || self.is_idle().then_some(()));
        assert!(!self.driver.needs_reset());
        for request in 0..REQUESTS {
            let status = HEADERS_AT + STATUSES + u64::from(request);
            assert_eq!(self.machine.read_sized(status, 1), 0, "{request}");
            let data = self
                .machine
                .read_memory(Self::data_at(request), BYTES as usize);
            assert!(data.iter().all(|byte| *byte == 0), "{request}: data");
        }
    }

    /// Checks that the first page of a request has not changed.
    #[track_caller]
    pub fn is_untouched(&self, request: u16) {
        let data = self.machine.read_memory(Self::data_at(request), 4096);
        assert!(data.iter().all(|byte| *byte == FRESH), "{request}: data");
    }

    /// Waits until the device has completed all requests or needs a reset.
    #[track_caller]
    pub fn settles(&self) {
        until("end of the requests", || {
            (self.is_idle() || self.driver.needs_reset()).then_some(())
        });
    }

    /// Resets the device and sets it up again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.driver.reset();
        self.queue = Queue::new(self.machine, RING_AT);
        self.driver.start(RING);
    }
}
