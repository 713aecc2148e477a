# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
#
# What scripts/install and scripts/deb have in common: the build for an installation, and the files that belong to it.
# To be sourced.
# shellcheck shell=bash
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# The emulator, and directories of ours. A distribution has other names, so both can be under one PREFIX.
NAME=qemu-system-aarch64-smmuv3
DATA=share/qemu-smmuv3
# Below DATA: the data of QEMU that an Arm machine can use. Others, as firmware of other architectures, are not installed.
DATA_PATTERNS=('keymaps/*' trace-events-all 'efi-*.rom' 'vgabios*.bin' 'npcm*_bootrom.bin' 'ast*_bootrom.bin'
               edk2-aarch64-code.fd edk2-arm-vars.fd edk2-licenses.txt firmware/60-edk2-aarch64.json)
# A helper of the distribution that QEMU looks for below its own prefix.
BRIDGE_HELPER=libexec/qemu-smmuv3/qemu-bridge-helper

# choose_architecture: sets ARCH, the architecture of the machine that QEMU is for.
choose_architecture() {
    local machine
    machine=$(machine_architecture)
    ARCH=${ARCH:-$machine}
    case $machine-$ARCH in
        amd64-amd64 | amd64-arm64 | arm64-arm64) ;;
        *-amd64 | *-arm64) die "ARCH=$ARCH cannot be built on this machine ($machine): amd64 is built on x86-64, arm64 on either" ;;
        *) die "ARCH=$ARCH is not supported: it is amd64 or arm64" ;;
    esac
}

# build_release: builds QEMU for ARCH and sets BUILT, its directory.
build_release() {
    local binary
    binary=$("$SCRIPTS/qemu-build" "release-$ARCH") || exit
    BUILT=$(dirname -- "$binary")
}

# data_files: prints the paths of the data below DATA, sorted.
data_files() {
    local pattern path
    (
        cd -- "$BUILT/qemu-bundle/usr/local/$DATA" 2>/dev/null || exit 0
        for pattern in "${DATA_PATTERNS[@]}"; do
            for path in $pattern; do # a glob
                [ ! -f "$path" ] || printf '%s\n' "$path"
            done
        done
    ) | LC_ALL=C sort
}

# lay_out TO PREFIX: copies the files of an installation to the new directory TO, with the paths that they have below PREFIX.
lay_out() {
    local to=$1 prefix=$2 path
    install -D -m 755 -- "$BUILT/qemu-system-aarch64" "$to/bin/$NAME"
    while IFS= read -r path; do
        install -D -m 644 -- "$BUILT/qemu-bundle/usr/local/$DATA/$path" "$to/$DATA/$path"
    done < <(data_files)
    # libvirt's descriptor of the firmware has paths of the prefix that was configured.
    path=$to/$DATA/firmware/60-edk2-aarch64.json
    [ ! -e "$path" ] || PREFIX=$prefix python3 -c '
import os, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.write_text(path.read_text().replace("\"/usr/local/", "\"" + os.environ["PREFIX"].rstrip("/") + "/"))' "$path"
    install -D -m 644 -- "$BUILT/copyright" "$to/share/doc/$NAME/copyright"
    install -D -m 644 -- "$TOP/docs/$NAME.1" "$to/share/man/man1/$NAME.1"
    mkdir -p -- "$to/$(dirname -- "$BRIDGE_HELPER")"
    ln -s -- /usr/lib/qemu/qemu-bridge-helper "$to/$BRIDGE_HELPER"
}

# new_directory: sets STAGE, a new directory in the cache that is deleted at the end.
new_directory() {
    need_cache
    mkdir -p -- "$CACHE/tmp"
    STAGE=$(mktemp -d -- "$CACHE/tmp/release.XXXXXX")
    chmod 755 -- "$STAGE"
    trap 'rm -rf -- "$STAGE"' EXIT
}
