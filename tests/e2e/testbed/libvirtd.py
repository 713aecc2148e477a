# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""libvirt's daemon in level 1, and the guests that it runs."""
from __future__ import annotations

import json
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from . import counters, domains, hold
from .checks import HARMLESS, expect
from .consoles import Shell, TestbedError
from .counters import Counts
from .kernellog import KernelLog
from .levels import ASSIGNABLE, Measurement
from .scenarios import UNREMARKABLE, Bench
from .userspace import QEMU_UID, QEMU_USER

EMULATOR = Path("/usr/local/bin/qemu-system-aarch64")  # of docs/libvirt.md
_VIRSH = "virsh -q -c qemu:///system"
_LOG = "/var/log/libvirtd.log"
# What libvirt writes into the log of QEMU's output: the command line, and what happens to the domain.
_LIBVIRTS = re.compile(r"\\$|^-msg timestamp=on$|^[-0-9]+ [:.0-9]+\+0000: |terminating on signal 15 from pid \d+ \(/usr/sbin/libvirtd\)$")
SMMU = "iommu0"  # libvirt's name of it
# By default libvirt runs a QEMU that has seccomp in this sandbox.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_SECCOMP_MODE_FILTER = "2"  # in /proc/PID/status


def _pid_file(domain: str) -> str:
    """Where libvirt writes the process ID of a domain's QEMU."""
    return f"/run/libvirt/qemu/{domain}.pid"


class Daemon:
    """libvirtd, and virsh as root. `bench.qemu` is the QEMU that the page's emulator is."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.shell = bench.level1.shell

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        """Runs for the `with` block."""
        self.shell.run(f"libvirt prepare; mkdir -p {EMULATOR.parent} && ln -sf /e2e/qemu-{self.bench.qemu} {EMULATOR}")
        self.start()
        try:
            yield self
        except BaseException:
            self.shell.attempt("libvirt stop", timeout=90)  # it may not run; the exception says more
            raise
        self.stop()

    def start(self) -> None:
        self.shell.run("libvirt start", timeout=90)

    def stop(self) -> None:
        self.shell.run("libvirt stop", timeout=90)

    def virsh(self, command: str, timeout: float = 60) -> str:
        return self.shell.run(f"{_VIRSH} {command}", timeout)

    def refused(self, command: str, timeout: float = 60) -> str:
        """The error of a command that must fail."""
        status, text = self.shell.attempt(f"{_VIRSH} {command}", timeout)
        expect(status != 0, f"virsh {command} has succeeded:\n{text}")
        return text

    def file(self, element: Element) -> str:
        """The name of a file in level 1 with this XML."""
        name = f"/tmp/{element.findtext('name', 'device')}.xml"
        self.shell.run(f"echo {shlex.quote(domains.text(element))} >{name}")
        return name

    def define(self, domain: Element) -> None:
        """Also checks the XML against libvirt's schema."""
        self.virsh(f"define --validate {self.file(domain)}", timeout=120)

    @contextmanager
    def defined(self, domain: Element) -> Iterator[str]:
        """The domain's name; it is gone after the `with` block."""
        self.define(domain)
        name = domain.findtext("name", "")
        try:
            yield name
        finally:
            # Each domain that was started has a file of 64 MiB.
            self.shell.attempt(f"{_VIRSH} destroy {name}; {_VIRSH} undefine {name} --nvram; kill -9 $(cat {_pid_file(name)})", timeout=90)

    def refusal_of(self, domain: Element) -> str:
        """The error with which libvirt does not start a domain, which then does not exist."""
        return self.refused(f"create --validate {self.file(domain)}", timeout=120)

    def log_size(self) -> int:
        return int(self.shell.run(f"stat -c %s {_LOG}"))

    def replies(self, command: str, start: int) -> list[Any]:
        """QEMU's replies to a command of libvirt's, from a byte of the log on."""
        return domains.replies(self.shell.run(f"libvirt log {start}"), command)

    @contextmanager
    def guest(self, domain: Element, harmless: re.Pattern[str] = HARMLESS) -> Iterator[Domain]:
        """A booted guest; when the block has ended well, both kernels' logs must be clean, and QEMU must have reported nothing."""
        self.bench.level1.log.set_mark(domain.findtext("name", ""))
        with self.defined(domain):
            guest = Domain(self, domain)
            try:
                with hold.at_end("level 2", {"1": self.shell, "2": guest.shell}, guest):
                    guest.start()
                    yield guest
                    guest.expect_clean(harmless)
            finally:
                guest.close()


