/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Injects commands into the command queue that the running kernel's arm-smmu-v3 driver owns, through /dev/mem.
 * Nothing else may use the SMMU at the same time: no I/O on the devices behind it.
 *
 *   badcmd illegal [SMMU]       illegal commands: first with the GERROR interrupt off, so that the registers can be read
 *                               before a driver recovers, then one with it on, for the kernel's driver to recover from.
 *                               The last line is "injected N".
 *   badcmd legal [SMMU]         a TLBI and a CMD_SYNC, of which the doorbell may take as long as it likes. The last line is
 *                               "injected 2".
 *   badcmd rewind N [SMMU]      after N injected commands: CMD_SYNCs until PROD and CONS have gone twice round the queue,
 *                               and are again at the driver's own values, which do not count the N.
 *
 * SMMU counts the SMMUv3 nodes of the IORT from 0.
 */
#include "smmu.h"

static const struct {
    const char *name;
    Command command;
} illegal_commands[] = {
    {"reserved opcode 0x00", {{0x00, 0}}},
    {"reserved opcode 0xff", {{0xff, 0}}},
    {"CFGI_STE with SSec=1", {{0x03 | 1 << 10, 1}}}, /* §4.1.6 */
};

/* The interrupt is off: the registers keep the error until this acknowledges it. */
static unsigned inject_unnoticed(const char *name, const Command *command)
{
    uint32_t start = position(CMDQ_PROD), gerror = get(GERROR);

    /* The command behind the illegal one must not be touched (§4.1.2, §7.1). */
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

static void legal(void)
{
    uint32_t start = position(CMDQ_PROD);

    put(start, &tlbi_command);
    put(start + 1, &sync_command);
    set(CMDQ_PROD, (start + 2) & mask);
    printf("the doorbell has returned\n");
    wait_consumed("the TLBI");
    printf("injected 2\n");
}

int main(int argc, char **argv)
{
    const char *mode = argc >= 2 ? argv[1] : "";
    int is_rewind = !strcmp(mode, "rewind");
    int fixed = is_rewind ? 3 : 2;

    if (argc < fixed || argc > fixed + 1 || (!is_rewind && strcmp(mode, "illegal") && strcmp(mode, "legal"))) {
        fprintf(stderr, "usage: badcmd illegal [SMMU] | badcmd legal [SMMU] | badcmd rewind N [SMMU]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_queue(argc > fixed ? strtoul(argv[fixed], NULL, 0) : 0);
    if (!strcmp(mode, "illegal")) {
        illegal();
    } else if (!strcmp(mode, "legal")) {
        legal();
    } else {
        rewind_indexes(strtoul(argv[2], NULL, 0));
    }
    return 0;
}
