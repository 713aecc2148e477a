#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""test-series.py [QEMU_SRC]: tests scripts/series and scripts/series-check without a build, and prints TAP.

The tests work on the small tree of test-overlay.py, and, if QEMU_SRC is a source tree, on that too: then QEMU's checkpatch.pl
reads each patch.
"""
from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
from load import load  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)
from tap import Outcome, report  # noqa: E402

series: Any = load("series")
check: Any = load("series-check")
stand_in: Any = load("test-overlay.py")
overlay = series.overlay

SRC: Path | None = None
# What checkpatch.pl may say of a patch, and why it does not matter.
ACCEPTED = {"added, moved or deleted file(s), does MAINTAINERS need updating?": "the last patch has all of them"}


class Case:
    """A QEMU tree, and a directory to write to."""

    def __init__(self, root: Path) -> None:
        self.root, self.src, self.out = root, root / "qemu", root / "out"
        stand_in.write_files(self.src, stand_in.TREE)
        # Our crates depend on packages that the small tree lacks.
        lock = self.src / overlay.LOCK
        present = {package["name"] for package in overlay.parse_toml(lock, lock.read_text())["package"]}
        manifests = [overlay.parse_toml(crate, (overlay.PROJECT / crate / "Cargo.toml").read_text()) for crate in overlay.CRATES]
        manifests = [{key: value for key, value in manifest.items() if key != "dev-dependencies"} for manifest in manifests]
        needed = {name for manifest in manifests for name in overlay.dependencies(manifest)}
        needed -= present | {manifest["package"]["name"] for manifest in manifests}
        lock.write_text(lock.read_text() + "".join(f'\n[[package]]\nname = "{name}"\nversion = "1.0.0"\n' for name in sorted(needed)))

    @functools.cached_property
    def series(self) -> Any:
        return series.Series(overlay.Tree(self.src))

    def refuses(self, action: Callable[[], object], *words: str) -> None:
        try:
            action()
        except series.SeriesError as error:
            assert "\n" not in str(error) and all(word in str(error) for word in words), str(error)
        else:
            raise AssertionError("was not refused")


# --- the patches ----------------------------------------------------------------------------------------------------


def git(place: Path, *words: str) -> str:
    return str(series.git(place, "-c", "user.name=a", "-c", "user.email=b", "-c", "commit.gpgSign=false", *words))


def applied_by_git(place: Path, base: dict[Path, Any], modes: Path, patches: list[Path]) -> dict[Path, tuple[object, int]]:
    """Applies patches to a clean tree with git am, and returns every file's content and mode."""
    place.mkdir()
    for path, content in base.items():
        stand_in.write_files(place, {str(path): content.decode()})
        (place / path).chmod((modes / path).stat().st_mode)
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "QEMU")):
        git(place, *words)
    git(place, "am", "--quiet", *map(str, patches[1:]))
    assert not git(place, "status", "--porcelain")
    files = (path for path in place.rglob("*") if ".git" not in path.parts and not path.is_dir())
    return {path.relative_to(place): (overlay.read(path), path.lstat().st_mode & 0o111) for path in files}


def series_equals_overlay(case: Case, src: Path) -> None:
    one = series.Series(overlay.Tree(src))
    patches = series.write(one, case.out)
    assert len(patches) > 50, len(patches)
    there = applied_by_git(case.root / "am", one.base, src, patches)
    plan = overlay.Tree(src).plan_apply()
    wanted = {path: content for path, content in plan.items()
              if content is not None and path not in (overlay.MANIFEST, overlay.RECORD)}
    assert there.keys() == wanted.keys(), there.keys() ^ wanted.keys()
    for path, content in wanted.items():
        mode = (src / path).stat().st_mode & 0o111 if path in one.base else 0
        assert there[path] == (content, mode), path


def applied_series_equals_overlay(case: Case) -> None:
    series_equals_overlay(case, case.src)


