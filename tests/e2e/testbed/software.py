# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""One level: Linux on a machine that the QEMU under test emulates, with emulated devices behind its SMMUv3 (accel=off)."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import hold
from .checks import HARMLESS, expect, file_sha256
from .consoles import Qmp, Shell, TestbedError
from .images import FIRMWARE, Images, make_disk
from .kernellog import KernelLog
from .machine import SMMU_ERRORS, Machine, Trace, smmu_globals, trace_options

Device = dict[str, Any]  # the properties that -device and device_add take

DISK_MIB = 64
IOTHREADS = ("io0", "io1")
_VIRTIO: Device = {"iommu_platform": True, "disable-legacy": "on"}
# The devices behind an SMMU, by name. disk1's requests are served, and translated, by two I/O threads.
DEVICES: dict[str, Device] = {
    "disk0": {"driver": "nvme", "drive": "disk0", "serial": "disk0"},
    "disk1": {"driver": "virtio-blk-pci", "drive": "disk1", "serial": "disk1", "num-queues": len(IOTHREADS),
              "iothread-vq-mapping": [{"iothread": name} for name in IOTHREADS], **_VIRTIO},
    "net0": {"driver": "e1000e", "netdev": "net0", "romfile": ""},
    "net1": {"driver": "virtio-net-pci", "netdev": "net1", "romfile": "", **_VIRTIO},
    "edu": {"driver": "edu", "dma_mask": (1 << 40) - 1},
}
_ENDS = {"console": "serial", "shell": "console", "qmp": "monitor"}


@dataclass(frozen=True)
class Smmu:
    """A -device arm-smmuv3 with a bus of its own; each of its devices is behind a root port."""

    devices: Sequence[str]
    stage: str = "1"


@dataclass(frozen=True)
class SoftwareConfig:
    """`devices` sit on the machine's own PCI bus, and are translated if the machine is told to have an SMMU."""

    name: str
    machine: str = "virt"
    devices: Sequence[str] = ()
    smmus: Sequence[Smmu] = ()
    firmware: bool = False  # UEFI and ACPI; otherwise Linux gets a device tree
    append: str = ""
    events: Sequence[str] = SMMU_ERRORS  # traced from the beginning
    backends: dict[str, str] = field(default_factory=dict)  # of disks: -blockdev's options, when it is not an image

    @property
    def all_devices(self) -> list[str]:
        return [*self.devices, *(name for smmu in self.smmus for name in smmu.devices)]

    @staticmethod
    def device(name: str, bus: str) -> Device:
        return {**DEVICES[name], "id": name, "bus": bus}

    def command(self, emulator: Path, images: Images, initrd: Path, disks: dict[str, Path], trace: Path) -> list[str]:
        words = [str(emulator), "-M", f"{self.machine},gic-version=3", "-cpu", "neoverse-n1", "-smp", "2", "-m", "1G",
                 "-accel", "tcg,thread=multi", "-nodefaults", "-display", "none", "-kernel", str(images.image),
                 "-initrd", str(initrd),
                 "-append", f"console=ttyAMA0 rdinit=/init panic=-1 loglevel=4 {self.append}".strip()]
        if self.firmware:
            words += ["-bios", str(FIRMWARE)]
        for name in IOTHREADS:
            words += ["-object", f"iothread,id={name}"]
        for name in self.all_devices:
            if name in disks:
                backend = self.backends.get(name, f"driver=raw,file.driver=file,file.filename={disks[name]}")
                words += ["-blockdev", f"{backend},node-name={name}"]
            if name.startswith("net"):
                words += ["-netdev", f"hubport,id={name},hubid=0"]
        for device in self._devices():
            words += ["-device", json.dumps(device)]
        return words + trace_options(trace, self.events)

    def _devices(self) -> Iterator[Device]:
        for name in self.devices:
            yield self.device(name, "pcie.0")
        chassis = 0
        for number, smmu in enumerate(self.smmus):
            bus = f"pxb{number}"
            yield {"driver": "pxb-pcie", "id": bus, "bus_nr": 8 * (number + 1), "bus": "pcie.0"}
            yield {"driver": "arm-smmuv3", "id": f"smmu{number}", "primary-bus": bus, "stage": smmu.stage}
            for name in smmu.devices:
                chassis += 1
                yield {"driver": "pcie-root-port", "id": self.port(name), "bus": bus, "chassis": chassis, "slot": chassis}
                yield self.device(name, self.port(name))

    @staticmethod
    def port(name: str) -> str:
        return f"port-{name}"


