# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The device under test twice: it is level 1's hardware, translating by itself, and level 2's virtual SMMU."""
from __future__ import annotations

from functools import partial

from .checks import TRANSLATION_FAULT, expect, expect_stage, faulting_dma
from .registry import Bed, register
from .scenarios import Bench, measured_io, small_reads

scenario = partial(register, Bed.OWN_LEVEL0)


@scenario("own-level0", "the device under test is the hardware too: stage 1 of level 2, stage 2 of level 1, checksummed I/O")
def own_level0(bench: Bench) -> None:
    trace = bench.level1.level0.trace
    begin = trace.size()
    with bench.guest(bench.config("own-level0", smp=2, smmus=(("disk0", "disk1"),))) as guest:
        measured_io(bench, guest)
        with trace.of("smmuv3_translate_success") as lines:
            small_reads(guest, 16)
        expect_stage(lines, 3, 16, "level 0")
    troubles = trace.troubles(begin)
    expect(not troubles, "level 0's SMMU has reported:\n" + "\n".join(troubles[:20]))


@scenario("own-level0-fault", "the same, and a DMA fault from the one device's event queue to the other's")
def own_level0_fault(bench: Bench) -> None:
    trace = bench.level1.level0.trace
    begin = trace.size()
    with bench.guest(bench.config("own-level0-fault", smmus=(("disk0", "edu"),)), harmless=TRANSLATION_FAULT) as guest:
        faulting_dma(guest, 0xDEAD000)
        measured_io(bench, guest)
    troubles = trace.troubles(begin)
    expect(bool(troubles) and all("F_TRANSLATION" in line for line in troubles),
           "level 0's SMMU has not reported the fault alone, but:\n" + "\n".join(troubles[:20]))
