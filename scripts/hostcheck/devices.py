# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""One PCI device of the host: driver, IOMMU group, SMMU, ATS, and what its SMMU says about itself."""
from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import iommufd
from .access import User, device_file
from .findings import Finding, missing, note, ok, unknown
from .host import Host, Unreadable
from .iort import Iort

_DEVICES = "/sys/bus/pci/devices"
_ADDRESS = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_BRIDGE = "0x06"  # class
_EXTENDED, _CONFIG = 0x100, 0x1000  # where extended capabilities begin and end
_ATS, _PASID = 0x0F, 0x1B
_AS_ROOT = "run check-host as root"

# What a guest is shown in any case (docs/parity.md): name, register, lowest bit, bits, values that serve.
_FIELDS = (
    ("IDR0.ST_LEVEL", 0, 27, 2, {1}),
    ("IDR0.TTENDIAN", 0, 21, 2, {0, 2}),
    ("IDR0.TTF", 0, 2, 2, {2, 3}),
    ("IDR0.STALL_MODEL", 0, 24, 2, {0, 1}),
    ("IDR1.SIDSIZE", 1, 0, 6, set(range(16, 64))),
    ("IDR5.GRAN4K", 5, 4, 1, {1}),
    ("IDR5.GRAN16K", 5, 5, 1, {1}),
    ("IDR5.GRAN64K", 5, 6, 1, {1}),
)
_OAS = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 56}


def normalized(address: str) -> str | None:
    """Returns an address as sysfs writes it, or None if it is none."""
    found = _ADDRESS.fullmatch(address)
    return f"{found[1] or '0000'}:{found[2]}:{found[3]}.{found[4]}".lower() if found else None


def bound_to_vfio(host: Host) -> list[str]:
    return [name for name in host.names_or_none(_DEVICES) if normalized(name) == name and Device(host, name).is_on_vfio]


