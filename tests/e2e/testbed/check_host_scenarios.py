# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""scripts/check-host in level 1, a host on which guests run: what it says there must be true, and change with what is taken away."""
from __future__ import annotations

import base64
import json
import re
import shlex
from dataclasses import dataclass
from functools import partial

from .checks import expect
from .iort import without_canwbs
from .levels import ASSIGNABLE, Level1
from .registry import Bed, register
from .scenarios import Bench
from .userspace import QEMU_UID, QEMU_USER

scenario = partial(register, Bed.LIBVIRT, libvirt=True)
more_with_cmdqv = partial(register, Bed.CMDQV, libvirt=True, on_request=True)

DEVICE = ASSIGNABLE["disk0"]
NESTING, REGISTERS, CMDQV, COHERENCE = (f"{DEVICE} {what}" for what in ("nested translation", "ID registers", "CMDQV", "FWB or CANWBS"))
OPTION = "CONFIG_ARM_SMMU_V3_IOMMUFD"
# What this SMMU gives guests, by the properties of arm-smmuv3.
SHOWN = "oas 44, ssidsize 0, ats off, ril on"
SMMU_BASE = 0x9050000  # of the machine "virt"
_IORT = "/sys/firmware/acpi/tables/IORT"


@dataclass(frozen=True)
class Answer:
    """What check-host has printed."""

    status: int  # of the process
    findings: dict[str, tuple[str, str]]  # by the name of the check: status, text

    def changed(self, other: Answer) -> dict[str, str]:
        """The checks whose status is another in `other`; "" is no such check."""
        names = self.findings | other.findings
        pairs = {name: (self.findings.get(name, ("", ""))[0], other.findings.get(name, ("", ""))[0]) for name in names}
        return {name: new for name, (old, new) in pairs.items() if old != new}


def parse(status: int, text: str) -> Answer:
    """The findings of check-host's standard output. A check's name has 32 columns, after the nine of the status."""
    lines = re.findall(r"^(ok|missing|unknown|note) +(.{32}) (.*)$", text, re.MULTILINE)
    return Answer(status, {name.rstrip(): (state, rest) for state, name, rest in lines})


def check_once(level1: Level1) -> Answer:
    """What the command itself says, with --ask."""
    # The files' modes are the kernel's: scenarios with libvirt change one.
    level1.shell.run("ln -sf config /boot/config-$(uname -r); chmod 600 /dev/kvm")
    status, text = level1.shell.attempt(f"/e2e/check-host --ask {DEVICE}", timeout=90)
    answer = parse(status, text)
    expect(bool(answer.findings), f"check-host ended with {status}:\n{text}")
    return answer


def smmu_registers(bench: Bench) -> list[int]:
    """IDR0 to IDR5 of level 1's SMMU, as level 0 has them."""
    def read(address: int) -> int:
        text: str = bench.level1.level0.qmp.command("human-monitor-command", {"command-line": f"xp /1wx {address:#x}"})
        return int(text.split(":")[1], 16)

    return [read(SMMU_BASE + 4 * number) for number in range(6)]


def expect_true(bench: Bench, answer: Answer) -> None:
    """What check-host has read through the kernel must be what level 0's SMMU has."""
    text = answer.findings[REGISTERS][1]
    words = [int(word, 16) for word in re.findall(r"0x[0-9a-f]+", text)[:6]]
    expect(words == smmu_registers(bench), f"check-host shows '{text}', level 0 has {list(map(hex, smmu_registers(bench)))}")
    expect(text.startswith(SHOWN), f"check-host shows '{text}', not '{SHOWN}'")
    # IDR0.S1P, IDR0.S2P
    expect(words[0] & 3 == 3 and answer.findings[NESTING] == ("ok", "the SMMU has stage 1 and stage 2"),
           f"IDR0 is {words[0]:#x}, and check-host says {answer.findings[NESTING]}")


