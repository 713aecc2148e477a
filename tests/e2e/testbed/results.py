# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The results of `--bench`, as JSON and as tables. goals.py compares them with what the project wants to reach."""
from __future__ import annotations

from dataclasses import dataclass, field

from . import report
from .counters import Counts
from .systemcalls import SystemCalls
from .unmap import Costs, Latency

DEVICES = ("c", "rust")
# Modes of the two devices. MSI_OFF exists if the Rust device has the property: the same ID registers as the C device's.
DEFAULT, MSI_OFF, RIL_OFF = "default", "msi=off", "ril=off"
# On hardware with CMDQV: both devices use it, or only the Rust device does and the C device's commands are trapped.
CMDQV, CMDQV_AGAINST_TRAPPED = "cmdqv=on", "cmdqv=on, C off"
Pairs = list[tuple[float, float]]  # (C, Rust)


@dataclass
class Results:
    """Keys have the mode first, then the device ("c" or "rust"), then the number of pages of an unmap."""

    has_msi: bool = False  # whether the Rust device has the property `msi`
    workload: dict[tuple[str, str], Counts] = field(default_factory=dict)
    costs: dict[tuple[str, str, int], Costs] = field(default_factory=dict)
    system_calls: dict[tuple[str, str], SystemCalls] = field(default_factory=dict)
    # (mode, pages) -> means of each pair, in microseconds
    unmap: dict[tuple[str, int], Pairs] = field(default_factory=dict)
    map: dict[tuple[str, int], Pairs] = field(default_factory=dict)
    # vCPUs unmapping at once: (device, vCPUs)
    several: dict[tuple[str, int], Costs] = field(default_factory=dict)
    # (mode, device, pages) -> instructions of (map, unmap)
    instructions: dict[tuple[str, str, int], Latency] = field(default_factory=dict)
    queue: Pairs = field(default_factory=list)  # milliseconds of a full queue, without acceleration
    command: Pairs = field(default_factory=list)  # nanoseconds of a command in the crate, (another commit's, this one's)
    seconds: dict[str, float] = field(default_factory=dict)  # what each row took

    def ratios(self, mode: str, pages: int) -> tuple[float, float]:
        """Median ratios C / Rust of unmap latency and of the control, which is map latency."""
        return spread(self.unmap[mode, pages])[1], spread(self.map[mode, pages])[1]

    def as_json(self) -> dict[str, object]:
        def latencies(source: dict[tuple[str, int], Pairs]) -> list[dict[str, object]]:
            return [{"mode": mode, "pages": pages, "c_us": [pair[0] for pair in pairs], "rust_us": [pair[1] for pair in pairs],
                     "ratio": dict(zip(("min", "median", "max"), spread(pairs)))}
                    for (mode, pages), pairs in source.items()]

        return {
            "msi_property": self.has_msi,
            "nvme_workload": [{"mode": mode, "device": device, **counts.as_json()}
                              for (mode, device), counts in self.workload.items()],
            "unmapping": [{"mode": mode, "device": device, "pages": pages, **costs.as_json()}
                          for (mode, device, pages), costs in self.costs.items()],
            "unmapping_at_once": [{"device": device, "vcpus": vcpus, **costs.as_json()}
                                  for (device, vcpus), costs in self.several.items()],
            "system_calls": [{"mode": mode, "device": device, **calls.as_json()}
                             for (mode, device), calls in self.system_calls.items()],
            "instructions": [{"mode": mode, "device": device, "pages": pages, "map": count.map, "unmap": count.unmap}
                             for (mode, device, pages), count in self.instructions.items()],
            "unmap_latency": latencies(self.unmap),
            "map_latency": latencies(self.map),
            "full_queue_ms": {"c": [pair[0] for pair in self.queue], "rust": [pair[1] for pair in self.queue]},
            "crate_command_ns": {"base": [pair[0] for pair in self.command], "this": [pair[1] for pair in self.command]},
            "seconds": self.seconds,
        }


def spread(pairs: Pairs) -> tuple[float, float, float]:
    """How many times cheaper the Rust device is: minimum, median, maximum over the pairs."""
    return report.spread([c / rust for c, rust in pairs])


