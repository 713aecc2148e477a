# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Live update: another QEMU takes over a guest with assigned devices, which keep their nested translation.

Level 1's kernel is the witness: from the start of the new QEMU to the end of the old one it must neither make or destroy an
object of iommufd, nor attach or detach a device.

VFIO in the new QEMU disables devices that have no function-level reset, as the edu device, when its machine is reset at the
start. So no guest touches that device before its command register is written again.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from .checks import (FAULTS, HARMLESS, SMALL_HOTPLUG_WINDOWS, copy_and_compare, edu_address, expect, faulting_dma, parallel_jobs, plug,
                     unplug)
from .consoles import TestbedError
from .hotplug_scenarios import background_io
from .levels import REFUSING, SLOTS, Guest, GuestConfig
from .registry import Bed, Skipped, register
from .scenarios import UNREMARKABLE, Bench

scenario = partial(register, Bed.NESTED)

# What changes the host: calls of level 1's kernel.
CHANGES = ("iommufd_hwpt_alloc", "iommufd_viommu_alloc_ioctl", "iommufd_vdevice_alloc_ioctl", "iommufd_veventq_alloc", "iommufd_destroy",
           "vfio_iommufd_physical_attach_ioas", "vfio_iommufd_physical_detach_ioas")
# An address that no guest maps.
UNMAPPED = 0xDEAD000


def _channel(kind: str) -> dict[str, Any]:
    path = {"main": "/tmp/update.sock", "cpr": "/tmp/update-files.sock"}[kind]
    return {"channel-type": kind, "addr": {"transport": "socket", "type": "unix", "path": path}}


MAIN, FILES = _channel("main"), _channel("cpr")
# QEMU loads the state after migrate-incoming. Until then the guest runs in the old QEMU, and the new one has the open files.
INCOMING = ("-incoming", "defer", "-incoming", json.dumps(FILES))
_STATE = "/tmp/update.state"


