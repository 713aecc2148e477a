# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The comparison with QEMU's C device: both in one boot of level 1, C first, and ratios as the result (docs/testbed.md).

Absolute times are those of an emulated machine and no verdict is passed on them.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import cratebench, goals, results, systemcalls, unmap
from .consoles import TestbedError
from .counters import Counts
from .levels import DISKS, Guest, GuestConfig, Hardware, Level1
from .results import CMDQV, CMDQV_AGAINST_TRAPPED, DEFAULT, DEVICES, MSI_OFF, RIL_OFF, Results
from .unmap import GRANULES, Latency

Say = Callable[[str], None]
PROJECT = Path(__file__).resolve().parents[3]
SECONDS = 2  # of dma_map_benchmark, each, while counting
LATENCY_SECONDS = 1  # ... while measuring time
VCPUS = 4  # that unmap at once
_COUNTED = (DEFAULT, RIL_OFF)
# Runs with icount, whose results differ by a few instructions.
_INSTRUCTION_RUNS = {1: 3, 32: 1, 256: 1}


@dataclass(frozen=True)
class Row:
    """A part of the comparison that can be run alone (--bench-rows)."""

    name: str
    summary: str
    hardware: Hardware | None = Hardware()  # None: not in the levels
    qemus: tuple[str, ...] = DEVICES


ROWS = {row.name: row for row in (
    Row("workload", "commands, ioctls and exits of NVMe I/O"),
    Row("exits", "doorbells, ioctls and exits of an unmap, one vCPU"),
    Row("syscalls", "QEMU's system calls for a doorbell"),
    Row("latency", "unmap latency, in pairs"),
    Row("cmdqv", "unmap latency with hardware queues (CMDQV), in pairs", Hardware(cmdqv=True), (*DEVICES, "cmdqv-x86")),
    Row("vcpus", f"ioctls and exits of an unmap, {VCPUS} vCPUs at once", Hardware(cpus=VCPUS)),
    Row("icount", "instructions of an unmap", Hardware(icount=True)),
    Row("queue", "a full Command queue without acceleration, in pairs", None, ("c-x86", "rust-x86")),
    Row("crate", "a command in the architecture crate, this commit against --base, in pairs", None, ()),
)}


