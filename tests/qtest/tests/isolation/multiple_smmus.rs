// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Several SMMUs in the guest and in the host.

use smmuv3_qtest::{
    command,
    machine::RAM,
    smmu::{bases, SMMUEN},
    until, Smmu,
};

use crate::{
    bench::{prepare, sid, ste, vfio_pci, Bench, Ecam, Guest, Setup, EXPLICIT, QUEUE, TABLE},
    journal::On,
};

/// Returns a machine with "d0" behind the guest's first SMMU and the host's
/// "a", and "d1" behind the second and "b".
fn two_smmus() -> Bench {
    let mut setup = Setup::on_host("smmu a\nsmmu b", EXPLICIT)
        .assign("d0", 1)
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(&format!(
            "arm-smmuv3,id=smmuv3.2,primary-bus=pcie.2,{EXPLICIT}"
        ))
        .device("pcie-root-port,id=far,bus=pcie.2,addr=1,chassis=9");
    let fd = setup.spare("d1", "b");
    setup.device(&vfio_pci("d1", fd, "far")).start()
}

/// `StreamID` of "d1".
const FAR: u32 = 0x1100;
/// A table that includes `FAR` has 2^13 entries.
const FAR_TABLE: u64 = RAM + 0x40_0000;

#[track_caller]
fn smmus(bench: &Bench) -> [Smmu<'_>; 2] {
    bench.number_buses();
    Ecam::of(bench.machine()).number(16, 1 << 3, 17);
    let addresses: [u64; 2] = bases(bench.machine()).try_into().expect("two SMMUs");
    let [first, second] = addresses.map(|base| Smmu::at(bench.machine(), base));
    prepare(&first, QUEUE, TABLE);
    bench.machine().fill_memory(FAR_TABLE, 64 << 13, 0);
    second.setup_queue(QUEUE + 0x1_0000, 8);
    second.setup_stream_table(FAR_TABLE, 13);
    [first, second]
}

