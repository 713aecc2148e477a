#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests of scripts/overlay. TAP on standard output.

test-overlay.py [TARBALL...]: besides the small trees made up here, the overlay goes into and out of the QEMU releases in
these source tarballs.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NOBODY = 65534

sys.dont_write_bytecode = True
from load import load  # noqa: E402 (no bytecode is left in the clone)
from tap import Outcome, report  # noqa: E402

overlay: Any = load("overlay")

# The least that the overlay recognises: lines made up for this test around the identifiers it looks for.
TREE = {
    "VERSION": "11.1.99\n",
    "hw/arm/Kconfig": "config OTHER\n    bool\n\nconfig ARM_SMMUV3\n    bool\n    select ANYTHING\n",
    "hw/arm/meson.build": (
        "a.add(when: 'CONFIG_ARM_SMMUV3', if_true: files('smmuv3.c'))\n"
        "a.add(when: 'CONFIG_ARM_SMMUV3_ACCEL', if_true: files('smmuv3-accel.c'))\n"
        "a.add(when: 'CONFIG_TEGRA241_CMDQV', if_true: files('tegra241-cmdqv.c'))\n"
        "a.add(when: 'CONFIG_ARM_SMMUV3', if_true: files('another.c'))\n"),
    "hw/arm/trace-events": "before(void) \"\"\nsmmuv3_accel_install_ste(int a) \"a=%d\"\nafter(void) \"\"\n",
    "hw/arm/virt.c": (
        "  {\n    x =\n      \"iommu=smmuv3\" : \"virtio-iommu\");\n  }\n"
        "  if (!kvm_enabled() || !kvm_irqchip_in_kernel()) {\n    e(\"SMMUv3 accel\");\n  }\n"
        "  if (!kvm_enabled() || !kvm_irqchip_in_kernel()) {\n    e(\"something else\");\n  }\n"),
    "hw/pci/pci_bridge.c": (
        "#include \"hw/pci/pci_bus.h\"\n#include \"qemu/module.h\"\n#include \"hw/core/qdev-properties.h\"\n\n"
        "w()\n{\n    {\n        bus_cold_reset(BUS(&s->sec_bus));\n    }\n}\n"
        "r()\n{\n    pci_set_word(conf + PCI_BRIDGE_CONTROL, 0);\n}\n"),
    "include/hw/pci/pci_bridge.h": "void pci_bridge_update_mappings(PCIBridge *br);\n",
    "rust/meson.build": "subdir('hw/core')\nsubdir('hw')\n",
    "rust/hw/meson.build": "subdir('char')\nsubdir('timer')\n",
    "rust/hw/Kconfig": "source char/Kconfig\nsource timer/Kconfig\n",
    "rust/Cargo.toml": "[workspace]\nmembers = [\n    \"hw/char/x\",\n]\n",
    "include/hw/arm/existing.h": "/* QEMU's */\n",
}  # fmt: skip
CRATES = {
    "rust/smmuv3/meson.build": "a\n",
    "rust/smmuv3/src/lib.rs": "// b\n",
    "rust/smmuv3/target/debug/junk": "not to be copied\n",
    "rust/hw/smmuv3-accel/meson.build": "c\n",
    "rust/hw/smmuv3-accel/src/accel/host.rs": "// d\n",
    "include/hw/arm/smmuv3-rust.h": "/* ours */\n",
}


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and mode, every directory's name."""
    return {str(path.relative_to(root)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mode)
            for path in root.rglob("*")}


