# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The benchmark of the architecture crate: what a command costs in it, without what the host costs."""
from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from .consoles import TestbedError

NAME = "consuming"  # the function in rust/smmuv3/benches/consumer.rs
_LOG2SIZE = 19  # its argument that counts: a full queue of the largest size
_UNITS = {"ns": 1.0, "µs": 1e3, "ms": 1e6, "s": 1e9}


def build(project: Path, target: Path | None) -> Path:
    """Returns the benchmark's program."""
    words = ["cargo", "bench", "--quiet", "--no-run", "--package", "smmuv3", "--bench", "consumer", "--message-format=json"]
    environment = {**os.environ, **({"CARGO_TARGET_DIR": str(target)} if target else {})}
    done = subprocess.run(words, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    programs = [message["executable"] for message in map(json.loads, done.stdout.splitlines())
                if message.get("target", {}).get("name") == "consumer" and message.get("executable")]
    if done.returncode or len(programs) != 1:
        raise TestbedError(f"the benchmark of the architecture crate does not build in {project}")
    return Path(programs[0])


def nanoseconds(text: str) -> float:
    """The median of one command, from what the benchmark prints: columns fastest, slowest, median, mean."""
    row = re.search(rf"^\W*{_LOG2SIZE}\s+[\d.]+ \S+\s+│ [\d.]+ \S+\s+│ ([\d.]+) (\S+)", text, re.MULTILINE)
    if not row or row[2] not in _UNITS:
        raise TestbedError(f"the benchmark of the architecture crate printed:\n{text}")
    return float(row[1]) * _UNITS[row[2]] / (1 << _LOG2SIZE)
