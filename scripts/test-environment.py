#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Tests what the scripts that make and enter the build environment say on machines that they cannot work on, and prints TAP.

No root is made: the commands that would do that are stubs. A stub's machine has these and the tools below, nothing else.
"""
from __future__ import annotations

import os
import re
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
from tap import Outcome, report  # noqa: E402 (after dont_write_bytecode, which keeps the clone clean)

SCRIPTS = Path(__file__).resolve().parent
PROJECT = SCRIPTS.parent
ROOT, IN_ROOT, KERNEL, LIBVIRT, HOST_TOOLS, QEMU_FETCH = (
    SCRIPTS / name for name in ("root", "in-root", "kernel", "libvirt", "host-tools", "qemu-fetch"))  # fmt: skip
INSTALL, DEB = SCRIPTS / "install", SCRIPTS / "deb"
TOOLS = ("awk", "bash", "basename", "cat", "chmod", "cp", "cut", "date", "df", "dirname", "env", "find", "flock", "grep", "head", "ls",
         "make", "mkdir", "mktemp", "mv", "nproc", "realpath", "rm", "sed", "sh", "sha256sum", "sleep", "sort", "stat", "tail", "tar", "tee", "touch",
         "tr", "true", "uname", "xz")  # fmt: skip
ENTERING = (ROOT, IN_ROOT, KERNEL, LIBVIRT, QEMU_FETCH, INSTALL, DEB)  # the scripts that make and enter the build environment
MIRROR = "https://mirror.example/debian"

# What each stub does unless a test replaces it; "$0" is its own path.
STUBS = {
    "id": 'echo 0',
    "dpkg": 'echo amd64',
    "python3": 'exit 0',
    "findmnt": 'echo rw,relatime',
    # runs what follows "--"
    "unshare": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "mount": 'exit 0',
    # What runs in the build environment has a PATH of its own and would find the machine's programs, which root may run. So only
    # the commands of the tests are run, by their last word; all others, which would change the machine, only succeed.
    "chroot": 'for last; do :; done; case $last in pwd | true | *dont_write_bytecode*) ;; *) exit 0;; esac\n'
              'while [ "$1" != -- ]; do shift; done; shift 2; exec "$@"',
    # the directory, which follows options and the suite
    "debootstrap": 'for word; do case $word in /*) mkdir -p "$word/etc/apt/apt.conf.d" "$word/usr/sbin" "$word/root";; esac; done',
    "apt-get": f'case $1 in indextargets) case " $* " in *" --no-release-info "*) echo {MIRROR}/;; esac;; esac',
    "apt-config": 'exit 0',
    "apt-cache": 'exit 0',
}  # fmt: skip


class Machine:
    """A machine that has everything, below a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.bin = directory / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
                (self.bin / tool).symlink_to(found)
        for name, text in STUBS.items():
            self.stub(name, text)
        self.environment = {"PATH": str(self.bin), "CACHE": str(self.cache), "HOME": str(directory / "home"), "LANG": "C.UTF-8",
                            "DESTDIR": str(directory / "installed")}  # fmt: skip

    def stub(self, name: str, text: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('sh')}\n{text}\n")
        path.chmod(0o755)

    def without(self, name: str) -> None:
        (self.bin / name).unlink()

    def ordinary_user(self, sudo: str | None) -> None:
        """Makes the user an ordinary one, and `sudo` the command of this text, or none."""
        self.stub("id", 'case $1 in -un) echo user;; *) echo 1000;; esac')
        if sudo is not None:
            self.stub("sudo", sudo)

    def start(self, *words: str | Path, umask: int = 0o022, directory: Path = PROJECT) -> subprocess.Popen[str]:
        def prepare() -> None:
            os.umask(umask)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs this in the background has ignored it

        return subprocess.Popen([str(word) for word in words], cwd=directory, env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                                preexec_fn=prepare)  # fmt: skip

    def run(self, *words: str | Path, umask: int = 0o022, directory: Path = PROJECT) -> tuple[int, str, str]:
        """Returns status, standard output and standard error of a command."""
        process = self.start(*words, umask=umask, directory=directory)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def root(self) -> Path:
        """Makes the build environment, out of stubs, and returns its path."""
        status, out, err = self.run(ROOT)
        assert status == 0, err
        return Path(out.strip())


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def refused(machine: Machine, command: Path, *words: str) -> str:
    """Checks that a command fails with one error, which has these words, and returns its output."""
    status, out, err = machine.run(command, *(["true"] if command == IN_ROOT else []))
    found = errors(err)
    assert status == 1 and out == "" and len(found) == 1, f"{command.name}: status {status}\n{err}"
    for word in words:
        assert word in found[0], f"{command.name}: no {word!r} in {found[0]}"
    return err


