# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Runs groups of scenarios concurrently, because the levels of one group keep little more than one CPU busy.

Each group is a process of its own (this program again, with the names of its scenarios) with a level 1 of its own.
"""
from __future__ import annotations

import itertools
import os
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from .registry import Bed, Scenario
from .report import Tap

# The environment variable with a group's log directory.
LOGS = "E2E_LOGS"
# A level 1 takes seconds to boot; few scenarios in a group keep all lanes busy to the end.
_GROUP = 4
_MOST = 4
_MEMORY = 6 << 30  # for one lane: level 1 has 4 GiB, and its initramfs and QEMU need some
# Lanes slow each other down, more so on CPUs that share a core.
_PATIENCE = 2.0
_RESULT = re.compile(r"(ok|not ok) \d+ - e2e: (\S+) # (.*)")


class Result(NamedTuple):
    name: str
    comment: str
    trouble: str | None


def results_in(lines: Iterable[str]) -> Iterator[Result]:
    """The results in what a Tap prints."""
    trouble: list[str] = []
    for line in lines:
        if line.startswith("# "):
            trouble.append(line[2:].rstrip("\n"))
        elif result := _RESULT.match(line):
            yield Result(result[2], result[3], "\n".join(trouble) if result[1] == "not ok" else None)
            trouble = []


def of_this_machine() -> int:
    """The number of groups to run concurrently."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(_MOST, len(os.sched_getaffinity(0)), memory // _MEMORY))


def groups_of(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Scenarios of one bed, few at a time; beds with three levels come first, because their scenarios take longer."""
    groups: list[list[Scenario]] = []
    for _, of_bed in itertools.groupby(scenarios, key=lambda scenario: scenario.bed):
        every = list(of_bed)
        # Groups of one bed have about the same size.
        count = -(-len(every) // _GROUP)
        groups += [every[len(every) * index // count: len(every) * (index + 1) // count] for index in range(count)]
    return sorted(groups, key=lambda group: group[0].bed is Bed.SOFTWARE)


@dataclass
class Lanes:
    """`command` runs the scenarios whose names are appended to it; `count` such processes run concurrently."""

    command: Sequence[str]
    count: int
    logs: Path
    tap: Tap
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: list[subprocess.Popen[str]] = field(default_factory=list)
    _ended: bool = False

    def run(self, groups: Sequence[Sequence[Scenario]]) -> None:
        todo: SimpleQueue[tuple[int, Sequence[Scenario]]] = SimpleQueue()
        for numbered in enumerate(groups, start=1):
            todo.put(numbered)
        threads = [threading.Thread(target=self._lane, args=(todo,), daemon=True) for _ in range(min(self.count, len(groups)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            # After an interrupt the groups end their machines before this process ends.
            self._end()
            for thread in threads:
                thread.join()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()

    def _lane(self, todo: SimpleQueue[tuple[int, Sequence[Scenario]]]) -> None:
        while True:
            try:
                number, group = todo.get_nowait()
            except Empty:
                return
            logs = self.logs / f"{number}-{group[0].bed.value}"
            logs.mkdir()
            patience = float(os.environ.get("E2E_PATIENCE") or 1) * _PATIENCE
            with self._lock:
                if self._ended:
                    return
                process = subprocess.Popen([*self.command, *(scenario.name for scenario in group)], stdout=subprocess.PIPE, text=True,
                                           errors="replace", env=os.environ | {LOGS: str(logs), "E2E_PATIENCE": str(patience)})
                self._running.append(process)
            self._relay(process, [scenario.name for scenario in group])
            with self._lock:
                self._running.remove(process)

    def _relay(self, process: subprocess.Popen[str], names: list[str]) -> None:
        """Prints a group's results as they come, and a failure for each that does not come."""
        assert process.stdout is not None
        for result in results_in(process.stdout):
            names.remove(result.name)
            with self._lock:
                self.tap.line(*result)
        status = process.wait()
        with self._lock:
            for name in names if not self._ended else ():
                self.tap.line(name, "0.0 s", f"its group ended early, with status {status}")
