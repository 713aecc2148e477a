# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Linux's dma_map_benchmark in a guest: how long an unmap takes, and what it costs."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .consoles import TestbedError
from .levels import Guest

GRANULES = (1, 32, 256)  # pages in each mapping
# The driver's function that every unmap calls once in strict mode: it submits the TLBIs and waits for the CMD_SYNC.
_UNMAP = "arm_smmu_iotlb_sync"
# A line or more for each command: a slow QEMU gets more polls of CMDQ_CONS than one without the trace.
_ONE_PER_COMMAND = ("smmuv3_cmdq_opcode",)


class Latency(NamedTuple):
    """Means in microseconds of the guest's clock."""

    map: float
    unmap: float


@dataclass(frozen=True)
class Costs:
    """What a number of unmaps cost."""

    unmaps: int
    doorbells: int
    ioctls: int  # by level 1's kernel
    commands: int  # in those ioctls
    exits: int  # to QEMU
    errors: int

    def each(self, count: int) -> float:
        return count / max(self.unmaps, 1)

    def as_json(self) -> dict[str, object]:
        return {"unmaps": self.unmaps, "doorbells": self.doorbells, "ioctls": self.ioctls, "commands_in_ioctls": self.commands,
                "exits": self.exits, "errors": self.errors}


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


def count(guest: Guest, pages: int, seconds: int, threads: int = 1) -> Costs:
    """Counts with QEMU's trace of doorbells and ioctls. The guest's kernel counts the unmaps."""
    guest.set_trace(_ONE_PER_COMMAND, False)
    before = int(guest.run(f"counters calls {_UNMAP}"))
    with guest.measure() as measurement:
        parse(guest.run(command(pages, seconds, threads), timeout=180))
    unmaps = int(guest.run(f"counters calls {_UNMAP}")) - before
    if not unmaps:
        raise TestbedError(f"the guest's kernel has not called {_UNMAP}: nothing was unmapped in strict mode")
    counts = measurement.result
    return Costs(unmaps, counts.doorbells, counts.kernel_ioctls, counts.entries, counts.user_exits, counts.errors)
