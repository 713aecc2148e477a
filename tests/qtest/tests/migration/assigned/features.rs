// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The guest keeps the ID registers that it has read, on every host: so a host that lacks something
//! of them refuses the guest.

use smmuv3_qtest::{
    assigned::{Bench, Setup, EXPLICIT},
    qemu, qemu_c,
    smmu::reg,
    Builder, Machine, Smmu,
};

use super::{boot, goes_on, load, on_host, saved, start, Migration, P2P};
use crate::stream::{field, Stream};

/// Length of the fields in the subsection: whether they are there, IDR0 to IDR5, IIDR, AIDR.
const LENGTH: usize = 1 + 8 * 4;
/// IDR0 to IDR5 and others that say what the SMMU can do.
const ID_REGISTERS: [u64; 8] = [
    reg::IDR0,
    reg::IDR1,
    reg::IDR2,
    reg::IDR3,
    reg::IDR4,
    reg::IDR5,
    reg::IIDR,
    reg::AIDR,
];

fn id_registers(machine: &Machine) -> [u32; 8] {
    let smmu = Smmu::find(machine);
    ID_REGISTERS.map(|register| smmu.read(register))
}

/// Fields that hosts differ in, a host with less, and the error there for a guest of the full host.
const LESS: [(&str, &str, &str); 7] = [
    (
        "IDR0.ASID16",
        "idr0=0x0d4c043b",
        "the guest was started with IDR0.ASID16 1, but the SMMU of this host has 0",
    ),
    (
        "IDR0.ATS",
        "idr0=0x0d4c103b",
        "was started with ats=on, but the SMMU of this host only has ats=off (IDR0.ATS: host 0, guest 1)",
    ),
    (
        "IDR1.SSIDSIZE",
        "idr1=0x27304e0",
        "was started with ssidsize=20, but the SMMU of this host only has ssidsize=19",
    ),
    (
        "IDR3.HAD",
        "idr3=0x1400",
        "the guest was started with IDR3.HAD 1, but the SMMU of this host has 0",
    ),
    (
        "IDR3.RIL",
        "idr3=0x1004",
        "was started with ril=on, but the SMMU of this host only has ril=off",
    ),
    (
        "IDR3.BBML",
        "idr3=0xc04",
        "the guest was started with IDR3.BBML 2, but the SMMU of this host has 1",
    ),
    (
        "IDR5.OAS",
        "idr5=0x74",
        "was started with oas=48, but the SMMU of this host only has oas=44 (IDR5.OAS: host 4, guest 5)",
    ),
];

#[test]
fn destination_that_lacks_a_feature_refuses_the_guest() {
    for (name, line, words) in LESS {
        let source = on_host("smmu a", "accel=on").start();
        boot(&source);
        let before = id_registers(source.machine());
        let target = on_host(&format!("smmu a {line}"), "accel=on")
            .incoming()
            .start();
        let own = id_registers(target.machine());
        assert_ne!(before, own, "{name}: auto follows the host");
        Migration {
            source: &source,
            target: &target,
        }
        .is_refused(words);
        assert_eq!(id_registers(source.machine()), before);
        assert_eq!(id_registers(target.machine()), own, "nothing was loaded");
        target.expect_as_configured(name);
        source.end();
        target.end();
    }
}

#[test]
fn destination_refuses_the_guest_before_its_memory_is_sent() {
    let [(name, line, words), ..] = LESS;
    let source = on_host("smmu a", "accel=on").start();
    boot(&source);
    let target = on_host(&format!("smmu a {line}"), "accel=on")
        .incoming()
        .start();
    Migration {
        source: &source,
        target: &target,
    }
    .is_refused_early(words);
    target.expect_as_configured(name);
    source.end();
    target.end();
}

/// Of a file, too, nothing but the ID registers is loaded.
#[test]
fn id_registers_are_checked_at_the_begin_of_the_stream() {
    for (name, line, words) in LESS {
        let source = on_host("smmu a", "accel=on").start();
        boot(&source);
        let stream = saved(source);
        let begin = stream.truncated(stream.memory());
        assert!(begin.early().is_some());
        for (host, is_refused) in [(format!("smmu a {line}"), true), ("smmu a".into(), false)] {
            let target = on_host(&host, "accel=on").incoming().start();
            let result = begin.load_into(target.machine());
            assert!(result.is_err(), "{name}: it has no memory");
            if is_refused {
                target.expect_message(words);
            } else {
                let mut messages = target.messages().into_iter();
                assert!(
                    !messages.any(|it| it.contains("was started with")),
                    "{name}"
                );
            }
            target.end();
        }
    }
}

