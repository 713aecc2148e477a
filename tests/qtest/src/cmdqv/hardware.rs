// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The test in the role of the hardware queues: the registers in the page that
//! QEMU maps, and the commands in guest memory.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::FileExt, net::UnixDatagram},
};

use super::{cerror, Register, CMDQ_ERR, ENABLE, QUEUES, SLOT};
use crate::{
    assigned::Bench,
    command::{Command, BYTES},
    journal::Line,
};

/// A command that was executed, as the SMMU gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The queue in the VINTF
    pub slot: u32,
    /// The command, with the VMID of the VINTF
    pub command: Command,
}

/// A hardware queue of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HwQueue {
    /// Its index in the VINTF
    pub slot: u32,
    /// Guest physical address of its commands
    pub iova: u64,
    /// Bytes of its commands
    pub length: u64,
}

/// The VINTF of a vIOMMU of the machine.
pub struct CmdqvHardware<'a> {
    bench: &'a Bench,
    /// Its vIOMMU
    viommu: u64,
    /// Where its page is in the iommufd
    offset: u64,
    sequence: u32,
}

impl<'a> CmdqvHardware<'a> {
    /// The iommufd of [`Bench`]
    const IOMMUFD: &'static str = "iommufd0";

    /// Returns the VINTF of a machine.
    ///
    /// # Panics
    ///
    /// If the host has not given one to it.
    #[track_caller]
    pub fn of(bench: &'a Bench) -> Self {
        let journal = bench.journal();
        let viommu = journal.all("cmdqv-viommu").next().expect("a VINTF");
        Self::new(bench, viommu)
    }

    /// Returns the VINTF whose page QEMU has mapped. It may have others, which
    /// have queues that the host has not released.
    ///
    /// # Panics
    ///
    /// If QEMU has more than one page mapped.
    #[track_caller]
    pub fn mapped(bench: &'a Bench) -> Option<Self> {
        let journal = bench.journal();
        let viommus = journal.all("cmdqv-viommu");
        let mut mapped = viommus
            .map(|viommu| Self::new(bench, viommu))
            .filter(Self::is_mapped);
        let first = mapped.next();
        assert_eq!(mapped.count(), 0, "more than one page is mapped");
        first
    }

    fn new(bench: &'a Bench, viommu: &Line) -> Self {
        Self {
            bench,
            viommu: viommu.number("id"),
            offset: viommu.number("offset"),
            sequence: 0,
        }
    }

    /// Returns the queues that the host has, ascending.
    #[track_caller]
    pub fn queues(&self) -> Vec<HwQueue> {
        let journal = self.bench.journal();
        let mut queues: Vec<HwQueue> = journal
            .all("hwqueue")
            .filter(|line| line.number("viommu") == self.viommu)
            .map(|line| HwQueue {
                slot: line.number("index") as u32,
                iova: line.number("iova"),
                length: line.number("length"),
            })
            .collect();
        queues.sort_unstable();
        queues
    }

    const fn at(&self, slot: u32, register: Register) -> u64 {
        self.offset + SLOT * slot as u64 + register as u64
    }

    /// Reads a register.
    #[track_caller]
    pub fn get(&self, slot: u32, register: Register) -> u32 {
        let mut word = [0; 4];
        self.bench
            .iommufd(Self::IOMMUFD)
            .read_exact_at(&mut word, self.at(slot, register))
            .expect("the page");
        u32::from_le_bytes(word)
    }

    /// Changes a register.
    #[track_caller]
    pub fn set(&self, slot: u32, register: Register, value: u32) {
        self.bench
            .iommufd(Self::IOMMUFD)
            .write_all_at(&value.to_le_bytes(), self.at(slot, register))
            .expect("the page");
    }

    /// Returns whether QEMU has the page mapped.
    #[track_caller]
    pub fn is_mapped(&self) -> bool {
        let path = format!("/proc/{}/maps", self.bench.machine().pid());
        let maps = fs::read_to_string(path).expect("QEMU's mappings");
        let offset = format!("{:08x}", self.offset);
        let mut lines = maps.lines();
        lines.any(|line| {
            line.contains("memfd:simhost-iommufd-iommufd0")
                && line.split_whitespace().nth(2) == Some(offset.as_str())
        })
    }

    /// Lets the hardware do all that it has to do: acknowledge enables, execute
    /// commands until each queue is empty or has an error, and report errors.
    /// Returns what it has executed, in order.
    #[track_caller]
    pub fn step(&mut self) -> Vec<Executed> {
        let mut executed = Vec::new();
        let mut failed = false;
        let queues = self.queues();
        for slot in 0..QUEUES {
            match queues.iter().find(|queue| queue.slot == slot) {
                Some(queue) => failed |= self.run(*queue, &mut executed),
                None => self.clear(slot),
            }
        }
        if failed {
            self.report();
        }
        executed
    }

