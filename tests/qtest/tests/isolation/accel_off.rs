// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! An SMMU without accel cannot pass the guest's mappings to the host: an
//! assigned device behind it is refused, so that it is never attached to guest
//! memory as a whole.

use std::os::unix::process::ExitStatusExt;

use crate::{
    bench::{vfio_pci, Setup},
    journal::On,
};

/// Words of the error.
const WORDS: [&str; 4] = [
    "MAP notifiers, which arm-smmuv3 'smmuv3.1' does not support",
    "vfio-pci '",
    "accel=on",
    "iommufd=ID",
];

#[test]
fn assigned_device_without_accel_is_refused() {
    for properties in ["", "accel=off", "stage=nested", "stage=2"] {
        let finished = Setup::new(properties).assign("d0", 1).refuse();
        assert_eq!(finished.status.signal(), None, "{finished}");
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        for word in WORDS {
            assert!(finished.stderr.contains(word), "no {word:?} in\n{finished}");
        }
    }
}

#[test]
fn hot_plug_of_assigned_without_accel_is_refused() {
    let mut setup = Setup::new("").slot(1);
    let fd = setup.spare("late", "a");
    let bench = setup.start();
    let error = bench
        .plug("late", fd, 1)
        .expect_err("an assigned device was accepted");
    for word in WORDS {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    assert_eq!(bench.machine().status(), "running");
    bench.expect_objects("nothing is left of it", &[]);
}

/// A device that is not behind the SMMU is attached to guest memory as a whole.
#[test]
fn assigned_device_elsewhere_is_accepted() {
    let mut setup = Setup::new("");
    let fd = setup.spare("d0", "a");
    let bench = setup
        .device("pcie-root-port,id=slot9,bus=pcie.0,addr=9,chassis=9")
        .device(&vfio_pci("d0", fd, "slot9"))
        .start();
    assert_eq!(bench.machine().status(), "running");
    bench.expect("on guest memory", &[("d0", On::Stage2)]);
}