class Case:
    """A QEMU tree and a project, both throw-away."""

    def __init__(self, root: Path) -> None:
        self.src, self.project = root / "qemu", root / "project"
        write_files(self.src, TREE)
        write_files(self.project, CRATES)
        self.pristine = snapshot(self.src)

    def apply(self) -> int:
        tree = overlay.Tree(self.src, self.project)
        return overlay.Writer(self.src).carry_out(tree.plan_apply())

    def revert(self) -> int:
        tree = overlay.Tree(self.src, self.project)
        return overlay.Writer(self.src).carry_out(tree.plan_revert())

    def edit(self, name: str, old: str, new: str) -> None:
        content = (self.src / name).read_text()
        assert old in content, f"the case is wrong: {name} lacks {old!r}"
        (self.src / name).write_text(content.replace(old, new, 1))

    def refuses(self, action: Callable[[], object], *words: str) -> None:
        """The action fails with one line that has these words, and the tree stays as it is."""
        before = snapshot(self.src)
        try:
            action()
        except overlay.OverlayError as error:
            assert "\n" not in str(error), f"more than one line: {error}"
            for word in words:
                assert word in str(error), f"{word!r} is not in {error}"
        else:
            raise AssertionError("was not refused")
        assert snapshot(self.src) == before, "refused, but the tree changed"


def apply_then_revert_restores_every_byte(case: Case) -> None:
    (case.src / "hw/arm/virt.c").chmod(0o640)
    case.pristine = snapshot(case.src)
    assert case.apply() > len(CRATES)
    assert snapshot(case.src) != case.pristine
    case.revert()
    assert snapshot(case.src) == case.pristine


def apply_makes_every_edit_in_its_place(case: Case) -> None:
    case.apply()

    def read(name: str) -> str:
        return (case.src / name).read_text()

    meson = read("hw/arm/meson.build")
    assert "when: 'CONFIG_ARM_SMMUV3_C', if_true: files('smmuv3.c')" in meson
    assert "when: ['CONFIG_ARM_SMMUV3_C', 'CONFIG_ARM_SMMUV3_ACCEL'], if_true" in meson
    assert "when: ['CONFIG_ARM_SMMUV3_C', 'CONFIG_TEGRA241_CMDQV'], if_true" in meson
    assert "when: 'CONFIG_ARM_SMMUV3', if_true: files('another.c')" in meson
    virt = read("hw/arm/virt.c")
    assert virt.count("if (!qtest_enabled() && (!kvm_enabled() || !kvm_irqchip_in_kernel())) {") == 1
    assert virt.index("qtest_enabled") < virt.index("SMMUv3 accel")
    assert '"virtio-iommu");\n            return;\n' in virt
    bridge = read("hw/pci/pci_bridge.c")
    assert bridge.index("void pci_bridge_add_bus_number_notifier(") < bridge.index("w()")
    assert bridge.count("notifier_list_notify(&bus_number_notifiers, d);\n    }\n}\n") == 1
    assert bridge.count("notifier_list_notify(&bus_number_notifiers, dev);\n}\n") == 1
    assert "pci_bridge_add_bus_number_notifier(" in read("include/hw/pci/pci_bridge.h")
    assert read("rust/meson.build").splitlines()[-2:] == ["subdir('smmuv3')", "subdir('hw')"]
    assert "smmuv3_accel_invalidate_batch(" in read("hw/arm/trace-events")
    assert all(overlay.Tree(case.src, case.project).applied())


def apply_copies_crates_and_headers_but_not_build_output(case: Case) -> None:
    case.apply()
    assert (case.src / "rust/hw/smmuv3-accel/src/accel/host.rs").read_text() == "// d\n"
    assert (case.src / "include/hw/arm/smmuv3-rust.h").exists()
    assert not (case.src / "rust/smmuv3/target").exists()


def second_apply_rewrites_nothing(case: Case) -> None:
    case.apply()
    times = {path: path.stat().st_mtime_ns for path in case.src.rglob("*")}
    assert case.apply() == 0
    assert {path: path.stat().st_mtime_ns for path in case.src.rglob("*")} == times


def revert_of_a_tree_without_overlay_changes_nothing(case: Case) -> None:
    assert case.revert() == 0
    assert snapshot(case.src) == case.pristine


