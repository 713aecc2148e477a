# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The messages of a level's kernel."""
from __future__ import annotations

import re
from dataclasses import dataclass

from .consoles import Shell


@dataclass
class KernelLog:
    """A kernel's messages from a mark on."""

    shell: Shell
    mark: str = ""
    # Messages of unexpected errors, at any log level.
    _BAD = re.compile(r"WARNING:|BUG:|Oops|Call trace|I/O error|timeout, |event 0x|CMDQ error|unexpected global error"
                      r"|blk_update_request|critical target|soft lockup|hung|F_TRANSLATION|C_BAD")

    def set_mark(self, text: str) -> None:
        self.mark = f"e2e-mark {text}"
        self.shell.run(f"echo '<6>{self.mark}' >/dev/kmsg")

    def lines(self) -> list[tuple[int, str]]:
        """(level, text), the oldest first."""
        found = []
        for line in self.shell.run("dmesg -r").splitlines():
            match = re.match(r"<(\d+)>\[ *[\d.]+\] ?(.*)", line)
            if match:
                found.append((int(match[1]) & 7, match[2]))
        if self.mark:
            marks = [index for index, (_, text) in enumerate(found) if text.endswith(self.mark)]
            found = found[marks[-1] + 1:] if marks else found
        return found

    def errors(self, harmless: re.Pattern[str]) -> list[str]:
        return [text for level, text in self.lines() if (level <= 3 or self._BAD.search(text)) and not harmless.search(text)]
