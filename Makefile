# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
#
# Each target is one line of intent; scripts/ and tests/ do the work. Everything that is built or fetched goes to
# $(XDG_CACHE_HOME)/smmuv3-accel (CACHE= moves it). QEMU_SRC=/path uses a QEMU tree of yours.

.DEFAULT_GOAL := help
.PHONY: help run test check bench fuzz compare hostile soak qemu overlay revert clean tools

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: tools ## boot the three levels, a guest's NVMe I/O through the Rust SMMUv3, and a table of what it did
	@tests/e2e/run --run

test: tools ## everything: unit tests, lints, QEMU builds, functional tests, QEMU's own tests, the nested testbed
	@scripts/test

check: tools ## the inner loop: format, lints, unit tests, documentation (and the device inside QEMU once that is built)
	@scripts/test --fast

bench: tools ## compare with the C device: in the testbed, without acceleration, how long a guest stalls QEMU; the consumer alone
	@tests/e2e/run --bench
	@tests/e2e/run --throughput
	@scripts/in-root cargo bench --quiet --package smmuv3
	@scripts/in-root QEMU_BIN="$$(scripts/qemu-build x86)" QEMU_C_BIN="$$(scripts/qemu-build x86-c)" cargo bench --quiet --package smmuv3-qtest --bench stall

fuzz: tools ## the fuzz targets of the architecture, then hostile guests with AddressSanitizer, TIME=60 seconds each
	@scripts/in-root scripts/fuzz --seconds $(or $(TIME),60)
	@scripts/hostile --asan $(or $(TIME),60)

compare: tools ## the functional tests against QEMU's C device too, and where it differs
	@scripts/compare

hostile: tools ## hostile guests on a failing host against the whole binary, TIME=60 seconds; SEED= repeats one
	@scripts/hostile $(or $(TIME),60)

soak: tools ## the same for TIME=3600 seconds, with long lives: what was done, what was lost, what is left behind
	@scripts/hostile $(or $(TIME),3600) 10000

qemu: tools ## build QEMU with the Rust device, for this machine and for arm64
	@scripts/qemu-build x86 arm64

overlay: tools ## put the Rust device into QEMU_SRC
	@scripts/qemu-overlay apply

revert: tools ## take the Rust device out of QEMU_SRC again
	@scripts/qemu-overlay revert

clean: ## delete the cache: the build environment, the builds, everything that was fetched
	@scripts/clean

tools:
	@scripts/host-tools
