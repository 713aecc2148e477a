# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The comparison with QEMU's C device: both in one boot of level 1, in pairs, C first, and ratios as the result.

Absolute times are those of an emulated machine and no verdict is passed on them.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from . import report
from .consoles import TestbedError
from .counters import Counts
from .levels import DISKS, Guest, GuestConfig, Level1

DEVICES = ("c", "rust")
MODES = {"default": "", "ril=off": ",ril=off"}
GRANULES = (1, 32, 256)  # pages in each mapping
SECONDS = 2  # of dma_map_benchmark, each
Latencies = dict[tuple[str, int], list[tuple[float, float]]]


@dataclass
class Results:
    # (mode, device) -> counts of the NVMe workload
    workload: dict[tuple[str, str], Counts] = field(default_factory=dict)
    # (mode, device, granule) -> counts of a second or two of unmapping; each unmap ends with one CMD_SYNC
    unmapping: dict[tuple[str, str, int], Counts] = field(default_factory=dict)
    # (mode, granule) -> for each pair (C, Rust) mean latencies in microseconds
    unmap: Latencies = field(default_factory=dict)
    map: Latencies = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        def latencies(source: Latencies) -> list[dict[str, object]]:
            return [{"mode": mode, "pages": pages, "c_us": [pair[0] for pair in pairs], "rust_us": [pair[1] for pair in pairs],
                     "ratio": dict(zip(("min", "median", "max"), _ratios(pairs)))}
                    for (mode, pages), pairs in source.items()]

        return {
            "nvme_workload": [{"mode": mode, "device": device, **counts.as_json()}
                              for (mode, device), counts in self.workload.items()],
            "unmapping": [{"mode": mode, "device": device, "pages": pages, **counts.as_json()}
                          for (mode, device, pages), counts in self.unmapping.items()],
            "unmap_latency": latencies(self.unmap),
            "map_latency": latencies(self.map),
        }


def _ratios(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """How many times cheaper the Rust device is: minimum, median, maximum over the pairs."""
    return report.spread([c / rust for c, rust in pairs])


def _nvme_workload(guest: Guest) -> Counts:
    """32 MiB in reads of 1 MiB, then 2,000 reads of 4 KiB, all of them direct."""
    disk = guest.run("disk disk0")
    with guest.measure() as measurement:
        guest.run(f"directio read {disk} 0 1048576 32 >&-", timeout=300)
        guest.run(f"directio read {disk} 0 4096 2000 >&-", timeout=300)
    return measurement.result


def _latency(guest: Guest, pages: int) -> tuple[float, float]:
    """(map, unmap) mean latency in microseconds of one thread that maps and unmaps so many pages at once."""
    text = guest.run(f"dma_map_benchmark -t 1 -s {SECONDS} -g {pages}", timeout=120)
    means = [re.search(rf"average {kind} latency\(us\):([\d.]+)", text) for kind in ("map", "unmap")]
    if not means[0] or not means[1]:
        raise TestbedError(f"dma_map_benchmark printed:\n{text}")
    return float(means[0][1]), float(means[1][1])


def _give_to_benchmark(guest: Guest) -> None:
    address = guest.run("basename $(readlink /sys/class/nvme/nvme0/device)").strip()
    guest.run(f"rebind {address} dma_map_benchmark")


def _count(level1: Level1, results: Results, mode: str, device: str) -> None:
    """Counts operations with QEMU's trace on."""
    config = GuestConfig(name=f"bench-{device}", qemu=device, properties=MODES[mode])
    with level1.guest(config) as guest:
        results.workload[mode, device] = _nvme_workload(guest)
        _give_to_benchmark(guest)
        for pages in GRANULES:
            with guest.measure() as measurement:
                _latency(guest, pages)
            results.unmapping[mode, device, pages] = measurement.result


def _measure_latencies(level1: Level1, results: Results, mode: str, order: tuple[str, ...], pairs: int) -> None:
    """Both guests run side by side and work in turn, so that other load on the machine affects both."""
    with ExitStack() as stack:
        guests = {}
        for slot, device in enumerate(order):
            # Tracing would cost each command some time.
            config = GuestConfig(name=f"bench-{device}", qemu=device, properties=MODES[mode], trace=False, slot=slot,
                                 smmus=((DISKS[slot],),))
            guests[device] = stack.enter_context(level1.guest(config))
            _give_to_benchmark(guests[device])
        for pages in GRANULES:
            for _ in range(pairs):
                measured = {device: _latency(guests[device], pages) for device in order}
                (map_c, unmap_c), (map_rust, unmap_rust) = (measured[device] for device in DEVICES)
                results.map.setdefault((mode, pages), []).append((map_c, map_rust))
                results.unmap.setdefault((mode, pages), []).append((unmap_c, unmap_rust))


def run(level1: Level1, pairs: int, say: Callable[[str], None]) -> Results:
    results = Results()
    for mode in MODES:
        for device in DEVICES:
            say(f"commands, ioctls and exits, {mode}, {device}")
            _count(level1, results, mode, device)
    for mode in MODES:
        # Two boots each: a guest's physical memory layout affects the result more than the device.
        for order, share in ((DEVICES, (pairs + 1) // 2), (DEVICES[::-1], pairs // 2)):
            if share:
                say(f"latencies, {mode}, {order[0]} before {order[1]}: {share} pairs each")
                _measure_latencies(level1, results, mode, order, share)
    return results


def _workload_table(results: Results) -> str:
    rows = [(f"{mode}, {device}", counts.tlbi, counts.syncs, counts.doorbells, counts.kernel_ioctls, counts.user_exits,
             counts.exits) for (mode, device), counts in results.workload.items()]
    return report.table(rows, ("", "TLBI", "CMD_SYNC", "doorbells", "ioctls", "exits to QEMU", "exits in all"))


def _unmapping_table(results: Results) -> str:
    rows = []
    for (mode, device, pages), counts in results.unmapping.items():
        each = (count / max(counts.syncs, 1) for count in (counts.tlbi, counts.doorbells, counts.kernel_ioctls, counts.user_exits))
        rows.append((f"{mode}, {_pages(pages)}, {device}", *(f"{count:.2f}" for count in each)))
    return report.table(sorted(rows), ("an unmap of", "TLBI", "doorbells", "ioctls", "exits to QEMU"))


def _pages(count: int) -> str:
    return f"{count:3d} page{'s' if count > 1 else ''}"


def _latency_table(latencies: Latencies) -> str:
    rows = []
    for (mode, pages), pairs in latencies.items():
        medians = [report.spread([pair[side] for pair in pairs])[1] for side in (0, 1)]
        ratios = " / ".join(f"{ratio:.2f}" for ratio in _ratios(pairs))
        rows.append((f"{mode}, {_pages(pages)}", *(f"{median:.0f}" for median in medians), ratios))
    return report.table(rows, ("", "C", "Rust", "C / Rust: min / median / max"))


def tables(results: Results) -> str:
    return "\n".join([
        "",
        "NVMe workload (32 MiB in 1 MiB reads, 2,000 reads of 4 KiB; strict mode):",
        "", _workload_table(results), "",
        "What one unmap takes:",
        "", _unmapping_table(results), "",
        "Guest unmap latency, microseconds (dma_map_benchmark, one thread; medians, and the ratios of the pairs):",
        "", _latency_table(results.unmap), "",
        "Guest map latency, likewise (mapping gives no command: what these ratios differ from 1 is noise):",
        "", _latency_table(results.map), "",
    ])
