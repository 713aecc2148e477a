# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""CMDQ virtualization: the guest's invalidations reach level 1's hardware without an exit, and QEMU sees none of them.

Level 0 has the hardware (tests/cmdqv-hw) and counts what each virtual interface (VINTF) executes. That is the witness of
a guest whose commands neither QEMU nor level 1's kernel sees. All functions take any QEMU whose device has CMDQV.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from . import unmap
from .checks import HARMLESS, SMALL_HOTPLUG_WINDOWS, copy_and_compare, expect, parallel_jobs, plug, unplug
from .cmdqv_hw import Vintf, Witness
from .consoles import TestbedError
from .counters import Counts
from .hotplug_scenarios import background_io, reads_that_fail
from .levels import ASSIGNABLE, HUGE_PAGES, REFUSING, Guest, GuestConfig
from .registry import Bed, register
from .scenarios import UNREMARKABLE, Bench, check_counts, small_reads, start_reading

baseline = partial(register, Bed.CMDQV, qemus=("c",))
scenario = partial(register, Bed.CMDQV)
# Each costs a run of all scenarios a minute, and shows less that functional tests do not.
more = partial(register, Bed.CMDQV, on_request=True)

READS = 256
# What a guest's queue may execute (Linux's driver gives it nothing else).
GUEST_COMMANDS = {"TLBI_NH_ASID", "TLBI_NH_VA", "ATC_INV", "SYNC"}
_UNMAP = "arm_smmu_iotlb_sync"  # Linux calls it once for each unmap
_BYPASS = "/sys/kernel/debug/iommu/tegra241_cmdqv/bypass_vcmdq"
# Commands that a guest's queue does not execute; the last is for a StreamID that the guest does not have.
# IOMMU_HW_QUEUE_ALLOC (0x3b94), and what the host answers if the queue's memory is not contiguous: EFAULT.
_REFUSED_QUEUES = "0x3b94:14"
_REFUSAL = re.compile(rf"{UNREMARKABLE.pattern}|QEMU executes VCMDQ [01], because the host refuses it: .*Bad address")
ILLEGAL = {"TLBI_NH_ALL": 0x10, "TLBI_NSNH_ALL": 0x30, "CFGI_STE": 0x03, "ATC_INV": 0x40 | 0xFFFF << 32}


# --- steps that several scenarios share --------------------------------------------------------------------------------------


def has_companion(guest: Guest) -> bool:
    """Returns whether the guest's driver uses CMDQV for every SMMU."""
    found = [text for _, text in guest.log.lines() if "found companion CMDQV device" in text]
    return len(found) == len(guest.config.smmus)


def witness(bench: Bench) -> Witness:
    return bench.level1.level0.cmdqv


@contextmanager
def cmdqv_guest(bench: Bench, config: GuestConfig, harmless: re.Pattern[str] = HARMLESS) -> Iterator[Guest]:
    """A guest with CMDQV for each SMMU; at the end nothing of it is left in the hardware."""
    with bench.guest(config, harmless) as guest:
        expect_in_use(bench, guest)
        yield guest
    expect_released(bench)


def expect_released(bench: Bench) -> None:
    """Waits for level 1's kernel, which closes the files of a killed process after its memory is gone."""
    left: list[str] = []
    for _ in range(100):
        left = witness(bench).left_over()
        if not left:
            return
        bench.level1.pump.sleep(0.1)
    raise TestbedError("after the guest's end the hardware still has:\n" + "\n".join(left))


def expect_in_use(bench: Bench, guest: Guest) -> None:
    expect(has_companion(guest), "the guest's driver has found no CMDQV")
    vintfs = witness(bench).guests()
    wanted = len(guest.config.smmus)
    expect(len(vintfs) == wanted, f"the guest has {wanted} SMMUs and {len(vintfs)} VINTFs")
    for vintf in vintfs:
        expect(vintf.queues_enabled == 2, f"the guest has not enabled both of its queues: {vintf}")


def unmaps(guest: Guest) -> int:
    """How many unmaps the guest's kernel has counted."""
    return int(guest.run(f"counters calls {_UNMAP}"))


