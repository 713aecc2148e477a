# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
#
# Paths, messages, privileges and locks of the shell scripts here.
# To be sourced: it sets -euo pipefail.
# shellcheck shell=bash

set -euo pipefail

# What root makes in the build environment is used by others, so it must not depend on the user's umask.
umask 022

# An interrupted script ends without an error of the command that the interrupt has ended. A subshell must set this again.
end_on_interrupt() { trap 'exit 130' INT; }
end_on_interrupt

SCRIPTS=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck disable=SC2034 # used by the scripts that source this
TOP=$(dirname -- "$SCRIPTS")
# Nested scripts print the time since the outermost one began.
export STARTED=${STARTED:-$(date +%s)}

# --- messages -----------------------------------------------------------------------------------------------------

say() { # prints one line of progress, with the time since the command began
    printf '[%4ds] %s\n' "$(($(date +%s) - STARTED))" "$*" >&2
}

die() { # prints one line and exits
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# --- cache --------------------------------------------------------------------------------------------------------

[ -n "${CACHE:-${XDG_CACHE_HOME:-${HOME:-}}}" ] || die "no cache directory: set HOME, or CACHE=/path"
CACHE=$(realpath -m -- "${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/smmuv3-accel}")
export CACHE
case $CACHE in
    *[[:space:]:]*) die "the cache directory '$CACHE' has a space or a colon in its path, which Linux's build cannot use: set CACHE=/path" ;;
esac

# need_cache: exits if the cache cannot be written to.
need_cache() {
    local directory
    for directory in "$CACHE" "$CACHE/lock" "$CACHE/log"; do
        mkdir -p -- "$directory" 2>/dev/null && [ -w "$directory" ] ||
            die "cannot write to the cache directory $CACHE: set CACHE=/path"
    done
}

# need_programs_in_cache: exits if programs in the cache cannot run, as those of the build environment must.
need_programs_in_cache() {
    local option options
    options=$(findmnt --noheadings --output OPTIONS --target "$CACHE" 2>/dev/null) || return 0 # a file system that it does not know
    for option in noexec nodev; do
        [[ ,$options, != *,$option,* ]] ||
            die "$CACHE is on a file system that is mounted with $option: set CACHE=/path on another one"
    done
}

# logged LOG COMMAND...: runs COMMAND with its output in LOG. If it fails, prints the end of the log and its path.
logged() {
    local log=$1 status=0
    shift
    need_cache
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" != 0 ]; then
        tail -n 15 -- "$log" | sed 's/^/    | /' >&2
        printf '    | (all of it: %s)\n' "$log" >&2
    fi
    return "$status"
}

# --- privileges and host tools ------------------------------------------------------------------------------------

# need_root: exits if as_root cannot run commands. To be called before its output goes to a log, where neither sudo's question
# nor an error would be seen.
need_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || die "this needs root: run it as root, or install sudo"
    sudo -n true 2>/dev/null || sudo -v || die "this needs root, and sudo has not permitted it: run this again, or as root"
}

# need_namespaces: exits if in-root cannot mount the machine's directories in the build environment.
need_namespaces() {
    need_root
    as_root unshare --mount --propagation private -- true 2>/dev/null ||
        die "cannot make a mount namespace (unshare --mount): a container needs CAP_SYS_ADMIN"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "'$1' needs root: run this as root, or install sudo"
    fi
}

