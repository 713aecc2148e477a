# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
#
# The devices of a QEMU that is the lowest level of the nested testbed, for configure's --with-devices-aarch64.
CONFIG_ARM_VIRT=y
CONFIG_X_TEGRA241_CMDQV_HW=y
