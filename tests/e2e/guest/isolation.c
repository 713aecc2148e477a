/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Puts the SMMU into one state after the other, and looks each time whether a device's DMA to the physical address of one
 * of our pages arrives: it must when tables and registers permit it, and must not otherwise.
 * Nothing else may use the SMMU at the same time: no I/O on the devices behind it.
 *
 *   isolation write PCI_ADDRESS IOVA   only one DMA of the edu device, to IOVA
 *   isolation states PCI_ADDRESS       all the states; afterwards everything is as it was but GBPA.ABORT, which is 1
 *                                      (and is ignored while the SMMU is enabled)
 *   isolation unsaid PCI_ADDRESS       writes an STE that bypasses, and says so by CFGI_STE only when the file
 *                                      "isolation.go" exists; afterwards everything is as it was
 *   isolation storm PCI_ADDRESS        two STEs in turn, with CFGI_STE, until that file exists; then as above
 *   isolation held PCI_ADDRESS         CPU 1 rings for a TLBI of which the host's call is held; when that file exists, this
 *                                      CPU changes the STE and rings for CFGI_STE, and then waits until the call has
 *                                      returned. CMDQ_PROD is not restored: the guest must be reset
 *   isolation eventqen PCI_ADDRESS     CR0.EVENTQEN becomes 0 and 1 again
 *
 * The SMMU is the first of the IORT; StreamID = PCI requester ID.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "edu.h"

#define CR0_SMMUEN 1u
#define CR0_EVENTQEN 4u
#define GO "isolation.go"
#define GBPA_UPDATE (1u << 31)
#define GBPA_ABORT (1u << 20)
#define STE_V 1u
#define STE_CONFIG_BYPASS (4u << 1)
#define STRTAB_LOG2SIZE 0x3fu
#define STRTAB_FMT_2LEVEL(cfg) (((cfg) >> 16 & 3) == 1)
#define CFGI_ALL 0x04, 31   /* a command's two words (§4.3.6) */

static uint8_t *page;       /* the DMA's target for the CPU */
static uint64_t page_physical;
static uint32_t stream_id;
static volatile uint64_t *ste;
static unsigned injected;

static void open_page(void)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);

    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
    if (page == MAP_FAILED || pread(fd, &entry, 8, (uintptr_t)page / 4096 * 8) != 8 || !(entry & ((1ull << 55) - 1))) {
        fail("no page with a known physical address");
    }
    close(fd);
    page_physical = (entry & ((1ull << 55) - 1)) * 4096;
}

static void open_ste(void)
{
    uint64_t base = get64(STRTAB_BASE) & 0x00ffffffffffffc0ull;
    uint32_t config = get(STRTAB_BASE_CFG);

    if (STRTAB_FMT_2LEVEL(config)) {
        unsigned split = config >> 6 & 0x1f;
        volatile uint64_t *level1 = map(base + 8 * (stream_id >> split), 8, 0);

        if (!(*level1 & 0x1f)) {
            fail("StreamID 0x%x has no level 2 table", stream_id);
        }
        base = *level1 & 0x00ffffffffffffc0ull;
        ste = map(base + 64 * (stream_id & ((1u << split) - 1)), 64, 0);
    } else {
        ste = map(base + 64 * stream_id, 64, 0);
    }
    if (!(ste[0] & STE_V)) {
        fail("the STE of StreamID 0x%x is not valid", stream_id);
    }
}

static void command(uint64_t word0, uint64_t word1)
{
    const Command wanted = {{word0, word1}};
    uint32_t start = position(CMDQ_PROD);

    put(start, &wanted);
    put(start + 1, &sync_command);
    set(CMDQ_PROD, (start + 2) & mask);
    wait_consumed("command");
    injected += 2;
}

static void set_ste(uint64_t word0, int all)
{
    ste[0] = word0;
    if (all) {
        command(CFGI_ALL);
    } else {
        command(0x03 | (uint64_t)stream_id << 32, 1);      /* CFGI_STE (§4.3.1) */
    }
}