class Updated:
    """A guest, and the QEMUs that it has been in."""

    def __init__(self, bench: Bench, config: GuestConfig) -> None:
        self.bench, self.config = bench, config
        self.guest = Guest(bench.level1, config)
        self._others: list[Guest] = []

    def changes(self) -> dict[str, int]:
        """How often level 1's kernel has been asked for each of CHANGES."""
        calls = self.bench.level1.shell.run(f"for name in {' '.join(CHANGES)}; do echo $name $(counters calls $name); done")
        return {name: int(count) for name, count in (line.split() for line in calls.splitlines())}

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = self.changes()
        yield
        after = self.changes()
        changed = {name: after[name] - before[name] for name in CHANGES if after[name] != before[name]}
        expect(not changed, f"the live update has changed the host: {changed}")

    def started(self, more: Sequence[str] = (), **changes: Any) -> Guest:
        """A new QEMU that waits for the guest, with these changes of the configuration, and has got the files."""
        self.bench.level1.shell.run("rm -f /tmp/update.sock /tmp/update-files.sock")
        slot = next(slot for slot in SLOTS if slot != self.guest.config.slot)
        new = Guest(self.bench.level1, replace(self.config, slot=slot, incoming=(*INCOMING, *more), **changes))
        self._others.append(new)
        self.bench.level1.shell.run("for i in $(seq 200); do [ -S /tmp/update-files.sock ] && exit 0; sleep 0.1; done; exit 1", timeout=40)
        # The outcome comes back: otherwise the old QEMU closes KVM as soon as it has sent the state.
        self.guest.qmp.command("migrate-set-capabilities", {"capabilities": [{"capability": "return-path", "state": True}]})
        self.guest.qmp.command("migrate-set-parameters", {"mode": "cpr-transfer"})
        self.guest.qmp.command("migrate", {"channels": [MAIN, FILES]}, timeout=60)
        return new

    def outcome(self) -> dict[str, Any]:
        """The end of the migration, as the guest's QEMU sees it."""
        for _ in range(300):
            state: dict[str, Any] = self.guest.qmp.command("query-migrate")
            if state.get("status") in ("completed", "failed"):
                return state
            self.guest.sleep(0.1)
        raise TestbedError(f"the migration does not end: {state}")

    def prepared(self, **changes: Any) -> Guest:
        """A new QEMU that has got the files and has made its devices; the guest runs in the old one."""
        new = self.started(**changes)
        new.qmp.connect(60)
        self.enable_edu()
        return new

    def enable_edu(self) -> None:
        """Has the guest enable memory accesses and DMA of the edu device."""
        if any("edu" in devices for devices in self.config.smmus):
            config = f"/sys/bus/pci/devices/{edu_address(self.guest)}/config"
            self.guest.run(rf"printf '\006' | dd of={config} bs=1 seek=4 conv=notrunc 2>/dev/null")

    def transfer(self) -> dict[str, Any]:
        """Updates QEMU by cpr-transfer. The old QEMU stays until end_old()."""
        return self.finish(self.prepared())

    def ask(self, new: Guest) -> None:
        new.qmp.command("migrate-incoming", {"channels": [MAIN]})

    def finish(self, new: Guest) -> dict[str, Any]:
        """Has the new QEMU ask for the state, and waits until the guest runs in it. Returns the outcome."""
        self.ask(new)
        state = self.outcome()
        expect(state["status"] == "completed", f"the live update has failed: {state}\n{new.output()}")
        self.wait_running(new)
        self._others.remove(new)
        self._others.append(self.guest)
        self.guest = new
        return state

    def exec(self) -> None:
        """Updates QEMU by cpr-exec: the same process runs another program."""
        command = replace(self.guest.config, incoming=("-incoming", f"file:{_STATE}")).command()
        self.guest.qmp.command("migrate-set-parameters", {"mode": "cpr-exec", "cpr-exec-command": command})
        self.guest.qmp.command("migrate", {"uri": f"file:{_STATE}"}, timeout=60)
        self.guest.qmp.connect(60)
        self.wait_running(self.guest)

    def wait_status(self, status: str) -> None:
        """Waits until the guest's QEMU has this run state."""
        for _ in range(300):
            if (now := self.guest.qmp.command("query-status")["status"]) == status:
                return
            self.guest.sleep(0.1)
        raise TestbedError(f"the old QEMU is {now}, not {status}")

    def wait_running(self, guest: Guest) -> None:
        for _ in range(300):
            if (status := guest.qmp.command("query-status")["status"]) == "running":
                return
            guest.sleep(0.1)
        raise TestbedError(f"the guest does not run in the new QEMU: {status}\n{guest.output()}")

    def end_old(self) -> None:
        """The old QEMU ends by itself."""
        old = self._others.pop()
        old.qmp.command("quit")
        for _ in range(200):
            if not old.running():
                break
            old.sleep(0.1)
        else:
            self._others.append(old)
            raise TestbedError("the old QEMU does not end")
        old.stop()

    def output_at_end(self) -> str:
        """Waits until the latest other QEMU has ended by itself. Returns its output."""
        other = self._others.pop()
        for _ in range(200):
            if not other.running():
                break
            other.sleep(0.1)
        text = other.output()
        other.stop()
        return text

    def kill_other(self) -> None:
        """Kills the latest other QEMU."""
        self._others.pop().stop()

    def stop(self) -> None:
        for guest in [*self._others, self.guest]:
            guest.stop()


@contextmanager
def updated(bench: Bench, config: GuestConfig, harmless: re.Pattern[str] = HARMLESS,
            remarks: re.Pattern[str] = UNREMARKABLE) -> Iterator[Updated]:
    """A booted guest whose QEMU can be updated. At the end, all kernels and the last QEMU must have no complaint."""
    if bench.qemu == "c":
        raise Skipped("the C device blocks live updates")
    bench.level1.log.set_mark(config.name)
    config = replace(config, updatable=True)
    update = Updated(bench, config)
    try:
        update.guest.connect()
        yield update
        for where, log in (("level 2", update.guest.log), ("level 1", bench.level1.log)):
            errors = log.errors(harmless)
            expect(not errors, f"{where}'s kernel reports:\n" + "\n".join(errors[:20]))
        complaints = [line for line in update.guest.output().splitlines() if not (remarks.search(line) or UNREMARKABLE.search(line))]
        expect(not complaints, "QEMU reports:\n" + "\n".join(complaints[:20]))
    except Exception:
        for slot in SLOTS:
            bench.level1.keep_traces(replace(config, name=f"{config.name}-{slot}", slot=slot))
        raise
    finally:
        update.stop()


