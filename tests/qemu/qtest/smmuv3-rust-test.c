/*
 * QTest for the Command queue of the Rust SMMUv3
 *
 * Copyright 2026 the smmuv3-accel authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"

/* The SMMU of machine virt */
#define SMMU            0x09050000ULL
#define IDR0            (SMMU + 0x00)
#define CR0             (SMMU + 0x20)
#define CR0ACK          (SMMU + 0x24)
#define GERROR          (SMMU + 0x60)
#define GERRORN         (SMMU + 0x64)
#define CMDQ_BASE       (SMMU + 0x90)
#define CMDQ_PROD       (SMMU + 0x98)
#define CMDQ_CONS       (SMMU + 0x9c)

#define IDR0_MSI                (1u << 13)
#define CR0_CMDQEN              (1u << 3)
#define GERROR_CMDQ_ERR         (1u << 0)
#define GERROR_MSI_CMDQ_ABT_ERR (1u << 4)
#define CERROR_ILL              1

/* Guest memory */
#define QUEUE           0x40100000ULL
#define FLAG            0x40200000ULL
/* Neither memory nor a device */
#define NOTHING         0x00000fff00000000ULL

#define LOG2_SIZE       7
#define SIZE            (1u << LOG2_SIZE)
/* An index and its wrap flag */
#define POINTER_MASK    (2 * SIZE - 1)

#define CMD_TLBI_NH_ALL 0x10
#define CMD_SYNC        0x46
#define CMD_NONE        0xff
#define CS_SIG_IRQ      (1u << 12)

#define PATIENCE_US     (30 * G_USEC_PER_SEC)
#define DONE            0x600d0000u

static QTestState *start(const char *options)
{
    QTestState *qts;

    qts = qtest_initf("-machine virt,acpi=off,gic-version=3,iommu=smmuv3 "
                      "-smp 1 -m 512 -cpu max -net none %s", options);
    qtest_writeq(qts, CMDQ_BASE, QUEUE | LOG2_SIZE);
    return qts;
}

static void enable(QTestState *qts, uint32_t index)
{
    qtest_writel(qts, CMDQ_PROD, index);
    qtest_writel(qts, CMDQ_CONS, index);
    qtest_writel(qts, CR0, CR0_CMDQEN);
    g_assert_cmphex(qtest_readl(qts, CR0ACK), ==, CR0_CMDQEN);
}

static void put(QTestState *qts, uint32_t index, uint64_t low, uint64_t high)
{
    uint64_t slot = QUEUE + 16 * (index % SIZE);

    qtest_writeq(qts, slot, low);
    qtest_writeq(qts, slot + 8, high);
}

/* A CMD_SYNC that writes DONE to an address */
static void put_sync(QTestState *qts, uint32_t index, uint64_t address)
{
    put(qts, index, CMD_SYNC | CS_SIG_IRQ | (uint64_t)DONE << 32, address);
}

static bool is_active(QTestState *qts, uint32_t error)
{
    return (qtest_readl(qts, GERROR) ^ qtest_readl(qts, GERRORN)) & error;
}

/*
 * The main loop may consume a part of the queue after the doorbell.  Returns
 * CMDQ_CONS when it has reached an index or the queue has stopped.
 */
static uint32_t wait_for(QTestState *qts, uint32_t index)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;
    uint32_t cons;

    do {
        cons = qtest_readl(qts, CMDQ_CONS);
        if ((cons & POINTER_MASK) == (index & POINTER_MASK) ||
            is_active(qts, GERROR_CMDQ_ERR)) {
            return cons;
        }
        g_usleep(1000);
    } while (g_get_monotonic_time() < end);
    g_test_message("CMDQ_CONS stays at 0x%x", cons);
    g_assert_not_reached();
}

static void test_msi_is_off_by_default(void)
{
    QTestState *qts = start("");
    uint64_t both;

    g_assert_cmphex(qtest_readl(qts, IDR0) & IDR0_MSI, ==, 0);
    /* IDR0 and IDR1 in one access */
    both = qtest_readq(qts, IDR0);
    g_assert_cmphex(both & UINT32_MAX, ==, qtest_readl(qts, IDR0));
    g_assert_cmphex(both >> 32, ==, qtest_readl(qts, IDR0 + 4));
    qtest_quit(qts);
}

