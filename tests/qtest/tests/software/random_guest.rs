// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Random changes of both stages' tables, each with a sufficient invalidation:
//! every access must follow the current tables.

use std::collections::HashMap;

use smmuv3_qtest::{
    command::{self, Command, Range},
    edu, pci, Access, Edu, Random,
};

use crate::{
    bench::{machine, Bench, ACCESSES, CONTEXT, DATA, IOVA, IPA, IPA_OFFSET},
    entries::{cd, ste},
    record::{Class, Kind, Record},
    tables::{
        bits::{AF, READ_ONLY, S2_READ, S2_WRITE, STAGE_1},
        Granule, Tables,
    },
};

/// Size of a unit of addresses, a multiple of the page size of each granule.
/// Accesses are to two places of a unit: in one page, or in two of 4 KiB.
const UNIT: u64 = 0x1_0000;
const UNITS: u64 = 6;
const SECOND: u64 = 0x3000;
const VMID: u16 = ste::VMID;
const ASIDS: [u16; 2] = [21, 22];

/// A place: its unit, and whether it is the second of the unit.
type Place = (u64, bool);

const fn offset((unit, second): Place) -> u64 {
    unit * UNIT + if second { SECOND } else { 0 }
}

fn any_place(random: &mut Random) -> Place {
    (random.next() % UNITS, random.next() % 2 == 1)
}

/// Returns the page of a place.
fn page(granule: Granule, (unit, second): Place) -> Place {
    (unit, second && granule == Granule::K4)
}

/// Output address and permissions of a page.
#[derive(Clone, Copy)]
struct Mapping {
    unit: u64,
    read: bool,
    write: bool,
}

type Mappings = HashMap<Place, Mapping>;

/// A device with its stage 1 and the contents of its tables.
struct Device<'a> {
    edu: &'a Edu<'a>,
    asid: u16,
    tables: Tables<'a>,
    mappings: Mappings,
}

struct World<'a> {
    bench: &'a Bench<'a>,
    random: Random,
    granules: [Granule; 2],
    devices: Vec<Device<'a>>,
    stage2: Tables<'a>,
    mappings: Mappings,
}

impl<'a> World<'a> {
    fn new(bench: &'a Bench<'a>, other: &'a Edu<'a>, granules: [Granule; 2], seed: u64) -> Self {
        let stage2 = bench.stage2_for_tables(granules[1]);
        let mut devices = Vec::new();
        for (index, edu) in [&bench.edu, other].into_iter().enumerate() {
            let asid = ASIDS[index];
            let tables = Tables::stage1(bench, granules[0], 42).seen_at(IPA_OFFSET);
            let context = CONTEXT + 64 * index as u64;
            let entry = cd::lower(&tables).with(cd::ASID, asid.into());
            bench.machine.write_memory(context, &entry.to_bytes());
            bench.set_ste(edu.sid(), ste::nested(context + IPA_OFFSET, &stage2));
            devices.push(Device {
                edu,
                asid,
                tables,
                mappings: Mappings::new(),
            });
        }
        bench.invalidate();
        Self {
            bench,
            random: Random::new(seed),
            granules,
            devices,
            stage2,
            mappings: Mappings::new(),
        }
    }

    fn mapping(&mut self) -> Option<Mapping> {
        let bits = self.random.next();
        (bits % 4 != 0).then_some(Mapping {
            unit: (bits >> 8) % UNITS,
            read: bits & 0x70 != 0,
            write: bits & 0x700_0000 != 0,
        })
    }

    /// Returns `command` for one page, or for a range that includes it.
    fn ranged(&mut self, granule: Granule, command: impl Fn(u64) -> Command, at: u64) -> Command {
        let bits = self.random.next();
        let tg = granule.tg();
        let size = granule.size();
        match bits % 4 {
            // any address of the page
            0 => command(at + (bits >> 8) % (size / 0x1000) * 0x1000),
            1 => command::Range {
                tg,
                ttl: 3,
                ..Range::default()
            }
            .of(command(at)),
            _ => {
                let (num, scale) = (1 + (bits >> 8) % 31, (bits >> 16) % 4);
                let before = (bits >> 24) % ((num + 1) << scale);
                let ttl = if (bits >> 32) & 1 == 1 { 3 } else { 0 };
                let range = Range {
                    tg,
                    num,
                    scale,
                    ttl,
                };
                range.of(command(at - before.min(at / size) * size))
            }
        }
    }

