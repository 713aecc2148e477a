# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The command line of tests/e2e/run, and its modes: tests, the demonstration of `make run`, two benchmarks."""
from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from . import (bench, check_host_scenarios, cmdqv_scenarios, cpr_scenarios, emulated_scenarios, held_scenarios, hotplug_scenarios,
               judge_scenarios, lanes, libvirt_scenarios, own_level0_scenarios, report, software_scenarios, throughput)
from .consoles import TestbedError
from .images import Images, fits
from .levels import STOCK_EMULATOR, Hardware, Level1
from .machine import properties_of
from .registry import SCENARIOS, Bed, Scenario, Skipped, in_order
from .scenarios import Bench, measured_io
from .software import Place

Say = Callable[[str], None]
# Modules that register scenarios when they are imported.
_MODULES = (check_host_scenarios, cmdqv_scenarios, cpr_scenarios, emulated_scenarios, held_scenarios, hotplug_scenarios,
            judge_scenarios, libvirt_scenarios, own_level0_scenarios, software_scenarios)
_RUNS_KEPT = 5


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/e2e/run", description="The nested testbed; see docs/testbed.md.")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--tap", action="store_true", help="run scenarios, one TAP line each (this is the default)")
    how.add_argument("--run", action="store_true", help="one guest with a table of what it did; the status is the verdict")
    how.add_argument("--bench", action="store_true", help="compare with QEMU's C device, in pairs")
    how.add_argument("--throughput", action="store_true", help="compare I/O without acceleration with QEMU's C device, in pairs")
    how.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--device", choices=("rust", "c"), default="rust", help="the arm-smmuv3 to test (default: rust)")
    parser.add_argument("--hold", action="store_true", help="prompt for commands to the levels before a guest is ended")
    parser.add_argument("--gdb", action="store_true", help="start level 2's QEMU under gdbserver, which waits for gdb")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of measurements for --bench and --throughput (default: 6)")
    parser.add_argument("--bench-rows", metavar="NAME[,NAME...]", type=bench.parse_rows, help="--bench with these rows only; there are: "
                        + "; ".join(f"{row.name}: {row.summary}" for row in bench.ROWS.values()))
    parser.add_argument("--base", metavar="COMMIT", help="--bench: compare the architecture crate's benchmark with this commit's")
    parser.add_argument("--property", metavar="NAME=VALUE", type=_property, action="append", default=[],
                        help="a property of every arm-smmuv3 under test, such as msi=off; may be repeated")
    parser.add_argument("--lanes", type=int, default=0,
                        help="groups of scenarios that run concurrently (default: as many as this machine's CPUs and memory permit)")
    parser.add_argument("--out", type=Path, help="--bench, --throughput: write the results there too, as JSON")
    parser.add_argument("scenario", nargs="*", help="only these scenarios (default: all but those that --list marks with *)")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.scenario if name not in SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)} (--list names them)")
    if arguments.bench_rows and (arguments.tap or arguments.run or arguments.throughput):
        parser.error("--bench-rows is for --bench")
    if arguments.property and (arguments.bench or arguments.bench_rows or arguments.throughput):
        parser.error("--property is for scenarios and --run; the benchmarks set the properties themselves")
    # A prompt, or gdb, is for one guest at a time.
    arguments.lanes = 1 if arguments.hold or arguments.gdb else arguments.lanes or lanes.of_this_machine()
    arguments.bench = arguments.bench or bool(arguments.bench_rows)
    arguments.bench_rows = arguments.bench_rows or [name for name in bench.ROWS if name != "crate" or arguments.base]
    if ("crate" in arguments.bench_rows and arguments.bench) != bool(arguments.base):
        parser.error("the row 'crate' and --base=COMMIT go together")
    return arguments


