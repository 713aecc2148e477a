// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Hosts that lack features of the guest's SMMU, and properties set to `auto`.

use smmuv3_qtest::{fw_cfg::acpi_table, qemu, qemu_c, smmu::reg};

use crate::{
    bench::{sid, vfio_pci, Ecam, Setup, EXPLICIT},
    journal::On,
};

// Registers of a host with every feature, see tests/simhost.
const IDR0: u32 = 0x0d4c_143b;
const IDR1: u32 = (19 << 21) | (19 << 16) | (20 << 6) | 32;
const IDR3: u32 = (1 << 2) | (1 << 10) | (2 << 11);
const IDR5: u32 = 0b101 | (0b111 << 4);

/// `IDR0.MSI`, which only this device has.
const MSI: u32 = 1 << 13;

/// The PASID extended capability.
const PASID: u32 = 0x1b;

#[test]
fn host_lacking_shown_feature_is_refused() {
    let substreams = "accel=on,ats=on,ril=on,oas=44,ssidsize=8";
    let large = "accel=on,ats=on,ril=on,oas=48,ssidsize=0";
    let two_levels = "accel=on,ats=on,ril=on,oas=44,ssidsize=0,cd2l=on";
    let wide = "accel=on,ats=on,ril=on,oas=44,ssidsize=0,vax=on";
    let none = "cannot be behind";
    let no_ats = "'ats' of arm-smmuv3 'smmuv3.1' is on, but the host's SMMU only has ats=off \
                  (IDR0.ATS: host 0, guest 1): set ats=off";
    let fewer =
        "'ssidsize' of arm-smmuv3 'smmuv3.1' is 8, but the host's SMMU only has ssidsize=7 \
                 (IDR1.SSIDSIZE: host 7, guest 8): set ssidsize=7";
    let smaller = "'oas' of arm-smmuv3 'smmuv3.1' is 48, but the host's SMMU only has oas=44 \
                   (IDR5.OAS: host 4, guest 5): set oas=44";
    for (field, register, value, properties, remedy) in [
        ("IDR0.ST_LEVEL", 0, IDR0 & !(0b11 << 27), EXPLICIT, none),
        ("IDR0.TTENDIAN", 0, IDR0 | (0b11 << 21), EXPLICIT, none),
        (
            "IDR0.TTF",
            0,
            IDR0 & !(0b11 << 2) | (0b01 << 2),
            EXPLICIT,
            none,
        ),
        ("IDR0.ATS", 0, IDR0 & !(1 << 10), EXPLICIT, no_ats),
        (
            "IDR0.CD2L",
            0,
            IDR0 & !(1 << 19),
            two_levels,
            "set cd2l=off",
        ),
        ("IDR5.VAX", 5, IDR5, wide, "set vax=off"),
        ("IDR1.SIDSIZE", 1, IDR1 & !0x3f | 15, EXPLICIT, none),
        (
            "IDR1.SSIDSIZE",
            1,
            IDR1 & !(0x1f << 6) | (7 << 6),
            substreams,
            fewer,
        ),
        ("IDR3.RIL", 3, IDR3 & !(1 << 10), EXPLICIT, "set ril=off"),
        ("IDR5.GRAN4K", 5, IDR5 & !(1 << 4), EXPLICIT, none),
        ("IDR5.GRAN16K", 5, IDR5 & !(1 << 5), EXPLICIT, none),
        ("IDR5.GRAN64K", 5, IDR5 & !(1 << 6), EXPLICIT, none),
        (
            "IDR5.OAS",
            5,
            IDR5 & !0b111 | 0b011,
            EXPLICIT,
            "set oas=auto",
        ),
        ("IDR5.OAS", 5, IDR5 & !0b111 | 0b100, large, smaller),
    ] {
        eprintln!("a host that lacks {field}");
        let line = format!("smmu a idr{register}={value:#x}");
        let refusal = Setup::on_host(&line, properties).assign("d0", 1).refuse();
        let error = refusal.refusal();
        for words in [field, remedy] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}

#[test]
fn host_forcing_stalls_is_refused() {
    // a guest whose SMMU never stalls leaves CD.S clear, which is ILLEGAL on
    // this host (§6.3.1)
    let line = format!("smmu a idr0={:#x}", IDR0 & !(0b11 << 24) | (0b10 << 24));
    let refusal = Setup::on_host(&line, EXPLICIT).assign("d0", 1).refuse();
    assert!(refusal.refusal().contains("IDR0.STALL_MODEL"));
}

#[test]
fn host_without_nesting_is_refused() {
    let refusal = Setup::on_host("smmu a nesting=off", EXPLICIT)
        .assign("d0", 1)
        .refuse();
    assert!(refusal.refusal().contains("d0"));
}

#[test]
fn host_with_other_iommu_type_is_refused() {
    // Intel VT-d
    let refusal = Setup::on_host("smmu a kind=1", EXPLICIT)
        .assign("d0", 1)
        .refuse();
    assert!(refusal.refusal().contains("SMMUv3"), "{refusal}");
}

/// Linux describes an SMMU only if `CONFIG_ARM_SMMU_V3_IOMMUFD` is set.
#[test]
fn host_without_iommu_description_is_refused() {
    let refusal = Setup::on_host("smmu a kind=0", EXPLICIT)
        .assign("d0", 1)
        .refuse();
    let error = refusal.refusal();
    for words in ["d0", "CONFIG_ARM_SMMU_V3_IOMMUFD=y"] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn host_may_lack_hidden_features() {
    let line = format!(
        "smmu a idr0={:#x} idr1={:#x} idr3={:#x} idr5={:#x}",
        IDR0 & !(1 << 10),
        IDR1 & !(0x1f << 6),
        IDR3 & !(1 << 10),
        IDR5 & !0b111 | 0b100,
    );
    let bench = Setup::on_host(&line, "accel=on,ats=off,ril=off,oas=44,ssidsize=0")
        .assign("d0", 1)
        .start();
    bench.expect("at start", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn features_without_property_follow_host() {
    for (asid16, bbml, had) in [(0, 2, 1), (1, 1, 1), (1, 0, 1), (1, 2, 0), (1, 2, 1)] {
        let line = format!(
            "smmu a idr0={:#x} idr3={:#x}\nsmmu b idr0={:#x} idr3={:#x}",
            IDR0 & !(1 << 12) | (asid16 << 12),
            IDR3 & !((0b11 << 11) | (1 << 2)) | (bbml << 11) | (had << 2),
            IDR0 & !(1 << 12),
            IDR3 & !((0b11 << 11) | (1 << 2)),
        );
        let mut setup = Setup::on_host(&line, EXPLICIT).assign("d0", 1).slot(2);
        let fd = setup.spare("d1", "b");
        let bench = setup.start();
        let smmu = bench.smmu();
        let fields = [
            (smmu.read(reg::IDR0) >> 12) & 1,
            (smmu.read(reg::IDR3) >> 11) & 0b11,
            (smmu.read(reg::IDR3) >> 2) & 1,
        ];
        assert_eq!(
            fields,
            [asid16, bbml, had],
            "IDR0.ASID16, IDR3.BBML, IDR3.HAD"
        );
        let error = bench.plug("d1", fd, 2).expect_err("a host that has less");
        assert!(error.contains("IDR"), "{error}");
        bench.expect("d1 is refused", &[("d0", On::Bypass), ("d1", On::Nothing)]);
        bench.finish();
    }
}

/// A guest that may set CD.HAD0 must not run on a host that ignores it (§5.4).
#[test]
fn host_without_shown_had_is_refused() {
    let lines = format!("smmu a\nsmmu b idr3={:#x}", IDR3 & !(1 << 2));
    for first in [Some("a"), None] {
        let setup = Setup::on_host(&lines, EXPLICIT);
        let setup = match first {
            Some(_) => setup.assign("d0", 1),
            None => setup,
        };
        let mut setup = setup.slot(2);
        let fd = setup.spare("d1", "b");
        let bench = setup.start();
        assert_eq!(bench.smmu().read(reg::IDR3) & (1 << 2), 1 << 2);
        let error = bench.plug("d1", fd, 2).expect_err("a host without HAD");
        for words in ["IDR3.HAD", "an arm-smmuv3 of its own"] {
            assert!(error.contains(words), "{words}: {error}");
        }
        bench.finish();
    }
}

#[test]
fn auto_properties_follow_host() {
    for (ats, ril, ssid, oas) in [(1, 1, 20, 0b101), (0, 0, 0, 0b100), (0, 1, 5, 0b101)] {
        let line = format!(
            "smmu a idr0={:#x} idr1={:#x} idr3={:#x} idr5={:#x}",
            IDR0 & !(1 << 10) | (ats << 10),
            IDR1 & !(0x1f << 6) | (ssid << 6),
            IDR3 & !(1 << 10) | (ril << 10),
            IDR5 & !0b111 | oas,
        );
        let bench = Setup::on_host(&line, "accel=on").assign("d0", 1).start();
        let smmu = bench.smmu();
        let fields = [
            (smmu.read(reg::IDR0) >> 10) & 1,
            (smmu.read(reg::IDR3) >> 10) & 1,
            (smmu.read(reg::IDR1) >> 6) & 0x1f,
            smmu.read(reg::IDR5) & 0b111,
        ];
        assert_eq!(fields, [ats, ril, ssid, oas]);
        bench.expect("at start", &[("d0", On::Bypass)]);
        bench.finish();
    }
}

#[test]
fn auto_properties_match_c_device() {
    for (idr0, idr1, idr3, idr5) in [
        (IDR0, IDR1, IDR3, IDR5),
        (IDR0 & !(1 << 10), IDR1, IDR3, IDR5),
        (IDR0, IDR1 & !(0x1f << 6), IDR3 & !(1 << 10), IDR5),
        (
            IDR0,
            IDR1 & !(0x1f << 6) | (7 << 6),
            IDR3,
            IDR5 & !0b111 | 0b100,
        ),
        (IDR0, IDR1, IDR3, IDR5 & !0b111 | 0b110),
    ] {
        let line = format!("smmu a idr0={idr0:#x} idr1={idr1:#x} idr3={idr3:#x} idr5={idr5:#x}");
        for properties in [
            "accel=on",
            "accel=on,ats=on,ril=off",
            "accel=on,ats=off,oas=44",
            "accel=on,ssidsize=3",
        ] {
            let values = [qemu(), qemu_c()].map(|binary| {
                let started = Setup::of(&binary, &line)
                    .smmu(properties)
                    .assign("d0", 1)
                    .try_start();
                started.map(|bench| {
                    let smmu = bench.smmu();
                    let mut registers =
                        [reg::IDR0, reg::IDR1, reg::IDR3, reg::IDR5].map(|at| smmu.read(at));
                    assert_eq!(registers[0] & MSI != 0, binary == qemu(), "IDR0.MSI");
                    registers[0] &= !MSI;
                    let pasid =
                        Ecam::of(bench.machine()).extended_capability(sid(1) >> 8, 0, PASID);
                    (registers, pasid, acpi_table(bench.machine(), "IORT"))
                })
            });
            let [rust, c] = values.map(Result::ok);
            assert_eq!(rust, c, "{properties} on {line}");
        }
    }
}

#[test]
fn ssidsize_exposes_pasid_capability() {
    for (properties, shown) in [
        (EXPLICIT, false),
        ("accel=on,ats=on,ril=on,oas=44,ssidsize=8", true),
        ("accel=on", true),
    ] {
        let bench = Setup::new(properties).assign("d0", 1).start();
        bench.number_buses();
        let capability = Ecam::of(bench.machine()).extended_capability(sid(1) >> 8, 0, PASID);
        assert_eq!(capability.is_some(), shown, "{properties}");
        bench.finish();
    }
}

/// Fields that `auto` takes from the first host, and a host with less.
const LESS: [(&str, &str); 4] = [
    ("IDR0.ATS", "idr0=0x0d4c103b"),
    ("IDR1.SSIDSIZE", "idr1=0x27304e0"),
    ("IDR3.RIL", "idr3=0x1004"),
    ("IDR5.OAS", "idr5=0x74"),
];

/// The guest keeps the features of the first device's host.
#[test]
fn second_host_must_match_auto_properties() {
    for (field, line) in LESS {
        let lines = format!("smmu a\nsmmu b {line}");
        // hot-plugged, and present from the start
        let host = || {
            let mut setup = Setup::on_host(&lines, "accel=on").assign("d0", 1).slot(2);
            let fd = setup.spare("d1", "b");
            (setup, fd)
        };
        let (setup, fd) = host();
        let bench = setup.start();
        let error = bench.plug("d1", fd, 2).expect_err(field);
        assert!(error.contains(field), "{error}");
        bench.expect("d1 is refused", &[("d0", On::Bypass), ("d1", On::Nothing)]);
        bench.finish();

        let (cold, number) = host();
        let refusal = cold.device(&vfio_pci("d1", number, "slot2")).refuse();
        assert!(refusal.refusal().contains(field), "{refusal}");
    }
}

#[test]
fn auto_properties_are_fixed_by_first_host() {
    for (_, line) in LESS {
        let lines = format!("smmu a {line}\nsmmu b");
        let mut setup = Setup::on_host(&lines, "accel=on").assign("d0", 1);
        let fd = setup.spare("d1", "b");
        let bench = setup.start();
        let registers = || {
            let smmu = bench.smmu();
            [reg::IDR0, reg::IDR1, reg::IDR3, reg::IDR5].map(|at| smmu.read(at))
        };
        let before = registers();
        bench.unplug("d0", 1);
        bench.plug("d1", fd, 1).expect("it has more");
        assert_eq!(
            registers(),
            before,
            "registers stay as the guest has read them"
        );
        bench.expect("another host SMMU", &[("d1", On::Bypass)]);
        bench.machine().system_reset();
        assert_eq!(registers(), before, "after reset too");
        bench.finish();
    }
}