@contextmanager
def only_hardware_works(bench: Bench, guest: Guest) -> Iterator[list[Vintf]]:
    """Checks that in the `with` block QEMU and level 1's kernel have done nothing, and the hardware every unmap.

    The list is filled with the guest's VINTFs at the block's end.
    """
    result: list[Vintf] = []
    begin = unmaps(guest)
    with witness(bench).watch() as vintfs, guest.measure() as measurement:
        yield result
    wanted = unmaps(guest) - begin
    result += [vintf for vintf in vintfs if vintf.is_guests]
    expect_no_exits(measurement.result)
    expect(wanted > 0, "the guest has unmapped nothing")
    expect(sum(vintf.syncs for vintf in result) == wanted,
           f"the guest has unmapped {wanted} times, the hardware has executed {result}")
    for vintf in result:
        others = vintf.commands.keys() - GUEST_COMMANDS
        expect(not others and not vintf.errors, f"the guest's queues have executed {vintf}")
        expect(vintf.tlbi >= vintf.syncs, f"CMD_SYNCs without a TLBI: {vintf}")


def expect_no_exits(counts: Counts) -> None:
    expect(counts.user_exits == 0, f"{counts.user_exits} exits to QEMU")
    expect(counts.kernel_ioctls == 0, f"level 1's kernel has served {counts.kernel_ioctls} invalidation ioctls")
    expect(counts.doorbells == 0 and not counts.commands, f"QEMU has seen {counts.doorbells} doorbells, {counts.commands}")


def vcmdq_io(bench: Bench, guest: Guest) -> None:
    """Checksummed I/O, then small reads of which the number of commands is known."""
    with only_hardware_works(bench, guest):
        copy_and_compare(bench, guest)
    with only_hardware_works(bench, guest) as vintfs:
        small_reads(guest, READS)
    executed = [(vintf.tlbi, vintf.syncs) for vintf in vintfs if vintf.syncs]
    expect(executed == [(READS, READS)], f"{READS} reads gave (TLBIs, CMD_SYNCs) {executed}")


# --- the baseline ---------------------------------------------------------------------------------------------------


@baseline("cmdqv-c", "QEMU's C device with cmdqv=on: level 1 and the guest use the CMDQV hardware, without exits or ioctls")
def cmdqv_c(bench: Bench) -> None:
    of_c = replace(bench, qemu="c", defaults=())
    with witness(of_c).watch() as vintfs:
        of_c.level1.use_from_level1("disk0")
    own = vintfs[0]
    expect(own.hypervisor and own.queues_enabled > 0 and own.syncs > 0 and own.tlbi > 0,
           f"level 1's own I/O does not use its VINTF: {own}")
    with cmdqv_guest(of_c, of_c.config("cmdqv-c", properties=",cmdqv=on")) as guest:
        vcmdq_io(of_c, guest)


# --- scenarios for the device under test -------------------------------------------------------------------------------


@scenario("cmdqv", "CMDQV by default (auto) and with cmdqv=on: checksummed I/O without exits or ioctls, by the hardware's counts")
def cmdqv(bench: Bench) -> None:
    for name, properties in (("cmdqv-auto", ""), ("cmdqv-on", ",cmdqv=on")):
        with cmdqv_guest(bench, bench.config(name, properties=properties)) as guest:
            vcmdq_io(bench, guest)


@more("cmdqv-ril-off", "CMDQV with ril=off: an unmap of 256 pages is 256 commands for the hardware and none for QEMU")
def cmdqv_ril_off(bench: Bench) -> None:
    with cmdqv_guest(bench, bench.config("cmdqv-ril-off", properties=",cmdqv=on,ril=off")) as guest:
        vcmdq_io(bench, guest)
        unmap.give_to_benchmark(guest)
        with only_hardware_works(bench, guest) as vintfs:
            unmap.latency(guest, pages=256, seconds=1)
        (vintf,) = vintfs
        expect(vintf.tlbi == 256 * vintf.syncs, f"unmaps of 256 pages gave {vintf}")


@scenario("cmdqv-two-smmus", "two SMMUs on two VINTFs, with I/O in parallel")
def cmdqv_two_smmus(bench: Bench) -> None:
    config = bench.config("cmdqv-two-smmus", properties=",cmdqv=on", smp=2, smmus=(("disk0",), ("disk1",)))
    with cmdqv_guest(bench, config) as guest:
        with only_hardware_works(bench, guest) as vintfs:
            parallel_jobs(bench, guest, {"first": ("disk0", 0), "second": ("disk1", 0)})
        expect(len(vintfs) == 2 and all(vintf.syncs for vintf in vintfs), f"not both VINTFs have worked: {vintfs}")