class Domain:
    """A domain that runs, or has run."""

    def __init__(self, daemon: Daemon, xml: Element) -> None:
        self.daemon, self.xml = daemon, xml
        self.name = xml.findtext("name", "")
        self._level1 = daemon.bench.level1
        self._console, line = (self._level1.level0.streams[f"l2-{name}"] for name in ("console", "shell"))
        self.shell = Shell(self._level1.pump, line)
        self.log = KernelLog(self.shell)
        for stream in (self._console, line):
            stream.buffer.clear()
            stream.note(f"\n=== {self.name}\n".encode())
        self._level1.pump.alarms.append(self._trouble)

    def _trouble(self) -> str | None:
        if panic := re.search(rb"Kernel panic[^\r\n]*", self._console.buffer):
            return f"level 2: {panic[0].decode(errors='replace')}"
        return None

    def close(self) -> None:
        self._level1.pump.alarms.remove(self._trouble)

    def start(self) -> None:
        self.daemon.virsh(f"start {self.name}", timeout=120)
        self.shell.wait_ready(90)

    def run(self, code: str, timeout: float = 60) -> str:
        return self.shell.run(code, timeout)

    def level1_run(self, code: str, timeout: float = 20) -> str:
        return self._level1.shell.run(code, timeout)

    def sleep(self, seconds: float) -> None:
        self._level1.pump.sleep(seconds)

    def state(self) -> str:
        return self.daemon.virsh(f"domstate --reason {self.name}").strip()

    @property
    def pid(self) -> int:
        """QEMU's."""
        return int(self._level1.shell.run(f"cat {_pid_file(self.name)}"))

    def command(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """A QMP command."""
        request = shlex.quote(json.dumps({"execute": name, "arguments": arguments or {}}))
        return json.loads(self.daemon.virsh(f"qemu-monitor-command {self.name} {request}"))["return"]

    def _property(self, name: str) -> Any:
        """A property of the SMMU."""
        return self.command("qom-get", {"path": f"/machine/peripheral/{SMMU}", "property": name})

    def _statistics(self) -> Any:
        return self._property("statistics")

    def id_registers(self) -> dict[str, Any]:
        shown: dict[str, Any] = self._property("id-registers")
        return shown

    def complaints(self) -> list[str]:
        """What QEMU itself has printed, but for what it always prints on this host."""
        lines = self._level1.shell.run(f"cat /var/log/libvirt/qemu/{self.name}.log").splitlines()
        return [line for line in lines if not (_LIBVIRTS.search(line) or UNREMARKABLE.search(line))]

    def expect_clean(self, harmless: re.Pattern[str]) -> None:
        # The guest may have been shut down.
        logs = {"level 1": self._level1.log}
        if self.state().startswith("running"):
            logs["level 2"] = self.log
        for where, log in logs.items():
            if errors := log.errors(harmless):
                raise TestbedError(f"{where}'s kernel reports:\n" + "\n".join(errors[:20]))
        complaints = self.complaints()
        expect(not complaints, "QEMU reports:\n" + "\n".join(complaints[:20]))

    @contextmanager
    def measure(self) -> Iterator[Measurement]:
        """Counts what happens in the `with` block: by level 1's kernel, and by the Rust device's property `statistics`."""
        has_statistics = self.daemon.bench.qemu != "c"
        shell, measurement = self._level1.shell, Measurement()
        statistics = [self._statistics()] if has_statistics else []
        shell.run("counters watch")
        before, begun = counters.parse(shell.run("counters now /dev/null")), time.monotonic()
        yield measurement
        seconds = time.monotonic() - begun
        after = counters.parse(shell.run("counters now /dev/null"))
        shell.run("counters ignore")
        after.subtract(before)
        work = domains.work_between(statistics[0], self._statistics()) if has_statistics else Counter()
        measurement.counts = Counts(work, after, seconds)

    # --- what libvirt must have arranged ---

    def expect_unprivileged(self) -> None:
        """QEMU must run as Debian's user for it, and that user must not be able to open the files that libvirt has opened."""
        owner = self.level1_run(f"awk '/^Uid:/ {{ print $2, $3, $4, $5 }}' /proc/{self.pid}/status")
        expect(owner == " ".join([str(QEMU_UID)] * 4), f"QEMU's user IDs are {owner}, not {QEMU_UID}")
        files = self.level1_run("ls /dev/vfio/devices/*").split()
        expect(bool(files), "there is no /dev/vfio/devices/*")
        for name in ["/dev/iommu", *files]:
            expect(self._level1.shell.attempt(f"su -s /bin/sh {QEMU_USER} -c ': <>{name}' 2>&1").status != 0,
                   f"{QEMU_USER} can open {name}")
        # ...and the check itself: it can open what it may.
        self.level1_run(f"su -s /bin/sh {QEMU_USER} -c ': <>/dev/kvm'")

    def expect_sandboxed(self) -> None:
        """libvirt must have given QEMU its seccomp sandbox, and each thread of QEMU must have the filter."""
        words = self.level1_run(f"tr '\\0' ' ' </proc/{self.pid}/cmdline")
        expect(f" -sandbox {_SANDBOX} " in words, f"QEMU runs without libvirt's sandbox, for which it needs --enable-seccomp:\n{words}")
        modes = self.level1_run(f"awk '/^Seccomp:/ {{ print $2 }}' /proc/{self.pid}/task/*/status").split()
        expect(len(modes) > 1 and set(modes) == {_SECCOMP_MODE_FILTER}, f"the seccomp modes of QEMU's threads are {modes}")

    def detach(self) -> None:
        """Returns when libvirt no longer shows the device in the domain."""
        device = self.daemon.file(domains.hostdev(self.xml))
        self.daemon.virsh(f"detach-device {self.name} {device} --live")
        self.level1_run(f"libvirt gone {self.name}", timeout=90)

    def attach(self, disk: str = "disk0") -> None:
        """Returns when the guest uses the disk."""
        self.daemon.virsh(f"attach-device {self.name} {self.daemon.file(domains.hostdev(self.xml))} --live")
        self.run(f"disk {disk}", timeout=60)

    def power_off(self) -> float:
        """The guest does it; returns level 1's seconds until libvirt reports it."""
        begun = self._uptime()
        self.shell.start("poweroff -f")
        text = self.level1_run(f"libvirt off {self.name}", timeout=90)
        expect(text.strip() == "shut off (shutdown)", f"after the guest's poweroff the domain is {text}")
        return self._uptime() - begun

    def _uptime(self) -> float:
        return float(self.level1_run("cat /proc/uptime").split()[0])


def expect_released(bench: Bench) -> None:
    """No process may hold an iommufd or a device any more."""
    holders = bench.level1.shell.run("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E '/dev/(iommu|vfio)' || true")
    expect(not holders, f"files that are still open after QEMU's end:\n{holders}")


def driver_of(bench: Bench, disk: str) -> str:
    """The driver that level 1 has bound to the disk."""
    return bench.level1.shell.run(f"basename $(readlink /sys/bus/pci/devices/{ASSIGNABLE[disk]}/driver)")


@contextmanager
def used_by_level1(bench: Bench, disk: str) -> Iterator[None]:
    """For the `with` block the disk is on level 1's own driver, from which managed='yes' takes it."""
    bench.level1.shell.run(f"rebind {ASSIGNABLE[disk]} nvme")
    try:
        yield
    finally:
        bench.level1.shell.run(f"rebind {ASSIGNABLE[disk]} vfio-pci")
