// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The new QEMU adopts the host's objects by their IDs: nothing is made, attached or destroyed.

use smmuv3_qtest::{
    assigned::{sid, ste, Guest},
    command::TLBI_NSNH_ALL,
    journal::On,
    smmu::SMMUEN,
};

use crate::bench::{
    adopted, host_changes, invalidates, one_device, resume, start, statistic, streams, two_devices,
    update, viommu, Prepared,
};

const TRANSLATED: [(&str, On); 2] = [
    ("d0", On::Nested(ste::FIRST)),
    ("d1", On::Nested(ste::SECOND)),
];

#[test]
fn live_update_adopts_devices_without_touching_host() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let (users_saw, objects) = (streams(&old), viommu(&old.journal()));
    old.mark();
    let new = update(&old, two_devices);
    assert_eq!(host_changes(&old), [""; 0], "by the live update");
    old.finish();
    assert_eq!(streams(&new), users_saw);
    assert_eq!(statistic(&new, "attach", "adopted"), 2);
    new.expect("after the old QEMU's end", &TRANSLATED);
    let smmu = adopted(&new);
    invalidates(&new, &smmu, objects);
    // calls that change nothing make no call
    smmu.install(sid(1), ste::FIRST);
    assert_eq!(host_changes(&new), [""; 0], "by the same STE");
    new.finish();
}

#[test]
fn live_updated_guest_changes_its_translation() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let new = update(&old, two_devices);
    old.finish();
    let smmu = adopted(&new);
    new.mark();
    smmu.install(sid(1), ste::SECOND);
    new.expect(
        "configured",
        &[("d0", On::Nested(ste::SECOND)), TRANSLATED[1]],
    );
    // the adopted HWPT is destroyed by its new owner
    assert_eq!(
        new.changes(),
        ["HWPT_ALLOC nested", "DESTROY ", "ATTACH nested"]
    );
    smmu.disable(SMMUEN);
    let bypass = [("d0", On::Bypass), ("d1", On::Bypass)];
    new.expect("GBPA decides", &bypass);
    smmu.enable(SMMUEN);
    new.machine().system_reset();
    new.expect("after a reset", &bypass);
    new.finish();
}

/// The kernel destroys objects with the last descriptor of their file only.
#[test]
fn killed_old_qemu_leaves_devices_to_new_one() {
    let old = start(two_devices);
    old.translating(&[ste::FIRST, ste::SECOND]);
    let id = viommu(&old.journal());
    let new = update(&old, two_devices);
    // without a last word
    drop(old);
    new.expect("after the old QEMU's end", &TRANSLATED);
    let smmu = adopted(&new);
    invalidates(&new, &smmu, id);
    new.expect("after a command", &TRANSLATED);
    assert_eq!(viommu(&new.journal()), id);
    new.finish();
}

#[test]
fn killed_new_qemu_leaves_devices_to_old_one() {
    let old = start(two_devices);
    let smmu = old.translating(&[ste::FIRST, ste::SECOND]);
    let id = viommu(&old.journal());
    old.mark();
    // before and after the state has come
    drop(Prepared::beside(&old, two_devices));
    resume(&old);
    drop(Prepared::beside(&old, two_devices).stop(&old));
    resume(&old);
    assert_eq!(host_changes(&old), [""; 0]);
    old.expect("after the new QEMUs' end", &TRANSLATED);
    invalidates(&old, &smmu, id);
    smmu.install(sid(1), ste::SECOND);
    old.expect("configured", &[("d0", On::Nested(ste::SECOND))]);
    let finished = old.end();
    // QEMU's own, about the one that has not asked for the state
    let lines = finished.error_lines();
    assert!(
        lines
            .iter()
            .all(|line| line.contains("ram_save_setup failed")),
        "{finished}"
    );
}

/// Each new QEMU becomes the old one of the next live update.
#[test]
fn devices_are_adopted_again_and_again() {
    let mut bench = start(one_device);
    bench.translating(&[ste::FIRST]);
    let id = viommu(&bench.journal());
    bench.mark();
    for turn in 0..3 {
        let new = update(&bench, one_device);
        assert_eq!(host_changes(&bench), [""; 0], "turn {turn}");
        bench.finish();
        let smmu = adopted(&new);
        invalidates(&new, &smmu, id);
        new.mark();
        bench = new;
    }
    let updated = adopted(&bench);
    updated.install(sid(1), ste::SECOND);
    bench.expect("configured", &[("d0", On::Nested(ste::SECOND))]);
    bench.finish();
}

/// The guest's commands had no effect on the host before it had a vIOMMU, in whichever QEMU.
#[test]
fn first_stage1_after_live_update_invalidates_everything() {
    let old = start(one_device);
    old.smmu();
    let new = update(&old, one_device);
    old.finish();
    let smmu = adopted(&new);
    smmu.write_ste(sid(1), ste::FIRST);
    new.mark();
    smmu.enable(SMMUEN);
    new.expect("by its STE", &TRANSLATED[..1]);
    assert_eq!(new.journal().batches(), [[TLBI_NSNH_ALL]]);
    assert_eq!(
        new.journal().order(),
        ["VDEVICE_ALLOC", "HWPT_INVALIDATE", "HWPT_ALLOC", "ATTACH"]
    );
    new.finish();
}

/// Devices that bypass, and that abort.
#[test]
fn live_update_adopts_shared_hwpts() {
    for enables in [false, true] {
        let old = start(two_devices);
        let smmu = old.smmu();
        if enables {
            smmu.enable(SMMUEN);
            smmu.install(sid(2), ste::BYPASS);
        }
        let d0 = if enables { On::Abort } else { On::Bypass };
        let attached = [("d0", d0), ("d1", On::Bypass)];
        old.expect("before", &attached);
        let users_saw = streams(&old);
        old.mark();
        let new = update(&old, two_devices);
        assert_eq!(host_changes(&old), [""; 0], "{enables}");
        assert_eq!(streams(&new), users_saw, "{enables}");
        old.finish();
        new.expect("after", &attached);
        let updated = adopted(&new);
        updated.enable(SMMUEN);
        updated.install(sid(1), ste::FIRST);
        new.expect("configured", &[("d0", On::Nested(ste::FIRST))]);
        new.finish();
    }
}