def statistics(guest: Guest) -> dict[str, Any]:
    """The property `statistics` of the first SMMU."""
    value: dict[str, Any] = guest.qmp.command("qom-get", {"path": "/machine/peripheral/smmu0", "property": "statistics"})
    return value


def streams(guest: Guest) -> list[dict[str, Any]]:
    """The property `streams` of the first SMMU."""
    value: list[dict[str, Any]] = guest.qmp.command("qom-get", {"path": "/machine/peripheral/smmu0", "property": "streams"})
    return value


class Faults:
    """A device that writes to UNMAPPED again and again, and the events of that."""

    def __init__(self, guest: Guest) -> None:
        self.earlier = statistics(guest)["events"]["recorded"]
        expect(self.earlier > 0, "the guest's Event queue got no event")
        # The driver logs each event in lines; a character on the console costs a nested exit.
        guest.run(f"""dmesg -n 1; rm -f faults.*; {{ n=0; while [ ! -e faults.stop ] && isolation write {edu_address(guest)} {UNMAPPED:#x};
            do n=$((n + 1)); echo $n >faults.new; mv faults.new faults.count; sleep 0.2; done; touch faults.end; }} >faults.log 2>&1 &""")

    def _count(self, guest: Guest) -> int:
        return int(guest.run("cat faults.count 2>/dev/null || echo 0"))

    def expect_progress(self, guest: Guest) -> None:
        before = self._count(guest)
        for _ in range(100):
            if self._count(guest) > before + 1:
                return
            guest.sleep(0.2)
        raise TestbedError(f"the faulting device does not go on after {before} faults")

    def stop(self, guest: Guest) -> int:
        """Returns the number of faults."""
        guest.run("touch faults.stop; for i in $(seq 300); do [ -e faults.end ] && exit 0; sleep 0.1; done; exit 1", timeout=60)
        guest.sleep(1)
        return self._count(guest)


class Reads:
    """Reads of a part of a disk that are always under way, and their checksums."""

    BYTES = 4 << 16

    def __init__(self, bench: Bench, guest: Guest, disk: str) -> None:
        self._wanted = bench.host_sha256(disk, 0, self.BYTES)
        guest.run(f"""rm -f reads.*; disk=$(disk {disk}); {{ while [ ! -e reads.stop ]; do
            directio read $disk 0 65536 4 | sha256sum >>reads.sums; done; touch reads.end; }} >reads.log 2>&1 &""")
        self.expect_progress(guest, "before the live update")

    def _sums(self, guest: Guest) -> list[str]:
        return guest.run("cat reads.sums 2>/dev/null; true").replace("-", "").split()

    def expect_progress(self, guest: Guest, when: str) -> None:
        """One whole read from now on. All must have been right."""
        before = len(self._sums(guest))
        for _ in range(100):
            sums = self._sums(guest)
            expect(set(sums) <= {self._wanted}, f"{when}: the disk has {self._wanted}, but the guest has read {set(sums)}")
            if len(sums) > before + 1:
                return
            guest.sleep(0.2)
        raise TestbedError(f"reads do not continue {when}")

    def stop(self, guest: Guest) -> None:
        guest.run("touch reads.stop; for i in $(seq 300); do [ -e reads.end ] && exit 0; sleep 0.1; done; exit 1", timeout=60)
        expect(set(self._sums(guest)) == {self._wanted}, f"the guest has read {self._sums(guest)}")


