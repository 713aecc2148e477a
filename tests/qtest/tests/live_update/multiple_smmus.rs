// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Live update of a guest with two SMMUs: each adopts its own objects.

use smmuv3_qtest::{
    assigned::{prepare, sid, ste, vfio_pci, Bench, Ecam, Guest, Setup, EXPLICIT, QUEUE, TABLE},
    command,
    journal::On,
    machine::RAM,
    smmu::{bases, reg, SMMUEN},
    update::field::{IS_STAGE2_VFIOS, STAGE2_ID},
    Smmu,
};

use crate::{
    bench::{host_changes, resume, update, Prepared},
    refusals::has_reported,
};

/// `StreamID` of "d1".
const FAR: u32 = 0x1100;
/// A table that includes `FAR` has 2^13 entries.
const FAR_TABLE: u64 = RAM + 0x40_0000;

/// Adds two SMMUs of the guest, with "d0" behind the first one and "d1" behind the second one; in
/// the host "d1" is behind `far`.
fn two_smmus(setup: Setup, far: &str) -> Setup {
    let mut setup = setup
        .smmu(EXPLICIT)
        .assign("d0", 1)
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(&format!(
            "arm-smmuv3,id=smmuv3.2,primary-bus=pcie.2,{EXPLICIT}"
        ))
        .device("pcie-root-port,id=far,bus=pcie.2,addr=1,chassis=9");
    let fd = setup.device_fd("d1", far);
    setup.device(&vfio_pci("d1", fd, "far"))
}

/// Starts such a guest, with both devices translated.
#[track_caller]
fn start(far: &str) -> Bench {
    let bench = two_smmus(Setup::updatable("smmu a\nsmmu b"), far).start();
    bench.number_buses();
    Ecam::of(bench.machine()).number(16, 1 << 3, 17);
    let [first, second] = smmus(&bench);
    prepare(&first, QUEUE, TABLE);
    bench.machine().fill_memory(FAR_TABLE, 64 << 13, 0);
    second.setup_queue(QUEUE + 0x1_0000, 8);
    second.setup_stream_table(FAR_TABLE, 13);
    first.write_ste(sid(1), ste::FIRST);
    second.write_ste(FAR, ste::SECOND);
    for smmu in [first, second] {
        smmu.enable(SMMUEN);
    }
    bench.expect("before", &TRANSLATED);
    bench
}

const TRANSLATED: [(&str, On); 2] = [
    ("d0", On::Nested(ste::FIRST)),
    ("d1", On::Nested(ste::SECOND)),
];

#[track_caller]
fn smmus(bench: &Bench) -> [Smmu<'_>; 2] {
    let addresses: [u64; 2] = bases(bench.machine()).try_into().expect("two SMMUs");
    addresses.map(|base| Smmu::at(bench.machine(), base))
}

/// Submits a command to each SMMU. Returns the vIOMMUs that have got them.
#[track_caller]
fn viommus(bench: &Bench) -> Vec<u64> {
    bench.mark();
    for smmu in smmus(bench) {
        assert_ne!(smmu.read(reg::CR0) & SMMUEN, 0);
        smmu.adopt_queue();
        smmu.commands(&[command::tlbi_nh_asid(3)]);
    }
    let calls = bench.journal().calls("HWPT_INVALIDATE");
    calls.iter().map(|call| call.number("viommu")).collect()
}

/// On two SMMUs of the host, and on one: there the second has a stage 2 of its own.
#[test]
fn live_update_adopts_devices_of_two_smmus() {
    for far in ["b", "a"] {
        let old = start(far);
        let before = viommus(&old);
        assert_eq!(before.len(), 2);
        assert_ne!(before[0], before[1]);
        old.mark();
        let new = update(&old, |setup| two_smmus(setup, far));
        assert_eq!(host_changes(&old), [""; 0], "{far}");
        old.finish();
        assert_eq!(viommus(&new), before, "{far}");
        new.expect("after", &TRANSLATED);
        let [first, second] = smmus(&new);
        for smmu in [&first, &second] {
            smmu.adopt_queue();
        }
        second.install(FAR, ste::FIRST);
        first.install(sid(1), ste::ABORT);
        new.expect(
            "configured",
            &[("d0", On::Abort), ("d1", On::Nested(ste::FIRST))],
        );
        new.finish();
    }
}

/// The second SMMU has the first one's stage 2: they would not be able to invalidate apart.
#[test]
fn live_update_with_stage2_of_other_smmu_is_refused() {
    let old = start("a");
    let before = viommus(&old);
    let stage2 = {
        let journal = old.journal();
        let mut all: Vec<u64> = journal.all("s2").map(|line| line.number("id")).collect();
        all.sort_unstable();
        all[0] as u32
    };
    old.mark();
    let (new, mut state) = Prepared::beside(&old, |setup| two_smmus(setup, "a")).stop(&old);
    assert_eq!(state.subsections().len(), 2);
    state.replace(1, STAGE2_ID, &stage2.to_be_bytes());
    state.replace(1, IS_STAGE2_VFIOS, &[1]);
    state.send(new.machine()).expect_err("it was accepted");
    let finished = new.end_without_statistics();
    has_reported(
        "smmuv3.2",
        &finished,
        "the stage 2 of its assigned devices is that of 'smmuv3.1' here: put the same devices behind each arm-smmuv3",
    );
    assert_eq!(host_changes(&old), [""; 0], "by the refused live update");
    resume(&old);
    assert_eq!(viommus(&old), before);
    old.expect("the guest continues", &TRANSLATED);
    old.finish();
}
