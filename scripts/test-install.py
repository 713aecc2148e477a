#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests scripts/install and scripts/deb without a build, and prints TAP.

The scripts under test are the real ones, in a clone of their own. In place of QEMU's build there is a script that makes
the directory that scripts/qemu-build would print. dpkg-deb is the real one.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True
from tap import Outcome, report  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)

HERE = Path(__file__).resolve().parent
REAL = ("scripts/lib.sh", "scripts/release.sh", "scripts/install", "scripts/deb", "docs/qemu-system-aarch64-smmuv3.1")
NAME = "qemu-system-aarch64-smmuv3"
DATA = "share/qemu-smmuv3"
DEPENDS = "libc6 (>= 2.38), libslirp0 (>= 4.7.0)"
RUNS = '[ "$*" = --version ] && echo QEMU emulator'
# Runs a command that has no more rights to files than their modes give it, if the user is root.
BY_MODES = ("setpriv", "--bounding-set=-dac_override")
# Data of a build of a tree with firmware images; some is of other architectures.
IMAGES = {"efi-virtio.rom": "rom", "vgabios-ramfb.bin": "vga", "edk2-aarch64-code.fd": "edk2", "bios-256k.bin": "x86",
          "firmware/60-edk2-aarch64.json": '{"filename": "/usr/local/share/qemu-smmuv3/edk2-aarch64-code.fd"}',
          "firmware/60-edk2-x86_64.json": "{}"}  # fmt: skip
FILES = {f"bin/{NAME}", f"{DATA}/keymaps/de", f"{DATA}/installed-files", f"share/doc/{NAME}/copyright", f"share/man/man1/{NAME}.1",
         "libexec/qemu-smmuv3/qemu-bridge-helper"}  # fmt: skip


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class World:
    """A clone with a built QEMU, and a place to install it, in a temporary directory."""

    def __init__(self, place: Path) -> None:
        place.chmod(0o755)
        self.place, self.clone, self.built = place, place / "clone", place / "built"
        self.to = place / "to"
        self.to.mkdir()
        for name in REAL:
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE.parent / name, self.clone / name)
        script(self.clone / "scripts/in-root", 'exec env "$@"')
        script(self.clone / "scripts/qemu-build", f'echo "$*" >>"{place}/kinds"; echo "{self.built}/qemu-system-aarch64"')
        self.build(RUNS)
        self.environment = {"PATH": f"{place}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(place / "home"), "LANG": "C.UTF-8",
                            "CACHE": str(place / "cache")}  # fmt: skip

    def build(self, binary: str, data: dict[str, str] | None = None) -> None:
        """Makes what scripts/qemu-build makes. The text of the binary is a shell script."""
        shutil.rmtree(self.built, ignore_errors=True)
        script(self.built / "qemu-system-aarch64", binary)
        for name, text in {"keymaps/de": "keys", **(data or {})}.items():
            path = self.built / "qemu-bundle/usr/local" / DATA / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, text in {"depends": DEPENDS, "copyright": "GPL", "version": "11.1.1"}.items():
            (self.built / name).write_text(f"{text}\n")

    def commit(self) -> None:
        variables = {**self.environment, "GIT_COMMITTER_DATE": "2026-11-30T11:00:00Z", "GIT_AUTHOR_DATE": "2026-11-30T11:00:00Z"}
        for words in (("init", "-q"), ("config", "user.name", "A Builder"), ("config", "user.email", "builder@example.org"),
                      ("add", "-A"), ("commit", "-q", "-m", "x")):  # fmt: skip
            subprocess.run(["git", "-C", self.clone, *words], env=variables, check=True)

    def run(self, command: str, *words: str, umask: int = 0o022, under: tuple[str, ...] = (), **variables: str) -> tuple[int, str, str]:
        done = subprocess.run([*under, self.clone / "scripts" / command, *words], env=self.environment | variables,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, umask=umask, cwd=self.place, timeout=60, check=False)  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def does(self, command: str, *words: str, umask: int = 0o022, **variables: str) -> str:
        """Runs a command that must succeed, and returns its output."""
        status, out, err = self.run(command, *words, umask=umask, **variables)
        assert status == 0 and "error" not in err, (status, err)
        return out.strip()

    def refuses(self, *texts: str, command: str = "install", words: tuple[str, ...] = (), under: tuple[str, ...] = (),
                **variables: str) -> None:
        """Checks that a command fails with one error, which has these texts."""
        status, out, err = self.run(command, *words, under=under, **variables)
        found = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 1 and not out and len(found) == 1 and len(err.splitlines()) == 1, f"status {status}: {out}{err}"
        for text in texts:
            assert text in found[0], f"no {text!r} in {found[0]}"

    def files(self, below: Path | None = None) -> set[str]:
        below = below or self.to
        return {str(path.relative_to(below)) for path in below.rglob("*") if path.is_symlink() or not path.is_dir()}

    def kinds(self) -> list[str]:
        """Returns the builds that were asked for."""
        log = self.place / "kinds"
        return log.read_text().splitlines() if log.exists() else []

    def deb(self, **variables: str) -> Path:
        return Path(self.does("deb", **variables))

    def fields(self, deb: Path) -> dict[str, str]:
        text = subprocess.run(["dpkg-deb", "--field", deb], stdout=subprocess.PIPE, text=True, check=True).stdout
        return dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith(" "))

    def unpack(self, deb: Path) -> Path:
        to = self.place / "unpacked"
        subprocess.run(["dpkg-deb", "--raw-extract", deb, to], check=True)
        return to


