# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""What the Rust device wants to reach against the C device, and whether it does.

Counts repeat exactly, so they have a verdict. Times of an emulated machine have none: their goals are for the median of 16
pairs or more, on a machine without other work.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from . import report
from .results import CMDQV, CMDQV_AGAINST_TRAPPED, DEFAULT, MSI_OFF, RIL_OFF, Results, medians, microseconds
from .unmap import GRANULES, Costs

# A few exits are the guest's console's, and the benchmark ends in the middle of an unmap.
_STRAY = 0.05
_WITHOUT_MSI = "the device has no property msi: this is without it"


@dataclass(frozen=True)
class Goal:
    what: str
    c: str
    rust: str
    ratio: str
    goal: str
    met: bool | None = None  # None: a time, or not measured
    note: str = ""

    def as_json(self) -> dict[str, object]:
        return {"what": self.what, "c": self.c, "rust": self.rust, "ratio": self.ratio, "goal": self.goal, "met": self.met,
                "note": self.note}


def _count(what: str, c: float, rust: float, most: float, below: bool = False, stray: float = _STRAY) -> Goal:
    """A goal for the Rust device's own count, which is `most` or, with `below`, less than that."""
    ratio = f"{rust / c:.2f} Rust/C" if c else "-"
    met = rust < most if below else rust <= most + stray
    return Goal(what, f"{c:.2f}", f"{rust:.2f}", ratio, f"{'<' if below else '<='} {most:g}", met)


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


def _system_calls(results: Results) -> Iterator[Goal]:
    found = results.system_calls
    if found:
        yield _count("system calls for a doorbell, KVM_RUN and futex apart", found[DEFAULT, "c"].each, found[DEFAULT, "rust"].each, 1)


def _instructions(results: Results) -> Iterator[Goal]:
    if not results.instructions:
        return
    mode = MSI_OFF if results.has_msi else DEFAULT
    c, rust = (results.instructions[mode, device, 1].unmap for device in ("c", "rust"))
    yield Goal("instructions of an unmap of 1 page, msi=off", f"{c:.0f}", f"{rust:.0f}", f"{rust / c:.3f} Rust/C", "<= 1.00",
               round(rust / c, 3) <= 1, "" if results.has_msi else _WITHOUT_MSI)


def _latency(results: Results, what: str, mode: str, pages: int, goal: str, note: str = "") -> Goal:
    c, rust = medians(results.unmap[mode, pages])
    unmap, control = results.ratios(mode, pages)
    return Goal(f"unmap latency in us, {what}", microseconds(c), microseconds(rust), f"{unmap / control:.2f} C/Rust ({unmap:.2f}, map {control:.2f})",
                goal, None, note)


def _cmdqv(results: Results) -> Iterator[Goal]:
    if not any(mode == CMDQV for mode, _ in results.unmap):
        return
    for pages in GRANULES:
        yield _latency(results, f"cmdqv=on in both, {_pages(pages)}", CMDQV, pages, ">= 0.95")
    # A map is no control here: one that follows exits to QEMU takes longer, too.
    for pages, goal in ((1, ">= 50"), (256, ">= 10")):
        c, rust = medians(results.unmap[CMDQV_AGAINST_TRAPPED, pages])
        ratio = results.ratios(CMDQV_AGAINST_TRAPPED, pages)[0]
        yield Goal(f"unmap latency in us, cmdqv=on against C without, {_pages(pages)}", microseconds(c), microseconds(rust),
                   f"{ratio:.2f} C/Rust", goal)


def _latencies(results: Results) -> Iterator[Goal]:
    if not any(mode == DEFAULT for mode, _ in results.unmap):
        return
    off, note = (MSI_OFF, "") if results.has_msi else (DEFAULT, _WITHOUT_MSI)
    for pages in GRANULES:
        yield _latency(results, f"ril on, msi=off, {_pages(pages)}", off, pages, ">= 0.97", note)
    for pages in GRANULES:
        what = f"ril on, msi=auto, {_pages(pages)}"
        if results.has_msi:
            yield _latency(results, what, DEFAULT, pages, ">= 1.5")
        else:
            yield Goal(f"unmap latency in us, {what}", "-", "-", "-", ">= 1.5", None, "not measured: the device has no property msi")
    yield _latency(results, "ril=off, msi=auto, 256 pages", RIL_OFF, 256, ">= 3", note)


def _queue(results: Results) -> Iterator[Goal]:
    if results.queue:
        c, rust = medians(results.queue)
        ratio = report.spread([ours / theirs for theirs, ours in results.queue])[1]
        yield Goal("full queue of 2^19 TLBIs, accel=off, in ms", f"{c:.1f}", f"{rust:.1f}", f"{ratio:.2f} Rust/C", "<= 0.4")


def _command(results: Results) -> Iterator[Goal]:
    if results.command:
        before, after = medians(results.command)
        ratio = report.spread([this / base for base, this in results.command])[1]
        yield Goal("fetch, decode and batch of a command in the crate, in ns", f"({before:.2f})", f"{after:.2f}", f"{ratio:.3f} after/before",
                   "<= 1.03", None, "in place of C: the commit of --base")


def _exits(results: Results) -> Iterator[Goal]:
    if not results.costs:
        return

    def pair(mode: str, pages: int) -> tuple[Costs, Costs]:
        return results.costs[mode, "c", pages], results.costs[mode, "rust", pages]

    for mode, name, most in ((DEFAULT, "ril on", (1, 1, 1)), (RIL_OFF, "ril=off", (1, 1, 4))):
        for pages, goal in zip(GRANULES, most):
            c, rust = pair(mode, pages)
            yield _count(f"exits for an unmap, 1 vCPU, {name}, {_pages(pages)}", c.each(c.exits), rust.each(rust.exits), goal)
    c, rust = pair(RIL_OFF, 256)
    yield _count("ioctls for an unmap, 1 vCPU, ril=off, 256 pages", c.each(c.ioctls), rust.each(rust.ioctls), 2)


def _several(results: Results) -> Iterator[Goal]:
    for vcpus in sorted({vcpus for _, vcpus in results.several}):
        c, rust = results.several["c", vcpus], results.several["rust", vcpus]
        what = f"for an unmap, {vcpus} vCPUs at once, 1 page"
        yield _count(f"exits {what}", c.each(c.exits), rust.each(rust.exits), 1, below=True)
        yield _count(f"ioctls {what}", c.each(c.ioctls), rust.each(rust.ioctls), 0.8, stray=0)


def goals(results: Results) -> list[Goal]:
    """Goals for everything that was measured."""
    parts = (_system_calls, _instructions, _latencies, _cmdqv, _queue, _command, _exits, _several)
    found: list[Goal] = []
    for part in parts:
        with suppress(KeyError):  # a failure has ended the measurement of this row
            found += part(results)
    return found


def table(found: list[Goal]) -> str:
    notes = list(dict.fromkeys(goal.note for goal in found if goal.note))
    verdicts = {True: "met", False: "NOT MET", None: ""}
    rows = [(goal.what + (f" [{notes.index(goal.note) + 1}]" if goal.note else ""), goal.c, goal.rust, goal.ratio, goal.goal,
             verdicts[goal.met]) for goal in found]
    lines = [report.table(rows, ("", "C", "Rust", "ratio", "goal", ""))]
    lines += [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines)
