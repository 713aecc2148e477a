// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A destination attaches the devices as the loaded registers and tables say, before they run.

use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Ecam, Guest, Setup, EXPLICIT, GBPA_ABORT, TABLE},
    command::{self, SYNC, TLBI_NSNH_ALL},
    journal::On,
    machine::RAM,
    smmu::{cerror, reg, EVENTQEN, SMMUEN},
    until, Smmu,
};

use super::{boot, goes_on, load, machine, saved, start, Migration, BOOTED, P2P};

/// Returns a QEMU that has loaded what `run` has made of a guest with "d0" in slot 1, and not
/// started it yet.
#[track_caller]
fn loaded(run: impl FnOnce(&Bench)) -> Bench {
    let one = || Setup::new(EXPLICIT).assign_migratable("d0", 1, P2P);
    let source = one().start();
    run(&source);
    let stream = saved(source);
    let target = one().incoming().start();
    load(&stream, &target);
    target
}

/// Checks that the device was attached as the guest has said for all the time that it ran, and is
/// attached to `on`.
#[track_caller]
fn runs_on(target: &Bench, on: On) {
    target.expect("loaded", &[("d0", on)]);
    start(target);
    target.expect_only_as_configured("started");
    target.expect("started", &[("d0", on)]);
}

#[test]
fn migrated_device_runs_on_loaded_stage1() {
    let target = loaded(|source| {
        source.translating(&[ste::FIRST]);
    });
    let journal = target.journal();
    assert_eq!(
        journal.migration_states("d0"),
        ["RUNNING_P2P", "STOP", "RESUMING"]
    );
    // stale translations of another guest with this VMID go before stage 1 comes
    let order = journal.order();
    assert_eq!(
        order,
        ["VDEVICE_ALLOC", "HWPT_INVALIDATE", "HWPT_ALLOC", "ATTACH"]
    );
    assert_eq!(journal.batches(), [[TLBI_NSNH_ALL]]);
    let stream_id = journal.device("d0").and_then(|device| device.sid);
    assert_eq!(stream_id, Some(sid(1).into()), "the guest's bus numbers");
    drop(journal);
    runs_on(&target, On::Nested(ste::FIRST));
    let states = [
        "RUNNING_P2P",
        "STOP",
        "RESUMING",
        "STOP",
        "RUNNING_P2P",
        "RUNNING",
    ];
    assert_eq!(target.journal().migration_states("d0"), states);
    goes_on(&target, "after the start");
    target.finish_migratable();
}

#[test]
fn migrated_device_runs_on_loaded_bypass_or_abort() {
    for (entry, on) in [
        (ste::BYPASS, On::Bypass),
        (ste::ABORT, On::Abort),
        (ste::INVALID, On::Abort),
        (ste::STAGE2, On::Abort),
    ] {
        let target = loaded(|source| {
            let smmu = source.translating(&[ste::FIRST]);
            smmu.install(sid(1), entry);
        });
        runs_on(&target, on);
        target.finish_migratable();
    }
}

#[test]
fn migrated_device_runs_on_loaded_gbpa() {
    for (gbpa, on) in [(0, On::Bypass), (GBPA_ABORT, On::Abort)] {
        let target = loaded(|source| {
            let smmu = source.smmu();
            smmu.write_ste(sid(1), ste::FIRST);
            smmu.gbpa(gbpa);
        });
        runs_on(&target, on);
        target.finish_migratable();
    }
}

/// An STE that no memory answers for is abort, and no reason to refuse the guest.
#[test]
fn migrated_device_with_unreadable_table_is_aborted() {
    let target = loaded(|source| {
        let smmu = source.smmu();
        smmu.setup_stream_table(0x0e00_0000_0000, 12);
        smmu.enable(SMMUEN);
        source.expect("no table", &[("d0", On::Abort)]);
    });
    target.expect("no table", &[("d0", On::Abort)]);
    target.finish_migratable();
}