@dataclass(frozen=True)
class Device:
    host: Host
    address: str

    @property
    def _directory(self) -> str:
        return f"{_DEVICES}/{self.address}"

    @property
    def driver(self) -> str | None:
        return self.host.target_name(f"{self._directory}/driver")

    @property
    def cdev(self) -> str | None:
        names = [name for name in self.host.names_or_none(f"{self._directory}/vfio-dev") if re.fullmatch(r"vfio\d+", name)]
        return names[0] if names else None

    @property
    def is_on_vfio(self) -> bool:
        # drivers of single kinds of devices are called e.g. nvgrace_gpu_vfio_pci
        return "vfio" in (self.driver or "")

    @property
    def group(self) -> str | None:
        return self.host.target_name(f"{self._directory}/iommu_group")

    def check(self, user: User, table: Iort | None, may_ask: bool) -> Iterator[Finding]:
        """Yields the findings. The device's IOMMU is asked only if the user has permitted that."""
        if not self.host.exists(self._directory):
            yield missing(self.address, "there is no such PCI device", "name one that `lspci -D` lists")
            return
        yield self._kind()
        yield from self._binding(user)
        yield self._group()
        yield self._smmu(table)
        yield from self._capabilities(table)
        yield from self._iommu(table, may_ask)

    def _name(self, what: str) -> str:
        return f"{self.address} {what}"

    def _kind(self) -> Finding:
        words = (self.host.text_or(f"{self._directory}/{name}", "") for name in ("vendor", "device", "class"))
        vendor, device, kind = (word[2:] if re.fullmatch(r"0x[0-9a-f]{1,8}", word) else "?" for word in words)
        return ok(self.address, f"is a {vendor}:{device}, class {kind}")

    def _binding(self, user: User) -> Iterator[Finding]:
        check, driver = self._name("driver"), self.driver
        if not self.is_on_vfio:
            bind = (f"echo vfio-pci > {self._directory}/driver_override; echo {self.address} > {self._directory}/driver/unbind; "
                    f"echo {self.address} > /sys/bus/pci/drivers_probe (libvirt with managed='yes' does this)")  # fmt: skip
            yield missing(check, f"is bound to {driver or 'no driver'}", bind)
            return
        yield ok(check, f"is bound to {driver}")
        cdev = self.cdev
        if cdev is None:
            yield missing(self._name("cdev"), "vfio-pci has made none", "use a kernel with CONFIG_VFIO_DEVICE_CDEV=y")
            return
        found = device_file(self.host, user, f"/dev/vfio/devices/{cdev}", "run udev, or mount devtmpfs on /dev",
                            'SUBSYSTEM=="vfio-dev", GROUP="kvm", MODE="0660"')  # fmt: skip
        yield Finding(self._name("cdev"), found.status, f"{cdev} {found.text}", found.fix)

    def _group(self) -> Finding:
        check, group = self._name("IOMMU group"), self.group
        if group is None:
            return missing(check, "is in none: no IOMMU translates this device", "enable the SMMU in the firmware's setup")
        others = []
        for name in self.host.names_or_none(f"/sys/kernel/iommu_groups/{group}/devices"):
            other = Device(self.host, name)
            kind = self.host.text_or(f"{other._directory}/class", "")
            if name != self.address and other.driver and not other.is_on_vfio and not kind.startswith(_BRIDGE):
                others.append(name)
        if not others:
            return ok(check, f"{group}, which no other driver uses")
        return missing(check, f"{group}, which devices on other drivers share: {', '.join(others)}",
                       "bind these to vfio-pci as well, or plug the device into another slot")  # fmt: skip

    def _requester(self) -> tuple[int, int]:
        segment, bus, rest = self.address.split(":")
        slot, function = rest.split(".")
        return int(segment, 16), int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)

    def _smmu(self, table: Iort | None) -> Finding:
        check = self._name("SMMU")
        name = self.host.target_name(f"{self._directory}/iommu")
        if name and name.startswith("smmu3"):
            return ok(check, "an SMMUv3 translates the device")
        if table is not None and table.smmu_of(*self._requester()):
            return missing(check, "the IORT names an SMMUv3 that the kernel does not use", "see `dmesg | grep -i smmu`")
        return missing(check, "is behind no SMMUv3", "plug the device into a slot behind one")

    def _capabilities(self, table: Iort | None) -> Iterator[Finding]:
        check = self._name("ATS")
        try:
            found = extended_capabilities(self.host.read(f"{self._directory}/config"))
        except Unreadable as error:
            yield note(check, f"not known: the configuration space cannot be read: {error}", _AS_ROOT)
            return
        if found is None:
            yield note(check, "not known: only the beginning of the configuration space can be read", _AS_ROOT)
            return
        pasid = ", with PASID" if _PASID in found else ", without PASID"
        if _ATS not in found:
            yield note(check, "the device has none, which is no obstacle")
            return
        complex_ = None if table is None else table.root_complex(*self._requester())
        if complex_ is not None and not complex_.ats:
            yield note(check, f"the device has ATS{pasid}; the IORT denies it to this root complex",
                       "if the device requires ATS, look for it in the firmware's setup, or update the firmware")  # fmt: skip
        else:
            yield ok(check, f"the device has ATS{pasid}")

    def _iommu(self, table: Iort | None, may_ask: bool) -> Iterator[Finding]:
        """Yields what IOMMU_GET_HW_INFO says, and whether the device's memory accesses can be forced to be coherent."""
        info, cdev, nesting = None, self.cdev, self._name("nested translation")
        if not (self.is_on_vfio and cdev):
            yield unknown(nesting, "not asked: the device has no vfio cdev", "bind the device to vfio-pci first")
        elif not may_ask:
            yield unknown(nesting, "not asked: that takes the device for a moment, and resets it",
                          f"--ask {self.address}, when no guest uses the device")  # fmt: skip
        else:
            try:
                info = iommufd.ask(self.host, cdev, self.group)
                yield from self._answer(nesting, info)
            except iommufd.Refused as error:
                yield unknown(nesting, str(error), error.fix)
        yield self._coherence(table, info)

    def _answer(self, check: str, info: iommufd.HwInfo) -> Iterator[Finding]:
        if info.kind == iommufd.TYPE_NONE:
            yield missing(check, "the kernel does not describe the SMMU", "use a kernel with CONFIG_ARM_SMMU_V3_IOMMUFD=y")
            return
        if info.kind != iommufd.TYPE_SMMUV3:
            yield missing(check, f"the IOMMU is no SMMUv3 (iommufd type {info.kind})", "use a host with an SMMUv3")
            return
        if info.field(0, 0) and info.field(0, 1):
            yield ok(check, "the SMMU has stage 1 and stage 2")
        else:
            yield missing(check, "the SMMU does not have both stages (IDR0.S1P, IDR0.S2P)", "use a host whose SMMUv3 nests")
        words = " ".join(f"{word:#x}" for word in info.idr)
        lacking = [name for name, register, low, bits, good in _FIELDS if info.field(register, low, bits) not in good]
        check = self._name("ID registers")
        if lacking:
            yield missing(check, f"{', '.join(lacking)} do not serve; IDR0 to IDR5 {words}, IIDR {info.iidr:#x}",
                          "none: guests are shown these features, so QEMU refuses the device on this host")  # fmt: skip
        else:
            oas = _OAS[info.field(5, 0, 3)]
            shown = f"oas {oas}, ssidsize {info.field(1, 6, 5)}, ats {_on(info.field(0, 10))}, ril {_on(info.field(3, 10))}"
            yield ok(check, f"{shown}; IDR0 to IDR5 {words}, IIDR {info.iidr:#x}")
        if info.cmdqv:
            yield ok(self._name("CMDQV"), f"version {info.cmdqv[0]}, {1 << min(info.cmdqv[1], 15)} VCMDQs for each guest")
        else:
            yield note(self._name("CMDQV"), "none, which is no obstacle")

    def _coherence(self, table: Iort | None, info: iommufd.HwInfo | None) -> Finding:
        check = self._name("FWB or CANWBS")
        fwb = None if info is None or info.kind != iommufd.TYPE_SMMUV3 else bool(info.field(3, 8))
        complex_ = None if table is None else table.root_complex(*self._requester())
        canwbs = None if table is None else complex_ is not None and complex_.canwbs
        if fwb or canwbs:
            return ok(check, " and ".join(name for name, found in (("FWB", fwb), ("CANWBS", canwbs)) if found))
        if fwb is None or canwbs is None:
            known = [f"no {name}" for name, found in (("FWB", fwb), ("CANWBS", canwbs)) if found is False]
            ask = f"--ask {self.address}" + ("" if self.is_on_vfio else " when it is on vfio-pci")
            fixes = [ask if fwb is None else "", _AS_ROOT if canwbs is None else ""]
            return unknown(check, f"not known ({', '.join(known) or 'neither could be looked at'})",
                           " and ".join(fix for fix in fixes if fix))  # fmt: skip
        return missing(check, "neither: the kernel refuses nested translation",
                       "update the firmware, whose IORT must set CANWBS if the device is coherent, or use a host with FWB")  # fmt: skip


def _on(bit: int) -> str:
    return "on" if bit else "off"


def extended_capabilities(config: bytes) -> set[int] | None:
    """Returns the IDs of a function's extended capabilities, or None if that part cannot be read."""
    if len(config) < _EXTENDED + 4:
        return None
    found, seen, offset = set(), set(), _EXTENDED
    while _EXTENDED <= offset <= min(len(config), _CONFIG) - 4 and offset not in seen:
        seen.add(offset)
        (header,) = struct.unpack_from("<I", config, offset)
        if header in (0, 0xFFFFFFFF):
            break
        found.add(header & 0xFFFF)
        offset = header >> 20 & ~3
    return found