# ensure_host_tools TOOL[=PACKAGE]...: installs the Debian packages of missing tools.
ensure_host_tools() {
    local spec tool package path=$PATH:/usr/sbin:/sbin missing=() packages=()
    for spec in "$@"; do
        tool=${spec%%=*} package=${spec#*=}
        PATH=$path command -v "$tool" >/dev/null && continue
        missing+=("$tool") packages+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    need_root
    command -v apt-get >/dev/null ||
        die "missing tools: ${missing[*]}; this machine has no apt-get, so install ${packages[*]} by hand"
    say "host: installing ${packages[*]}"
    # shellcheck disable=SC2317 # called through logged
    apt_install() {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${packages[@]}"
    }
    logged "$CACHE/log/host-tools.log" apt_install ||
        { logged "$CACHE/log/apt-update.log" as_root apt-get -qq update &&
          logged "$CACHE/log/host-tools.log" apt_install; } ||
        die "missing tools: ${missing[*]}, and apt-get cannot install ${packages[*]}: install them by hand"
}

# machine_architecture: prints Debian's name of the machine's architecture, or the kernel's if Debian has none.
machine_architecture() {
    case $(uname -m) in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) dpkg --print-architecture 2>/dev/null || uname -m ;;
    esac
}

# Prints DEBIAN_MIRROR, or the Debian mirror of this machine's apt configuration. --no-release-info: container images have no
# package lists.
# shellcheck disable=SC2016 # apt expands the quoted variable
debian_mirror() {
    local uri
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "${DEBIAN_MIRROR%/}"
        return
    fi
    while read -r uri; do
        case $uri in
            # Debian's cloud images name a file with one mirror in each line.
            mirror+file:*)
                uri=$(grep -m 1 -oE '^https?://[^[:space:]]+' "${uri#mirror+file:}" 2>/dev/null) || continue ;;
        esac
        uri=${uri%/}
        case $uri in http*://*/debian) printf '%s\n' "$uri"; return ;; esac
    done < <(apt-get indextargets --no-release-info --format '$(REPO_URI)' 2>/dev/null)
    die "apt's configuration names no Debian mirror: set DEBIAN_MIRROR=address"
}

# --- disk ---------------------------------------------------------------------------------------------------------

# need_disk MIB WHAT: exits if the cache's disk has less than MIB free.
need_disk() {
    local have
    need_cache
    have=$(df --output=avail -m -- "$CACHE" | tail -n 1 | tr -d ' ')
    [ "$have" -ge "$1" ] || die "too little disk for $2: needs $1 MiB in $CACHE, has $have MiB; free some, or set CACHE=/path"
}

# --- locks --------------------------------------------------------------------------------------------------------

# key FILE-OR-WORD...: prints a short hash of the files' contents and of the words.
key() {
    local item
    for item in "$@"; do
        if [ -f "$item" ]; then cat -- "$item"; else printf '%s\n' "$item"; fi
    done | sha256sum | cut -c 1-12
}

# locked NAME COMMAND...: runs COMMAND, which may be a function, while no other process that uses this cache holds the lock.
# Re-entrant: children of the holder run without waiting.
locked() {
    local name=$1 held=HELD_${1//[^A-Za-z0-9]/_}
    shift
    if [ -n "${!held:-}" ]; then
        "$@"
        return
    fi
    need_cache
    (
        end_on_interrupt
        exec 9>"$CACHE/lock/$name"
        if ! flock -n 9; then
            say "waiting for another run that holds the lock $name"
            flock 9
        fi
        export "$held=1"
        # Background children (ccache, cargo, QEMU) must not inherit the lock; otherwise it outlives this shell.
        "$@" 9>&-
    )
}

# tree_lock SRC: prints the name of a QEMU source tree's lock. A run holds it while it changes the tree or uses its build
# directories, because all clones share them; otherwise one clone's sources end up in another clone's binary.
tree_lock() { printf 'qemu-tree-%s\n' "$(key "$(realpath -- "$1")")"; }

# --- AddressSanitizer ---------------------------------------------------------------------------------------------

# need_sanitized FILE...: exits if a file was compiled without AddressSanitizer, because then its tests find nothing.
need_sanitized() {
    local file
    for file in "$@"; do
        # shellcheck disable=SC2016 # the inner shell's
        "$SCRIPTS/in-root" bash -c 'nm -- "$0" 2>/dev/null | grep -q __asan_report' "$file" ||
            die "$file has no AddressSanitizer: it was compiled without -fsanitize=address"
    done
}
