# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The three levels as objects: Level0 runs a machine under TCG, Level1 is the KVM host in it, Guest is level 2."""
from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import cmdqv_hw, counters, hold
from .consoles import Qmp, Shell, TestbedError, TimedOut
from .images import FIRMWARE, Images, acpi_override, make_disk
from .iort import smmu_identifier, with_canwbs
from .kernellog import KernelLog
from .machine import PROPERTIES_HELP, SMMU_ERRORS, Machine, Trace, properties_in, smmu_globals, trace_options

DISKS = ("disk0", "disk1")
DISK_MIB = 64
# Level 1's PCI devices that guests may get. The addresses follow from Level0._devices().
ASSIGNABLE = {"disk0": "0000:00:01.0", "disk1": "0000:00:02.0", "edu": "0000:00:03.0"}
_DRIVERS = {"disk0": "nvme", "disk1": "nvme"}

# A CPU without pointer authentication: emulating that is slow.
_MACHINE = ["-M", "virt,virtualization=on,gic-version=3,iommu=smmuv3", "-global", "arm-smmuv3.stage=nested",
            "-cpu", "neoverse-n1", "-bios", str(FIRMWARE)]
_LEVEL0_LOG = "l0-trace.log"
# Debian's QEMU: a level 0 without the project's code.
STOCK_EMULATOR = Path("/usr/bin/qemu-system-aarch64")
# Level 1's hvc0, hvc1... Two guests can run at a time, in the slots 0 and 1.
_GUEST_LINES = ("console", "qmp", "shell")
SLOTS = (0, 1)
_LINES = ("l1-shell", *(f"l2{slot or ''}-{line}" for slot in SLOTS for line in _GUEST_LINES))


# In level 1: while this file exists, ioctls are refused (tests/e2e/guest/refusing.c); if this one is made, one is held
# (tests/e2e/guest/holding.c); the directory of huge pages.
REFUSING = "/tmp/refusing"
HOLDING = "/tmp/holding"
HUGE_PAGES = "/huge"

# The console of level 1 behind those lines: gdbserver's, which leads to a socket for gdb.
_GDB_CONSOLE = f"/dev/hvc{len(_LINES)}"


@dataclass(frozen=True)
class Hardware:
    """Level 1's CPUs and SMMU.

    With `icount` the CPUs run in turn and their clock counts instructions, whatever else this machine does. With `cmdqv`
    the SMMU has CMDQ virtualization, for which level 0 must be the QEMU that is built for it.
    """

    cpus: int = 2
    icount: bool = False
    properties: Sequence[str] = ()  # of the hardware's SMMU, such as "msi=on"
    cmdqv: bool = False

    NANOSECONDS = 4  # for each instruction, with icount

    @property
    def patience(self) -> float:
        """How much slower than the default hardware."""
        return 8 if self.icount else max(self.cpus / 2, 1)

    @property
    def name(self) -> str:
        return ("icount" if self.icount else "") + (f"{self.cpus}cpus" if self.cpus != 2 else "") + ("cmdqv" if self.cmdqv else "")

    def options(self) -> list[str]:
        shift = self.NANOSECONDS.bit_length() - 1
        clock = ["tcg,thread=single", "-icount", f"shift={shift}"] if self.icount else ["tcg,thread=multi"]
        cmdqv = cmdqv_hw.options() if self.cmdqv else []
        return ["-smp", str(self.cpus), "-accel", *clock, *smmu_globals(self.properties), *cmdqv]

    def instructions(self, microseconds: float) -> float:
        """What so much time on level 1's clock is, with icount."""
        return microseconds * 1000 / self.NANOSECONDS


