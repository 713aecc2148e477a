# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Assigned devices are plugged, unplugged and reset while they and others behind the same SMMU do I/O."""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .checks import FAULTS, MIB, SMALL_HOTPLUG_WINDOWS, copy_and_compare, edu_address, expect, faulting_dma, plug, unplug
from .levels import Guest, Level1
from .registry import Bed, register
from .scenarios import Bench

scenario = partial(register, Bed.NESTED)

BUSY_AT = 32  # the MiB that background I/O has to itself
ALLOCATED = "iommufd_backend_alloc_viommu"


class BackgroundIo:
    """tests/e2e/guest/busy on a disk: data is written, read back and compared, until stop()."""

    def __init__(self, bench: Bench, guest: Guest, disk: str) -> None:
        self._bench, self._guest, self._disk = bench, guest, disk
        guest.run(f"rm -f busy.*; busy {disk} {BUSY_AT} >/dev/null 2>&1 &")
        self.expect_progress("before anything happened")

    def _wait(self, condition: str) -> bool:
        return self._guest.shell.attempt(
            f"for i in $(seq 300); do {condition} && exit 0; [ ! -e busy.outcome ] || exit 1; sleep 0.1; done; exit 1",
            timeout=60).status == 0

    def _outcome(self) -> str:
        return self._guest.run("cat busy.outcome busy.trouble 2>&1; true")

    def expect_progress(self, when: str) -> None:
        """Two whole rounds from now on."""
        now = int(self._guest.run("cat busy.rounds 2>/dev/null || echo 0"))
        expect(self._wait(f"[ $(cat busy.rounds 2>/dev/null || echo 0) -gt {now + 1} ]"),
               f"I/O on {self._disk} does not continue {when}: {self._outcome()}")

    def continue_in(self, guest: Guest) -> None:
        """The same guest is now in another QEMU."""
        self._guest = guest

    def stop(self) -> None:
        self._guest.run("touch busy.stop")
        self._wait("[ -e busy.outcome ]")
        outcome = self._outcome().split()[:1]
        on_host = self._bench.host_sha256(self._disk, BUSY_AT * MIB, MIB)
        expect(outcome == [on_host], f"{self._disk}: background I/O ended with '{self._outcome()}', the host has {on_host}")


@contextmanager
def background_io(bench: Bench, guest: Guest, disk: str) -> Iterator[BackgroundIo]:
    """For the `with` block, at whose end the last data must be on the host."""
    busy = BackgroundIo(bench, guest, disk)
    yield busy
    busy.stop()


@contextmanager
def reads_that_fail(guest: Guest, disk: str) -> Iterator[None]:
    """Concurrent random reads, which the `with` block must end with an error."""
    guest.run(f"""disk=$(disk {disk}) && stat=/sys/block/$(basename $disk)/stat && rm -f reads &&
        {{ {{ iorate random $disk 4096 {16 * MIB} 2 3600000; echo status $?; }} >reads 2>&1 & set -- $(cat $stat); before=$1;
        for i in $(seq 100); do sleep 0.1; set -- $(cat $stat); [ $1 -lt $((before + 50)) ] || exit 0; done; exit 1; }}""")
    yield
    text = guest.run("for i in $(seq 100); do grep -q status reads && break; sleep 0.1; done; cat reads")
    expect(re.search(r"^iorate: read: (Input/output error|No such device.*|end of the device)$", text, re.MULTILINE) is not None
           and text.endswith("status 1"), f"reads from {disk} did not fail when it went, but:\n{text}")


def disks(guest: Guest) -> int:
    return int(guest.run("ls /sys/class/nvme | wc -l"))


@scenario("hotplug", "a disk is unplugged and plugged while the other behind its SMMU works, then while it works itself")
def hotplug(bench: Bench) -> None:
    config = bench.config("hotplug", smmus=(("disk0", "disk1"),), append=SMALL_HOTPLUG_WINDOWS)
    with bench.guest(config) as guest:
        copy_and_compare(bench, guest, "disk0", mib=2)
        with background_io(bench, guest, "disk1") as other:
            unplug(guest, "disk0")
            expect(disks(guest) == 1, "level 2 still has the unplugged disk")
            other.expect_progress("after disk0 was unplugged")
            plug(guest, "disk0")
            other.expect_progress("after disk0 was plugged")
            copy_and_compare(bench, guest, "disk0", mib=2)

            with reads_that_fail(guest, "disk0"):
                unplug(guest, "disk0")
            other.expect_progress("after disk0 was unplugged under I/O")
            plug(guest, "disk0")
            copy_and_compare(bench, guest, "disk0", mib=2)


