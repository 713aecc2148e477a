# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Checks whether a host has everything that accel=on needs (scripts/check-host)."""
