# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Guest I/O without acceleration against QEMU's C device: two guests side by side, in pairs, and ratios as the result.

The disks have no backend that would take time (null-co), so that as much as possible of what is measured is the SMMU's; all
of it runs on an emulated CPU, and no verdict is passed on absolute figures.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

from . import report
from .software import Place, SoftwareConfig, SoftwareGuest

DEVICES = ("c", "rust")
CONTROL = "no SMMU"  # what is left of a difference there is one of the two builds of QEMU, not of the device
MODES = {"strict": "iommu.strict=1", "lazy": "iommu.strict=0", CONTROL: ""}
MILLISECONDS = 700  # of each measurement
SPAN = 1 << 28
_NULL = f"driver=null-co,read-zeroes=off,size={1 << 30}"
# Work of the SMMU for an I/O: the trace lines that are counted.
_COUNTED = {
    "translations": r"smmu_iotlb_lookup_(hit|miss)", "misses": "smmu_iotlb_lookup_miss",
    "commands": "smmuv3_cmdq_opcode", "TLBI": "smmuv3_cmdq_opcode .*TLBI", "events": "smmuv3_propagate_event",
}
_TRACED = ("smmu_iotlb_lookup_hit", "smmu_iotlb_lookup_miss", "smmuv3_cmdq_opcode")


@dataclass(frozen=True)
class Speed:
    rate: float  # blocks a second
    cpu: float  # microseconds of QEMU's CPU time for each: what else this machine does matters less to it


Pairs = list[tuple[Speed, Speed]]  # (C, Rust)


@dataclass(frozen=True)
class Case:
    name: str
    disk: str
    pattern: str
    block: int
    threads: int
    counted: int  # blocks of the counting run

    def speed(self, guest: SoftwareGuest) -> Speed:
        disk, begun = guest.run(f"disk {self.disk}"), guest.machine.cpu_seconds()
        rate = float(guest.run(f"iorate {self.pattern} {disk} {self.block} {SPAN} {self.threads} {MILLISECONDS}"))
        return Speed(rate, (guest.machine.cpu_seconds() - begun) / (rate * MILLISECONDS / 1000) * 1e6)

    def some(self, guest: SoftwareGuest) -> None:
        """The same amount of work each time."""
        guest.run(f"directio read $(disk {self.disk}) 0 {self.block} {self.counted} >&-", timeout=120)


CASES = (
    Case("NVMe, sequential 1 MiB", "disk0", "sequential", 1 << 20, 2, counted=64),
    Case("NVMe, random 4 KiB", "disk0", "random", 4096, 4, counted=2000),
    Case("virtio-blk on I/O threads, random 4 KiB", "disk1", "random", 4096, 4, counted=2000),
)


@dataclass
class Results:
    # (mode, case, device) -> counts of the counting run's fixed amount of I/O
    counts: dict[tuple[str, str, str], Counter[str]] = field(default_factory=dict)
    # (mode, case) -> measurements of the pairs
    speeds: dict[tuple[str, str], Pairs] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {
            "counts": [{"mode": mode, "case": case, "device": device, **counts}
                       for (mode, case, device), counts in self.counts.items()],
            "throughput": [{"mode": mode, "case": case,
                            "c": [asdict(c) for c, _ in pairs], "rust": [asdict(rust) for _, rust in pairs],
                            "rate_ratio": _rate_ratios(pairs), "cpu_ratio": _cpu_ratios(pairs)}
                           for (mode, case), pairs in self.speeds.items()],
        }


def _rate_ratios(pairs: Pairs) -> tuple[float, float, float]:
    """How many times faster the guest with the Rust device is: minimum, median, maximum over the pairs."""
    return report.spread([rust.rate / c.rate for c, rust in pairs])


def _cpu_ratios(pairs: Pairs) -> tuple[float, float, float]:
    """How many times cheaper a read is with the Rust device, likewise."""
    return report.spread([c.cpu / rust.cpu for c, rust in pairs])


def _config(mode: str, device: str) -> SoftwareConfig:
    machine = "virt" if mode == CONTROL else "virt,iommu=smmuv3"
    return SoftwareConfig(f"throughput-{device}", machine, devices=("disk0", "disk1"),
                          append=f"iommu.passthrough=0 {MODES[mode]}", events=(),
                          backends={"disk0": _NULL, "disk1": _NULL})


def _count(guest: SoftwareGuest, case: Case) -> Counter[str]:
    with guest.trace.of(*_TRACED) as lines:
        case.some(guest)
    return Counter({name: sum(1 for line in lines if re.search(pattern, line)) for name, pattern in _COUNTED.items()})


def _measure(guests: dict[str, SoftwareGuest], mode: str, pairs: int, results: Results) -> None:
    for case in CASES:
        for _ in range(pairs):
            # A, B, B, A: a steady drift affects both alike.
            found: dict[str, list[Speed]] = {device: [] for device in guests}
            for device in (*guests, *reversed(list(guests))):
                found[device].append(case.speed(guests[device]))
            c, rust = (Speed(fmean(speed.rate for speed in found[device]), fmean(speed.cpu for speed in found[device]))
                       for device in DEVICES)
            results.speeds.setdefault((mode, case.name), []).append((c, rust))


def run(place: Place, qemus: dict[str, Path], pairs: int, say: Callable[[str], None]) -> Results:
    results = Results()
    for mode in MODES:
        # Boots in both orders: a guest's physical memory layout affects the result more than the device.
        for order, share in ((DEVICES, (pairs + 1) // 2), (DEVICES[::-1], pairs // 2)):
            if not share:
                continue
            say(f"{mode}, {order[0]} booted before {order[1]}: {share} pairs each")
            with ExitStack() as stack:
                guests = {device: stack.enter_context(place.machine(_config(mode, device), qemus[device])) for device in order}
                _measure(guests, mode, share, results)
                if order == DEVICES and mode != CONTROL:
                    for case in CASES:
                        for device in DEVICES:
                            results.counts[mode, case.name, device] = _count(guests[device], case)
    return results


def tables(results: Results) -> str:
    speeds = []
    for (mode, case), pairs in results.speeds.items():
        medians = [report.spread([pair[side].rate for pair in pairs])[1] for side in (0, 1)]
        ratios = (" / ".join(f"{ratio:.2f}" for ratio in found) for found in (_rate_ratios(pairs), _cpu_ratios(pairs)))
        speeds.append((f"{mode}, {case}", *(f"{median:.0f}" for median in medians), *ratios))
    counts = [(f"{mode}, {case}, {device}", *(found[name] for name in _COUNTED), f"{found['misses'] / max(found['translations'], 1):.1%}")
              for (mode, case, device), found in results.counts.items()]
    return "\n".join([
        "",
        "Guest reads without acceleration, blocks a second, and QEMU's CPU time for each (medians; min / median / max of the",
        "pairs' ratios; more than 1: the Rust device is better):",
        "", report.table(speeds, ("", "C", "Rust", "rate, Rust / C", "CPU time, C / Rust")), "",
        "What a fixed number of them takes (64 of 1 MiB, 2,000 of 4 KiB):",
        "", report.table(counts, ("", *_COUNTED, "miss rate")), "",
    ])
