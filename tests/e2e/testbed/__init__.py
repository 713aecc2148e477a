# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""The nested testbed: three levels on one machine, with the scenarios and benchmarks that run there (docs/testbed.md)."""