/// A device without peer-to-peer states is started and stopped in one step.
#[test]
fn migrated_device_without_p2p_runs_as_configured() {
    let one = || Setup::new(EXPLICIT).assign_migratable("d0", 1, "stop-copy");
    let (source, target) = (one().start(), one().incoming().start());
    source.translating(&[ste::FIRST]);
    Migration {
        source: &source,
        target: &target,
    }
    .succeeds();
    let states = ["STOP", "RESUMING", "STOP", "RUNNING"];
    assert_eq!(target.journal().migration_states("d0"), states);
    goes_on(&target, "at the target");
    for bench in [source, target] {
        bench.finish_migratable();
    }
}

/// A device that is saved while it runs.
#[test]
fn migrated_device_with_precopy_runs_as_configured() {
    let one = || Setup::new(EXPLICIT).assign_migratable("d0", 1, "stop-copy,p2p,precopy");
    let (source, target) = (one().start(), one().incoming().start());
    source.translating(&[ste::FIRST]);
    source.mark();
    Migration {
        source: &source,
        target: &target,
    }
    .succeeds();
    let states = ["PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP"];
    assert_eq!(source.journal().migration_states("d0"), states);
    source.expect_only_as_configured("at the source");
    goes_on(&target, "at the target");
    for bench in [source, target] {
        bench.finish_migratable();
    }
}

/// From one host to another, and on to a third one.
#[test]
fn guest_with_assigned_devices_migrates_twice() {
    let mut source = machine().start();
    boot(&source);
    for station in 1..=2 {
        source.mark();
        let target = machine().incoming().start();
        Migration {
            source: &source,
            target: &target,
        }
        .succeeds();
        source.expect_only_as_configured("at the source");
        target.expect(&format!("station {station}"), &BOOTED);
        goes_on(&target, "at the target");
        source.finish_migratable();
        source = target;
    }
    source.finish_migratable();
}

/// The destination has other numbers for its buses until their state is loaded. They are exchanged
/// by the guest, so that each device has the other's `StreamID` of a first boot.
#[test]
fn migrated_devices_keep_exchanged_stream_ids() {
    let source = machine().start();
    boot(&source);
    let ecam = Ecam::of(source.machine());
    for (slot, bus) in [(1, 20), (2, 9), (1, 10)] {
        ecam.number(8, slot << 3, bus);
    }
    let exchanged = [
        ("d0", On::Nested(ste::SECOND)),
        ("d1", On::Nested(ste::FIRST)),
    ];
    source.expect("exchanged", &exchanged);
    let stream = super::Stream::copy(source.machine());
    let target = machine().incoming().start();
    load(&stream, &target);
    target.expect("loaded", &exchanged);
    for (name, slot) in [("d0", 2), ("d1", 1)] {
        let device = target.journal().device(name).expect("a device");
        assert_eq!(device.sid, Some(sid(slot).into()), "{name}");
    }
    start(&target);
    target.expect("started", &exchanged);
}

/// QEMU loads other devices after the SMMU. The memory of one with a table in it is mapped by then,
/// at the latest when the machine starts, and the devices behind the SMMU run only after that.
#[test]
fn table_in_memory_of_device_is_read_at_the_start() {
    const BAR: u64 = 0x1000_0000;
    let with_memory = || {
        Setup::new(EXPLICIT)
            .args(["-object", "memory-backend-ram,id=shared,size=1M"])
            .device("ivshmem-plain,memdev=shared,master=on,bus=pcie.0,addr=3")
            .assign_migratable("d0", 1, P2P)
    };
    let source = with_memory().start();
    source.number_buses();
    let function = Ecam::of(source.machine()).base() + (3 << 15);
    let memory = source.machine();
    memory.write32(function + 0x18, BAR as u32);
    memory.write32(function + 0x1c, 0);
    memory.write_sized(function + 4, 2, 2);
    let smmu = Smmu::find(source.machine());
    smmu.setup_queue(RAM, 8);
    smmu.setup_stream_table(BAR, 12);
    smmu.enable(SMMUEN);
    smmu.install(sid(1), ste::FIRST);
    source.expect("from the BAR", &[("d0", On::Nested(ste::FIRST))]);
    let stream = saved(source);

    let target = with_memory().incoming().start();
    load(&stream, &target);
    start(&target);
    target.expect_only_as_configured("started");
    target.expect("started", &[("d0", On::Nested(ste::FIRST))]);
    target.finish_migratable();
}

