# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""libvirt's domains: docs/libvirt.md's own, cut out of the page and adapted to level 1; and what libvirt's log says of QEMU."""
from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from .consoles import TestbedError
from .levels import ASSIGNABLE
from .userspace import PROJECT

DOCUMENT = PROJECT / "docs" / "libvirt.md"
# A place for emulated devices that is not behind the SMMU.
ON_ROOT_BUS = {"type": "pci", "bus": "0x00", "slot": "0x1e", "function": "0x0"}
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
ElementTree.register_namespace("qemu", _QEMU)


def documented(page: str) -> Element:
    """The domain that a page shows; there must be one."""
    blocks = re.findall(r"^```xml\n(<domain\b.*?)^```$", page, re.MULTILINE | re.DOTALL)
    if len(blocks) != 1:
        raise TestbedError(f"the page shows {len(blocks)} domains, not one")
    try:
        return ElementTree.fromstring(blocks[0])
    except ElementTree.ParseError as error:
        raise TestbedError(f"the page's domain is no XML: {error}") from None


def documented_arguments(page: str) -> list[str]:
    """QEMU's arguments that a page gives a libvirt that does not know the device."""
    blocks = re.findall(r"^```xml\n(<qemu:commandline>.*?)^```$", page, re.MULTILINE | re.DOTALL)
    if len(blocks) != 1:
        raise TestbedError(f"the page shows <qemu:commandline> {len(blocks)} times, not once")
    element = ElementTree.fromstring(blocks[0].replace("<qemu:commandline>", f"<qemu:commandline xmlns:qemu='{_QEMU}'>"))
    return [word.get("value", "") for word in element]


def _part(domain: Element, path: str) -> Element:
    """The only element of this path."""
    found = domain.findall(path)
    if len(found) != 1:
        raise TestbedError(f"the domain has {len(found)} of {path}, not one")
    return found[0]


def _line(devices: Element, kind: str, path: str, **target: str) -> None:
    line = SubElement(devices, kind, type="dev")
    SubElement(line, "source", path=path)
    if target:
        SubElement(line, "target", target)


def adapted(page: str, name: str, *, disk: str = "disk0", properties: Sequence[str] = ()) -> Element:
    """The page's domain in level 1: smaller, with level 1's disk and a kernel of the testbed's, and lines to the testbed.

    All else is as the page has it. `properties`: of every arm-smmuv3, such as "msi=off".
    """
    domain = documented(page)
    _part(domain, "name").text = name
    memory = _part(domain, "memory")
    memory.set("unit", "MiB")
    memory.text = "512"
    _part(domain, "vcpu").text = "1"
    system = _part(domain, "os")
    for what, text in (("kernel", "/e2e/Image"), ("initrd", "/e2e/l2.cpio"),
                       ("cmdline", "console=ttyAMA0 rdinit=/init panic=-1 loglevel=4")):
        SubElement(system, what).text = text
    segment, bus, rest = ASSIGNABLE[disk].split(":")
    slot, function = rest.split(".")
    _part(domain, "devices/hostdev/source/address").attrib.update(
        domain=f"0x{segment}", bus=f"0x{bus}", slot=f"0x{slot}", function=f"0x{function}")
    devices = _part(domain, "devices")
    _line(devices, "serial", "/dev/hvc1")
    _line(devices, "console", "/dev/hvc3", type="virtio")
    return with_arguments(domain, [word for value in properties for word in ("-global", f"arm-smmuv3.{value}")])


def with_arguments(domain: Element, words: Sequence[str]) -> Element:
    """A copy with more arguments of QEMU."""
    changed = copy.deepcopy(domain)
    if words:
        command_line = SubElement(changed, f"{{{_QEMU}}}commandline")
        for word in words:
            SubElement(command_line, f"{{{_QEMU}}}arg", value=word)
    return changed


def with_driver(domain: Element, **attributes: str) -> Element:
    """A copy in which the SMMU's <driver> has more attributes."""
    changed = copy.deepcopy(domain)
    _part(changed, "devices/iommu/driver").attrib.update(attributes)
    return changed


