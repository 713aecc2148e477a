// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Faults of assigned devices, from the host to the guest's Event queue.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::json;
use smmuv3_qtest::{
    command::{SYNC, TLBI_NSNH_ALL},
    machine::RAM,
    smmu::{irq, reg, EVENTQEN, SMMUEN},
    until, Smmu,
};

use crate::{
    bench::{sid, ste, Bench, Guest, Setup, EXPLICIT, NOWHERE},
    journal::On,
};

/// Guest physical address of the Event queue, and its size.
const QUEUE: u64 = RAM + 0x80_0000;
const LOG2: u32 = 2;

/// `IRQ_CTRL.EVENTQ_IRQEN`
const EVENTQ_IRQEN: u32 = 1 << 2;
/// `GERROR.EVENTQ_ABT_ERR`
const EVENTQ_ABT_ERR: u32 = 1 << 2;
/// `EVENTQ_PROD.OVFLG`
const OVERFLOW: u32 = 1 << 31;
/// `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`
const LOST: u32 = 1;

/// Returns an `F_TRANSLATION` (§7.3.12) of a page.
const fn fault(page: u64) -> [u64; 4] {
    [0x10 | ((sid(1) as u64) << 32), 0, page << 12, 0]
}

/// The test in the role of the host's SMMU.
pub struct Faults {
    socket: UnixDatagram,
    sequence: u32,
}

impl Faults {
    pub fn new() -> Self {
        let socket = UnixDatagram::unbound().expect("a socket");
        Self {
            socket,
            sequence: 0,
        }
    }

    /// Makes one read return these entries: flags, sequence number, record.
    #[track_caller]
    fn send_together(&self, bench: &Bench, entries: &[(u32, u32, Vec<u64>)]) {
        self.send_to(&Self::path(bench), entries);
    }

    #[track_caller]
    fn send_to(&self, path: &Path, entries: &[(u32, u32, Vec<u64>)]) {
        let mut bytes = Vec::new();
        for (flags, sequence, record) in entries {
            bytes.extend([flags, sequence].iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(record.iter().flat_map(|word| word.to_le_bytes()));
        }
        self.socket.send_to(&bytes, path).expect("an event");
        // Linux returns 0, not EAGAIN, when there is nothing more to read.
        // After a failed read QEMU has closed the queue by now.
        let _ = self.socket.send_to(&[], path);
    }

    #[track_caller]
    fn path(bench: &Bench) -> PathBuf {
        let id = bench.journal().id("veventq").expect("a queue in the host");
        bench.file(&format!("veventq-iommufd0-{id}"))
    }

    #[track_caller]
    fn send(&self, bench: &Bench, flags: u32, sequence: u32, record: &[u64]) {
        self.send_together(bench, &[(flags, sequence, record.to_vec())]);
    }

    /// Wakes QEMU for a read that returns nothing, after which the file is no
    /// longer readable.
    #[track_caller]
    fn wake_for_nothing(&self, bench: &Bench) {
        let path = Self::path(bench);
        self.socket.send_to(&[], path).expect("nothing");
    }

    #[track_caller]
    pub fn report(&mut self, bench: &Bench, page: u64) {
        self.send(bench, 0, self.sequence, &fault(page));
        self.sequence += 1;
    }

    #[track_caller]
    fn lose(&self, bench: &Bench) {
        self.send(bench, LOST, self.sequence, &[]);
    }
}

/// Attaches a device to stage 1 and enables the Event queue.
#[track_caller]
pub fn with_eventq(bench: &Bench) -> Smmu<'_> {
    let smmu = bench.smmu();
    open_queue(&smmu, QUEUE);
    smmu.enable(SMMUEN);
    let stage1 = ste::stage1(0x4100_0000);
    smmu.install(sid(1), stage1);
    bench.expect("stage 1", &[("d0", On::Nested(stage1))]);
    smmu
}

#[track_caller]
fn open_queue(smmu: &Smmu<'_>, base: u64) {
    smmu.write64(reg::EVENTQ_BASE, base | u64::from(LOG2));
    smmu.write(reg::EVENTQ_PROD, 0);
    smmu.write(reg::EVENTQ_CONS, 0);
    smmu.enable(EVENTQEN);
}

#[track_caller]
pub fn wait_prod(smmu: &Smmu<'_>, value: u32) {
    until("an event", || {
        (smmu.read(reg::EVENTQ_PROD) == value).then_some(())
    });
}

/// Returns the page of the record in a slot.
#[track_caller]
fn page(smmu: &Smmu<'_>, slot: u64) -> u64 {
    let at = QUEUE + 32 * slot;
    assert_eq!(smmu.machine().read64(at), fault(0)[0], "type and StreamID");
    smmu.machine().read64(at + 16) >> 12
}