class GuestQueue:
    """Queue 0 of a guest with one vCPU, behind the back of its driver, which owns it: by /dev/mem."""

    _PAGE_0, _PAGE_1 = 0x30000, 0x40000
    _BASE = 0x00
    _PROD, _GERROR, _GERRORN = 0x04, 0x10, 0x14
    _SYNC = 0x46

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._registers = int(guest.run("grep -i nvda200c /proc/iomem").split("-")[0], 16)
        low, high = (self._read(self._PAGE_1 + self._BASE + offset) for offset in (0, 4))
        self._base = high << 32 | low
        self.entries = 1 << (low & 0x1F)
        self._memory = high << 32 | low & ~0x1F

    def _read(self, offset: int) -> int:
        return int(self._guest.run(f"devmem {self._registers + offset:#x} 32"), 16)

    def _submit(self, count: int) -> None:
        prod = (self._read(self._PAGE_0 + self._PROD) + count) % (2 * self.entries)
        self._guest.run(f"devmem {self._registers + self._PAGE_0 + self._PROD:#x} 32 {prod:#x}")

    def move(self) -> None:
        """Gives the queue other memory, and its own again, while the guest has nothing to invalidate."""
        for base in (self._base + 16 * self.entries, self._base):
            self._guest.run(f"devmem {self._registers + self._PAGE_1 + self._BASE:#x} 64 {base:#x}")

    def give(self, word: int) -> None:
        """Submits a command that the queue must stop at, and waits until the driver has acknowledged the error."""
        index = self._read(self._PAGE_0 + self._PROD) % self.entries
        at = self._memory + 16 * index
        self._guest.run(f"devmem {at:#x} 64 {word:#x} && devmem {at + 8:#x} 64 0")
        self._submit(1)
        gerror, gerrorn = (self._registers + self._PAGE_0 + offset for offset in (self._GERROR, self._GERRORN))
        self._guest.run(f"""for i in $(seq 50); do
            [ $(devmem {gerror:#x} 32) != $(devmem {gerrorn:#x} 32) ] || exit 0; sleep 0.1; done; exit 1""")

    def rewind(self, given: int) -> None:
        """Submits CMD_SYNCs until PROD and CONS are where the driver left them: it does not know of `given` commands."""
        size = 16 * self.entries
        sync = f"\\{self._SYNC:03o}" + 15 * r"\0"
        self._guest.run(f"""for i in $(seq {self.entries}); do printf '{sync}'; done >syncs &&
            dd if=syncs of=/dev/mem bs={size} seek={self._memory // size} conv=notrunc 2>&1""")
        left = -given % (2 * self.entries)
        while left:
            step = min(left, self.entries - 1)
            self._submit(step)
            left -= step


@scenario("cmdqv-illegal", "illegal commands in the guest's VCMDQ: the guest's driver recovers from each; I/O afterwards")
def cmdqv_illegal(bench: Bench) -> None:
    provoked = re.compile(r"CMDQ error \(cons 0x0[14]......\): (Illegal command|Unknown)|skipping command in error state"
                          r"|\t0x[0-9a-f]{16}$|unexpected error reported\. vintf_map")
    config = bench.config("cmdqv-illegal", properties=",cmdqv=on")
    with cmdqv_guest(bench, config, harmless=provoked) as guest:
        copy_and_compare(bench, guest)
        queue = GuestQueue(guest)
        for name, word in ILLEGAL.items():
            before = recoveries(guest)
            with witness(bench).watch() as vintfs:
                queue.give(word)
            (vintf,) = (vintf for vintf in vintfs if vintf.is_guests)
            # The driver has made a CMD_SYNC of it.
            expect((vintf.errors, vintf.commands) == (1, {"SYNC": 1}), f"{name} gave {vintf}")
            expect(recoveries(guest) == before + 1, f"{name}: the guest's driver has not reported its recovery")
        queue.rewind(len(ILLEGAL))
        vcmdq_io(bench, guest)


def recoveries(guest: Guest) -> int:
    return sum("skipping command in error state" in text for _, text in guest.log.lines())


