#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests what the nested testbed reads and computes (tests/e2e/testbed), without a level, and prints TAP."""
from __future__ import annotations

import contextlib
import io
import struct
import sys
import tempfile
import traceback
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.dont_write_bytecode = True
from tap import Outcome, report as report_outcomes  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "e2e"))
from testbed import bench, check_host_scenarios, cratebench, domains, goals, iort, judge_scenarios, lanes, main  # noqa: E402 (found through the path above)
from testbed import results, systemcalls, unmap  # noqa: E402
from testbed.consoles import TestbedError  # noqa: E402
from testbed.counters import Counts  # noqa: E402
from testbed.fat import fat_image  # noqa: E402
from testbed.levels import GuestConfig, Hardware  # noqa: E402
from testbed.machine import properties_in  # noqa: E402
from testbed.registry import SCENARIOS, Bed, in_order  # noqa: E402
from testbed.report import Tap  # noqa: E402
from testbed.results import DEFAULT, MSI_OFF, RIL_OFF, Results  # noqa: E402
from testbed.systemcalls import SystemCalls  # noqa: E402
from testbed.unmap import GRANULES, Costs, Latency  # noqa: E402

BENCHMARK = """dma mapping benchmark: threads:1 seconds:2 node:-1 dir:BIDIRECTIONAL granule: 1
average map latency(us):23.4 standard deviation:5.6
average unmap latency(us):106.3 standard deviation:7.8
"""
PROPERTIES = """arm-smmuv3 options:
  accel=<bool>           -  (default: false)
  ats=<OnOffAuto>        - on/off/auto (default: "auto")
  msi=<OnOffAuto>        - on/off/auto (default: "auto")
  msi-gpa=<uint64>       -  (default: 0)
  x-cd.s=<uint8>
  primary-bus=<link<PCIBus>>
"""
# Columns: fastest, slowest, median, mean, samples, iterations.
CONSUMER = """consumer          fastest       │ slowest       │ median        │ mean          │ samples │ iters
╰─ consuming                    │               │               │               │         │
   ├─ 8          1.9 µs         │ 2.5 µs        │ 2 µs          │ 2.09 µs       │ 100     │ 1600
   │             131.2 Mitem/s  │ 101.1 Mitem/s │ 127.1 Mitem/s │ 122.1 Mitem/s │         │
   ╰─ 19         4 ms           │ 5.9 ms        │ 4.194304 ms   │ 4.3 ms        │ 100     │ 100
                 128.4 Mitem/s  │ 87.74 Mitem/s │ 125.4 Mitem/s │ 121.1 Mitem/s │         │
"""
# One unmap of a guest that polls CMDQ_CONS, in the kernel's format.
UNMAP = """
       qemu-rust-201     [000] ...1.    98.000001: kvm_mmio: mmio write len 4 gpa 0x8050098 val 0x77
       qemu-rust-201     [000] .....    98.000010: sys_enter: NR 63 (1c, ffff8d5fe000, 1000, 0, 0, 0)
       qemu-rust-201     [000] .....    98.000020: sys_enter: NR 29 (d, 3b8d, ffff8d5fe5b8, 0, 0, 0)
       qemu-rust-190     [001] .....    98.000025: sys_enter: NR 98 (aaaa, 81, 1, 0, 0, 0)
       qemu-rust-201     [000] .....    98.000030: sys_enter: NR 29 (12, ae80, 0, 0, 0, 0)
       qemu-rust-201     [000] ...1.    98.000040: kvm_mmio: mmio unsatisfied-read len 4 gpa 0x805009c val 0x0
       qemu-rust-201     [000] .....    98.000050: sys_enter: NR 29 (12, ae80, 0, 0, 0, 0)
       qemu-rust-201     [000] ...1.    98.000060: kvm_mmio: mmio read len 4 gpa 0x805009c val 0x77
       qemu-rust-201     [000] ...1.    98.000070: kvm_mmio: mmio write len 4 gpa 0x80600a8 val 0x1
"""


