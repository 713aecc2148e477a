# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The ACPI table by which level 1 treats page-table walks as coherent.

Linux lets user space nest only behind an SMMU whose device traffic it can force to be cacheable: S2FWB, or CANWBS in the
IORT. QEMU's emulated SMMUv3 is coherent, but its IORT does not say so; Linux takes a corrected table from its initramfs.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

_ROOT_COMPLEX = 2
_SMMU_V3 = 4
_IDENTIFIER = 4  # in any node
_MEMORY_FLAGS = 16 + 7  # in a root-complex node: byte 7 of the memory access properties
_CANWBS = 1 << 2


def _nodes(table: bytes) -> Iterator[tuple[int, int]]:
    """(type, offset) of every node."""
    if table[:4] != b"IORT":
        raise ValueError("not an IORT")
    count, offset = struct.unpack_from("<II", table, 36)
    for _ in range(count):
        kind, length = struct.unpack_from("<BH", table, offset)
        yield kind, offset
        offset += length


def smmu_identifier(table: bytes) -> int:
    """The identifier of the SMMUv3, of which there must be one."""
    (offset,) = (offset for kind, offset in _nodes(table) if kind == _SMMU_V3)
    return int(struct.unpack_from("<I", table, offset + _IDENTIFIER)[0])


def _changed(table: bytes, flags: Callable[[int], int], revisions: int) -> bytes:
    """A copy with other memory access flags of every root complex, and a higher revision."""
    new = bytearray(table)
    complexes = [offset for kind, offset in _nodes(table) if kind == _ROOT_COMPLEX]
    if not complexes:
        raise ValueError("the IORT has no root complex")
    for offset in complexes:
        new[offset + _MEMORY_FLAGS] = flags(new[offset + _MEMORY_FLAGS])
    (revision,) = struct.unpack_from("<I", new, 24)
    struct.pack_into("<I", new, 24, revision + revisions)
    new[9] = 0
    new[9] = -sum(new) & 0xFF
    return bytes(new)


def with_canwbs(table: bytes) -> bytes:
    """A copy of the IORT with CANWBS set on every root complex, and the revision raised so that Linux prefers it."""
    return _changed(table, lambda flags: flags | _CANWBS, 1)


def without_canwbs(table: bytes) -> bytes:
    return _changed(table, lambda flags: flags & ~_CANWBS, 0)
