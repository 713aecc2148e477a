# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""CMDQ virtualization hardware (tests/cmdqv-hw) as a part of level 0: options, ACPI table, and what it has counted."""
from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .consoles import Qmp, TestbedError

_TYPE = "tegra241-cmdqv-hw"
_ID = "cmdqv"
# Where the machine "virt" has nothing: below the PCI windows, and above its own interrupts.
_BASE, _SIZE, _SPI = 0x0F10_0000, 0xB_0000, 192
_FIRST_SPI = 32  # as the interrupt controller numbers them
# Linux finds the device by _HID, and the SMMU that it belongs to by _UID, the identifier in the IORT.
_SSDT = """DefinitionBlock ("", "SSDT", 2, "TESTBD", "CMDQVHW ", 1)
{{
    Device (\\_SB.CQ00)
    {{
        Name (_HID, "NVDA200C")
        Name (_UID, {uid})
        Name (_CCA, One)
        Name (_CRS, ResourceTemplate ()
        {{
            QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                0, {base:#x}, {last:#x}, 0, {size:#x})
            Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {{ {interrupt} }}
        }})
    }}
}}
"""
# Commands by their opcodes (IHI 0070 §4). Others have their number as a name.
_COMMANDS = {0x03: "CFGI_STE", 0x05: "CFGI_CD", 0x10: "TLBI_NH_ALL", 0x11: "TLBI_NH_ASID", 0x12: "TLBI_NH_VA",
             0x28: "TLBI_S12_VMALL", 0x30: "TLBI_NSNH_ALL", 0x40: "ATC_INV", 0x46: "SYNC"}


def options() -> list[str]:
    """QEMU's options for the hardware."""
    return ["-device", f"{_TYPE},id={_ID},base={_BASE:#x},spi={_SPI}"]


def ssdt(smmu: int) -> bytes:
    """The ACPI table by which level 1 finds the hardware. `smmu`: the identifier of its SMMU."""
    source = _SSDT.format(uid=smmu, base=_BASE, last=_BASE + _SIZE - 1, size=_SIZE, interrupt=_SPI + _FIRST_SPI)
    with tempfile.TemporaryDirectory() as work:
        table = Path(work) / "ssdt"
        table.with_suffix(".asl").write_text(source)
        done = subprocess.run(["iasl", "-p", table, table.with_suffix(".asl")], capture_output=True, text=True)
        if done.returncode:
            raise TestbedError(f"iasl does not take the SSDT of the CMDQV hardware:\n{done.stdout[-1000:]}")
        return table.with_suffix(".aml").read_bytes()


@dataclass
class Vintf:
    """A virtual interface: its state, and what its queues have executed."""

    enabled: bool
    hypervisor: bool  # level 1's own
    queues_assigned: int
    queues_enabled: int
    errors: int  # commands at which a queue has stopped
    commands: Counter[str] = field(default_factory=Counter)

    @property
    def is_guests(self) -> bool:
        return self.enabled and not self.hypervisor

    @property
    def tlbi(self) -> int:
        return sum(count for name, count in self.commands.items() if name.startswith("TLBI"))

    @property
    def syncs(self) -> int:
        return self.commands["SYNC"]


class Witness:
    """What the hardware has executed, from level 0's QEMU: independent of level 1's kernel and of the QEMU under test."""

    def __init__(self, qmp: Qmp) -> None:
        self._qmp = qmp

    def vintfs(self) -> list[Vintf]:
        """All of them, with counts from the beginning on."""
        found = self._qmp.command("qom-get", {"path": f"/machine/peripheral/{_ID}", "property": "vintfs"})
        return [Vintf(one["enabled"], one["hypervisor"], one["queues-assigned"], one["queues-enabled"], one["errors"],
                      Counter({_COMMANDS.get(entry["opcode"], hex(entry["opcode"])): entry["count"]
                               for entry in one["commands"]})) for one in found]

    @contextmanager
    def watch(self) -> Iterator[list[Vintf]]:
        """All of them, with the counts of the `with` block; the list is filled at the block's end."""
        result: list[Vintf] = []
        before = self.vintfs()
        yield result
        for old, new in zip(before, self.vintfs()):
            new.commands -= old.commands
            new.errors -= old.errors
            result.append(new)

    def owner(self) -> Vintf:
        """Level 1's own interface."""
        return self.vintfs()[0]

    def guests(self) -> list[Vintf]:
        """The interfaces that level 1 has given away."""
        return [vintf for vintf in self.vintfs() if vintf.is_guests]

    def left_over(self) -> list[str]:
        """What is not as it is without a guest."""
        return [f"VINTF {number}: {vintf}" for number, vintf in enumerate(self.vintfs())
                if number > 0 and (vintf.enabled or vintf.queues_assigned)]
