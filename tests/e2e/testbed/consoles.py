# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Serial lines into the levels: byte streams, the shell protocol of guest/agent, and QMP.

Everything runs in one thread. A wait for one line keeps reading all of them, so that no level is blocked by unread
output.
"""
from __future__ import annotations

import itertools
import json
import os
import re
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# Factor for all timeouts, for slow machines.
PATIENCE = float(os.environ.get("E2E_PATIENCE") or 1)


class TestbedError(Exception):
    """An expectation has failed; the message is one line, or one line and an excerpt."""


class TimedOut(TestbedError):
    """A wait has timed out."""


class Taken(NamedTuple):
    """What was removed from a stream."""

    before: bytes
    match: bytes
    groups: tuple[bytes, ...]


class Stream:
    """One line to a level: the bytes that were not taken yet, and a log of everything."""

    def __init__(self, name: str, sock: socket.socket, log: Path) -> None:
        self.name = name
        self.buffer = bytearray()
        self.closed = False
        self.socket = sock
        self._log = log.open("ab", buffering=0)

    def receive(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            data = b""
        if data:
            self.buffer += data
            self._log.write(data)
        else:
            self.closed = True

    def send(self, data: bytes) -> None:
        self.note(b"\n<<< " + data)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise TestbedError(f"{self.name} is gone: {error}") from error

    def note(self, data: bytes) -> None:
        """Writes into the log only."""
        self._log.write(data)

    def take(self, pattern: re.Pattern[bytes]) -> Taken | None:
        """Removes everything up to the end of the first match. The pattern should begin with something literal."""
        match = pattern.search(self.buffer)
        if match is None:
            return None
        taken = Taken(bytes(self.buffer[: match.start()]), match.group(), match.groups())
        end = match.end()
        del match  # while it lives the buffer cannot shrink
        del self.buffer[:end]
        return taken


class Pump:
    """Reads all streams while a caller waits for one."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        # Factor for all timeouts.
        self.patience = PATIENCE
        # Each returns one line if something has failed; they are called during every wait.
        self.alarms: list[Callable[[], str | None]] = []

    def add(self, stream: Stream) -> None:
        self._selector.register(stream.socket, selectors.EVENT_READ, stream)

    def read(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            stream: Stream = key.data
            stream.receive()
            if stream.closed:
                self._selector.unregister(stream.socket)

    def wait(self, ready: Callable[[], T | None], timeout: float, what: str) -> T:
        """Waits until `ready` returns something; raises TimedOut after `timeout` seconds."""
        end = time.monotonic() + timeout * self.patience
        while True:
            result = ready()
            if result is not None:
                return result
            for alarm in self.alarms:
                if trouble := alarm():
                    raise TestbedError(f"{trouble} (while waiting for {what})")
            left = end - time.monotonic()
            if left <= 0:
                raise TimedOut(f"no {what} within {timeout * self.patience:.0f} s")
            self.read(min(left, 1.0))

    def sleep(self, seconds: float) -> None:
        """Sleeps while it reads all streams."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def close(self) -> None:
        self._selector.close()


class Output(NamedTuple):
    status: int
    text: str


class Shell:
    """Runs commands through the agent at a stream's other end."""

    _READY = re.compile(rb"\n#ready\n")

    def __init__(self, pump: Pump, stream: Stream) -> None:
        self._pump = pump
        self._stream = stream
        self._ids = itertools.count(1)

    def wait_ready(self, timeout: float) -> None:
        self._pump.wait(lambda: self._stream.take(self._READY), timeout, f"answer from {self._stream.name}")

    def start(self, code: str) -> Callable[[float], Output]:
        """Sends a command and returns a function that waits for its end."""
        number = next(self._ids)
        line = " ".join(line.strip() for line in code.strip().splitlines())
        self._stream.send(f"{number} {line}\n".encode())
        end = re.compile(rb"\n#%d (\d+)\n" % number)

        def finish(timeout: float) -> Output:
            taken = self._pump.wait(lambda: self._stream.take(end), timeout,
                                    f"end of '{line[:100]}' on {self._stream.name}")
            return Output(int(taken.groups[0]), taken.before.decode(errors="replace").strip("\n"))

        return finish

    def attempt(self, code: str, timeout: float = 20) -> Output:
        return self.start(code)(timeout)

    def run(self, code: str, timeout: float = 20) -> str:
        """Runs a command that must succeed; returns its output."""
        status, text = self.attempt(code, timeout)
        if status:
            raise TestbedError(f"{self._stream.name}: '{code.strip()}' failed with {status}:\n{text}")
        return text


class Qmp:
    """A QMP session on a stream. Events are kept until a caller waits for them."""

    _LINE_END = re.compile(rb"\n")

    def __init__(self, pump: Pump, stream: Stream) -> None:
        self._pump = pump
        self._stream = stream
        self._messages: list[dict[str, Any]] = []

    def _receive(self) -> None:
        while line := self._stream.take(self._LINE_END):
            # Carriage returns come from the line, anything else that is not JSON from a QEMU that was killed.
            text = line.before.strip()
            if text.startswith(b"{"):
                self._messages.append(json.loads(text))

    def _wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float, what: str) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            self._receive()
            for index, message in enumerate(self._messages):
                if wanted(message):
                    return self._messages.pop(index)
            return None

        return self._pump.wait(find, timeout, what)

    def connect(self, timeout: float) -> None:
        self._wait(lambda message: "QMP" in message, timeout, "QMP greeting")
        self.command("qmp_capabilities")

    def start(self, name: str, arguments: Mapping[str, Any] | None = None) -> Callable[[float], Any]:
        """Sends a command and returns a function that waits for its answer. No other command may be sent before that."""
        request: dict[str, Any] = {"execute": name}
        if arguments:
            request["arguments"] = dict(arguments)
        self._stream.send(json.dumps(request).encode() + b"\n")

        def finish(timeout: float) -> Any:
            answer = self._wait(lambda message: "return" in message or "error" in message, timeout, f"answer to QMP {name}")
            if "error" in answer:
                raise TestbedError(f"QMP {name}: {answer['error']['desc']}")
            return answer["return"]

        return finish

    def command(self, name: str, arguments: Mapping[str, Any] | None = None, timeout: float = 20) -> Any:
        return self.start(name, arguments)(timeout)

    def wait_event(self, name: str, timeout: float, **data: Any) -> dict[str, Any]:
        def wanted(message: dict[str, Any]) -> bool:
            return message.get("event") == name and data.items() <= message.get("data", {}).items()

        return self._wait(wanted, timeout, f"QMP event {name}")

    def discard_events(self) -> None:
        self._receive()
        self._messages.clear()
