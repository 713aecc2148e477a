#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests scripts/check-host on fabricated hosts, and prints TAP.

Each test begins with a host that has everything, takes something away, and expects exactly the lines about that to change.
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True
from hostcheck import iommufd, iort  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)
from hostcheck.host import LIMIT, Host  # noqa: E402
from hostcheck.main import main  # noqa: E402
from tap import Outcome, report  # noqa: E402

COMMAND = Path(__file__).resolve().parent / "check-host"
RELEASE = "7.3.4-secretrelease"
DEVICE, OTHER = "0004:41:00.0", "0004:41:00.1"
CONFIG = """# CONFIG_UNUSED is not set
CONFIG_ARM_SMMU_V3=y
CONFIG_ARM_SMMU_V3_IOMMUFD=y
CONFIG_IOMMUFD=m
CONFIG_VFIO=m
CONFIG_VFIO_PCI=m
CONFIG_VFIO_DEVICE_CDEV=y
CONFIG_KVM=y
CONFIG_PCI_ATS=y
CONFIG_PCI_PASID=y
CONFIG_TEGRA241_CMDQV=y
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max locked memory         {0:<20} {0:<20} bytes
Max open files            1024                 4096                 files
"""
IDR = [0x0D4C143F, (20 << 6) | 32, 0, (1 << 2) | (1 << 8) | (1 << 10), 0, 0b101 | (0b111 << 4)]
# Planted where a careless report would pick them up.
SECRETS = ["secretrelease", "secrethost", "secretuser", "SERIAL", "4711", "52:54:00:ab:cd:ef", "0004:41:00", "2b080000", "ed0ff1ce"]
ATS = 0x0F
NEEDED = ("missing", "unknown")
STATES = ("ok", "note", *NEEDED)

NESTING, REGISTERS, CMDQV, COHERENCE = (f"{DEVICE} {what}" for what in ("nested translation", "ID registers", "CMDQV", "FWB or CANWBS"))
ANSWER = (REGISTERS, CMDQV)  # the checks that are left out if the device's IOMMU is not asked
UNASKED = {NESTING: "unknown", COHERENCE: "ok"}  # and those that are different then: CANWBS is still known


def table(canwbs: bool = True, ats: bool = True, segment: int = 4, mappings: list[tuple[int, int]] | None = None) -> bytes:
    """Returns an IORT with an ITS group, an SMMUv3 and a root complex, which is mapped to the SMMUv3."""
    its = struct.pack("<BHBIII", 0, 24, 1, 0, 0, 0) + struct.pack("<II", 1, 0)
    smmu_at = 48 + len(its)
    smmu = struct.pack("<BHBIII", 4, 68 + 20, 4, 1, 1, 68) + struct.pack("<QIIQI", 0x2B080000, 1, 0, 0, 0)
    smmu += bytes(68 - len(smmu)) + struct.pack("<IIIII", 0, 0xFFFF, 0, 48, 0)
    entries = mappings or [(0, smmu_at)]
    length = 40 + 20 * len(entries)
    flags = 3 | (4 if canwbs else 0)
    root = struct.pack("<BHBIII", 2, length, 3, 2, len(entries), 40)
    root += struct.pack("<IBHBII", 1, 0, 0, flags, int(ats), segment) + bytes(8)
    root += b"".join(struct.pack("<IIIII", first, 0xFFFF, 0, reference, 0) for first, reference in entries)
    nodes = its + smmu + root
    header = struct.pack("<4sIBB6s8sI4sI", b"IORT", 48 + len(nodes), 5, 0, b"SERIAL", b"-4711   ", 1, b"TEST", 1)
    return header + struct.pack("<III", 3, 48, 0) + nodes


def config_space(*capabilities: int) -> bytes:
    """Returns a configuration space of 4 KiB with a serial number and these extended capabilities."""
    space = bytearray(4096)
    ids = [3, *capabilities]  # 3: Device Serial Number
    for number, kind in enumerate(ids):
        at = 0x100 + 0x40 * number
        after = 0 if number == len(ids) - 1 else at + 0x40
        struct.pack_into("<II", space, at, after << 20 | 1 << 16 | kind, 0xED0FF1CE)
    return bytes(space)


