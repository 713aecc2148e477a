/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * The registers and the command queue of an SMMUv3 that the running kernel's driver owns, through /dev/mem.
 * Section numbers are those of the SMMUv3 architecture, IHI 0070.
 */
#ifndef SMMU_H
#define SMMU_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    IDR1 = 0x04, CR0 = 0x20, CR0ACK = 0x24, GBPA = 0x44, IRQ_CTRL = 0x50, IRQ_CTRLACK = 0x54, GERROR = 0x60, GERRORN = 0x64,
    STRTAB_BASE = 0x80, STRTAB_BASE_CFG = 0x88, CMDQ_BASE = 0x90, CMDQ_PROD = 0x98, CMDQ_CONS = 0x9c,
    REGISTERS_SIZE = 0x10000,
};
#define GERROR_CMDQ_ERR 1u
#define IRQ_CTRL_GERROR_IRQEN 1u
#define CERROR_ILL 1u
#define CONS_ERR(cons) ((cons) >> 24 & 0x7f)

typedef struct Command {
    uint64_t word[2];
} Command;

static const Command sync_command = {{0x46, 0}}; /* CS = 0: no completion signal (§4.7.3) */
static const Command tlbi_command = {{0x11, 0}}; /* CMD_TLBI_NH_ASID, ASID 0 (§4.4.2) */

static volatile uint8_t *registers;
static volatile Command *queue;
static uint32_t log2size, entries, mask; /* mask: index and wrap flag (§3.5.1) */

static void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    printf("failed: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

static uint32_t get(unsigned offset)
{
    return *(volatile uint32_t *)(registers + offset);
}

static uint64_t get64(unsigned offset)
{
    return *(volatile uint64_t *)(registers + offset);
}

static void set(unsigned offset, uint32_t value)
{
    /* Stores to the queue must be visible before the doorbell. */
    __asm__ volatile("dsb sy" ::: "memory");
    *(volatile uint32_t *)(registers + offset) = value;
}

static uint64_t smmu_base(unsigned wanted)
{
    uint8_t table[65536];
    FILE *file = fopen("/sys/firmware/acpi/tables/IORT", "rb");
    size_t size = file ? fread(table, 1, sizeof(table), file) : 0;
    uint32_t count, offset;

    if (size < 48) {
        fail("no IORT");
    }
    fclose(file);
    memcpy(&count, table + 36, 4);
    memcpy(&offset, table + 40, 4);
    while (count-- && offset + 24 <= size) {
        uint16_t length;
        uint64_t base;

        memcpy(&length, table + offset + 1, 2);
        if (table[offset] == 4 && wanted-- == 0) { /* node type SMMUv3 */
            memcpy(&base, table + offset + 16, 8);
            return base;
        }
        offset += length;
    }
    fail("the IORT names no such SMMUv3");
    return 0;
}

/* Device memory needs O_SYNC among the flags, RAM must not have it. */
static volatile void *map(uint64_t address, size_t size, int flags)
{
    uint64_t within = address & 0xfff;
    int fd = open("/dev/mem", O_RDWR | flags);
    char *at = fd < 0 ? MAP_FAILED : mmap(NULL, size + within, PROT_READ | PROT_WRITE, MAP_SHARED, fd, address - within);

    if (at == (char *)MAP_FAILED) {
        fail("/dev/mem at 0x%llx cannot be mapped", (unsigned long long)address);
    }
    close(fd);
    return at + within;
}

static void put(uint32_t position, const Command *command)
{
    volatile Command *slot = &queue[position & (entries - 1)];

    slot->word[1] = command->word[1];
    slot->word[0] = command->word[0];
}

static uint32_t position(unsigned offset)
{
    return get(offset) & mask;
}

static int error_active(void)
{
    return (get(GERROR) ^ get(GERRORN)) & GERROR_CMDQ_ERR;
}

static void open_queue(unsigned smmu)
{
    registers = map(smmu_base(smmu), REGISTERS_SIZE, O_SYNC);
    uint64_t base = get64(CMDQ_BASE);
    uint32_t largest = get(IDR1) >> 21 & 0x1f;

    log2size = base & 0x1f;
    if (log2size > largest) {
        log2size = largest;
    }
    entries = 1u << log2size;
    mask = 2 * entries - 1;
    queue = map(base & 0x00ffffffffffffe0ull, (size_t)entries * sizeof(Command), 0);
    if (position(CMDQ_PROD) != position(CMDQ_CONS) || error_active()) {
        fail("the queue is in use: PROD 0x%x CONS 0x%x GERROR 0x%x GERRORN 0x%x", get(CMDQ_PROD), get(CMDQ_CONS),
             get(GERROR), get(GERRORN));
    }
}

static void wait_consumed(const char *what)
{
    for (int tenths = 0; position(CMDQ_CONS) != position(CMDQ_PROD) || error_active(); tenths++) {
        if (tenths == 100) {
            fail("%s: not consumed after 10 s: PROD 0x%x CONS 0x%x GERROR 0x%x GERRORN 0x%x", what, get(CMDQ_PROD),
                 get(CMDQ_CONS), get(GERROR), get(GERRORN));
        }
        usleep(100000);
    }
}

/*
 * After `injected` commands that the driver has not issued: CMD_SYNCs until PROD and CONS have gone twice round the
 * queue, and are again at the driver's own values.
 */
static void rewind_indexes(uint32_t injected)
{
    uint32_t left = 2 * entries - injected;

    for (uint32_t i = 0; i < entries; i++) {
        put(i, &sync_command);
    }
    while (left) {
        uint32_t step = left < entries ? left : entries;

        set(CMDQ_PROD, (position(CMDQ_PROD) + step) & mask);
        wait_consumed("rewind");
        left -= step;
    }
    printf("rewound: 2^%u entries, PROD 0x%x CONS 0x%x\n", log2size, get(CMDQ_PROD), get(CMDQ_CONS));
}

#endif