#[test]
fn two_smmus_attach_only_their_devices() {
    let bench = two_smmus();
    let [first, second] = smmus(&bench);
    let stage1 = ste::stage1(0x4100_0000);
    bench.expect("at start", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    first.enable(SMMUEN);
    bench.expect(
        "the first is enabled",
        &[("d0", On::Abort), ("d1", On::Bypass)],
    );
    second.write_ste(FAR, stage1);
    second.enable(SMMUEN);
    bench.expect(
        "the second is enabled",
        &[("d0", On::Abort), ("d1", On::Nested(stage1))],
    );
    first.install(sid(1), ste::BYPASS);
    bench.expect(
        "d0 is configured",
        &[("d0", On::Bypass), ("d1", On::Nested(stage1))],
    );
    first.install(FAR, ste::ABORT);
    bench.expect(
        "not its stream",
        &[("d0", On::Bypass), ("d1", On::Nested(stage1))],
    );
    second.disable(SMMUEN);
    bench.expect(
        "the second is disabled",
        &[("d0", On::Bypass), ("d1", On::Bypass)],
    );
    bench.machine().system_reset();
    bench.expect("after reset", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    bench.finish();
}

#[test]
fn invalidations_reach_only_their_smmu() {
    let bench = two_smmus();
    let [first, second] = smmus(&bench);
    bench.mark();
    first.commands(&[command::tlbi_nh_asid(3)]);
    let journal = |smmu: &str| bench.journal().issued(smmu).len();
    assert_eq!((journal("a"), journal("b")), (1, 0));
    second.commands(&[command::tlbi_nh_asid(3)]);
    assert_eq!((journal("a"), journal("b")), (1, 1));
    bench.finish();
}

#[test]
fn hot_plug_behind_second_host_smmu_is_refused() {
    let mut setup = Setup::on_host("smmu a\nsmmu b", EXPLICIT)
        .assign("d0", 1)
        .slot(2);
    let fd = setup.spare("d1", "b");
    let bench = setup.start();
    let smmu = bench.smmu();
    bench.expect("before", &[("d0", On::Bypass)]);
    bench
        .plug("d1", fd, 2)
        .expect_err("it is behind another SMMU of the host");
    bench.expect("d1 is refused", &[("d0", On::Bypass), ("d1", On::Nothing)]);
    smmu.enable(SMMUEN);
    bench.expect("d0 works", &[("d0", On::Abort), ("d1", On::Nothing)]);
    bench.finish();
}

#[test]
fn two_host_smmus_behind_one_fail_startup() {
    let mut setup = Setup::on_host("smmu a\nsmmu b", EXPLICIT)
        .assign("d0", 1)
        .slot(2);
    let fd = setup.spare("d1", "b");
    let refusal = setup.device(&vfio_pci("d1", fd, "slot2")).refuse();
    assert!(refusal.refusal().contains("d1"));
}

#[test]
fn unexpected_errno_aborts_only_devices_of_its_smmu() {
    let bench = two_smmus();
    let [first, second] = smmus(&bench);
    let stage1 = ste::stage1(0x4100_0000);
    second.write_ste(FAR, stage1);
    second.enable(SMMUEN);
    bench.script("fail HWPT_INVALIDATE errno=EINVAL count=2");
    first.push(&[command::TLBI_NSNH_ALL, command::SYNC]);
    first.ring();
    until("a command error", || first.error().then_some(()));
    bench.expect(
        "failed closed",
        &[("d0", On::Abort), ("d1", On::Nested(stage1))],
    );
    assert!(!second.error());
    second.commands(&[command::TLBI_NSNH_ALL]);
    bench.finish();
}

#[test]
fn replaced_host_smmu_brings_its_erratum() {
    let mut setup = Setup::on_host("smmu a\nsmmu b flags=1", EXPLICIT).assign("d0", 1);
    let fd = setup.spare("d1", "b");
    let bench = setup.start();
    let smmu = bench.smmu();
    bench.mark();
    smmu.commands(&[command::TLBI_NSNH_ALL]);
    assert_eq!(bench.journal().batches().len(), 1, "a has no erratum");
    bench.unplug("d0", 1);
    bench.plug("d1", fd, 1).expect("plugged");
    bench.expect("another host SMMU", &[("d1", On::Bypass)]);
    bench.mark();
    smmu.commands(&[command::TLBI_NSNH_ALL]);
    assert_eq!(bench.journal().batches().len(), 2, "b has");
    bench.finish();
}

/// Returns a machine with "d0" and "d1" behind two SMMUs of the guest and one
/// of the host.
fn two_on_one(script: &str) -> Setup {
    let mut setup = Setup::on_host(script, EXPLICIT)
        .assign("d0", 1)
        .device("pxb-pcie,id=pcie.2,bus_nr=16,bus=pcie.0")
        .device(&format!(
            "arm-smmuv3,id=smmuv3.2,primary-bus=pcie.2,{EXPLICIT}"
        ))
        .device("pcie-root-port,id=far,bus=pcie.2,addr=1,chassis=9");
    let fd = setup.spare("d1", "a");
    setup.device(&vfio_pci("d1", fd, "far"))
}

/// Returns the VMIDs of the commands with this opcode that the host issued.
fn vmids(bench: &Bench, opcode: u8) -> Vec<u16> {
    let journal = bench.journal();
    let commands = journal.issued("a").concat().into_iter();
    commands
        .filter(|words| words[0] as u8 == opcode)
        .map(|words| (words[0] >> 32) as u16)
        .collect()
}

#[test]
fn smmus_on_one_host_smmu_have_distinct_vmids() {
    let bench = two_on_one("smmu a").start();
    let [first, second] = smmus(&bench);
    first.write_ste(sid(1), ste::FIRST);
    first.enable(SMMUEN);
    second.write_ste(FAR, ste::SECOND);
    second.enable(SMMUEN);
    bench.expect(
        "both translate",
        &[
            ("d0", On::Nested(ste::FIRST)),
            ("d1", On::Nested(ste::SECOND)),
        ],
    );
    bench.mark();
    first.commands(&[command::tlbi_nh_asid(3)]);
    second.commands(&[command::tlbi_nh_asid(3)]);
    let vmids = vmids(&bench, 0x11);
    assert_eq!(vmids.len(), 2);
    assert_ne!(
        vmids[0], vmids[1],
        "ASID 3 of one is not ASID 3 of the other"
    );
    let objects = [("ioas", 1), ("s2", 2), ("viommu", 2)];
    for (kind, count) in objects {
        assert_eq!(bench.journal().objects().get(kind), Some(&count), "{kind}");
    }
    bench.finish();
}

#[test]
fn shared_vmid_is_refused() {
    let script = "smmu a\nfail HWPT_ALLOC kind=s2 errno=ENOSPC skip=1";
    let refusal = two_on_one(script).refuse();
    let text = refusal.refusal();
    assert!(
        text.contains("smmuv3.1") && text.contains("smmuv3.2"),
        "{text}"
    );
}

#[test]
fn unplug_releases_vfio_stage2() {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1);
    let fd = setup.spare("d1", "a");
    let bench = setup.start();
    bench.unplug("d0", 1);
    bench.plug("d1", fd, 1).expect("plugged");
    assert_eq!(bench.journal().objects().get("s2"), Some(&1));
    bench.finish();
}
