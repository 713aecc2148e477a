# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The command line of check-host."""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from . import access, devices, kernel
from .findings import Finding, is_complete, missing, report, terminal
from .host import Host

_ALL = "all"
_DESCRIPTION = """\
Looks for everything that a guest with -device arm-smmuv3,accel=on needs on this host, and says how to get what is missing.
Without --ask it changes nothing. As an ordinary user it cannot read everything; run it as root for a complete result, with --user for
the user who runs QEMU.

Exit status: 0 everything that is needed is there, 1 something is missing or could not be looked at, 2 usage error.
"""


def _error(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def _address(text: str) -> str:
    found = devices.normalized(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no PCI address such as 0000:01:00.0")
    return found


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 40:
        raise argparse.ArgumentTypeError(f"{text} is no size in MiB")
    return int(text)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check-host", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="ADDRESS", type=_address, action="append", default=[],
                        help="a PCI device to be assigned; without it, all that are bound to vfio-pci")  # fmt: skip
    parser.add_argument("--ask", metavar=f"ADDRESS|{_ALL}", action="append", default=[],
                        type=lambda text: text if text == _ALL else _address(text),
                        help="ask the SMMU of this device for its features (IOMMU_GET_HW_INFO): the device is opened, which resets "
                             "it, and bound for a moment; not if another process uses it, and only if it is on vfio-pci")  # fmt: skip
    parser.add_argument("--user", metavar="NAME", help="the user who runs QEMU; without it, you")
    parser.add_argument("--memory", metavar="MIB", type=_mebibytes, default=4096, help="the guest's memory (4096)")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write the result without serial numbers, addresses and names, too")
    parser.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help="where /sys, /proc, /dev, /etc and /boot are (/)")
    return parser.parse_args(words)


def check(host: Host, user: access.User, options: argparse.Namespace) -> list[Finding]:
    findings = [kernel.architecture(host)]
    if not is_complete(findings) and kernel.machine(host):
        return findings  # another architecture: nothing else would be of use
    config, configured = kernel.read_config(host)
    findings += [kernel.version(host, config), configured]
    if config:
        findings += kernel.options(config)
    table, described = kernel.read_iort(host)
    findings += [described, kernel.smmus(host), kernel.vfio_pci(host)]
    findings += access.device_files(host, user)
    findings += access.memory_limits(host, user, options.memory)
    # in this order, and each once
    addresses = dict.fromkeys(options.device + [word for word in options.ask if word != _ALL]) or devices.bound_to_vfio(host)
    if not addresses:
        findings.append(missing("devices", "none is bound to vfio-pci", "name the device to be assigned: --device ADDRESS"))
    for address in addresses:
        may_ask = _ALL in options.ask or address in options.ask
        findings += devices.Device(host, address).check(user, table, may_ask)
    return findings


def main(words: list[str]) -> int:
    options = _parse(words)
    if not os.path.isdir(options.root):
        _error(f"--root {options.root}: there is no such directory")
    host = Host(options.root)
    user = access.current_user() if options.user is None else access.named_user(host, options.user)
    if user is None:
        _error(f"--user {options.user}: there is no such user")
    findings = check(host, user, options)
    print(terminal(findings))
    if options.report is not None:
        try:
            options.report.write_text(report(findings))
        except OSError as error:
            _error(f"--report {options.report}: {error.strerror}")
    return 0 if is_complete(findings) else 1
