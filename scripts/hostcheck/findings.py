# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""What was found, as lines for a terminal and as a report that can be posted."""
from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

PCI_ADDRESS = re.compile(r"\b[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]\b")
_MAC = re.compile(r"\b[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5,}\b")
_WIDTH = 32  # columns of the check's name


class Status(enum.Enum):
    OK = "ok"
    MISSING = "missing"
    UNKNOWN = "unknown"  # something that is needed could not be looked at
    NOTE = "note"  # worth knowing, and not needed


@dataclass(frozen=True)
class Finding:
    """The result of one check. `text` and `fix` have no identity of the host but PCI addresses."""

    check: str
    status: Status
    text: str
    fix: str = ""

    def lines(self) -> list[str]:
        # names of the host's files may have any bytes
        text = "".join(char if " " <= char <= "~" else "?" for char in self.text)
        first = f"{self.status.value:<8} {self.check:<{_WIDTH}} {text}"
        return [first, f"{'':<8} fix: {self.fix}"] if self.fix else [first]


def ok(check: str, text: str) -> Finding:
    return Finding(check, Status.OK, text)


def missing(check: str, text: str, fix: str) -> Finding:
    return Finding(check, Status.MISSING, text, fix)


def unknown(check: str, text: str, fix: str) -> Finding:
    return Finding(check, Status.UNKNOWN, text, fix)


def note(check: str, text: str, fix: str = "") -> Finding:
    return Finding(check, Status.NOTE, text, fix)


def is_complete(findings: list[Finding]) -> bool:
    return all(finding.status in (Status.OK, Status.NOTE) for finding in findings)


def summary(findings: list[Finding]) -> str:
    counts = Counter(finding.status for finding in findings)
    verdict = "everything that accel=on needs is there" if is_complete(findings) else "not everything is there"
    return f"{verdict}: " + ", ".join(f"{counts[status]} {status.value}" for status in Status)


def terminal(findings: list[Finding]) -> str:
    return "\n".join([*(line for finding in findings for line in finding.lines()), "", summary(findings)])


def report(findings: list[Finding]) -> str:
    """Returns the findings without PCI addresses, which become "device 1" and so on, and without MACs.

    Checks put nothing else into their texts that identifies a machine; this replaces what they must name.
    """
    public = anonymizer()
    body = "\n".join(Finding(public(found.check), found.status, public(found.text)).lines()[0] for found in findings)
    return f"report of check-host, for arm-smmuv3 with accel=on\n\n{body}\n\n{summary(findings)}\n"


def anonymizer() -> Callable[[str], str]:
    numbers: dict[str, int] = {}

    def number(address: re.Match[str]) -> str:
        return f"device {numbers.setdefault(address[0].lower(), len(numbers) + 1)}"

    return lambda text: _MAC.sub("(address)", PCI_ADDRESS.sub(number, text))
