/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Moves blocks between a device and stdin or stdout with O_DIRECT: every block is one DMA mapping, or more.
 * Usage: directio read|write DEVICE OFFSET BLOCK_SIZE COUNT
 * read with stdout closed (>&-) drops the data.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "directio: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Fills buffer from fd, across short reads. */
static void read_all(int fd, char *buffer, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, buffer + done, size - done);

        if (n <= 0) {
            fail("input");
        }
        done += n;
    }
}

static void write_all(int fd, const char *buffer, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, buffer + done, size - done);

        if (n <= 0) {
            fail("output");
        }
        done += n;
    }
}

int main(int argc, char **argv)
{
    if (argc != 6 || (strcmp(argv[1], "read") && strcmp(argv[1], "write"))) {
        fprintf(stderr, "usage: directio read|write DEVICE OFFSET BLOCK_SIZE COUNT\n");
        return 2;
    }
    bool writing = !strcmp(argv[1], "write");
    off_t offset = strtoll(argv[3], NULL, 0);
    size_t size = strtoull(argv[4], NULL, 0);
    long count = strtol(argv[5], NULL, 0);
    bool output = fcntl(STDOUT_FILENO, F_GETFD) != -1;
    int fd = open(argv[2], O_DIRECT | (writing ? O_WRONLY : O_RDONLY));
    void *buffer;

    /* With stdout closed the device may have taken its number. */
    if (fd == STDOUT_FILENO) {
        fd = dup(fd);
    }
    if (fd < 0) {
        fail(argv[2]);
    }
    if (posix_memalign(&buffer, 1 << 20, size)) {
        fail("memory");
    }
    for (long i = 0; i < count; i++, offset += size) {
        if (writing) {
            read_all(STDIN_FILENO, buffer, size);
        }
        ssize_t n = writing ? pwrite(fd, buffer, size, offset) : pread(fd, buffer, size, offset);

        if (n != (ssize_t)size) {
            fail(writing ? "write to the device" : "read from the device");
        }
        if (!writing && output) {
            write_all(STDOUT_FILENO, buffer, size);
        }
    }
    if (writing && fsync(fd)) {
        fail("flush");
    }
    return 0;
}
