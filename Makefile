# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
#
# scripts/ and tests/ do the work of each target. All builds and downloads go to $(XDG_CACHE_HOME)/smmuv3-accel, or to
# CACHE=/path. QEMU_SRC=/path selects a QEMU source tree of the user's own.

# All commands of a target print the time since make began.
STARTED := $(or $(STARTED),$(shell date +%s))
export STARTED

.DEFAULT_GOAL := help
.PHONY: help run test check bench fuzz compare hostile soak qemu install uninstall deb test-deb series series-check overlay revert clean tools

help: ## print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

run: tools ## boot the three levels, run a guest's NVMe I/O through the Rust SMMUv3, and print a table of the device's work
	@tests/e2e/run --run

test: tools ## all tests: unit tests, lints, QEMU builds, functional tests, QEMU's own tests, the nested testbed
	@scripts/test

check: tools ## the inner loop: format, lints, documentation, unit tests, and lints inside QEMU if that has been built
	@scripts/test --fast

bench: tools ## compare with the C device, PAIRS=6 pairs of each time, and print what is reached; benchmark the crate
	@tests/e2e/run --bench --pairs $(or $(PAIRS),6) $(if $(BASE),--base $(BASE))
	@tests/e2e/run --throughput --pairs $(or $(PAIRS),6)
	@scripts/in-root cargo bench --quiet --package smmuv3
	@scripts/in-root QEMU_BIN="$$(scripts/qemu-build x86)" QEMU_C_BIN="$$(scripts/qemu-build x86-c)" cargo bench --quiet --package smmuv3-qtest --bench stall
	@scripts/in-root QEMU_TESTBED_BIN="$$(scripts/qemu-build x86-testbed)" cargo bench --quiet --package smmuv3-qtest --bench scaling

fuzz: tools ## fuzz the architecture crate, then run hostile guests with AddressSanitizer, TIME=60 seconds each
	@scripts/in-root scripts/fuzz --seconds $(or $(TIME),60)
	@scripts/hostile --asan $(or $(TIME),60)

compare: tools ## run the functional tests against QEMU's C device too, and list the tests that fail there
	@scripts/compare

hostile: tools ## run randomized hostile guests on a failing host, TIME=60 seconds; SEED= repeats one
	@scripts/hostile $(or $(TIME),60)

soak: tools ## run hostile guests with long runs for TIME=3600 seconds, and report lost invalidations and leaks
	@scripts/hostile $(or $(TIME),3600) 10000

qemu: tools ## build QEMU with the Rust device for this machine and for arm64
	@scripts/qemu-build x86 arm64

install: tools ## build QEMU for real use and install it beside a distribution's: PREFIX=/usr/local DESTDIR= ARCH= QEMU_SRC=
	@scripts/install

uninstall: tools ## delete what make install has installed: PREFIX= DESTDIR=
	@scripts/install --remove

deb: tools ## build a Debian package of that QEMU and print its path: OUT=directory ARCH= QEMU_SRC=
	@scripts/deb

test-deb: tools ## install that package beside Debian's QEMU in a new Debian system, boot Debian's kernel with it, remove it: DEB=
	@scripts/test-deb $(if $(DEB),"$(DEB)")

series: tools ## write the device as a series of patches for QEMU: OUT=directory QEMU_SRC=
	@scripts/series $(if $(OUT),--out "$(OUT)")

series-check: tools ## build QEMU after each patch of that series, with Rust and without, and run clippy: QEMU_SRC=
	@scripts/series-check

overlay: tools ## add the Rust device to the source tree QEMU_SRC
	@scripts/qemu-overlay apply

revert: tools ## remove the Rust device from QEMU_SRC
	@scripts/qemu-overlay revert

clean: ## delete the cache: build environment, builds, downloads
	@scripts/clean

tools:
	@scripts/host-tools
