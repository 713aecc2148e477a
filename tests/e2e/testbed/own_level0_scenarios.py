# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The device under test twice: it is level 1's hardware, translating by itself, and level 2's virtual SMMU."""
from __future__ import annotations

import re
from functools import partial

from .checks import TRANSLATION_FAULT, expect, faulting_dma
from .registry import Bed, register
from .scenarios import Bench, measured_io

scenario = partial(register, Bed.OWN_LEVEL0)


def level0_events(bench: Bench) -> list[str]:
    """What level 0's SMMU has had to report so far."""
    lines = bench.level1.level0_log.read_text(errors="replace").splitlines()
    return [line for line in lines if re.search("smmuv3_(propagate_event|cmdq_consume_error) ", line)]


@scenario("own-level0", "the device under test is the hardware too: stage 1 of level 2, stage 2 of level 1, checksummed I/O")
def own_level0(bench: Bench) -> None:
    before = len(level0_events(bench))
    with bench.guest(bench.config("own-level0", smp=2, smmus=(("disk0", "disk1"),))) as guest:
        measured_io(bench, guest)
    events = level0_events(bench)[before:]
    expect(not events, "level 0's SMMU has reported:\n" + "\n".join(events[:20]))


@scenario("own-level0-fault", "the same, and a DMA fault from the one device's event queue to the other's")
def own_level0_fault(bench: Bench) -> None:
    before = len(level0_events(bench))
    with bench.guest(bench.config("own-level0-fault", smmus=(("disk0", "edu"),)), harmless=TRANSLATION_FAULT) as guest:
        faulting_dma(guest, 0xDEAD000)
        measured_io(bench, guest)
    events = level0_events(bench)[before:]
    expect(bool(events) and all("F_TRANSLATION" in event for event in events),
           "level 0's SMMU has not reported the fault alone, but:\n" + "\n".join(events[:20]))
