# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Emulated devices beside an assigned disk, behind one accelerated SMMU."""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from .checks import FAULTS, MIB, SMALL_HOTPLUG_WINDOWS, copy_and_compare, edu_address, expect, faulting_dma, parallel_jobs
from .levels import Guest, GuestConfig
from .registry import Bed, Skipped, register
from .scenarios import Bench, check_counts

scenario = partial(register, Bed.NESTED)

_IMAGE_MIB = 64
# Names of emulated disks, which are their serial numbers, and their images in level 1.
DISKS = {"nvme": "/tmp/emulated-nvme.img", "virtio": "/tmp/emulated-virtio.img"}
# The emulated devices by their IDs. The requests of one disk are served by an I/O thread.
DEVICES = {
    "nvme": {"driver": "nvme", "drive": "nvme", "serial": "nvme"},
    "virtio": {"driver": "virtio-blk-pci", "drive": "virtio", "serial": "virtio", "iothread": "thread", "iommu_platform": "on",
               "disable-legacy": "on"},
    "edu": {"driver": "edu", "dma_mask": str((1 << 40) - 1)},
}


@dataclass(frozen=True)
class MixedConfig(GuestConfig):
    """A guest with emulated devices behind its first SMMU, too."""

    def device(self, name: str, bus: str) -> dict[str, str]:
        return {"id": name, "bus": bus, **DEVICES[name]} if name in DEVICES else super().device(name, bus)

    def port(self, name: str) -> str:
        return f"port-{name}" if name in DEVICES else super().port(name)

    def command(self) -> list[str]:
        words = [*super().command(), "-object", "iothread,id=thread"]
        for name, image in DISKS.items():
            words += ["-blockdev", f"file,filename={image},node-name={name}"]
        for chassis, name in enumerate(DEVICES, start=50):
            device = ",".join(f"{key}={value}" for key, value in self.device(name, self.port(name)).items())
            words += ["-device", f"pcie-root-port,id={self.port(name)},bus=pxb0,chassis={chassis},slot={chassis}", "-device", device]
        return words


@dataclass(frozen=True)
class Images:
    """The images of assigned disks on this machine, and of emulated ones in level 1."""

    bench: Bench

    def host_sha256(self, disk: str, offset: int, size: int) -> str:
        if disk not in DISKS:
            return self.bench.host_sha256(disk, offset, size)
        read = f"dd if={DISKS[disk]} bs={MIB} iflag=skip_bytes,count_bytes skip={offset} count={size} 2>/dev/null"
        return self.bench.level1.shell.run(f"{read} | sha256sum").split()[0]


def io_on_all(bench: Bench, guest: Guest, turn: int) -> None:
    """All disks are written, read back and compared at the same time."""
    jobs = {name: (name, 8 * turn) for name in ("disk0", *DISKS)}
    parallel_jobs(Images(bench), guest, jobs, mib=2)


def statistics(guest: Guest) -> dict[str, dict[str, int]]:
    return guest.qmp.command("qom-get", {"path": "/machine/peripheral/smmu0", "property": "statistics"})  # type: ignore[return-value]


def unplug(guest: Guest, name: str) -> None:
    guest.qmp.discard_events()
    guest.qmp.command("device_del", {"id": name})
    guest.qmp.wait_event("DEVICE_DELETED", 60, device=name)


def plug(guest: Guest, name: str) -> None:
    device = guest.config.device(name, guest.config.port(name))
    guest.qmp.command("device_add", device)
    guest.run(f"disk {name}", timeout=60)


@scenario("emulated", "emulated disks (NVMe, virtio with an I/O thread) and edu beside an assigned disk: checksums, faults, hot-plug, reset")
def emulated(bench: Bench) -> None:
    if bench.qemu == "c":
        raise Skipped("the C device refuses emulated devices behind an accelerated SMMU")
    for image in DISKS.values():
        bench.level1.shell.run(f"rm -f {image}; truncate -s {_IMAGE_MIB}M {image}")
    config = MixedConfig(name="emulated", qemu=bench.qemu, defaults=bench.defaults, smp=2, append=SMALL_HOTPLUG_WINDOWS)
    with bench.guest(config, harmless=FAULTS) as guest:
        kinds = guest.run("cat /sys/bus/pci/devices/*/iommu_group/type | sort | uniq -c")
        expect(re.search(r"^\s*\d+ DMA$", kinds, re.MULTILINE) is not None, f"no device is translated by tables of its own:\n{kinds}")
        io_on_all(bench, guest, 0)
        with guest.measure() as measurement:
            copy_and_compare(Images(bench), guest, "virtio", at_mib=32, mib=2)
            copy_and_compare(bench, guest, "disk0", at_mib=32, mib=2)
        check_counts(bench, measurement.result)
        translations = statistics(guest)["translations"]
        expect(translations["walks"] > 100, f"the emulated disks do not go through the SMMU: {translations}")

        # Both kinds of devices fault into one Event queue.
        faulting_dma(guest, 0xDEAD000)

        # Each kind comes and goes while the other works.
        for gone, other in (("disk0", "virtio"), ("nvme", "disk0")):
            unplug(guest, gone)
            copy_and_compare(Images(bench), guest, other, at_mib=40, mib=2)
            plug(guest, gone)
            copy_and_compare(Images(bench), guest, gone, at_mib=40, mib=2)
        io_on_all(bench, guest, 2)

        guest.qmp.command("system_reset")
        guest.wait_booted()
        io_on_all(bench, guest, 3)
        expect(edu_address(guest) != "", "the edu device is gone after a reset")
    for image in DISKS.values():
        bench.level1.shell.run(f"rm -f {image}")