@scenario("cpr-transfer", "QEMU is updated under a guest that reads and faults: the host sees nothing, events are counted")
def cpr_transfer(bench: Bench) -> None:
    with updated(bench, bench.config("cpr-transfer", smmus=(("disk0", "edu"),)), harmless=FAULTS) as update:
        faulting_dma(update.guest, UNMAPPED)
        old = update.guest
        reads = Reads(bench, old, "disk0")
        with update.unchanged():
            new = update.prepared()
            faults = Faults(old)
            faults.expect_progress(old)
            state = update.finish(new)
            recorded = statistics(old)["events"]["recorded"] - faults.earlier
            faults.expect_progress(update.guest)
            update.end_old()
            reads.expect_progress(update.guest, "after the old QEMU has ended")
        bench.level1.say(f"cpr-transfer: downtime {state['downtime']} ms")
        count = faults.stop(update.guest)
        reads.stop(update.guest)
        counters = statistics(update.guest)
        events = counters["events"]
        expect(recorded > 0 and recorded + events["recorded"] == count,
               f"{count} faults, of which {recorded} and {events['recorded']} were recorded")
        expect(events["lost-by-host"] == 0, f"events were lost: {events}")
        expect(counters["attach"]["adopted"] == 2 and counters["attach"]["stage1"] == 0, f"not adopted: {counters['attach']}")
        update.guest.qmp.command("system_reset")
        update.guest.wait_booted()
        copy_and_compare(bench, update.guest, mib=1)


@scenario("cpr-exec", "QEMU is updated in its own process, twice, under I/O: the host sees nothing; then hot-plug", on_request=True)
def cpr_exec(bench: Bench) -> None:
    config = bench.config("cpr-exec", smmus=(("disk0", "edu"),), append=SMALL_HOTPLUG_WINDOWS)
    with updated(bench, config, harmless=FAULTS) as update:
        with background_io(bench, update.guest, "disk0") as busy:
            for turn in range(2):
                with update.unchanged():
                    update.exec()
                    busy.expect_progress(f"after live update {turn}")
        faulting_dma(update.guest, UNMAPPED)
        unplug(update.guest, "disk0")
        plug(update.guest, "disk0")
        copy_and_compare(bench, update.guest, mib=2)


@scenario("cpr-downtime", "the downtime of cpr-transfer, of a guest with an SMMU and of one without", on_request=True)
def cpr_downtime(bench: Bench) -> None:
    for what, accel in (("an SMMU", True), ("no SMMU", False)):
        with updated(bench, bench.config("cpr-downtime", accel=accel)) as update:
            reads = Reads(bench, update.guest, "disk0")
            times = []
            for turn in range(3):
                times.append(update.transfer()["downtime"])
                update.end_old()
                reads.expect_progress(update.guest, f"after live update {turn}")
            reads.stop(update.guest)
            bench.level1.say(f"cpr-downtime: with {what}: {', '.join(map(str, times))} ms")


@scenario("cpr-failures", "the new QEMU dies before, refuses or is killed in the live update: the old one goes on; then it is killed itself",
          on_request=True)
def cpr_failures(bench: Bench) -> None:
    with updated(bench, bench.config("cpr-failures", smmus=(("disk0", "edu"),)), harmless=FAULTS) as update:
        with background_io(bench, update.guest, "disk0") as busy, update.unchanged():
            # It has got the files, and ends before it asks for the state.
            update.started(more=("-device", "no-such-device"))
            text = update.output_at_end()
            expect("no-such-device" in text, f"the new QEMU has ended with\n{text}")
            update.wait_status("running")
            busy.expect_progress("after the new QEMU has failed to start")

            # It has the state, and does not take it.
            update.ask(update.prepared(properties=",ril=off"))
            state = update.outcome()
            text = update.output_at_end()
            expect(state["status"] == "failed", f"the old QEMU does not know that the new one has refused: {state}")
            expect("cannot take over from the other QEMU, which can go on: the guest has seen other features: ril was on and is off" in text,
                   f"the new QEMU has ended with\n{text}")
            update.wait_status("running")
            busy.expect_progress("after the new QEMU has refused")

            # It is killed while it waits.
            update.prepared()
            update.kill_other()
            update.wait_status("running")
            busy.expect_progress("after the new QEMU was killed")

            update.transfer()
            busy.continue_in(update.guest)
            update.kill_other()
            busy.expect_progress("after the old QEMU was killed")
        update.enable_edu()
        faulting_dma(update.guest, UNMAPPED)