/// Two features that a guest is shown on request only.
#[test]
fn destination_without_cd2l_or_vax_refuses_the_guest() {
    const PROPERTIES: &str = "accel=on,ats=on,ril=on,oas=44,ssidsize=0";
    for (property, here, there) in [
        ("cd2l", "smmu a", "smmu a idr0=0x0d44143b"),
        ("vax", "smmu a idr5=0x475", "smmu a"),
    ] {
        let source = on_host(here, &format!("{PROPERTIES},{property}=on")).start();
        boot(&source);
        let before = id_registers(source.machine());
        let stream = saved(source);
        let target = |line, value| {
            let properties = format!("{PROPERTIES},{property}={value}");
            on_host(line, &properties).incoming().start()
        };
        let lacking = target(there, "off");
        assert!(stream.load_into(lacking.machine()).is_err(), "{property}");
        lacking.expect_message(&format!(
            "was started with {property}=on, but the SMMU of this host only has {property}=off"
        ));
        lacking.end();
        let good = target(here, "off");
        load(&stream, &good);
        assert_eq!(id_registers(good.machine()), before, "{property}");
        good.end();
    }
}

/// The guest keeps what it has seen, also when the new host has more: across a reset, and for a
/// device that is plugged in later.
#[test]
fn guest_keeps_its_id_registers_on_a_better_host() {
    for (name, line, _) in LESS {
        if name == "IDR1.SSIDSIZE" {
            // VFIO refuses another PASID capability
            continue;
        }
        let source = on_host(&format!("smmu a {line}"), "accel=on")
            .slot(3)
            .start();
        boot(&source);
        let before = id_registers(source.machine());
        let mut setup = on_host("smmu a", "accel=on").slot(3).incoming();
        let fd = setup.spare("d2", "a");
        let target = setup.start();
        assert_ne!(
            id_registers(target.machine()),
            before,
            "{name}: auto follows the host"
        );
        Migration {
            source: &source,
            target: &target,
        }
        .succeeds();
        assert_eq!(id_registers(target.machine()), before, "{name}");
        goes_on(&target, name);
        target.plug("d2", fd, 3).expect("it has more");
        target.machine().system_reset();
        assert_eq!(
            id_registers(target.machine()),
            before,
            "{name}, after a reset"
        );
        source.finish_migratable();
        target.finish_migratable();
    }
}

/// The width of the PASID capability is that of the device in the host, so VFIO refuses a guest from
/// a host with another one, also with fewer bits. Without PASIDs there is no such capability.
#[test]
fn pasid_width_of_another_host_needs_ssidsize_0() {
    let less = "smmu a idr1=0x27304e0";
    for (properties, is_taken) in [
        ("accel=on,ats=on,ril=on,oas=44,ssidsize=8", false),
        (EXPLICIT, true),
    ] {
        let source = on_host(less, properties).start();
        boot(&source);
        let stream = Stream::copy(source.machine());
        let target = on_host("smmu a", properties).incoming().start();
        let result = stream.load_into(target.machine());
        assert_eq!(result.is_ok(), is_taken, "{properties}: {result:?}");
        if !is_taken {
            target.expect_message("get_pci_config_device: Bad config data");
        }
        for bench in [source, target] {
            bench.end();
        }
    }
}

/// Properties of the destination that differ from the source's: the guest keeps what it has seen.
#[test]
fn guest_keeps_its_id_registers_whatever_the_properties() {
    let other = "accel=on,ats=off,ril=off,oas=48,ssidsize=0,msi=off";
    let source = on_host("smmu a", EXPLICIT).start();
    boot(&source);
    let before = id_registers(source.machine());
    let stream = saved(source);
    let target = on_host("smmu a", other).incoming().start();
    assert_ne!(id_registers(target.machine()), before);
    load(&stream, &target);
    assert_eq!(id_registers(target.machine()), before);
    start(&target);
    goes_on(&target, "at the target");
    target.machine().system_reset();
    assert_eq!(id_registers(target.machine()), before, "after a reset");
    target.finish_migratable();
}

/// The C device, or this one with accel=off: its streams have no ID registers, because they are
/// always the same ones.
#[test]
fn stream_without_accel_loads_into_accel() {
    let empty = |binary| {
        Builder::virt(binary)
            .smmu("")
            .device("pcie-root-port,id=slot1,bus=pcie.1,addr=1,chassis=1")
    };
    let with_device = |host: &str| {
        Setup::on_host(host, "accel=on")
            .assign_migratable("d0", 1, P2P)
            .incoming()
            .start()
    };
    for binary in [qemu_c(), qemu()] {
        let source = empty(binary).start();
        let before = id_registers(&source);
        let smmu = Smmu::find(&source);
        smmu.write(reg::CR1, 0xd75);
        let stream = Stream::save(source);
        assert_eq!(stream.subsection("smmuv3/accel"), None);
        assert_eq!(stream.early(), None);

        let target = with_device("smmu a");
        assert_ne!(id_registers(target.machine()), before);
        load(&stream, &target);
        assert_eq!(id_registers(target.machine()), before);
        assert_eq!(Smmu::find(target.machine()).read(reg::CR1), 0xd75);
        start(&target);
        target.expect_as_configured("started");
        target.finish_migratable();

        let lacking = with_device("smmu a idr3=0x1004");
        assert!(stream.load_into(lacking.machine()).is_err());
        lacking.expect_message("was started with ril=on");
        lacking.end();
    }
}

