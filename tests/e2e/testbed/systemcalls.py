# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The system calls of level 2's QEMU for each doorbell, from the trace of level 1's kernel (tracefs).

QEMU's own trace is off, because writing it takes system calls. `raw_syscalls:sys_enter` has the calls of all its threads,
`kvm:kvm_mmio` the guest's accesses to the SMMU, in one buffer and in order.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from . import unmap
from .consoles import TestbedError
from .levels import Guest

SECONDS = 0.3  # of the trace; about a thousand doorbells, and less than fits into the buffer
_FEWEST = 20  # doorbells that a result needs
_EVENT = re.compile(r"-\d+\s+\[\d+\].*?\s(sys_enter|kvm_mmio): (.*)$")
_CALL = re.compile(r"NR (\d+) \((\w+), (\w+)")
_ACCESS = re.compile(r"mmio (\S+) len \d+ gpa 0x(\w+)")
_LOST = re.compile(r"entries-in-buffer/entries-written: (\d+)/(\d+)")

_REGISTERS = 0xFFFF  # the offset in the SMMU's first page of 64 KiB, which is aligned
_IOCTL, _FUTEX = 29, 98
_KVM_RUN = 0xAE80
_NAMES = {22: "epoll_pwait", 62: "lseek", 63: "read", 64: "write", 66: "writev", 73: "ppoll", 113: "clock_gettime", 131: "tgkill"}
_IOCTLS = {0x3B8D: "IOMMU_HWPT_INVALIDATE", 0xAE61: "KVM_IRQ_LINE"}
_DOORBELL, _POLL = "doorbell", "poll"
_ACCESSES = {("write", 0x98): _DOORBELL, ("unsatisfied-read", 0x9C): _POLL}  # CMDQ_PROD, CMDQ_CONS


@dataclass(frozen=True)
class SystemCalls:
    """`calls` has no KVM_RUN, which is the guest's, and no futex, which depends on what other threads do."""

    doorbells: int
    polls: int  # reads of CMDQ_CONS
    calls: Counter[str]

    @property
    def each(self) -> float:
        """Calls for each doorbell."""
        return sum(self.calls.values()) / self.doorbells

    def as_json(self) -> dict[str, object]:
        return {"doorbells": self.doorbells, "polls": self.polls, "calls": dict(self.calls), "each": self.each}


def _name(number: int, second: int) -> str | None:
    if number == _FUTEX or (number, second) == (_IOCTL, _KVM_RUN):
        return None
    if number == _IOCTL:
        return f"ioctl {_IOCTLS.get(second, hex(second))}"
    return _NAMES.get(number, f"system call {number}")


def _steps(text: str) -> Iterator[str]:
    """Names of calls, and of accesses to the Command queue's registers."""
    for line in text.splitlines():
        event = _EVENT.search(line)
        if not event:
            continue
        if event[1] == "sys_enter":
            if (call := _CALL.match(event[2])) and (name := _name(int(call[1]), int(call[3], 16))):
                yield name
        elif access := _ACCESS.match(event[2]):
            # A read that QEMU answers is "unsatisfied-read" when it is asked, and "read" when it has answered.
            if step := _ACCESSES.get((access[1], int(access[2], 16) & _REGISTERS)):
                yield step


def parse(text: str) -> SystemCalls:
    """The trace from its first doorbell to its last, which is not counted."""
    if (lost := _LOST.search(text)) and lost[1] != lost[2]:
        raise TestbedError(f"level 1's trace has lost events: {lost[1]} of {lost[2]} are left")
    steps = list(_steps(text))
    doorbells = [index for index, step in enumerate(steps) if step == _DOORBELL]
    if len(doorbells) < _FEWEST:
        raise TestbedError(f"level 1's trace has {len(doorbells)} doorbells")
    counted = Counter(steps[doorbells[0]:doorbells[-1]])
    return SystemCalls(counted.pop(_DOORBELL), counted.pop(_POLL, 0), counted)


def measure(guest: Guest) -> SystemCalls:
    """Traces a part of a run of dma_map_benchmark, so that neither its start nor its end are in it."""
    finish = guest.shell.start(unmap.command(pages=1, seconds=5))
    guest.sleep(1)
    text = guest.level1_run(f"counters syscalls {guest.pid} {SECONDS}", timeout=60)
    finished = finish(60)
    unmap.parse(finished.text)
    return parse(text)