class SoftwareGuest:
    """A running guest, with the interface of one of level 2."""

    def __init__(self, config: SoftwareConfig, machine: Machine, trace: Path) -> None:
        self.config = config
        self.machine = machine
        self.shell = Shell(machine.pump, machine.streams[f"{config.name}-shell"])
        self.qmp = Qmp(machine.pump, machine.streams[f"{config.name}-qmp"])
        self.log = KernelLog(self.shell)
        self.trace = Trace(trace, self.qmp)

    def connect(self) -> None:
        self.qmp.connect(20)
        self.wait_booted()

    def wait_booted(self) -> None:
        self.shell.wait_ready(120)

    def run(self, code: str, timeout: float = 60) -> str:
        return self.shell.run(code, timeout)

    def group_types(self) -> dict[str, str]:
        """PCI address and type of IOMMU group of every device that is no bridge."""
        text = self.run("""for d in /sys/bus/pci/devices/*; do
            case $(cat $d/class) in 0x06*) ;; *) echo $(basename $d) $(cat $d/iommu_group/type 2>/dev/null || echo none);; esac; done""")
        return dict(line.split() for line in text.splitlines())


@dataclass(frozen=True)
class Place:
    """Where the scenarios of this level run. `emulator` is the QEMU under test, for this machine.

    `defaults` are properties of every arm-smmuv3 (--property), `reference` is a QEMU with the C device for scenarios that compare.
    """

    images: Images
    emulator: Path
    work: Path
    logs: Path
    defaults: Sequence[str] = ()
    reference: Path | None = None

    def disk(self, name: str) -> Path:
        return self._disks[name]

    @property
    def _disks(self) -> dict[str, Path]:
        return {name: self.work / f"{name}.img" for name in ("disk0", "disk1")}

    def host_sha256(self, disk: str, offset: int, size: int) -> str:
        return file_sha256(self._disks[disk], offset, size)

    def _initrd(self) -> Path:
        path = self.work / "guest.cpio"
        if not path.exists():
            path.write_bytes(self.images.guest())
        return path

    @contextmanager
    def machine(self, config: SoftwareConfig, emulator: Path | None = None) -> Iterator[SoftwareGuest]:
        """A booted guest."""
        for path in self._disks.values():
            if not path.exists():
                make_disk(path, DISK_MIB)
        trace = self.logs / f"{config.name}-trace.log"
        command = config.command(emulator or self.emulator, self.images, self._initrd(), self._disks, trace)
        machine = Machine(config.name, [*command, *smmu_globals(self.defaults)], {f"{config.name}-{line}": end for line, end in _ENDS.items()}, self.logs)
        try:
            guest = SoftwareGuest(config, machine, trace)
            with hold.at_end("the guest", {"1": guest.shell}, guest.qmp):
                guest.connect()
                yield guest
        finally:
            machine.close()

    @contextmanager
    def guest(self, config: SoftwareConfig, harmless: re.Pattern[str] = HARMLESS) -> Iterator[SoftwareGuest]:
        """A booted guest of a scenario; when the block has ended well, its kernel's log and QEMU's must be clean."""
        with self.machine(config) as guest:
            yield guest
            if errors := guest.log.errors(harmless):
                raise TestbedError("the guest's kernel reports:\n" + "\n".join(errors[:20]))
            if harmless is HARMLESS:
                troubles = guest.trace.troubles()
                expect(not troubles, "QEMU has traced events or command errors:\n" + "\n".join(troubles[:20]))