@scenario("cpr-window", "the guest changes its SMMU after the files have gone over: EVENTQEN, an STE without CFGI_STE, many with", on_request=True)
def cpr_window(bench: Bench) -> None:
    harmless = re.compile(rf"{FAULTS.pattern}|EVTQ overflow detected")
    with updated(bench, bench.config("cpr-window", smmus=(("edu", "disk0"),)), harmless=harmless) as update:
        address = edu_address(update.guest)

        def background(what: str) -> None:
            update.guest.run(f"rm -f isolation.*; {{ isolation {what} {address}; echo status $?; touch isolation.end; }} >isolation.log 2>&1 &")

        def expect_right(what: str) -> None:
            text = update.guest.run("""touch isolation.go; for i in $(seq 600); do [ -e isolation.end ] && break; sleep 0.1; done;
                cat isolation.log""", timeout=90)
            expect("status 0" in text and "WRONG" not in text, f"{what}:\n{text}")

        background("unsaid")
        update.guest.run("for i in $(seq 300); do grep -q written isolation.log && exit 0; sleep 0.1; done; exit 1", timeout=60)
        with update.unchanged():
            update.transfer()
            update.end_old()
        expect_right("an STE without CFGI_STE")

        new = update.prepared()
        background("storm")
        update.guest.sleep(3)
        update.finish(new)
        update.end_old()
        update.guest.sleep(3)
        expect_right("STEs with CFGI_STE")

        new = update.prepared()
        update.guest.run(f"isolation eventqen {address}")
        expect("sees no fault events until another process closes" in update.guest.output(), "the old QEMU has not said that events are lost")
        update.finish(new)
        update.end_old()
        events = statistics(update.guest)["events"]
        expect(events["lost-by-host"] == 1, f"the loss of events was not reported: {events}")
        update.guest.run("dmesg -c >/dev/null")
        faulting_dma(update.guest, UNMAPPED + 0x1000)
        # Its driver sees OVFLG with the next event.
        update.guest.run("for i in $(seq 50); do dmesg | grep -q 'EVTQ overflow detected' && exit 0; sleep 0.1; done; exit 1")
        copy_and_compare(bench, update.guest, mib=2)


@scenario("cpr-ten", "ten live updates in a row under I/O, behind two SMMUs", on_request=True)
def cpr_ten(bench: Bench) -> None:
    with updated(bench, bench.config("cpr-ten", smmus=(("disk0",), ("disk1",)))) as update:
        reads = Reads(bench, update.guest, "disk0")
        with update.unchanged():
            for turn in range(10):
                update.transfer()
                update.end_old()
                reads.expect_progress(update.guest, f"after live update {turn}")
        reads.stop(update.guest)
        parallel_jobs(bench, update.guest, {"first": ("disk0", 1), "second": ("disk1", 0)}, mib=1)


# IOMMU_HWPT_INVALIDATE, ETIMEDOUT
_REFUSED_INVALIDATIONS = "0x3b8d:110"
_QUARANTINE = re.compile("the host does not complete|I/O error|nvme|CMDQ|SYNC|SMMU|smmu|\t0x[0-9a-f]{16}$|Buffer I/O|callbacks suppressed")


@scenario("cpr-quarantine", "a quarantined device stays aborted over a live update, and works after a reset", on_request=True)
def cpr_quarantine(bench: Bench) -> None:
    config = bench.config("cpr-quarantine", refused=_REFUSED_INVALIDATIONS)
    with updated(bench, config, harmless=_QUARANTINE, remarks=_QUARANTINE) as update:
        update.guest.run("dmesg -n 1")
        bench.level1.shell.run(f"touch {REFUSING}")
        update.guest.run("directio read $(disk disk0) 0 4096 8 >&- 2>&- & sleep 1")
        for _ in range(300):
            if streams(update.guest)[0]["quarantined"]:
                break
            update.guest.sleep(0.1)
        before = streams(update.guest)
        expect(before[0]["quarantined"] and before[0]["translation"] == "abort", f"not quarantined: {before}")
        with update.unchanged():
            update.transfer()
            update.end_old()
        after = streams(update.guest)
        expect(after == before, f"before the live update {before}, after it {after}")
        bench.level1.shell.run(f"rm {REFUSING}")
        update.guest.qmp.command("system_reset")
        update.guest.wait_booted()
        copy_and_compare(bench, update.guest, mib=2)
