# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""What the levels boot: initramfs archives, made of the build environment's arm64 files, our tools and the QEMUs to test.

All of this runs inside the build environment (scripts/in-root).
"""
from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import userspace
from .consoles import TestbedError

GUEST = Path(__file__).resolve().parent.parent / "guest"
FIRMWARE = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
BUSYBOX = Path("/usr/bin/busybox")
LIBRARIES = [Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/aarch64-linux-gnu/lib")]
LOADER = "ld-linux-aarch64.so.1"
BENCHMARK = "dma_map_benchmark"
TOOLS = ["directio", "badcmd", "isolation", "netloop", "iorate"]
CC = ["aarch64-linux-gnu-gcc", "-static", "-pthread", "-O2", "-Wall", "-Wextra", "-Werror"]
SHARED_CC = ["aarch64-linux-gnu-gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]


class Cpio:
    """A cpio archive in the format the kernel unpacks ("newc"), the same for the same contents."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._directories: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (header + encoded, data):
            self._parts.append(part)
            self._parts.append(b"\0" * (-len(part) % 4))

    def _parents(self, name: str) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in self._directories:
                self._directories.add(str(parent))
                self._entry(str(parent), 0o040755, b"")

    def file(self, name: str, data: bytes, executable: bool = True) -> None:
        self._parents(name)
        self._entry(name, 0o100755 if executable else 0o100644, data)

    def link(self, name: str, target: str) -> None:
        self._parents(name)
        self._entry(name, 0o120777, target.encode())

    def directory_link(self, name: str, target: str) -> None:
        """A link to a directory, through which the archive may go on. The kernel follows it, so its target must be there."""
        self._parents(f"{target}/.")
        self.link(name, target)
        self._directories.add(name)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self._parts)


