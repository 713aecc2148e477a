# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Whether a QEMU could run in the seccomp sandbox that libvirt gives it.

Neither the QEMUs under test nor level 1's kernel have seccomp. So the kernel records the system calls that the sandbox would refuse
(-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny), and QEMU must have made none of them.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from .checks import expect
from .consoles import Shell

# Those that arm64 has, by their numbers.
REFUSED = {
    39: "umount2", 40: "mount", 97: "unshare", 104: "kexec_load", 116: "syslog", 118: "sched_setparam", 119: "sched_setscheduler",
    122: "sched_setaffinity", 140: "setpriority", 142: "reboot", 143: "setregid", 144: "setgid", 145: "setreuid", 146: "setuid",
    147: "setresuid", 149: "setresgid", 151: "setfsuid", 152: "setfsgid", 154: "setpgid", 157: "setsid", 221: "execve", 224: "swapon",
    225: "swapoff", 268: "setns", 281: "execveat",
}
# Making a process is refused, making a thread is not. glibc does both with clone3, whose flags only the kernel's function shows.
_CLONE_THREAD = 0x10000
# QEMU's threads, as libvirt has QEMU name them.
_QEMU = re.compile(r"qemu-system-|CPU \d+/|IO |worker|call_rcu")
_LINE = re.compile(r"^\s*(.+)-(\d+)\s+\[\d+\] .*: (?:sys_enter: NR (\d+) |fork: .* flags=0x([0-9a-f]+))", re.MULTILINE)
_EXECVE = 221
_TRACING = "/sys/kernel/tracing"
_INSTANCE = f"{_TRACING}/instances/sandbox"


def parse(trace: str) -> tuple[list[str], int]:
    """The refused system calls of QEMU in a kernel's trace, as "THREAD: CALL", and how many threads QEMU has made.

    The trace shows the last name of a process, also where it was libvirt's and had not become QEMU yet.
    """
    calls = [(name, process, int(number or 0), int(flags or "0", 16)) for name, process, number, flags in _LINE.findall(trace)
             if _QEMU.match(name)]
    begun = {process: at for at, (_, process, number, _) in reversed(list(enumerate(calls))) if number == _EXECVE}
    made = [(name, number, flags) for at, (name, process, number, flags) in enumerate(calls) if at > begun.get(process, -1)]
    refused = [f"{name}: {REFUSED[number] if number else 'a new process'}" for name, number, flags in made
               if number or not flags & _CLONE_THREAD]
    return refused, len(made) - len(refused)


@contextmanager
def fits(shell: Shell) -> Iterator[None]:
    """For the `with` block, in which QEMU must start: the sandbox would have refused it nothing."""
    numbers = " || ".join(f"id == {number}" for number in REFUSED)
    shell.run(f"""mkdir {_INSTANCE} && echo 'p:sandbox/fork kernel_clone flags=+0(%x0):x64' >>{_TRACING}/kprobe_events &&
        cd {_INSTANCE}/events && echo '{numbers}' >raw_syscalls/sys_enter/filter &&
        echo 1 >raw_syscalls/sys_enter/enable && echo 1 >sandbox/fork/enable""")
    try:
        yield
        text = shell.run(f"cat {_INSTANCE}/trace", timeout=60)
    finally:
        shell.run(f"rmdir {_INSTANCE} && echo -:sandbox/fork >>{_TRACING}/kprobe_events")
    refused, threads = parse(text)
    expect(not refused, "libvirt's sandbox would refuse QEMU:\n" + "\n".join(refused[:20]))
    expect(threads > 0, f"level 1's kernel has recorded no thread of QEMU's:\n{text[-1000:]}")
