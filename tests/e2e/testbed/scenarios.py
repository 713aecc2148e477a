# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Scenarios of the accelerated device, which share one boot of level 1."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from . import unmap
from .checks import (FAULTS, HARMLESS, MIB, TRANSLATION_FAULT, copy_and_compare, edu_address, expect, faulting_dma,
                     file_sha256, parallel_jobs)
from .consoles import TestbedError
from .counters import BUSY_EVENTS, Counts
from .levels import Guest, GuestConfig, Level1
from .registry import Bed, Skipped, register

scenario = partial(register, Bed.NESTED)

# Messages of QEMU in a successful run: level 1's VFIO can neither map one device's BAR for another nor reset an edu device.
UNREMARKABLE = re.compile(r"warning: |PCI peer-to-peer transactions on BARs are not supported|no available reset mechanism")


@dataclass(frozen=True)
class Bench:
    """The place of a scenario: level 1, the name of the QEMU to test, and what every arm-smmuv3 gets (--property)."""

    level1: Level1
    qemu: str
    defaults: Sequence[str] = ()

    @contextmanager
    def guest(self, config: GuestConfig, harmless: re.Pattern[str] = HARMLESS, remarks: re.Pattern[str] = UNREMARKABLE) -> Iterator[Guest]:
        """A guest; when the block has ended well, both kernels' logs must be clean but for what is `harmless`.

        `remarks`: what QEMU may report.
        """
        self.level1.log.set_mark(config.name)
        with self.level1.guest(config) as guest:
            yield guest
            for where, log in (("level 2", guest.log), ("level 1", self.level1.log)):
                if errors := log.errors(harmless):
                    raise TestbedError(f"{where}'s kernel reports:\n" + "\n".join(errors[:20]))
            expect(guest.running(), f"QEMU has ended:\n{guest.output()}")
            complaints = [line for line in guest.output().splitlines() if not remarks.search(line)]
            expect(not complaints, "QEMU reports:\n" + "\n".join(complaints[:20]))

    def host_sha256(self, disk: str, offset: int, size: int) -> str:
        """The checksum of a part of a disk image on this machine, level 0."""
        return file_sha256(self.level1.level0.disks[disk], offset, size)

    def config(self, name: str, **more: object) -> GuestConfig:
        return GuestConfig(name=name, qemu=self.qemu, defaults=self.defaults, **more)  # type: ignore[arg-type]

    def needs_property(self, name: str) -> None:
        if name not in self.level1.properties(self.qemu):
            raise Skipped(f"arm-smmuv3 of this QEMU has no property '{name}'")


# --- steps that several scenarios share --------------------------------------------------------------------------------------


def small_reads(guest: Guest, count: int, disk: str = "disk0") -> None:
    guest.run(f"directio read $(disk {disk}) 0 4096 {count} >&-", timeout=180)


def start_reading(guest: Guest) -> None:
    """Leaves the guest busy with more I/O than it will ever finish."""
    guest.run("disk=$(disk disk0); directio read $disk 0 4096 16000 >&- 2>/dev/null &")


def check_counts(bench: Bench, counts: Counts, *, ranges: bool = False) -> None:
    """Checks that the work was nested, was counted by the kernel, and was batched (by a device that batches).

    ranges: the device makes ranges of pages, so fewer commands reach the host than the guest gives.
    """
    expect(counts.tlbi > 0, "the guest gave no TLBI commands: its I/O does not go through the SMMU")
    expect(counts.kernel_ioctls > 0, "level 1's kernel saw no invalidation: nothing is nested")
    expect(counts.ioctls == counts.kernel_ioctls,
           f"QEMU traced {counts.ioctls} invalidation ioctls, level 1's kernel served {counts.kernel_ioctls}")
    as_given = 0 < counts.entries < counts.invalidations if ranges else counts.entries == counts.invalidations
    expect(as_given, f"the guest gave {counts.invalidations} invalidation commands, {counts.entries} reached the host")
    expect(counts.errors == 0, f"{counts.errors} errors in QEMU's trace")
    expect(counts.doorbells > 0, "no doorbells in QEMU's trace")
    if bench.qemu != "c":
        expect(counts.ioctls <= counts.most_ioctls_expected,
               f"{counts.ioctls} ioctls for {counts.syncs} CMD_SYNCs and {counts.invalidations} commands: not batched")


def measured_io(bench: Bench, guest: Guest, *, ranges: bool = False) -> tuple[Counts, str]:
    with guest.measure() as measurement:
        checksum = copy_and_compare(bench, guest)
        small_reads(guest, 256)
    check_counts(bench, measurement.result, ranges=ranges)
    return measurement.result, checksum