# A page with a domain, as docs/libvirt.md.
PAGE = """
```xml
<hostdev/>
```
```xml
<domain type='kvm'>
  <name>guest</name><memory unit='GiB'>4</memory><vcpu>4</vcpu>
  <os firmware='efi'><type arch='aarch64'>hvm</type></os>
  <devices>
    <emulator>/usr/local/bin/qemu</emulator>
    <!-- a comment -->
    <iommu model='smmuv3'><driver pciBus='1' accel='on'/></iommu>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver iommufd='yes'/>
      <source><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>
      <address type='pci' bus='0x02' slot='0x00' function='0x0'/>
    </hostdev>
  </devices>
</domain>
```
"""
# libvirt's log, filtered: two commands and their replies, with a reply of QEMU's to another.
LIBVIRT_LOG = """QEMU_MONITOR_SEND_MSG: mon=0xffff msg={"execute":"object-del","arguments":{"id":"iommufd0"},"id":"libvirt-7"}
QEMU_MONITOR_RECV_REPLY: mon=0xffff reply={"return": {}, "id": "libvirt-6"}
QEMU_MONITOR_RECV_REPLY: mon=0xffff reply={"return": {}, "id": "libvirt-7"}
QEMU_MONITOR_SEND_MSG: mon=0xffff msg={"execute":"query-status","id":"libvirt-8"}
QEMU_MONITOR_SEND_MSG: mon=0xffff msg={"execute":"object-del","arguments":{"id":"iommufd0"},"id":"libvirt-9"}
QEMU_MONITOR_RECV_REPLY: mon=0xffff reply={"id": "libvirt-9", "error": {"class": "GenericError", "desc": "in use"}}
"""
CHECK_HOST = """ok       architecture                     aarch64
missing  /dev/iommu                       does not exist
         fix: modprobe iommufd
unknown  0000:00:01.0 nested translation  cannot open /dev/iommu: No such file or directory
note     0000:00:01.0 ATS                 the device has none, which is no obstacle

not everything is there: 1 ok, 1 missing, 1 unknown, 1 note
"""


def trace(unmaps: int = 30, left: int = 1000, written: int = 1000) -> str:
    return f"# tracer: nop\n#\n# entries-in-buffer/entries-written: {left}/{written}   #P:2\n#\n" + UNMAP * unmaps


def refusal(work: Callable[[], object]) -> str:
    """The message of the TestbedError that `work` must end with."""
    try:
        work()
    except TestbedError as error:
        return str(error)
    raise AssertionError("accepted")