def acpi_override(tables: dict[str, bytes]) -> bytes:
    """ACPI tables, by any names: the archive that must be the first in the initramfs."""
    cpio = Cpio()
    for name, table in tables.items():
        cpio.file(f"kernel/firmware/acpi/{name}.aml", table, executable=False)
    return cpio.finish()


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise TestbedError(f"'{command[0]}' failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def library_closure(binary: Path) -> dict[str, Path]:
    """The shared libraries that an arm64 program needs, by name."""
    found: dict[str, Path] = {}
    todo = [binary]
    while todo:
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", _run("aarch64-linux-gnu-readelf", "-d", todo.pop())):
            if name in found:
                continue
            at = next((directory / name for directory in LIBRARIES if (directory / name).exists()), None)
            if at is None:
                raise TestbedError(f"{binary} needs {name}, which the build environment does not have for arm64")
            found[name] = at.resolve()
            todo.append(at)
    return found


@dataclass(frozen=True)
class Images:
    """Finds or makes everything that is booted. `qemus` maps the short name of each QEMU to be tested to its path."""

    cache: Path
    kernel: Path  # scripts/kernel's directory
    qemus: dict[str, Path]
    gdbserver: Path | None = None  # for level 1
    libvirt: Path | None = None  # scripts/libvirt's directory, for level 1

    @property
    def image(self) -> Path:
        return self.kernel / "Image"

    def _cached(self, name: str, make: list[str | Path], *sources: Path) -> Path:
        """The result of a command on `sources`, kept by their contents. The command ends with the output's path."""
        to = self.cache / f"{name}-{_digest(*sources)}"
        if not to.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            new = to.with_name(f"{to.name}.{os.getpid()}")
            _run(*make, new)
            os.replace(new, to)
            self._prune(f"{name}-*", keep=4)
        return to

    def _prune(self, pattern: str, keep: int) -> None:
        for old in sorted(self.cache.glob(pattern), key=lambda path: path.stat().st_mtime)[:-keep]:
            old.unlink()

    def _tool(self, name: str) -> bytes:
        source = GUEST / f"{name}.c"
        return self._cached(name, [*CC, source, "-o"], source, *sorted(GUEST.glob("*.h"))).read_bytes()

    def _preloaded(self, name: str) -> bytes:
        """A library that takes the place of functions of QEMU's C library."""
        source = GUEST / f"{name}.c"
        return self._cached(name, [*SHARED_CC, source, "-o"], source).read_bytes()

    def add_tools(self, cpio: Cpio) -> None:
        """Adds the shell's agent, the scripts and the programs of guests."""
        for script in ("agent", "rebind", "disk", "busy", "counters"):
            cpio.file(f"e2e/{script}", (GUEST / script).read_bytes())
        for tool in TOOLS:
            cpio.file(f"e2e/{tool}", self._tool(tool))

    def guest(self) -> bytes:
        """Level 2, or the guest that is alone on an emulated machine."""
        cpio = Cpio()
        cpio.file("init", (GUEST / "l2-init").read_bytes())
        cpio.file("bin/busybox", BUSYBOX.read_bytes())
        self.add_tools(cpio)
        # A kernel of the user's own (KERNEL=) may come without it.
        if (benchmark := self.kernel / BENCHMARK).is_file():
            cpio.file(f"e2e/{BENCHMARK}", benchmark.read_bytes())
        return cpio.finish()

    def _add_minimal(self, cpio: Cpio) -> Cpio:
        cpio.file("init", (GUEST / "l1-init").read_bytes())
        cpio.file("bin/busybox", BUSYBOX.read_bytes())
        for script in ("agent", "rebind", "disk", "counters"):
            cpio.file(f"e2e/{script}", (GUEST / script).read_bytes())
        return cpio

    def _add_libvirt(self, cpio: Cpio, tree: Path) -> None:
        for name, target in userspace.LINKS.items():
            cpio.directory_link(name, target)
        for name, item in userspace.files(tree).items():
            if isinstance(item, str):
                cpio.link(name, item)
            elif isinstance(item, bytes):
                cpio.file(name, item, executable=False)
            else:
                cpio.file(name, item.read_bytes(), executable=os.access(item, os.X_OK))
        cpio.file("e2e/libvirt", (GUEST / "libvirt").read_bytes())
        # A kernel of the user's own (KERNEL=) may come without it.
        if (config := self.kernel / "config").is_file():
            cpio.file("boot/config", config.read_bytes(), executable=False)

    def level1_without_guests(self) -> bytes:
        """A level 1 without guests, to read its ACPI tables."""
        return self._add_minimal(Cpio()).finish()

    def level1(self) -> bytes:
        cpio = Cpio()
        if self.libvirt:
            self._add_libvirt(cpio, self.libvirt / "tree")
        self._add_minimal(cpio)
        cpio.file("e2e/Image", self.image.read_bytes(), executable=False)
        cpio.file("e2e/QEMU_EFI.fd", FIRMWARE.read_bytes(), executable=False)
        cpio.file("e2e/l2.cpio", self.guest(), executable=False)
        for tool in ("directio", "vintfs", "vhostloop"):
            cpio.file(f"e2e/{tool}", self._tool(tool))
        for library in ("refusing", "holding"):
            cpio.file(f"e2e/{library}.so", self._preloaded(library))
        libraries: dict[str, Path] = {}
        for name, binary in self.qemus.items():
            if not binary.is_file():
                raise TestbedError(f"no QEMU to test at {binary}")
            stripped = self._cached(f"qemu-{name}", ["aarch64-linux-gnu-strip", binary, "-o"], binary)
            cpio.file(f"e2e/qemu-{name}", stripped.read_bytes())
            libraries |= library_closure(binary)
        if self.gdbserver:
            cpio.file("e2e/gdbserver", self.gdbserver.read_bytes())
            libraries |= library_closure(self.gdbserver)
        present = userspace.libraries(self.libvirt / "tree") if self.libvirt else set()
        for name, path in sorted(libraries.items()):
            if name not in present:
                cpio.file(f"lib/{name}", path.read_bytes())
        if LOADER not in libraries and libraries:
            raise TestbedError(f"no {LOADER} among the libraries")
        return cpio.finish()


def make_disk(path: Path, mebibytes: int) -> None:
    """A sparse disk image."""
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)


def fits(directory: Path, mebibytes: int) -> None:
    free = shutil.disk_usage(directory).free >> 20
    if free < mebibytes:
        raise TestbedError(f"too little disk for the testbed: needs {mebibytes} MiB in {directory}, {free} MiB available")
