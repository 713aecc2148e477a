#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""test-deb.py ROOT DEB LINTIAN LOGS DOWNLOAD: tries a package in the Debian system in ROOT, which it changes, and prints TAP.

ROOT has Debian's qemu-system-arm and the netboot image of Debian's installer for arm64. The guest boots Debian's arm64
kernel and that image's initramfs, with the modules of that kernel that virtio needs: the installer has not all of them, and
may have those of another kernel. LINTIAN is lintian's report on DEB, DOWNLOAD a directory that keeps the kernel's package. Must run as root.
"""
from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).resolve().parent
sys.path.append(str(SCRIPTS.parent / "tests/e2e"))
from console import die  # noqa: E402 (found through the path above)
from tap import Outcome, report  # noqa: E402
from testbed.consoles import Qmp  # noqa: E402
from testbed.images import Cpio  # noqa: E402
from testbed.machine import Machine  # noqa: E402

PACKAGE = "qemu-system-aarch64-smmuv3"
THEIRS = "qemu-system-arm"
EMULATOR = f"/usr/bin/{PACKAGE}"
INITRD = "usr/lib/debian-installer/images/13/arm64/text/debian-installer/arm64/initrd.gz"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
# What package managers keep for themselves, and caches that each package's installation renews.
NOT_COMPARED = {"dev", "proc", "sys", "run", "tmp", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "etc/ld.so.cache", "trial"}
MIB = 4  # that the guest writes and reads
DONE = re.compile(rb"trial: end\r?\n")

# The first process of the guest. Devices of emulated hardware appear a moment after their driver.
INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
for module in {" ".join(MODULES)}; do modprobe $module || echo "trial: no-module $module"; done
tries=0
while [ ! -b /dev/vdb ] && [ $tries -lt 30 ]; do sleep 1; tries=$((tries + 1)); done
[ -b /dev/vda ] && [ -b /dev/vdb ] || {{ echo "trial: no-disk"; echo "trial: end"; sleep 1000; }}
echo "trial: kernel $(cat /proc/version)"
dmesg | grep arm-smmu-v3 | while read -r line; do echo "trial: smmu $line"; done
dmesg | grep "to iommu group" | while read -r line; do echo "trial: iommu $line"; done
for disk in vda vdb; do
    group=$(readlink -f /sys/block/$disk/device/../iommu_group)
    echo "trial: group $disk ${{group##*/}}"
done
for net in /sys/class/net/*; do echo "trial: net ${{net##*/}} $(readlink -f $net/device)"; done
dd if=/dev/urandom of=/data bs=1M count={MIB} 2>/dev/null
dd if=/data of=/dev/vda bs=1M 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda of=/dev/vdb bs=1M count={MIB} 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
echo "trial: sum $(sha256sum </data)"
echo "trial: read $(dd if=/dev/vdb bs=1M count={MIB} 2>/dev/null | sha256sum)"
echo "trial: end"
while :; do sleep 1; done
"""


class Entry(NamedTuple):
    """What is compared of a file: its mode and owner, and its contents or target."""

    mode: int
    owner: tuple[int, int]
    contents: str


class Boot(NamedTuple):
    """What a boot has shown."""

    lines: dict[str, list[str]]  # what the guest has printed, by the first word
    disks: list[str]  # sha256 of what is at the beginning of each disk's file
    implementation: str
    statistics: dict[str, dict[str, int]]
    version: str