def series_of_overlaid_tree_is_the_same(case: Case) -> None:
    before = {path.name: path.read_bytes() for path in series.write(case.series, case.out)}
    overlay.Writer(case.src).carry_out(overlay.Tree(case.src, testing=True).plan_apply())
    after = {path.name: path.read_bytes() for path in series.write(series.Series(overlay.Tree(case.src)), case.out)}
    assert before == after


def earlier_patches_are_replaced(case: Case) -> None:
    case.out.mkdir()
    for name in ("0099-old.patch", "notes.txt"):
        (case.out / name).touch()
    series.write(case.series, case.out)
    assert not (case.out / "0099-old.patch").exists() and (case.out / "notes.txt").exists()


def every_file_and_edit_is_in_exactly_one_patch(case: Case) -> None:
    assert set(case.series.arrival) == set(overlay.copied_files(overlay.PROJECT))
    assert [edit for _, edit in case.series.edits] == list(overlay.EDITS)
    patches = case.series.patches

    def with_patch(index: int, **fields: Any) -> Any:
        changed = [*patches[:index], dataclasses.replace(patches[index], **fields), *patches[index + 1 :]]
        return series.Series(case.series.tree, changed)

    first = next(index for index, patch in enumerate(patches) if patch.files)
    case.refuses(lambda: with_patch(first, files=()).arrival, "is in 0 patches")
    case.refuses(lambda: with_patch(first, files=(*patches[first].files, "rust/smmuv3/src/lib.rs")).arrival, "lib.rs is in 2 patches")
    case.refuses(lambda: with_patch(0, edits=()).edits, "is in 0 patches")
    case.refuses(lambda: with_patch(0, edits=(*patches[0].edits, "MAINTAINERS")).edits, "MAINTAINERS", "is in 2 patches")


def patch_without_a_change_is_refused_or_left_out(case: Case) -> None:
    empty = series.Patch("900-empty", "a: B", "C.")
    author = series.Author("A", "a@b", 0)
    case.refuses(lambda: series.fast_import(series.Series(case.series.tree, [*case.series.patches, empty]), author), "900-empty")
    optional = dataclasses.replace(empty, optional=True)
    assert b"a: B" not in series.fast_import(series.Series(case.series.tree, [*case.series.patches, optional]), author)


def messages_are_wrapped_and_signed(case: Case) -> None:
    author = series.Author.configured()
    for patch in case.series.patches:
        lines = series.message_of(patch, author).splitlines()
        assert re.fullmatch(r"[\w/.-]+: [A-Z].*[^.]", lines[0]) and lines[1] == "", f"{patch.name}: {lines[0]}"
        assert len(lines) > 4, f"{patch.name} does not say why"
        assert [line for line in lines if line.startswith("Signed-off-by: ")] == [f"Signed-off-by: {author.line}"], patch.name
        for line in lines[:-1]:
            assert len(line) <= series.COLUMNS, f"{patch.name}: {line}"