/// Commands that the source has left in the queue, an illegal one among them, and an error that
/// the guest has not acknowledged.
#[test]
fn commands_left_in_the_queue_reach_the_new_host() {
    const BEFORE: usize = 50;
    let target = loaded(|source| {
        let smmu = source.translating(&[ste::FIRST]);
        smmu.fails(command::RESERVED);
        source.machine().qmp("stop", serde_json::json!({}));
        smmu.acknowledge();
        let address = |page: usize| command::tlbi_nh_va(1, (page as u64) << 20);
        let mut commands: Vec<_> = (0..100).map(address).collect();
        commands[BEFORE] = command::RESERVED;
        smmu.write_slots(smmu.cons(), &[SYNC]);
        smmu.push(&commands);
        smmu.push(&[SYNC]);
        source.mark();
        smmu.ring();
        assert_eq!(source.journal().order(), [""; 0], "executed while stopped");
    });
    let smmu = Smmu::find(target.machine());
    let left = smmu.cons();
    target.mark();
    assert_eq!(target.journal().order(), [""; 0]);
    start(&target);
    until("the error", || smmu.error().then_some(()));
    assert_eq!(smmu.cons_err(), cerror::ILL);
    // behind the two commands of the first error
    assert_eq!(smmu.cons() as usize, left as usize + 2 + BEFORE);
    let executed: usize = target.journal().batches().iter().map(Vec::len).sum();
    assert_eq!(executed, BEFORE, "commands before the illegal one");
    smmu.adopt_queue();
    smmu.write_slots(smmu.cons(), &[SYNC]);
    smmu.acknowledge();
    smmu.wait_consumed();
    let all: usize = target.journal().batches().iter().map(Vec::len).sum();
    assert_eq!(all, 99);
    target.finish_migratable();
}

#[test]
fn active_gerror_of_source_stays_active() {
    let target = loaded(|source| {
        let smmu = source.translating(&[ste::FIRST]);
        smmu.fails(command::RESERVED);
    });
    let smmu = Smmu::find(target.machine());
    start(&target);
    assert!(smmu.error());
    assert_eq!(smmu.cons_err(), cerror::ILL);
    smmu.adopt_queue();
    smmu.write_slots(smmu.cons(), &[SYNC]);
    smmu.acknowledge();
    smmu.wait_consumed();
    target.finish_migratable();
}

/// The ATC of the device behind the destination is empty: neither the quarantine nor the report of
/// what has failed goes there.
#[test]
fn quarantine_and_pending_atc_error_stay_at_the_source() {
    let target = loaded(|source| {
        let smmu = source.translating(&[ste::FIRST]);
        source.script("fail HWPT_INVALIDATE errno=ETIMEDOUT count=2");
        // without a CMD_SYNC, which would report it
        smmu.submit(&[command::atc_inv_all(sid(1))]);
        source.script("clear");
        source.expect("quarantined", &[("d0", On::Abort)]);
    });
    runs_on(&target, On::Nested(ste::FIRST));
    let smmu = Smmu::find(target.machine());
    smmu.adopt_queue();
    smmu.commands(&[]);
    target.finish_migratable();
}

/// The host's vEVENTQ is opened for the loaded EVENTQEN. A host that has none does not stop the
/// guest.
#[test]
fn migrated_guest_has_veventq_unless_host_lacks_it() {
    for refuses in [false, true] {
        let one = || Setup::new(EXPLICIT).assign_migratable("d0", 1, P2P);
        let source = one().start();
        let smmu = source.translating(&[ste::FIRST]);
        smmu.write64(reg::EVENTQ_BASE, (TABLE + 0x10_0000) | 4);
        smmu.enable(EVENTQEN);
        let stream = saved(source);
        let mut setup = one().incoming();
        if refuses {
            setup = setup.script("fail VEVENTQ_ALLOC errno=EOPNOTSUPP");
        }
        let target = setup.start();
        load(&stream, &target);
        let queues = target.journal().objects().get("veventq").copied();
        assert_eq!(queues.is_some(), !refuses);
        runs_on(&target, On::Nested(ste::FIRST));
        let messages = target.messages();
        assert_eq!(messages.len(), usize::from(refuses), "{messages:?}");
        target.end();
    }
}