class Trial:
    def __init__(self, root: Path, deb: Path, lintian: Path, logs: Path, download: Path) -> None:
        self.root, self.lintian, self.logs, self.download = root, lintian, logs, download
        (root / "trial").mkdir()
        self.deb = f"/trial/{deb.name}"
        shutil.copyfile(deb, root / self.deb[1:])
        self.log = logs / "trial.log"
        self.log.write_text("")
        self.run("true")  # makes the files that the machine's are mounted on
        self.before = self.files()
        self.packages_before = self.packages()
        self._boot: Boot | None = None

    def words(self, *words: str) -> list[str]:
        """Returns the command line that runs a command in the system, with the machine's /dev, /proc and network."""
        environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        return ["unshare", "--mount", "--propagation", "private", "--", "bash", str(SCRIPTS / "enter-root"), str(self.root), "0:0", "/",
                "--", "env", "-i", *environment, *words]  # fmt: skip

    def run(self, *words: str) -> str:
        """Runs a command that must succeed and returns its output."""
        done = subprocess.run(self.words(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", check=False)  # fmt: skip
        with self.log.open("a") as log:
            log.write(f"# {' '.join(words)}\n{done.stdout}")
        assert done.returncode == 0, f"{' '.join(words)}: status {done.returncode}\n{done.stdout[-3000:]}"
        return done.stdout

    def files(self) -> dict[str, Entry]:
        found = {}

        def walk(directory: Path) -> None:
            for entry in os.scandir(directory):
                path = Path(entry.path)
                name = str(path.relative_to(self.root))
                if name in NOT_COMPARED:
                    continue
                status = entry.stat(follow_symlinks=False)
                contents = ""
                if entry.is_symlink():
                    contents = os.readlink(path)
                elif entry.is_file():
                    with path.open("rb") as file:
                        contents = hashlib.file_digest(file, "sha256").hexdigest()
                found[name] = Entry(status.st_mode, (status.st_uid, status.st_gid), contents)
                if entry.is_dir(follow_symlinks=False):
                    walk(path)

        walk(self.root)
        return found

    def packages(self) -> set[str]:
        return set(self.run("dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n").splitlines())

    def kernel(self) -> tuple[bytes, Path, str]:
        """Returns Debian's arm64 kernel, the directory with its modules, which modprobe can use, and its release."""
        if not (self.root / "trial/kernel").exists():
            meta = self.run("apt-cache", "show", "--no-all-versions", "linux-image-arm64:arm64")
            (name,) = re.findall(r"^Depends: (linux-image-\S+)", meta, re.M)
            record = self.run("apt-cache", "show", "--no-all-versions", f"{name}:arm64")
            (file,) = re.findall(r"^Filename: \S*/(\S+)$", record, re.M)
            (digest,) = re.findall(r"^SHA256: (\S+)$", record, re.M)
            cached = self.download / file
            if not cached.exists() or hashlib.sha256(cached.read_bytes()).hexdigest() != digest:
                self.run("sh", "-c", f"cd /trial && apt-get -qq download {name}:arm64")
                (got,) = (self.root / "trial").glob("linux-image-*.deb")
                self.download.mkdir(exist_ok=True)
                shutil.copyfile(got, cached)
            shutil.copyfile(cached, self.root / "trial/kernel.deb")
            self.run("dpkg-deb", "--extract", "/trial/kernel.deb", "/trial/kernel")
            if not (self.root / "trial/kernel/lib").exists():
                (self.root / "trial/kernel/lib").symlink_to("usr/lib")  # depmod's path
        (image,) = (self.root / "trial/kernel/boot").glob("vmlinuz-*")
        release = image.name.removeprefix("vmlinuz-")
        self.run("depmod", "-b", "/trial/kernel", release)
        return image.read_bytes(), self.root / "trial/kernel/lib/modules" / release, release

    def initramfs(self, modules: Path, release: str) -> bytes:
        """Returns the installer's initramfs, with INIT, and the modules of another directory that it needs."""
        files = {"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.builtin", "modules.builtin.bin"}
        depends = dict(line.split(":", 1) for line in (modules / "modules.dep").read_text().splitlines())
        for path, others in depends.items():
            if re.sub(r"\.ko.*", "", Path(path).name).replace("-", "_") in MODULES:
                files |= {path, *others.split()}
        cpio = Cpio()
        cpio.file("trial", INIT.encode())
        for name in sorted(files):
            if (modules / name).exists():
                cpio.file(f"usr/lib/modules/{release}/{name}", (modules / name).read_bytes(), executable=False)
        return (self.root / INITRD).read_bytes() + gzip.compress(cpio.finish(), mtime=0)

    def changed(self) -> list[str]:
        """Returns the files of before that are others now, or gone."""
        now = self.files()
        return [name for name, entry in self.before.items() if now.get(name) != entry]

    def without_package(self) -> list[str]:
        """Returns the files that are new and that no new package lists."""
        new = [package.split()[1] for package in self.packages() - self.packages_before]
        listed = set(self.run("dpkg", "--listfiles", *new).splitlines()) if new else set()
        # Debian's merged /usr: a package may list /lib. Scripts of Debian's packages keep state in /var/lib.
        return [name for name in self.files()
                if name not in self.before and not {f"/{name}", f"/{name.removeprefix('usr/')}"} & listed
                and (PACKAGE in name or not name.startswith("var/lib/"))]  # fmt: skip

    def boot(self) -> Boot:
        """Boots the guest, the first time that it is called."""
        if self._boot is None:
            self._boot = self._boot_now()
        return self._boot

    def _boot_now(self) -> Boot:
        image, modules, release = self.kernel()
        (self.root / "trial/linux").write_bytes(image)
        (self.root / "trial/initrd.gz").write_bytes(self.initramfs(modules, release))
        options = ["-M", "virt,iommu=smmuv3,accel=tcg,gic-version=3", "-cpu", "max,pauth-impdef=on", "-m", "1G", "-smp", "2",
                   "-display", "none", "-nodefaults", "-kernel", "/trial/linux", "-initrd", "/trial/initrd.gz",
                   "-append", "rdinit=/trial console=ttyAMA0 panic=-1",
                   # loads a ROM from the distribution's directories
                   "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,iommu_platform=on,disable-legacy=on"]  # fmt: skip
        disks = []
        for name in ("disk0", "disk1"):
            disks.append(self.root / f"trial/{name}")
            with disks[-1].open("wb") as file:
                file.truncate(2 * MIB << 20)
            options += ["-drive", f"if=none,id={name},file=/trial/{name},format=raw", "-device",
                        f"virtio-blk-pci,drive={name},iommu_platform=on,disable-legacy=on"]  # fmt: skip
        for name in ("trial-kernel.log", "trial-qmp.log"):
            (self.logs / name).write_text("")
        machine = Machine("trial", self.words(EMULATOR, *options), {"trial-kernel": "serial", "trial-qmp": "monitor"}, self.logs)
        try:
            qmp = Qmp(machine.pump, machine.streams["trial-qmp"])
            qmp.connect(60)
            version = qmp.command("query-version")["package"]
            console = machine.streams["trial-kernel"]
            text = machine.pump.wait(lambda: console.take(DONE), 300, "end of the guest's work").before.decode(errors="replace")
            lines: dict[str, list[str]] = {}
            for word, line in re.findall(r"^trial: (\S+) ?(.*?)\r?$", text, re.M):
                lines.setdefault(word, []).append(line)
            children = qmp.command("qom-list", {"path": "/machine/unattached"})
            smmu = next(child["name"] for child in children if child["type"] == "child<arm-smmuv3>")

            def get(name: str) -> object:
                return qmp.command("qom-get", {"path": f"/machine/unattached/{smmu}", "property": name})

            implementation, statistics = get("implementation"), get("statistics")
            qmp.command("quit")
        finally:
            machine.close()
        sums = [hashlib.sha256(disk.read_bytes()[: MIB << 20]).hexdigest() for disk in disks]
        return Boot(lines, sums, implementation, statistics, version)  # type: ignore[arg-type]


# --- the tests, in order ------------------------------------------------------------------------------------------


def lintian_finds_no_error(trial: Trial) -> None:
    text = trial.lintian.read_text()
    found = [line for line in text.splitlines() if not line.startswith("N:")]
    assert not [line for line in found if not re.match(r"[WIPO]: ", line)], text
    assert PACKAGE in trial.run("dpkg-deb", "--field", trial.deb, "Package")


def package_installs_beside_debians(trial: Trial) -> None:
    assert f"ii  {THEIRS}" in trial.packages_before, f"the system lacks {THEIRS}"
    trial.run("apt-get", "-qq", "-o", "APT::Update::Error-Mode=any", "update")
    trial.run("apt-get", "-qq", "-y", "install", trial.deb)
    packages = trial.packages()
    assert f"ii  {PACKAGE}" in packages and trial.packages_before <= packages, trial.packages_before - packages


def no_file_of_debian_is_touched(trial: Trial) -> None:
    assert not trial.changed(), trial.changed()[:20]
    others = trial.without_package()
    assert not others, others[:20]
    for package in (THEIRS, PACKAGE):
        assert trial.run("dpkg", "--verify", package) == ""


def emulator_lists_the_device(trial: Trial) -> None:
    text = trial.run(EMULATOR, "-device", "arm-smmuv3,help")
    for name in ("accel", "ats", "cmdqv", "msi", "oas", "ril", "ssidsize", "stage"):
        assert re.search(rf"^ +{name}=<", text, re.M), text
    assert "implementation" not in text, text


def other_emulator_still_runs(trial: Trial) -> None:
    assert "Debian" in trial.run("qemu-system-aarch64", "--version")
    assert "(smmuv3-accel)" in trial.run(EMULATOR, "--version")


def debian_kernel_boots_behind_the_smmu(trial: Trial) -> None:
    boot = trial.boot()
    assert boot.version.strip(" ()") == "smmuv3-accel", boot.version
    assert "no-module" not in boot.lines and "no-disk" not in boot.lines, boot.lines
    assert "Debian" in boot.lines["kernel"][0], boot.lines
    assert any("arm-smmu-v3" in line for line in boot.lines["smmu"]), boot.lines
    assert len(boot.lines["group"]) == 2, boot.lines
    for group in boot.lines["group"]:
        assert re.fullmatch(r"vd[ab] \d+", group), boot.lines
    assert any("/pci" in line for line in boot.lines["net"]), boot.lines


def disk_io_goes_through_the_smmu(trial: Trial) -> None:
    boot = trial.boot()
    wanted = boot.lines["sum"][0].split()[0]
    assert boot.lines["read"][0].split()[0] == wanted, boot.lines
    assert boot.disks == [wanted, wanted], (wanted, boot.disks)
    assert boot.statistics["translations"]["walks"] > 0 and boot.statistics["commands"]["tlbi"] > 0, boot.statistics
    assert boot.statistics["events"]["recorded"] == 0, boot.statistics


def implementation_is_shown(trial: Trial) -> None:
    assert trial.boot().implementation == "smmuv3-accel (Rust)"


def package_is_removed_completely(trial: Trial) -> None:
    trial.run("apt-get", "-qq", "-y", "purge", PACKAGE)
    # Packages that it depends on stay as long as Debian's QEMU recommends them.
    assert not [package for package in trial.packages() if PACKAGE in package]
    left = [name for name in trial.files() if "smmuv3" in name] + trial.without_package()
    assert not left, left[:20]
    assert not trial.changed(), trial.changed()[:20]


CASES: list[Callable[[Trial], None]] = [
    case for case in list(globals().values())
    if callable(case) and getattr(case, "__annotations__", {}).get("trial") == "Trial" and case.__code__.co_argcount == 1
]  # fmt: skip


def run(case: Callable[[Trial], None], trial: Trial) -> Outcome:
    name = case.__name__.replace("_", " ")
    try:
        case(trial)
        return Outcome(name)
    except Exception:
        return Outcome(name, traceback.format_exc())


def main(argv: list[str]) -> int:
    if len(argv) != 6:
        die("usage: test-deb.py ROOT DEB LINTIAN LOGS DOWNLOAD")
    trial = Trial(*(Path(word) for word in argv[1:]))
    return report(len(CASES), (run(case, trial) for case in CASES))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