@more("cmdqv-reboot", "the guest with CMDQV reboots, then the machine is reset under I/O; I/O after each")
def cmdqv_reboot(bench: Bench) -> None:
    with cmdqv_guest(bench, bench.config("cmdqv-reboot", properties=",cmdqv=on")) as guest:
        vcmdq_io(bench, guest)
        guest.reboot()
        expect_in_use(bench, guest)
        vcmdq_io(bench, guest)

        start_reading(guest)
        with witness(bench).watch() as vintfs:
            guest.qmp.command("system_reset")
            guest.wait_booted()
        expect(not any(vintf.errors for vintf in vintfs), f"queues have stopped at a command: {vintfs}")
        expect_in_use(bench, guest)
        vcmdq_io(bench, guest)


@more("cmdqv-killed", "QEMU is killed under I/O: its VINTF is free again, and the next QEMU gets it")
def cmdqv_killed(bench: Bench) -> None:
    for turn in ("first", "second"):
        # The guest is killed at the end of the block.
        with cmdqv_guest(bench, bench.config(f"cmdqv-killed-{turn}", properties=",cmdqv=on")) as guest:
            vcmdq_io(bench, guest)
            start_reading(guest)
        bench.level1.use_from_level1("disk0")


@more("cmdqv-bypass", "the guest's driver leaves its VCMDQs and returns under I/O (bypass_vcmdq): data and counts are right")
def cmdqv_bypass(bench: Bench) -> None:
    with cmdqv_guest(bench, bench.config("cmdqv-bypass", properties=",cmdqv=on", smp=2)) as guest:
        vcmdq_io(bench, guest)
        with background_io(bench, guest, "disk0") as busy:
            for _ in range(10):
                for value in (1, 0):
                    guest.run(f"echo {value} >{_BYPASS}; sleep 0.1")
            busy.expect_progress("after the last change")
        guest.run(f"echo 1 >{_BYPASS}")
        with witness(bench).watch() as vintfs, guest.measure() as measurement:
            copy_and_compare(bench, guest)
            small_reads(guest, READS)
        check_counts(bench, measurement.result)
        (vintf,) = (vintf for vintf in vintfs if vintf.is_guests)
        expect(not vintf.commands, f"the guest bypasses its queues, which have executed {vintf}")
        guest.run(f"echo 0 >{_BYPASS}")
        vcmdq_io(bench, guest)


@scenario("cmdqv-refused", "the host refuses the guest's queues: QEMU executes them; after a reboot the host takes them")
def cmdqv_refused(bench: Bench) -> None:
    bench.level1.shell.run(f"touch {REFUSING}")
    config = bench.config("cmdqv-refused", properties=",cmdqv=on", refused=_REFUSED_QUEUES)
    with bench.guest(config, remarks=_REFUSAL) as guest:
        expect(has_companion(guest), "the guest's driver has found no CMDQV")
        expect(queues_of(guest) == (0, 2), f"of the guest's queues (hardware, software) have {queues_of(guest)}")
        with witness(bench).watch() as vintfs, guest.measure() as measurement:
            copy_and_compare(bench, guest)
            small_reads(guest, READS)
        expect(measurement.result.kernel_ioctls > 0, "no invalidation has reached the host")
        expect(not any(vintf.commands for vintf in vintfs if vintf.is_guests), f"the hardware has executed {vintfs}")

        bench.level1.shell.run(f"rm {REFUSING}")
        guest.reboot()
        expect_in_use(bench, guest)
        expect(queues_of(guest) == (2, 0), f"of the guest's queues (hardware, software) have {queues_of(guest)}")
        vcmdq_io(bench, guest)
    expect_released(bench)


def queues_of(guest: Guest) -> tuple[int, int]:
    """How many of the guest's queues the hardware executes, and how many QEMU does."""
    found = guest.qmp.command("qom-get", {"path": "/machine/peripheral/smmu0", "property": "statistics"})["cmdqv"]
    return found["in-hardware"], found["in-software"]


@scenario("cmdqv-unplug", "the last device of an SMMU with CMDQV is unplugged, then under I/O: its VINTF is free; it returns, and so do the queues")
def cmdqv_unplug(bench: Bench) -> None:
    config = bench.config("cmdqv-unplug", properties=",cmdqv=on", append=SMALL_HOTPLUG_WINDOWS)
    with cmdqv_guest(bench, config) as guest:
        vcmdq_io(bench, guest)
        unplug(guest, "disk0")
        expect_released(bench)
        plug(guest, "disk0")
        expect_in_use(bench, guest)
        vcmdq_io(bench, guest)
        with reads_that_fail(guest, "disk0"):
            unplug(guest, "disk0")
        expect_released(bench)
        plug(guest, "disk0")
        expect_in_use(bench, guest)
        vcmdq_io(bench, guest)


