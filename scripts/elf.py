# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""References between the functions of Rust libraries: ar archives of ELF objects, with a section for each function."""
from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SYMTAB, _RELA = 2, 4
_ALLOC, _EXECUTABLE = 2, 4  # flags of a section
_UNDEFINED, _RESERVED = 0, 0xFF00  # section numbers
_LOCAL, _FUNCTION = 0, 2  # binding and type of a symbol


class Module:
    """An object file."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data = name, data
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{name} is not a little-endian 64-bit ELF object")
        (at,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<3H", data, 0x3A)
        if count == 0:  # as many as do not fit into 16 bits
            (count,) = struct.unpack_from("<Q", data, at + 0x20)
        if names == 0xFFFF:
            (names,) = struct.unpack_from("<I", data, at + 0x28)
        self.sections = [struct.unpack_from("<2I4Q2I2Q", data, at + index * size) for index in range(count)]
        self._strings = self.sections[names]
        self.symbols: list[tuple[str, int, int]] = []  # name, type and binding, section
        self._relocations: dict[int, list[int]] = {}  # sections with relocations of a section
        extended = next((section for section in self.sections if section[1] == 18), None)  # SHT_SYMTAB_SHNDX
        for index, section in enumerate(self.sections):
            if section[1] == _SYMTAB:
                strings = self.sections[section[6]]
                for number in range(section[5] // 24):
                    name_at, info, _, where = struct.unpack_from("<IBBH", data, section[4] + number * 24)
                    if where == 0xFFFF and extended is not None:
                        (where,) = struct.unpack_from("<I", data, extended[4] + number * 4)
                    elif where >= _RESERVED:
                        where = _UNDEFINED
                    self.symbols.append((self._string(strings, name_at), info, where))
            elif section[1] == _RELA:
                self._relocations.setdefault(section[7], []).append(index)
        self.named = {where: name for name, info, where in self.symbols if info & 15 == _FUNCTION and where}

    def _string(self, strings: tuple[int, ...], at: int) -> str:
        begin = strings[4] + at
        return self.data[begin : self.data.index(b"\0", begin)].decode()

    def section_name(self, index: int) -> str:
        return self._string(self._strings, self.sections[index][0])

    def is_code(self, index: int) -> bool:
        return bool(self.sections[index][2] & _EXECUTABLE)

    def is_loaded(self, index: int) -> bool:
        return bool(self.sections[index][2] & _ALLOC)

    def relocated(self, index: int) -> Iterator[int]:
        """Yields the symbols that a section refers to, by number."""
        for relocations in self._relocations.get(index, []):
            section = self.sections[relocations]
            for at in range(section[4], section[4] + section[5], 24):
                (info,) = struct.unpack_from("<Q", self.data, at + 8)
                yield info >> 32

    def functions(self) -> Iterator[tuple[Place, str]]:
        """Yields the functions that other modules can call."""
        for name, info, where in self.symbols:
            if info & 15 == _FUNCTION and info >> 4 != _LOCAL and where:
                yield (self, where), name


# A section of a module: a function, or data.
Place = tuple[Module, int]


@dataclass(frozen=True)
class Target:
    """The object of a reference."""

    name: str
    place: Place | None  # unless no library has it


class Image:
    """Libraries that are linked together."""

    def __init__(self) -> None:
        self._defined: dict[str, Place] = {}
        self._targets: dict[Place, list[Target]] = {}

    def add(self, library: Path) -> list[Module]:
        modules = [Module(f"{library.name}({name})", data) for name, data in members(library.read_bytes()) if name.endswith(".o")]
        for module in modules:
            for name, info, where in module.symbols:
                if where and info >> 4 != _LOCAL:
                    self._defined.setdefault(name, (module, where))
        return modules

    def name(self, place: Place) -> str:
        module, section = place
        name = module.named.get(section)
        return module.section_name(section) if name is None else demangle(name)

    def targets(self, place: Place) -> list[Target]:
        """Returns everything that a function or data refers to."""
        if place not in self._targets:
            self._targets[place] = list(dict.fromkeys(self._references(place)))
        return self._targets[place]

    def _references(self, place: Place) -> Iterator[Target]:
        module, section = place
        for number in module.relocated(section):
            name, _, where = module.symbols[number]
            if where == section:
                continue
            at = (module, where) if where else self._defined.get(name)
            if at is None:
                yield Target(demangle(name), None)
            elif at[0].is_loaded(at[1]):
                yield Target(self.name(at), at)


def members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the files of an ar archive, in GNU's form."""
    if archive[:8] != b"!<arch>\n":
        raise ValueError("not an ar archive")
    at, long_names = 8, b""
    while at + 60 <= len(archive):
        name = archive[at : at + 16].decode().rstrip()
        size = int(archive[at + 48 : at + 58])
        data = archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
        if name == "//":
            long_names = data
        elif name not in ("/", "/SYM64/"):
            if name[0] == "/":
                begin = int(name[1:])
                name = long_names[begin : long_names.index(b"\n", begin)].decode()
            yield name.rstrip("/"), data


_ESCAPES = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    return _ESCAPES[code] if code in _ESCAPES else chr(int(code[1:], 16))


@cache
def demangle(symbol: str) -> str:
    """Returns the path that a symbol of rustc's legacy scheme stands for, without the hash; others as they are."""
    if not symbol.startswith("_ZN"):
        return symbol
    parts, at = [], 3
    while digits := re.match(r"\d+", symbol[at:]):
        at += len(digits[0])
        length = int(digits[0])
        parts.append(symbol[at : at + length])
        at += length
    if parts and re.fullmatch(r"h[0-9a-f]{16}", parts[-1]):
        parts.pop()
    texts = []
    for part in parts:
        part = part[1:] if part.startswith("_$") else part
        texts.append(re.sub(r"\$([A-Z]{1,2}|u[0-9a-f]+)\$", _unescape, part.replace("..", "::")))
    return "::".join(texts)
