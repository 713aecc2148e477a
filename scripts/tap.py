# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Test results in the Test Anything Protocol, as scripts/test reads them."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    name: str
    trouble: str | None = None  # the reason of a failure, in any number of lines
    skipped: str = ""  # the reason of a skip


def report(planned: int, outcomes: Iterable[Outcome]) -> int:
    """Prints the outcomes as they come and returns the exit status for them."""
    failed = 0
    print(f"1..{planned}", flush=True)
    for number, outcome in enumerate(outcomes, 1):
        failed += outcome.trouble is not None
        for line in (outcome.trouble or "").splitlines():
            print(f"# {line}")
        reason = f" # SKIP {outcome.skipped}" if outcome.skipped else ""
        print(f"{'ok' if outcome.trouble is None else 'not ok'} {number} - {outcome.name}{reason}", flush=True)
    return 1 if failed else 0
