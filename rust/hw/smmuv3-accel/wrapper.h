/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */

/* Input of bindgen. */
#include "qemu/osdep.h"
#include "hw/arm/smmuv3-rust.h"