@scenario("hotplug-last", "all devices of an SMMU are unplugged, under I/O, under faults, and idle; its events come again")
def hotplug_last(bench: Bench) -> None:
    config = bench.config("hotplug-last", smp=2, smmus=(("disk0", "edu"),), append=SMALL_HOTPLUG_WINDOWS)
    with bench.guest(config, harmless=FAULTS) as guest:
        faulting_dma(guest, 0xDEAD000)
        # The vIOMMU and its vEVENTQ are destroyed with the last device, in a vCPU thread. First while events keep arriving...
        with reads_that_fail(guest, "disk0"):
            guest.run(f"while isolation write {edu_address(guest)} 0xdead000; do :; done >/dev/null 2>&1 &")
            guest.run("for i in $(seq 300); do [ $(dmesg | grep -c 'iova: 0xdead000') -lt 4 ] || exit 0; sleep 0.1; done; exit 1")
            unplug(guest, "disk0", "edu")
        plug_all(bench, guest, 0xBEEF000)
        # ...then while the main loop only waits for one.
        unplug(guest, "disk0", "edu")
        plug_all(bench, guest, 0xCAFE000)


def plug_all(bench: Bench, guest: Guest, iova: int) -> None:
    """Plugs the devices of an SMMU that has none."""
    before = len(guest.trace_lines(ALLOCATED))
    plug(guest, "disk0", "edu")
    after = len(guest.trace_lines(ALLOCATED))
    expect(after == before + 1, f"{after - before} vIOMMUs were allocated when the first device came, not a new one")
    faulting_dma(guest, iova)
    copy_and_compare(bench, guest, "disk0", mib=2)


@contextmanager
def resets(level1: Level1, expected: int) -> Iterator[None]:
    """Level 1's kernel must reset as many functions, by FLR, in the `with` block."""
    tracing = "/sys/kernel/tracing"
    level1.shell.run(f"echo 'p:flr pcie_flr' >>{tracing}/kprobe_events && echo 1 >{tracing}/events/kprobes/flr/enable")
    try:
        yield
        hits = int(level1.shell.run(f"grep -w flr {tracing}/kprobe_profile").split()[1])
    finally:
        level1.shell.run(f"echo 0 >{tracing}/events/kprobes/flr/enable; echo '-:flr' >>{tracing}/kprobe_events")
    expect(hits == expected, f"the guest asked for {expected} function level resets, level 1's kernel did {hits}")


@scenario("flr", "the guest resets its disk's function without a driver, then under I/O")
def flr(bench: Bench) -> None:
    with bench.guest(bench.config("flr", smmus=(("disk0", "disk1"),))) as guest:
        copy_and_compare(bench, guest, "disk0", mib=2)
        address = guest.run("basename $(readlink /sys/class/block/$(basename $(disk disk0))/device/device)")
        device = f"/sys/bus/pci/devices/{address}"
        guest.run(f"echo flr >{device}/reset_method")
        with background_io(bench, guest, "disk1") as other:
            with resets(bench.level1, 1):
                guest.run(f"""echo {address} >{device}/driver/unbind && echo 1 >{device}/reset &&
                    echo {address} >/sys/bus/pci/drivers/nvme/bind""")
            copy_and_compare(bench, guest, "disk0", mib=2)
            other.expect_progress("after disk0 was reset")
        # With its driver, which delays I/O.
        with background_io(bench, guest, "disk0") as own, resets(bench.level1, 3):
            for turn in range(3):
                guest.run(f"echo 1 >{device}/reset")
                own.expect_progress(f"after reset {turn}")
        copy_and_compare(bench, guest, "disk0", mib=2)
