/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Takes all virtual interfaces of the host's CMDQV that are free, prints their number, and keeps them until it is killed.
 * Usage: vintfs /dev/vfio/devices/vfioN, the device of a function behind that SMMU
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

/* Newer than the build environment's headers: IOMMU_VIOMMU_ALLOC and the type with CMDQV. */
#define VIOMMU_ALLOC _IO(IOMMUFD_TYPE, 0x90)
#define VIOMMU_TYPE_TEGRA241_CMDQV 2

struct viommu_alloc {
    uint32_t size, flags, type, dev_id, hwpt_id, out_viommu_id, data_len, reserved;
    uint64_t data_uptr;
};

struct viommu_data {
    uint64_t mmap_offset, mmap_length;
};

static int fail(const char *what)
{
    fprintf(stderr, "vintfs: %s: %s\n", what, strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    int iommu = open("/dev/iommu", O_RDWR);
    int device = argc == 2 ? open(argv[1], O_RDWR) : -1;

    if (iommu < 0 || device < 0) {
        return fail("open");
    }
    struct vfio_device_bind_iommufd bind = {.argsz = sizeof(bind), .iommufd = iommu};

    if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind)) {
        return fail("VFIO_DEVICE_BIND_IOMMUFD");
    }
    struct iommu_ioas_alloc ioas = {.size = sizeof(ioas)};

    if (ioctl(iommu, IOMMU_IOAS_ALLOC, &ioas)) {
        return fail("IOMMU_IOAS_ALLOC");
    }
    struct iommu_hwpt_alloc parent = {.size = sizeof(parent), .flags = IOMMU_HWPT_ALLOC_NEST_PARENT,
                                      .dev_id = bind.out_devid, .pt_id = ioas.out_ioas_id};

    if (ioctl(iommu, IOMMU_HWPT_ALLOC, &parent)) {
        return fail("IOMMU_HWPT_ALLOC");
    }
    int taken = 0;

    for (;; taken++) {
        struct viommu_data data = {0};
        struct viommu_alloc viommu = {.size = sizeof(viommu), .type = VIOMMU_TYPE_TEGRA241_CMDQV,
                                      .dev_id = bind.out_devid, .hwpt_id = parent.out_hwpt_id,
                                      .data_len = sizeof(data), .data_uptr = (uintptr_t)&data};

        if (ioctl(iommu, VIOMMU_ALLOC, &viommu)) {
            break;
        }
    }
    if (errno != ENOSPC) {
        return fail("IOMMU_VIOMMU_ALLOC");
    }
    printf("%d\n", taken);
    fflush(stdout);
    for (;;) {
        pause();
    }
}