static void set_cr0(uint32_t bit, int on)
{
    uint32_t cr0 = (get(CR0) & ~bit) | (on ? bit : 0);

    set(CR0, cr0);
    while (get(CR0ACK) != cr0) {
        ;
    }
}

static void set_smmuen(int on)
{
    set_cr0(CR0_SMMUEN, on);
}

static void set_abort(int on)
{
    set(GBPA, (get(GBPA) & ~(GBPA_ABORT | GBPA_UPDATE)) | (on ? GBPA_ABORT : 0) | GBPA_UPDATE);
    while (get(GBPA) & GBPA_UPDATE) {
        ;
    }
}

/* STRTAB_BASE_CFG can be written only while the SMMU is disabled (§6.3.25); cached entries of the table survive that. */
static void set_table_size(unsigned log2size_wanted)
{
    set_abort(1);
    set_smmuen(0);
    set(STRTAB_BASE_CFG, (get(STRTAB_BASE_CFG) & ~STRTAB_LOG2SIZE) | log2size_wanted);
    command(CFGI_ALL);
    set_smmuen(1);
}

static int wrong;

static void check(const char *state, int must_arrive)
{
    int arrived;

    memset(page, 0xa5, 4);
    __asm__ volatile("dsb sy" ::: "memory");
    edu_write(page_physical, 4);
    arrived = ((volatile uint8_t *)page)[0] == 0;
    if (arrived != must_arrive) {
        wrong++;
    }
    printf("%s: DMA to a physical address %s%s\n", state, arrived ? "arrives" : "does not arrive",
           arrived == must_arrive ? "" : "  <-- WRONG");
}

static void states(void)
{
    uint64_t original = ste[0], bypass = STE_V | STE_CONFIG_BYPASS;
    unsigned table_size = get(STRTAB_BASE_CFG) & STRTAB_LOG2SIZE;

    check("STE translates, address not mapped", 0);
    set_abort(0);
    set_smmuen(0);
    check("SMMUEN=0, GBPA.ABORT=0", 1);
    set_abort(1);
    check("SMMUEN=0, GBPA.ABORT=1", 0);
    set_abort(0);
    set_smmuen(1);
    check("SMMUEN 0 -> 1, no command, STE translates", 0);

    set_ste(bypass, 0);
    check("STE bypasses, CFGI_STE", 1);
    set_abort(1);
    check("the same, and GBPA.ABORT=1", 1);
    set_smmuen(0);
    check("the same, and SMMUEN=0", 0);
    set_smmuen(1);
    check("SMMUEN 0 -> 1, no command, STE bypasses", 1);
    set_table_size(0);
    check("StreamID outside the table", 0);
    set_table_size(table_size);
    check("StreamID inside again", 1);

    set_ste(0, 0);
    check("STE invalid, CFGI_STE", 0);
    set_abort(0);
    check("the same, and GBPA.ABORT=0", 0);
    set_ste(bypass, 1);
    check("STE bypasses, CFGI_ALL", 1);
    set_ste(0, 1);
    check("STE invalid, CFGI_ALL", 0);
    set_ste(original, 0);
    check("STE translates again, CFGI_STE", 0);
    set_abort(1);
}

/* What an SMMU has cached of an STE stays until CFGI_STE (§4.3.1). */
static void unsaid(void)
{
    uint64_t original = ste[0];

    check("STE translates, address not mapped", 0);
    ste[0] = STE_V | STE_CONFIG_BYPASS;
    printf("the STE is written\n");
    while (access(GO, F_OK)) {
        usleep(10000);
    }
    check("STE bypasses, no command", 0);
    command(0x03 | (uint64_t)stream_id << 32, 1);
    check("the same, CFGI_STE", 1);
    set_ste(original, 0);
    check("STE translates again, CFGI_STE", 0);
}

