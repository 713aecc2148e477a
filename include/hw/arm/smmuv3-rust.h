/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */

/*
 * The C interfaces that only the Rust arm-smmuv3 uses, as input of bindgen.
 *
 * Two functions go the other way.  C code calls them by QEMU's declarations:
 * smmuv3_ats_enabled() (hw/arm/smmuv3.h) returns whether the guest sees ATS,
 * smmuv3_accel_cmdqv_type() whether it sees CMDQV.  Both take a pointer to an
 * object of type "arm-smmuv3"; the struct behind it is private to Rust.
 */
#ifndef HW_ARM_SMMUV3_RUST_H
#define HW_ARM_SMMUV3_RUST_H

#include "qapi/qapi-types-misc-arm.h"

#endif /* HW_ARM_SMMUV3_RUST_H */
