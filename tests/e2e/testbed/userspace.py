# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""libvirt and Python in level 1: Debian's files, which scripts/libvirt has downloaded, and their configuration.

Level 1 has one C library then, for libvirt and for the QEMUs under test; /bin, /sbin and /lib are links into /usr.
"""
from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
# libvirt's choice for <os firmware='efi'>: of the build environment, named by that description of it.
_FIRMWARE = Path("/usr/share/qemu/firmware/60-edk2-aarch64.json")
_FLASH = [Path("/usr/share/AAVMF", name) for name in ("AAVMF_CODE.no-secboot.fd", "AAVMF_VARS.fd")]
LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib")}

# The user who runs QEMU, as in Debian.
QEMU_USER, QEMU_UID = "libvirt-qemu", 64055
_TEXTS = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\n{QEMU_USER}:x:{QEMU_UID}:{QEMU_UID}::/var/lib/libvirt:/bin/sh\n",
    "etc/group": f"root:x:0:\n{QEMU_USER}:x:{QEMU_UID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\n",
    "etc/machine-id": "e2e0e2e0e2e0e2e0e2e0e2e0e2e0e2e0\n",
    # The kernel has neither cgroups nor namespaces nor security modules; rootfs has no extended attributes, in which libvirt
    # remembers owners; without virtlogd QEMU's output goes to a file. Nothing else differs from the defaults.
    "etc/libvirt/qemu.conf": 'security_driver = "none"\ncgroup_controllers = []\nnamespaces = []\nremember_owner = 0\n'
                             'stdio_handler = "file"\n',
    # No polkit.
    "etc/libvirt/libvirtd.conf": 'auth_unix_rw = "none"\nlog_outputs = "2:file:/var/log/libvirtd.log"\n'
                                 'log_filters = "1:qemu.qemu_monitor"\n',
}


def files(tree: Path) -> dict[str, Path | bytes | str]:
    """By its name: a file to copy, the data of one, or the target of a symbolic link. `tree`: that of scripts/libvirt."""
    found: dict[str, Path | bytes | str] = {}
    for path in sorted(tree.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(tree))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(tree))] = path
    found |= {name: text.encode() for name, text in _TEXTS.items()}
    found[str(_FIRMWARE)[1:]] = _FIRMWARE
    # Without the zeros at the end, 124 of 128 MiB; tests/e2e/guest/libvirt makes them as long as they were.
    found |= {str(path)[1:]: path.read_bytes().rstrip(b"\0") for path in _FLASH}
    found["e2e/check-host-runs"] = PROJECT / "tests" / "e2e" / "guest" / "check-host-runs"
    for path in (PROJECT / "scripts" / "check-host", *sorted((PROJECT / "scripts" / "hostcheck").glob("*.py"))):
        found[str(Path("e2e", path.relative_to(PROJECT / "scripts")))] = path
    return found


def libraries(tree: Path) -> set[str]:
    """The names of the shared libraries in it."""
    return {path.name for path in (tree / "usr" / "lib").rglob("*.so*")}
