# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""libvirt's daemon in level 1 drives the QEMU under test, with the domain of docs/libvirt.md."""
from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from xml.etree.ElementTree import Element

from . import domains
from .checks import MIB, copy_and_compare, expect
from .cmdqv_scenarios import expect_released as expect_cmdqv_released, vcmdq_io, witness
from .consoles import PATIENCE
from .domains import DOCUMENT
from .hotplug_scenarios import reads_that_fail
from .libvirtd import EMULATOR, Daemon, Domain, driver_of, expect_released, used_by_level1
from .registry import Bed, Skipped, register
from .scenarios import Bench, check_counts, small_reads

scenario = partial(register, Bed.LIBVIRT, libvirt=True)
# Each boots another guest, which costs a run of all scenarios half a minute.
more = partial(register, Bed.LIBVIRT, libvirt=True, on_request=True)
more_with_cmdqv = partial(register, Bed.CMDQV, libvirt=True, on_request=True)

# A flag for each property by which libvirt detects the device.
FLAGS = ("arm-smmuv3", "arm-smmuv3.smmu_per_bus", "arm-smmuv3.accel", "arm-smmuv3.cmdqv", "iommufd", "vfio-pci")
# Level 1's SMMU, by the attributes of <driver>: what a domain must set that has no device at its start.
HOST = {"ats": "off", "ril": "on", "ssidsize": "0", "oas": "44"}
# The guest's driver reports a read that was under way when the disk went.
DISK_WENT = re.compile(r"I/O error|nvme nvme\d+: ")
# The attributes that KubeVirt writes, for any host. libvirt's name is ssidsize.
KUBEVIRT = {"ats": "on", "ril": "off", "ssidSize": "20", "oas": "48"}
KUBEVIRT_MEANT = {name.lower(): value for name, value in KUBEVIRT.items()}
# The device's message about the first of them that level 1's SMMU does not support.
LESS = "property 'ats' of .* is on, but the host's SMMU only has ats=off"
DATA_MIB = 2  # of data each time: the other beds have the larger amounts
SECONDS_TO_SHUT_OFF = 5  # libvirt waits twice as long for a QEMU whose process is not reaped


def page_domain(bench: Bench, name: str) -> Element:
    return domains.adapted(DOCUMENT.read_text(), name, properties=bench.defaults)


def counted_io(bench: Bench, guest: Domain) -> None:
    """Checksummed I/O; level 1's kernel must have served as many invalidation ioctls as the device says it has made."""
    with guest.measure() as measurement:
        copy_and_compare(bench, guest, mib=DATA_MIB)
        small_reads(guest, 64)
    if bench.qemu == "c":  # it has no statistics
        expect(measurement.result.kernel_ioctls > 0, "level 1's kernel saw no invalidation: nothing is nested")
    else:
        check_counts(bench, measurement.result)


def expect_detected(daemon: Daemon) -> None:
    """libvirt must have detected all that it needs of this QEMU."""
    # This makes libvirt ask the QEMU.
    capabilities = daemon.virsh(f"domcapabilities --arch aarch64 --machine virt --virttype kvm --emulatorbin {EMULATOR}", timeout=120)
    flags = set(re.findall(r"<flag name='([^']*)'/>", daemon.shell.run(
        f"cat $(grep -l '<emulator>{EMULATOR}</emulator>' /var/cache/libvirt/qemu/capabilities/*.xml)")))
    missing = [name for name in FLAGS if name not in flags]
    expect(not missing, f"libvirt has not detected {missing}; it has detected {sorted(flags)}")
    values = re.search(r"<enum name='iommufd'>\s*(.*?)\s*</enum>", capabilities, re.DOTALL)
    expect(values is not None and "<value>yes</value>" in values[1], f"domcapabilities shows no iommufd:\n{capabilities[-1500:]}")