    fn change_stage1(&mut self) {
        let granule = self.granules[0];
        let place = any_place(&mut self.random);
        let place = page(granule, place);
        let mapping = self.mapping().map(|mapping| Mapping {
            read: true,
            ..mapping
        });
        let index = self.random.next() as usize % self.devices.len();
        let at = IOVA + offset(place);
        let device = &mut self.devices[index];
        let asid = device.asid;
        let old = match mapping {
            Some(mapping) => {
                let read_only = if mapping.write { 0 } else { READ_ONLY };
                let output = IPA + offset((mapping.unit, place.1));
                let attributes = STAGE_1 | read_only;
                device.tables.map_with(at, output, 3, attributes);
                device.mappings.insert(place, mapping)
            }
            None => {
                device.tables.set(at, 3, 0);
                device.mappings.remove(&place)
            }
        };
        let nothing_cached = old.is_none() && self.random.next() % 2 == 0;
        if nothing_cached {
            return;
        }
        let command = match self.random.next() % 8 {
            0 => command::tlbi_nh_asid(asid),
            1 => command::tlbi_nh_all(VMID),
            2 => command::tlbi_s12_vmall(VMID),
            3 => command::TLBI_NSNH_ALL,
            4 => self.ranged(granule, command::tlbi_nh_vaa, at),
            _ => self.ranged(granule, |at| command::tlbi_nh_va(asid, at), at),
        };
        let command = match command[0] & 0xff {
            0x11..=0x13 => command::with_vmid(command, VMID),
            _ => command,
        };
        self.bench.commands(&[command]);
    }

    fn change_stage2(&mut self) {
        let granule = self.granules[1];
        let place = any_place(&mut self.random);
        let place = page(granule, place);
        let at = IPA + offset(place);
        match self.mapping() {
            Some(mapping) => {
                let read = if mapping.read { S2_READ } else { 0 };
                let write = if mapping.write { S2_WRITE } else { 0 };
                let output = DATA + offset((mapping.unit, place.1));
                self.stage2.map_with(at, output, 3, AF | read | write);
                self.mappings.insert(place, mapping);
            }
            None => {
                self.stage2.set(at, 3, 0);
                self.mappings.remove(&place);
            }
        }
        let commands = match self.random.next() % 4 {
            0 => vec![command::tlbi_s12_vmall(VMID)],
            1 => vec![command::TLBI_NSNH_ALL],
            _ => vec![
                self.ranged(granule, |at| command::tlbi_s2_ipa(VMID, at), at),
                command::tlbi_nh_all(VMID),
            ],
        };
        self.bench.commands(&commands);
    }

    /// Returns the expected result of an access: its output address, or its
    /// fault.
    fn expected(&self, device: &Device<'_>, place: Place, access: Access) -> Result<u64, Record> {
        let iova = IOVA + offset(place);
        let fault1 = |kind| {
            let record = Record::new(kind, device.edu.sid());
            Err(record.of(access, iova).stage1(Class::Input))
        };
        let Some(first) = device.mappings.get(&page(self.granules[0], place)) else {
            return fault1(Kind::Translation);
        };
        if access == Access::Write && !first.write {
            return fault1(Kind::Permission);
        }
        let place = (first.unit, place.1);
        let fault2 = |kind| {
            let record = Record::new(kind, device.edu.sid());
            let record = record.of(access, iova).stage2(Class::Input);
            Err(record.ipa(IPA + offset(place)))
        };
        let Some(second) = self.mappings.get(&page(self.granules[1], place)) else {
            return fault2(Kind::Translation);
        };
        let permitted = match access {
            Access::Read => second.read,
            Access::Write => second.write,
        };
        if !permitted {
            return fault2(Kind::Permission);
        }
        Ok(DATA + offset((second.unit, place.1)))
    }

    fn access(&mut self, step: usize) {
        let place = any_place(&mut self.random);
        let access = self.random.of(&ACCESSES);
        let index = self.random.next() as usize % self.devices.len();
        let device = &self.devices[index];
        let iova = IOVA + offset(place);
        match self.expected(device, place, access) {
            Ok(address) if access == Access::Write => {
                let word = device.edu.write(iova);
                let arrived = self.bench.machine.read32(address);
                assert_eq!(arrived, word, "step {step}: {place:?} to {address:#x}");
                assert_eq!(self.bench.records(), [], "step {step}");
            }
            Ok(_) => {
                device.edu.read(iova, 4);
                assert_eq!(self.bench.records(), [], "step {step}");
            }
            Err(record) => {
                device.edu.access(access, iova);
                assert_eq!(self.bench.records(), [record], "step {step}");
            }
        }
    }
}

#[test]
fn random_translations_never_outlive_invalidation() {
    let machine = machine("nested")
        .device(format!("{},bus=pcie.0,addr=5", edu::DEVICE))
        .start();
    for (seed, granules) in [
        (0x71b, [Granule::K4; 2]),
        (0x71c, [Granule::K64; 2]),
        (0x71d, [Granule::K64, Granule::K4]),
        (0x71e, [Granule::K4, Granule::K64]),
        (0x71f, [Granule::K16, Granule::K4]),
        (0x720, [Granule::K64, Granule::K16]),
    ] {
        machine.system_reset();
        let other = Edu::new(&machine, pci::sid(0, 5), 1);
        let bench = Bench::new(&machine);
        let mut world = World::new(&bench, &other, granules, seed);
        for step in 0..300 {
            if world.random.next() % 3 == 0 {
                world.change_stage2();
            } else {
                world.change_stage1();
            }
            for _ in 0..6 {
                world.access(step);
            }
        }
        bench.free_tables();
    }
}