# --- make install -------------------------------------------------------------------------------------------------


def install_puts_files_below_prefix(world: World) -> None:
    world.does("install", PREFIX=str(world.to), umask=0o077)
    assert world.files() == FILES, world.files() ^ FILES
    assert (world.to / f"bin/{NAME}").stat().st_mode & 0o777 == 0o755
    for path in world.to.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o044 == 0o044, f"{path} has mode {path.stat().st_mode:o}"


def install_default_prefix_is_usr_local(world: World) -> None:
    for variables in ({}, {"PREFIX": ""}):
        world.does("install", DESTDIR=str(world.to), **variables)
        assert world.files(world.to / "usr/local") == FILES


def install_into_destdir_with_spaces(world: World) -> None:
    to = world.to / "a  b 'c'"
    world.does("install", DESTDIR=str(to), PREFIX="/opt/my qemu")
    assert world.files(to / "opt/my qemu") == FILES
    world.does("install", "--remove", DESTDIR=str(to), PREFIX="/opt/my qemu")
    assert not to.exists() or not list(to.rglob("qemu*")), list(to.rglob("*"))


def install_takes_only_data_for_arm(world: World) -> None:
    world.build(RUNS, IMAGES)
    world.does("install", DESTDIR=str(world.to), PREFIX="/opt/q")
    data = world.to / "opt/q" / DATA
    expected = {"efi-virtio.rom", "vgabios-ramfb.bin", "edk2-aarch64-code.fd", "firmware/60-edk2-aarch64.json", "keymaps/de",
                "installed-files"}  # fmt: skip
    assert world.files(data) == expected, world.files(data)
    assert (data / "firmware/60-edk2-aarch64.json").read_text() == '{"filename": "/opt/q/share/qemu-smmuv3/edk2-aarch64-code.fd"}'


def install_touches_no_file_of_distribution(world: World) -> None:
    theirs = {"bin/qemu-system-aarch64": "a", "share/qemu/keymaps/de": "b", "share/man/man1/qemu.1": "c", "share/doc/x/y": "d"}
    for name, text in theirs.items():
        (world.to / name).parent.mkdir(parents=True, exist_ok=True)
        (world.to / name).write_text(text)
    directories = {path for path in world.to.rglob("*") if path.is_dir()}
    world.does("install", PREFIX=str(world.to))
    world.does("install", "--remove", PREFIX=str(world.to))
    assert {name: (world.to / name).read_text() for name in world.files()} == theirs
    assert {path for path in world.to.rglob("*") if path.is_dir()} == directories


def uninstall_leaves_nothing(world: World) -> None:
    world.build(RUNS, IMAGES)
    world.does("install", PREFIX=str(world.to))
    world.does("install", "--remove", PREFIX=str(world.to))
    assert not list(world.to.iterdir()), list(world.to.rglob("*"))


