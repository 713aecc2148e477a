# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""What the user reads: TAP lines and tables, on standard output. Progress goes to standard error (scripts/console.py)."""
from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from .counters import BATCH, Counts


class Tap:
    """Test results in the Test Anything Protocol."""

    def __init__(self, planned: int) -> None:
        self._number = 0
        self.failed = 0
        print(f"1..{planned}", flush=True)

    def result(self, name: str, seconds: float, trouble: str | None) -> None:
        self._number += 1
        if trouble is not None:
            self.failed += 1
            for line in trouble.splitlines():
                print(f"# {line}")
        print(f"{'ok' if trouble is None else 'not ok'} {self._number} - e2e: {name} # {seconds:.1f} s", flush=True)


def table(rows: Iterable[Sequence[object]], header: Sequence[str] | None = None) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in cells]
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def work_done(counts: Counts) -> str:
    """The table of `make run`."""
    per_ioctl = f"{counts.entries / counts.ioctls:.1f}" if counts.ioctls else "-"
    rows: list[tuple[str, object, str]] = [(f"guest command {name}", count, "") for name, count in counts.commands.items()]
    rows += [
        ("doorbells (writes of CMDQ_PROD)", counts.doorbells, ""),
        ("batches sent to the host", counts.ioctls, f"{per_ioctl} commands each, {BATCH} at most"),
        ("IOMMU_HWPT_INVALIDATE ioctls", counts.kernel_ioctls, "as level 1's kernel counted them"),
        ("errors (host and guest)", counts.errors, ""),
        ("VM exits to QEMU", counts.user_exits, ""),
        ("VM exits in all", counts.exits, ""),
        ("elapsed", f"{counts.seconds:.1f} s", ""),
    ]
    width, number = max(len(row[0]) for row in rows), max(len(str(row[1])) for row in rows)
    return "\n".join(f"  {name:{width}}  {value!s:>{number}}  {remark}".rstrip() for name, value, remark in rows)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Minimum, median and maximum."""
    return min(values), statistics.median(values), max(values)