#[test]
fn host_faults_are_recorded_with_guest_stream_id() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    for number in 1..=3 {
        faults.report(&bench, number);
    }
    wait_prod(&smmu, 3);
    assert_eq!([0, 1, 2].map(|slot| page(&smmu, slot)), [1, 2, 3]);
    assert_eq!(
        bench.journal().device("d0").and_then(|device| device.sid),
        Some(sid(1).into())
    );
    bench.finish();
}

/// The host reports the event while QEMU executes a preceding command, before
/// QEMU has polled the vEVENTQ. The main loop records it soon after.
#[test]
fn host_fault_during_command_is_recorded_once() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    bench.script("fail HWPT_INVALIDATE delay_ms=400");
    for round in 1..=3 {
        let path = Faults::path(&bench);
        let prod = smmu.prod();
        smmu.push(&[TLBI_NSNH_ALL, SYNC]);
        let doorbells = [prod + 1, prod + 2].map(|at| (smmu.base() + reg::CMDQ_PROD, at));
        let faults = Faults {
            sequence: round - 1,
            ..Faults::new()
        };
        let host = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            faults.send_to(&path, &[(0, faults.sequence, fault(1).to_vec())]);
        });
        let recorded = smmu
            .machine()
            .write32_then_read32(&doorbells, smmu.base() + reg::EVENTQ_PROD);
        host.join().expect("the host");
        assert!((round - 1..=round).contains(&recorded), "{recorded}");
        wait_prod(&smmu, round);
        assert_eq!(page(&smmu, u64::from(round) - 1), 1);
        smmu.write(reg::EVENTQ_CONS, round);
    }
    bench.finish();
}

/// A doorbell makes no call of the host but that for its commands: a read of the
/// vEVENTQ would fail here, and close it.
#[test]
fn doorbell_does_not_read_veventq() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    bench.script("fail VEVENTQ_READ errno=EBADF");
    for _ in 0..3 {
        smmu.push(&[TLBI_NSNH_ALL, SYNC]);
        smmu.ring();
    }
    assert_eq!(queues(&bench), 1, "the vEVENTQ was read");
    // the host does fail
    Faults::new().report(&bench, 1);
    until("the end of the queue", || {
        (queues(&bench) == 0).then_some(())
    });
    let finished = bench.end();
    assert_eq!(finished.error_lines().len(), 1, "{finished}");
}

#[test]
fn host_fault_raises_irq_on_empty_eventq() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    smmu.intercept_irqs();
    smmu.write(reg::IRQ_CTRL, EVENTQ_IRQEN);
    let mut faults = Faults::new();
    faults.report(&bench, 1);
    wait_prod(&smmu, 1);
    assert_eq!(smmu.pulses()[irq::EVENTQ as usize], 1);
    smmu.write(reg::EVENTQ_CONS, 1);
    faults.report(&bench, 2);
    wait_prod(&smmu, 2);
    assert_eq!(smmu.pulses()[irq::EVENTQ as usize], 1);
    bench.finish();
}

#[test]
fn full_eventq_overflows_and_resumes_with_room() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    for number in 1..=6 {
        faults.report(&bench, number);
    }
    wait_prod(&smmu, OVERFLOW | (1 << LOG2));
    assert_eq!([0, 1, 2, 3].map(|slot| page(&smmu, slot)), [1, 2, 3, 4]);
    assert_eq!(
        smmu.read(reg::GERROR) & EVENTQ_ABT_ERR,
        0,
        "that is another error"
    );
    // room for all, and the overflow acknowledged
    smmu.write(reg::EVENTQ_CONS, OVERFLOW | (1 << LOG2));
    faults.report(&bench, 7);
    wait_prod(&smmu, OVERFLOW | (1 << LOG2) | 1);
    assert_eq!(page(&smmu, 0), 7);
    bench.finish();
}

#[test]
fn lost_host_events_toggle_ovflg() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    faults.report(&bench, 1);
    faults.lose(&bench);
    wait_prod(&smmu, OVERFLOW | 1);
    smmu.write(reg::EVENTQ_CONS, OVERFLOW | 1);
    // a gap in the sequence numbers: the host has lost events without a report
    faults.sequence += 5;
    faults.report(&bench, 2);
    faults.sequence += 5;
    faults.report(&bench, 3);
    wait_prod(&smmu, 3);
    assert_eq!([1, 2].map(|slot| page(&smmu, slot)), [2, 3]);
    bench.finish();
}

#[test]
fn veventq_sequence_wrap_is_no_loss() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    faults.sequence = i32::MAX as u32;
    faults.report(&bench, 1);
    faults.sequence = 0;
    faults.report(&bench, 2);
    wait_prod(&smmu, 2);
    bench.finish();
}

