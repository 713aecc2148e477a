# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Linux's dma_map_benchmark in a guest: how long an unmap takes."""
from __future__ import annotations

import re
from typing import NamedTuple

from .consoles import TestbedError
from .levels import Guest

class Latency(NamedTuple):
    """Means in microseconds of the guest's clock."""

    map: float
    unmap: float


def parse(text: str) -> Latency:
    """The output of dma_map_benchmark."""
    means = [re.search(rf"average {kind} latency\(us\):([\d.]+)", text) for kind in ("map", "unmap")]
    if not means[0] or not means[1]:
        raise TestbedError(f"dma_map_benchmark printed:\n{text}")
    return Latency(float(means[0][1]), float(means[1][1]))


def give_to_benchmark(guest: Guest) -> None:
    """Takes the disk from the NVMe driver."""
    address = guest.run("basename $(readlink /sys/class/nvme/nvme0/device)").strip()
    guest.run(f"rebind {address} dma_map_benchmark")


def command(pages: int, seconds: int, threads: int = 1) -> str:
    return f"dma_map_benchmark -t {threads} -s {seconds} -g {pages}"


def latency(guest: Guest, pages: int, seconds: int) -> Latency:
    """One thread that maps so many pages and unmaps them, again and again."""
    return parse(guest.run(command(pages, seconds), timeout=120))
