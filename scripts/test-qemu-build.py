#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests scripts/qemu-build with clones that share a QEMU source tree, and prints TAP.

The scripts under test are the real ones. They run on a small tree, with shell scripts in place of QEMU's configure, ninja
and the build environment. The "binary" that ninja writes contains the sources that it has found in the tree.
"""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True
from load import load  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)
from tap import Outcome, report  # noqa: E402

HERE = Path(__file__).resolve().parent
REAL = ("lib.sh", "overlay", "qemu-build", "qemu-overlay", "rustc-asan")
PATIENCE = 30  # seconds for commands that take one or two
SOON = 0.7  # seconds after which a run that has not ended must be waiting for the lock

test_overlay = load("test-overlay.py")

SOURCE = "rust/smmuv3/src/lib.rs"
KCONFIG = "rust/hw/smmuv3-accel/Kconfig"
THEIRS = "hw/arm/other.c"
STAND_INS = {
    "in-root": 'exec env "$@"',
    "root": 'echo "$CACHE/root-1"',
    "qemu-fetch": 'realpath "${QEMU_SRC:-$CACHE/qemu-1/src}"',
    "release-finish": 'echo "$1 in $ROOT_NAME" >"$3/depends"',
}
TOOLS = {
    "nm": "cat -- $2",
    "rustc": "echo rustc 1.85.0",
    # Waits up to WAIT tenths of a second for another run to change the tree, and runs MEDDLE while it "compiles".
    "ninja": f"""
        src=$(cat source)
        echo "$PWD" >>"$CACHE/ninja.log"
        echo "$*" >"$CACHE/ninja.targets"
        before=$(cat "$src/{SOURCE}")
        while [ "${{WAIT:-0}}" -gt 0 ] && [ "$(cat "$src/{SOURCE}")" = "$before" ]; do WAIT=$((WAIT - 1)); sleep 0.1; done
        eval "${{MEDDLE:-}}"
        {{ echo '#!/bin/sh'; cat "$src/{SOURCE}" "$src/{KCONFIG}" "$src/{THEIRS}"; }} >qemu-system-aarch64 &&
        chmod +x qemu-system-aarch64 &&
        echo '[1/1] linked'
    """,
}
# The statements of build.ninja that are about our crates, as meson writes them.
BUILD_NINJA = """
build other.o: c_COMPILER ../src/other.c || generated.h
build rust/smmuv3/libsmmuv3.rlib: rust_COMPILER lib.rs | bilge.rlib || bilge.rlib
build rust/qemu-ext/libqemu_ext.rlib: rust_COMPILER ext/lib.rs | qom.rlib || ext/bindings.rs
build rust/hw/smmuv3-accel/libsmmuv3_accel.rlib: rust_COMPILER accel/lib.rs | rust/qemu-ext/libqemu_ext.rlib || accel/bindings.rs
"""
CONFIGURE = f"""
    dirname "$0" >source
    echo "$@" >options
    cat >build.ninja <<'END'{BUILD_NINJA}END
    mkdir -p qemu-bundle/share
    echo built >trace
    ln -s "$PWD/trace" qemu-bundle/share/trace
    ln -s "$PWD/nothing" qemu-bundle/share/not-built
    ln -s "$PWD/qemu-system-aarch64" qemu-bundle/qemu-system-aarch64
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class World:
    """A cache with a QEMU tree, and clones that use it, in a temporary directory."""

    def __init__(self, place: Path) -> None:
        self.place, self.cache = place, place / "cache"
        self.tree = self.new_tree(self.cache / "qemu-1/src")
        self.builds = self.tree.parent
        for name, text in TOOLS.items():
            script(place / "bin" / name, text)
        self.running: list[subprocess.Popen[str]] = []

    @staticmethod
    def new_tree(path: Path) -> Path:
        test_overlay.write_files(path, {**test_overlay.TREE, THEIRS: "theirs\n"})
        script(path / "configure", CONFIGURE)
        return path

    def clone(self, name: str, device: str) -> Clone:
        return Clone(self, self.place / name, device)

    def ninjas(self) -> int:
        """Returns how often ninja has run."""
        log = self.cache / "ninja.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def binaries(self, builds: Path | None = None) -> list[Path]:
        return sorted(((builds or self.builds) / "bin").rglob("qemu-system-aarch64"))

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Clone:
    def __init__(self, world: World, path: Path, device: str) -> None:
        self.world, self.path = world, path
        test_overlay.write_files(path, {**test_overlay.CRATES, KCONFIG: "# ours\n"})
        self.write(SOURCE, device)
        for name in REAL:
            if (HERE / name).exists():
                (path / "scripts").mkdir(exist_ok=True)
                shutil.copy2(HERE / name, path / "scripts" / name)
        for name, text in STAND_INS.items():
            script(path / "scripts" / name, text)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(f"{text}\n")

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text()
        assert old in text, f"the case is wrong: {name} lacks {old!r}"
        (self.path / name).write_text(text.replace(old, new))

    def start(self, *words: str, command: str = "qemu-build", **variables: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "QEMU_SRC" and not name.startswith("HELD_")}
        environment |= {"PATH": f"{self.world.place}/bin:{os.environ['PATH']}", "CACHE": str(self.world.cache), **variables}
        process = subprocess.Popen([self.path / "scripts" / command, *words], env=environment, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.world.running.append(process)
        return process

    def build(self, *words: str, **variables: str) -> Path:
        return result(self.start(*(words or ("x86",)), **variables))

    def fails(self, *words: str, **variables: str) -> str:
        """Runs a build that must fail, and returns its messages."""
        process = self.start(*(words or ("x86",)), **variables)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0 and not out, f"the build has not failed: {out}{err}"
        return err

    def with_build(self, **variables: str) -> subprocess.Popen[str]:
        """Starts a command that prints the tree's source for each line that it reads, and waits until it runs."""
        source = Path(variables.get("QEMU_SRC", self.world.tree)) / SOURCE
        loop = f'echo begun; while read line; do cat "{source}"; done'
        process = self.start("--with", "x86", "--", "sh", "-c", loop, **variables)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n", process.communicate()
        return process


def result(process: subprocess.Popen[str]) -> Path:
    """Returns the path that a build prints."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.count("\n") == 1, f"not one path: {out!r}"
    return Path(out.strip())


def waits(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(SOON)
    except subprocess.TimeoutExpired:
        return True
    return False


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def concurrent_clones_get_their_own_device(world: World) -> None:
    builds = {device: world.clone(device, device).start("x86", WAIT="15") for device in ("one", "two")}
    for device, path in {device: result(process) for device, process in builds.items()}.items():
        assert device in path.read_text(), f"the binary of {device} holds: {path.read_text()}"


def later_build_keeps_binary_of_other_clone(world: World) -> None:
    first, second = (world.clone(device, device).build() for device in ("one", "two"))
    assert "one" in first.read_text() and "two" in second.read_text()


def same_sources_are_built_once(world: World) -> None:
    builds = [world.clone(name, "same").start("x86", WAIT="5") for name in ("one", "two")]
    first, second = map(result, builds)
    assert first == second == world.clone("three", "same").build()
    assert world.ninjas() == 1, world.ninjas()


def command_keeps_the_tree_until_it_ends(world: World) -> None:
    one, same, two = (world.clone(name, device) for name, device in (("one", "one"), ("same", "one"), ("two", "two")))
    command = one.with_build()
    assert "one" in same.build().read_text(), "a binary that exists needs no lock"
    other = two.start("x86")
    assert waits(other), "the other clone built in a tree that is in use"
    assert ask(command) == "one"
    out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0 and not out, (out, err)
    assert "two" in result(other).read_text()


def command_gets_directories_and_returns_its_status(world: World) -> None:
    words = ("sh", "-c", 'echo "$@"; exit 7', "sh", "{x86}", "in={x86-c}/a")
    process = world.clone("one", "one").start("--with", "x86", "x86-c", "--", *words)
    out, err = process.communicate(timeout=PATIENCE)
    assert out == f"{world.builds}/build-x86 in={world.builds}/build-x86-c/a\n", (out, err)
    assert process.returncode == 7, process.returncode


def inputs_are_built_without_our_crates(world: World) -> None:
    one = world.clone("one", "one")
    process = one.start("--inputs", "x86", "--", "cat", world.tree / SOURCE)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and out == "one\n", (out, err)
    targets = sorted((world.cache / "ninja.targets").read_text().split())
    assert targets == ["accel/bindings.rs", "accel/lib.rs", "bilge.rlib", "ext/bindings.rs", "ext/lib.rs", "lib.rs", "qom.rlib"], targets
    assert not world.binaries(), "inputs are no binary"
    assert "usage" in one.fails("--inputs", "x86-c", "--", "true"), "the C device has no such inputs"


def build_inside_a_command_does_not_deadlock(world: World) -> None:
    one = world.clone("one", "one")
    assert "one" in one.build("--with", "x86", "--", f"{one.path}/scripts/qemu-build", "x86").read_text()


def command_after_another_clones_build_gets_its_own_sources(world: World) -> None:
    one, two = world.clone("one", "one"), world.clone("two", "two")
    one.build()
    two.build()
    process = one.start("--with", "x86", "--", "cat", "{x86}/qemu-system-aarch64")
    out, err = process.communicate(timeout=PATIENCE)
    assert "one" in out and "two" not in out, (out, err)


def c_device_is_not_rebuilt_for_rust_sources(world: World) -> None:
    clone = world.clone("one", "one")
    first = clone.build("x86-c")
    clone.write(SOURCE, "changed")
    assert clone.build("x86-c") == first
    assert world.ninjas() == 1, world.ninjas()
    clone.write(KCONFIG, "# changed")
    second = clone.build("x86-c")
    assert second != first and "# changed" in second.read_text()
    clone.replace("scripts/overlay", "batch(uint32_t count", "batch(uint32_t number")
    assert clone.build("x86-c") not in (first, second), "the edits of QEMU's files differ"
    events = (world.tree / "hw/arm/trace-events").read_text()
    assert events.count("invalidate_batch") == 1 and "uint32_t number" in events, events


def failed_build_leaves_no_binary(world: World) -> None:
    clone = world.clone("one", "one")
    assert "does not build" in clone.fails(MEDDLE="exit 1")
    assert not world.binaries()
    assert "one" in clone.build().read_text()


def killed_build_leaves_no_binary_and_no_lock(world: World) -> None:
    one, two = world.clone("one", "one"), world.clone("two", "two")
    process = one.start("x86", WAIT=str(10 * PATIENCE))
    deadline = time.monotonic() + PATIENCE
    while not world.ninjas():
        assert time.monotonic() < deadline, "ninja does not start"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not world.binaries()
    assert "two" in two.build().read_text()
    assert "one" in one.build().read_text()


def sources_changed_during_compilation_are_an_error(world: World) -> None:
    clone = world.clone("one", "one")
    said = clone.fails(MEDDLE=f'echo another >"$src/{SOURCE}"')
    assert "changed while QEMU was built" in said, said
    assert not world.binaries()


def clone_edited_during_a_build_is_built_again(world: World) -> None:
    clone = world.clone("one", "early")
    first = clone.build(MEDDLE=f'echo late >"{clone.path / SOURCE}"')
    assert "early" in first.read_text()
    second = clone.build()
    assert "late" in second.read_text() and "early" in first.read_text()


def changed_file_of_the_users_tree_is_built(world: World) -> None:
    src = world.new_tree(world.place / "theirs")
    clone = world.clone("one", "one")
    first = clone.build(QEMU_SRC=str(src))
    (src / THEIRS).write_text("changed\n")
    second = clone.build(QEMU_SRC=str(src))
    assert "theirs" in first.read_text() and "changed" in second.read_text()
    assert not world.binaries(), "the build used the cache's tree"


def revert_waits_for_a_command_in_the_users_tree(world: World) -> None:
    src = world.new_tree(world.place / "theirs")
    clone = world.clone("one", "one")
    command = clone.with_build(QEMU_SRC=str(src))
    revert = clone.start("revert", command="qemu-overlay", QEMU_SRC=str(src))
    assert waits(revert), "the overlay was removed from a tree in use"
    assert ask(command) == "one"
    command.communicate(timeout=PATIENCE)
    _, err = revert.communicate(timeout=PATIENCE)
    assert revert.returncode == 0, err
    assert not (src / SOURCE).exists()


def binary_needs_nothing_of_the_build_directory(world: World) -> None:
    binary = world.clone("one", "one").build()
    shutil.rmtree(world.builds / "build-x86")
    assert "one" in binary.read_text() and os.access(binary, os.X_OK)
    assert (binary.parent / "qemu-bundle/share/trace").read_text() == "built\n"
    assert len(list(binary.parent.rglob("qemu-system-aarch64"))) == 1


def old_binaries_are_deleted_unless_new_or_running(world: World) -> None:
    clone = world.clone("one", "one")
    first = clone.build()
    place = first.parent.parent
    names = [f"old-{number}" for number in range(7)]
    for age, name in enumerate(["recent", "runs", *names], 1):
        (place / name).mkdir()
        shutil.copy2(shutil.which("sleep") or "/bin/sleep", place / name / "qemu-system-aarch64")
        hours = 1 if name == "recent" else 10 + age if name != "runs" else 1000
        then = time.time() - 3600 * hours
        os.utime(place / name, (then, then))
    process = subprocess.Popen([place / "runs/qemu-system-aarch64", "60"], start_new_session=True)
    world.running.append(process)  # type: ignore[arg-type]
    clone.write(SOURCE, "two")
    second = clone.build()
    kept = {path.name for path in place.iterdir()}
    # The newest four are the two that were built, the recent one, and one of the old ones.
    assert kept == {first.parent.name, second.parent.name, "recent", "runs", "old-0"}, kept


def binary_without_its_sanitizer_is_an_error(world: World) -> None:
    clone = world.clone("one", "one")
    assert "has no AddressSanitizer" in clone.fails("x86-asan")
    assert not world.binaries()
    clone.write(SOURCE, "__asan_report")
    crates = "rust/smmuv3/libsmmuv3 rust/qemu-ext/libqemu_ext rust/hw/smmuv3-accel/libsmmuv3_accel"
    compile_crates = f'for crate in {crates}; do mkdir -p "$(dirname "$crate")"; echo __asan_report >"$crate.rlib"; done'
    assert "__asan_report" in clone.build("x86-asan", MEDDLE=compile_crates).read_text()


def have_succeeds_for_earlier_sources(world: World) -> None:
    clone = world.clone("one", "one")
    clone.fails("--have", "x86")
    clone.build()
    clone.write(SOURCE, "changed")
    process = clone.start("--have", "x86")
    assert process.communicate(timeout=PATIENCE) == ("", "") and process.returncode == 0
    clone.fails("--have", "x86", "x86-c")


def release_is_finished_in_its_own_environment(world: World) -> None:
    clone = world.clone("one", "one")
    binary = clone.build("release-arm64")
    assert binary.parent.parent.name == "release-arm64"
    assert (binary.parent / "depends").read_text() == "arm64 in release-arm64\n"
    assert not (clone.build("x86").parent / "depends").exists()
    assert clone.build("release-arm64") == binary and world.ninjas() == 2
    script(clone.path / "scripts/release-finish", 'echo changed >"$3/depends"')
    assert (clone.build("release-arm64").parent / "depends").read_text() == "changed\n"


def release_has_firmware_if_the_tree_has(world: World) -> None:
    src = world.new_tree(world.place / "theirs")
    clone = world.clone("one", "one")

    def build() -> tuple[str, str]:
        clone.build("release-amd64", QEMU_SRC=str(src))
        (options,) = world.cache.glob("qemu-own-*/build-release-amd64/options")
        return options.read_text(), (world.cache / "ninja.targets").read_text()

    options, targets = build()
    assert "--disable-install-blobs" in options and "edk2" not in targets, (options, targets)
    (src / "pc-bios").mkdir()
    (src / "pc-bios/efi-virtio.rom").write_text("")
    options, targets = build()
    assert "blobs" not in options and "edk2-aarch64-code.fd" in targets, (options, targets)


def kinds_of_different_environments_are_refused(world: World) -> None:
    for kinds in (("release-amd64", "x86"), ("x86", "release-arm64"), ("release-amd64", "release-arm64")):
        assert "different environments" in world.clone("one", "one").fails(*kinds)
    assert not world.ninjas()


CASES: list[Callable[[World], None]] = [
    concurrent_clones_get_their_own_device,
    later_build_keeps_binary_of_other_clone,
    same_sources_are_built_once,
    command_keeps_the_tree_until_it_ends,
    command_gets_directories_and_returns_its_status,
    inputs_are_built_without_our_crates,
    build_inside_a_command_does_not_deadlock,
    command_after_another_clones_build_gets_its_own_sources,
    c_device_is_not_rebuilt_for_rust_sources,
    failed_build_leaves_no_binary,
    killed_build_leaves_no_binary_and_no_lock,
    sources_changed_during_compilation_are_an_error,
    clone_edited_during_a_build_is_built_again,
    changed_file_of_the_users_tree_is_built,
    revert_waits_for_a_command_in_the_users_tree,
    binary_needs_nothing_of_the_build_directory,
    old_binaries_are_deleted_unless_new_or_running,
    binary_without_its_sanitizer_is_an_error,
    have_succeeds_for_earlier_sources,
    release_is_finished_in_its_own_environment,
    release_has_firmware_if_the_tree_has,
    kinds_of_different_environments_are_refused,
]


def run(case: Callable[[World], None]) -> Outcome:
    trouble = None
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch).resolve())
        try:
            case(world)
        except Exception:
            trouble = traceback.format_exc()
        finally:
            world.end()
    return Outcome(case.__name__.replace("_", " "), trouble)


if __name__ == "__main__":
    sys.exit(report(len(CASES), map(run, CASES)))
