# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""A disk image that UEFI firmware reads: FAT16 without a partition table, with short names only."""
from __future__ import annotations

import re
import struct
from collections.abc import Mapping

_SECTOR = 512
_CLUSTER = 4 * _SECTOR
_ROOT_ENTRIES = 512
_CLUSTERS = 16384  # FAT16 has 4085 to 65524
_FAT_SECTORS = -(-(_CLUSTERS + 2) * 2 // _SECTOR)
_END = 0xFFFF
_ARCHIVE = 0x20


def _short_name(name: str) -> bytes:
    """The 11 bytes of a directory entry."""
    match = re.fullmatch(r"([A-Z0-9_-]{1,8})(?:\.([A-Z0-9_-]{1,3}))?", name.upper())
    if match is None:
        raise ValueError(f"{name!r} is not a name of at most 8 and 3 characters")
    return f"{match[1]:8}{match[2] or '':3}".encode()


def fat_image(files: Mapping[str, bytes]) -> bytes:
    """The image of a disk whose root directory has these files; names are not case-sensitive."""
    table = [0xFFF8, _END]  # clusters 0 and 1 do not exist
    directory, data = [], []
    for name, content in files.items():
        count = -(-len(content) // _CLUSTER)
        first = len(table) if count else 0
        table += [*range(first + 1, first + count), _END] if count else []
        directory.append(struct.pack("<11sB14xHI", _short_name(name), _ARCHIVE, first, len(content)))
        data.append(content.ljust(count * _CLUSTER, b"\0"))
    if len(table) > _CLUSTERS + 2 or len(directory) > _ROOT_ENTRIES:
        raise ValueError("the files do not fit into the image")
    root_sectors = _ROOT_ENTRIES * 32 // _SECTOR
    sectors = 1 + _FAT_SECTORS + root_sectors + _CLUSTERS * _CLUSTER // _SECTOR
    boot = struct.pack("<3s8sHBHBHHBHHHIIBBBI11s8s", b"\xeb\x3c\x90", b"TESTBED ", _SECTOR, _CLUSTER // _SECTOR, 1, 1, _ROOT_ENTRIES,
                       sectors if sectors < 1 << 16 else 0, 0xF8, _FAT_SECTORS, 32, 2, 0, sectors if sectors >= 1 << 16 else 0,
                       0x80, 0, 0x29, 0, b"TESTBED    ", b"FAT16   ").ljust(510, b"\0") + b"\x55\xaa"
    image = boot + struct.pack(f"<{len(table)}H", *table).ljust(_FAT_SECTORS * _SECTOR, b"\0")
    image += b"".join(directory).ljust(root_sectors * _SECTOR, b"\0") + b"".join(data)
    return image.ljust(sectors * _SECTOR, b"\0")
