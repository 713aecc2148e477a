/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */

/*
 * Input of bindgen.
 *
 * bindgen skips include/qemu/typedefs.h.  The types that the bindings only
 * point to need a declaration here; otherwise bindgen does not know them.
 */
typedef struct AddressSpace AddressSpace;
typedef struct MSIMessage MSIMessage;
typedef struct PCIBus PCIBus;
typedef struct PCIDevice PCIDevice;
typedef struct VMChangeStateEntry VMChangeStateEntry;

#include "qemu/osdep.h"
#include "hw/arm/smmuv3-rust.h"
