# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Reports: TAP lines and tables, on standard output. Progress goes to standard error (scripts/console.py)."""
from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from .counters import BATCH, Counts


class Tap:
    """Test results in the Test Anything Protocol."""

    def __init__(self, planned: int) -> None:
        self._number = 0
        self.failed = 0
        print(f"1..{planned}", flush=True)

    def result(self, name: str, seconds: float, trouble: str | None, skipped: str = "") -> None:
        self.line(name, f"SKIP {skipped}" if skipped else f"{seconds:.1f} s", trouble)

    def line(self, name: str, comment: str, trouble: str | None) -> None:
        self._number += 1
        if trouble is not None:
            self.failed += 1
            for line in trouble.splitlines():
                print(f"# {line}")
        print(f"{'ok' if trouble is None else 'not ok'} {self._number} - e2e: {name} # {comment}", flush=True)


def table(rows: Iterable[Sequence[object]], header: Sequence[str] | None = None) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in cells]
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def work_done(columns: dict[str, Counts]) -> str:
    """The table of `make run`: a column for each guest."""
    def row(name: str, value: Callable[[Counts], object]) -> tuple[object, ...]:
        return (name, *(value(counts) for counts in columns.values()))

    commands = dict.fromkeys(name for counts in columns.values() for name in counts.commands)
    rows: list[tuple[object, ...]] = [(f"guest command {name}", *(counts.commands.get(name, 0) for counts in columns.values())) for name in commands]
    rows += [
        row("doorbells (writes of CMDQ_PROD)", lambda counts: counts.doorbells),
        row("batches sent to the host", lambda counts: counts.ioctls),
        row(f"  commands in each ({BATCH} at most)", lambda counts: f"{counts.entries / max(counts.ioctls, 1):.1f}"),
        row("IOMMU_HWPT_INVALIDATE ioctls, by level 1's kernel", lambda counts: counts.kernel_ioctls),
        row("errors (host and guest)", lambda counts: counts.errors),
        row("VM exits to QEMU", lambda counts: counts.user_exits),
        row("VM exits in all", lambda counts: counts.exits),
        row("elapsed", lambda counts: f"{counts.seconds:.1f} s"),
    ]
    return table(rows, ("", *columns))


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Minimum, median and maximum."""
    return min(values), statistics.median(values), max(values)