#[test]
fn host_fault_to_eventq_outside_ram_is_gerror() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    smmu.disable(EVENTQEN);
    open_queue(&smmu, NOWHERE);
    Faults::new().report(&bench, 1);
    until("EVENTQ_ABT_ERR", || {
        (smmu.read(reg::GERROR) & EVENTQ_ABT_ERR != 0).then_some(())
    });
    bench.finish();
}

/// Returns how many event queues the host has.
fn queues(bench: &Bench) -> usize {
    bench
        .journal()
        .objects()
        .get("veventq")
        .copied()
        .unwrap_or(0)
}

#[test]
fn veventq_exists_while_eventqen() {
    let bench = Bench::with_one_device();
    assert_eq!(queues(&bench), 0, "EVENTQEN=0");
    let smmu = with_eventq(&bench);
    assert_eq!(queues(&bench), 1);
    for _ in 0..3 {
        smmu.disable(EVENTQEN);
        assert_eq!(queues(&bench), 0, "EVENTQEN=0");
        smmu.enable(EVENTQEN);
        assert_eq!(queues(&bench), 1, "EVENTQEN=1");
    }
    bench.machine().system_reset();
    assert_eq!(queues(&bench), 0, "reset");
    with_eventq(&bench);
    assert_eq!(queues(&bench), 1, "the next boot");
    let mut faults = Faults::new();
    faults.report(&bench, 3);
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 3);
    bench.unplug("d0", 1);
    bench.expect_objects("the last device is gone", &[]);
    bench.finish();
}

/// Events that the host still holds then are not recorded later.
#[test]
fn eventqen_clear_discards_host_events() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    // the host has an event that QEMU has not read yet
    bench.script("fail VEVENTQ_READ errno=EAGAIN");
    Faults::new().report(&bench, 1);
    smmu.disable(EVENTQEN);
    bench.script("clear");
    smmu.enable(EVENTQEN);
    // a new queue, which starts to count at 0
    Faults::new().report(&bench, 2);
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 2);
    bench.finish();
}

/// A vEVENTQ that the host refuses to destroy is destroyed before the next one is
/// allocated.
#[test]
fn busy_veventq_is_destroyed_before_next() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    bench.script("fail DESTROY errno=EBUSY count=1");
    smmu.disable(EVENTQEN);
    assert_eq!(queues(&bench), 1, "it is busy");
    smmu.enable(EVENTQEN);
    assert_eq!(queues(&bench), 1, "another one");
    Faults::new().report(&bench, 1);
    wait_prod(&smmu, 1);
    bench.script("fail DESTROY errno=EBUSY count=1");
    smmu.disable(EVENTQEN);
    bench.unplug("d0", 1);
    bench.expect_objects("the last device is gone", &[]);
    bench.finish();
}

#[test]
fn interrupted_veventq_read_is_retried() {
    for errno in ["EINTR", "EAGAIN", "ENOMEM"] {
        let bench = Bench::with_one_device();
        let smmu = with_eventq(&bench);
        bench.script(&format!("fail VEVENTQ_READ errno={errno} count=3"));
        let mut faults = Faults::new();
        faults.report(&bench, 1);
        faults.report(&bench, 2);
        wait_prod(&smmu, 2);
        assert_eq!([0, 1].map(|slot| page(&smmu, slot)), [1, 2], "{errno}");
        bench.finish();
    }
}

/// It is opened again when the guest sets EVENTQEN the next time.
#[test]
fn unreadable_veventq_is_closed_until_eventqen() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    bench.script("fail VEVENTQ_READ errno=EIO count=1");
    Faults::new().report(&bench, 1);
    until("the end of the queue", || {
        (queues(&bench) == 0).then_some(())
    });
    bench.expect("as ever", &[("d0", On::Nested(ste::stage1(0x4100_0000)))]);
    smmu.disable(EVENTQEN);
    smmu.enable(EVENTQEN);
    Faults::new().report(&bench, 2);
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 2);
    let finished = bench.end();
    assert_eq!(finished.error_lines().len(), 1, "{finished}");
}

/// The queue is closed, because a file that stays readable without data would keep
/// the main loop busy.
#[test]
fn always_ready_empty_veventq_does_not_spin_qemu() {
    // an errno of 0, and the end of file
    for errno in [Some("EAGAIN"), None] {
        let bench = Bench::with_one_device();
        let smmu = with_eventq(&bench);
        match errno {
            Some(errno) => bench.script(&format!("fail VEVENTQ_READ errno={errno}")),
            None => bench.script("fail VEVENTQ_EMPTY"),
        }
        Faults::new().report(&bench, 1);
        until("the end of the queue", || {
            (queues(&bench) == 0).then_some(())
        });
        assert_eq!(smmu.read(reg::EVENTQ_PROD), 0);
        let finished = bench.end();
        assert_eq!(finished.error_lines().len(), 1, "{finished}");
    }
}

