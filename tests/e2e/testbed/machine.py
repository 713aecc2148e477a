# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""A QEMU that this process runs, and the lines into it."""
from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .consoles import Pump, Qmp, Stream

# QEMU's options for each kind of line.
_ENDS = {
    "serial": ["-serial", "chardev:{}"],
    "console": ["-device", "virtconsole,chardev={}"],
    "monitor": ["-mon", "chardev={},mode=control"],
}
# Trace events of SMMU errors: event records and illegal commands. Older
# QEMUs have another name for the first: a pattern that matches nothing is no error.
SMMU_ERRORS = ("smmuv3_propagate_event*", "smmuv3_record_event*", "smmuv3_cmdq_consume_error")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def trace_options(to: Path | str, events: Iterable[str]) -> list[str]:
    """QEMU's options for a log of the events, and of guest errors."""
    words = ["-D", str(to), "-d", "guest_errors"]
    for event in events:
        words += ["-trace", f"enable={event}"]
    return words


# Options that make a QEMU print the properties of arm-smmuv3.
PROPERTIES_HELP = ("-device", "arm-smmuv3,help")


def properties_in(text: str) -> frozenset[str]:
    """The names in the answer to PROPERTIES_HELP."""
    return frozenset(re.findall(r"^ +([\w.-]+)=<", text, re.MULTILINE))


def properties_of(emulator: Path) -> frozenset[str]:
    """The properties of arm-smmuv3 in a QEMU for this machine."""
    done = subprocess.run([emulator, *PROPERTIES_HELP], stdout=subprocess.PIPE, text=True, check=True)
    return properties_in(done.stdout)


def smmu_globals(properties: Iterable[str]) -> list[str]:
    """QEMU's options that give every arm-smmuv3 other defaults. QEMU refuses a property that the device does not have."""
    return [word for value in properties for word in ("-global", f"arm-smmuv3.{value}")]


class Trace:
    """The log that trace_options() has begun."""

    def __init__(self, path: Path, qmp: Qmp) -> None:
        self._path = path
        self._qmp = qmp

    def lines(self, start: int = 0) -> list[str]:
        """All lines from a byte on."""
        with self._path.open(errors="replace") as file:
            file.seek(start)
            return file.read().splitlines()

    def size(self) -> int:
        return self._path.stat().st_size

    def troubles(self, start: int = 0) -> list[str]:
        """Those of SMMU_ERRORS."""
        return [line for line in self.lines(start) if re.search(r"smmuv3_(propagate_event|cmdq_consume_error) ", line)]

    @contextmanager
    def of(self, *events: str) -> Iterator[list[str]]:
        """The lines of the `with` block, in which these events are on; the list is filled at the block's end."""
        lines: list[str] = []
        start = self.size()
        self._set(events, True)
        yield lines
        self._set(events, False)
        lines += self.lines(start)

    def _set(self, events: Sequence[str], enable: bool) -> None:
        for event in events:
            self._qmp.command("trace-event-set-state", {"name": event, "enable": enable})


class Machine:
    """An emulated machine. Its process ends with close(), or with this one.

    `lines` are the names of its lines, which are those of their logs too, and what is at QEMU's end (_ENDS); the first
    serial one is the kernel's. `more` are options that follow those of the lines.
    """

    def __init__(self, name: str, command: Sequence[str], lines: Mapping[str, str], logs: Path,
                 more: Sequence[str] = ()) -> None:
        self.name = name
        self.pump = Pump()
        self.streams: dict[str, Stream] = {}
        self._kernel = next(line for line, end in lines.items() if end == "serial")
        options, theirs = self._lines(lines, logs)
        words = [*command, *options, *more]
        (logs / f"{name}-command").write_text(" ".join(words) + "\n")
        self._errors = logs / f"{name}-errors.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                             pass_fds=[line.fileno() for line in theirs], start_new_session=True,
                                             preexec_fn=_die_with_parent)
        for line in theirs:
            line.close()
        self.pump.alarms.append(self._trouble)

    def _lines(self, lines: Mapping[str, str], logs: Path) -> tuple[list[str], list[socket.socket]]:
        """The lines as options of QEMU and its ends of them; ours go to self.streams."""
        # A memory-mapped device: not behind any SMMU.
        options = ["-device", "virtio-serial-device,max_ports=8"]
        theirs = []
        for name, end in lines.items():
            ours, other = socket.socketpair()
            theirs.append(other)
            self.streams[name] = Stream(name, ours, logs / f"{name}.log")
            self.pump.add(self.streams[name])
            options += ["-chardev", f"socket,id={name},fd={other.fileno()}", *(word.format(name) for word in _ENDS[end])]
        return options, theirs

    def cpu_seconds(self) -> float:
        """What the process has used of this machine's CPUs."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def errors(self) -> str:
        """What QEMU itself has printed."""
        return self._errors.read_text(errors="replace").strip()

    def _trouble(self) -> str | None:
        if (status := self._process.poll()) is not None:
            return f"{self.name}'s QEMU ended with {status}: {self.errors()[-300:]}"
        if panic := re.search(rb"Kernel panic[^\r\n]*", self.streams[self._kernel].buffer):
            return f"{self._kernel}: {panic[0].decode(errors='replace')}"
        return None

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.pump.close()
        for stream in self.streams.values():
            stream.socket.close()
