# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Emulated devices beside an assigned disk, behind one accelerated SMMU: their DMA is QEMU's, or a vhost-user backend's."""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
# Network devices, which are connected to each other by a vhost-user backend. It keeps translations that the SMMU invalidates.
NETS = ("net0", "net1")
FRAMES = 300  # in each direction
_BACKEND_LOG = "/tmp/vhostloop.log"
# The emulated devices by their IDs. The requests of one disk are served by an I/O thread.
DEVICES = {
    "nvme": {"driver": "nvme", "drive": "nvme", "serial": "nvme"},
    "virtio": {"driver": "virtio-blk-pci", "drive": "virtio", "serial": "virtio", "iothread": "thread", "iommu_platform": "on",
               "disable-legacy": "on"},
    "edu": {"driver": "edu", "dma_mask": str((1 << 40) - 1)},
    **{net: {"driver": "virtio-net-pci", "netdev": net, "iommu_platform": "on", "disable-legacy": "on", "romfile": ""} for net in NETS},
}


def socket_of(net: str) -> str:
    return f"/tmp/vhost-{net}"


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
        for net in NETS:
            words += ["-chardev", f"socket,id={net},path={socket_of(net)}", "-netdev", f"vhost-user,id={net},chardev={net}"]
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


def frames_on_nets(guest: Guest) -> None:
    """Every frame arrives unchanged at the other network device."""
    interfaces = guest.run("ls /sys/class/net | grep -v '^lo$'").split()
    moved = int(guest.run(f"netloop {' '.join(interfaces)} {FRAMES}", timeout=120))
    expect(moved > 2 * FRAMES * 60, f"netloop moved {moved} bytes only")


@contextmanager
def backend(bench: Bench) -> Iterator[None]:
    """For the `with` block, in which the guest runs and ends: what the network devices send goes through the backend."""
    shell = bench.level1.shell
    shell.run(f"vhostloop {' '.join(map(socket_of, NETS))} >{_BACKEND_LOG} 2>&1 & echo $! >/tmp/vhostloop.pid")
    try:
        yield
        shell.run("n=0; while kill -0 $(cat /tmp/vhostloop.pid) 2>/dev/null && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done")
        text = shell.run(f"cat {_BACKEND_LOG}")
        counts = re.fullmatch(r"(\d+) frames, \d+ bytes, (\d+) misses, (\d+) invalidations, 0 dropped", text.strip())
        expect(counts is not None and int(counts[1]) >= 4 * FRAMES and int(counts[2]) > 0 and int(counts[3]) > FRAMES,
               f"the backend must have asked for translations and got invalidations, and dropped no frame: {text}")
    finally:
        shell.run(f"kill $(cat /tmp/vhostloop.pid) 2>/dev/null; rm -f {' '.join(map(socket_of, NETS))}")


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


@scenario("emulated", "emulated disks (NVMe, virtio with an I/O thread), vhost-user and edu beside an assigned disk: checksums, hot-plug, reset")
def emulated(bench: Bench) -> None:
    if bench.qemu == "c":
        raise Skipped("the C device refuses emulated devices behind an accelerated SMMU")
    for image in DISKS.values():
        bench.level1.shell.run(f"rm -f {image}; truncate -s {_IMAGE_MIB}M {image}")
    config = MixedConfig(name="emulated", qemu=bench.qemu, defaults=bench.defaults, smp=2, append=SMALL_HOTPLUG_WINDOWS,
                         updatable=True)
    with backend(bench), bench.guest(config, harmless=FAULTS) as guest:
        kinds = guest.run("cat /sys/bus/pci/devices/*/iommu_group/type | sort | uniq -c")
        expect(re.search(r"^\s*\d+ DMA$", kinds, re.MULTILINE) is not None, f"no device is translated by tables of its own:\n{kinds}")
        io_on_all(bench, guest, 0)
        frames_on_nets(guest)
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
        frames_on_nets(guest)

        guest.qmp.command("system_reset")
        guest.wait_booted()
        io_on_all(bench, guest, 3)
        frames_on_nets(guest)
        expect(edu_address(guest) != "", "the edu device is gone after a reset")
    for image in DISKS.values():
        bench.level1.shell.run(f"rm -f {image}")
