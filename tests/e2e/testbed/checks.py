# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Checks that several beds share."""
from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Protocol

from .consoles import Qmp, TestbedError
from .kernellog import KernelLog

MIB = 1 << 20
# Error-level messages of a healthy boot on these machines.
HARMLESS = re.compile(r"$^")
# Linux reserves more windows behind an empty slot than fit, and then shrinks another slot's.
SMALL_HOTPLUG_WINDOWS = "pci=hpiosize=0,hpmmioprefsize=0"
# What a guest's driver logs for a write to an address that is not mapped...
TRANSLATION_FAULT = re.compile(r"event: F_TRANSLATION|event 0x10 received|unpriv data write|\t0x[0-9a-f]{16}$")
# ...and for everything that tests/e2e/guest/isolation.c provokes.
FAULTS = re.compile(r"event: |event 0x.. received|data write|\t0x[0-9a-f]{16}$|callbacks suppressed")

_EDU_ARRIVES = "for i in $(seq 300); do grep -qx 0x11e8 /sys/bus/pci/devices/*/device && exit 0; sleep 0.1; done; exit 1"


class Shells(Protocol):
    """A guest that runs commands."""

    def run(self, code: str, timeout: float = 60) -> str: ...


class LoggedGuest(Shells, Protocol):
    log: KernelLog


class PluggableConfig(Protocol):
    def port(self, name: str) -> str: ...

    def device(self, name: str, bus: str) -> dict[str, str]: ...


class PluggableGuest(Shells, Protocol):
    """A guest with a root port for each device."""

    qmp: Qmp

    @property
    def config(self) -> PluggableConfig: ...


class Host(Protocol):
    """The owner of the images of the guest's disks."""

    def host_sha256(self, disk: str, offset: int, size: int) -> str: ...


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise TestbedError(otherwise)


def file_sha256(path: Path, offset: int, size: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(size)).hexdigest()


def copy_and_compare(host: Host, guest: Shells, disk: str = "disk0", at_mib: int = 0, mib: int = 8) -> str:
    """The guest writes random data and reads it back, both past its page cache; three checksums must agree.

    Returns the checksum.
    """
    written, read = guest.run(f"""
        disk=$(disk {disk}) && head -c {mib * MIB} /dev/urandom >data &&
        sha256sum <data && directio write $disk {at_mib * MIB} {MIB} {mib} <data && rm data &&
        directio read $disk {at_mib * MIB} {MIB} {mib} | sha256sum""", timeout=120).split()[::2]
    on_host = host.host_sha256(disk, at_mib * MIB, mib * MIB)
    expect(written == read, f"{disk}: the guest wrote {written} and read back {read}")
    expect(written == on_host, f"{disk}: the guest wrote {written}, the image on the host has {on_host}")
    return written


def parallel_jobs(host: Host, guest: Shells, jobs: dict[str, tuple[str, int]], mib: int = 4) -> None:
    """`jobs`: a name, the disk and the MiB to begin at. All write random data concurrently and compare what they read back."""
    job = f"""job() {{ d=$(disk $2) && head -c {mib * MIB} /dev/urandom >$1 && at=$(($3 * {MIB})) &&
        directio write $d $at 65536 {mib * 16} <$1 && directio read $d $at 16384 {mib * 64} | cmp - $1 &&
        echo $1 $(sha256sum <$1); rm $1; }};"""
    started = "".join(f"job {name} {disk} {at} & " for name, (disk, at) in jobs.items())
    text = guest.run(f"{job} {started} wait", timeout=180)
    sums = {line.split()[0]: line.split()[1] for line in text.splitlines() if len(line.split()) > 1}
    expect(set(sums) == set(jobs), f"not all jobs ended well:\n{text}")
    for name, (disk, at) in jobs.items():
        on_host = host.host_sha256(disk, at * MIB, mib * MIB)
        expect(sums[name] == on_host, f"{name}: the guest wrote {sums[name]} to {disk}, the image on the host has {on_host}")


def expect_stage(lines: list[str], stage: int, reads: int, what: str) -> None:
    """`lines`: the trace of a number of reads. Each must have been translated, by this stage (3: both)."""
    found = Counter(re.findall(r"smmuv3_translate_success .* stage=(\d+)", "\n".join(lines)))
    expect(found[str(stage)] >= reads, f"{what}: {reads} reads gave translations by stages {dict(found)}, not by {stage}")


def edu_address(guest: Shells) -> str:
    """The edu device's PCI address in the guest."""
    path = guest.run("grep -l 0x11e8 /sys/bus/pci/devices/*/device")
    return path.split("/")[-2]


def faulting_dma(guest: LoggedGuest, iova: int) -> None:
    """The edu device writes to an address that is not mapped, and the guest's driver must log that."""
    guest.run(f"isolation write {edu_address(guest)} {iova:#x}")
    guest.run("for i in $(seq 100); do dmesg | grep -q 'event: ' && break; sleep 0.1; done")
    messages = [text for _, text in guest.log.lines()]
    expect(any(re.search(rf"event: F_TRANSLATION .*iova: {iova:#x}", text) for text in messages),
           "the guest's driver has not reported the fault; its last messages:\n" + "\n".join(messages[-5:]))


def unplug(guest: PluggableGuest, *devices: str) -> None:
    """Returns when the guest has released the devices. A root port accepts a request only after the preceding one."""
    guest.qmp.discard_events()
    for name in devices:
        guest.qmp.command("device_del", {"id": name})
    for name in devices:
        guest.qmp.wait_event("DEVICE_DELETED", 60, device=name)


def plug(guest: PluggableGuest, *devices: str) -> None:
    """Returns when the guest uses the devices."""
    for name in devices:
        guest.qmp.command("device_add", guest.config.device(name, guest.config.port(name)))
    for name in devices:
        guest.run(_EDU_ARRIVES if name == "edu" else f"disk {name}", timeout=60)
