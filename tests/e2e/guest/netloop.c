/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * Sends frames of random sizes and contents from each of two network interfaces to the other, many at a time, and compares
 * every byte of what arrives. The host has to connect the two. Prints how many bytes have arrived.
 * Usage: netloop INTERFACE INTERFACE FRAMES
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ETHERTYPE 0x88b5 /* for local experiments */
#define HEADER 14
#define SHORTEST 60
#define LONGEST 1514
#define IN_FLIGHT 32

typedef struct {
    const char *name;
    int socket;
    struct sockaddr_ll address;
} Interface;

static uint8_t sent[IN_FLIGHT][LONGEST];
static size_t sizes[IN_FLIGHT];

static void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("netloop: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, " (%s)\n", strerror(errno));
    exit(1);
}

static void request(Interface *interface, unsigned long what, struct ifreq *argument)
{
    strncpy(argument->ifr_name, interface->name, IFNAMSIZ - 1);
    if (ioctl(interface->socket, what, argument)) {
        fail("%s: ioctl 0x%lx", interface->name, what);
    }
}

static void wait_for_link(Interface *interface)
{
    for (int tenths = 0; tenths < 200; tenths++) {
        struct ifreq argument = { 0 };

        request(interface, SIOCGIFFLAGS, &argument);
        if (argument.ifr_flags & IFF_RUNNING) {
            return;
        }
        usleep(100000);
    }
    fail("%s has no link", interface->name);
}

static void open_interface(Interface *interface, const char *name)
{
    struct ifreq argument = { 0 };
    struct timeval patience = { .tv_sec = 20 };

    interface->name = name;
    interface->socket = socket(AF_PACKET, SOCK_RAW, 0); /* bind() selects what it receives */
    if (interface->socket < 0) {
        fail("no packet socket");
    }
    request(interface, SIOCGIFFLAGS, &argument);
    argument.ifr_flags |= IFF_UP;
    request(interface, SIOCSIFFLAGS, &argument);
    wait_for_link(interface);
    request(interface, SIOCGIFINDEX, &argument);
    interface->address = (struct sockaddr_ll) {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE), .sll_ifindex = argument.ifr_ifindex,
    };
    if (bind(interface->socket, (struct sockaddr *)&interface->address, sizeof(interface->address)) ||
        setsockopt(interface->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience))) {
        fail("%s", name);
    }
}

static void make_frame(int random, unsigned number)
{
    uint8_t *frame = sent[number % IN_FLIGHT];
    uint32_t dice;

    if (read(random, &dice, sizeof(dice)) != sizeof(dice)) {
        fail("no random numbers");
    }
    size_t size = SHORTEST + dice % (LONGEST - SHORTEST + 1);

    if (read(random, frame, size) != (ssize_t)size) {
        fail("no random numbers");
    }
    memset(frame, 0xff, 6); /* broadcast */
    frame[6] &= 0xfc;       /* from a single address */
    frame[12] = ETHERTYPE >> 8;
    frame[13] = ETHERTYPE & 0xff;
    memcpy(frame + HEADER, &number, sizeof(number));
    sizes[number % IN_FLIGHT] = size;
}

static void send_frame(Interface *from, unsigned number)
{
    unsigned slot = number % IN_FLIGHT;

    if (send(from->socket, sent[slot], sizes[slot], 0) != (ssize_t)sizes[slot]) {
        fail("%s: frame %u of %zu bytes was not sent", from->name, number, sizes[slot]);
    }
}

static void receive_frame(Interface *to, unsigned number)
{
    static uint8_t frame[2048];
    unsigned slot = number % IN_FLIGHT;
    ssize_t size = recv(to->socket, frame, sizeof(frame), 0);

    if (size < 0) {
        fail("%s: frame %u has not arrived", to->name, number);
    }
    errno = 0;
    if ((size_t)size != sizes[slot]) {
        fail("%s: %zd bytes instead of frame %u with %zu", to->name, size, number, sizes[slot]);
    }
    for (ssize_t i = 0; i < size; i++) {
        if (frame[i] != sent[slot][i]) {
            fail("%s: frame %u differs from byte %zd of %zd on", to->name, number, i, size);
        }
    }
}

/* Fills the window, takes half of it, and so on: both directions of the rings are busy. */
static uint64_t send_all(int random, Interface *from, Interface *to, unsigned frames)
{
    uint64_t bytes = 0;
    unsigned arrived = 0;

    for (unsigned number = 0; number < frames; number++) {
        make_frame(random, number);
        send_frame(from, number);
        bytes += sizes[number % IN_FLIGHT];
        if (number - arrived == IN_FLIGHT - 1) {
            for (unsigned i = 0; i < IN_FLIGHT / 2; i++) {
                receive_frame(to, arrived++);
            }
        }
    }
    while (arrived < frames) {
        receive_frame(to, arrived++);
    }
    return bytes;
}

int main(int argc, char **argv)
{
    Interface first, second;
    int random = open("/dev/urandom", O_RDONLY);

    if (argc != 4 || random < 0) {
        fprintf(stderr, "usage: netloop INTERFACE INTERFACE FRAMES\n");
        return 2;
    }
    unsigned frames = strtoul(argv[3], NULL, 0);

    open_interface(&first, argv[1]);
    open_interface(&second, argv[2]);
    uint64_t there = send_all(random, &first, &second, frames);
    uint64_t back = send_all(random, &second, &first, frames);

    printf("%llu\n", (unsigned long long)(there + back));
    return 0;
}