static void storm(void)
{
    uint64_t original = ste[0];
    unsigned rounds = 0;

    while (access(GO, F_OK)) {
        set_ste(STE_V | STE_CONFIG_BYPASS, 0);
        if (rounds % 16 == 0) {
            check("STE bypasses, CFGI_STE", 1);
        }
        set_ste(original, 0);
        if (rounds++ % 16 == 0) {
            check("STE translates, CFGI_STE", 0);
        }
    }
    printf("%u rounds\n", rounds);
}

/* argument: the new CMDQ_PROD */
static void *ring_on_cpu_1(void *argument)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(1, &cpus);
    if (sched_setaffinity(0, sizeof(cpus), &cpus)) {
        fail("there is no CPU 1");
    }
    set(CMDQ_PROD, (uintptr_t)argument);
    return NULL;
}

static void expect_cons(uint32_t wanted, const char *when)
{
    if (position(CMDQ_CONS) != wanted) {
        fail("%s: CMDQ_CONS is 0x%x, not 0x%x", when, position(CMDQ_CONS), wanted);
    }
}

/* A doorbell that waits for the host keeps no other CPU waiting, and an STE takes effect when its command is executed. */
static void held(void)
{
    const Command cfgi_ste = {{0x03 | (uint64_t)stream_id << 32, 1}};
    uint64_t original = ste[0];
    uint32_t start = position(CMDQ_PROD);
    pthread_t ringing;

    check("STE translates, address not mapped", 0);
    put(start, &tlbi_command);
    put(start + 1, &sync_command);
    if (pthread_create(&ringing, NULL, ring_on_cpu_1, (void *)(uintptr_t)((start + 2) & mask))) {
        fail("no thread");
    }
    while (access(GO, F_OK)) {
        usleep(10000);
    }
    expect_cons(start, "the call is held");
    ste[0] = STE_V | STE_CONFIG_BYPASS;
    put(start + 2, &cfgi_ste);
    put(start + 3, &sync_command);
    set(CMDQ_PROD, (start + 4) & mask);
    expect_cons(start, "another CPU has rung");
    check("STE bypasses, CFGI_STE is in the queue", 0);
    expect_cons(start, "the device has done DMA");
    printf("CFGI_STE is in the queue\n");
    pthread_join(ringing, NULL);
    wait_consumed("CFGI_STE");
    expect_cons((start + 4) & mask, "all is consumed");
    check("STE bypasses, CFGI_STE is executed", 1);
    set_ste(original, 0);
    check("STE translates again, CFGI_STE", 0);
}

int main(int argc, char **argv)
{
    unsigned bus, device, function;

    if (argc < 3 || sscanf(argv[2], "%*x:%x:%x.%x", &bus, &device, &function) != 3) {
        fprintf(stderr, "usage: isolation write PCI_ADDRESS IOVA | isolation states|unsaid|storm|held|eventqen PCI_ADDRESS\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_edu(argv[2]);
    if (argc == 4 && !strcmp(argv[1], "write")) {
        edu_write(strtoull(argv[3], NULL, 0), 4);
        return 0;
    }
    stream_id = bus << 8 | device << 3 | function;
    open_queue(0);
    open_page();
    open_ste();
    if (!strcmp(argv[1], "eventqen")) {
        set_cr0(CR0_EVENTQEN, 0);
        set_cr0(CR0_EVENTQEN, 1);
        return 0;
    }
    if (!strcmp(argv[1], "held")) {
        held();
        if (wrong) {
            fail("%d states are wrong", wrong);
        }
        return 0;
    }
    if (!strcmp(argv[1], "unsaid")) {
        unsaid();
    } else if (!strcmp(argv[1], "storm")) {
        storm();
    } else {
        states();
    }
    rewind_indexes(injected % (2 * entries));
    if (wrong) {
        fail("%d states are wrong", wrong);
    }
    return 0;
}
