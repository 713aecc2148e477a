// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that refuses calls: the device is attached to abort or blocked, and
//! never keeps its old attachment.

use smmuv3_qtest::smmu::SMMUEN;

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, EXPLICIT, GBPA_ABORT, VIOMMU},
    journal::On,
};

const ERRNOS: [&str; 9] = [
    "ENOMEM",
    "EIO",
    "EINVAL",
    "EOPNOTSUPP",
    "ENOENT",
    "EBUSY",
    "ETIMEDOUT",
    "EFAULT",
    "ENODEV",
];

const OLD: [u64; 2] = ste::stage1(0x4100_0000);
const NEW: [u64; 2] = ste::stage1(0x4200_0000);

/// Calls that a new stage 1 needs, as the script names them.
const CALLS: [&str; 2] = ["HWPT_ALLOC kind=nested", "ATTACH kind=nested"];

/// The previous attachment must not stay, because the guest has revoked it.
#[test]
fn refused_stage1_attaches_abort() {
    for call in CALLS {
        for errno in ERRNOS {
            for (before, on) in [
                (OLD, On::Nested(OLD)),
                (ste::BYPASS, On::Bypass),
                (ste::ABORT, On::Abort),
            ] {
                let bench = Bench::with_one_device();
                let smmu = bench.smmu();
                smmu.enable(SMMUEN);
                smmu.install(sid(1), before);
                bench.expect("before", &[("d0", on)]);
                bench.script(&format!("fail {call} errno={errno}"));
                // not a command error: 7.2
                smmu.install(sid(1), NEW);
                bench.expect(&format!("{call}: {errno}"), &[("d0", On::Abort)]);
                assert_eq!(
                    bench.journal().objects().get("nested"),
                    None,
                    "{call}: {errno}"
                );
                bench.script("clear");
                smmu.install(sid(1), NEW);
                bench.expect("the host can again", &[("d0", On::Nested(NEW))]);
                bench.finish_with_errors();
            }
        }
    }
}

#[test]
fn refused_vdevice_attaches_abort() {
    for errno in ERRNOS {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        bench.script(&format!("fail VDEVICE_ALLOC errno={errno}"));
        smmu.enable(SMMUEN);
        smmu.install(sid(1), ste::BYPASS);
        bench.expect("before", &[("d0", On::Bypass)]);
        smmu.install(sid(1), NEW);
        bench.expect(errno, &[("d0", On::Abort)]);
        bench.expect_objects(errno, &VIOMMU);
        bench.script("clear");
        smmu.install(sid(1), NEW);
        bench.expect("the host can again", &[("d0", On::Nested(NEW))]);
        bench.finish_with_errors();
    }
}

#[test]
fn refused_bypass_attaches_abort() {
    for errno in ERRNOS {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        smmu.install(sid(1), OLD);
        bench.script(&format!("fail ATTACH kind=bypass errno={errno}"));
        smmu.install(sid(1), ste::BYPASS);
        bench.expect(errno, &[("d0", On::Abort)]);
        smmu.disable(SMMUEN);
        bench.expect(
            "GBPA selects bypass, which the host refuses",
            &[("d0", On::Abort)],
        );
        bench.script("clear");
        smmu.gbpa(0);
        bench.expect("the host can again", &[("d0", On::Bypass)]);
        bench.finish_with_errors();
    }
}

#[test]
fn refused_abort_blocks_device() {
    for errno in ERRNOS {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        smmu.install(sid(1), OLD);
        bench.expect("before", &[("d0", On::Nested(OLD))]);
        bench.script(&format!("fail ATTACH kind=abort errno={errno}"));
        smmu.install(sid(1), ste::ABORT);
        bench.expect(errno, &[("d0", On::Nothing)]);
        bench.script("clear");
        smmu.install(sid(1), NEW);
        bench.expect("the host can again", &[("d0", On::Nested(NEW))]);
        bench.finish_with_errors();
    }
}

