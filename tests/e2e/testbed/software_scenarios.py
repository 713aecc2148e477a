# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Scenarios without acceleration: the QEMU under test translates every DMA of its own devices."""
from __future__ import annotations

from functools import partial

from .checks import (FAULTS, MIB, SMALL_HOTPLUG_WINDOWS, Shells, copy_and_compare, edu_address, expect, expect_stage,
                     faulting_dma, parallel_jobs, plug, unplug)
from .registry import Bed, register
from .software import Place, Smmu, SoftwareConfig, SoftwareGuest

scenario = partial(register, Bed.SOFTWARE)

ALL = ("disk0", "disk1", "net0", "net1")
FRAMES = 400  # in each direction


def frames_and_compare(guest: Shells) -> None:
    """Frames from the e1000e to the virtio-net device and back."""
    interfaces = " ".join(name for name in guest.run("ls /sys/class/net").split() if name != "lo")
    moved = int(guest.run(f"netloop {interfaces} {FRAMES}", timeout=90))
    expect(moved > 2 * FRAMES * 60, f"netloop moved {moved} bytes only")


def check_groups(guest: SoftwareGuest, kind: str) -> None:
    """Checks that Linux has every device in an IOMMU group with the configured domain type."""
    types = guest.group_types()
    wrong = {address: found for address, found in types.items() if found != kind}
    expect(len(types) >= len(guest.config.all_devices) and not wrong, f"not all devices have a domain of type {kind}: {types}")


def check_translated(guest: SoftwareGuest, stages: dict[str, int]) -> None:
    """Checks that the DMA of these disks is translated by this stage."""
    for disk, stage in stages.items():
        with guest.trace.of("smmuv3_translate_success") as lines:
            guest.run(f"directio read $(disk {disk}) 0 4096 16 >&-")
        expect_stage(lines, stage, 16, disk)


def all_io(place: Place, guest: SoftwareGuest) -> None:
    """Both disks at once, two jobs each, then the network."""
    parallel_jobs(place, guest, {f"{disk}-at-{at}": (disk, at) for disk in ("disk0", "disk1") for at in (0, 4)})
    frames_and_compare(guest)


def start_io(guest: SoftwareGuest) -> None:
    """Leaves the guest busy with more I/O than it will ever finish."""
    for disk in ("disk0", "disk1"):
        guest.run(f"disk=$(disk {disk}); iorate random $disk 4096 {16 * MIB} 2 3600000 >/dev/null 2>&1 &")


@scenario("soft-strict", "iommu=smmuv3, strict: NVMe, virtio-blk on I/O threads, two NICs; reset under I/O, and all again")
def strict(place: Place) -> None:
    config = SoftwareConfig("soft-strict", "virt,iommu=smmuv3", devices=ALL, append="iommu.passthrough=0 iommu.strict=1")
    with place.guest(config) as guest:
        expect(guest.run("nproc") == "2", "the guest does not have two CPUs")
        check_groups(guest, "DMA")
        all_io(place, guest)
        start_io(guest)
        guest.qmp.command("system_reset")
        guest.wait_booted()
        all_io(place, guest)
        check_translated(guest, {"disk0": 1, "disk1": 1})


@scenario("soft-lazy", "stage 1 only, lazy invalidation; then other kinds of domains at run time")
def lazy(place: Place) -> None:
    # The last machine type whose own SMMU does not nest.
    config = SoftwareConfig("soft-lazy", "virt-9.1,iommu=smmuv3", devices=ALL, append="iommu.passthrough=0 iommu.strict=0")
    with place.guest(config) as guest:
        check_groups(guest, "DMA-FQ")
        all_io(place, guest)
        check_translated(guest, {"disk0": 1, "disk1": 1})
        address = guest.run("basename $(readlink /sys/class/nvme/nvme0/device)").strip()
        for kind in ("identity", "DMA", "DMA-FQ"):
            guest.run(f"""echo {address} >/sys/bus/pci/drivers/nvme/unbind &&
                echo {kind} >/sys/bus/pci/devices/{address}/iommu_group/type &&
                echo {address} >/sys/bus/pci/drivers/nvme/bind""")
            expect(guest.group_types()[address] == kind, f"the disk's domain is not of type {kind}")
            copy_and_compare(place, guest, "disk0", mib=2)


@scenario("soft-stages", "an SMMU with stage 1 and one with stage 2, ACPI; both disks unplugged and plugged again")
def stages(place: Place) -> None:
    smmus = (Smmu(("disk0", "net0"), stage="1"), Smmu(("disk1", "net1"), stage="2"))
    config = SoftwareConfig("soft-stages", smmus=smmus, firmware=True, append=SMALL_HOTPLUG_WINDOWS)
    with place.guest(config) as guest:
        check_groups(guest, "DMA")
        all_io(place, guest)
        check_translated(guest, {"disk0": 1, "disk1": 2})
        unplug(guest, "disk0", "disk1")
        plug(guest, "disk0", "disk1")
        all_io(place, guest)


@scenario("soft-isolation", "without acceleration, DMA goes where tables and registers say; the event of a fault")
def isolation(place: Place) -> None:
    config = SoftwareConfig("soft-isolation", smmus=(Smmu(("edu", "disk0", "disk1")),), firmware=True)
    with place.guest(config, harmless=FAULTS) as guest:
        check_groups(guest, "DMA")
        faulting_dma(guest, 0xDEAD000)
        guest.run(f"isolation states {edu_address(guest)}", timeout=180)
        copy_and_compare(place, guest, "disk0")
        copy_and_compare(place, guest, "disk1")
