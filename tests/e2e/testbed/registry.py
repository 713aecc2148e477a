# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The scenarios, and the bed that each of them runs in."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Bed(Enum):
    """The beds, in the order in which they are used."""

    SOFTWARE = "software"  # one level: a guest under emulation, the device translates
    NESTED = "nested"  # three levels, the lowest is Debian's QEMU
    OWN_LEVEL0 = "own-level0"  # three levels, the lowest is the QEMU under test too
    LIBVIRT = "libvirt"  # as NESTED, and level 1 has libvirt and Python
    CMDQV = "cmdqv"  # three levels, the lowest is the Rust device with CMDQV hardware beside it (tests/cmdqv-hw)


class Skipped(Exception):
    """A scenario cannot run on this device; the message is the reason."""


# Gets the object of its bed (software.Place, scenarios.Bench); raises TestbedError on failure, or Skipped.
Run = Callable[[Any], None]


@dataclass(frozen=True)
class Scenario:
    bed: Bed
    name: str
    summary: str
    run: Run
    qemus: frozenset[str] = frozenset()  # more QEMUs in level 1 than the one to test
    on_request: bool = False  # runs only if it is named
    libvirt: bool = False  # level 1 must have libvirt, if it can be had


SCENARIOS: dict[str, Scenario] = {}


def register(bed: Bed, name: str, summary: str, *, qemus: Iterable[str] = (), on_request: bool = False,
             libvirt: bool = False) -> Callable[[Run], Run]:
    def decorate(run: Run) -> Run:
        assert name not in SCENARIOS
        SCENARIOS[name] = Scenario(bed, name, summary, run, frozenset(qemus), on_request, libvirt)
        return run

    return decorate


def in_order() -> list[Scenario]:
    """All of them, by bed, and in each bed as they were registered."""
    beds = list(Bed)
    return sorted(SCENARIOS.values(), key=lambda scenario: beds.index(scenario.bed))