def changed_source_alone_is_rewritten(case: Case) -> None:
    case.apply()
    (case.project / "rust/smmuv3/src/lib.rs").write_text("// new\n")
    assert case.apply() == 2  # it, and the list of copied files
    assert (case.src / "rust/smmuv3/src/lib.rs").read_text() == "// new\n"


def file_removed_here_is_removed_there(case: Case) -> None:
    case.apply()
    (case.project / "rust/hw/smmuv3-accel/src/accel/host.rs").unlink()
    case.apply()
    assert not (case.src / "rust/hw/smmuv3-accel/src").exists()
    case.revert()
    assert snapshot(case.src) == case.pristine


def other_changes_in_an_edited_file_survive_both_ways(case: Case) -> None:
    case.apply()
    case.edit("hw/arm/Kconfig", "config OTHER", "config THEIRS\n    bool\n\nconfig OTHER")
    assert case.apply() == 0
    case.revert()
    assert (case.src / "hw/arm/Kconfig").read_text() == "config THEIRS\n    bool\n\n" + TREE["hw/arm/Kconfig"]


def edits_of_another_version_are_replaced(case: Case) -> None:
    edits = overlay.EDITS
    case.apply()
    ours = snapshot(case.src)
    case.revert()
    try:
        overlay.EDITS = (
            *edits[1:], overlay.Edit(edits[0].file, "config OF_ANOTHER_VERSION\n    bool\n\n", after=edits[0].after),
            overlay.Edit("hw/arm/trace-events", "of_another_version(void) \"\"\n", before=r"^before.*\n"),
        )
        case.apply()
    finally:
        overlay.EDITS = edits
    case.apply()
    assert snapshot(case.src) == ours
    case.revert()
    assert snapshot(case.src) == case.pristine


def partly_edited_tree_is_completed_and_reverted(case: Case) -> None:
    case.apply()
    complete = snapshot(case.src)
    case.edit("rust/meson.build", "subdir('smmuv3')\n", "")
    case.edit("hw/arm/virt.c", "            return;\n", "")
    case.edit("hw/arm/meson.build", "3_C'", "3'")
    case.apply()
    assert snapshot(case.src) == complete
    case.edit("rust/hw/Kconfig", "source smmuv3-accel/Kconfig\n", "")
    case.revert()
    assert snapshot(case.src) == case.pristine


def tree_without_an_anchor_is_refused_by_file_and_anchor(case: Case) -> None:
    case.edit("hw/arm/Kconfig", "config ARM_SMMUV3\n", "config ARM_SMMU_V3\n")
    case.refuses(case.apply, "hw/arm/Kconfig", "config ARM_SMMUV3", "not recognised")


def tree_with_an_ambiguous_anchor_is_refused(case: Case) -> None:
    with (case.src / "rust/hw/Kconfig").open("a") as file:
        file.write("source char/Kconfig\n")
    case.refuses(case.apply, "rust/hw/Kconfig", "2 times")


def tree_without_a_file_is_refused(case: Case) -> None:
    (case.src / "rust/hw/meson.build").unlink()
    case.refuses(case.apply, "rust/hw/meson.build", "no such file")


def directory_that_is_no_qemu_is_refused(case: Case) -> None:
    (case.src / "VERSION").unlink()
    case.refuses(case.apply, "not a QEMU source tree")


def checkout_without_a_crate_is_refused(case: Case) -> None:
    shutil.rmtree(case.project / "rust/hw/smmuv3-accel")
    case.refuses(case.apply, "rust/hw/smmuv3-accel", "lacks the crate")


def somebody_elses_file_is_not_overwritten(case: Case) -> None:
    write_files(case.src, {"rust/smmuv3/src/lib.rs": "// theirs\n"})
    case.refuses(case.apply, "rust/smmuv3/src/lib.rs", "not ours")


