# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The command line of tests/e2e/run, and its three ways to work: tests, the demonstration of `make run`, benchmarks."""
from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import bench, report
from .consoles import TestbedError
from .images import Images, fits
from .levels import Level1
from .scenarios import SCENARIOS, Bench, measured_io

Say = Callable[[str], None]
_RUNS_KEPT = 5


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/e2e/run", description="The nested testbed; see docs/testbed.md.")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--tap", action="store_true", help="run scenarios, one TAP line each (this is the default)")
    how.add_argument("--run", action="store_true", help="one guest with a table of what it did; the status is the verdict")
    how.add_argument("--bench", action="store_true", help="compare with QEMU's C device, in pairs")
    how.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--device", choices=("rust", "c"), default="rust", help="the arm-smmuv3 to test (default: rust)")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of latency measurements for --bench (default: 6)")
    parser.add_argument("--out", type=Path, help="--bench: write the results there too, as JSON")
    parser.add_argument("scenario", nargs="*", help="only these scenarios (default: all)")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.scenario if name not in SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)} (--list names them)")
    return arguments


def qemus_needed(arguments: argparse.Namespace) -> list[str]:
    return ["c", "rust"] if arguments.bench else [arguments.device]


def list_scenarios() -> int:
    width = max(map(len, SCENARIOS))
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:{width}}  {scenario.summary}")
    return 0


def _new_log_directory(cache: Path) -> Path:
    """A directory for this run; `latest` points to it, and only the last few are kept."""
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


@contextmanager
def _level1(cache: Path, kernel: Path, qemus: dict[str, Path], logs: Path, say: Say) -> Iterator[Level1]:
    fits(cache, 500)
    with tempfile.TemporaryDirectory(prefix="e2e-", dir=cache / "tmp") as work:
        level1 = Level1(Images(cache / "e2e", kernel, qemus), Path(work), logs, say)
        try:
            yield level1
        finally:
            level1.close()


def _show_tails(logs: Path, say: Say) -> None:
    for name in ("l2-console.log", "l1-console.log"):
        path = logs / name
        if path.exists() and (text := path.read_bytes()[-4000:].decode(errors="replace").strip()):
            say(f"the end of {name}:")
            for line in text.splitlines()[-15:]:
                say(f"  | {line.rstrip()}")
    say(f"all logs: {logs}")


def _scenarios(level1: Level1, arguments: argparse.Namespace, logs: Path, say: Say) -> int:
    chosen = [SCENARIOS[name] for name in arguments.scenario] or list(SCENARIOS.values())
    tap = report.Tap(len(chosen))
    for scenario in chosen:
        say(f"{scenario.name}: {scenario.summary}")
        begun = time.monotonic()
        trouble = None
        try:
            scenario.run(Bench(level1, arguments.device))
        except TestbedError as error:
            trouble = str(error)
        except Exception:  # a mistake of the testbed's own must not hide the other scenarios' results
            trouble = traceback.format_exc()
        if trouble:
            _show_tails(logs, say)
        tap.result(scenario.name, time.monotonic() - begun, trouble)
    return 1 if tap.failed else 0


def _demonstrate(level1: Level1, arguments: argparse.Namespace, say: Say) -> int:
    place = Bench(level1, arguments.device)
    columns = {}
    for title, properties in (("default", ""), ("ril=off", ",ril=off")):
        say(f"level 2: booting a guest with the accelerated SMMUv3 ({title}) and an assigned NVMe disk")
        with place.guest(place.config("run", properties=properties)) as guest:
            say("level 2: writing random data, reading it back, reading small blocks")
            columns[title], checksum = measured_io(place, guest)
        say(f"level 2: wrote, and read back, what this machine's disk image has: sha256 {checksum[:16]}...")
    print("\n" + report.work_done(columns))
    print("\nPASS: the checksums agree, no errors in either kernel's log, and every invalidation reached the host\n")
    return 0


def _benchmarks(level1: Level1, arguments: argparse.Namespace, say: Say) -> int:
    results = bench.run(level1, arguments.pairs, say)
    print(bench.tables(results))
    if out := os.environ.get("E2E_OUT"):
        Path(out).write_text(json.dumps(results.as_json(), indent=2) + "\n")
    return 0


def run(arguments: argparse.Namespace, cache: Path, kernel: Path, qemus: dict[str, Path], say: Say) -> int:
    """Everything after the images' parts have been made. Returns the exit status."""
    # An end by request is an orderly one too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs = _new_log_directory(cache)
    try:
        with _level1(cache, kernel, qemus, logs, say) as level1:
            say("level 1: ready")
            if arguments.run:
                return _demonstrate(level1, arguments, say)
            if arguments.bench:
                return _benchmarks(level1, arguments, say)
            return _scenarios(level1, arguments, logs, say)
    except TestbedError as error:
        _show_tails(logs, say)
        say(f"FAIL: {error}")
        if not (arguments.run or arguments.bench):
            print(f"Bail out! {str(error).splitlines()[0]}", flush=True)
        return 1
