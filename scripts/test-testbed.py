#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests what the nested testbed reads and computes (tests/e2e/testbed), without a level, and prints TAP."""
from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True
from tap import Outcome, report as report_outcomes  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "e2e"))
from testbed import main, unmap  # noqa: E402 (found through the path above)
from testbed.consoles import TestbedError  # noqa: E402
from testbed.levels import GuestConfig, Hardware  # noqa: E402
from testbed.machine import properties_in  # noqa: E402
from testbed.report import Tap  # noqa: E402
from testbed.unmap import Latency  # noqa: E402

BENCHMARK = """dma mapping benchmark: threads:1 seconds:2 node:-1 dir:BIDIRECTIONAL granule: 1
average map latency(us):23.4 standard deviation:5.6
average unmap latency(us):106.3 standard deviation:7.8
"""
PROPERTIES = """arm-smmuv3 options:
  accel=<bool>           -  (default: false)
  ats=<OnOffAuto>        - on/off/auto (default: "auto")
  msi=<OnOffAuto>        - on/off/auto (default: "auto")
  msi-gpa=<uint64>       -  (default: 0)
  x-cd.s=<uint8>
  primary-bus=<link<PCIBus>>
"""


def refusal(work: Callable[[], object]) -> str:
    """The message of the TestbedError that `work` must end with."""
    try:
        work()
    except TestbedError as error:
        return str(error)
    raise AssertionError("accepted")


def usage_error(*words: str) -> str:
    """What the command line is refused with."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            main.parse(list(words))
    except SystemExit:
        return errors.getvalue()
    raise AssertionError(f"{words} were accepted")


# --- the tests ----------------------------------------------------------------------------------------------------


def benchmark_output_gives_both_means() -> None:
    assert unmap.parse(BENCHMARK) == Latency(23.4, 106.3)


def benchmark_output_without_means_is_an_error() -> None:
    assert "No such device" in refusal(lambda: unmap.parse("ioctl: No such device"))


def properties_come_from_the_help_text() -> None:
    assert properties_in(PROPERTIES) == {"accel", "ats", "msi", "msi-gpa", "x-cd.s", "primary-bus"}


def properties_reach_the_command_line() -> None:
    command = GuestConfig("x", "rust", defaults=("msi=off", "ril=on")).command()
    assert [command[at + 1] for at, word in enumerate(command) if word == "-global"] == ["arm-smmuv3.msi=off", "arm-smmuv3.ril=on"]
    assert Hardware(properties=("msi=on",)).options()[-2:] == ["-global", "arm-smmuv3.msi=on"]
    assert main.parse(["--property", "msi=off", "--property", "ril=off", "default"]).property == ["msi=off", "ril=off"]
    assert "not NAME=VALUE" in usage_error("--property", "msi=off,accel=off")
    assert "set the properties themselves" in usage_error("--bench", "--property", "msi=off")


def skipped_scenario_is_reported_as_such() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        tap = Tap(2)
        tap.result("msi", 0.1, None, "no property")
        tap.result("default", 1, None)
    assert out.getvalue().splitlines() == ["1..2", "ok 1 - e2e: msi # SKIP no property", "ok 2 - e2e: default # 1.0 s"]
    assert tap.failed == 0


CASES: list[Callable[[], None]] = [
    benchmark_output_gives_both_means,
    benchmark_output_without_means_is_an_error,
    properties_come_from_the_help_text,
    properties_reach_the_command_line,
    skipped_scenario_is_reported_as_such,
]


def run(case: Callable[[], None]) -> Outcome:
    try:
        case()
        return Outcome(case.__name__.replace("_", " "))
    except Exception:
        return Outcome(case.__name__.replace("_", " "), traceback.format_exc())


if __name__ == "__main__":
    sys.exit(report_outcomes(len(CASES), map(run, CASES)))
