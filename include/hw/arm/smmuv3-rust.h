/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */

/*
 * The C side of the Rust arm-smmuv3: what the device needs of C, as bindgen's
 * input, and what C code calls of the device.
 *
 * The opaque types are only passed through as pointers.  QEMU declares them in
 * a header that is kept out of bindgen's output, hence the repetition here.
 */
#ifndef HW_ARM_SMMUV3_RUST_H
#define HW_ARM_SMMUV3_RUST_H

typedef struct AddressSpace AddressSpace;
typedef struct MSIMessage MSIMessage;
typedef struct PCIBus PCIBus;
typedef struct PCIDevice PCIDevice;
typedef struct VMChangeStateEntry VMChangeStateEntry;

#include "qemu/osdep.h"
#include "hw/arm/smmu-common.h"
#include "hw/vfio/vfio-device.h"
#include "migration/blocker.h"
#include "qapi/qapi-types-misc-arm.h"
#include "system/iommufd.h"
#include "system/runstate.h"
#include "system/system.h"
#include <linux/iommufd.h>

/*
 * Called by C (virt-acpi-build.c), which has its own declarations of them:
 *
 *  bool smmuv3_ats_enabled(SMMUv3State *)          does the guest see ATS?
 *  SMMUv3AccelCmdqvType smmuv3_accel_cmdqv_type(Object *)    always NONE
 *
 * Both take a pointer to an object of type "arm-smmuv3"; the struct behind it
 * is private to the Rust device.
 */

#endif /* HW_ARM_SMMUV3_RUST_H */