def medians(pairs: Pairs) -> tuple[float, float]:
    c, rust = (report.spread([pair[side] for pair in pairs])[1] for side in (0, 1))
    return c, rust


def microseconds(time: float) -> str:
    return f"{time:.1f}" if time < 100 else f"{time:.0f}"


def _pages(count: int) -> str:
    return f"{count:3d} page{'s' if count > 1 else ''}"


def _workload(results: Results) -> str:
    rows = [(f"{mode}, {device}", counts.tlbi, counts.syncs, counts.doorbells, counts.kernel_ioctls, counts.user_exits,
             counts.exits) for (mode, device), counts in results.workload.items()]
    return report.table(rows, ("", "TLBI", "CMD_SYNC", "doorbells", "ioctls", "exits to QEMU", "exits in all"))


_COSTS = ("doorbells", "ioctls", "commands in them", "exits to QEMU", "unmaps counted")


def _cost(what: str, costs: Costs) -> tuple[object, ...]:
    each = (costs.each(count) for count in (costs.doorbells, costs.ioctls, costs.commands, costs.exits))
    return (what, *(f"{count:.2f}" for count in each), costs.unmaps)


def _costs(results: Results) -> str:
    rows = [_cost(f"{mode}, {_pages(pages)}, {device}", costs) for (mode, device, pages), costs in results.costs.items()]
    return report.table(sorted(rows), ("an unmap of", *_COSTS))


def _several(results: Results) -> str:
    rows = [_cost(f"1 page, {vcpus} vCPUs at once, {device}", costs) for (device, vcpus), costs in results.several.items()]
    return report.table(rows, ("an unmap of", *_COSTS))


def _system_calls(results: Results) -> str:
    names = sorted({name for found in results.system_calls.values() for name in found.calls})
    rows = [(f"{mode}, {device}", *(f"{found.calls[name] / found.doorbells:.2f}" for name in names), f"{found.each:.2f}",
             f"{found.polls / found.doorbells:.2f}", found.doorbells) for (mode, device), found in results.system_calls.items()]
    return report.table(rows, ("a doorbell of", *names, "in all", "reads of CMDQ_CONS", "doorbells counted"))


def _instructions(results: Results) -> str:
    rows = [(f"{mode}, {_pages(pages)}, {device}", f"{count.unmap:.0f}", f"{count.map:.0f}")
            for (mode, device, pages), count in results.instructions.items()]
    return report.table(sorted(rows), ("", "unmap", "map"))


def _latencies(latencies: dict[tuple[str, int], Pairs]) -> str:
    rows = []
    for (mode, pages), pairs in latencies.items():
        ratios = " / ".join(f"{ratio:.2f}" for ratio in spread(pairs))
        rows.append((f"{mode}, {_pages(pages)}", *(microseconds(median) for median in medians(pairs)), ratios))
    return report.table(rows, ("", "C", "Rust", "C / Rust: min / median / max"))


def tables(results: Results) -> str:
    """The tables of what was measured."""
    parts = [
        (results.workload, "NVMe workload (32 MiB in 1 MiB reads, 2,000 reads of 4 KiB; strict mode):", _workload),
        (results.costs, "What one unmap takes, with one vCPU:", _costs),
        (results.several, "What one unmap takes when several vCPUs unmap:", _several),
        (results.system_calls, "System calls of QEMU for a doorbell of one unmap, without KVM_RUN and futex:", _system_calls),
        (results.instructions, "Instructions of an unmap and of a map, all levels together (level 0 with icount):", _instructions),
        (results.unmap, "Guest unmap latency, microseconds (dma_map_benchmark, one thread; medians, and the ratios of the pairs):",
         lambda found: _latencies(found.unmap)),
        (results.map, "Guest map latency, likewise (mapping gives no command: what these ratios differ from 1 is noise):",
         lambda found: _latencies(found.map)),
    ]
    return "\n".join(f"\n{title}\n\n{table(results)}\n" for wanted, title, table in parts if wanted)