def git_without_an_identity_is_refused(case: Case) -> None:
    project = case.root / "project"
    project.mkdir()
    git(project, "init", "--quiet")
    with changed(series, "PROJECT", project), environment(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null", EMAIL=None):
        case.refuses(series.Author.configured, "git config user.email")


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    old = dict(os.environ)
    # An identity in the environment would be one.
    for name in [*(name for name in old if name.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_"))), *values]:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old)


# --- the steps ------------------------------------------------------------------------------------------------------


def every_step_has_the_modules_that_it_names(case: Case) -> None:
    for step, contents in enumerate(case.series.steps):
        sources = {path: content.decode() for path, content in contents.items()
                   if path.suffix == ".rs" and any(path.is_relative_to(crate / "src") for crate in overlay.CRATES)}
        named = set()
        for path, text in sources.items():
            place = path.parent if path.name in ("lib.rs", "mod.rs") else path.with_suffix("")
            for name in re.findall(r"^(?:pub(?:\(\w+\))? )?mod (\w+);", text, re.M):
                found = {place / f"{name}.rs", place / name / "mod.rs"} & sources.keys()
                assert len(found) == 1, f"step {step}: {path} names {name}"
                named |= found
        roots = {path for path in sources if path.name == "lib.rs"}
        assert named | roots == sources.keys(), f"step {step}: nothing names {sources.keys() - named - roots}"
        for path, content in contents.items():
            if path.name == "meson.build" and any(path.is_relative_to(crate) for crate in overlay.CRATES):
                listed = {path.parent / name for name in re.findall(r"'(src/[\w/]+\.rs)'", content.decode())}
                assert listed <= sources.keys(), f"step {step}: {path} lists {listed - sources.keys()}"


def later_modules_leave_no_trace_in_a_source(case: Case) -> None:
    text = ("//! A crate.\n//!\n//! | [`a`], [`b`] | c |\n//! * [`a`]: d\n//!   e\n//! * [`b`]: f\n\n#[macro_use]\nmod a;\npub mod b;\n\n"
            "pub use a::{\n    One,\n    Two,\n};\nuse self::a::Three;\nuse abc::Four;\npub use b::Five;\n")
    lines = text.splitlines(keepends=True)
    left = "".join(series.without(lines, set(series.lines_of_modules(lines, {"a"}))))
    assert left == "//! A crate.\n//!\n//! * [`b`]: f\n\npub mod b;\n\nuse abc::Four;\npub use b::Five;\n", left


def blank_lines_are_kept_where_nothing_is_dropped(case: Case) -> None:
    lines = ["a\n", "\n", "\n", "b\n", "\n", "c\n", "\n", "d\n"]
    assert series.without(lines, set()) == lines
    assert series.without(lines, {5}) == ["a\n", "\n", "\n", "b\n", "\n", "d\n"]
    assert series.without(lines, {7}) == lines[:6]


def unknown_later_line_is_refused(case: Case) -> None:
    path = Path("rust/smmuv3/src/lib.rs")
    lines = ["a\n", "b\n", "c\n"]
    for first, last, indexes in (("b", None, [1]), ("b", "", [1, 2]), ("a", "b", [0, 1]), ("[ac]", None, [0, 2])):
        assert list(series.Lines(path, first, last).of(lines)) == indexes
    case.refuses(lambda: list(series.Lines(path, "x").of(lines)), "/x/")
    case.refuses(lambda: list(series.Lines(path, "b", "x").of(lines)), "/x/")
    patches = [*case.series.patches, series.Patch("900", "a: B", "C.", lines=(series.Lines(Path("none"), "x"),))]
    case.refuses(lambda: series.Series(case.series.tree, patches).later_lines, "none")


def unused_code_is_permitted_until_a_crate_is_complete(case: Case) -> None:
    for crate in overlay.CRATES:
        root = crate / "src/lib.rs"
        permits = [step for step, contents in enumerate(case.series.steps) if b"allow(unused)" in contents.get(root, b"")]
        last = [step for step, patch in enumerate(case.series.patches, 1) if patch.completes == str(crate)]
        assert permits == list(range(case.series.arrival[root], last[0])), f"{crate}: {permits}"


# --- the cover letter -----------------------------------------------------------------------------------------------


def cover_letter_has_every_number_of_readme(case: Case) -> None:
    text = " ".join(series.cover(case.series).split())
    readme = (series.PROJECT / "README.md").read_text()
    rows = [row for row in series.rows(readme.split("\n## ")[1]) if len(row) == 5]
    assert len(rows) > 10
    for row in rows:
        for cell in row:
            assert series.plain(cell) in text, cell
    assert "Entries may be removed at any time" in text, "the ordering argument of docs/design.md"


def cover_letter_s_own_text_has_no_number(case: Case) -> None:
    own = re.sub(r"\{\w+\}", "", series.COVER.read_text())
    found = re.findall(r"(?<![\w-])\d[\d.,]*(?![\w-])", own)
    assert not found, f"these are to come from README.md or docs/: {found}"
    for line in series.cover(case.series).splitlines():
        assert len(line) <= series.COLUMNS, line


def cover_letter_follows_the_documents(case: Case) -> None:
    project = case.root / "project"
    stand_in.write_files(project, {
        "README.md": "# A\n\n## Evidence\n\n| | C | Rust | commit | command |\n|---|--:|--:|---|---|\n"
                     "| ioctls | 12,345 | **67** | abc | `make x` |\n\n## B\n",
        "docs/parity.md": "# Parity\n\n## Part\n\n| a | verdict | tests |\n|---|---|---|\n| one | same | `t` |\n| two | different (choice) | `t` |\n"
                          "| three | different: x (defect) | `t` |\n| four | different (§1.2); y (defect) | `t` |\n",
        "docs/conformance.md": "| | a | s | c | q |\n|---|---|---|---|---|\n| R01 | x | 1 | `a`, `b` | `b` |\n"})  # fmt: skip
    with changed(series, "PROJECT", project):
        assert series.evidence() == "* ioctls\n    C 12,345, Rust 67 (abc, make x)"
        assert "1 requirements" in series.conformance() and "2 tests" in series.conformance()
        lines = series.differences()
        for words in ("1 behaviours are the same, 3 differ", "choice (1):\n  - Part: two", "C device (1):\n  - Part: three",
                      "asks for it (1):\n  - Part: four"):
            assert words in lines, lines
        case.refuses(lambda: series.section("docs/parity.md", "Gone"), "Gone")


def series_for_a_git_tree_names_its_commit(case: Case) -> None:
    assert "11.1.99" in series.cover(case.series)
    git(case.src, "init", "--quiet")
    git(case.src, "add", "--all")
    git(case.src, "commit", "--quiet", "--message", "QEMU")
    assert f"base-commit: {git(case.src, 'rev-parse', 'HEAD').strip()}" in series.cover(case.series).splitlines()


# --- series-check ---------------------------------------------------------------------------------------------------


def sample_has_first_last_and_three_between(case: Case) -> None:
    checks = check.checks_of(case.series)
    chosen = [one.number for one in check.sample(checks)]
    assert len(chosen) == len(set(chosen)) == 5 and chosen[0] == 1 and chosen[-1] == len(checks), chosen
    assert check.sample(checks[:4]) == checks[:4]


def check_builds_each_patch_and_remembers_passes(case: Case) -> None:
    with fake_builds(case) as (run, calls):
        assert run() == [None] * 3
        assert [what for what, _ in calls] == ["rust", "c", "clippy"]
        assert run() == [None] * 3 and len(calls) == 3, "was built again"
        assert run(again=True) == [None] * 3 and len(calls) == 6


def check_reports_a_failure_and_repeats_it(case: Case) -> None:
    with fake_builds(case, failing="c") as (run, calls):
        assert run() == [None, "broken", None]
        assert run() == [None, "broken", None] and len(calls) == 6


def failure_of_a_patch_that_had_passed_is_repeated(case: Case) -> None:
    with fake_builds(case) as (run, _):
        assert run() == [None] * 3
    with fake_builds(case, failing="changed") as (run, calls):
        assert run(quick=True, again=True) == ["broken", None]
        assert run(quick=True) == ["broken", None] and len(calls) == 4
        assert run() == [None] * 3 and len(calls) == 7, "has not passed"


def quick_check_compiles_crates_and_changed_files_only(case: Case) -> None:
    with fake_builds(case) as (run, calls):
        assert run(quick=True) == [None] * 2
        assert [what for what, _ in calls] == ["changed", "clippy"]
        assert run(quick=True) == [None] * 2 and len(calls) == 2, "was compiled again"
        assert run() == [None] * 3 and len(calls) == 5, "took the quick check for builds"
        for stamp in (case.root / "place/passed").glob("*.quick"):
            stamp.unlink()
        assert run(quick=True) == [None] * 2 and len(calls) == 5, "what builds was compiled again"


def objects_of_changed_c_files_are_compiled(case: Case) -> None:
    place = case.root / "place"
    first = check.checks_of(case.series)[0]
    assert Path("hw/pci/pci_bridge.c") in first.changed and Path("include/hw/pci/pci_bridge.h") in first.changed
    commands = [{"file": file, "output": file.rpartition("/")[2] + ".o"}
                for file in ("../src/hw/pci/pci_bridge.c", "../src/hw/pci/pci.c", f"{place}/src/hw/pci/pci_bridge.c", "qapi/qapi-events.c")]
    stand_in.write_files(place / "build-rust", {"compile_commands.json": json.dumps(commands)})
    assert list(check.changed_objects(first, place / "build-rust")) == ["pci_bridge.c.o"] * 2
    ran: list[list[str]] = []
    with changed(check, "in_root", lambda words, where: (bool(ran.append(words)), "x\nfailed")):
        assert check.compile_targets([], place) is None and not ran, "ninja would build everything"
        assert check.compile_targets(["a.o"], place) == "x\nfailed" and ran == [["ninja", "a.o"]]


def copies_of_trees_that_are_not_used_are_deleted(case: Case) -> None:
    cache = case.root / "cache"
    places = [cache / f"series-{number:012x}" for number in range(5)]
    for age, place in enumerate(places):
        place.mkdir(parents=True)
        os.utime(place, (10**9 - age, 10**9 - age))
    for name in ("series", "series-notes"):
        (cache / name).mkdir()
    check.prune(places[4])
    assert {path.name for path in cache.iterdir()} == {"series", "series-notes"} | {places[n].name for n in (0, 1, 4)}


@contextmanager
def fake_builds(case: Case, failing: str = "") -> Iterator[tuple[Callable[..., list[str | None]], list[tuple[str, bool]]]]:
    """Checks the patch that adds the first binding, with functions in place of builds. They note whether the tree has it."""
    calls: list[tuple[str, bool]] = []
    place = case.root / "place"
    (place / "src").mkdir(parents=True, exist_ok=True)
    overlay.Writer(place / "src").carry_out(dict(case.series.steps[0]) | {Path("VERSION"): b"1\n"})
    checks = [one for one in check.checks_of(case.series) if "blocker" in one.patch.name]
    assert len(checks) == 1 and checks[0].crates == {"rust/qemu-ext"}

    def act(kind: str) -> str | None:
        calls.append((kind, (place / "src/rust/qemu-ext/src/blocker.rs").exists()))
        return "broken" if kind == failing else None

    def run(again: bool = False, quick: bool = False) -> list[str | None]:
        return [one.trouble for one in check.outcomes(checks, place, 1, again=again, quick=quick)]

    with changed(check, "make", lambda kind, one, build: act(kind)), changed(check, "clippy", lambda one, build: act("clippy")), \
            changed(check, "compile_changed", lambda one, build: act("changed")), changed(check, "environment", lambda: "root"):
        yield run, calls
    assert all(there for _, there in calls)


def copied_tree_has_no_overlay_and_no_builds(case: Case) -> None:
    pristine = stand_in.snapshot(case.src)
    overlay.Writer(case.src).carry_out(overlay.Tree(case.src).plan_apply())
    stand_in.write_files(case.src, {"build/build.ninja": "", "build/large": ""})
    place = case.root / "place"
    place.mkdir()
    with changed(check, "in_root", lambda words, where: (True, "")):
        check.copy_tree(case.src, place)
    assert stand_in.snapshot(place / "src") == pristine


def copied_git_tree_has_its_tracked_files_only(case: Case) -> None:
    git(case.src, "init", "--quiet")
    git(case.src, "add", "--all")
    git(case.src, "commit", "--quiet", "--message", "QEMU")
    stand_in.write_files(case.src, {"untracked": "", "subprojects/packagecache/a.crate": ""})
    names = {str(path.relative_to(case.src)) for path in check.files_of(case.src)}
    assert "untracked" not in names and "subprojects/packagecache/a.crate" in names and "VERSION" in names
    assert not any(name.startswith(".git/") for name in names)


# --- QEMU's source --------------------------------------------------------------------------------------------------


def applied_series_for_qemu_equals_overlay(case: Case) -> None:
    assert SRC is not None
    series_equals_overlay(case, SRC)


def checkpatch_accepts_every_patch(case: Case) -> None:
    assert SRC is not None
    patches = series.write(series.Series(overlay.Tree(SRC)), case.out)[1:]
    problems = [f"{patch.name}: {words}" for patch in patches for words in checkpatch(patch) if words not in ACCEPTED]
    assert not problems, "\n".join(problems)


def checkpatch(patch: Path) -> list[str]:
    """Returns the first lines of what QEMU's checkpatch.pl says about a patch."""
    done = subprocess.run(["perl", "scripts/checkpatch.pl", "--color=never", str(patch)], cwd=SRC, capture_output=True, text=True, check=False)
    assert re.search(r"^total: \d+ errors", done.stdout, re.M), done.stdout + done.stderr
    return re.findall(r"^(?:ERROR|WARNING): (.*)", done.stdout, re.M)


def checkpatch_finds_a_long_line(case: Case) -> None:
    assert SRC is not None
    patch = series.write(series.Series(overlay.Tree(SRC)), case.out)[1]
    patch.write_text(patch.read_text().replace("+void pci_bridge_add_bus", f"+/* {'x' * 100} */ void pci_bridge_add_bus"))
    assert "line over 90 characters" in checkpatch(patch)


CASES = [
    applied_series_equals_overlay,
    series_of_overlaid_tree_is_the_same,
    earlier_patches_are_replaced,
    every_file_and_edit_is_in_exactly_one_patch,
    patch_without_a_change_is_refused_or_left_out,
    messages_are_wrapped_and_signed,
    git_without_an_identity_is_refused,
    every_step_has_the_modules_that_it_names,
    later_modules_leave_no_trace_in_a_source,
    blank_lines_are_kept_where_nothing_is_dropped,
    unknown_later_line_is_refused,
    unused_code_is_permitted_until_a_crate_is_complete,
    cover_letter_has_every_number_of_readme,
    cover_letter_s_own_text_has_no_number,
    cover_letter_follows_the_documents,
    series_for_a_git_tree_names_its_commit,
    sample_has_first_last_and_three_between,
    check_builds_each_patch_and_remembers_passes,
    check_reports_a_failure_and_repeats_it,
    failure_of_a_patch_that_had_passed_is_repeated,
    quick_check_compiles_crates_and_changed_files_only,
    objects_of_changed_c_files_are_compiled,
    copies_of_trees_that_are_not_used_are_deleted,
    copied_tree_has_no_overlay_and_no_builds,
    copied_git_tree_has_its_tracked_files_only,
]
WITH_QEMU = [
    applied_series_for_qemu_equals_overlay,
    checkpatch_accepts_every_patch,
    checkpatch_finds_a_long_line,
]


def run(case: Callable[[Case], None]) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            case(Case(Path(scratch)))
        except BaseException:
            return Outcome(case.__name__.replace("_", " "), traceback.format_exc())
    return Outcome(case.__name__.replace("_", " "))


def main(argv: list[str]) -> int:
    global SRC
    SRC = Path(argv[1]).resolve() if len(argv) > 1 else None
    cases = CASES + (WITH_QEMU if SRC else [])
    return report(len(cases), map(run, cases))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
