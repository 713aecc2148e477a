/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Makes one ioctl of a program fail, as a kernel would: to be preloaded (LD_PRELOAD). The environment has
 * REFUSED=NUMBER:ERRNO, the ioctl's request and the error, and REFUSING, the path of a file: only while it exists the
 * ioctl fails.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...)
{
    static unsigned long refused;
    static int error;
    va_list arguments;

    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);

    va_end(arguments);
    if (refused == 0) {
        char *end = getenv("REFUSED");

        if (end) {
            unsigned long number = strtoul(end, &end, 0);

            error = *end == ':' ? atoi(end + 1) : 0;
            refused = error ? number : 0;
        }
        if (refused == 0) {
            abort(); /* a scenario that refuses nothing would pass */
        }
    }
    if (request == refused && access(getenv("REFUSING"), F_OK) == 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_ioctl, fd, request, argument);
}