class Level0(Machine):
    """The emulated machine that is level 1's hardware. `emulator` is its QEMU, `gdb` a socket to create for gdb."""

    def __init__(self, emulator: Path, logs: Path, kernel: Path, initrd: Path, memory: str = "4G",
                 disks: dict[str, Path] | None = None, gdb: Path | None = None, hardware: Hardware = Hardware()) -> None:
        self.disks = disks or {}
        command = [str(emulator), *_MACHINE, *hardware.options(), "-m", memory, "-nodefaults", "-display", "none", "-no-reboot",
                   "-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyAMA0 rdinit=/init panic=-1",
                   *self._devices(), *trace_options(logs / _LEVEL0_LOG, SMMU_ERRORS)]
        lines = {"l1-console": "serial", "l0-qmp": "monitor"} | dict.fromkeys(_LINES, "console")
        more = ["-chardev", f"socket,id=gdb,path={gdb},server=on,wait=off", "-device", "virtconsole,chardev=gdb"] if gdb else []
        super().__init__("l0", command, lines, logs, more)
        self.pump.patience *= hardware.patience
        self.qmp = Qmp(self.pump, self.streams["l0-qmp"])
        self.qmp.connect(20)
        # For hardware with CMDQV.
        self.cmdqv = cmdqv_hw.Witness(self.qmp)
        # Trace of its SMMU: SMMU_ERRORS, and more on request.
        self.trace = Trace(logs / _LEVEL0_LOG, self.qmp)

    def _devices(self) -> list[str]:
        options = []
        for slot, (serial, path) in enumerate(self.disks.items(), start=1):
            options += ["-drive", f"file={path},if=none,id={serial},format=raw",
                        "-device", f"nvme,drive={serial},serial={serial},addr={slot}"]
        return options + ["-device", "edu,addr=3,dma_mask=0xffffffffff"]  # as wide as there is memory


@dataclass(frozen=True)
class GuestConfig:
    """One run of a QEMU under test. `smmus` lists, for each SMMUv3, the names (ASSIGNABLE) of the devices behind it."""

    name: str
    qemu: str
    properties: str = ""  # more of -device arm-smmuv3, such as ",ril=off"
    defaults: Sequence[str] = ()  # of every arm-smmuv3 that has no other value, such as "msi=off"
    smp: int = 1
    memory: str = "512M"
    smmus: Sequence[Sequence[str]] = (("disk0",),)
    trace: bool = True
    append: str = ""
    slot: int = 0
    huge_pages: bool = False  # of level 1, for the guest's memory
    refused: str = ""  # "NUMBER:ERRNO": an ioctl that fails while REFUSING exists in level 1
    held: str = ""  # "NUMBER:MILLISECONDS": an ioctl of which HOLDING has one held, for that time at most
    accel: bool = True  # False: no SMMU, and the devices are on the same buses
    updatable: bool = False  # QEMU can be updated under the guest: other processes can map its memory
    incoming: Sequence[str] = ()  # options with which QEMU takes over a guest

    @property
    def trace_file(self) -> str:
        return f"/tmp/trace{self.slot}.log"

    @property
    def output_file(self) -> str:
        return f"/tmp/qemu{self.slot}.out"

    def line(self, name: str) -> str:
        """The name of the stream that leads to one of _GUEST_LINES."""
        return f"l2{self.slot or ''}-{name}"

    def device(self, name: str, bus: str) -> dict[str, str]:
        return {"driver": "vfio-pci", "id": name, "host": ASSIGNABLE[name], "bus": bus, "iommufd": "iommufd0", "romfile": ""}

    def ports(self) -> Iterator[tuple[int, str, str]]:
        """(SMMU number, root port, device name) of every assigned device."""
        for smmu, devices in enumerate(self.smmus):
            for slot, name in enumerate(devices):
                yield smmu, f"port{smmu}.{slot}", name

    def port(self, name: str) -> str:
        """The root port that a device is plugged into."""
        return next(port for _, port, device in self.ports() if device == name)

    def _preloaded(self) -> list[str]:
        """The beginning of a command that has a library in front of level 1's kernel."""
        if self.refused:
            return ["env", "LD_PRELOAD=/e2e/refusing.so", f"REFUSED={self.refused}", f"REFUSING={REFUSING}"]
        if self.held:
            return ["env", "LD_PRELOAD=/e2e/holding.so", f"HELD={self.held}", f"HOLDING={HOLDING}"]
        return []

    def command(self) -> list[str]:
        shared = ",memory-backend=ram,aux-ram-share=on" if self.updatable else ""
        words = [*self._preloaded(), f"/e2e/qemu-{self.qemu}", "-M", f"virt,accel=kvm,gic-version=3{shared}", "-cpu", "host", "-m", self.memory,
                 "-smp", str(self.smp), "-bios", "/e2e/QEMU_EFI.fd", "-kernel", "/e2e/Image", "-initrd", "/e2e/l2.cpio",
                 "-append", f"console=ttyAMA0 rdinit=/init panic=-1 loglevel=4 {self.append}".strip(), "-nodefaults", "-display", "none",
                 "-serial", "chardev:console", "-mon", "chardev=qmp,mode=control",
                 # Not behind an accelerated SMMU, so that no unmap of theirs is counted.
                 "-device", "virtio-serial-pci,bus=pcie.0", "-device", "virtconsole,chardev=shell",
                 "-object", "iommufd,id=iommufd0"]
        if self.updatable:
            words += ["-object", f"memory-backend-memfd,id=ram,size={self.memory},share=on"]
        if self.huge_pages:
            words += ["-mem-path", HUGE_PAGES, "-mem-prealloc"]
        for name in _GUEST_LINES:
            # A device option refers to its character device wherever on the line that is.
            words += ["-chardev", f"serial,id={name},path=/dev/hvc{_LINES.index(self.line(name))}"]
        for smmu in range(len(self.smmus)):
            words += ["-device", f"pxb-pcie,id=pxb{smmu},bus_nr={8 * (smmu + 1)},bus=pcie.0"]
            if self.accel:
                words += ["-device", f"arm-smmuv3,primary-bus=pxb{smmu},id=smmu{smmu},accel=on{self.properties}"]
        for chassis, (smmu, port, name) in enumerate(self.ports(), start=1):
            device = ",".join(f"{key}={value}" for key, value in self.device(name, port).items()).removeprefix("driver=")
            words += ["-device", f"pcie-root-port,id={port},bus=pxb{smmu},chassis={chassis},slot={chassis}",
                      "-device", device]
        words += [*smmu_globals(self.defaults), *self.incoming]
        return words + trace_options(self.trace_file, counters.TRACE_EVENTS if self.trace else ())