def uninstall_keeps_files_of_others(world: World) -> None:
    world.does("install", PREFIX=str(world.to))
    (world.to / DATA / "mine").write_text("")
    world.does("install", "--remove", PREFIX=str(world.to))
    assert world.files() == {f"{DATA}/mine"}


def uninstall_without_installation_is_refused(world: World) -> None:
    world.refuses("no installation in", "PREFIX and DESTDIR", words=("--remove",), PREFIX=str(world.to))


def uninstall_by_damaged_list_is_refused(world: World) -> None:
    world.does("install", PREFIX=str(world.to))
    precious = world.place / "precious"
    precious.write_text("")
    for name in (str(precious), "../precious", f"{DATA}/../../../precious"):
        with (world.to / DATA / "installed-files").open("a") as file:
            file.write(f"{name}\n")
        world.refuses("is damaged", words=("--remove",), PREFIX=str(world.to))
        assert precious.exists() and (world.to / f"bin/{NAME}").exists()


def install_of_another_version_replaces_the_first(world: World) -> None:
    world.build(RUNS, IMAGES)
    world.does("install", PREFIX=str(world.to))
    world.build(f"{RUNS} 2")
    world.does("install", PREFIX=str(world.to))
    assert world.files() == FILES, world.files() ^ FILES
    assert "emulator 2" in (world.to / f"bin/{NAME}").read_text()
    world.does("install", "--remove", PREFIX=str(world.to))
    assert not list(world.to.iterdir()), list(world.to.rglob("*"))


def install_over_files_of_others_is_refused(world: World) -> None:
    (world.to / "bin").mkdir()
    (world.to / f"bin/{NAME}").write_text("theirs")
    world.refuses(f"bin/{NAME} exists", "another PREFIX", PREFIX=str(world.to))
    assert world.files() == {f"bin/{NAME}"}


def relative_prefix_is_refused(world: World) -> None:
    world.refuses("PREFIX=opt/q is not an absolute path", PREFIX="opt/q")
    world.refuses("DESTDIR=stage is not an absolute path", DESTDIR="stage")
    assert not world.kinds()


def unwritable_prefix_is_refused_before_the_build(world: World) -> None:
    (world.to / "share").write_text("")
    world.refuses(f"{world.to}/share is in the way", PREFIX=str(world.to))
    (world.to / "share").unlink()
    world.to.chmod(0o555)
    under = BY_MODES if os.getuid() == 0 else ()
    world.refuses(f"cannot write to {world.to}", "PREFIX=/path", f"sudo make install CACHE={world.place}/cache", under=under,
                  PREFIX=str(world.to))
    world.to.chmod(0o755)
    assert not world.kinds() and not world.files()


def too_little_disk_is_refused(world: World) -> None:
    script(world.place / "bin/df", "echo Avail; echo 0")
    world.refuses("too little disk for the installation", f"in {world.to}", "has 0 MiB", PREFIX=str(world.to))
    assert not world.files()


def qemu_that_does_not_run_here_is_refused(world: World) -> None:
    world.build('echo "$0: error while loading shared libraries: libslirp.so.0" >&2; exit 127')
    world.refuses("does not run on this machine (error while loading shared libraries: libslirp.so.0)", DEPENDS, PREFIX=str(world.to))
    assert not world.files()
    world.does("install", DESTDIR=str(world.to))  # another machine's root


def architecture_selects_the_build(world: World) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    world.does("install", DESTDIR=str(world.to))
    world.does("install", DESTDIR=str(world.to), ARCH="arm64")
    assert world.kinds() == [f"release-{machine}", "release-arm64"]
    world.refuses("ARCH=riscv64 is not supported", "amd64 or arm64", ARCH="riscv64", DESTDIR=str(world.to))
    world.refuses("ARCH=riscv64 is not supported", command="deb", ARCH="riscv64")


def failed_build_is_one_error(world: World) -> None:
    script(world.clone / "scripts/qemu-build", "echo 'error: the reason' >&2; exit 1")
    for command in ("install", "deb"):
        world.refuses("the reason", command=command, DESTDIR=str(world.to))
    assert not world.files() and not list((world.place / "cache").rglob("*.deb"))