def work_done_in_the_copy_is_not_lost(case: Case) -> None:
    case.apply()
    write_files(case.src, {"rust/smmuv3/src/lib.rs": "// edited in the tree\n"})
    (case.project / "rust/smmuv3/src/lib.rs").write_text("// edited here too\n")
    case.refuses(case.apply, "rust/smmuv3/src/lib.rs", "edited in the tree")
    case.refuses(case.revert, "rust/smmuv3/src/lib.rs", "edited in the tree")


def read_only_tree_is_refused_and_stays_as_it_is(case: Case) -> None:
    def as_nobody() -> None:
        """root may write anywhere, so somebody else tries."""
        pid = os.fork()
        if pid == 0:
            try:
                if os.getuid() == 0:
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                case.apply()
                os._exit(0)
            except overlay.OverlayError as error:
                os._exit(1 if re.search("Permission denied; nothing was changed", str(error)) else 2)
            except BaseException:
                os._exit(3)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 1, f"exit {code} where the error of permissions was expected"
        raise overlay.OverlayError("as expected")

    for path in [case.src, *case.src.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        case.refuses(as_nobody)
    finally:
        for path in [case.src, *case.src.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


def failure_half_way_is_undone(case: Case) -> None:
    """The last rename fails when all the others are done."""
    replace, calls = os.replace, 0

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    overlay.os.replace = failing
    try:
        case.refuses(case.apply, "No space left on device", "nothing was changed")
    finally:
        overlay.os.replace = replace
    assert calls == 8
    case.apply()


def command_line_tells_failure_by_its_exit_status(case: Case) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(HERE / "overlay"), *words], capture_output=True, text=True, check=False)

    (case.src / "VERSION").unlink()
    result = run("apply", str(case.src))
    assert result.returncode == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result
    assert run("frobnicate", str(case.src)).returncode == 2


CASES = [
    apply_then_revert_restores_every_byte,
    apply_makes_every_edit_in_its_place,
    apply_copies_crates_and_headers_but_not_build_output,
    second_apply_rewrites_nothing,
    revert_of_a_tree_without_overlay_changes_nothing,
    changed_source_alone_is_rewritten,
    file_removed_here_is_removed_there,
    other_changes_in_an_edited_file_survive_both_ways,
    edits_of_another_version_are_replaced,
    partly_edited_tree_is_completed_and_reverted,
    tree_without_an_anchor_is_refused_by_file_and_anchor,
    tree_with_an_ambiguous_anchor_is_refused,
    tree_without_a_file_is_refused,
    directory_that_is_no_qemu_is_refused,
    checkout_without_a_crate_is_refused,
    somebody_elses_file_is_not_overwritten,
    work_done_in_the_copy_is_not_lost,
    read_only_tree_is_refused_and_stays_as_it_is,
    failure_half_way_is_undone,
    command_line_tells_failure_by_its_exit_status,
]


def release_takes_the_overlay_and_gives_it_back(tarball: Path) -> Callable[[Case], None]:
    def test(case: Case) -> None:
        shutil.rmtree(case.src)
        wanted = {"VERSION", *(edit.file for edit in overlay.EDITS)}
        with tarfile.open(tarball) as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if name in wanted:
                    content = archive.extractfile(member)
                    assert content is not None
                    write_files(case.src, {name: content.read().decode()})
                    wanted.remove(name)
                if not wanted:
                    break
        case.pristine = snapshot(case.src)
        apply_then_revert_restores_every_byte(case)

    test.__name__ = f"{tarball.name}_takes_the_overlay_and_gives_it_back"
    return test


def run(case: Callable[[Case], None]) -> str | None:
    """What went wrong, if anything."""
    # Not in TMPDIR, which may be in a home directory that nobody but its owner can enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        Path(scratch).chmod(0o755)
        try:
            case(Case(Path(scratch)))
        except BaseException:
            return traceback.format_exc()
    return None


def main(tarballs: list[str]) -> int:
    cases = CASES + [release_takes_the_overlay_and_gives_it_back(Path(name)) for name in tarballs]
    return report(len(cases), (Outcome(case.__name__.replace("_", " "), run(case)) for case in cases))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
