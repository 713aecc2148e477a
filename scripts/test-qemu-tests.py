#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests scripts/qemu-tests, with shell scripts in place of QEMU and its test programs, and prints TAP."""
from __future__ import annotations

import bz2
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
from load import load  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)
from tap import Outcome, report  # noqa: E402

qemu_tests = load("qemu-tests")

# The commands that a test program runs for each of its cases.
BEHAVIOUR = {
    "good": 'echo "ok 1 /aarch64/good"',
    "bad": 'echo "not ok /aarch64/bad - assertion"; exit 1',
    "bad-but-calm": 'echo "not ok 1 /aarch64/bad-but-calm"',
    "ends-badly": 'echo "ok 1 /aarch64/ends-badly"; exit 3',
    "crash": 'echo "# before"; kill -SEGV $$',
    "silent": "echo 1..0",
    "another": 'echo "ok 1 /aarch64/another-one"',
    "skipped": 'echo "ok 1 /aarch64/skipped # SKIP no such device"',
    "hang": "sleep 60",
}


class Case:
    """A program and the temporary directory that it runs in."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def program(self, patience: float = 10, required: tuple[str, ...] = (), mentions: Mapping[str, str] | None = None) -> Any:
        branches = "".join(f'*" -p /aarch64/{case}") {action} ;;\n' for case, action in BEHAVIOUR.items())
        path = self.script("a-test", f'case " $*" in " -l") printf "# /aarch64/%s\\n" {" ".join(BEHAVIOUR)} ;;\n{branches}esac')
        suite = qemu_tests.Suite("a-test", required, mentions=mentions or {})
        return qemu_tests.Program(suite, path, Path("qemu-system-aarch64"), self.place, patience)

    def script(self, name: str, text: str) -> Path:
        path = self.place / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def trouble(self, case: str) -> str:
        outcome = self.program().outcome(case)
        assert outcome.trouble and not outcome.skipped, f"{case} has not failed: {outcome}"
        return str(outcome.trouble)


def cases_come_from_the_program(case: Case) -> None:
    assert case.program().cases() == list(BEHAVIOUR)


def passed_case_passes(case: Case) -> None:
    assert case.program().outcome("good") == Outcome("a-test good")


def failure_and_bad_exit_status_are_failures(case: Case) -> None:
    assert case.trouble("bad").endswith("exit status 1, not ok")
    assert case.trouble("bad-but-calm").endswith("exit status 0, not ok")
    assert "exit status 3" in case.trouble("ends-badly")


def crash_is_a_failure_with_its_output(case: Case) -> None:
    trouble = case.trouble("crash")
    assert "# before" in trouble and "exit status -11" in trouble, trouble


def suite_of_the_rust_device_needs_that_device(case: Case) -> None:
    config = case.place / "aarch64-softmmu-config-devices.mak"
    for text, has_it in (("CONFIG_X_ARM_SMMUV3_RUST=y\n", True), ("CONFIG_ARM_SMMUV3_C=y\n", False)):
        config.write_text(text)
        programs = [suite.program for suite in qemu_tests.suites_of(case.place)]
        assert ("smmuv3-rust-test" in programs) == has_it and "iommu-smmuv3-test" in programs, text


def missing_or_foreign_result_is_a_failure(case: Case) -> None:
    assert "no result" in case.trouble("silent")
    assert "no result" in case.trouble("another")


def skipped_case_keeps_its_reason(case: Case) -> None:
    assert case.program().outcome("skipped") == Outcome("a-test skipped", skipped="no such device")


def hang_is_ended_and_is_a_failure(case: Case) -> None:
    begun = time.monotonic()
    outcome = case.program(patience=0.3).outcome("hang")
    assert outcome.trouble and "no end after 0.3 seconds" in outcome.trouble, outcome
    assert time.monotonic() - begun < 30, "a child of the program was not ended"


def missing_required_case_fails(case: Case) -> None:
    program = case.program(required=("good", "ba*", "gone-*"))
    absent = qemu_tests.absent(program.suite, program.cases())
    assert [outcome.name for outcome in absent] == ["a-test gone-*"], absent
    assert absent[0].trouble


def pass_without_the_device_fails(case: Case) -> None:
    passes = case.program(mentions={"good": "/aarch64/good", "bad": "arm-smmuv3"}).outcome("good")
    assert passes.trouble is None, passes
    outcome = case.program(mentions={"good": "arm-smmuv3"}).outcome("good")
    assert outcome.trouble and "never mentioned arm-smmuv3" in outcome.trouble, outcome


def only_machine_virt_gets_the_options(case: Case) -> None:
    suite = qemu_tests.Suite("a-test", (), with_smmu="-device b,c=d")
    command = qemu_tests.qemu_for(suite, case.script("qemu", 'printf "%s\\n" "$*"'), case.place)
    for arguments, options in (("-qtest x -machine virt-11.1 -accel qtest", " -device b,c=d"), ("-S -M virt", " -device b,c=d"),
                               ("-machine none", ""), ("-M sbsa-ref -machine none", "")):
        done = subprocess.run([command, *arguments.split()], capture_output=True, text=True, check=True)
        assert done.stdout == f"-L {case.place}/blobs {arguments}{options}\n", done.stdout
        assert (qemu_tests.announcement(suite) in done.stderr) == bool(options), done.stderr


def firmware_comes_from_tree_if_present(case: Case) -> None:
    source, place = case.place / "source", case.place / "laid-out"
    (source / "pc-bios").mkdir(parents=True)
    place.mkdir()
    first, second = qemu_tests.FIRMWARE
    (source / "pc-bios" / f"{first}.bz2").write_bytes(bz2.compress(b"an image"))
    (source / "pc-bios" / f"{second}.bz2").write_bytes(bz2.compress(b""))  # qemu-complete's
    (source / "pc-bios" / qemu_tests.BLOBS[0]).write_bytes(b"a blob")
    qemu_tests.lay_out(place, source)
    assert (place / "pc-bios" / first).read_bytes() == b"an image"
    assert (place / "pc-bios" / second).readlink() == qemu_tests.FIRMWARE[second]
    assert (place / "blobs" / qemu_tests.BLOBS[0]).read_bytes() == b"a blob"
    assert all((place / "blobs" / name).stat().st_size for name in qemu_tests.BLOBS)


CASES: list[Callable[[Case], None]] = [
    cases_come_from_the_program,
    passed_case_passes,
    failure_and_bad_exit_status_are_failures,
    crash_is_a_failure_with_its_output,
    suite_of_the_rust_device_needs_that_device,
    missing_or_foreign_result_is_a_failure,
    skipped_case_keeps_its_reason,
    hang_is_ended_and_is_a_failure,
    missing_required_case_fails,
    pass_without_the_device_fails,
    only_machine_virt_gets_the_options,
    firmware_comes_from_tree_if_present,
]


def run(case: Callable[[Case], None]) -> Outcome:
    trouble = None
    with tempfile.TemporaryDirectory() as scratch:
        try:
            case(Case(Path(scratch)))
        except Exception:
            trouble = traceback.format_exc()
    return Outcome(case.__name__.replace("_", " "), trouble)


if __name__ == "__main__":
    sys.exit(report(len(CASES), map(run, CASES)))