class World:
    """A host that has everything, below a directory of its own, with a kernel that answers ioctls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.idr = list(IDR)
        self.kind = iommufd.TYPE_SMMUV3
        self.bind_errno = self.info_errno = 0
        self.has_cmdqv = True
        self.binds = 0
        for name, text in {
            "proc/sys/kernel/arch": "aarch64\n",
            "proc/sys/kernel/osrelease": RELEASE + "\n",
            "proc/sys/kernel/hostname": "secrethost\n",
            "proc/cmdline": "root=LABEL=secrethost\n",
            "proc/self/limits": LIMITS.format("unlimited"),
            "proc/self/status": "Name:\tpython3\nCapEff:\t0000000000000000\n",
            "proc/812/comm": "libvirtd\n",
            "proc/812/limits": LIMITS.format(1 << 40),
            f"boot/config-{RELEASE}": CONFIG,
            "etc/passwd": f"secretuser:x:{os.getuid() + 1}:{os.getgid() + 1}:Secret:/home/secretuser:/bin/sh\n",
            "etc/group": f"kvm:x:{os.getgid()}:daemon\n",
            "sys/class/dmi/id/product_serial": "SERIAL-4711\n",
            "sys/class/net/eth0/address": "52:54:00:ab:cd:ef\n",
        }.items():
            self.write(name, text)
        self.write("sys/firmware/acpi/tables/IORT", table())
        self.make("sys/class/iommu/smmu3.0x000000002b080000")
        self.make("sys/bus/pci/drivers/vfio-pci")
        self.write("dev/iommu", "", 0o666)
        self.write("dev/kvm", "", 0o666)
        self.device(DEVICE, "vfio-pci", "7")
        self.make(f"sys/bus/pci/devices/{DEVICE}/vfio-dev/vfio3")
        self.write("dev/vfio/devices/vfio3", "", 0o666)

    def device(self, address: str, driver: str, group: str, kind: str = "0x030200") -> None:
        directory = f"sys/bus/pci/devices/{address}"
        for name, text in (("vendor", "0x10de"), ("device", "0x2342"), ("class", kind)):
            self.write(f"{directory}/{name}", text + "\n")
        self.write(f"{directory}/config", config_space(ATS, 0x1B))
        self.link(f"{directory}/driver", f"../../../bus/pci/drivers/{driver}")
        self.link(f"{directory}/iommu_group", f"../../../kernel/iommu_groups/{group}")
        self.link(f"{directory}/iommu", "../../../class/iommu/smmu3.0x000000002b080000")
        self.make(f"sys/kernel/iommu_groups/{group}/devices/{address}")

    def path(self, name: str) -> Path:
        return self.root / name

    def make(self, name: str) -> None:
        self.path(name).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, data: str | bytes, mode: int = 0o644) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(data.encode() if isinstance(data, str) else data)
        self.path(name).chmod(mode)

    def link(self, name: str, target: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).unlink(missing_ok=True)
        self.path(name).symlink_to(target)

    def remove(self, name: str) -> None:
        path = self.path(name)
        assert path.is_symlink() or path.exists(), f"{name} is not there"
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def replace(self, name: str, old: str, new: str) -> None:
        text = self.path(name).read_text()
        assert old in text, f"{name} has no {old}"
        self.write(name, text.replace(old, new))

    def ioctl(self, file: int, number: int, request: bytearray, mutate: bool) -> int:
        assert mutate and os.fstat(file)
        if number == 0x3B76:  # VFIO_DEVICE_BIND_IOMMUFD
            self.binds += 1
            size, flags, iommu, _ = struct.unpack("=IIiI", request)
            assert (size, flags) == (16, 0) and os.fstat(iommu).st_ino == self.path("dev/iommu").stat().st_ino
            return self.answer(self.bind_errno, request, 12, struct.pack("=I", 77))
        assert number == 0x3B8A, hex(number)  # IOMMU_GET_HW_INFO
        size, flags, device, length, address, kind = struct.unpack_from("=IIIIQI", request)
        assert (size, device, len(request)) == (40, 77, 40)
        if flags:
            assert flags == 1 and kind == iommufd.TYPE_CMDQV and length == 8
            data = struct.pack("=IBBBB", 0, 1, 2, 4, 0)
            error = 0 if self.has_cmdqv else errno.EOPNOTSUPP
        else:
            assert length == 40
            kind, error = self.kind, self.info_errno
            data = struct.pack("=II6III", 0, 0, *self.idr, 0x43B, 1)
        if not error:
            ctypes.memmove(address, data, length)
        return self.answer(error, request, 24, struct.pack("=IB", kind, 20))

    @staticmethod
    def answer(error: int, request: bytearray, at: int, data: bytes) -> int:
        if error:
            raise OSError(error, os.strerror(error))
        request[at : at + len(data)] = data
        return 0

    def run(self, *words: str) -> tuple[int, str]:
        """Runs check-host and returns its status and its output."""
        out = io.StringIO()
        iommufd.ioctl = self.ioctl
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                status = main(["--root", str(self.root), "--user", "secretuser", *words])
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
        return status, out.getvalue()

    def lines(self, *words: str) -> dict[str, tuple[str, str]]:
        """Returns status and text of each check; those that are not in order must have a fix."""
        status, text = self.run("--ask", "all", *words)
        found: dict[str, tuple[str, str]] = {}
        lines = text.splitlines()
        for number, line in enumerate(lines):
            state, check, said = line[:8].rstrip(), line[9:41].rstrip(), line[42:]
            if state in STATES:
                assert check not in found, f"{check} is there twice"
                found[check] = (state, said)
                if state in NEEDED:
                    assert "fix: " in lines[number + 1], f"no fix for: {line}"
        complete = not any(state in NEEDED for state, _ in found.values())
        assert status == (0 if complete else 1), f"status {status} with\n{text}"
        return found


@functools.lru_cache
def complete() -> dict[str, tuple[str, str]]:
    """Returns status and text of each check of a host that has everything."""
    with tempfile.TemporaryDirectory(prefix="check-host-") as directory:
        found = World(Path(directory)).lines()
    assert all(state == "ok" for state, _ in found.values()), found
    return found


def expect(world: World, changed: dict[str, str], *words: str, gone: tuple[str, ...] = ()) -> str:
    """Checks that exactly these checks have another result than on a complete host, and returns their texts."""
    before, after = complete(), world.lines(*words)
    different = {check: after[check][0] for check in after if after[check] != before.get(check)}
    assert different == changed, f"{different} instead of {changed}"
    assert set(before) - set(after) == set(gone), set(before) - set(after)
    return " ".join(after[check][1] for check in changed)


# --- the tests ----------------------------------------------------------------------------------------------------


def check_host_complete_host_is_ok(world: World) -> None:
    status, text = world.run("--ask", "all")
    assert status == 0 and "everything that accel=on needs is there" in text and "fix:" not in text, text
    assert "oas 48, ssidsize 20, ats on, ril on" in text and "version 1, 4 VCMDQs for each guest" in text and "10de:2342" in text, text


def check_host_reads_proc_sys_of_this_machine(world: World) -> None:
    # a fabricated file cannot refuse long reads as the kernel does
    assert Host(Path("/")).text("/proc/sys/kernel/osrelease") == os.uname().release


def check_host_reads_long_files_to_the_limit(world: World) -> None:
    world.path("long").write_bytes(b"x" * (LIMIT + 1))
    assert len(Host(world.root).read("/long")) == LIMIT


def check_host_needs_each_kernel_option(world: World) -> None:
    original = world.path(f"boot/config-{RELEASE}").read_text()
    for option in ("ARM_SMMU_V3", "ARM_SMMU_V3_IOMMUFD", "IOMMUFD", "VFIO", "VFIO_PCI", "VFIO_DEVICE_CDEV", "KVM"):
        world.write(f"boot/config-{RELEASE}", "".join(
            line for line in original.splitlines(True) if not line.startswith(f"CONFIG_{option}=")))  # fmt: skip
        assert "is not set" in expect(world, {f"CONFIG_{option}": "missing"})
    for option in ("PCI_ATS", "PCI_PASID", "TEGRA241_CMDQV"):
        world.write(f"boot/config-{RELEASE}", original.replace(f"CONFIG_{option}=y\n", f"# CONFIG_{option} is not set\n"))
        expect(world, {f"CONFIG_{option}": "note"})
    for option in ("ARM_SMMU_V3_IOMMUFD", "VFIO_DEVICE_CDEV", "KVM"):
        world.write(f"boot/config-{RELEASE}", original.replace(f"CONFIG_{option}=y", f"CONFIG_{option}=m"))
        assert "must be y" in expect(world, {f"CONFIG_{option}": "missing"})


def check_host_reads_config_from_each_place(world: World) -> None:
    world.remove(f"boot/config-{RELEASE}")
    options = tuple(line.split("=")[0] for line in CONFIG.splitlines() if "=" in line)
    expect(world, {"kernel configuration": "unknown"}, gone=options)
    world.write(f"lib/modules/{RELEASE}/config", CONFIG)
    assert "/lib/modules" in expect(world, {"kernel configuration": "ok"})
    world.write("proc/config.gz", gzip.compress(CONFIG.encode()))
    assert "/proc/config.gz" in expect(world, {"kernel configuration": "ok"})


def check_host_damaged_config_is_skipped(world: World) -> None:
    good = gzip.compress(CONFIG.encode())
    flipped = bytes([*good[:20], *(byte ^ 0x55 for byte in good[20:])])
    for damaged in (b"", b"\x1f\x8b", good[:-30], flipped, b"garbage"):
        world.write("proc/config.gz", damaged)
        expect(world, {})  # the next place has it
    world.write(f"boot/config-{RELEASE}", b"\xff\0\n" * 1000)
    state, text = world.lines()["kernel configuration"]
    assert state == "unknown" and "config.gz: is damaged" in text and "is no kernel configuration" in text, text


def check_host_kernel_version_decides_without_option(world: World) -> None:
    path = f"boot/config-{RELEASE}"
    for release, state, words in (
        ("6.12.90", "note", "older than 6.13"), ("6.13.0", "note", "no fault events"), ("6.14-rc1", "note", "no fault events"),
        ("6.15", "ok", ""), ("10.0", "ok", ""),
    ):  # fmt: skip
        world.write("proc/sys/kernel/osrelease", release)
        world.write(f"boot/config-{release}", CONFIG)
        assert words in expect(world, {"kernel version": state})
    world.write("proc/sys/kernel/osrelease", "6.12.0")
    world.write("boot/config-6.12.0", CONFIG.replace("ARM_SMMU_V3_IOMMUFD=y", "X=y"))
    expect(world, {"kernel version": "missing", "CONFIG_ARM_SMMU_V3_IOMMUFD": "missing"})
    assert world.path(path).exists()
    for garbage in ("", "x.y", "../../etc/passwd", "\0\xff"):
        world.write("proc/sys/kernel/osrelease", garbage)
        world.write("proc/config.gz", gzip.compress(CONFIG.encode()))
        expect(world, {"kernel version": "unknown", "kernel configuration": "ok"})


def check_host_other_architecture_ends_there(world: World) -> None:
    world.write("proc/sys/kernel/arch", "x86_64\n")
    assert list(world.lines()) == ["architecture"]
    world.remove("proc/sys/kernel/arch")
    expect(world, {"architecture": "unknown"})


def check_host_names_missing_device_files(world: World) -> None:
    cdev = f"{DEVICE} cdev"
    world.remove("dev/kvm")
    assert "does not exist" in expect(world, {"/dev/kvm": "missing"})
    world.write("dev/kvm", "", 0o600)
    assert "cannot be opened" in expect(world, {"/dev/kvm": "missing"})
    world.write("dev/kvm", "", 0o666)
    world.write("dev/iommu", "", 0o644)
    assert "cannot be opened" in expect(world, {"/dev/iommu": "missing"})
    world.remove("dev/iommu")
    expect(world, {"/dev/iommu": "missing", **UNASKED}, gone=ANSWER)
    world.write("dev/iommu", "", 0o666)
    world.write("dev/vfio/devices/vfio3", "", 0o660)
    assert "vfio3 cannot be opened" in expect(world, {cdev: "missing"})
    world.replace("etc/group", "daemon", "daemon,secretuser")
    expect(world, {})
    world.remove("dev/vfio/devices/vfio3")
    expect(world, {cdev: "missing", **UNASKED}, gone=ANSWER)


def check_host_user_decides_on_permissions(world: World) -> None:
    world.write("dev/kvm", "", 0o600)
    assert world.lines("--user", str(os.getuid()))["/dev/kvm"][0] == "ok"
    if os.geteuid() == 0:
        os.chown(world.path("dev/kvm"), os.getuid() + 1, os.getgid() + 2)
        expect(world, {})
    world.write("dev/kvm", "", 0)
    assert world.lines("--user", "0")["/dev/kvm"][0] == "ok"
    assert world.lines("--user", str(os.getuid() + 2))["/dev/kvm"][0] == "missing"
    status, text = world.run("--user", "unknown")
    assert status == 2 and "no such user" in text, text


def check_host_knows_locked_memory_limits(world: World) -> None:
    world.write("proc/self/limits", LIMITS.format(8 << 20))
    assert "8 MiB, too little" in expect(world, {"locked memory": "missing"})
    expect(world, {"locked memory": "ok"}, "--memory", "8")
    expect(world, {"locked memory": "missing"}, "--memory", "9")
    world.write("proc/self/status", "CapEff:\t0000000000004000\n")
    assert "CAP_IPC_LOCK" in expect(world, {"locked memory": "note"})
    assert "CAP_IPC_LOCK" in expect(world, {"locked memory": "ok"}, "--user", "0")
    world.write("proc/self/status", "CapEff:\t000001ffffffbfff\n")
    expect(world, {"locked memory": "missing"})
    for damaged in ("", "Max locked memory\n", "Max locked memory  x y z\n"):
        world.write("proc/self/limits", damaged)
        expect(world, {"locked memory": "unknown"})
    world.write("proc/self/limits", LIMITS.format("unlimited"))
    world.write("proc/self/status", "")
    world.write("proc/812/limits", LIMITS.format(65536))
    assert "64 KiB: libvirt raises it" in expect(world, {"locked memory of libvirtd": "note"})


def check_host_sees_smmu_and_driver(world: World) -> None:
    world.remove("sys/bus/pci/drivers/vfio-pci")
    expect(world, {"driver vfio-pci": "missing"})
    world.make("sys/bus/pci/drivers/vfio-pci")
    world.remove("sys/class/iommu/smmu3.0x000000002b080000")
    world.make("sys/class/iommu/dmar0")
    expect(world, {"SMMUv3 in use by the kernel": "missing"})
    world.make("sys/class/iommu/smmu3.0x000000002b080000")
    world.remove(f"sys/bus/pci/devices/{DEVICE}/iommu")
    assert "kernel does not use" in expect(world, {f"{DEVICE} SMMU": "missing"})
    world.write("sys/firmware/acpi/tables/IORT", table(mappings=[(0, 48)]))  # to the ITS group
    assert "behind no SMMUv3" in expect(world, {f"{DEVICE} SMMU": "missing"})


def check_host_sees_driver_and_group(world: World) -> None:
    world.link(f"sys/bus/pci/devices/{DEVICE}/driver", "../drivers/nvme")
    text = expect(world, {f"{DEVICE} driver": "missing", **UNASKED}, "--device", DEVICE, gone=(f"{DEVICE} cdev", *ANSWER))
    assert "bound to nvme" in text and world.binds == 0, text
    world.link(f"sys/bus/pci/devices/{DEVICE}/driver", "../drivers/vfio-pci")
    world.remove(f"sys/bus/pci/devices/{DEVICE}/vfio-dev")
    assert "has made none" in expect(world, {f"{DEVICE} cdev": "missing", **UNASKED}, gone=ANSWER)
    world.make(f"sys/bus/pci/devices/{DEVICE}/vfio-dev/vfio3")
    world.device(OTHER, "nvidia", "7")
    assert OTHER in expect(world, {f"{DEVICE} IOMMU group": "missing"})
    world.device(OTHER, "pcieport", "7", kind="0x060400")
    expect(world, {})
    world.device(OTHER, "vfio-pci", "7")
    expect(world, {}, "--device", DEVICE)
    world.remove(f"sys/bus/pci/devices/{DEVICE}/iommu_group")
    expect(world, {f"{DEVICE} IOMMU group": "missing"}, "--device", DEVICE)


def check_host_needs_a_device(world: World) -> None:
    gone = tuple(check for check in world.lines() if check.startswith(DEVICE))
    world.link(f"sys/bus/pci/devices/{DEVICE}/driver", "../drivers/nvme")
    expect(world, {"devices": "missing"}, gone=gone)
    world.remove("sys/bus/pci/devices")
    expect(world, {"devices": "missing"}, gone=gone)
    expect(world, {DEVICE: "missing"}, "--device", DEVICE, gone=gone[1:])


def check_host_needs_fwb_or_canwbs(world: World) -> None:
    assert expect(world, {}) == "" and world.lines()[COHERENCE][1] == "FWB and CANWBS"
    world.write("sys/firmware/acpi/tables/IORT", table(canwbs=False))
    assert expect(world, {COHERENCE: "ok"}) == "FWB"
    world.write("sys/firmware/acpi/tables/IORT", table(segment=5))
    assert expect(world, {COHERENCE: "ok"}) == "FWB"
    world.idr[3] &= ~(1 << 8)
    assert "refuses nested translation" in expect(world, {COHERENCE: "missing", REGISTERS: "ok"})
    world.write("sys/firmware/acpi/tables/IORT", table())
    assert world.lines()[COHERENCE] == ("ok", "CANWBS")
    world.write("sys/firmware/acpi/tables/IORT", "damaged")
    assert "neither" not in expect(world, {"IORT": "unknown", COHERENCE: "unknown", REGISTERS: "ok"})
    world.info_errno = errno.EOPNOTSUPP
    world.write("sys/firmware/acpi/tables/IORT", table(canwbs=False))
    assert world.lines()[COHERENCE][0] == "unknown"


def check_host_reads_ats(world: World) -> None:
    check = f"{DEVICE} ATS"
    assert "with PASID" in world.lines()[check][1]
    world.write("sys/firmware/acpi/tables/IORT", table(ats=False))
    assert "denies" in expect(world, {check: "note"})
    world.write("sys/firmware/acpi/tables/IORT", table())
    config = f"sys/bus/pci/devices/{DEVICE}/config"
    world.write(config, config_space(0x1B))
    assert "none" in expect(world, {check: "note"})
    world.write(config, config_space(ATS))
    assert "without PASID" in expect(world, {check: "ok"})
    world.write(config, config_space(ATS)[:64])
    assert "only the beginning" in expect(world, {check: "note"})
    circle = bytearray(config_space(ATS, 0x1B))
    struct.pack_into("<I", circle, 0x140, 0x100 << 20 | ATS)
    for damaged in (b"\xff" * 4096, bytes(4096), bytes(circle), circle[:0x142], os.urandom(4096)):
        world.write(config, bytes(damaged))
        world.lines()
    world.remove(config)
    expect(world, {check: "note"})


def check_host_asks_only_with_consent(world: World) -> None:
    for words in ((), ("--device", DEVICE)):
        status, text = world.run(*words)
        assert status == 1 and "not asked" in text and f"--ask {DEVICE}" in text and world.binds == 0, text
    assert world.run("--ask", DEVICE)[0] == 0 and world.binds == 1
    status, text = world.run("--ask", OTHER)
    assert status == 1 and world.binds == 1, text


def check_host_leaves_busy_device_alone(world: World) -> None:
    for target in ("/dev/vfio/devices/vfio3", "/dev/vfio/7"):
        world.link("proc/4711/fd/22", target)
        assert "another process" in expect(world, UNASKED, gone=ANSWER)
    assert world.binds == 0
    world.link("proc/4711/fd/22", "/dev/vfio/devices/vfio33")
    expect(world, {})
    assert world.binds == 1
    for error in (errno.EBUSY, errno.EINVAL):
        world.bind_errno = error
        assert "another process" in expect(world, UNASKED, gone=ANSWER)


def check_host_explains_refusing_kernel(world: World) -> None:
    for error, words in ((errno.EPERM, "not isolated"), (errno.ENOTTY, "BIND_IOMMUFD failed"), (errno.EIO, "BIND")):
        world.bind_errno = error
        assert words in expect(world, UNASKED, gone=ANSWER)
    world.bind_errno, world.info_errno = 0, errno.EOPNOTSUPP
    assert "GET_HW_INFO failed" in expect(world, UNASKED, gone=ANSWER)
    world.info_errno = 0
    changed = {**UNASKED, NESTING: "missing"}
    world.kind = iommufd.TYPE_NONE
    assert "does not describe" in expect(world, changed, gone=ANSWER)
    world.kind = 1
    assert "no SMMUv3" in expect(world, changed, gone=ANSWER)


def check_host_checks_id_registers(world: World) -> None:
    for bit in (0, 1):
        world.idr = [IDR[0] & ~(1 << bit), *IDR[1:]]
        expect(world, {NESTING: "missing", REGISTERS: "ok"})
    for name, register, mask, value in (
        ("IDR0.ST_LEVEL", 0, 3 << 27, 0),
        ("IDR0.TTENDIAN", 0, 3 << 21, 3 << 21),
        ("IDR0.TTF", 0, 3 << 2, 1 << 2),
        ("IDR0.STALL_MODEL", 0, 3 << 24, 2 << 24),
        ("IDR1.SIDSIZE", 1, 0x3F, 15),
        ("IDR5.GRAN4K", 5, 1 << 4, 0),
        ("IDR5.GRAN16K", 5, 1 << 5, 0),
        ("IDR5.GRAN64K", 5, 1 << 6, 0),
    ):
        world.idr = list(IDR)
        world.idr[register] = world.idr[register] & ~mask | value
        text = expect(world, {REGISTERS: "missing"})
        assert text.startswith(f"{name} do not"), text
    world.idr = list(IDR)
    world.has_cmdqv = False
    expect(world, {CMDQV: "note"})


def check_host_report_has_no_secrets(world: World) -> None:
    world.device(OTHER, "nvidia", "7")
    world.write("dev/vfio/devices/vfio3", "", 0o600)
    file = world.path("report.txt")
    status, text = world.run("--ask", "all", "--report", str(file))
    assert status == 1 and OTHER in text, text
    posted = file.read_text()
    leaked = [secret for secret in SECRETS if secret in posted]
    assert not leaked and str(world.root) not in posted, f"{leaked} in\n{posted}"
    assert "missing  device 1 IOMMU group" in posted and "share: device 2" in posted and "Linux 7.3.4" in posted, posted
    # a complete and an empty host's, too
    for fresh in (True, False):
        with tempfile.TemporaryDirectory(prefix="check-host-") as directory:
            other = World(Path(directory)) if fresh else world
            if not fresh:
                shutil.rmtree(world.path("sys"))
            other.run("--ask", "all", "--device", DEVICE, "--report", str(file))
        assert not [secret for secret in SECRETS if secret in file.read_text()], file.read_text()


def check_host_damaged_iort_is_reported(world: World) -> None:
    good = table()

    def patched(at: int, format_: str, value: int) -> bytes:
        data = bytearray(good)
        struct.pack_into(format_, data, at, value)
        return bytes(data)

    for damaged in (
        b"", b"IORT" + bytes(44), good[:3], good[:40], good[:-1], b"APIC" + good[4:], patched(4, "<I", 0), patched(4, "<I", 0xFFFFFFFF),
        patched(36, "<I", 0xFFFFFFFF), patched(40, "<I", 0), patched(40, "<I", 0xFFFFFFFF), patched(49, "<H", 0),
        patched(49, "<H", 0xFFFF), patched(72 + 8, "<I", 0xFFFFFFFF), patched(72 + 12, "<I", 0xFFFFFFFF),
        patched(72 + 12, "<I", 0),
    ):  # fmt: skip
        world.write("sys/firmware/acpi/tables/IORT", damaged)
        assert expect(world, {"IORT": "unknown", COHERENCE: "ok"}).endswith("FWB")
    # references in circles, and to nowhere, are no more than useless
    root = 72 + 88
    for reference in (root, 72 + 1, 0xFFFFFFFF):
        world.write("sys/firmware/acpi/tables/IORT", table(mappings=[(0, reference)]))
        expect(world, {})
        assert iort.parse(table(mappings=[(0, reference)])).smmu_of(4, 0x4100) is None
    assert iort.parse(good).smmu_of(4, 0x4100) and iort.parse(good).smmus == 1
    world.remove("sys/firmware/acpi/tables/IORT")
    expect(world, {"IORT": "missing", COHERENCE: "ok"})
    world.remove("sys/firmware/acpi")
    world.make("sys/firmware/devicetree/base")
    assert "device tree" in expect(world, {"IORT": "note", COHERENCE: "ok"})


def check_host_random_iort_is_no_traceback(world: World) -> None:
    generator, good = random.Random(1), table()
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(len(data))] = generator.choice((0, 1, 2, 4, 0xFF, generator.randrange(256)))
        data = data[: generator.choice((len(data), len(data), generator.randrange(len(data))))]
        with contextlib.suppress(iort.Damaged):
            parsed = iort.parse(bytes(data))
            parsed.smmu_of(4, 0x4100)
            parsed.root_complex(4, 0x4100)


def check_host_strange_files_are_no_traceback(world: World) -> None:
    every = [path for path in sorted(world.root.rglob("*")) if not path.is_dir() or path.is_symlink()]
    assert len(every) > 20
    for path in every:
        kept = path.readlink() if path.is_symlink() else path.read_bytes()
        for strange in ("garbage", "directory", "fifo", "loop", "absent", "bytes"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if strange == "garbage":
                path.write_bytes(b"\xff\0\n0x:\x80" * 100)
            elif strange == "directory":
                path.mkdir()
            elif strange == "fifo":
                os.mkfifo(path)
            elif strange == "loop":
                path.symlink_to(path.name)
            elif strange == "bytes":
                os.symlink(b"../\xff\xfe \n", os.fsencode(path))
            status, text = world.run("--ask", "all", "--report", str(world.path("report.txt")))
            assert text.isascii() and (status in (0, 1) or path.name == "passwd"), (path, strange, text)
        path.unlink(missing_ok=True)
        path.symlink_to(kept) if isinstance(kept, Path) else world.write(str(path.relative_to(world.root)), kept, 0o666)
    expect(world, {})


def check_host_unreadable_files_are_reported(world: World) -> None:
    def run() -> None:
        expect(world, {"IORT": "unknown", COHERENCE: "ok"})
        assert "Permission denied" in world.lines()["IORT"][1]

    complete()  # an ordinary user may not be able to make directories where the tests do
    world.path("sys/firmware/acpi/tables/IORT").chmod(0)
    as_ordinary_user(world, run)


def check_host_usage_errors_are_status_2(world: World) -> None:
    for words in (["--device", "eth0"], ["--ask", "some"], ["--memory", "0"], ["--memory", "x"], ["--nonsense"], ["word"],
                  ["--root", str(world.path("absent"))], ["--report", str(world.path("absent/report"))]):  # fmt: skip
        status, text = world.run(*words)
        assert status == 2 and "error: " in text and "such user" not in text, (words, status, text)
    assert world.run("--device", "41:00.0")[0] == 1 and "0000:41:00.0" in world.run("--device", "41:00.0")[1]


def check_host_command_runs(world: World) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False, timeout=60)

    done = run("--root", str(world.root))
    assert done.returncode == 1 and "not asked" in done.stdout and not done.stderr, done
    # here, whatever this machine is, and without any file
    assert run().returncode in (0, 1)
    empty = world.path("empty")
    empty.mkdir()
    done = run("--root", str(empty))
    assert done.returncode == 1 and not done.stderr, done
    # a regular file is no vfio device: its ioctl fails
    done = run("--root", str(world.root), "--ask", "all")
    assert done.returncode == 1 and "VFIO_DEVICE_BIND_IOMMUFD failed" in done.stdout and not done.stderr, done
    assert run("--help").returncode == 0 and run("--root").returncode == 2


CASES: list[Callable[[World], None]] = [
    case for name, case in list(globals().items()) if name.startswith("check_host_")
]  # fmt: skip


def as_ordinary_user(world: World, work: Callable[[], None]) -> None:
    """Calls `work` as a user who cannot read everything, in a process of its own if this one is root."""
    if os.geteuid() != 0:
        work()
        return
    for path in (world.root, *world.root.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    child = os.fork()
    if child == 0:
        try:
            # a user may not be able to search what is above the directory
            os.chdir(world.root)
            world.root = Path()
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, "failed as an ordinary user"


def run(case: Callable[[World], None]) -> Outcome:
    name = case.__name__.replace("_", " ")
    with tempfile.TemporaryDirectory(prefix="check-host-") as directory:
        try:
            case(World(Path(directory)))
            return Outcome(name)
        except Exception:
            return Outcome(name, traceback.format_exc())


if __name__ == "__main__":
    sys.exit(report(len(CASES), map(run, CASES)))