@scenario("libvirt", "libvirt runs the domain of docs/libvirt.md, unprivileged and sandboxed: I/O, detach, attach, save refused, restart, poweroff")
def libvirt(bench: Bench) -> None:
    daemon = Daemon(bench)
    with used_by_level1(bench, "disk0"), daemon.running():
        expect_detected(daemon)
        with daemon.guest(page_domain(bench, "libvirt"), harmless=DISK_WENT) as guest:
            guest.expect_unprivileged()
            # The rest of the scenario runs in the sandbox, in which a forbidden system call ends QEMU.
            guest.expect_sandboxed()
            expect(driver_of(bench, "disk0") == "vfio-pci", "managed='yes' has not bound the disk to vfio-pci")
            counted_io(bench, guest)
            detach_and_attach(bench, guest)
            with reads_that_fail(guest, "disk0"):
                detach_and_attach(bench, guest)
            refuse_save(daemon, guest)
            daemon.stop()
            daemon.start()
            expect(guest.state().startswith("running"), f"after libvirtd's restart the domain is {guest.state()}")
            copy_and_compare(bench, guest, mib=DATA_MIB)
            guest.expect_clean(DISK_WENT)
            written = bench.host_sha256("disk0", 0, DATA_MIB * MIB)
            seconds = guest.power_off()
            expect(seconds < SECONDS_TO_SHUT_OFF * PATIENCE, f"the domain was shut off {seconds:.1f} s after the guest's poweroff")
        expect_released(bench)
        expect(driver_of(bench, "disk0") == "nvme", f"after the guest's end the disk is on {driver_of(bench, 'disk0')}, not on nvme")
        read = daemon.shell.run(f"directio read $(disk disk0) 0 {MIB} {DATA_MIB} | sha256sum", timeout=60).split()[0]
        expect(read == written, f"level 1 reads {read}, the guest had written {written}")


def detach_and_attach(bench: Bench, guest: Domain) -> None:
    daemon = guest.daemon
    start = daemon.log_size()
    guest.detach()
    expect(driver_of(bench, "disk0") == "nvme", "managed='yes' has not given the disk back")
    # The device has let go of the iommufd, or QEMU would refuse this.
    replies = daemon.replies("object-del", start)
    expect({"return": {}} in replies, f"libvirt's object-del of the iommufd was answered by {replies}")
    guest.attach()
    copy_and_compare(bench, guest, mib=DATA_MIB)


def refuse_save(daemon: Daemon, guest: Domain) -> None:
    # What is missing is the disk's own migration: no device that QEMU emulates has that.
    error = daemon.refused(f"save {guest.name} /tmp/saved")
    expected = "cannot migrate domain" in error and "hostdev0: VFIO migration" in error and "not supported in kernel" in error
    expect(expected and "arm-smmuv3" not in error, f"virsh save was refused with:\n{error}")
    expect(guest.state().startswith("running"), f"after the refused save the domain is {guest.state()}")


@scenario("libvirt-refusals", "domains that cannot be: virsh shows what QEMU says of each")
def refusals(bench: Bench) -> None:
    page = page_domain(bench, "refused")
    with Daemon(bench).running() as daemon:
        for what, domain, patterns in (
            ("cmdqv='on' on a host without", domains.with_driver(page, cmdqv="on"), {"rust": "cmdqv", "c": "CMDQV"}),
            ("a hostdev without iommufd", domains.without_iommufd(page), {"rust": "iommufd", "c": "iommufd"}),
            ("oas='48' on a host with 44 bits", domains.with_driver(page, oas="48"), {"rust": "oas.*48.*44", "c": "44-bit"}),
            # libvirt puts virtio-serial on the free port behind the SMMU, and before it on the command line.
            ("an emulated endpoint behind cmdqv='on'", domains.without_hostdev(domains.with_driver(page, **HOST, cmdqv="on")),
             {"rust": "emulated endpoint .* cannot be behind", "c": "code should not be reached"}),
        ):
            error = daemon.refusal_of(domain)
            expect(re.search(patterns[bench.qemu], error) is not None, f"{what} was refused with:\n{error}")
        expect_released(bench)


@more("libvirt-hotplug", "a domain that gets its disk later, with all four properties and emulated devices on the root bus")
def hotplug(bench: Bench) -> None:
    page = page_domain(bench, "hotplug")
    domain = domains.with_serial_controller(domains.with_driver(page, **HOST), domains.ON_ROOT_BUS)
    with used_by_level1(bench, "disk0"), Daemon(bench).running() as daemon, daemon.guest(domains.without_hostdev(domain)) as guest:
        guest.xml = domain
        guest.attach()
        counted_io(bench, guest)
        guest.detach()


