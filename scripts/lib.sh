# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
#
# What every script here shares: where things are, how progress and failure are told, and how a thing is made once.
# To be sourced: it sets -euo pipefail.
# shellcheck shell=bash

set -euo pipefail

SCRIPTS=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck disable=SC2034 # for those who source this
TOP=$(dirname -- "$SCRIPTS")
CACHE=$(realpath -m -- "${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/smmuv3-accel}")
export CACHE
# Nested scripts go on counting from where the outermost one began.
export STARTED=${STARTED:-$(date +%s)}

# --- what the user sees -------------------------------------------------------------------------------------------

say() { # one line of progress, with the time since the command began
    printf '[%4ds] %s\n' "$(($(date +%s) - STARTED))" "$*" >&2
}

die() { # one clear line, then stop
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# logged LOG COMMAND...: runs COMMAND with its output in LOG; on failure the log's end is shown, and where the rest is.
logged() {
    local log=$1 status=0
    shift
    mkdir -p -- "$(dirname -- "$log")"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" != 0 ]; then
        tail -n 15 -- "$log" | sed 's/^/    | /' >&2
        printf '    | (all of it: %s)\n' "$log" >&2
    fi
    return "$status"
}

# --- privileges and host tools ------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "'$1' needs root: run this as root, or install sudo"
    fi
}

# ensure_host_tools TOOL[=PACKAGE]...: installs the Debian packages of the tools that are missing.
ensure_host_tools() {
    local spec tool package path=$PATH:/usr/sbin:/sbin missing=() packages=()
    for spec in "$@"; do
        tool=${spec%%=*} package=${spec#*=}
        PATH=$path command -v "$tool" >/dev/null && continue
        missing+=("$tool") packages+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null ||
        die "missing tools: ${missing[*]} (no apt-get here to install them with: install ${packages[*]} by hand)"
    say "host: installing ${packages[*]}"
    # shellcheck disable=SC2317 # called through logged
    apt_install() {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${packages[@]}"
    }
    mkdir -p -- "$CACHE/log"
    logged "$CACHE/log/host-tools.log" apt_install ||
        { logged "$CACHE/log/apt-update.log" as_root apt-get -qq update &&
          logged "$CACHE/log/host-tools.log" apt_install; } ||
        die "missing tools: ${missing[*]}, and apt-get could not install ${packages[*]}"
}

# The Debian mirror that this machine's apt uses; DEBIAN_MIRROR where apt has none (a machine that is not Debian).
# shellcheck disable=SC2016 # apt replaces what is in the quotes
debian_mirror() {
    local uri
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "${DEBIAN_MIRROR%/}"
        return
    fi
    while read -r uri; do
        uri=${uri%/}
        case $uri in */debian) printf '%s\n' "$uri"; return ;; esac
    done < <(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null)
    die "apt's configuration names no Debian mirror: say DEBIAN_MIRROR=address"
}

# --- disk ---------------------------------------------------------------------------------------------------------

# need_disk MIB WHAT: stops early, and says how much, where the cache's disk has less than that free.
need_disk() {
    local have
    mkdir -p -- "$CACHE" 2>/dev/null || die "cannot create the cache directory $CACHE"
    have=$(df --output=avail -m -- "$CACHE" | tail -n 1 | tr -d ' ')
    [ "$have" -ge "$1" ] || die "too little disk for $2: needs $1 MiB in $CACHE, $have MiB available (CACHE= moves it)"
}

# --- things made once ---------------------------------------------------------------------------------------------

# key FILE-OR-WORD...: a short hash of the contents of the files and of the words themselves.
key() {
    local item
    for item in "$@"; do
        if [ -f "$item" ]; then cat -- "$item"; else printf '%s\n' "$item"; fi
    done | sha256sum | cut -c 1-12
}

# locked NAME COMMAND...: one at a time among all processes that use this cache. COMMAND may be a function.
# Re-entrant: a holder's children do not wait for their parent.
locked() {
    local name=$1 held=HELD_${1//[^A-Za-z0-9]/_}
    shift
    if [ -n "${!held:-}" ]; then
        "$@"
        return
    fi
    mkdir -p -- "$CACHE/lock"
    (
        exec 9>"$CACHE/lock/$name"
        if ! flock -n 9; then
            say "waiting for another run that makes or uses $name"
            flock 9
        fi
        export "$held=1"
        # Children (ccache, cargo or QEMU in the background) must not keep the lock after this shell is gone.
        "$@" 9>&-
    )
}

# tree_lock SRC: the name of the lock of a QEMU source tree. A run that changes the tree or builds it holds this lock until
# it is done with the tree and its build directories, because all clones share them; otherwise one clone's sources end up
# in another clone's binary.
tree_lock() { printf 'qemu-tree-%s\n' "$(key "$(realpath -- "$1")")"; }

# --- AddressSanitizer ---------------------------------------------------------------------------------------------

# A sanitizer that is not there finds nothing: each FILE must have been compiled with it.
need_sanitized() {
    local file
    for file in "$@"; do
        # shellcheck disable=SC2016 # the inner shell's
        "$SCRIPTS/in-root" bash -c 'nm -- "$0" 2>/dev/null | grep -q __asan_report' "$file" ||
            die "$file has no AddressSanitizer in it"
    done
}
