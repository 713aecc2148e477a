# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Judges: drivers and tests of others, given as binaries (docs/judges.md), on the Rust device and on QEMU's C device."""
from __future__ import annotations

import lzma
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from .checks import Shells, copy_and_compare, expect, expect_stage
from .consoles import Qmp, Shell
from .fat import fat_image
from .images import BUSYBOX, FIRMWARE, GUEST, Cpio, make_disk
from .machine import SMMU_ERRORS, Machine, Trace, smmu_globals, trace_options
from .registry import Bed, Skipped, register
from .software import DISK_MIB, Place

scenario = partial(register, Bed.SOFTWARE, on_request=True, qemus=("c-x86",))

ACS = "JUDGE_ACS"  # a directory with Bsa.efi and Sbsa.efi
XEN = "JUDGE_XEN"  # Xen for arm64
DOM0 = "JUDGE_DOM0"  # Debian's package with the kernel of dom0

_MODULES = ("nvme-auth", "nvme-core", "nvme", "virtio_mmio")
_RULE = re.compile(rb"^\s*(\w+) : \d+ : .*?Result:\s+([A-Z ]+)", re.MULTILINE | re.DOTALL)
_ESCAPES = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


def _given(variable: str, what: str) -> Path:
    if value := os.environ.get(variable):
        return Path(value)
    raise Skipped(f"{variable} does not name {what}")


def _both(place: Place) -> dict[str, Path]:
    """The QEMUs to compare. The C device comes second."""
    assert place.reference is not None
    return {"tested": place.emulator, "c": place.reference}


def rules_in(console: bytes) -> dict[str, str]:
    """The results of an Arm compliance suite, by rule."""
    return {rule.decode(): result.decode().strip() for rule, result in _RULE.findall(_ESCAPES.sub(b"", console).replace(b"\r", b""))}


def _run_acs(place: Place, name: str, emulator: Path, image: Path, smmu: Sequence[str]) -> dict[str, str]:
    words = [str(emulator), *smmu, "-cpu", "max", "-smp", "2", "-m", "1G", "-nodefaults", "-display", "none", "-bios", str(FIRMWARE),
             "-blockdev", f"driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename={image}",
             "-device", "virtio-blk-pci,drive=disk", *trace_options(place.logs / f"{name}-trace.log", SMMU_ERRORS)]
    if emulator == place.emulator:
        words += smmu_globals(place.defaults)
    machine = Machine(name, words, {f"{name}-console": "serial"}, place.logs)
    try:
        line = machine.streams[f"{name}-console"]
        taken = machine.pump.wait(lambda: line.take(re.compile(rb"judges-ended\r?\n")), 400, f"end of the suites on {name}")
    finally:
        machine.close()
    return rules_in(taken.before)


@scenario("judge-acs", "Arm's BSA and SBSA compliance suites: the SMMU's rules, the same results as on the C device")
def acs(place: Place) -> None:
    directory = _given(ACS, "a directory with Bsa.efi and Sbsa.efi")
    image = place.work / "acs.img"
    script = "fs0:\r\nbsa.efi -v 3 -m SMMU\r\nsbsa.efi -v 3 -m SMMU -l 8\r\necho judges-ended\r\n"
    image.write_bytes(fat_image({**{name: (directory / name).read_bytes() for name in ("Bsa.efi", "Sbsa.efi")},
                                 "startup.nsh": script.encode()}))
    for kind, smmu in {"machine": ("-M", "virt,gic-version=3,iommu=smmuv3"),
                       "device": ("-M", "virt,gic-version=3", "-device", "arm-smmuv3,primary-bus=pcie.0")}.items():
        found = {device: _run_acs(place, f"judge-acs-{kind}-{device}", emulator, image, smmu)
                 for device, emulator in _both(place).items()}
        expect(found["tested"].get("B_SMMU_02") == "PASSED" and len(found["tested"]) >= 20, f"too few results: {found['tested']}")
        expect(found["tested"] == found["c"], f"{kind}: other results than the C device's: {sorted(found['tested'].items() ^ found['c'].items())}")


