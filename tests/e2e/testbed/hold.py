# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""--hold: a prompt for commands to the levels before a guest is ended, for debugging."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .consoles import Shell, TestbedError

_HELP = "LEVEL COMMAND: a level's shell (%s); q COMMAND [JSON]: QMP; an empty line continues"


class Monitor(Protocol):
    """QMP, directly or through libvirt."""

    def command(self, name: str, arguments: dict[str, Any] | None = None) -> Any: ...


def wanted() -> bool:
    return bool(os.environ.get("E2E_HOLD"))


def _answer(line: str, levels: dict[str, Shell], qmp: Monitor) -> str:
    where, _, rest = line.partition(" ")
    if where in levels:
        status, text = levels[where].attempt(rest, timeout=600)
        return text + (f"\n(status {status})" if status else "")
    if where == "q":
        name, _, arguments = rest.partition(" ")
        return json.dumps(qmp.command(name, json.loads(arguments or "{}")), indent=1)
    return _HELP % ", ".join(levels)


@contextmanager
def at_end(what: str, levels: dict[str, Shell], qmp: Monitor) -> Iterator[None]:
    """With --hold, stops at the end of the block, whether it has failed or not."""
    try:
        yield
    except Exception as error:
        if wanted():
            converse(f"{what} has failed: {error}", levels, qmp)
        raise
    if wanted():
        converse(f"{what} has passed", levels, qmp)


def converse(why: str, levels: dict[str, Shell], qmp: Monitor) -> None:
    print(f"{why}\n{_HELP % ', '.join(levels)}", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            print(_answer(line, levels, qmp), file=sys.stderr)
        except (TestbedError, ValueError) as error:
            print(error, file=sys.stderr)