/// Without abort, detaching the device blocks its DMA.
#[test]
fn refused_attaches_block_device() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), OLD);
    bench.expect("before", &[("d0", On::Nested(OLD))]);
    bench.script("fail ATTACH errno=EBUSY");
    smmu.install(sid(1), NEW);
    bench.expect("nothing can be attached", &[("d0", On::Nothing)]);
    smmu.disable(SMMUEN);
    bench.expect("nothing can be attached", &[("d0", On::Nothing)]);
    smmu.gbpa(GBPA_ABORT);
    bench.expect("nothing can be attached", &[("d0", On::Nothing)]);
    bench.script("clear");
    smmu.gbpa(0);
    bench.expect("the host can again", &[("d0", On::Bypass)]);
    bench.finish_with_errors();
}

#[test]
fn refused_block_does_not_end_qemu() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), OLD);
    bench.script("fail ATTACH errno=EBUSY");
    bench.script("fail DETACH errno=EBUSY");
    smmu.install(sid(1), ste::ABORT);
    // the guest's own stage 1 grants no more than the guest did
    bench.expect("the host does nothing at all", &[("d0", On::Nested(OLD))]);
    bench.script("clear");
    smmu.install(sid(1), ste::ABORT);
    bench.expect("the host can again", &[("d0", On::Abort)]);
    bench.finish_with_errors();
}

#[test]
fn refused_attach_at_smmuen_attaches_abort() {
    for call in [
        "HWPT_ALLOC kind=nested",
        "ATTACH kind=nested",
        "VDEVICE_ALLOC",
    ] {
        let bench = Bench::with_two_devices();
        let smmu = bench.smmu();
        smmu.write_ste(sid(1), OLD);
        smmu.write_ste(sid(2), NEW);
        bench.script(&format!("fail {call} errno=ENOMEM device=d0"));
        smmu.enable(SMMUEN);
        bench.expect(call, &[("d0", On::Abort), ("d1", On::Nested(NEW))]);
        bench.finish_with_errors();
    }
}

#[test]
fn refused_attaches_are_logged_at_bounded_rate() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    bench.script("fail HWPT_ALLOC errno=ENOMEM");
    for _ in 0..100 {
        smmu.install(sid(1), OLD);
    }
    bench.expect("refused", &[("d0", On::Abort)]);
    let finished = bench.end();
    let lines = finished.error_lines();
    let [line] = lines[..] else {
        panic!("one line was expected: {finished}");
    };
    let beginning = format!("smmuv3.1: vfio-pci 'd0', StreamID {:#x}: ", sid(1));
    assert!(line.contains(&beginning), "{line}");
    assert!(line.ends_with("its transactions are aborted"), "{line}");
}

#[test]
fn refused_base_objects_fail_startup() {
    for (call, words) in [
        ("VIOMMU_ALLOC", "vIOMMU"),
        ("HWPT_ALLOC kind=abort", "nested translation"),
        ("HWPT_ALLOC kind=bypass", "nested translation"),
        ("ATTACH kind=bypass", "attach"),
        ("GET_HW_INFO", "hardware info"),
    ] {
        for errno in ["ENOMEM", "EOPNOTSUPP", "EBUSY"] {
            let refusal = Setup::new(EXPLICIT)
                .assign("d0", 1)
                .script(&format!("fail {call} errno={errno}"))
                .refuse();
            let line = refusal.refusal();
            assert!(line.contains(words), "{call} {errno}: {line}");
        }
    }
}

/// Linux says only that it does not support a vIOMMU, whatever the host lacks.
#[test]
fn unsupported_viommu_names_what_host_needs() {
    for (errno, is_explained) in [("EOPNOTSUPP", true), ("ENOMEM", false)] {
        let refusal = Setup::new(EXPLICIT)
            .assign("d0", 1)
            .script(&format!("fail VIOMMU_ALLOC errno={errno}"))
            .refuse();
        let line = refusal.refusal();
        for words in ["FWB", "CANWBS", "scripts/check-host"] {
            assert_eq!(line.contains(words), is_explained, "{words}: {line}");
        }
    }
}

