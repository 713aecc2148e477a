# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The host's kernel: architecture, version, configuration, and what of it is active."""
from __future__ import annotations

import gzip
import io
import os
import re
import zlib

from . import iort
from .findings import Finding, missing, note, ok, unknown
from .host import LIMIT, Host, Unreadable

_BUILT_IN, _ANY = ("y",), ("y", "m")
_NEEDED = {
    "ARM_SMMU_V3": (_ANY, "the driver of the host's SMMU"),
    "ARM_SMMU_V3_IOMMUFD": (_BUILT_IN, "nested translation"),
    "IOMMUFD": (_ANY, "/dev/iommu"),
    "VFIO": (_ANY, "device assignment"),
    "VFIO_PCI": (_ANY, "assignment of PCI devices"),
    "VFIO_DEVICE_CDEV": (_BUILT_IN, "/dev/vfio/devices"),
    "KVM": (_BUILT_IN, "/dev/kvm"),
}
_OPTIONAL = {
    "PCI_ATS": "devices that require ATS do not work",
    "PCI_PASID": "guests have no PASIDs",
    "TEGRA241_CMDQV": "no CMDQ virtualization",
}
_VERSION, _EVENTS = (6, 13), (6, 15)


def machine(host: Host) -> str:
    """Returns the name of the architecture, or nothing if it is not known."""
    found = host.text_or("/proc/sys/kernel/arch", "")
    return found or (os.uname().machine if host.is_this_machine else "")


def architecture(host: Host) -> Finding:
    found = machine(host)
    if not found:
        return unknown("architecture", "not known", "run this on the arm64 host that has the devices")
    if found in ("aarch64", "arm64"):
        return ok("architecture", found)
    return missing("architecture", f"{_word(found)}: nested translation needs an Arm SMMUv3", "run this on an arm64 host")


def _word(text: str) -> str:
    """Returns a text of the host that is printed, without what does not belong there."""
    return re.sub(r"[^\w.+-]", "", text)[:32]


def version(host: Host, config: dict[str, str]) -> Finding:
    # The rest of a release may be the name of a person or a host.
    found = re.match(r"(\d+)\.(\d+)(?:\.\d+)?", host.text_or("/proc/sys/kernel/osrelease", ""))
    if not found:
        return unknown("kernel version", "not known", "run this where /proc is mounted")
    text, number = f"Linux {found[0]}", (int(found[1]), int(found[2]))
    if number < _VERSION:
        if config.get("ARM_SMMU_V3_IOMMUFD") == "y":
            return note("kernel version", f"{text}, older than 6.13, but it has nested translation")
        return missing("kernel version", f"{text}, older than 6.13: no nested translation",
                       "run Linux 6.13 or newer on the host (docs/host-kernels.md)")  # fmt: skip
    if number < _EVENTS:
        return note("kernel version", f"{text}: guests get no fault events", "run Linux 6.15 or newer on the host")
    return ok("kernel version", text)


def read_config(host: Host) -> tuple[dict[str, str], Finding]:
    """Returns the options that are set, from the first of the usual places that can be read."""
    release = host.text_or("/proc/sys/kernel/osrelease", "")
    names = ["/proc/config.gz"]
    if release:
        names += [f"/boot/config-{release}", f"/lib/modules/{release}/config", f"/lib/modules/{release}/build/.config"]
    reasons = []
    for name in names:
        what = re.sub(r"-?" + re.escape(release), "", name) if release else name
        try:
            data = host.read(name)
            text = _unpack(data) if name.endswith(".gz") else data
            found = dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text.decode(errors="replace"), re.M))
            if found:
                return found, ok("kernel configuration", f"read from {what}")
            reasons.append(f"{what}: is no kernel configuration")
        except Unreadable as error:
            if not error.absent:
                reasons.append(f"{what}: {error}")
    return {}, unknown("kernel configuration", "; ".join(reasons) or "is in none of the usual places",
                       "load the module `configs`, or install the kernel's config-* file in /boot")  # fmt: skip


def _unpack(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return file.read(LIMIT)
    except (OSError, EOFError, zlib.error):
        raise Unreadable("is damaged") from None


def options(config: dict[str, str]) -> list[Finding]:
    findings = []
    for name, (values, what) in _NEEDED.items():
        option, value = f"CONFIG_{name}", config.get(name, "")
        if value in values:
            findings.append(ok(option, value))
        else:
            reason = f"is not set: {what}" if value != "m" else f"is m, and must be y: {what}"
            findings.append(missing(option, reason, f"use a kernel with {option}={'y' if values == _BUILT_IN else 'y or m'}"))
    for name, without in _OPTIONAL.items():
        option, value = f"CONFIG_{name}", config.get(name, "")
        findings.append(ok(option, value) if value in _ANY else note(option, f"is not set: {without}"))
    return findings


def read_iort(host: Host) -> tuple[iort.Iort | None, Finding]:
    try:
        table = iort.parse(host.read(iort.PATH))
    except Unreadable as error:
        if not error.absent:
            return None, unknown("IORT", f"cannot be read: {error}", "run check-host as root")
        if host.exists("/sys/firmware/devicetree/base") and not host.exists("/sys/firmware/acpi/tables"):
            return iort.Iort(), note("IORT", "there is none (the host boots with a device tree): only FWB will do")
        return None, missing("IORT", "there is none", "boot the host with ACPI and with its SMMU enabled in the firmware's setup")
    except iort.Damaged as error:
        return None, unknown("IORT", f"is damaged: {error}", "update the host's firmware")
    return table, ok("IORT", f"describes SMMUv3: {table.smmus}")


def smmus(host: Host) -> Finding:
    count = sum(name.startswith("smmu3") for name in host.names_or_none("/sys/class/iommu"))
    if count:
        return ok("SMMUv3 in use by the kernel", str(count))
    return missing("SMMUv3 in use by the kernel", "none",
                   "enable the SMMU in the firmware's setup, and do not boot with iommu=off; see `dmesg | grep -i smmu`")  # fmt: skip


def vfio_pci(host: Host) -> Finding:
    if host.exists("/sys/bus/pci/drivers/vfio-pci"):
        return ok("driver vfio-pci", "is there")
    return missing("driver vfio-pci", "is not loaded", "modprobe vfio-pci")