static void test_commands_across_the_wrap(void)
{
    QTestState *qts = start("-global arm-smmuv3.msi=on");
    const uint32_t first = SIZE - 3, last = first + SIZE - 1;
    uint32_t index;

    g_assert_cmphex(qtest_readl(qts, IDR0) & IDR0_MSI, ==, IDR0_MSI);
    enable(qts, first);
    for (index = first; index < last; index++) {
        put(qts, index, CMD_TLBI_NH_ALL, 0);
    }
    put_sync(qts, last, FLAG);
    g_assert_cmphex(qtest_readl(qts, FLAG), ==, 0);
    /* The queue is full: PROD and CONS differ in the wrap flag only. */
    qtest_writel(qts, CMDQ_PROD, (last + 1) & POINTER_MASK);
    g_assert_cmphex(wait_for(qts, last + 1), ==, (last + 1) & POINTER_MASK);
    g_assert_cmphex(qtest_readl(qts, FLAG), ==, DONE);
    g_assert_false(is_active(qts, GERROR_CMDQ_ERR));
    qtest_quit(qts);
}

static void test_illegal_command(void)
{
    QTestState *qts = start("-global arm-smmuv3.msi=on");

    enable(qts, 0);
    put_sync(qts, 0, FLAG);
    put(qts, 1, CMD_NONE, 0);
    put_sync(qts, 2, FLAG + 4);
    qtest_writel(qts, CMDQ_PROD, 3);

    /* CONS is at the command; the preceding one is complete, no other is. */
    g_assert_cmphex(wait_for(qts, 3), ==, CERROR_ILL << 24 | 1);
    g_assert_true(is_active(qts, GERROR_CMDQ_ERR));
    g_assert_cmphex(qtest_readl(qts, FLAG), ==, DONE);
    g_assert_cmphex(qtest_readl(qts, FLAG + 4), ==, 0);

    /* A doorbell does not make it go on, ... */
    put_sync(qts, 3, FLAG + 8);
    qtest_writel(qts, CMDQ_PROD, 4);
    g_assert_cmphex(qtest_readl(qts, CMDQ_CONS), ==, CERROR_ILL << 24 | 1);
    /* ... but software that has acknowledged the error does. */
    put(qts, 1, CMD_TLBI_NH_ALL, 0);
    qtest_writel(qts, GERRORN, qtest_readl(qts, GERROR));
    g_assert_cmphex(wait_for(qts, 4) & POINTER_MASK, ==, 4);
    g_assert_false(is_active(qts, GERROR_CMDQ_ERR));
    g_assert_cmphex(qtest_readl(qts, FLAG + 4), ==, DONE);
    g_assert_cmphex(qtest_readl(qts, FLAG + 8), ==, DONE);
    qtest_quit(qts);
}

static void test_aborted_msi(void)
{
    QTestState *qts = start("-global arm-smmuv3.msi=on");

    enable(qts, 0);
    put_sync(qts, 0, NOTHING);
    put_sync(qts, 1, FLAG);
    qtest_writel(qts, CMDQ_PROD, 2);

    /* The write is lost and reported, and the queue goes on. */
    g_assert_cmphex(wait_for(qts, 2), ==, 2);
    g_assert_true(is_active(qts, GERROR_MSI_CMDQ_ABT_ERR));
    g_assert_cmphex(qtest_readl(qts, FLAG), ==, DONE);
    qtest_writel(qts, GERRORN, qtest_readl(qts, GERROR));
    g_assert_false(is_active(qts, GERROR_MSI_CMDQ_ABT_ERR));
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!qtest_has_machine("virt") || !qtest_has_device("arm-gicv3")) {
        g_test_message("this build lacks machine virt or its interrupt "
                       "controller");
        return 0;
    }
    qtest_add_func("/smmuv3-rust/msi-is-off-by-default",
                   test_msi_is_off_by_default);
    qtest_add_func("/smmuv3-rust/commands-across-the-wrap",
                   test_commands_across_the_wrap);
    qtest_add_func("/smmuv3-rust/illegal-command", test_illegal_command);
    qtest_add_func("/smmuv3-rust/aborted-msi", test_aborted_msi);
    return g_test_run();
}
