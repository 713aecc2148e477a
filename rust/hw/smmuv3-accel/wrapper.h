/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */

/*
 * Input of bindgen: the C interfaces that QEMU's own Rust crates do not bind.
 *
 * The types below are only passed through as pointers.  QEMU declares them in
 * a header that is kept out of bindgen's output, hence the repetition here.
 */
typedef struct AddressSpace AddressSpace;
typedef struct MSIMessage MSIMessage;
typedef struct PCIBus PCIBus;
typedef struct PCIDevice PCIDevice;

#include "qemu/osdep.h"
#include "hw/arm/smmu-common.h"
#include "migration/blocker.h"
#include "qapi/qapi-types-misc-arm.h"
#include "system/iommufd.h"
#include "system/system.h"
#include <linux/iommufd.h>
