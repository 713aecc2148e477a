# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Whether a user may use device files and lock a guest's memory."""
from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field

from .findings import Finding, missing, note, ok, unknown
from .host import Host, Unreadable

_CAP_IPC_LOCK = 14
_SERVICES = {
    "libvirtd": "libvirt raises it for each domain with an assigned device",
    "virtqemud": "libvirt raises it for each domain with an assigned device",
    "systemd": "set LimitMEMLOCK= in the unit that starts QEMU",
}
_UDEV = "add a udev rule, e.g. {rule}; with libvirt nothing, unless QEMU is in <qemu:commandline>"


@dataclass(frozen=True)
class User:
    """The user who runs QEMU. `is_self` is whether the kernel can be asked instead of the file's mode."""

    uid: int
    groups: frozenset[int] = field(default_factory=frozenset)
    is_self: bool = False

    def may_use(self, host: Host, name: str) -> bool:
        if self.uid == 0:
            return True
        if self.is_self and host.is_this_machine:
            return os.access(host.path(name), os.R_OK | os.W_OK)  # considers access control lists, too
        status = host.status(name)
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.groups else 0
        return stat.S_IMODE(status.st_mode) >> shift & 0o6 == 0o6


def current_user() -> User:
    return User(os.geteuid(), frozenset([os.getegid(), *os.getgroups()]), is_self=True)


def named_user(host: Host, name: str) -> User | None:
    """Returns a user of the host's /etc/passwd, or one that is a number."""
    entries = [line.split(":") for line in host.text_or("/etc/passwd", "").splitlines()]
    for entry in entries:
        if len(entry) >= 4 and name in (entry[0], entry[2]) and entry[2].isdigit() and entry[3].isdigit():
            groups = {int(entry[3])}
            for group in (line.split(":") for line in host.text_or("/etc/group", "").splitlines()):
                if len(group) >= 4 and group[2].isdigit() and entry[0] in group[3].split(","):
                    groups.add(int(group[2]))
            return User(int(entry[2]), frozenset(groups))
    return User(int(name)) if re.fullmatch(r"\d{1,10}", name) else None


def device_file(host: Host, user: User, name: str, absent_fix: str, rule: str) -> Finding:
    """Checks that a device file is there and that the user may use it."""
    try:
        host.status(name)
        usable = user.may_use(host, name)
    except Unreadable as error:
        if error.absent:
            return missing(name, "does not exist", absent_fix)
        return unknown(name, str(error), "run check-host as root")
    if usable:
        return ok(name, "can be opened by the user")
    return missing(name, "cannot be opened by the user", _UDEV.format(rule=rule))


def device_files(host: Host, user: User) -> list[Finding]:
    return [
        device_file(host, user, "/dev/kvm", "enable KVM: the kernel must be entered at EL2, see `dmesg | grep -i kvm`",
                    'KERNEL=="kvm", GROUP="kvm", MODE="0660"'),
        device_file(host, user, "/dev/iommu", "modprobe iommufd", 'KERNEL=="iommu", GROUP="kvm", MODE="0660"'),
    ]  # fmt: skip


def memory_limits(host: Host, user: User, mebibytes: int) -> list[Finding]:
    """Checks RLIMIT_MEMLOCK of this process, and shows those of the services that start guests."""
    check = "locked memory"
    need = f"a guest of {mebibytes} MiB"
    limit = _limit(host, "self")
    if limit is None:
        found = [unknown(check, "the limit is not known", "run this where /proc is mounted")]
    elif _can_lock(host):
        found = [ok(check, "root has CAP_IPC_LOCK: no limit") if user.uid == 0 else
                 note(check, "not known: this process has CAP_IPC_LOCK, and the user has not",
                      "run check-host as the user, too; with libvirt that is not needed")]  # fmt: skip
    elif limit >= mebibytes << 20:
        found = [ok(check, f"{_size(limit)}, enough for {need}")]
    else:
        found = [missing(check, f"{_size(limit)}, too little for {need}, whose memory is pinned",
                         "raise memlock in /etc/security/limits.conf, or `ulimit -l` as root; "
                         "in a libvirt domain with <qemu:commandline>: <memtune><hard_limit>")]  # fmt: skip
    return found + _services(host, mebibytes)


def _services(host: Host, mebibytes: int) -> list[Finding]:
    """Returns one note for each kind of service: the smallest limit of those that run."""
    smallest: dict[str, float] = {}
    for process in host.names_or_none("/proc"):
        name = host.text_or(f"/proc/{process}/comm", "") if process.isdigit() else ""
        limit = _limit(host, process) if name in _SERVICES else None
        if limit is not None:
            smallest[name] = min(limit, smallest.get(name, limit))
    return [
        ok(f"locked memory of {name}", f"{_size(limit)}") if limit >= mebibytes << 20
        else note(f"locked memory of {name}", f"{_size(limit)}: {_SERVICES[name]}")
        for name, limit in sorted(smallest.items())
    ]  # fmt: skip


def _limit(host: Host, process: str) -> float | None:
    """Returns the soft limit in bytes."""
    found = re.search(r"^Max locked memory +(unlimited|\d+) ", host.text_or(f"/proc/{process}/limits", ""), re.M)
    if not found:
        return None
    return float("inf") if found[1] == "unlimited" else float(found[1])


def _can_lock(host: Host) -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]{1,16})$", host.text_or("/proc/self/status", ""), re.M)
    return found is not None and bool(int(found[1], 16) >> _CAP_IPC_LOCK & 1)


def _size(limit: float) -> str:
    if limit == float("inf"):
        return "unlimited"
    return f"{limit / (1 << 20):.0f} MiB" if limit >= 1 << 20 else f"{limit / (1 << 10):.0f} KiB"