    /// Drops what was written to a slot without a queue.
    fn clear(&self, slot: u32) {
        let at = self.offset + SLOT * u64::from(slot);
        self.bench
            .iommufd(Self::IOMMUFD)
            .write_all_at(&[0; SLOT as usize], at)
            .expect("the page");
    }

    /// Executes the commands of a queue. Returns whether one failed.
    #[track_caller]
    fn run(&self, queue: HwQueue, executed: &mut Vec<Executed>) -> bool {
        let slot = queue.slot;
        let enabled = self.get(slot, Register::Config) & ENABLE;
        self.set(slot, Register::Status, enabled);
        let gerror = self.get(slot, Register::Gerror);
        let active = gerror ^ self.get(slot, Register::Gerrorn);
        if enabled == 0 || active & CMDQ_ERR != 0 {
            return false;
        }
        let entries = (queue.length / BYTES) as u32;
        let pointers = 2 * entries;
        let prod = self.get(slot, Register::Prod) % pointers;
        let mut cons = self.get(slot, Register::Cons) % pointers;
        for _ in 0..entries {
            if cons == prod {
                break;
            }
            let at = queue.iova + BYTES * u64::from(cons % entries);
            match self.execute(self.fetch(at)) {
                Ok(command) => executed.push(Executed { slot, command }),
                Err(code) => {
                    self.set(slot, Register::Cons, cons | (code << 24));
                    self.set(slot, Register::Gerror, gerror ^ CMDQ_ERR);
                    return true;
                }
            }
            cons = (cons + 1) % pointers;
        }
        self.set(slot, Register::Cons, cons);
        false
    }

    #[track_caller]
    fn fetch(&self, at: u64) -> Command {
        let machine = self.bench.machine();
        [machine.read64(at), machine.read64(at + 8)]
    }

    /// Executes what the queue of a virtual machine may: `CMD_TLBI_NH_ASID`,
    /// `CMD_TLBI_NH_VA`, `CMD_ATC_INV` of a stream that the VINTF matches, and
    /// `CMD_SYNC` without a completion signal.
    fn execute(&self, command: Command) -> Result<Command, u32> {
        const VMID: u64 = 0xffff << 32;

        let [word0, word1] = command;
        match word0 & 0xff {
            0x11 | 0x12 => {
                let journal = self.bench.journal();
                let stage2 = journal.all("s2").next();
                let vmid = stage2.map_or(0, |line| line.number("vmid"));
                Ok([(word0 & !VMID) | (vmid << 32), word1])
            }
            0x40 => {
                let journal = self.bench.journal();
                let mut vdevices = journal.all("vdevice");
                if vdevices.any(|line| line.number("sid") == word0 >> 32) {
                    Ok(command)
                } else {
                    Err(cerror::ILL_ACCESS)
                }
            }
            0x46 if word0 & (0b11 << 12) == 0 => Ok(command),
            _ => Err(cerror::ILL_OPCODE),
        }
    }

    /// Returns a bit for each queue with an active error.
    #[track_caller]
    pub fn error_map(&self) -> u64 {
        (0..QUEUES)
            .filter(|slot| {
                let gerror = self.get(*slot, Register::Gerror);
                gerror != self.get(*slot, Register::Gerrorn)
            })
            .map(|slot| 1 << slot)
            .sum()
    }

    /// Sets the sequence number of the next event.
    pub const fn set_sequence(&mut self, sequence: u32) {
        self.sequence = sequence;
    }

    /// Reports the queues with an error, as the host's interrupt handler does.
    #[track_caller]
    pub fn report(&mut self) {
        let map = self.error_map();
        self.report_as(0, &[map, 0]);
    }

    /// Makes one read return a header and these words of an event.
    #[track_caller]
    pub fn report_as(&mut self, flags: u32, map: &[u64]) {
        let mut bytes: Vec<u8> = [flags, self.sequence]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        bytes.extend(map.iter().flat_map(|word| word.to_le_bytes()));
        self.sequence += 1;
        let Some(id) = self.bench.journal().id("cmdqv-veventq") else {
            // QEMU has closed the queue before
            return;
        };
        let path = self.bench.file(&format!("veventq-iommufd0-{id}"));
        let socket = UnixDatagram::unbound().expect("a socket");
        match socket.send_to(&bytes, path) {
            // QEMU has closed the queue
            Err(error)
                if [ErrorKind::ConnectionRefused, ErrorKind::NotFound].contains(&error.kind()) => {}
            result => assert_eq!(result.expect("an event"), bytes.len()),
        }
    }
}