#[test]
fn refused_hot_plug_frees_objects() {
    for call in [
        "ATTACH kind=abort",
        "VIOMMU_ALLOC",
        "HWPT_ALLOC kind=abort",
        "HWPT_ALLOC kind=bypass",
        "BIND",
    ] {
        let mut setup = Setup::new(EXPLICIT).slot(1);
        let fd = setup.spare("d0", "a");
        let bench = setup.start();
        let smmu = bench.smmu();
        smmu.enable(SMMUEN);
        bench.script(&format!("fail {call} errno=EBUSY"));
        let error = bench.plug("d0", fd, 1).expect_err(call);
        assert!(!error.is_empty(), "{call}");
        bench.expect_objects(call, &[]);
        let on = bench.journal().device("d0").map(|device| device.on);
        assert!(matches!(on, None | Some(On::Nothing)), "{call}: {on:?}");
        bench.finish();
    }
}

#[test]
fn refused_second_device_keeps_first_attached() {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1).slot(2);
    let fd = setup.spare("d1", "a");
    let bench = setup.start();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), OLD);
    bench.script("fail ATTACH kind=abort errno=EBUSY");
    bench
        .plug("d1", fd, 2)
        .expect_err("its table is empty, and abort is refused");
    bench.expect(
        "d1 is refused",
        &[("d0", On::Nested(OLD)), ("d1", On::Nothing)],
    );
    bench.script("clear");
    smmu.commands(&[smmuv3_qtest::command::TLBI_NSNH_ALL]);
    smmu.install(sid(1), NEW);
    bench.expect("d0 works", &[("d0", On::Nested(NEW))]);
    bench.finish();
}

/// QEMU must not end or hang when the device is removed.
#[test]
fn refused_detach_permits_unplug() {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1).assign("d1", 2);
    let fd = setup.spare("d2", "a");
    let bench = setup.start();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    smmu.install(sid(1), OLD);
    smmu.install(sid(2), NEW);
    bench.script("fail DETACH errno=EBUSY");
    bench.unplug("d0", 1);
    bench.script("clear");
    bench.expect(
        "closing the file frees it",
        &[("d0", On::Nothing), ("d1", On::Nested(NEW))],
    );
    bench.plug("d2", fd, 1).expect("plugged");
    bench.expect(
        "the slot is free",
        &[("d2", On::Nested(OLD)), ("d1", On::Nested(NEW))],
    );
    bench.finish_with_errors();
}

#[test]
fn refused_destroy_does_not_end_qemu() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.enable(SMMUEN);
    bench.script("fail DESTROY errno=EBUSY");
    smmu.install(sid(1), OLD);
    smmu.install(sid(1), NEW);
    bench.expect("a new stage 1", &[("d0", On::Nested(NEW))]);
    smmu.install(sid(1), ste::ABORT);
    bench.expect("abort", &[("d0", On::Abort)]);
    bench.unplug("d0", 1);
    bench.expect("gone", &[("d0", On::Nothing)]);
    bench.finish_with_errors();
}

/// The vIOMMU is called by a descriptor of its own.
#[test]
fn device_is_refused_without_free_descriptor() {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1).slot(2);
    let fd = setup.spare("d1", "a");
    let bench = setup.start();
    bench.number_buses();
    // the next device is the first again
    bench.unplug("d0", 1);
    bench.machine().permit_files(false);
    let refused = bench.plug("d1", fd, 2).expect_err("no descriptor is left");
    bench.machine().permit_files(true);
    assert!(
        refused.contains("cannot duplicate the descriptor of the iommufd"),
        "{refused}"
    );
    bench.expect_objects("refused", &[]);
    bench.end_without_statistics();
}