def without_accel(domain: Element) -> Element:
    """A copy whose SMMU translates by itself."""
    changed = copy.deepcopy(domain)
    del _part(changed, "devices/iommu/driver").attrib["accel"]
    return changed


def without_hostdev(domain: Element) -> Element:
    changed = copy.deepcopy(domain)
    _part(changed, "devices").remove(_part(changed, "devices/hostdev"))
    return changed


def for_older_libvirt(domain: Element, page: str, disk: str = "disk0") -> Element:
    """A copy whose SMMU and disk are arguments of QEMU, as the page writes them, and not libvirt's."""
    changed = without_hostdev(domain)
    _part(changed, "devices").remove(_part(changed, "devices/iommu"))
    # Level 1's disk in place of the page's device.
    words = [re.sub(r'"host":"[^"]*"', f'"host":"{ASSIGNABLE[disk]}"', word) for word in documented_arguments(page)]
    # VFIO pins all of the memory, and libvirt does not know that it will.
    SubElement(SubElement(changed, "memtune"), "hard_limit", unit="MiB").text = "2048"
    return with_arguments(changed, words)


def without_iommufd(domain: Element) -> Element:
    """A copy whose <hostdev> uses the legacy interface of VFIO."""
    changed = copy.deepcopy(domain)
    hostdev = _part(changed, "devices/hostdev")
    hostdev.remove(_part(hostdev, "driver"))
    return changed


def with_serial_controller(domain: Element, address: Mapping[str, str]) -> Element:
    """A copy in which virtio-serial has an address of its own."""
    changed = copy.deepcopy(domain)
    controller = SubElement(_part(changed, "devices"), "controller", type="virtio-serial", index="0")
    SubElement(controller, "address", address)
    return changed


def hostdev(domain: Element) -> Element:
    return _part(domain, "devices/hostdev")


def text(element: Element) -> str:
    """XML in one line, as a shell of the testbed needs it."""
    return re.sub(r"\s*\n\s*", "", ElementTree.tostring(element, encoding="unicode"))


def replies(log: str, command: str) -> list[Any]:
    """What QEMU has replied to a QMP command of libvirt's: {"return": ...} or {"error": ...}, in order.

    `log`: lines of libvirt's log with the filter 1:qemu.qemu_monitor. A message that libvirt sends ends with its line.
    """
    sent: list[str] = []
    answers: dict[str, Any] = {}
    for line in log.splitlines():
        if found := re.search(r" msg=(\{.*\})", line):
            message = json.loads(found[1])
            if message.get("execute") == command:
                sent.append(message["id"])
        elif found := re.search(r" reply=(\{.*\})", line):
            reply = json.loads(found[1])
            answers[reply.pop("id", "")] = reply
    return [answers.get(identifier) for identifier in sent]


# Kinds of commands in the property `statistics`, and the name of one of that kind, as QEMU's trace has them.
_KINDS = {"cfgi-cd": "CFGI_CD", "tlbi": "TLBI_NH_VA", "atc-inv": "ATC_INV", "sync": "SYNC", "cfgi-ste": "CFGI_STE", "cfgi-range": "CFGI_ALL"}


def work_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Counter[str]:
    """The work between two readings of `statistics`, as counters.parse() gives it from a trace."""
    def grown(group: str, *names: str) -> int:
        return sum(after[group][name] - before[group][name] for name in names)

    result = Counter({f"command:{command}": grown("commands", kind) for kind, command in _KINDS.items()})
    result["doorbells"] = grown("queue", "doorbells")
    result["ioctls"] = grown("host", "calls") + grown("attach", "invalidations")
    result["entries"] = grown("host", "commands")
    result["host_errors"] = grown("host", "eio", "enomem", "etimedout", "eintr", "other")
    result["command_errors"] = grown("queue", "errors-ill", "errors-abt", "errors-atc-inv-sync")
    return +result