@more("libvirt-kubevirt", "KubeVirt's fixed properties: refused on a host that has less, and the values by id-registers without them")
def kubevirt(bench: Bench) -> None:
    if bench.qemu == "c":
        raise Skipped("the C device has no id-registers")
    page = page_domain(bench, "kubevirt")
    # Names of their own, because libvirt appends QEMU's messages to the log of the domain.
    fixed = domains.with_driver(page_domain(bench, "kubevirt-fixed"), **KUBEVIRT)
    later = domains.with_serial_controller(domains.with_driver(page_domain(bench, "kubevirt-later"), **KUBEVIRT_MEANT), domains.ON_ROOT_BUS)
    with used_by_level1(bench, "disk0"), Daemon(bench).running() as daemon:
        expect_ssid_size_is_dropped(daemon, fixed)
        for what, domain, pattern in (
            ("KubeVirt's domain", fixed, LESS),
            # Without ssidSize, ssidsize is auto, which needs a device.
            ("KubeVirt's domain without a device", domains.without_hostdev(fixed), "takes its 'auto' properties from the host"),
        ):
            error = daemon.refused(f"create {daemon.file(domain)}", timeout=120)
            expect(re.search(pattern, error) is not None, f"{what} was refused with:\n{error}")
        with daemon.guest(page) as guest:
            expect_resolved(guest, HOST)
        with daemon.guest(domains.without_hostdev(later)) as guest:
            expect_resolved(guest, KUBEVIRT_MEANT)
            error = daemon.refused(f"attach-device {guest.name} {daemon.file(domains.hostdev(page))} --live")
            expect(re.search(LESS, error) is not None, f"the disk was refused with:\n{error}")
            expect_resolved(guest, KUBEVIRT_MEANT)
        expect_released(bench)


def expect_ssid_size_is_dropped(daemon: Daemon, domain: Element) -> None:
    """libvirt must drop the attribute ssidSize, and refuse it if it compares the domain with its schema."""
    error = daemon.refused(f"define --validate {daemon.file(domain)}")
    expect("schema" in error, f"ssidSize was refused with:\n{error}")
    name = domain.findtext("name")
    daemon.virsh(f"define {daemon.file(domain)}")
    shown = daemon.virsh(f"dumpxml --inactive {name}")
    daemon.virsh(f"undefine {name} --nvram")
    expect("oas='48'" in shown and "ssidsize" not in shown.lower(), f"libvirt has made this of ssidSize:\n{shown}")


def expect_resolved(guest: Domain, attributes: Mapping[str, str]) -> None:
    """The device must show these values, which have the names of <driver>'s attributes."""
    shown = guest.id_registers()
    values = {name: ("on" if shown[name] else "off") if isinstance(shown[name], bool) else str(shown[name]) for name in attributes}
    expect(values == attributes and shown["resolved"] is True, f"id-registers show {shown}, not {attributes}")


@more("libvirt-save", "accel off: virsh saves the guest of the one device and restores it with the other, there and back", qemus=("rust", "c"))
def save(bench: Bench) -> None:
    domain = domains.without_hostdev(domains.without_accel(page_domain(bench, "saved")))
    other = "c" if bench.qemu != "c" else "rust"
    with Daemon(bench).running() as daemon, daemon.guest(domain) as guest:
        guest.run("echo kept >/tmp/kept")
        for qemu in (other, bench.qemu):
            daemon.virsh(f"save {guest.name} /tmp/saved", timeout=180)
            daemon.shell.run(f"virsh save-image-dumpxml /tmp/saved | sed 's,<emulator>.*</,<emulator>/e2e/qemu-{qemu}</,' >/tmp/restored.xml")
            daemon.virsh("restore /tmp/saved --xml /tmp/restored.xml && rm /tmp/saved", timeout=180)
            expect(f"/e2e/qemu-{qemu}" in guest.level1_run(f"readlink /proc/{guest.pid}/exe"), f"the guest does not run in qemu-{qemu}")
            expect(guest.run("cat /tmp/kept") == "kept", f"the guest has lost its memory in qemu-{qemu}")


@more("libvirt-older", "the <qemu:commandline> of docs/libvirt.md for a libvirt that does not know the device")
def older(bench: Bench) -> None:
    page = DOCUMENT.read_text()
    domain = domains.for_older_libvirt(domains.with_serial_controller(domains.adapted(page, "older"), domains.ON_ROOT_BUS), page)
    files = "/dev/iommu /dev/vfio/devices/*"
    with Daemon(bench).running() as daemon:
        daemon.shell.run(f"chmod o+rw {files}")
        try:
            with daemon.guest(domain) as guest:
                copy_and_compare(bench, guest)
        finally:
            daemon.shell.run(f"chmod o-rw {files}")


@more_with_cmdqv("libvirt-cmdqv", "cmdqv='on' in docs/libvirt.md's domain: libvirt starts it, and its I/O needs no exits and no ioctls")
def libvirt_cmdqv(bench: Bench) -> None:
    domain = domains.with_driver(page_domain(bench, "libvirt-cmdqv"), cmdqv="on")
    with used_by_level1(bench, "disk0"), Daemon(bench).running() as daemon:
        with daemon.guest(domain) as guest:
            vintfs = witness(bench).guests()
            expect(len(vintfs) == 1 and vintfs[0].queues_enabled == 2, f"the guest does not use CMDQV: {vintfs}")
            vcmdq_io(bench, guest)
        expect_cmdqv_released(bench)
