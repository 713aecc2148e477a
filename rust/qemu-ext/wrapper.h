/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */

/*
 * Input of bindgen.
 *
 * bindgen skips include/qemu/typedefs.h.  The types that the bindings only
 * point to need a declaration here; otherwise bindgen does not generate them.
 */
typedef struct AddressSpace AddressSpace;
typedef struct MSIMessage MSIMessage;
typedef struct PCIBus PCIBus;
typedef struct PCIDevice PCIDevice;
typedef struct SHPCDevice SHPCDevice;
typedef struct VMChangeStateEntry VMChangeStateEntry;

#include "qemu/osdep.h"
#include "hw/arm/smmu-common.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/vfio/vfio-device.h"
#include "migration/blocker.h"
#include "migration/cpr.h"
#include "qapi/qapi-events-arm-smmuv3.h"
#include "system/hostmem.h"
#include "system/iommufd.h"
#include "system/runstate.h"
#include "system/system.h"
#include <linux/iommufd.h>