def nothing_done(machine: Machine, text: str) -> None:
    """Checks that neither the package manager nor debootstrap was called before the refusal."""
    assert not machine.cache.exists() or not list(machine.cache.glob("root-*")), list(machine.cache.iterdir())
    assert "debootstrap" not in text and "installing" not in text, text


# --- the tests ----------------------------------------------------------------------------------------------------


def environment_is_made_and_entered(machine: Machine) -> None:
    root = machine.root()
    assert root.parent == machine.cache and (root / "etc/apt/sources.list").read_text().startswith(f"deb {MIRROR} trixie main\n")
    status, out, err = machine.run(IN_ROOT, "pwd")
    assert (status, out, err) == (0, f"{PROJECT}\n", ""), (status, out, err)
    # a directory that is not in the build environment
    status, out, err = machine.run(IN_ROOT, "pwd", directory=machine.directory)
    assert (status, out, err) == (0, "/\n", ""), (status, out, err)


def installation_has_an_environment_of_its_own(machine: Machine) -> None:
    """QEMU for an installation is built natively on arm64, and for both architectures on x86-64."""
    log = machine.directory / "commands"
    machine.stub("chroot", f'echo "$*" >>{log}')
    paths = set()
    for processor, name, foreign, wanted, unwanted in (
        ("x86_64", "release-amd64", "", " libslirp-dev ", "arm64"),
        ("x86_64", "release-arm64", "arm64", " libslirp-dev:arm64 .*crossbuild-essential-arm64 ", "libslirp-dev "),
        ("aarch64", "release-arm64", "", " libslirp-dev ", "arm64 "),
        ("x86_64", "", "arm64", " libfdt-dev:arm64 ", "libslirp"),
    ):
        machine.stub("uname", f"echo {processor}")
        machine.environment["ROOT_NAME"] = name
        log.write_text("")
        paths.add(machine.root())
        said = log.read_text().replace("root-release-", "root-")  # of the path
        assert f"update {foreign}\n" in said, (name, said)
        assert re.search(wanted, said) and not re.search(unwanted, said), (name, said)
    assert len(paths) == 4, paths
    for processor, name in (("aarch64", "release-amd64"), ("aarch64", ""), ("x86_64", "release-riscv64")):
        machine.stub("uname", f"echo {processor}")
        machine.environment["ROOT_NAME"] = name
        refused(machine, ROOT, "x86-64", processor)


def environment_does_not_depend_on_umask(machine: Machine) -> None:
    status, out, err = machine.run(ROOT, umask=0o077)
    assert status == 0, err
    status, _, err = machine.run(IN_ROOT, "true", umask=0o077)
    assert status == 0, err
    root = Path(out.strip())
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            assert path.stat().st_mode & 0o044 == 0o044, f"{path} has mode {path.stat().st_mode:o}"


def environment_that_cannot_be_entered_is_an_error(machine: Machine) -> None:
    machine.root()
    machine.stub("chroot", 'while [ "$1" != -- ]; do shift; done; shift 2; exec "$1" "$2" "$3" /absent true')
    refused(machine, IN_ROOT, "build environment is damaged", "/absent", "make clean")


