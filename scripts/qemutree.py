# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Paths of a QEMU build."""
from __future__ import annotations

import re
from pathlib import Path

from console import die

BINARY = "qemu-system-aarch64"


def source_of(build: Path) -> Path:
    """Returns the source tree of a build directory."""
    makefile = build / "config-host.mak"
    found = makefile.is_file() and re.search(r"^SRC_PATH=(.+)$", makefile.read_text(), re.M)
    if not found or not (build / BINARY).is_file():
        die(f"{build} is not a finished build of QEMU: make one with scripts/qemu-build")
    return Path(found[1])
