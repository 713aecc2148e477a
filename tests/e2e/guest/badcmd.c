/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Puts commands of its own into the command queue that the running kernel's arm-smmu-v3 driver owns, through /dev/mem.
 * Nothing else may use the SMMU meanwhile: no I/O on the devices behind it.
 *
 *   badcmd illegal [SMMU]       illegal commands: first with the GERROR interrupt off, so that the registers can be looked
 *                               at before anybody recovers, then one with it on, for the kernel's driver to recover from.
 *                               The last line is "injected N".
 *   badcmd rewind N [SMMU]      after N injected commands: CMD_SYNCs until PROD and CONS have gone twice round the queue,
 *                               and are again where the driver, which does not know of the N, believes them to be.
 *
 * SMMU counts the SMMUv3 nodes of the IORT from 0. Section numbers are those of the SMMUv3 architecture, IHI 0070.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    IDR1 = 0x04, IRQ_CTRL = 0x50, IRQ_CTRLACK = 0x54, GERROR = 0x60, GERRORN = 0x64,
    CMDQ_BASE = 0x90, CMDQ_PROD = 0x98, CMDQ_CONS = 0x9c,
    REGISTERS_SIZE = 0x10000,
};
#define GERROR_CMDQ_ERR 1u
#define IRQ_CTRL_GERROR_IRQEN 1u
#define CERROR_ILL 1u
#define CONS_ERR(cons) ((cons) >> 24 & 0x7f)

typedef struct Command {
    uint64_t word[2];
} Command;

static const Command sync_command = {{0x46, 0}}; /* CS = 0: no completion signal (4.7.3) */

static const struct {
    const char *name;
    Command command;
} illegal_commands[] = {
    {"reserved opcode 0x00", {{0x00, 0}}},
    {"reserved opcode 0xff", {{0xff, 0}}},
    {"CFGI_STE with SSec=1", {{0x03 | 1 << 10, 1}}}, /* 4.1.6 */
};

static volatile uint8_t *registers;
static volatile Command *queue;
static uint32_t log2size, entries, mask; /* mask: index and wrap flag (3.5.1) */

static void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    printf("badcmd: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

static uint32_t get(unsigned offset)
{
    return *(volatile uint32_t *)(registers + offset);
}

static void set(unsigned offset, uint32_t value)
{
    /* What was stored to the queue must be there when the SMMU hears of it. */
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

static volatile void *map(uint64_t address, size_t size, int flags)
{
    int fd = open("/dev/mem", O_RDWR | flags);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, address);

    if (at == MAP_FAILED) {
        fail("/dev/mem at 0x%llx cannot be mapped", (unsigned long long)address);
    }
    return at;
}

static void open_queue(unsigned smmu)
{
    registers = map(smmu_base(smmu), REGISTERS_SIZE, O_SYNC);
    uint64_t base = *(volatile uint64_t *)(registers + CMDQ_BASE);
    uint32_t largest = get(IDR1) >> 21 & 0x1f;

    log2size = base & 0x1f;
    if (log2size > largest) {
        log2size = largest;
    }
    entries = 1u << log2size;
    mask = 2 * entries - 1;
    queue = map(base & 0x00ffffffffffffe0ull, (size_t)entries * sizeof(Command), 0);
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

/* Nobody is told: what the registers say stays until this acknowledges it. */
static unsigned inject_unnoticed(const char *name, const Command *command)
{
    uint32_t start = position(CMDQ_PROD), gerror = get(GERROR);

    /* The command behind the illegal one must not be touched (4.1.2, 7.1). */
    put(start, command);
    put(start + 1, &sync_command);
    set(CMDQ_PROD, (start + 2) & mask);

    uint32_t cons = get(CMDQ_CONS), now = get(GERROR);

    printf("%s at 0x%x: CONS.RD 0x%x CONS.ERR %u GERROR 0x%x -> 0x%x GERRORN 0x%x\n", name, start, cons & mask,
           CONS_ERR(cons), gerror, now, get(GERRORN));
    if ((cons & mask) != start) {
        fail("CONS.RD is not at the illegal command");
    }
    if (CONS_ERR(cons) != CERROR_ILL) {
        fail("CONS.ERR is not CERROR_ILL");
    }
    if ((now ^ gerror) != GERROR_CMDQ_ERR || !error_active()) {
        fail("GERROR.CMDQ_ERR was not toggled");
    }

    put(start, &sync_command);
    set(GERRORN, get(GERRORN) ^ GERROR_CMDQ_ERR);
    wait_consumed(name);
    return 2;
}

static unsigned inject_for_the_driver(void)
{
    uint32_t start = position(CMDQ_PROD), gerror = get(GERROR);

    put(start, &illegal_commands[0].command);
    set(CMDQ_PROD, (start + 1) & mask);
    wait_consumed("the driver's recovery");
    printf("driver at 0x%x: CONS.RD 0x%x GERROR 0x%x -> 0x%x GERRORN 0x%x\n", start, position(CMDQ_CONS), gerror,
           get(GERROR), get(GERRORN));
    if (!((get(GERROR) ^ gerror) & GERROR_CMDQ_ERR)) {
        fail("GERROR.CMDQ_ERR was not toggled");
    }
    return 1;
}

static void illegal(void)
{
    uint32_t irq_ctrl = get(IRQ_CTRL);
    unsigned injected = 0;

    if (!(irq_ctrl & IRQ_CTRL_GERROR_IRQEN)) {
        fail("the driver has not enabled the GERROR interrupt");
    }
    set(IRQ_CTRL, irq_ctrl & ~IRQ_CTRL_GERROR_IRQEN);
    while (get(IRQ_CTRLACK) & IRQ_CTRL_GERROR_IRQEN) {
        ;
    }
    for (size_t i = 0; i < sizeof(illegal_commands) / sizeof(illegal_commands[0]); i++) {
        injected += inject_unnoticed(illegal_commands[i].name, &illegal_commands[i].command);
    }
    set(IRQ_CTRL, irq_ctrl);
    while (get(IRQ_CTRLACK) != irq_ctrl) {
        ;
    }
    injected += inject_for_the_driver();
    printf("injected %u\n", injected);
}

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

int main(int argc, char **argv)
{
    int illegal_wanted = argc >= 2 && !strcmp(argv[1], "illegal");
    int fixed = illegal_wanted ? 2 : 3;

    if (argc < fixed || argc > fixed + 1 || (!illegal_wanted && strcmp(argv[1], "rewind"))) {
        fprintf(stderr, "usage: badcmd illegal [SMMU] | badcmd rewind N [SMMU]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_queue(argc > fixed ? strtoul(argv[fixed], NULL, 0) : 0);
    if (position(CMDQ_PROD) != position(CMDQ_CONS) || error_active()) {
        fail("the queue is in use: PROD 0x%x CONS 0x%x GERROR 0x%x GERRORN 0x%x", get(CMDQ_PROD), get(CMDQ_CONS),
             get(GERROR), get(GERRORN));
    }
    if (illegal_wanted) {
        illegal();
    } else {
        rewind_indexes(strtoul(argv[2], NULL, 0));
    }
    return 0;
}