def environment_leaves_no_bytecode(machine: Machine) -> None:
    machine.root()
    code = "import sys; print(sys.dont_write_bytecode)"
    status, out, err = machine.run(IN_ROOT, sys.executable, "-c", code)
    assert (status, out) == (0, "True\n"), err


def mirror_of_cloud_image_is_read_from_its_file(machine: Machine) -> None:
    mirrors = machine.directory / "mirrors.list"
    mirrors.write_text(f"# generated\n\n{MIRROR}/\tpriority:1\nhttps://other.example/debian\n")
    for uri in (f"mirror+file:{mirrors}", f"mirror+file://{mirrors}"):
        machine.stub("apt-get", f"echo http://security.example/debian-security; echo {uri}")
        shutil.rmtree(machine.cache, ignore_errors=True)
        assert f"deb {MIRROR} trixie main" in (machine.root() / "etc/apt/sources.list").read_text()
    shutil.rmtree(machine.cache)
    mirrors.unlink()
    refused(machine, ROOT, "names no Debian mirror", "DEBIAN_MIRROR=")


def mirror_of_environment_variable_is_used(machine: Machine) -> None:
    machine.stub("apt-get", "echo http://archive.example/ubuntu")
    refused(machine, ROOT, "names no Debian mirror", "DEBIAN_MIRROR=")
    machine.environment["DEBIAN_MIRROR"] = "https://chosen.example/debian/"
    assert "deb https://chosen.example/debian trixie" in (machine.root() / "etc/apt/sources.list").read_text()


def missing_sudo_is_one_error(machine: Machine) -> None:
    machine.ordinary_user(None)
    for command in ENTERING:
        nothing_done(machine, refused(machine, command, "root", "install sudo"))


def missing_python_without_sudo_is_one_error(machine: Machine) -> None:
    machine.ordinary_user(None)
    machine.without("python3")
    nothing_done(machine, refused(machine, HOST_TOOLS, "root", "install sudo"))


def refusing_sudo_is_one_error(machine: Machine) -> None:
    machine.ordinary_user("exit 1")
    for command in ENTERING:
        text = refused(machine, command, "sudo has not permitted it")
        assert "CAP_SYS_ADMIN" not in text, text
        nothing_done(machine, text)


def missing_mount_namespace_is_found_first(machine: Machine) -> None:
    machine.stub("unshare", "exit 1")
    for command in ENTERING:
        nothing_done(machine, refused(machine, command, "CAP_SYS_ADMIN"))


def cache_with_space_is_refused(machine: Machine) -> None:
    for name in ("with space", "with:colon"):
        machine.environment["CACHE"] = str(machine.directory / name)
        for command in (HOST_TOOLS, *ENTERING):
            refused(machine, command, name, "CACHE=/path")


def missing_home_is_one_error(machine: Machine) -> None:
    del machine.environment["HOME"], machine.environment["CACHE"]
    for command in (HOST_TOOLS, *ENTERING):
        refused(machine, command, "set HOME, or CACHE=/path")


def unwritable_cache_is_one_error(machine: Machine) -> None:
    """A file in place of the directory: root may write into any directory that is not on a read-only file system."""
    machine.cache.write_text("")
    for command in (HOST_TOOLS, *ENTERING):
        refused(machine, command, "cannot write to the cache directory", "CACHE=/path")


def unwritable_cache_of_made_environment_is_one_error(machine: Machine) -> None:
    machine.root()
    shutil.rmtree(machine.cache / "lock")
    (machine.cache / "lock").write_text("")
    for command in (HOST_TOOLS, IN_ROOT, KERNEL, QEMU_FETCH):
        refused(machine, command, "cannot write to the cache directory", "CACHE=/path")


def cache_without_programs_is_refused(machine: Machine) -> None:
    for option in ("noexec", "nodev"):
        machine.stub("findmnt", f"echo rw,nosuid,{option},relatime")
        for command in ENTERING:
            nothing_done(machine, refused(machine, command, f"mounted with {option}", "CACHE=/path"))


