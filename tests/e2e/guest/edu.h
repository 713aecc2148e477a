/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * QEMU's educational device as a probe: a device without a driver that writes zeros to any given address.
 * Its own buffer, the source of the data, is not touched by anything here.
 */
#ifndef EDU_H
#define EDU_H

#include "smmu.h"

enum {
    EDU_DMA_SOURCE = 0x80, EDU_DMA_DESTINATION = 0x88, EDU_DMA_COUNT = 0x90, EDU_DMA_COMMAND = 0x98, /* in BAR 0 */
    EDU_BUFFER = 0x40000, /* where its buffer is in its own address space */
    EDU_START = 1, EDU_TO_MEMORY = 2,
};

static volatile uint8_t *edu;

static void write_file(const char *path, off_t at, const void *data, size_t size)
{
    int fd = open(path, O_WRONLY);

    if (fd < 0 || pwrite(fd, data, size, at) != (ssize_t)size) {
        fail("%s cannot be written", path);
    }
    close(fd);
}

/* address: of the device on the PCI bus, such as 0000:09:00.0 */
static void open_edu(const char *address)
{
    const uint16_t memory_and_master = 0x0006;
    unsigned long long bar = 0;
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/enable", address);
    write_file(path, 0, "1", 1);
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", address);
    write_file(path, 4, &memory_and_master, 2);
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", address);
    file = fopen(path, "r");
    if (!file || fscanf(file, "%llx", &bar) != 1 || !bar) {
        fail("%s has no BAR 0", address);
    }
    fclose(file);
    edu = map(bar, 0x1000, O_SYNC);
}

static void edu_set(unsigned offset, uint64_t value)
{
    *(volatile uint64_t *)(edu + offset) = value;
}

/* Has the device write `count` bytes, which are zeros, to an address as devices see it; waits until the transfer has ended. */
static void edu_write(uint64_t to, unsigned count)
{
    edu_set(EDU_DMA_SOURCE, EDU_BUFFER);
    edu_set(EDU_DMA_DESTINATION, to);
    edu_set(EDU_DMA_COUNT, count);
    edu_set(EDU_DMA_COMMAND, EDU_START | EDU_TO_MEMORY);
    for (int tenths = 0; *(volatile uint64_t *)(edu + EDU_DMA_COMMAND) & EDU_START; tenths++) {
        if (tenths == 50) {
            fail("the device does not finish its DMA");
        }
        usleep(100000);
    }
}

#endif
