# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The ACPI table by which level 1 treats page-table walks as coherent.

Linux lets user space nest only behind an SMMU whose device traffic it can force to be cacheable: S2FWB, or CANWBS in the
IORT. QEMU's emulated SMMUv3 is coherent, but its IORT does not say so; Linux takes a corrected table from its initramfs.
"""
from __future__ import annotations

import struct

_ROOT_COMPLEX = 2
_MEMORY_FLAGS = 16 + 7  # in a root-complex node: byte 7 of the memory access properties
_CANWBS = 1 << 2


def with_canwbs(table: bytes) -> bytes:
    """A copy of the IORT with CANWBS set on every root complex, and the revision raised so that Linux prefers it."""
    new = bytearray(table)
    if new[:4] != b"IORT":
        raise ValueError("not an IORT")
    count, offset = struct.unpack_from("<II", new, 36)
    changed = 0
    for _ in range(count):
        kind, length = struct.unpack_from("<BH", new, offset)
        if kind == _ROOT_COMPLEX:
            new[offset + _MEMORY_FLAGS] |= _CANWBS
            changed += 1
        offset += length
    if not changed:
        raise ValueError("the IORT has no root complex")
    (revision,) = struct.unpack_from("<I", new, 24)
    struct.pack_into("<I", new, 24, revision + 1)
    new[9] = 0
    new[9] = -sum(new) & 0xFF
    return bytes(new)