def failing_debootstrap_is_one_error(machine: Machine) -> None:
    machine.stub("debootstrap", "echo E: the reason; exit 1")
    for command in ENTERING:
        text = refused(machine, command, "debootstrap", "reason above", MIRROR)
        assert "    | E: the reason" in text and "no network" not in text, text
        assert not list(machine.cache.glob("root-*")), "a partial root is left"


def missing_kernel_source_is_one_error(machine: Machine) -> None:
    machine.root()
    machine.stub("chroot", "exit 0")
    refused(machine, KERNEL, "no linux-source package")


def deletion_of_interrupted_kernel_is_announced(machine: Machine) -> None:
    machine.root()
    (machine.cache / "kernel.new").mkdir()
    machine.stub("chroot", 'case $* in *"apt-cache pkgnames"*) echo 7.3.4-1 linux-source-7.3;; *) echo E: the reason; exit 1;; esac')
    text = refused(machine, KERNEL, "apt-get update", "reason above")
    assert "deleting what an interrupted run has left" in text and "    | E: the reason" in text, text


def libvirt_that_cannot_be_had_is_status_77(machine: Machine) -> None:
    machine.root()
    old = 'case $* in *"apt-cache "*) echo Version: 11.3.0-3;; *dpkg*--compare-versions*) exit 1;; *" update"*) echo E: the reason; exit {};; esac'
    for stub, reason in ((old.format(1), "the package lists of Debian's backports cannot be downloaded"),
                         (old.format(0), "libvirt in Debian's backports is 11.3.0-3, older than 12.7"),
                         ("exit 0", "Debian's backports have no libvirt for arm64")):
        machine.stub("chroot", stub)
        status, out, err = machine.run(LIBVIRT)
        assert (status, out) == (77, reason + "\n"), (status, out, err)
        assert not errors(err) and not list(machine.cache.glob("libvirt*")), err


def libvirt_of_the_cache_needs_no_network(machine: Machine) -> None:
    machine.root()
    machine.stub("chroot", 'case $* in *"apt-cache "*) echo Version: 12.9.0-1;; esac')
    status, out, err = machine.run(LIBVIRT)
    made = Path(out.strip())
    assert status == 0 and (made / "version").read_text() == "12.9.0\n" and (made / "tree").is_dir(), (status, out, err)
    machine.stub("chroot", "exit 1")
    assert machine.run(LIBVIRT)[:2] == (0, out)


def interrupted_debootstrap_ends_quietly(machine: Machine) -> None:
    # as debootstrap does, which then fails like any other time
    machine.stub("debootstrap", f'trap "exit 1" INT; : >{machine.directory}/begun; sleep 30 & wait')
    for command in (ROOT, KERNEL, QEMU_FETCH):
        begun = machine.directory / "begun"
        begun.unlink(missing_ok=True)
        process = machine.start(command)
        deadline = time.monotonic() + 30
        while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, f"{command.name}: status {process.returncode}\n{err}"
        assert not errors(err) and "no network" not in err, err
        assert not list(machine.cache.glob("root-*")), "a partial root is left"


def deletion_of_interrupted_root_is_announced(machine: Machine) -> None:
    made = machine.root()
    made.rename(f"{made}.new")
    status, _, err = machine.run(ROOT)
    assert status == 0 and "deleting what an interrupted run has left" in err, err