def usage_error(*words: str) -> str:
    """What the command line is refused with."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            main.parse(list(words))
    except SystemExit:
        return errors.getvalue()
    raise AssertionError(f"{words} were accepted")


def costs(exits: float, ioctls: float = 1) -> Costs:
    return Costs(unmaps=100, doorbells=100, ioctls=round(100 * ioctls), commands=100, exits=round(100 * exits), errors=0)


def everything(has_msi: bool = True) -> Results:
    """Results of a device that reaches every goal."""
    found = Results(has_msi=has_msi)
    modes = ([MSI_OFF] if has_msi else []) + [DEFAULT, RIL_OFF]
    for pages in GRANULES:
        for mode in modes:
            found.unmap[mode, pages] = [(400.0, 100.0), (300.0, 100.0), (300.0, 100.0)]
            found.map[mode, pages] = [(100.0, 80.0), (10.0, 10.0), (12.0, 10.0)]
            found.instructions[mode, "c", pages] = Latency(5000, 26500)
            found.instructions[mode, "rust", pages] = Latency(5000, 26500)
        for mode in (DEFAULT, RIL_OFF):
            found.costs[mode, "c", pages] = costs(2, 256)
            found.costs[mode, "rust", pages] = costs(4 if (mode, pages) == (RIL_OFF, 256) else 1, 2)
    for device in ("c", "rust"):
        found.system_calls[DEFAULT, device] = SystemCalls(100, 100, Counter({"ioctl IOMMU_HWPT_INVALIDATE": 100}))
    found.several["c", 4], found.several["rust", 4] = costs(7.8), costs(0.99, 0.8)
    found.queue = [(24.0, 8.0), (25.0, 9.0), (30.0, 9.0)]
    found.command = [(7.6, 7.6)]
    return found


def verdicts(found: Results) -> dict[str, bool | None]:
    return {goal.what: goal.met for goal in goals.goals(found)}


def unmet(found: Results) -> list[str]:
    return [what for what, met in verdicts(found).items() if met is False]


# --- the tests ----------------------------------------------------------------------------------------------------


def benchmark_output_gives_both_means() -> None:
    assert unmap.parse(BENCHMARK) == Latency(23.4, 106.3)


def benchmark_output_without_means_is_an_error() -> None:
    assert "No such device" in refusal(lambda: unmap.parse("ioctl: No such device"))


def crate_benchmark_output_gives_time_of_a_command() -> None:
    assert cratebench.nanoseconds(CONSUMER) == 4.194304e6 / (1 << 19) == 8
    assert "printed" in refusal(lambda: cratebench.nanoseconds(CONSUMER.replace("19 ", "18 ")))


def properties_come_from_the_help_text() -> None:
    assert properties_in(PROPERTIES) == {"accel", "ats", "msi", "msi-gpa", "x-cd.s", "primary-bus"}


def system_calls_are_those_between_doorbells() -> None:
    found = systemcalls.parse(trace(unmaps=30))
    # the last doorbell ends the trace: what follows it may be incomplete
    assert found.doorbells == 29 and found.polls == 29, found
    assert found.calls == {"read": 29, "ioctl IOMMU_HWPT_INVALIDATE": 29}, found
    assert found.each == 2


def system_calls_of_other_threads_count() -> None:
    text = trace(30).replace("NR 98 (aaaa, 81,", "NR 73 (aaaa, 81,")
    assert systemcalls.parse(text).calls["ppoll"] == 29


def system_calls_have_a_name_in_any_case() -> None:
    text = trace(30).replace("NR 63", "NR 999").replace(", 3b8d,", ", 4b01,")
    assert set(systemcalls.parse(text).calls) == {"system call 999", "ioctl 0x4b01"}


def trace_that_lost_events_is_an_error() -> None:
    assert "lost" in refusal(lambda: systemcalls.parse(trace(30, left=999)))


def trace_without_doorbells_is_an_error() -> None:
    assert "5 doorbells" in refusal(lambda: systemcalls.parse(trace(unmaps=5)))


def icount_makes_instructions_of_time() -> None:
    hardware = Hardware(icount=True)
    assert "shift=2" in hardware.options() and 1 << 2 == hardware.NANOSECONDS
    assert hardware.instructions(106.24) == 26560
    assert "tcg,thread=single" in hardware.options() and "tcg,thread=multi" in Hardware().options()


def hardware_names_are_different() -> None:
    names = [row.hardware.name for row in bench.ROWS.values() if row.hardware]
    assert len(set(names)) == len({row.hardware for row in bench.ROWS.values() if row.hardware}) == 4, names


def properties_reach_the_command_line() -> None:
    command = GuestConfig("x", "rust", defaults=("msi=off", "ril=on")).command()
    assert [command[at + 1] for at, word in enumerate(command) if word == "-global"] == ["arm-smmuv3.msi=off", "arm-smmuv3.ril=on"]
    assert Hardware(properties=("msi=on",)).options()[-2:] == ["-global", "arm-smmuv3.msi=on"]
    assert main.parse(["--property", "msi=off", "--property", "ril=off", "default"]).property == ["msi=off", "ril=off"]
    assert "not NAME=VALUE" in usage_error("--property", "msi=off,accel=off")
    assert "set the properties themselves" in usage_error("--bench", "--property", "msi=off")


def rows_are_chosen_by_name() -> None:
    chosen = main.parse(["--bench-rows", "icount,exits"])
    assert chosen.bench and chosen.bench_rows == ["exits", "icount"]
    assert "no row nothing" in usage_error("--bench-rows", "exits,nothing")
    assert "is for --bench" in usage_error("--run", "--bench-rows", "exits")
    assert main.qemus_needed(main.parse(["--bench-rows", "queue"])) == {"c-x86", "rust-x86"}
    assert main.qemus_needed(main.parse(["--bench-rows", "icount"])) == {"c", "rust"}
    # there is nothing to compare the crate with unless a commit is named
    assert main.parse(["--bench"]).bench_rows == [name for name in bench.ROWS if name != "crate"]
    assert main.parse(["--bench", "--base", "HEAD"]).bench_rows == list(bench.ROWS)
    assert "go together" in usage_error("--bench-rows", "crate") and "go together" in usage_error("default", "--base", "HEAD")


def goals_that_are_reached_are_met() -> None:
    assert not unmet(everything()) and len(goals.goals(everything())) == 20


def goals_of_times_have_no_verdict() -> None:
    found = everything()
    found.unmap = {key: [(1.0, 100.0)] for key in found.unmap}
    found.queue = found.command = [(1.0, 100.0)]
    assert not unmet(found)


def goals_name_what_is_not_met() -> None:
    found = everything()
    found.costs[RIL_OFF, "rust", 256] = costs(5, 5.2)
    found.system_calls[DEFAULT, "rust"] = SystemCalls(100, 0, Counter({"read": 100, "ioctl IOMMU_HWPT_INVALIDATE": 100}))
    found.several["rust", 4] = costs(1, 0.81)
    found.instructions[MSI_OFF, "rust", 1] = Latency(5000, 26530)
    assert [what.split(",")[0].split(" an unmap")[0] for what in unmet(found)] == [
        "system calls for a doorbell", "instructions of", "exits for", "ioctls for", "exits for", "ioctls for"], unmet(found)


def goals_allow_a_few_stray_exits() -> None:
    found = everything()
    found.costs[DEFAULT, "rust", 1] = costs(1.04)
    assert not unmet(found)
    found.costs[DEFAULT, "rust", 1] = costs(1.06)
    assert len(unmet(found)) == 1


def latency_ratio_is_divided_by_the_control() -> None:
    found = everything()
    ratio = next(goal.ratio for goal in goals.goals(found) if goal.what == "unmap latency in us, ril on, msi=auto, 32 pages")
    assert ratio == "2.50 C/Rust (3.00, map 1.20)", ratio


def device_without_msi_is_measured_without_it() -> None:
    found = goals.goals(everything(has_msi=False))
    noted = {goal.what: goal.note for goal in found if goal.note}
    assert "msi=off, 1 page" in " ".join(noted) and len(noted) == 9, noted
    missing = [goal for goal in found if "ril on, msi=auto" in goal.what]
    assert len(missing) == 3 and all(goal.rust == "-" and goal.met is None and goal.note for goal in missing)
    assert "[1] the device has no property msi" in goals.table(found)


def goals_are_of_measured_rows_only() -> None:
    assert goals.goals(Results()) == [] and results.tables(Results()) == ""
    partial = everything()
    del partial.unmap[MSI_OFF, 256], partial.costs[RIL_OFF, "rust", 1]
    left = [goal.what for goal in goals.goals(partial)]
    assert len(left) < 20 and "unmap latency in us, ril on, msi=off, 32 pages" in left and "exits for an unmap, 4 vCPUs at once, 1 page" in left
    only = Results(queue=[(24.0, 9.0)])
    assert [goal.rust for goal in goals.goals(only)] == ["9.0"]
    assert "2^19" in bench.tables(only)


def tables_and_json_have_all_results() -> None:
    text, found = bench.tables(everything()), bench.as_json(everything())
    for wanted in ("What one unmap takes, with one vCPU", "4 vCPUs at once", "System calls", "Instructions", "map latency"):
        assert wanted in text, text
    assert len(found["goals"]) == 20 and found["full_queue_ms"] == {"c": [24.0, 25.0, 30.0], "rust": [8.0, 9.0, 9.0]}


def table_of(*nodes: bytes) -> bytes:
    """An IORT with these nodes."""
    header = b"IORT" + struct.pack("<I", 48 + sum(map(len, nodes))) + bytes(28)
    return header + struct.pack("<III", len(nodes), 48, 0) + b"".join(nodes)


def iort_gives_identifier_of_the_smmu() -> None:
    its = struct.pack("<BHBI", 0, 24, 1, 5) + bytes(16)
    smmu = struct.pack("<BHBI", 4, 68, 4, 1) + bytes(60)
    root_complex = struct.pack("<BHBI", 2, 36, 3, 7) + bytes(28)
    table = table_of(its, smmu, root_complex)
    assert iort.smmu_identifier(table) == 1
    corrected = iort.with_canwbs(table)
    assert iort.smmu_identifier(corrected) == 1 and sum(corrected) % 256 == 0
    assert [at for at, (old, new) in enumerate(zip(table, corrected)) if old != new and at > 36] == [48 + 24 + 68 + 23]


def canwbs_is_taken_from_a_table() -> None:
    table = table_of(struct.pack("<BHBI", 2, 36, 3, 7) + bytes(28))
    without = iort.without_canwbs(iort.with_canwbs(table))
    assert without[48:] == table[48:] and sum(without) % 256 == 0


def domain_of_a_page_is_its_only_one() -> None:
    assert domains.documented(PAGE).findtext("name") == "guest"
    assert "0 domains" in refusal(lambda: domains.documented("no domain"))
    assert "2 domains" in refusal(lambda: domains.documented(PAGE + PAGE))
    assert "no XML" in refusal(lambda: domains.documented(PAGE.replace("</devices>", "")))


def domain_for_level_1_differs_as_little_as_possible() -> None:
    domain = domains.adapted(PAGE, "x", properties=["msi=off"])
    page = domains.documented(PAGE)
    assert (domain.findtext("name"), domain.findtext("memory"), domain.findtext("vcpu")) == ("x", "512", "1")
    assert domain.find("memory").get("unit") == "MiB" and domain.findtext("os/type") == "hvm"
    source = domain.find("devices/hostdev/source/address").attrib
    assert source == {"domain": "0x0000", "bus": "0x00", "slot": "0x01", "function": "0x0"}, source
    for path in ("devices/emulator", "devices/iommu", "devices/hostdev/address", "devices/hostdev/driver"):
        same = [ElementTree.tostring(whole.find(path)).strip() for whole in (domain, page)]
        assert same[0] == same[1], same
    words = [word.get("value") for word in domain.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg")]
    assert words == ["-global", "arm-smmuv3.msi=off"] and "\n" not in domains.text(domain)
    assert "0 of devices/hostdev/source/address" in refusal(lambda: domains.adapted(PAGE.replace("<source>", "<sauce>").replace(
        "</source>", "</sauce>"), "x"))


def variants_leave_their_domain_as_it_was() -> None:
    domain = domains.adapted(PAGE, "x")
    before = domains.text(domain)
    found = [domains.text(changed) for changed in (
        domains.with_driver(domain, oas="48"), domains.without_accel(domain), domains.without_hostdev(domain), domains.without_iommufd(domain),
        domains.with_serial_controller(domain, domains.ON_ROOT_BUS), domains.with_arguments(domain, ["-S"]))]
    assert domains.text(domain) == before and len({before, *found}) == 7
    assert 'oas="48"' in found[0] and "accel" not in found[1] and "hostdev" not in found[2] and "iommufd" not in found[3]
    assert 'slot="0x1e"' in found[4] and '<qemu:arg value="-S"' in found[5]


def documented_domain_can_be_adapted() -> None:
    text = domains.text(domains.adapted(domains.DOCUMENT.read_text(), "x"))
    assert 'managed="yes"' in text and 'accel="on"' in text


def documented_arguments_become_the_domains() -> None:
    page = domains.DOCUMENT.read_text()
    domain = domains.for_older_libvirt(domains.adapted(page, "x"), page)
    words = [word.get("value") for word in domain.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg")]
    assert words[::2] == ["-object", "-device", "-device"] and '"host":"0000:00:01.0"' in words[-1], words
    assert domain.find("devices/iommu") is None and domain.find("devices/hostdev") is None and domain.find("memtune/hard_limit") is not None
    assert "0 times" in refusal(lambda: domains.documented_arguments(PAGE))


def replies_belong_to_their_commands() -> None:
    assert domains.replies(LIBVIRT_LOG, "object-del") == [{"return": {}}, {"error": {"class": "GenericError", "desc": "in use"}}]
    assert domains.replies(LIBVIRT_LOG, "query-status") == [None] and domains.replies("", "object-del") == []


def statistics_give_what_a_trace_gives() -> None:
    before = {"commands": Counter(), "queue": Counter(), "host": Counter({"calls": 3}), "attach": Counter({"invalidations": 2})}
    after = {"commands": Counter({"tlbi": 5, "sync": 2, "cfgi-cd": 1}), "queue": Counter({"doorbells": 2, "errors-ill": 1}),
             "host": Counter({"calls": 5, "commands": 6, "eio": 1}), "attach": Counter({"invalidations": 3})}
    counts = Counts(domains.work_between(before, after), Counter(kernel_ioctls=3), 1.0)
    assert (counts.tlbi, counts.syncs, counts.invalidations, counts.doorbells) == (5, 2, 6, 2)
    assert (counts.ioctls, counts.entries, counts.errors) == (3, 6, 2)


def findings_of_check_host_are_read() -> None:
    answer = check_host_scenarios.parse(1, CHECK_HOST)
    assert answer.findings["/dev/iommu"] == ("missing", "does not exist") and len(answer.findings) == 4
    other = check_host_scenarios.parse(0, CHECK_HOST.replace("missing  /dev", "ok       /dev").replace("note     0000:00:01.0 ATS ", "note     0000:00:01.0 CATS"))
    assert answer.changed(other) == {"/dev/iommu": "ok", "0000:00:01.0 ATS": "", "0000:00:01.0 CATS": "note"}, answer.changed(other)
    assert answer.changed(answer) == {}


def compliance_results_belong_to_their_rules() -> None:
    text = (b"B_SMMU_01 : 301 : Revision\r\n    i001.c:68\r\n   Result:  PASSED\r\n\x1b[37m\r\nS_L5SM_01 : 309 : Newer\r\n   Result:  FAILED\r\n"
            b"S_L7SM_02 : 323 : ETR\r\n   Result:  NOT TESTED (PAL NOT SUPPORTED)\r\n")
    assert judge_scenarios.rules_in(text) == {"B_SMMU_01": "PASSED", "S_L5SM_01": "FAILED", "S_L7SM_02": "NOT TESTED"}


def fat_image_has_the_files_in_their_clusters() -> None:
    image = fat_image({"a.efi": b"A" * 3000, "empty": b"", "b.nsh": b"B"})
    directory = image[66 * 512:]
    entries = [struct.unpack("<11sB14xHI", directory[at:at + 32]) for at in (0, 32, 64)]
    assert entries == [(b"A       EFI", 0x20, 2, 3000), (b"EMPTY      ", 0x20, 0, 0), (b"B       NSH", 0x20, 4, 1)], entries
    assert struct.unpack("<5H", image[512:522]) == (0xFFF8, 0xFFFF, 3, 0xFFFF, 0xFFFF)
    data = 98 * 512
    assert image[data:data + 3000] == b"A" * 3000 and image[data + 4096:data + 4098] == b"B\0"
    assert len(image) == struct.unpack("<I", image[32:36])[0] * 512
    try:
        fat_image({"too-long-a-name.efi": b""})
        raise AssertionError("a long name is accepted")
    except ValueError:
        pass


def libvirt_is_downloaded_only_if_needed() -> None:
    for words, needed in (([], True), (["default", "cmdqv"], False), (["libvirt"], True), (["check-host-cmdqv"], True), (["--run"], False),
                          (["--bench"], False), (["--throughput"], False)):
        assert main.needs_libvirt(main.parse(words)) == needed, words


def libvirt_that_cannot_be_had_skips_its_scenarios() -> None:
    out = io.StringIO()
    arguments = main.parse(["libvirt", "check-host"])
    ground = main.Ground(Path("/"), Path("/"), {}, Path("/"), lambda text: None, no_libvirt="no network")
    scenarios = main.scenarios_of(arguments)
    with contextlib.redirect_stdout(out):
        tap = Tap(2)
        main._run_bed(ground, arguments, Bed.LIBVIRT, scenarios, tap)
    assert out.getvalue().splitlines() == ["1..2", *(f"ok {number} - e2e: {name} # SKIP no network"
                                                     for number, name in ((1, "libvirt"), (2, "check-host")))], out.getvalue()
    assert tap.failed == 0


def scenarios_on_request_run_only_when_named() -> None:
    every = main.parse([])
    assert main.qemus_needed(every) == {"rust", "rust-x86", "c", "cmdqv-x86"}
    assert "cmdqv-reboot" not in [scenario.name for scenario in main.scenarios_of(every)]
    assert [scenario.name for scenario in main.scenarios_of(main.parse(["cmdqv-reboot"]))] == ["cmdqv-reboot"]


def scenario_decides_which_qemus_are_needed() -> None:
    for words, needed in (
        (["default"], {"rust"}), (["soft-strict"], {"rust-x86"}), (["own-level0"], {"rust", "rust-x86"}),
        (["cmdqv"], {"rust", "cmdqv-x86"}), (["cmdqv-c"], {"rust", "c", "cmdqv-x86"}),
        (["--device", "c", "cmdqv"], {"c", "cmdqv-x86"}), (["--device", "c", "own-level0"], {"c", "c-x86"})):
        assert main.qemus_needed(main.parse(words)) == needed, words


def skipped_scenario_is_reported_as_such() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        tap = Tap(2)
        tap.result("msi", 0.1, None, "no property")
        tap.result("default", 1, None)
    assert out.getvalue().splitlines() == ["1..2", "ok 1 - e2e: msi # SKIP no property", "ok 2 - e2e: default # 1.0 s"]
    assert tap.failed == 0


# A program like tests/e2e/run: passes scenarios, fails "fails" with two lines of reasons, skips "skips", ends early at "ends".
LIKE_RUN = """import sys
print("1..9")
for number, name in enumerate(sys.argv[1:], 1):
    if name == "ends": sys.exit(3)
    if name == "fails": print("# one\\n# two")
    print(f"{'not ' * (name == 'fails')}ok {number} - e2e: {name} # {'SKIP no reason' if name == 'skips' else '1.5 s'}", flush=True)
