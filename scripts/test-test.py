#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests scripts/test, with shell scripts in place of the tests, and prints TAP."""
from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
from load import load  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)
from tap import Outcome, report  # noqa: E402

test = load("test")


class World:
    """A project of two files, and a command that tests them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.runs = place / "runs"
        self.log = place / "test.log"
        self.log.touch()
        (place / "scripts").mkdir()
        for name in ("Makefile", "scripts/one"):
            (place / name).write_text(name)
        test.PROJECT = place

    def tally(self, output: str, reader: Callable[[], Any] | None = None, status: int = 0, *inputs: str) -> Any:
        words = ["sh", "-c", f"echo >>{self.runs}; printf '%s\\n' '{output}'; exit {status}"]
        command = test.Command("a-test", lambda: words, reader or test.Tap, inputs)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return (test.run_unless_unchanged if inputs else test.run_command)(command, self.log)

    def repeated(self, output: str = "ok 1 - one", status: int = 0) -> int:
        """Runs the command with inputs. Returns how often it has run altogether."""
        self.tally(output, test.Tap, status, "Makefile", "scripts")
        return len(self.runs.read_text().splitlines())


def counts(tally: Any) -> tuple[int, int, int]:
    return tally.passed, tally.failed, tally.skipped


def tap_lines_are_counted(world: World) -> None:
    assert counts(world.tally("1..4\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no such device\nok 4 - d", status=1)) == (2, 1, 1)


def planned_test_without_a_line_has_failed(world: World) -> None:
    assert counts(world.tally("1..3\nok 1 - a")) == (1, 2, 0)


def bad_status_of_passed_tests_has_failed(world: World) -> None:
    assert counts(world.tally("1..1\nok 1 - a", status=3)) == (1, 1, 0)


def command_without_a_test_has_failed(world: World) -> None:
    assert counts(world.tally("")) == (0, 1, 0)
    assert counts(world.tally("1..0 # SKIP all")) == (0, 1, 0)


def cargo_summaries_are_added(world: World) -> None:
    lines = "test result: ok. 3 passed; 0 failed; 1 ignored; x\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; x"
    assert counts(world.tally(lines, test.Cargo, 101)) == (4, 2, 1)


def step_is_one_test(world: World) -> None:
    assert counts(world.tally("anything", test.Step)) == (1, 0, 0)
    assert counts(world.tally("anything", test.Step, 1)) == (0, 1, 0)


def passed_command_is_not_repeated_while_inputs_stay(world: World) -> None:
    assert [world.repeated(), world.repeated()] == [1, 1]


def changed_input_repeats_the_command(world: World) -> None:
    runs = [world.repeated()]
    (world.place / "scripts/one").write_text("changed")
    runs.append(world.repeated())
    (world.place / "scripts/two").touch()
    runs.append(world.repeated())
    (world.place / "scripts/two").chmod(0o755)
    runs.append(world.repeated())
    (world.place / "Makefile").unlink()
    runs.append(world.repeated())
    assert runs == [1, 2, 3, 4, 5], runs


def failed_or_skipped_command_is_repeated(world: World) -> None:
    assert [world.repeated("not ok 1 - one", 1), world.repeated("ok 1 - one # SKIP no disk"), world.repeated()] == [1, 2, 3]
    assert world.repeated() == 3


def failure_after_a_pass_is_repeated(world: World) -> None:
    world.repeated()
    (world.place / "Makefile").write_text("broken")
    world.repeated("not ok 1 - one", 1)
    (world.place / "Makefile").write_text("Makefile")
    assert world.repeated() == 3, "the earlier pass is not on record any more"


TESTS = [
    tap_lines_are_counted,
    planned_test_without_a_line_has_failed,
    bad_status_of_passed_tests_has_failed,
    command_without_a_test_has_failed,
    cargo_summaries_are_added,
    step_is_one_test,
    passed_command_is_not_repeated_while_inputs_stay,
    changed_input_repeats_the_command,
    failed_or_skipped_command_is_repeated,
    failure_after_a_pass_is_repeated,
]


def outcome(check: Callable[[World], None]) -> Outcome:
    name = check.__name__.replace("_", " ")
    with tempfile.TemporaryDirectory() as place:
        try:
            check(World(Path(place)))
        except Exception:
            return Outcome(name, traceback.format_exc())
    return Outcome(name)


if __name__ == "__main__":
    sys.exit(report(len(TESTS), map(outcome, TESTS)))