@more("cmdqv-base", "BASE of a queue is rewritten below a live one: both continue; so does the guest that boots next")
def cmdqv_base(bench: Bench) -> None:
    with cmdqv_guest(bench, bench.config("cmdqv-base", properties=",cmdqv=on")) as guest:
        vcmdq_io(bench, guest)
        GuestQueue(guest).move()
        expect_in_use(bench, guest)
        vcmdq_io(bench, guest)
        guest.reboot()
        expect_in_use(bench, guest)
        vcmdq_io(bench, guest)


@more("cmdqv-huge", "guest memory of huge pages: the guest has longer queues in hardware")
def cmdqv_huge(bench: Bench) -> None:
    with huge_pages(bench, 256), cmdqv_guest(bench, bench.config("cmdqv-huge", properties=",cmdqv=on", huge_pages=True)) as guest:
        entries = GuestQueue(guest).entries
        expect(entries > 256, f"the guest's queue has {entries} entries, as many as one small page has")
        vcmdq_io(bench, guest)


@contextmanager
def huge_pages(bench: Bench, count: int) -> Iterator[None]:
    """Huge pages of level 1, for a guest's memory."""
    shell = bench.level1.shell
    shell.run(f"""mkdir -p {HUGE_PAGES} && mount -t hugetlbfs none {HUGE_PAGES} && echo {count} >/proc/sys/vm/nr_hugepages &&
        grep -qx {count} /proc/sys/vm/nr_hugepages""")
    yield
    shell.run(f"echo 0 >/proc/sys/vm/nr_hugepages; umount {HUGE_PAGES}")


@contextmanager
def vintfs_used_up(bench: Bench, device: str) -> Iterator[None]:
    """Another process of level 1 has all VINTFs, by a device that no guest has."""
    shell = bench.level1.shell
    node = shell.run(f"ls /sys/bus/pci/devices/{ASSIGNABLE[device]}/vfio-dev")
    pid = shell.run(f"""vintfs /dev/vfio/devices/{node} >vintfs.out 2>&1 & pid=$!;
        for i in $(seq 100); do [ -s vintfs.out ] && break; sleep 0.1; done; echo $pid""")
    try:
        expect(shell.run("cat vintfs.out").isdecimal(), f"no VINTFs were taken: {shell.run('cat vintfs.out')}")
        yield
    finally:
        shell.run(f"kill {pid}; for i in $(seq 100); do [ -e /proc/{pid}/exe ] || exit 0; sleep 0.1; done; exit 1")


def refusal(bench: Bench, config: GuestConfig, properties: Sequence[str]) -> str:
    """What QEMU says when it refuses to start with this configuration."""
    try:
        with bench.level1.guest(config):
            raise TestbedError(f"QEMU has accepted {properties}")
    except TestbedError as error:
        expect("QEMU ended before" in str(error), f"QEMU was expected to refuse {properties}, but: {error}")
        return str(error)


@scenario("cmdqv-used-up", "no VINTF is free: auto works without CMDQV, cmdqv=on is refused; a free one is used again")
def cmdqv_used_up(bench: Bench) -> None:
    harmless = re.compile("no more available vintf")
    with vintfs_used_up(bench, "disk1"):
        with bench.guest(bench.config("cmdqv-used-up-auto", properties=",cmdqv=auto"), harmless) as guest:
            expect(not has_companion(guest), "the guest has CMDQV, though no VINTF is free")
            with guest.measure() as measurement:
                copy_and_compare(bench, guest)
                small_reads(guest, READS)
            check_counts(bench, measurement.result)
        said = refusal(bench, bench.config("cmdqv-used-up-on", properties=",cmdqv=on"), ("cmdqv=on",))
        expect("cmdqv" in said.lower(), f"QEMU's refusal does not name CMDQV:\n{said}")
    with cmdqv_guest(bench, bench.config("cmdqv-free-again", properties=",cmdqv=auto")) as guest:
        vcmdq_io(bench, guest)
