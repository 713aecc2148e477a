# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""E2E_HOLD=1: a conversation with the levels before a guest is ended, for people who look into something."""
from __future__ import annotations

import json
import os
import sys

from .consoles import Qmp, Shell, TestbedError

_HELP = "1 COMMAND: level 1's shell; 2 COMMAND: level 2's; q COMMAND [JSON]: QMP; an empty line goes on"


def wanted() -> bool:
    return bool(os.environ.get("E2E_HOLD"))


def _answer(line: str, level1: Shell, level2: Shell, qmp: Qmp) -> str:
    where, _, rest = line.partition(" ")
    if where in ("1", "2"):
        status, text = (level1 if where == "1" else level2).attempt(rest, timeout=600)
        return text + (f"\n(status {status})" if status else "")
    if where == "q":
        name, _, arguments = rest.partition(" ")
        return json.dumps(qmp.command(name, json.loads(arguments or "{}")), indent=1)
    return _HELP


def converse(why: str, level1: Shell, level2: Shell, qmp: Qmp) -> None:
    print(f"{why}\n{_HELP}", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            print(_answer(line, level1, level2, qmp), file=sys.stderr)
        except (TestbedError, ValueError) as error:
            print(error, file=sys.stderr)