/// Returns the CPU time of QEMU, in ticks of the kernel: fields 14 and 15 of its `stat`.
#[track_caller]
fn cpu_ticks(bench: &Bench) -> u64 {
    let path = format!("/proc/{}/stat", bench.machine().pid());
    let text = fs::read_to_string(path).expect("QEMU's statistics");
    let (_, fields) = text.rsplit_once(") ").expect("a name");
    let fields = fields.split(' ').skip(11).take(2);
    fields.map(|it| it.parse::<u64>().expect("a number")).sum()
}

/// A queue that is opened while the machine is stopped is not read before it starts, and QEMU does
/// not spin until then.
#[test]
fn veventq_of_stopped_machine_is_read_at_start() {
    let mut setup = Setup::new(EXPLICIT).assign("d0", 1);
    let spare = setup.spare("v0", "a");
    let bench = setup.start();
    let smmu = with_eventq(&bench);
    bench.unplug("d0", 1);
    assert_eq!(queues(&bench), 0);
    bench.machine().qmp("stop", json!({}));
    bench.plug("v0", spare, 1).expect("a device");
    assert_eq!(queues(&bench), 1);
    Faults::new().report(&bench, 1);
    let before = cpu_ticks(&bench);
    thread::sleep(Duration::from_millis(500));
    let ticks = cpu_ticks(&bench) - before;
    // of about 50 that a loop takes
    assert!(ticks < 20, "{ticks} ticks of CPU time");
    assert_eq!(smmu.read(reg::EVENTQ_PROD), 0);
    bench.machine().qmp("cont", json!({}));
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 1);
    bench.finish();
}

/// A wakeup whose read returns nothing is not a kernel error, however often it happens,
/// if the file is not readable any more.
#[test]
fn wakeups_of_drained_veventq_keep_it_open() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    for _ in 0..1500 {
        faults.wake_for_nothing(&bench);
        assert_eq!(smmu.read(reg::EVENTQ_PROD), 0);
    }
    assert_eq!(queues(&bench), 1, "the queue is closed");
    faults.report(&bench, 1);
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 1);
    bench.finish();
}

#[test]
fn every_event_of_one_read_is_recorded() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let faults = Faults::new();
    let event = |sequence, page| (0, sequence, fault(page).to_vec());
    // a loss in the middle, after which any number may follow
    faults.send_together(
        &bench,
        &[event(0, 1), event(1, 2), (LOST, 2, vec![]), event(9, 3)],
    );
    wait_prod(&smmu, OVERFLOW | 3);
    assert_eq!([0, 1, 2].map(|slot| page(&smmu, slot)), [1, 2, 3]);
    bench.finish();
}

#[test]
fn truncated_host_event_is_dropped() {
    let bench = Bench::with_one_device();
    let smmu = with_eventq(&bench);
    let mut faults = Faults::new();
    faults.send_together(&bench, &[(0, 0, fault(1)[..3].to_vec())]);
    faults.sequence = 1;
    faults.report(&bench, 2);
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 2);
    bench.finish();
}

#[test]
fn first_device_plugged_with_eventqen_gets_veventq() {
    let mut setup = Setup::new(EXPLICIT).slot(1);
    let fd = setup.spare("d0", "a");
    let bench = setup.start();
    let smmu = bench.smmu();
    open_queue(&smmu, QUEUE);
    smmu.enable(SMMUEN);
    assert_eq!(queues(&bench), 0, "no vIOMMU, no queue");
    bench.plug("d0", fd, 1).expect("plugged");
    assert_eq!(queues(&bench), 1);
    Faults::new().report(&bench, 9);
    wait_prod(&smmu, 1);
    assert_eq!(page(&smmu, 0), 9);
    bench.finish();
}

#[test]
fn host_without_veventq_does_not_stop_guest() {
    let bench = Bench::with_one_device();
    bench.script("fail VEVENTQ_ALLOC errno=EOPNOTSUPP");
    let smmu = with_eventq(&bench);
    for _ in 0..10 {
        smmu.disable(EVENTQEN);
        smmu.enable(EVENTQEN);
    }
    bench.expect("as ever", &[("d0", On::Nested(ste::stage1(0x4100_0000)))]);
    let finished = bench.end();
    let lines = finished.error_lines();
    assert_eq!(lines.len(), 1, "{finished}");
    for words in ["smmuv3.1: ", "Linux 6.15"] {
        assert!(lines[0].contains(words), "{words}: {finished}");
    }
}