def parse_rows(text: str) -> list[str]:
    """The value of --bench-rows, in the order of ROWS."""
    wanted = set(text.split(","))
    if unknown := wanted - set(ROWS):
        raise argparse.ArgumentTypeError(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
    return [name for name in ROWS if name in wanted]


def _properties(mode: str, device: str) -> str:
    if mode in (CMDQV, CMDQV_AGAINST_TRAPPED):
        return ",cmdqv=off" if mode == CMDQV_AGAINST_TRAPPED and device == "c" else ",cmdqv=on"
    if mode == RIL_OFF:
        return ",ril=off"
    return ",msi=off" if mode == MSI_OFF and device == "rust" else ""


def _nvme_workload(guest: Guest) -> Counts:
    """32 MiB in reads of 1 MiB, then 2,000 reads of 4 KiB, all of them direct."""
    disk = guest.run("disk disk0")
    with guest.measure() as measurement:
        guest.run(f"directio read {disk} 0 1048576 32 >&-", timeout=300)
        guest.run(f"directio read {disk} 0 4096 2000 >&-", timeout=300)
    return measurement.result


@dataclass(frozen=True)
class Others:
    """What the rows outside of the levels need."""

    qemus: dict[str, Path]
    scratch: Path  # a directory for temporary files
    base: str  # the sources of another commit, if there are any


@dataclass(frozen=True)
class Comparison:
    """One run of `--bench`, in which `found` is filled row by row."""

    rows: list[str]
    pairs: int
    say: Say
    found: Results

    @contextmanager
    def _timed(self, *rows: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun
        self.found.seconds["+".join(rows)] = round(seconds, 1)
        self.say(f"{' and '.join(rows)}: took {seconds:.0f} s")

    def _modes(self, *more: str) -> list[str]:
        """Modes in which ID registers are the same in both devices come first."""
        return [*([MSI_OFF] if self.found.has_msi else []), DEFAULT, *more]

    def _counts(self, level1: Level1) -> None:
        """Counts operations with QEMU's trace on."""
        for mode in _COUNTED:
            for device in DEVICES:
                self.say(f"commands, ioctls and exits, {mode}, {device}")
                config = GuestConfig(name=f"bench-{device}", qemu=device, properties=_properties(mode, device))
                with level1.guest(config) as guest:
                    if "workload" in self.rows:
                        self.found.workload[mode, device] = _nvme_workload(guest)
                    if "exits" in self.rows:
                        unmap.give_to_benchmark(guest)
                        for pages in GRANULES:
                            self.found.costs[mode, device, pages] = unmap.count(guest, pages, SECONDS)

    def _system_calls(self, level1: Level1) -> None:
        for mode in self._modes():
            for device in DEVICES:
                self.say(f"system calls, {mode}, {device}")
                config = GuestConfig(name=f"bench-{device}", qemu=device, properties=_properties(mode, device), trace=False)
                with level1.guest(config) as guest:
                    unmap.give_to_benchmark(guest)
                    self.found.system_calls[mode, device] = systemcalls.measure(guest)

    def _latencies(self, level1: Level1, modes: Iterable[str]) -> None:
        for mode in modes:
            # Two boots each: a guest's physical memory layout affects the result more than the device.
            for order, share in ((DEVICES, (self.pairs + 1) // 2), (DEVICES[::-1], self.pairs // 2)):
                if share:
                    self.say(f"latencies, {mode}, {order[0]} before {order[1]}: {share} pairs each")
                    self._side_by_side(level1, mode, order, share)

    def _side_by_side(self, level1: Level1, mode: str, order: tuple[str, ...], pairs: int) -> None:
        """Both guests run side by side and work in turn, so that other load on the machine affects both."""
        with ExitStack() as stack:
            guests = {}
            for slot, device in enumerate(order):
                # Tracing would cost each command some time.
                config = GuestConfig(name=f"bench-{device}", qemu=device, properties=_properties(mode, device), trace=False,
                                     slot=slot, smmus=((DISKS[slot],),))
                guests[device] = stack.enter_context(level1.guest(config))
                unmap.give_to_benchmark(guests[device])
            for pages in GRANULES:
                for _ in range(pairs):
                    measured = {device: unmap.latency(guests[device], pages, LATENCY_SECONDS) for device in order}
                    c, rust = (measured[device] for device in DEVICES)
                    self.found.map.setdefault((mode, pages), []).append((c.map, rust.map))
                    self.found.unmap.setdefault((mode, pages), []).append((c.unmap, rust.unmap))

    def _several(self, level1: Level1) -> None:
        for device in DEVICES:
            self.say(f"{VCPUS} vCPUs that unmap at once, {device}")
            with level1.guest(GuestConfig(name=f"bench-{device}", qemu=device, smp=VCPUS)) as guest:
                unmap.give_to_benchmark(guest)
                self.found.several[device, VCPUS] = unmap.count(guest, 1, SECONDS, threads=VCPUS)

    def _instructions(self, level1: Level1, hardware: Hardware) -> None:
        for mode in self._modes():
            for device in DEVICES:
                self.say(f"instructions, {mode}, {device}")
                config = GuestConfig(name=f"bench-{device}", qemu=device, properties=_properties(mode, device), trace=False)
                with level1.guest(config) as guest:
                    unmap.give_to_benchmark(guest)
                    for pages, runs in _INSTRUCTION_RUNS.items():
                        times = [unmap.latency(guest, pages, LATENCY_SECONDS) for _ in range(runs)]
                        self.found.instructions[mode, device, pages] = Latency(
                            hardware.instructions(statistics.median(time.map for time in times)),
                            hardware.instructions(statistics.median(time.unmap for time in times)))

    def _chosen(self, rows: Iterable[str]) -> list[str]:
        return [name for name in rows if name in self.rows]

    def in_level1(self, level1: Level1, hardware: Hardware) -> None:
        """The rows that this hardware is for."""
        self.found.has_msi = "msi" in level1.properties("rust")
        if not self.found.has_msi:
            self.say("the Rust device has no property msi: everything is measured without it")
        for rows, work in ((("workload", "exits"), self._counts), (("syscalls",), self._system_calls),
                           (("latency",), lambda level1: self._latencies(level1, self._modes(RIL_OFF))),
                           (("cmdqv",), lambda level1: self._latencies(level1, (CMDQV, CMDQV_AGAINST_TRAPPED))),
                           (("vcpus",), self._several),
                           (("icount",), lambda level1: self._instructions(level1, hardware))):
            here = [name for name in self._chosen(rows) if ROWS[name].hardware == hardware]
            if here:
                with self._timed(*here):
                    work(level1)

    def queue(self, others: Others) -> None:
        """The benchmark tests/qtest/benches/queue.rs."""
        with self._timed("queue"):
            self.say(f"a full Command queue without acceleration: {self.pairs} pairs")
            out = others.scratch / f"bench-queue-{os.getpid()}.json"
            _run("cargo", "bench", "--quiet", "--package", "smmuv3-qtest", "--bench", "queue",
                 QEMU_BIN=others.qemus["rust-x86"], QEMU_C_BIN=others.qemus["c-x86"], PAIRS=self.pairs, BENCH_OUT=out)
            self.found.queue = [(pair["c_ms"], pair["rust_ms"]) for pair in json.loads(out.read_text())]
            out.unlink()

    def crate(self, others: Others) -> None:
        """The benchmark rust/smmuv3/benches/consumer.rs, of the other commit and of this one in turn."""
        with self._timed("crate"):
            self.say(f"a command in the architecture crate: {self.pairs} pairs")
            base = Path(others.base)
            # Each has a target directory of its own: cargo compares timestamps, and the sources of the other commit are newer.
            programs = [cratebench.build(base, base / "target"), cratebench.build(PROJECT, None)]
            for _ in range(self.pairs):
                before, after = (cratebench.nanoseconds(_run(program, "--bench", cratebench.NAME)) for program in programs)
                self.found.command.append((before, after))


def _run(*words: str | Path, **variables: object) -> str:
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run([str(word) for word in words], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"{' '.join(map(str, words))} failed with {done.returncode}")
    return done.stdout


def run(boot: Callable[..., AbstractContextManager[Level1]], others: Others, rows: list[str], pairs: int, say: Say,
        found: Results) -> None:
    """Fills `found`. `boot` boots a level 1 on the hardware that it is given."""
    comparison = Comparison(rows, pairs, say, found)
    wanted = [ROWS[name] for name in rows]
    for hardware in dict.fromkeys(row.hardware for row in wanted if row.hardware):
        with boot(hardware=hardware) as level1:
            comparison.in_level1(level1, hardware)
    for name, work in (("queue", comparison.queue), ("crate", comparison.crate)):
        if name in rows:
            work(others)


def as_json(found: Results) -> dict[str, object]:
    return {**found.as_json(), "goals": [goal.as_json() for goal in goals.goals(found)]}


def tables(found: Results) -> str:
    """What was measured, and then the goals."""
    parts = [results.tables(found)]
    if reached := goals.goals(found):
        parts += ["Goals of the Rust device (counts have a verdict; times need PAIRS=16 and a machine without other work):",
                  goals.table(reached), ""]
    return "\n".join(parts)
