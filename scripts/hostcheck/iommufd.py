# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Asks a device's IOMMU for its ID registers (IOMMU_GET_HW_INFO), through a vfio cdev that no process uses."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass

from .host import Host

# _IO(';', ...) of <linux/vfio.h> and <linux/iommufd.h>
_VFIO_DEVICE_BIND_IOMMUFD = 0x3B00 | 118
_IOMMU_GET_HW_INFO = 0x3B00 | 0x8A
_BIND = struct.Struct("=IIiI")  # argsz, flags, iommufd, out_devid
_HW_INFO = struct.Struct("=IIIIQIB3xQ")  # size, flags, dev_id, data_len, data_uptr, type, PASID bits, capabilities
_SMMUV3 = struct.Struct("=II6III")  # flags, reserved, IDR0 to IDR5, IIDR, AIDR
_CMDQV = struct.Struct("=IBBBB")  # flags, version, log2vcmdqs, log2vsids, reserved
_INPUT_TYPE = 1 << 0
TYPE_NONE, TYPE_SMMUV3, TYPE_CMDQV = 0, 2, 3

ioctl: Callable[[int, int, bytearray, bool], int] = fcntl.ioctl  # replaced by the tests


class Refused(Exception):
    """The device cannot be asked. `fix` says what to do about that."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True)
class HwInfo:
    kind: int
    idr: tuple[int, ...]  # 0 if it is no SMMUv3
    iidr: int
    cmdqv: tuple[int, int] | None  # version, log2 of the number of VCMDQs

    def field(self, register: int, low: int, bits: int = 1) -> int:
        return self.idr[register] >> low & (1 << bits) - 1


def users(host: Host, cdev: str, group: str | None) -> bool:
    """Returns whether a process is seen to have the device open, by its cdev or by its group."""
    wanted = {f"/dev/vfio/devices/{cdev}", f"/dev/vfio/{group}"}
    return any(
        host.target(f"/proc/{process}/fd/{number}") in wanted
        for process in host.names_or_none("/proc") if process.isdigit()
        for number in host.names_or_none(f"/proc/{process}/fd")
    )  # fmt: skip


def ask(host: Host, cdev: str, group: str | None) -> HwInfo:
    """Binds the device for as long as this takes. The kernel refuses a second user, so a guest is never disturbed."""
    if users(host, cdev, group):
        raise _busy()
    with _open(host, "/dev/iommu") as iommu, _open(host, f"/dev/vfio/devices/{cdev}") as device:
        bind = bytearray(_BIND.pack(_BIND.size, 0, iommu, 0))
        try:
            ioctl(device, _VFIO_DEVICE_BIND_IOMMUFD, bind, True)
        except (OSError, ValueError) as error:
            raise _bind_error(error) from None
        device_id = _BIND.unpack(bind)[3]
        kind, data = _hw_info(iommu, device_id, _SMMUV3.size)
        words = _SMMUV3.unpack(data)
        return HwInfo(kind, words[2:8], words[8], _cmdqv(iommu, device_id))


def _cmdqv(iommu: int, device_id: int) -> tuple[int, int] | None:
    try:
        kind, data = _hw_info(iommu, device_id, _CMDQV.size, TYPE_CMDQV)
    except Refused:
        return None  # a kernel that does not know the type, or an SMMU without
    _, version, vcmdqs, _, _ = _CMDQV.unpack(data)
    return (version, vcmdqs) if kind == TYPE_CMDQV else None


def _hw_info(iommu: int, device_id: int, size: int, kind: int | None = None) -> tuple[int, bytes]:
    """Returns the type of the IOMMU and the data of that type."""
    data = create_string_buffer(size)
    flags = 0 if kind is None else _INPUT_TYPE
    request = bytearray(_HW_INFO.pack(_HW_INFO.size, flags, device_id, size, addressof(data), kind or 0, 0, 0))
    try:
        ioctl(iommu, _IOMMU_GET_HW_INFO, request, True)
    except (OSError, ValueError) as error:
        raise Refused(f"IOMMU_GET_HW_INFO failed: {_reason(error)}", "run a kernel of at least Linux 6.13") from None
    found: int = _HW_INFO.unpack(request)[5]
    return found, data.raw


@contextlib.contextmanager
def _open(host: Host, name: str) -> Iterator[int]:
    try:
        # without blocking: a fabricated root may have a FIFO there
        file = os.open(host.path(name), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            raise _busy() from None
        what = "/dev/iommu" if name == "/dev/iommu" else "the device's cdev"
        raise Refused(f"cannot open {what}: {_reason(error)}", "run check-host as root") from None
    try:
        yield file
    finally:
        os.close(file)


def _busy() -> Refused:
    return Refused("another process uses the device, so it was not asked",
                   "stop that guest and repeat this, or read `id-registers` of its arm-smmuv3 (docs/statistics.md)")  # fmt: skip


def _bind_error(error: Exception) -> Refused:
    # EINVAL is what a cdev says that another process has bound
    if isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EINVAL):
        return _busy()
    if isinstance(error, OSError) and error.errno == errno.EPERM:
        return Refused("the kernel does not permit to bind the device: its interrupts are not isolated",
                       "use a host whose interrupts go through a GICv3 ITS")  # fmt: skip
    return Refused(f"VFIO_DEVICE_BIND_IOMMUFD failed: {_reason(error)}", "look into the kernel's log (dmesg)")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
