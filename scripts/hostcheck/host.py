# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Files of the host below a configurable root. No method raises anything but Unreadable."""
from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 16
LIMIT = 1 << 24  # bytes of a file that are read; the largest, a kernel configuration, has some 300 KiB


class Unreadable(Exception):
    """A file that cannot be read. `absent` is whether there is none; the text names neither host nor device."""

    def __init__(self, reason: str, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


def unreadable(error: Exception) -> Unreadable:
    if isinstance(error, OSError):
        absent = isinstance(error, (FileNotFoundError, NotADirectoryError))
        return Unreadable(error.strerror or type(error).__name__, absent)
    return Unreadable(type(error).__name__)


@dataclass(frozen=True)
class Host:
    """The machine whose /sys, /proc, /dev, /etc, /boot and /lib are below `root`.

    Only the names of links are used, except for links within the root, because an absolute one would lead out of it.
    """

    root: Path

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    @property
    def is_this_machine(self) -> bool:
        return self.root == Path("/")

    def read(self, name: str) -> bytes:
        """Returns the contents of a regular file; opening a FIFO or a device could block or disturb the host."""
        try:
            path = self.path(name)
            if not stat.S_ISREG(path.stat().st_mode):
                raise Unreadable("is not a regular file")
            data = bytearray()
            with path.open("rb", buffering=0) as file:
                # /proc/sys refuses to read 4 MiB or more at once (ENOMEM).
                while len(data) < LIMIT and (chunk := file.read(min(_CHUNK, LIMIT - len(data)))):
                    data += chunk
            return bytes(data)
        except (OSError, ValueError) as error:
            raise unreadable(error) from None

    def text(self, name: str) -> str:
        return self.read(name).decode(errors="replace").strip()

    def text_or(self, name: str, default: str) -> str:
        try:
            return self.text(name)
        except Unreadable:
            return default

    def names(self, directory: str) -> list[str]:
        """Returns the entries of a directory, in order."""
        try:
            return sorted(os.listdir(self.path(directory)))
        except (OSError, ValueError) as error:
            raise unreadable(error) from None

    def names_or_none(self, directory: str) -> list[str]:
        try:
            return self.names(directory)
        except Unreadable:
            return []

    def target(self, link: str) -> str | None:
        """Returns what a symbolic link contains, or None if there is none or it cannot be read."""
        try:
            return os.readlink(self.path(link))
        except (OSError, ValueError):
            return None

    def target_name(self, link: str) -> str | None:
        """Returns the last component of what a symbolic link contains."""
        target = self.target(link)
        return None if target is None else os.path.basename(target.rstrip("/")) or None

    def status(self, name: str) -> os.stat_result:
        try:
            return self.path(name).stat()
        except (OSError, ValueError) as error:
            raise unreadable(error) from None

    def exists(self, name: str) -> bool:
        try:
            self.status(name)
        except Unreadable as error:
            return not error.absent
        return True