def _quote(words: Sequence[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


@dataclass
class Measurement:
    """Filled when the `with` block that it belongs to ends."""

    counts: counters.Counts | None = None

    @property
    def result(self) -> counters.Counts:
        assert self.counts, "the measured stretch has not ended"
        return self.counts


class Guest:
    """A running level 2."""

    def __init__(self, level1: Level1, config: GuestConfig) -> None:
        self.config = config
        self._level1 = level1
        self._pump = level1.pump
        streams = level1.level0.streams
        lines = {name: streams[config.line(name)] for name in _GUEST_LINES}
        for line in lines.values():
            line.buffer.clear()
            line.note(f"\n=== {config.name}\n".encode())
        self._console = lines["console"]
        self.shell = Shell(self._pump, lines["shell"])
        self.qmp = Qmp(self._pump, lines["qmp"])
        self.log = KernelLog(self.shell)
        self._pump.alarms.append(self._trouble)
        command = _quote([*level1.debugger(config), *config.command()])
        self.pid = int(level1.shell.run(f"rm -f {config.trace_file}; {command} >{config.output_file} 2>&1 & echo $!"))

    def _trouble(self) -> str | None:
        if panic := re.search(rb"Kernel panic[^\r\n]*", self._console.buffer):
            return f"level 2: {panic[0].decode(errors='replace')}"
        return None

    def running(self) -> bool:
        return self._level1.shell.attempt(f"grep -q '^State:.[^Z]' /proc/{self.pid}/status 2>/dev/null").status == 0

    def output(self) -> str:
        """What QEMU itself has printed."""
        return self._level1.shell.run(f"cat {self.config.output_file}")

    def _wait(self, what: Callable[[float], None], seconds: float, name: str) -> None:
        """Waits, and checks periodically that QEMU is running."""
        end = time.monotonic() + seconds * self._pump.patience
        while True:
            try:
                return what(3)
            except TimedOut:
                if not self.running():
                    raise TestbedError(f"QEMU ended before level 2 gave a {name}:\n{self.output()}") from None
                if time.monotonic() > end:
                    raise

    def wait_booted(self, seconds: float = 90) -> None:
        self._wait(self.shell.wait_ready, seconds, "shell")

    def reboot(self) -> None:
        """Has the guest's kernel reboot, and waits until it has booted again."""
        self.qmp.discard_events()
        self.shell.start("reboot -f")
        self.qmp.wait_event("RESET", 30, guest=True)
        self.wait_booted()

    def connect(self) -> None:
        self._wait(self.qmp.connect, 20, "QMP greeting")
        self.wait_booted()

    def run(self, code: str, timeout: float = 60) -> str:
        return self.shell.run(code, timeout)

    def level1_run(self, code: str, timeout: float = 20) -> str:
        """Runs a command in level 1, for what concerns this guest's QEMU."""
        return self._level1.shell.run(code, timeout)

    def sleep(self, seconds: float) -> None:
        self._pump.sleep(seconds)

    def set_trace(self, events: Sequence[str], enable: bool) -> None:
        for event in events:
            self.qmp.command("trace-event-set-state", {"name": event, "enable": enable, "ignore-unavailable": True})

    def trace_size(self) -> int:
        return counters.parse(self._level1.shell.run(f"counters now {self.config.trace_file}"))["log"]

    def trace_lines(self, pattern: str, start: int = 0) -> list[str]:
        """The lines of QEMU's trace, from a byte of it on, that match a pattern of grep -E."""
        return self._level1.shell.attempt(f"tail -c +{start + 1} {self.config.trace_file} | grep -E '{pattern}'").text.splitlines()

    @contextmanager
    def measure(self) -> Iterator[Measurement]:
        """Counts what happens in the `with` block."""
        shell, log = self._level1.shell, self.config.trace_file
        measurement = Measurement()
        shell.run("counters watch")
        before, begun = counters.parse(shell.run(f"counters now {log}")), time.monotonic()
        yield measurement
        seconds = time.monotonic() - begun
        after = counters.parse(shell.run(f"counters now {log}"))
        shell.run("counters ignore")
        trace = counters.parse(shell.run(f"counters trace {log} {before['log']}", timeout=120))
        after.subtract(before)
        measurement.counts = counters.Counts(trace, after, seconds)

    def stop(self) -> None:
        """Kills QEMU and waits until it has ended."""
        self._pump.alarms.remove(self._trouble)
        # A zombie may still have threads that hold files.
        self._level1.shell.run(f"""kill -9 {self.pid} 2>/dev/null;
            for i in $(seq 200); do
                set -- /proc/{self.pid}/task/*; [ $# = 1 ] && ! [ -e /proc/{self.pid}/exe ] && exit 0; sleep 0.1;
            done; exit 1""", timeout=40)


class Level1:
    """The KVM host, booted once; guests run in it one after the other."""

    def __init__(self, images: Images, work: Path, logs: Path, say: Callable[[str], None],
                 emulator: Path = STOCK_EMULATOR, hardware: Hardware = Hardware()) -> None:
        self._logs = logs
        self._emulator = emulator
        self._images = images
        self.say = say
        self._gdb = logs / "gdb" if images.gdbserver else None
        self._properties: dict[str, frozenset[str]] = {}
        disks = {name: work / f"{name}.img" for name in DISKS}
        for path in disks.values():
            make_disk(path, DISK_MIB)
        iort = self._iort(images, work, logs, disks, say)
        initrd = work / "l1.cpio"
        tables = {"iort": iort} | ({"ssdt": cmdqv_hw.ssdt(smmu_identifier(iort))} if hardware.cmdqv else {})
        initrd.write_bytes(acpi_override(tables) + images.level1())
        say("level 1: booting the KVM host under emulation")
        self.level0 = Level0(emulator, logs, images.image, initrd, disks=disks, gdb=self._gdb, hardware=hardware)
        self.pump = self.level0.pump
        self.shell = Shell(self.pump, self.level0.streams["l1-shell"])
        self.log = KernelLog(self.shell)
        try:
            self.shell.wait_ready(120)
            initrd.unlink()
            if "override [IORT" not in self.shell.run("dmesg | grep -i 'Table Upgrade'; true"):
                raise TestbedError("level 1 did not take the IORT with CANWBS")
            if hardware.cmdqv and not self.level0.cmdqv.owner().queues_enabled:
                raise TestbedError("level 1 does not use the CMDQV hardware")
            for address in ASSIGNABLE.values():
                self.shell.run(f"rebind {address} vfio-pci")
        except BaseException:
            self.level0.close()
            raise

    def _iort(self, images: Images, work: Path, logs: Path, disks: dict[str, Path], say: Callable[[str], None]) -> bytes:
        """Level 1's IORT, corrected. It is the emulated machine's alone, so it is read once for each such machine."""
        version = subprocess.run([self._emulator, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        identity = hashlib.sha256(repr((version, _MACHINE, _LINES, list(disks), images.image.parent.name,
                                        FIRMWARE.stat().st_size)).encode()).hexdigest()[:12]
        cached = images.cache / f"iort-{identity}"
        if not cached.exists():
            say("level 1: reading its IORT (once)")
            initrd = work / "iort.cpio"
            initrd.write_bytes(images.level1_without_guests())
            own_logs = logs / cached.name
            own_logs.mkdir()
            level0 = Level0(self._emulator, own_logs, images.image, initrd, memory="1G", disks=disks)
            try:
                shell = Shell(level0.pump, level0.streams["l1-shell"])
                shell.wait_ready(120)
                text = shell.run("od -An -v -t x1 /sys/firmware/acpi/tables/IORT")
            finally:
                level0.close()
            images.cache.mkdir(parents=True, exist_ok=True)
            new = cached.with_name(f"{cached.name}.{os.getpid()}")
            new.write_bytes(bytes.fromhex("".join(text.split())))
            os.replace(new, cached)
        return with_canwbs(cached.read_bytes())

    def properties(self, qemu: str) -> frozenset[str]:
        """The properties of arm-smmuv3 in a QEMU, by its short name."""
        if qemu not in self._properties:
            self._properties[qemu] = properties_in(self.shell.run(f"/e2e/qemu-{qemu} {' '.join(PROPERTIES_HELP)}", timeout=60))
        return self._properties[qemu]

    @contextmanager
    def guest(self, config: GuestConfig) -> Iterator[Guest]:
        """A booted guest; when the block raises, its output and trace are written to the logs."""
        guest = Guest(self, config)
        try:
            with hold.at_end("level 2", {"1": self.shell, "2": guest.shell}, guest.qmp):
                guest.connect()
                yield guest
        except Exception:
            self.keep_traces(config)
            raise
        finally:
            guest.stop()

    def debugger(self, config: GuestConfig) -> list[str]:
        """The command that runs level 2's QEMU under gdbserver, if that is wanted; says how to connect to it."""
        if not self._gdb or config.slot != SLOTS[0]:
            return []
        self.say(f"level 2's QEMU waits for gdb:\n  gdb-multiarch -ex 'set sysroot' -ex 'handle SIGUSR1 nostop noprint' "
                  f"-ex 'target remote {self._gdb}' {self._images.qemus[config.qemu]}")
        return ["gdbserver", _GDB_CONSOLE]

    def keep_traces(self, config: GuestConfig) -> None:
        name = config.name
        try:
            for file, command in ((f"{name}.qemu-output.log", f"tail -n 50 {config.output_file}"),
                                  (f"{name}.qemu-trace.log", f"tail -n 2000 {config.trace_file}"),
                                  (f"{name}.l1-dmesg.log", "dmesg")):
                (self._logs / file).write_text(self.shell.attempt(command).text + "\n")
        except TestbedError as error:
            (self._logs / f"{name}.qemu-output.log").write_text(f"level 1 does not answer: {error}\n")

    def use_from_level1(self, name: str) -> None:
        """Binds a disk to its driver, uses it here, and binds it to vfio-pci again: it must work."""
        address = ASSIGNABLE[name]
        self.shell.run(f"rebind {address} {_DRIVERS[name]} && disk=$(disk {name}) && "
                       "directio read $disk 0 1048576 4 | wc -c | grep -qx 4194304", timeout=60)
        self.shell.run(f"rebind {address} vfio-pci")

    def close(self) -> None:
        self.level0.close()