def clock_is_shared(machine: Machine) -> None:
    """Scripts that make or another script calls print the time since the outermost command began."""
    makefile = machine.directory / "Makefile"
    shown = "@bash -c 'cd $(SCRIPTS) && . ./lib.sh && say x'"
    lines = (PROJECT / "Makefile").read_text().splitlines()
    own = [line for line in lines if "STARTED" in line]
    makefile.write_text("\n".join([*own, "all:", f"\t{shown}", "\t@sleep 1.2", f"\t{shown}"]) + "\n")
    status, _, err = machine.run("make", "-f", makefile, f"SCRIPTS={SCRIPTS}")
    times = [int(word) for word in re.findall(r"\[ *(\d+)s\] x", err)]
    assert status == 0 and len(times) == 2 and times[1] > times[0], (times, err)
    code = "import os, console, subprocess; subprocess.run(['sh', '-c', 'echo $STARTED'], check=True); print(console._started)"
    machine.environment["PYTHONPATH"] = str(SCRIPTS)
    status, out, err = machine.run(sys.executable, "-B", "-c", code)
    first, second = out.split()
    assert status == 0 and first == second, (out, err)


class Clones:
    """The cargo targets of two clones. The first one has built a crate of the registry and one of the project."""

    CRATES = (("anstyle", "0123456789abcdef"), ("smmuv3", "fedcba9876543210"))

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.old, self.new = (machine.cache / "target" / name for name in ("old", "new"))
        self.new.mkdir(parents=True)
        (machine.cache / "tmp").mkdir()
        for profile in ("debug", "release"):
            for crate, mark in self.CRATES:
                for name in (f".fingerprint/{crate}-{mark}/invoked.timestamp", f"deps/lib{crate}-{mark}.rlib", f"deps/{crate}-{mark}.d"):
                    path = self.old / profile / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(name)
            (self.old / profile / ".cargo-lock").touch()

    def seeded(self, *before: str | Path) -> list[str]:
        """Makes the new clone's target and returns its files. Nothing may be left elsewhere."""
        status, out, err = self.machine.run(*before, SCRIPTS / "seed-target", self.new)
        assert (status, out, err) == (0, "", ""), (status, out, err)
        assert not list((self.machine.cache / "tmp").iterdir())
        return sorted(str(path.relative_to(self.new)) for path in self.new.rglob("*") if path.is_file())


def new_clone_gets_whole_crates_of_the_registry(machine: Machine) -> None:
    crate, mark = Clones.CRATES[0]
    names = f".fingerprint/{crate}-{mark}/invoked.timestamp", f"deps/{crate}-{mark}.d", f"deps/lib{crate}-{mark}.rlib"
    assert Clones(machine).seeded() == [f"{profile}/{name}" for profile in ("debug", "release") for name in names]


def first_clone_has_nothing_to_copy(machine: Machine) -> None:
    clones = Clones(machine)
    shutil.rmtree(clones.old)
    assert clones.seeded() == []


def clone_without_cargo_lock_is_left_alone(machine: Machine) -> None:
    clones = Clones(machine)
    (clones.old / "debug/.cargo-lock").unlink()
    assert clones.seeded() == []


def clone_that_is_being_built_is_left_alone(machine: Machine) -> None:
    clones = Clones(machine)
    assert clones.seeded("flock", clones.old / "debug/.cargo-lock") == []


def copy_that_fails_leaves_nothing(machine: Machine) -> None:
    clones = Clones(machine)
    tar = (machine.bin / "tar").resolve()
    # as on a full disk: a part is there already
    machine.stub("tar", f'case $1 in -x) {tar} "$@" && exit 1;; *) exec {tar} "$@";; esac')
    assert clones.seeded() == []


CASES: list[Callable[[Machine], None]] = [
    case for name, case in list(globals().items())
    if callable(case) and getattr(case, "__annotations__", {}).get("machine") == "Machine" and case.__code__.co_argcount == 1
]  # fmt: skip


def run(case: Callable[[Machine], None]) -> Outcome:
    name = case.__name__.replace("_", " ")
    with tempfile.TemporaryDirectory(prefix="environment-") as directory:
        try:
            case(Machine(Path(directory).resolve()))
            return Outcome(name)
        except Exception:
            return Outcome(name, traceback.format_exc())


if __name__ == "__main__":
    sys.exit(report(len(CASES), map(run, CASES)))