def _unpack_dom0(package: Path, to: Path) -> tuple[Path, Cpio]:
    """The kernel of a Debian package, and the initramfs of dom0 without the testbed's tools."""
    subprocess.run(["dpkg-deb", "--extract", package, to], check=True)
    cpio = Cpio()
    cpio.file("init", (GUEST / "dom0-init").read_bytes())
    cpio.file("bin/busybox", BUSYBOX.read_bytes())
    for name in _MODULES:
        (module,) = to.rglob(f"{name}.ko.xz")
        cpio.file(f"modules/{name}.ko", lzma.decompress(module.read_bytes()), executable=False)
    cpio.file("modules/order", "".join(f"{name}\n" for name in _MODULES).encode(), executable=False)
    (kernel,) = (to / "boot").glob("vmlinuz-*")
    return kernel, cpio


class _Dom0(Shells):
    def __init__(self, machine: Machine, name: str, trace: Path) -> None:
        self._shell = Shell(machine.pump, machine.streams[f"{name}-shell"])
        self._qmp = Qmp(machine.pump, machine.streams[f"{name}-qmp"])
        self.trace = Trace(trace, self._qmp)
        self._qmp.connect(20)
        self._shell.wait_ready(240)

    def run(self, code: str, timeout: float = 60) -> str:
        return self._shell.run(code, timeout)


@contextmanager
def _dom0(place: Place, name: str, emulator: Path, xen: Path, kernel: Path, initrd: Path) -> Iterator[tuple[_Dom0, Machine]]:
    disk = place.disk("disk0")
    if not disk.exists():
        make_disk(disk, DISK_MIB)
    trace = place.logs / f"{name}-trace.log"
    words = [str(emulator), "-M", "virt,iommu=smmuv3,gic-version=3,virtualization=on", "-cpu", "neoverse-n1", "-smp", "2", "-m", "2G",
             "-accel", "tcg,thread=multi", "-nodefaults", "-display", "none", "-kernel", str(xen),
             "-append", "dom0_mem=768M dom0_max_vcpus=2 loglvl=all iommu=verbose pci-passthrough=on",
             "-device", f"guest-loader,addr=0x4a000000,kernel={kernel},bootargs=console=hvc0 rdinit=/init panic=-1 loglevel=7",
             "-device", f"guest-loader,addr=0x50000000,initrd={initrd}",
             "-blockdev", f"driver=raw,node-name=disk0,file.driver=file,file.filename={disk}", "-device", "nvme,drive=disk0,serial=disk0",
             *trace_options(trace, (*SMMU_ERRORS, "smmuv3_cmdq_opcode"))]
    if emulator == place.emulator:
        words += smmu_globals(place.defaults)
    machine = Machine(name, words, {f"{name}-console": "serial", f"{name}-shell": "console", f"{name}-qmp": "monitor"}, place.logs)
    try:
        yield _Dom0(machine, name, trace), machine
    finally:
        machine.close()


@scenario("judge-xen", "Xen's driver: dom0's disk through stage 2, checksums, the same commands as on the C device, no event")
def xen(place: Place) -> None:
    hypervisor = _given(XEN, "Xen for arm64")
    kernel, cpio = _unpack_dom0(_given(DOM0, "a package with a kernel"), place.work / "dom0")
    place.images.add_tools(cpio)
    initrd = place.work / "dom0.cpio"
    initrd.write_bytes(cpio.finish())
    commands = {}
    for device, emulator in _both(place).items():
        name = f"judge-xen-{device}"
        with _dom0(place, name, emulator, hypervisor, kernel, initrd) as (dom0, machine):
            copy_and_compare(place, dom0, "disk0")
            with dom0.trace.of("smmuv3_translate_success") as lines:
                dom0.run("directio read $(disk disk0) 0 4096 16 >&-")
            expect_stage(lines, 2, 16, name)
            troubles = dom0.trace.troubles()
            expect(not troubles, "QEMU has traced events or command errors:\n" + "\n".join(troubles[:20]))
            console = bytes(machine.streams[f"{name}-console"].buffer)
            expect(b"Added master device (SMMUv3" in console, f"{name}: Xen has not put a device behind its SMMU")
            commands[device] = Counter(re.findall(r"smmuv3_cmdq_opcode <--- (\w+)", "\n".join(dom0.trace.lines())))
    expect(commands["tested"] == commands["c"] and commands["c"]["SMMU_CMD_CFGI_STE"] >= 2,
           f"other commands than on the C device: {commands}")