@dataclass(frozen=True)
class Loss:
    """Something that a host may lack: how level 1 loses it and gets it back, and what check-host must say differently."""

    name: str
    changed: dict[str, str]
    take: str = ":"
    give_back: str = ":"
    options: tuple[str, ...] = ()
    user: int | None = None
    memlock: int | None = None


_CDEV = f"/dev/vfio/devices/$(ls /sys/bus/pci/devices/{DEVICE}/vfio-dev)"
_NOT_ASKED = {NESTING: "unknown", REGISTERS: "", CMDQV: ""}
_NOT_OPENED = {"/dev/kvm": "missing", "/dev/iommu": "missing", f"{DEVICE} cdev": "missing"}
LOSSES = (
    Loss("the device on its own driver", _NOT_ASKED | {f"{DEVICE} driver": "missing", f"{DEVICE} cdev": ""},
         f"rebind {DEVICE} nvme", f"rebind {DEVICE} vfio-pci"),
    Loss("no /dev/iommu", _NOT_ASKED | {"/dev/iommu": "missing"}, "mv /dev/iommu /dev/away", "mv /dev/away /dev/iommu"),
    Loss("a device in use", _NOT_ASKED, f"sleep 1000 <>{_CDEV} & echo $! >/tmp/user", "kill $(cat /tmp/user)"),
    Loss("a user without rights", _NOT_OPENED | {"locked memory": "note"}, options=("--user", QEMU_USER)),
    Loss("an ordinary user with little locked memory",
         _NOT_ASKED | _NOT_OPENED | {"locked memory": "missing", "IORT": "unknown", COHERENCE: "unknown"}, user=QEMU_UID, memlock=64 << 10),
    # The kernel has the table still: this is about what check-host reads.
    Loss("an IORT without CANWBS", {COHERENCE: "missing"},
         f"mount --bind /tmp/iort {_IORT}", f"umount {_IORT}"),
    Loss(f"a kernel without {OPTION}", {OPTION: "missing"},
         f"sed -i.away s/^{OPTION}=y/{OPTION}=n/ /boot/config", "mv /boot/config.away /boot/config"),
    # The last: everything is as before.
    Loss("nothing", {}),
)


@scenario("check-host", "scripts/check-host where guests run: what it says is true, and changes with what is taken away")
def check_host(bench: Bench) -> None:
    everything = check_once(bench.level1)
    lacking = {name: found for name, found in everything.findings.items() if found[0] not in ("ok", "note")}
    expect(everything.status == 0 and not lacking, f"check-host ended with {everything.status} and misses {lacking}")
    expect_true(bench, everything)
    expect(everything.findings[CMDQV][0] == "note", f"check-host says of CMDQV: {everything.findings[CMDQV]}")

    shell = bench.level1.shell
    table = bytes.fromhex("".join(shell.run(f"od -An -v -t x1 {_IORT}").split()))
    shell.run(f"echo {base64.b64encode(without_canwbs(table)).decode()} | base64 -d >/tmp/iort")
    turns = json.dumps([(loss.take, loss.give_back, ("--ask", DEVICE, *loss.options), loss.user, loss.memlock) for loss in LOSSES])
    for loss, (status, text) in zip(LOSSES, json.loads(shell.run(f"/e2e/check-host-runs {shlex.quote(turns)}", 120))):
        answer = parse(status, text)
        changed = everything.changed(answer)
        expect(changed == loss.changed and status == int(bool(loss.changed)),
               f"{loss.name}: check-host ended with {status}, and changed are {changed}, not {loss.changed}:\n{text}")


@more_with_cmdqv("check-host-cmdqv", "check-host --ask on a host with CMDQV: version and queues are those of the hardware")
def check_host_cmdqv(bench: Bench) -> None:
    answer = check_once(bench.level1)
    expect_true(bench, answer)
    # Each of level 1's four VINTFs has two of the eight queues.
    expect(answer.findings[CMDQV] == ("ok", "version 1, 2 VCMDQs for each guest"), f"check-host says of CMDQV: {answer.findings[CMDQV]}")
