/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Holds one ioctl of a program, as a kernel that waits for hardware would: to be preloaded (LD_PRELOAD). The environment has
 * HELD=NUMBER:MILLISECONDS, the ioctl's request and how long it is held at most, and HOLDING, the path of a file.
 *
 * The first such call that finds the file renames it to HOLDING.call, and is held until that is deleted; all other calls go
 * to the kernel at once. So one call is held each time the file is made. HOLDING.marks gets a line when the call begins to
 * be held, and one when the kernel has executed it: "begin" or "end", and the time in seconds since 1970.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char call_path[256], marks_path[256];
static unsigned long held;
static long limit; /* milliseconds */

__attribute__((constructor)) static void read_environment(void)
{
    const char *holding = getenv("HOLDING");
    char *end = getenv("HELD");

    if (!end || !holding) {
        abort(); /* a scenario that holds nothing would pass */
    }
    held = strtoul(end, &end, 0);
    limit = *end == ':' ? atol(end + 1) : 0;
    snprintf(call_path, sizeof(call_path), "%s.call", holding);
    snprintf(marks_path, sizeof(marks_path), "%s.marks", holding);
    if (!held || !limit) {
        abort();
    }
}

static void mark(const char *what)
{
    struct timespec now;
    char line[64];
    int fd = open(marks_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    clock_gettime(CLOCK_REALTIME, &now);
    int size = snprintf(line, sizeof(line), "%s %lld.%06ld\n", what, (long long)now.tv_sec, now.tv_nsec / 1000);

    if (fd < 0 || write(fd, line, size) != size) {
        abort(); /* the scenario would wait for the mark */
    }
    close(fd);
}

static int hold(int fd, unsigned long request, void *argument)
{
    mark("begin");
    for (long waited = 0; waited < limit && access(call_path, F_OK) == 0; waited++) {
        usleep(1000);
    }
    unlink(call_path);

    int result = syscall(SYS_ioctl, fd, request, argument), error = errno;

    mark("end");
    errno = error;
    return result;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;

    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);

    va_end(arguments);
    if (request == held && rename(getenv("HOLDING"), call_path) == 0) {
        return hold(fd, request, argument);
    }
    return syscall(SYS_ioctl, fd, request, argument);
}