"""


def in_lanes(count: int, *groups: Sequence[str]) -> tuple[list[str], Tap]:
    """What is printed for groups of scenarios with these names, by that program."""
    out = io.StringIO()
    of_name = SCENARIOS["default"]
    with contextlib.redirect_stdout(out), tempfile.TemporaryDirectory() as logs:
        tap = Tap(sum(map(len, groups)))
        everything_in_lanes = lanes.Lanes([sys.executable, "-c", LIKE_RUN], count, Path(logs), tap)
        everything_in_lanes.run([[replace(of_name, name=name) for name in group] for group in groups])
    return out.getvalue().splitlines(), tap


def groups_have_every_scenario_once() -> None:
    groups = lanes.groups_of(in_order())
    assert sorted(scenario.name for group in groups for scenario in group) == sorted(SCENARIOS)
    assert all(1 <= len(group) <= 4 and len({scenario.bed for scenario in group}) == 1 for group in groups)
    assert groups[-1][0].bed is Bed.SOFTWARE and lanes.groups_of([]) == []


def lanes_report_results_of_all_groups() -> None:
    printed, tap = in_lanes(1, ["first", "fails"], ["skips"])
    assert printed == ["1..3", "ok 1 - e2e: first # 1.5 s", "# one", "# two", "not ok 2 - e2e: fails # 1.5 s",
                       "ok 3 - e2e: skips # SKIP no reason"], printed
    assert tap.failed == 1


def lanes_are_concurrent_and_lose_nothing() -> None:
    printed, tap = in_lanes(3, *([f"s{group}.{number}" for number in range(20)] for group in range(8)))
    assert len(printed) == 161 and tap.failed == 0
    assert [int(line.split()[1]) for line in printed[1:]] == list(range(1, 161))
    assert len({line.split()[4] for line in printed[1:]}) == 160


def scenarios_of_a_group_that_ends_early_fail() -> None:
    printed, tap = in_lanes(2, ["first", "ends", "last"])
    assert tap.failed == 2 and printed.count("# its group ended early, with status 3") == 2, printed
    assert [line.split(" #")[0] for line in printed if line.startswith("not ok")] == ["not ok 2 - e2e: ends", "not ok 3 - e2e: last"]


def prompt_and_gdb_have_one_lane() -> None:
    assert [main.parse(words.split()).lanes for words in ("--lanes 3", "--lanes 3 --hold default", "--lanes 3 --gdb default")] == [3, 1, 1]
    assert main.parse([]).lanes == lanes.of_this_machine() >= 1


CASES: list[Callable[[], None]] = [
    benchmark_output_gives_both_means,
    benchmark_output_without_means_is_an_error,
    crate_benchmark_output_gives_time_of_a_command,
    properties_come_from_the_help_text,
    system_calls_are_those_between_doorbells,
    system_calls_of_other_threads_count,
    system_calls_have_a_name_in_any_case,
    trace_that_lost_events_is_an_error,
    trace_without_doorbells_is_an_error,
    icount_makes_instructions_of_time,
    hardware_names_are_different,
    properties_reach_the_command_line,
    rows_are_chosen_by_name,
    goals_that_are_reached_are_met,
    goals_of_times_have_no_verdict,
    goals_name_what_is_not_met,
    goals_allow_a_few_stray_exits,
    latency_ratio_is_divided_by_the_control,
    device_without_msi_is_measured_without_it,
    goals_are_of_measured_rows_only,
    tables_and_json_have_all_results,
    iort_gives_identifier_of_the_smmu,
    canwbs_is_taken_from_a_table,
    domain_of_a_page_is_its_only_one,
    domain_for_level_1_differs_as_little_as_possible,
    variants_leave_their_domain_as_it_was,
    documented_domain_can_be_adapted,
    documented_arguments_become_the_domains,
    replies_belong_to_their_commands,
    statistics_give_what_a_trace_gives,
    findings_of_check_host_are_read,
    compliance_results_belong_to_their_rules,
    fat_image_has_the_files_in_their_clusters,
    libvirt_is_downloaded_only_if_needed,
    libvirt_that_cannot_be_had_skips_its_scenarios,
    scenarios_on_request_run_only_when_named,
    scenario_decides_which_qemus_are_needed,
    skipped_scenario_is_reported_as_such,
    groups_have_every_scenario_once,
    lanes_report_results_of_all_groups,
    lanes_are_concurrent_and_lose_nothing,
    scenarios_of_a_group_that_ends_early_fail,
    prompt_and_gdb_have_one_lane,
]


def run(case: Callable[[], None]) -> Outcome:
    try:
        case()
        return Outcome(case.__name__.replace("_", " "))
    except Exception:
        return Outcome(case.__name__.replace("_", " "), traceback.format_exc())


if __name__ == "__main__":
    sys.exit(report_outcomes(len(CASES), map(run, CASES)))