def _property(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+=[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return text


def scenarios_of(arguments: argparse.Namespace) -> list[Scenario]:
    """The scenarios of a run."""
    return [SCENARIOS[name] for name in arguments.scenario] or [scenario for scenario in in_order() if not scenario.on_request]


# The QEMU that is level 0 with CMDQV hardware, whichever device is tested.
_CMDQV_LEVEL0 = "cmdqv-x86"


def qemus_needed(arguments: argparse.Namespace) -> set[str]:
    """Names of builds: "rust" and "c" run in level 1, "rust-x86", "c-x86" and "cmdqv-x86" on this machine."""
    if arguments.bench:
        return {qemu for name in arguments.bench_rows for qemu in bench.ROWS[name].qemus}
    if arguments.throughput:
        return {"c-x86", "rust-x86"}
    if arguments.run:
        return {arguments.device}
    needed: set[str] = set()
    for scenario in scenarios_of(arguments):
        needed |= scenario.qemus
        if scenario.bed is not Bed.SOFTWARE:
            needed.add(arguments.device)
        if scenario.bed in (Bed.SOFTWARE, Bed.OWN_LEVEL0):
            needed.add(f"{arguments.device}-x86")
        if scenario.bed is Bed.CMDQV:
            needed.add(_CMDQV_LEVEL0)
    return needed


def needs_libvirt(arguments: argparse.Namespace) -> bool:
    """Returns whether level 1 must have libvirt, which then is downloaded."""
    return not (arguments.bench or arguments.throughput or arguments.run) and any(scenario.libvirt for scenario in scenarios_of(arguments))


def boots(arguments: argparse.Namespace) -> bool:
    """Returns whether any level is booted."""
    return not arguments.bench or any(bench.ROWS[name].hardware for name in arguments.bench_rows)


def list_scenarios() -> int:
    width = max(map(len, SCENARIOS))
    for scenario in in_order():
        print(f"{scenario.name:{width}} {'*' if scenario.on_request else ' '} {scenario.summary}")
    return 0


def _new_log_directory(cache: Path) -> Path:
    """A directory for this run; `latest` points to it, and only the last few are kept. A group of scenarios is given one."""
    if given := os.environ.get(lanes.LOGS):
        return Path(given)
    parent = cache / "log" / "e2e"
    parent.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())[: 1 - _RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    logs = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    logs.mkdir()
    link = parent / f".latest-{os.getpid()}"
    link.symlink_to(logs.name)
    os.replace(link, parent / "latest")
    return logs


@dataclass(frozen=True)
class Ground:
    """The inputs of a run: the cache, the kernel, and the QEMUs by the names of qemus_needed()."""

    cache: Path
    kernel: Path
    qemus: dict[str, Path]
    logs: Path
    say: Say
    gdbserver: Path | None = None
    libvirt: Path | None = None  # scripts/libvirt's directory
    no_libvirt: str = ""  # why there is none, if it is needed

    @property
    def images(self) -> Images:
        inside = {name: path for name, path in self.qemus.items() if not name.endswith("-x86")}
        return Images(self.cache / "e2e", self.kernel, inside, self.gdbserver)

    @contextmanager
    def _work(self) -> Iterator[Path]:
        fits(self.cache, 500)
        with tempfile.TemporaryDirectory(prefix="e2e-", dir=self.cache / "tmp") as work:
            yield Path(work)

    @contextmanager
    def level1(self, emulator: Path | None = None, hardware: Hardware = Hardware(), libvirt: Path | None = None) -> Iterator[Level1]:
        if emulator is None:
            emulator = self.qemus[_CMDQV_LEVEL0] if hardware.cmdqv else STOCK_EMULATOR
        # Different hardware in one run has different logs.
        logs = self.logs / (hardware.name or ("libvirt" if libvirt else ""))
        logs.mkdir(exist_ok=True)
        with self._work() as work:
            level1 = Level1(replace(self.images, libvirt=libvirt), work, logs, self.say, emulator, hardware)
            self.say("level 1: ready")
            try:
                yield level1
            finally:
                level1.close()

    @contextmanager
    def software(self, device: str, defaults: Sequence[str] = ()) -> Iterator[Place]:
        with self._work() as work:
            yield Place(self.images, self.qemus[f"{device}-x86"], work, self.logs, defaults, self.qemus.get("c-x86"))

    @contextmanager
    def bed(self, bed: Bed, device: str, defaults: Sequence[str] = (), libvirt: bool = False) -> Iterator[Place | Bench]:
        """The place for scenarios, in which every arm-smmuv3 under test has these properties, with libvirt if one needs it."""
        if bed in (Bed.SOFTWARE, Bed.OWN_LEVEL0):
            _require(defaults, properties_of(self.qemus[f"{device}-x86"]))
        if bed is Bed.SOFTWARE:
            with self.software(device, defaults) as place:
                yield place
        elif bed is Bed.NESTED:
            with self.level1() as level1:
                yield self.bench(level1, device, defaults)
        elif bed is Bed.LIBVIRT:
            if self.libvirt is None:
                raise Skipped(self.no_libvirt)
            with self.level1(libvirt=self.libvirt) as level1:
                yield self.bench(level1, device, defaults)
        elif bed is Bed.CMDQV:
            with self.level1(hardware=Hardware(cmdqv=True), libvirt=self.libvirt if libvirt else None) as level1:
                yield self.bench(level1, device, defaults)
        else:
            with self.level1(self.qemus[f"{device}-x86"], Hardware(properties=defaults)) as level1:
                yield self.bench(level1, device, defaults)

    @staticmethod
    def bench(level1: Level1, device: str, defaults: Sequence[str]) -> Bench:
        if defaults:
            _require(defaults, level1.properties(device))
        return Bench(level1, device, defaults)


def _require(defaults: Sequence[str], known: frozenset[str]) -> None:
    if missing := [value for value in defaults if value.partition("=")[0] not in known]:
        raise TestbedError(f"--property {' '.join(missing)}: arm-smmuv3 of this QEMU has no such property")


def _show_tails(logs: Path, say: Say) -> None:
    consoles = sorted(logs.rglob("*-console.log"), key=lambda path: path.stat().st_mtime)
    for path in consoles[-2:]:
        if text := path.read_bytes()[-4000:].decode(errors="replace").strip():
            say(f"the end of {path.relative_to(logs)}:")
            for line in text.splitlines()[-15:]:
                say(f"  | {line.rstrip()}")
    say(f"all logs: {logs}")


def _attempt(work: Callable[[], None], ground: Ground) -> str | None:
    """Runs work; returns the error, if there is one."""
    try:
        work()
        return None
    except Skipped:
        raise
    except TestbedError as error:
        trouble = str(error)
    except Exception:  # a mistake of the testbed's own must not hide the other scenarios' results
        trouble = traceback.format_exc()
    _show_tails(ground.logs, ground.say)
    return trouble


def _run_bed(ground: Ground, arguments: argparse.Namespace, bed: Bed, scenarios: list[Scenario], tap: report.Tap) -> None:
    todo = list(scenarios)

    def run_all() -> None:
        with ground.bed(bed, arguments.device, arguments.property, any(scenario.libvirt for scenario in scenarios)) as place:
            while todo:
                scenario = todo[0]
                ground.say(f"{scenario.name}: {scenario.summary}")
                begun, trouble, reason = time.monotonic(), None, ""
                try:
                    if scenario.libvirt and ground.libvirt is None:
                        raise Skipped(ground.no_libvirt)
                    trouble = _attempt(partial(scenario.run, place), ground)
                except Skipped as skipped:
                    reason = str(skipped)
                tap.result(todo.pop(0).name, time.monotonic() - begun, trouble, reason)

    try:
        trouble, reason = _attempt(run_all, ground), ""
    except Skipped as skipped:  # the bed cannot be had
        trouble, reason = None, str(skipped)
    for scenario in todo:
        tap.result(scenario.name, 0, trouble, reason)


def _own_command(arguments: argparse.Namespace) -> list[str]:
    """Runs scenarios, whose names are to be appended, as this process would."""
    properties = [f"--property={value}" for value in arguments.property]
    return [sys.executable, "-B", sys.argv[0], "--tap", "--lanes=1", f"--device={arguments.device}", *properties]


def _scenarios(ground: Ground, arguments: argparse.Namespace) -> int:
    chosen = scenarios_of(arguments)
    tap = report.Tap(len(chosen))
    groups = lanes.groups_of(chosen)
    if arguments.lanes > 1 and len(groups) > 1:
        lanes.Lanes(_own_command(arguments), arguments.lanes, ground.logs, tap).run(groups)
        return 1 if tap.failed else 0
    for bed, scenarios in itertools.groupby(chosen, key=lambda scenario: scenario.bed):
        _run_bed(ground, arguments, bed, list(scenarios), tap)
    return 1 if tap.failed else 0


def _demonstrate(place: Bench, say: Say) -> int:
    columns = {}
    for title, properties in (("default", ""), ("ril=off", ",ril=off")):
        say(f"level 2: booting a guest with the accelerated SMMUv3 ({title}) and an assigned NVMe disk")
        with place.guest(place.config("run", properties=properties)) as guest:
            say("level 2: writing random data, reading it back, reading small blocks")
            columns[title], checksum = measured_io(place, guest, ranges=bool(properties) and place.qemu != "c")
        say(f"level 2: wrote, and read back, what this machine's disk image has: sha256 {checksum[:16]}...")
    print("\n" + report.work_done(columns))
    print("\nPASS: the checksums agree, no errors in either kernel's log, and every invalidation reached the host "
          "(with ril=off, pages as ranges)\n")
    return 0


def _write(results: dict[str, object]) -> int:
    if out := os.environ.get("E2E_OUT"):
        Path(out).write_text(json.dumps(results, indent=2) + "\n")
    return 0


def _work(ground: Ground, arguments: argparse.Namespace) -> int:
    if arguments.throughput:
        with ground.software("rust") as place:
            qemus = {device: ground.qemus[f"{device}-x86"] for device in ("c", "rust")}
            results = throughput.run(place, qemus, arguments.pairs, ground.say)
        print(throughput.tables(results))
        return _write(results.as_json())
    if arguments.run:
        with ground.bed(Bed.NESTED, arguments.device, arguments.property) as place:
            return _demonstrate(place, ground.say)
    if arguments.bench:
        others = bench.Others(ground.qemus, ground.cache / "tmp", os.environ.get("E2E_BASE", ""))
        compared = bench.Results()
        try:
            bench.run(ground.level1, others, arguments.bench_rows, arguments.pairs, ground.say, compared)
        finally:
            # After a failure there are the rows before it.
            print(bench.tables(compared))
            _write(bench.as_json(compared))
        return 0
    return _scenarios(ground, arguments)


def run(arguments: argparse.Namespace, cache: Path, kernel: Path, qemus: dict[str, Path], say: Say) -> int:
    """Everything after the images' parts have been made. Returns the exit status."""
    # Clean up on SIGTERM, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    gdbserver = os.environ.get("E2E_GDBSERVER")
    libvirt = os.environ.get("E2E_LIBVIRT")
    ground = Ground(cache, kernel, qemus, _new_log_directory(cache), say, Path(gdbserver) if gdbserver else None,
                    Path(libvirt) if libvirt else None, os.environ.get("E2E_NO_LIBVIRT", ""))
    try:
        return _work(ground, arguments)
    except TestbedError as error:
        _show_tails(ground.logs, say)
        say(f"FAIL: {error}")
        return 1
