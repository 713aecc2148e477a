# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Counts of a guest's work: from QEMU's trace, and by level 1's kernel as an independent source."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

# An event that one of the two QEMUs does not have is given as a pattern: no match is no error.
TRACE_EVENTS = (
    "smmuv3_cmdq_opcode", "smmuv3_write_mmio", "smmuv3_cmdq_consume_error", "smmuv3_write_gerror", "smmuv3_write_gerrorn",
    "smmuv3_trigger_irq", "smmuv3_accel_*", "iommufd_backend_invalidate_cache", "iommufd_backend_alloc_*",
)
# One or more lines a command: off where hundreds of thousands of commands are not to be counted.
BUSY_EVENTS = ("smmuv3_cmdq_opcode", "smmuv3_write_mmio", "smmuv3_accel_invalidate*", "iommufd_backend_invalidate_cache")
# The host driver's sub-batch: the most commands that this project's device puts into one ioctl.
BATCH = 63


def parse(text: str) -> Counter[str]:
    """The "NAME VALUE" lines of guest/counters."""
    result: Counter[str] = Counter()
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        result[name] = int(value)
    return result


@dataclass(frozen=True)
class Counts:
    """The work of a guest in one measurement."""

    trace: Counter[str]
    level1: Counter[str]
    seconds: float

    @property
    def commands(self) -> dict[str, int]:
        """Commands that the guest issued, by name, the most frequent first."""
        prefix = "command:"
        found = {name[len(prefix):].removeprefix("SMMU_CMD_"): count for name, count in self.trace.items()
                 if name.startswith(prefix)}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def invalidations(self) -> int:
        """Commands that have to reach the host."""
        return sum(count for name, count in self.commands.items() if name.startswith(("TLBI", "CFGI_CD", "ATC")))

    @property
    def tlbi(self) -> int:
        return sum(count for name, count in self.commands.items() if name.startswith("TLBI"))

    @property
    def syncs(self) -> int:
        return self.commands.get("SYNC", 0)

    @property
    def doorbells(self) -> int:
        return self.trace["doorbells"]

    @property
    def ioctls(self) -> int:
        return self.trace["ioctls"]

    @property
    def entries(self) -> int:
        """Commands in those ioctls."""
        return self.trace["entries"]

    @property
    def kernel_ioctls(self) -> int:
        """The same ioctls as the kernel that served them counted them."""
        return self.level1["kernel_ioctls"] + self.level1["probe_misses"]

    @property
    def errors(self) -> int:
        return self.trace["host_errors"] + self.trace["command_errors"]

    @property
    def user_exits(self) -> int:
        return self.level1["mmio_exit_user"]

    @property
    def exits(self) -> int:
        return self.level1["exits"]

    @property
    def most_ioctls_expected(self) -> int:
        """The most ioctls that a batching device needs: one for each CMD_SYNC and one for each full batch."""
        return self.syncs + self.invalidations // BATCH

    def as_json(self) -> dict[str, object]:
        return {
            "commands": self.commands, "doorbells": self.doorbells, "tlbi": self.tlbi, "syncs": self.syncs,
            "ioctls": self.ioctls, "ioctls_seen_by_the_kernel": self.kernel_ioctls, "commands_in_ioctls": self.entries,
            "errors": self.errors, "user_exits": self.user_exits, "exits": self.exits, "seconds": round(self.seconds, 3),
        }
