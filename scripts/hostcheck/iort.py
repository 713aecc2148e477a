# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The I/O Remapping Table (IORT, Arm DEN 0049) of the host's firmware: which SMMU a PCI function is behind, and CANWBS.

Nothing in the table is trusted: lengths, offsets and references may be anything.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass, field

PATH = "/sys/firmware/acpi/tables/IORT"

_HEADER = 48
_NODE = struct.Struct("<BHBIII")  # type, length, revision, identifier, number of mappings, their offset
_MAPPING = struct.Struct("<IIIII")  # first input, inputs less one, first output, reference, flags
_SINGLE = 1  # mapping flag: one ID, the input is IGNORED
_ROOT_COMPLEX, _SMMUV3 = 2, 4
_CANWBS = 1 << 2
_ATS = 1 << 0


class Damaged(Exception):
    """A table that does not follow the specification."""


@dataclass(frozen=True)
class Mapping:
    first: int
    count: int
    output: int
    reference: int

    def maps(self, value: int) -> bool:
        return self.first <= value < self.first + self.count


@dataclass(frozen=True)
class Node:
    kind: int
    mappings: list[Mapping]
    segment: int = 0
    ats: bool = False
    canwbs: bool = False


@dataclass(frozen=True)
class Iort:
    nodes: dict[int, Node] = field(default_factory=dict)  # by their offset in the table

    @property
    def smmus(self) -> int:
        return sum(node.kind == _SMMUV3 for node in self.nodes.values())

    def root_complex(self, segment: int, requester: int) -> Node | None:
        """Returns the root complex of a requester ID. One without a mapping of it is better than none."""
        found = [node for node in self.nodes.values() if node.kind == _ROOT_COMPLEX and node.segment == segment]
        mapping = [node for node in found if any(entry.maps(requester) for entry in node.mappings)]
        return next(iter(mapping + found), None)

    def smmu_of(self, segment: int, requester: int) -> Node | None:
        """Returns the SMMUv3 that a requester ID is mapped to. Damaged tables may map in circles."""
        node, value, seen = self.root_complex(segment, requester), requester, set()
        while node is not None and node.kind != _SMMUV3 and id(node) not in seen:
            seen.add(id(node))
            entry = next((entry for entry in node.mappings if entry.maps(value)), None)
            if entry is None:
                return None
            value = value - entry.first + entry.output
            node = self.nodes.get(entry.reference)
        return node if node is not None and node.kind == _SMMUV3 else None


def parse(table: bytes) -> Iort:
    if len(table) < _HEADER or table[:4] != b"IORT":
        raise Damaged("no header of an IORT")
    (length,) = struct.unpack_from("<I", table, 4)
    if not _HEADER <= length <= len(table):
        raise Damaged(f"its length is {length}, and {len(table)} bytes are there")
    count, offset = struct.unpack_from("<II", table, 36)
    nodes: dict[int, Node] = {}
    for number in range(count):
        if offset + _NODE.size > length:
            raise Damaged(f"node {number} of {count} is beyond its end")
        (size,) = struct.unpack_from("<H", table, offset + 1)
        if size < _NODE.size or offset + size > length:
            raise Damaged(f"node {number} has a length of {size}")
        nodes[offset] = _node(table[offset : offset + size])
        offset += size
    return Iort(nodes)


def _node(data: bytes) -> Node:
    kind, size, _, _, count, offset = _NODE.unpack_from(data)
    if count and (offset < _NODE.size or offset + count * _MAPPING.size > size):
        raise Damaged("a node's ID mappings are beyond its end")
    mappings = []
    for at in range(offset, offset + count * _MAPPING.size, _MAPPING.size):
        first, less_one, output, reference, flags = _MAPPING.unpack_from(data, at)
        if not flags & _SINGLE:
            mappings.append(Mapping(first, less_one + 1, output, reference))
    if kind != _ROOT_COMPLEX:
        return Node(kind, mappings)
    if size < 32:
        raise Damaged("a root complex is too short")
    flags, ats, segment = struct.unpack_from("<BII", data, 23)
    return Node(kind, mappings, segment, ats=bool(ats & _ATS), canwbs=bool(flags & _CANWBS))
