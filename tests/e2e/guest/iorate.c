/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Reads blocks of a device with O_DIRECT from several threads for some time, and prints how many a second.
 * Usage: iorate sequential|random DEVICE BLOCK_SIZE SPAN THREADS MILLISECONDS
 * SPAN: only the first so many bytes of the device.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    pthread_t thread;
    unsigned number;
    uint64_t blocks; /* read so far */
} Worker;

static bool is_random;
static int device;
static size_t block_size;
static uint64_t span_blocks;
static unsigned threads;
static uint64_t end; /* nanoseconds */

static void fail(const char *what)
{
    fprintf(stderr, "iorate: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *work(void *opaque)
{
    Worker *worker = opaque;
    uint64_t state = 0x9e3779b97f4a7c15ull * (worker->number + 1);
    uint64_t block = span_blocks / threads * worker->number;
    void *buffer;

    if (posix_memalign(&buffer, 4096, block_size)) {
        fail("memory");
    }
    while (now() < end) {
        block = (is_random ? next_random(&state) : block + 1) % span_blocks;
        ssize_t n = pread(device, buffer, block_size, block * block_size);

        if (n < 0) {
            fail("read");
        } else if ((size_t)n != block_size) {
            /* Linux sets a disk's size to 0 when it is unplugged. */
            fprintf(stderr, "iorate: read: end of the device\n");
            exit(1);
        }
        worker->blocks++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 7 || (strcmp(argv[1], "sequential") && strcmp(argv[1], "random"))) {
        fprintf(stderr, "usage: iorate sequential|random DEVICE BLOCK_SIZE SPAN THREADS MILLISECONDS\n");
        return 2;
    }
    is_random = !strcmp(argv[1], "random");
    device = open(argv[2], O_DIRECT | O_RDONLY);
    block_size = strtoull(argv[3], NULL, 0);
    span_blocks = strtoull(argv[4], NULL, 0) / block_size;
    threads = strtoul(argv[5], NULL, 0);
    if (device < 0) {
        fail(argv[2]);
    }
    Worker *workers = calloc(threads, sizeof(*workers));
    uint64_t begin = now(), blocks = 0;

    end = begin + strtoull(argv[6], NULL, 0) * 1000000;
    for (unsigned i = 0; i < threads; i++) {
        workers[i].number = i;
        if ((errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]))) {
            fail("thread");
        }
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        blocks += workers[i].blocks;
    }
    printf("%.1f\n", blocks / ((now() - begin) / 1e9));
    return 0;
}
