# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""A host's call that does not return: what goes on meanwhile under KVM, and that nothing is lost when it has returned.

A library in front of level 1's kernel holds one IOMMU_HWPT_INVALIDATE of QEMU (tests/e2e/guest/holding.c). No check is timed: the
library marks beginning and end of the call, and what must not wait for it has to be complete while there is no end.

The guest's CPU 1 is in the doorbell that waits, so everything else of the guest stays on CPU 0.
"""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from .checks import FAULTS, copy_and_compare, edu_address, expect
from .consoles import TestbedError
from .counters import Counts
from .cpr_scenarios import streams
from .levels import HOLDING, Guest, Level1
from .registry import Bed, register
from .scenarios import Bench, check_counts, measured_io

scenario = partial(register, Bed.NESTED)

# IOMMU_HWPT_INVALIDATE, held until the scenario releases it; a QEMU that waits for it does not answer for that long.
_UNTIL_RELEASED = "0x3b8d:600000"
_ONE_SECOND = "0x3b8d:1000"
# The guest sees no hotplug controller, and so nothing in it waits for its CPU 1 when a device is unplugged.
_WITHOUT_PCIEHP = "pcie_ports=compat"
_READ = 64  # blocks of 4 KiB
_STATISTICS = {"path": "/machine/peripheral/smmu0", "property": "statistics"}


@dataclass(frozen=True)
class HeldCall:
    """A call that is held for a `with` block."""

    level1: Level1

    def marks(self) -> dict[str, float]:
        """The times of "begin" and "end", as far as there are any, in seconds since 1970."""
        text = self.level1.shell.run(f"cat {HOLDING}.marks 2>/dev/null; true")
        return {name: float(at) for name, at in re.findall(r"^(begin|end) ([\d.]+)$", text, re.MULTILINE)}

    def wait(self, mark: str) -> float:
        self.level1.shell.run(f"for i in $(seq 3000); do grep -qs {mark} {HOLDING}.marks && exit 0; usleep 10000; done; exit 1", timeout=40)
        return self.marks()[mark]

    def expect_held(self, what: str) -> None:
        """`what`: has just happened, and may not have waited for the call."""
        expect("end" not in self.marks(), f"{what}, but the host's call is not held any more")

    def release(self) -> float:
        """Returns when the call has ended."""
        self.level1.shell.run(f"rm -f {HOLDING}.call")
        return self.wait("end")


@contextmanager
def held_call(level1: Level1, cause: Callable[[], object]) -> Iterator[HeldCall]:
    """Holds a call, which `cause` has QEMU make, for the `with` block, which may release it before its end."""
    level1.shell.run(f"rm -f {HOLDING}.marks && touch {HOLDING}")
    call = HeldCall(level1)
    cause()
    call.wait("begin")
    yield call
    call.release()


def stay_on_cpu_0(guest: Guest) -> None:
    """Keeps everything that the testbed does in the guest off CPU 1: a thread of the kernel, such as the console's, that waits for that
    CPU would keep the testbed waiting. Interrupts of NVMe queues stay with their CPUs."""
    guest.run("""for process in /proc/[0-9]*; do taskset -p 1 ${process#/proc/}; done >/dev/null 2>&1;
        taskset -p 1 1 >/dev/null && echo 1 >/sys/devices/virtual/workqueue/cpumask &&
        for irq in /proc/irq/*/smp_affinity; do echo 1 >$irq; done 2>/dev/null; true""")


class Reads:
    """Reads of disk0 by the guest's CPU 1, whose first unmap is the cause of a held call."""

    def __init__(self, bench: Bench, guest: Guest) -> None:
        self._bench, self._guest = bench, guest
        self._disk = guest.run("disk disk0")

    def start(self) -> None:
        """Returns before the guest has answered, because a QEMU that waits for the host may answer for none of its lines."""
        self._answer = self._guest.shell.start(
            f"rm -f reads; (taskset 2 directio read {self._disk} 0 4096 {_READ} | sha256sum >reads) 2>&1 &")

    def started(self) -> None:
        """Must be called before the guest's shell is used again."""
        self._answer(60)

    def expect_right(self) -> None:
        """All data have come, and are those of the image on level 0."""
        read = self._guest.run("for i in $(seq 300); do [ -s reads ] && break; usleep 100000; done; cat reads", timeout=60).split()[:1]
        on_host = self._bench.host_sha256("disk0", 0, _READ * 4096)
        expect(read == [on_host], f"the reads whose invalidation was held gave {read}, the image on the host has {on_host}")


def ring_on_cpu_1(guest: Guest) -> None:
    """Gives a TLBI to disk0's SMMU, whose driver knows nothing of it: the guest must be reset before it uses the SMMU again."""
    guest.run("rm -f legal; taskset 2 badcmd legal >legal 2>&1 &")


def wait_for_line(guest: Guest, file: str, pattern: str) -> str:
    """Waits for a line of a file in the guest, or for one that says that something has failed. Returns the file."""
    guest.run(f"for i in $(seq 600); do grep -qE '{pattern}|failed' {file} && break; usleep 100000; done", timeout=90)
    text = guest.run(f"cat {file}")
    expect(re.search(pattern, text) is not None and "failed" not in text, f"the guest's program reports:\n{text}")
    return text


def power_off(guest: Guest, port: str) -> None:
    """Switches the slot of a root port off, as the driver of a hotplug controller does when it has been asked for the device."""
    path = f"/sys/bus/pci/devices/{port}/config"
    config = bytes.fromhex("".join(guest.run(f"head -c 256 {path} | od -An -v -t x1").split()))
    at = config[0x34]
    while config[at] != 0x10:  # the capability of PCI Express
        expect(config[at + 1] > at, f"{port} has no PCI Express capability: {config.hex()}")
        at = config[at + 1]
    register_at = at + 0x18  # Slot Control
    control = int.from_bytes(config[register_at:register_at + 2], "little") | 0x700  # power and its indicator off
    data = "".join(f"\\{byte:03o}" for byte in control.to_bytes(2, "little"))
    guest.run(f"printf '{data}' | dd of={path} bs=2 seek={register_at // 2} conv=notrunc 2>/dev/null")


def expect_event_after(guest: Guest, name: str, call: HeldCall) -> None:
    """Releases the call. QMP must report the event, which has been asked for, and not before the call's end."""
    ended = call.release()
    stamp = guest.qmp.wait_event(name, 60)["timestamp"]
    at = stamp["seconds"] + stamp["microseconds"] / 1e6
    expect(at >= ended, f"QMP event {name} at {at}, but a call of the host was in progress until {ended}")


def check_raw_counts(counts: Counts) -> None:
    """Every TLBI of a program that writes into the queue has reached the host; changes of the STE have calls of their own."""
    expect(counts.ioctls == counts.kernel_ioctls,
           f"QEMU traced {counts.ioctls} invalidation ioctls, level 1's kernel served {counts.kernel_ioctls}")
    expect(0 < counts.tlbi <= counts.entries and counts.errors == 0,
           f"{counts.tlbi} TLBIs, {counts.entries} commands in ioctls, {counts.errors} errors")


# --- what is done while a call is held -----------------------------------------------------------------------------------------


def others_work(bench: Bench, guest: Guest) -> None:
    """QMP, and another vCPU with another device behind another SMMU."""
    def calls() -> int:
        number: int = guest.qmp.command("qom-get", _STATISTICS)["host"]["calls"]
        return number

    reads = Reads(bench, guest)
    with guest.measure() as measurement:
        with held_call(bench.level1, reads.start) as call:
            guest.qmp.command("query-status")
            call.expect_held("QMP has answered")
            before = calls()
            call.expect_held("QMP has shown statistics")
            reads.started()
            copy_and_compare(bench, guest, "disk1", mib=2)
            expect(calls() == before, "the SMMU whose call is held has called the host again")
            call.expect_held("disk1, behind the other SMMU, has done I/O")
        reads.expect_right()
    check_counts(bench, measurement.result)


def stop(bench: Bench, guest: Guest) -> None:
    """A stop waits for the vCPU that waits for the host."""
    reads = Reads(bench, guest)
    with guest.measure() as measurement:
        with held_call(bench.level1, reads.start) as call:
            reads.started()
            guest.qmp.discard_events()
            stopped = guest.qmp.start("stop")
            guest.sleep(0.5)  # so that QEMU has begun to
            call.expect_held("QEMU was asked to stop")
            expect_event_after(guest, "STOP", call)
            stopped(20)
        guest.qmp.command("cont")
        reads.expect_right()
    check_counts(bench, measurement.result)


def change_ste(bench: Bench, guest: Guest, edu: str) -> None:
    """Another vCPU rings, for an STE that has changed: it does not wait, and DMA follows the STE when the call has returned."""
    with guest.measure() as measurement:
        with held_call(bench.level1, lambda: guest.run(f"rm -f isolation.go; isolation held {edu} >ste 2>&1 &")) as call:
            guest.run("touch isolation.go")
            wait_for_line(guest, "ste", "CFGI_STE is in the queue$")
            call.expect_held("another vCPU has rung")
        text = wait_for_line(guest, "ste", "STE translates again")
    expect("WRONG" not in text, f"DMA does not follow the STE:\n{text}")
    check_raw_counts(measurement.result)


def unplug_edu(bench: Bench, guest: Guest, edu: str) -> None:
    """A device behind the SMMU whose call is held is unplugged: at once for the guest; QEMU frees it when the call has returned."""
    port = guest.run(f"basename $(dirname $(readlink -f /sys/bus/pci/devices/{edu}))")
    with guest.measure() as measurement:
        with held_call(bench.level1, lambda: ring_on_cpu_1(guest)) as call:
            guest.qmp.discard_events()
            guest.qmp.command("device_del", {"id": "edu"})
            power_off(guest, port)
            left = streams(guest)
            expect(len(left) == 1, f"edu is unplugged, and disk0 is not, but behind their SMMU are: {left}")
            call.expect_held("edu is unplugged")
        guest.qmp.wait_event("DEVICE_DELETED", 60, device="edu")
        wait_for_line(guest, "legal", "injected")
    check_raw_counts(measurement.result)


def reset(bench: Bench, guest: Guest) -> None:
    """A reset waits for the vCPU that waits for the host. Its call ends before the registers are those of a reset."""
    if errors := guest.log.errors(FAULTS):
        raise TestbedError("level 2's kernel reports:\n" + "\n".join(errors[:20]))
    with held_call(bench.level1, lambda: ring_on_cpu_1(guest)) as call:
        guest.qmp.discard_events()
        answered = guest.qmp.start("system_reset")
        guest.sleep(0.5)  # so that QEMU has begun to
        call.expect_held("QEMU was asked for a reset")
        expect_event_after(guest, "RESET", call)
        answered(20)
    guest.wait_booted()


@scenario("held", "a host's call that does not return: QMP, another vCPU, device and SMMU go on; stop, STE change, unplug, reset; no loss",
          on_request=True)
def held(bench: Bench) -> None:
    config = bench.config("held", smp=2, smmus=(("disk0", "edu"), ("disk1",)), append=_WITHOUT_PCIEHP, held=_UNTIL_RELEASED)
    with bench.guest(config, harmless=FAULTS) as guest:
        stay_on_cpu_0(guest)
        edu = edu_address(guest)
        others_work(bench, guest)
        stop(bench, guest)
        change_ste(bench, guest, edu)
        unplug_edu(bench, guest, edu)
        reset(bench, guest)
        measured_io(bench, guest)
        copy_and_compare(bench, guest, "disk1", mib=2)


@scenario("held-qmp", "how long QMP waits for a call of the host that takes a second, with either device", qemus=("rust", "c"), on_request=True)
def held_qmp(bench: Bench) -> None:
    seconds = {}
    for device in ("rust", "c"):
        # The other device may have no such property.
        its = replace(bench, qemu=device, defaults=bench.defaults if device == bench.qemu else ())
        with its.guest(its.config(f"held-qmp-{device}", smp=2, held=_ONE_SECOND)) as guest:
            stay_on_cpu_0(guest)
            reads = Reads(its, guest)
            with held_call(its.level1, reads.start):
                begun = time.monotonic()
                guest.qmp.command("query-status")
                seconds[device] = time.monotonic() - begun
            reads.started()
            reads.expect_right()
    bench.level1.say(f"held-qmp: QMP has answered after {seconds['rust']:.3f} s with the Rust device, {seconds['c']:.3f} s with the C device")