# --- the scenarios ------------------------------------------------------------------------------------------------


@scenario("default", "default properties: random data written, read back, compared with the host's copy")
def default(bench: Bench) -> None:
    with bench.guest(bench.config("default")) as guest:
        measured_io(bench, guest)


@scenario("ril-off", "ril=off: one TLBI a page, and still batched, across doorbells too")
def ril_off(bench: Bench) -> None:
    with bench.guest(bench.config("ril-off", properties=",ril=off")) as guest:
        counts, _ = measured_io(bench, guest, ranges=bench.qemu != "c")
        expect(counts.tlbi > 2 * counts.syncs, f"{counts.tlbi} TLBIs for {counts.syncs} CMD_SYNCs: range invalidation is on")

        large_unmaps(bench, guest)


def large_unmaps(bench: Bench, guest: Guest) -> None:
    """Unmaps of 256 pages without range invalidation: Linux rings the doorbell every 64 commands, CMD_SYNC comes last."""
    # A device may hold a part of a batch back for the next doorbell, but not for long: the fewer traces the better.
    guest.set_trace(("smmuv3_cmdq_opcode",), False)
    with guest.measure() as measurement:
        unmap.give_to_benchmark(guest)
        unmap.latency(guest, pages=256, seconds=1)
    guest.set_trace(("smmuv3_cmdq_opcode",), True)
    counts = measurement.result
    expect(counts.ioctls == counts.kernel_ioctls,
           f"QEMU traced {counts.ioctls} invalidation ioctls, level 1's kernel served {counts.kernel_ioctls}")
    seen = f"{counts.doorbells} doorbells, {counts.ioctls} ioctls, {counts.entries} commands in them"
    if bench.qemu == "c":
        expect(counts.entries > 50 * counts.doorbells, f"{seen}: there were no large unmaps")
    else:
        # The 256 pages of four doorbells are one ioctl with a range for each granule: three commands.
        expect(counts.doorbells > 2 * counts.ioctls, f"{seen}: pages are not collected across doorbells")
        expect(counts.entries < 5 * counts.ioctls, f"{seen}: pages do not become ranges")


@scenario("msi", "CMD_SYNC by MSI: with msi=auto an unmap is one exit to QEMU and never reads CMDQ_CONS; with msi=off, two exits")
def msi(bench: Bench) -> None:
    bench.needs_property("msi")
    for value, exits in (("off", 2), ("auto", 1)):
        with bench.guest(bench.config(f"msi-{value}", properties=f",msi={value}")) as guest:
            measured_io(bench, guest)
            unmap.give_to_benchmark(guest)
            guest.set_trace(("smmuv3_read_mmio",), True)
            start = guest.trace_size()
            with guest.measure() as measurement:
                unmap.latency(guest, pages=1, seconds=1)
            counts = measurement.result
            polls = len(guest.trace_lines("smmuv3_read_mmio addr: 0x9c ", start))
            check_counts(bench, counts)
            expect(counts.syncs > 100, f"msi={value}: only {counts.syncs} unmaps in a second")
            # The guest's console takes a few exits.
            expect(exits * counts.syncs <= counts.user_exits < (exits + 0.5) * counts.syncs,
                   f"msi={value}: {counts.user_exits} exits to QEMU for {counts.syncs} unmaps, not {exits} each")
            # An unmap never finds the queue full, so it reads CMDQ_CONS only to wait.
            expect(polls >= counts.syncs if value == "off" else polls == 0,
                   f"msi={value}: the guest has read CMDQ_CONS {polls} times in {counts.syncs} unmaps")


@scenario("two-vcpus", "two vCPUs with I/O in parallel")
def two_vcpus(bench: Bench) -> None:
    with bench.guest(bench.config("two-vcpus", smp=2)) as guest:
        expect(guest.run("nproc") == "2", "level 2 does not have two CPUs")
        with guest.measure() as measurement:
            parallel_jobs(bench, guest, {f"job{job}": ("disk0", 4 * job) for job in range(4)})
        check_counts(bench, measurement.result)


@scenario("reboot", "the guest reboots inside the same QEMU, then the machine is reset under I/O; I/O after each")
def reboot(bench: Bench) -> None:
    with bench.guest(bench.config("reboot")) as guest:
        first = copy_and_compare(bench, guest)
        guest.reboot()
        again = guest.run(f"directio read $(disk disk0) 0 {MIB} 8 | sha256sum").split()[0]
        expect(again == first, f"after the reboot level 2 reads {again}, not {first}")
        copy_and_compare(bench, guest)

        start_reading(guest)
        guest.qmp.command("system_reset")
        guest.wait_booted()
        measured_io(bench, guest)