/// What such a guest has seen may be all that a QEMU knows of an SMMU: it need not have a device.
fn without_device(properties: &str) -> Builder {
    Builder::virt(qemu()).smmu(properties)
}

#[test]
fn stream_with_accel_needs_accel() {
    const FIXED: &str = "accel=on,ats=off,ril=on,oas=44,ssidsize=0";
    let stream = Stream::save(without_device(FIXED).start());
    assert!(stream.subsection("smmuv3/accel").is_some());
    let begin = stream.truncated(stream.memory());
    let early_off = without_device("").args(["-incoming", "defer"]).start();
    assert!(begin.load_into(&early_off).is_err());
    let off = without_device("").args(["-incoming", "defer"]).start();
    assert!(stream.load_into(&off).is_err());
    let words =
        "cannot load this state: the guest was started with accel=on, and this QEMU with accel=off";
    for refusing in [early_off, off] {
        smmuv3_qtest::until(words, || refusing.stderr().contains(words).then_some(()));
    }
    let c = Builder::virt(qemu_c())
        .smmu("")
        .args(["-incoming", "defer"])
        .start();
    assert!(
        stream.load_into(&c).is_err(),
        "the C device has no such subsection"
    );
    let on = stream.load(without_device(FIXED));
    assert_eq!(on.quit().stderr, "");
}

/// The guest has released its last device, so the destination has none, and its properties that are
/// auto have no host to follow.
#[test]
fn incoming_accel_auto_needs_no_assigned_device() {
    let with_slot = || Setup::new("accel=on").slot(1);
    let source = Setup::new("accel=on")
        .assign_migratable("d0", 1, P2P)
        .start();
    source.smmu();
    let before = id_registers(source.machine());
    source.unplug("d0", 1);
    let stream = Stream::copy(source.machine());
    let target = with_slot().incoming().start();
    load(&stream, &target);
    assert_eq!(id_registers(target.machine()), before);
    start(&target);
    target.end();
    // without -incoming the values are needed at once
    with_slot().refuse();
}

/// Returns a state with ID registers, and where they are.
#[track_caller]
fn with_id_registers() -> (Stream, usize, impl Fn() -> Bench) {
    let one = || Setup::new(EXPLICIT).assign_migratable("d0", 1, P2P);
    let source = one().start();
    source.translating(&[smmuv3_qtest::assigned::ste::FIRST]);
    let stream = saved(source);
    let at = stream.subsection("smmuv3/accel").expect("ID registers");
    (stream, at, move || one().incoming().start())
}

#[test]
fn damaged_id_registers_are_refused() {
    let (stream, at, target) = with_id_registers();
    // bits that no property and no host changes, and values that none gives
    let damages: [(usize, u32); 8] = [
        (0, 1 << 0),       // IDR0.S2P
        (0, 0b11 << 2),    // IDR0.TTF
        (1, 0x3f),         // IDR1.SIDSIZE
        (1, 0b11111 << 6), // IDR1.SSIDSIZE
        (2, 1),            // IDR2
        (3, 0b1 << 11),    // IDR3.BBML
        (5, 0b11),         // IDR5.OAS
        (7, 0b110),        // AIDR
    ];
    for (word, bits) in damages {
        let place = at + 1 + 4 * word;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&stream.bytes()[place..place + 4]);
        let changed = u32::from_be_bytes(bytes) ^ bits;
        let damaged = stream.with_bytes(place, &changed.to_be_bytes());
        let bench = target();
        let before = id_registers(bench.machine());
        assert!(
            damaged.load_into(bench.machine()).is_err(),
            "word {word}, {changed:#x}"
        );
        bench.expect_message(
            "the migration stream is damaged: the ID registers have values that no device shows",
        );
        assert_eq!(id_registers(bench.machine()), before);
        bench.end();
    }
}

#[test]
fn random_id_registers_do_not_crash_qemu() {
    let (stream, at, target) = with_id_registers();
    let mut random = smmuv3_qtest::Random::new(0x5eed_1515);
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..12 {
        let mut damaged = stream.clone();
        let place = at + (random.next() as usize) % LENGTH;
        let byte = stream.bytes()[place] ^ (1 << (random.next() % 8));
        damaged = damaged.with_bytes(place, &[byte]);
        let queue = random.of(&[0, 3, 19]);
        damaged = damaged.with(field("eventq.log2size"), queue);
        let bench = target();
        match damaged.load_into(bench.machine()) {
            Ok(()) => loaded += 1,
            Err(_) => refused += 1,
        }
        start_if_paused(&bench);
        bench.expect_as_configured("after a random stream");
        bench.machine().system_reset();
        let smmu = bench.smmu();
        smmu.enable(smmuv3_qtest::smmu::SMMUEN);
        bench.end();
    }
    assert!(refused > 0, "{loaded} were loaded");
}

fn start_if_paused(bench: &Bench) {
    if bench.machine().status() == "paused" {
        start(bench);
    }
}