# --- make deb -----------------------------------------------------------------------------------------------------


def deb_has_the_files_of_an_installation(world: World) -> None:
    world.commit()
    root = world.unpack(world.deb())
    expected = {f"usr/{name}" for name in FILES - {f"{DATA}/installed-files", f"share/man/man1/{NAME}.1"}}
    expected |= {f"usr/share/man/man1/{NAME}.1.gz", f"usr/share/doc/{NAME}/changelog.gz", "DEBIAN/control", "DEBIAN/md5sums"}
    assert world.files(root) == expected, world.files(root) ^ expected
    assert os.readlink(root / "usr/libexec/qemu-smmuv3/qemu-bridge-helper") == "../../lib/qemu/qemu-bridge-helper"
    sums = [line.split("  ") for line in (root / "DEBIAN/md5sums").read_text().splitlines()]
    assert {name for _, name in sums} == {name for name in expected if name.startswith("usr/") and "bridge-helper" not in name}
    for digest, name in sums:
        assert hashlib.md5((root / name).read_bytes()).hexdigest() == digest, name


def deb_names_version_and_dependencies(world: World) -> None:
    world.commit()
    deb = world.deb()
    fields = world.fields(deb)
    commit = subprocess.run(["git", "-C", world.clone, "log", "-1", "--format=%h", "--abbrev=8"], stdout=subprocess.PIPE, text=True, check=True)
    assert fields["Package"] == NAME
    assert fields["Version"] == f"11.1.1+smmuv3.20261130.110000.g{commit.stdout.strip()}", fields
    assert deb.name == f"{NAME}_{fields['Version']}_{fields['Architecture']}.deb"
    assert fields["Maintainer"] == "A Builder <builder@example.org>"
    assert fields["Depends"] == f"{DEPENDS}, ipxe-qemu, seabios" and "qemu-efi-aarch64" in fields["Recommends"]
    assert not {"Conflicts", "Replaces", "Breaks", "Provides"} & fields.keys(), fields


def deb_with_firmware_depends_on_none(world: World) -> None:
    world.build(RUNS, IMAGES)
    world.commit()
    fields = world.fields(world.deb())
    assert fields["Depends"] == DEPENDS and "ipxe-qemu" in fields["Recommends"], fields


def deb_is_reproducible(world: World) -> None:
    world.commit()
    first = world.deb(OUT=str(world.place / "one"))
    world.build(RUNS)  # the same with other times
    second = Path(world.does("deb", OUT=str(world.place / "two"), umask=0o077, TZ="Asia/Tokyo", LC_ALL="C"))
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


def deb_of_modified_clone_says_so(world: World) -> None:
    world.commit()
    (world.clone / "scripts/in-root").write_text("#!/bin/sh\nexec env -- \"$@\"\n")
    assert world.fields(world.deb())["Version"].endswith(".modified")


def deb_without_git_has_a_version(world: World) -> None:
    fields = world.fields(world.deb())
    assert fields["Version"] == "11.1.1+smmuv3.0" and fields["Maintainer"].startswith("the smmuv3-accel authors <"), fields


def deb_into_unwritable_directory_is_refused(world: World) -> None:
    (world.to / "file").write_text("")
    world.refuses(f"cannot write to {world.to}/file", "OUT=/path", command="deb", OUT=str(world.to / "file"))
    assert not world.kinds()


CASES: list[Callable[[World], None]] = [
    case for case in list(globals().values())
    if callable(case) and getattr(case, "__annotations__", {}).get("world") == "World" and case.__code__.co_argcount == 1
]  # fmt: skip


def run(case: Callable[[World], None]) -> Outcome:
    name = case.__name__.replace("_", " ")
    with tempfile.TemporaryDirectory(prefix="install-") as directory:
        try:
            case(World(Path(directory).resolve()))
            return Outcome(name)
        except Exception:
            return Outcome(name, traceback.format_exc())


if __name__ == "__main__":
    sys.exit(report(len(CASES), map(run, CASES)))