@scenario("illegal-command", "illegal commands in the guest's queue: registers, the guest driver's recovery, I/O afterwards")
def illegal_command(bench: Bench) -> None:
    provoked = re.compile(r"unexpected global error reported \(0x0000000[01]\)|CMDQ error \(cons 0x01......\): Illegal command"
                          r"|skipping command in error state|\t0x[0-9a-f]{16}$")
    with bench.guest(bench.config("illegal-command"), harmless=provoked) as guest:
        copy_and_compare(bench, guest)
        start = guest.trace_size()
        text = guest.run("badcmd illegal")
        injected = int(text.splitlines()[-1].removeprefix("injected "))
        illegal = len(re.findall(r"^.* at 0x", text, re.MULTILINE))

        # The same in QEMU's trace: CERROR_ILL (1) each time, and GERROR.CMDQ_ERR toggled.
        errors = guest.trace_lines("smmuv3_cmdq_consume_error", start)
        expect(len(errors) == illegal and all(line.endswith(": 1") for line in errors),
               f"{illegal} illegal commands, but QEMU traced:\n" + "\n".join(errors))
        toggled = guest.trace_lines("smmuv3_write_gerror toggled=0x1,", start)
        expect(len(toggled) == illegal, f"{illegal} illegal commands, but GERROR.CMDQ_ERR was toggled {len(toggled)} times")

        # One of them was left to the guest's driver, which must have logged it and recovered.
        messages = [line for _, line in guest.log.lines()]
        for wanted in (r"CMDQ error \(cons 0x01......\): Illegal command", r"skipping command in error state"):
            found = [line for line in messages if re.search(wanted, line)]
            expect(len(found) == 1, f"level 2's driver said '{wanted}' {len(found)} times")

        # A million CMD_SYNCs are not traced.
        guest.set_trace(BUSY_EVENTS, False)
        guest.run(f"badcmd rewind {injected}", timeout=120)
        guest.set_trace(BUSY_EVENTS, True)
        measured_io(bench, guest)


@scenario("killed", "QEMU is killed under I/O: the host gets its device back in order, and the next QEMU does")
def killed(bench: Bench) -> None:
    for turn in ("first", "second"):
        with bench.guest(bench.config(f"killed-{turn}")) as guest:
            copy_and_compare(bench, guest, mib=2)
            start_reading(guest)
        # The guest is killed at the end of the block; now no process may hold the device or an iommufd.
        holders = bench.level1.shell.run("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E '/dev/(iommu|vfio)' || true")
        expect(not holders, f"files that are still open after QEMU's end:\n{holders}")
        bench.level1.use_from_level1("disk0")


@scenario("two-devices", "two devices behind one SMMU, with I/O in parallel")
def two_devices(bench: Bench) -> None:
    two_disks(bench, bench.config("two-devices", smmus=(("disk0", "disk1"),)))


@scenario("two-smmus", "two SMMUs with a device each, and I/O in parallel")
def two_smmus(bench: Bench) -> None:
    two_disks(bench, bench.config("two-smmus", smmus=(("disk0",), ("disk1",))))


def two_disks(bench: Bench, config: GuestConfig) -> None:
    with bench.guest(config) as guest:
        with guest.measure() as measurement:
            parallel_jobs(bench, guest, {"first": ("disk0", 0), "second": ("disk1", 0)})
        check_counts(bench, measurement.result)


@scenario("dma-fault", "a DMA to an address that is not mapped: the event comes all the way up to the guest's driver")
def dma_fault(bench: Bench) -> None:
    with bench.guest(bench.config("dma-fault", smmus=(("disk0", "edu"),)), harmless=TRANSLATION_FAULT) as guest:
        faulting_dma(guest, 0xDEAD000)
        measured_io(bench, guest)


@scenario("isolation", "a device's DMA goes where tables and registers say, through all their changes, and nowhere else")
def isolation(bench: Bench) -> None:
    with bench.guest(bench.config("isolation", smmus=(("edu", "disk0"),)), harmless=FAULTS) as guest:
        copy_and_compare(bench, guest)
        guest.run(f"isolation states {edu_address(guest)}", timeout=180)
        # The disk behind the same SMMU has its translation again.
        measured_io(bench, guest)
