/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copyright 2026 the smmuv3-accel authors */
/*
 * A vhost-user backend of two virtio network devices: what one of them sends the other one receives. All addresses of the
 * devices are I/O virtual ones. They are translated by QEMU, and kept until QEMU says that they are invalid.
 * Usage: vhostloop SOCKET SOCKET, on which it waits for QEMU. Prints what it has done when both connections have ended.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* vhost-user: requests of QEMU */
enum {
    GET_FEATURES = 1, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_VRING_NUM = 8, SET_VRING_ADDR,
    SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES,
    SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 18, SET_BACKEND_REQ_FD = 21, IOTLB_MSG
};
#define BACKEND_IOTLB_MSG 1
#define VERSION 1u
#define ANSWER (1u << 2)
#define WANTS_ANSWER (1u << 3)
/* VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, and that there are protocol features: replies and requests of the backend */
#define FEATURES (1ull << 32 | 1ull << 33 | 1ull << 30)
#define PROTOCOL_FEATURES (1ull << 3 | 1ull << 5)
#define NO_FD (1u << 8)

enum { READ = 1, WRITE = 2 };                   /* accesses */
enum { MISS = 1, UPDATE, INVALIDATE };          /* kinds of IOTLB_MSG */
enum { NEXT = 1, WRITABLE = 2, INDIRECT = 4 };  /* flags of a descriptor */
enum { RX, TX, QUEUES };

#define REGIONS 8
#define TRANSLATIONS 4096
#define NET_HEADER 12
#define LONGEST 4096
#define PATIENCE 10 /* seconds for a translation */

typedef struct __attribute__((packed)) {
    uint32_t request, flags, size;
    union __attribute__((packed)) {
        uint64_t number;
        struct { uint32_t index, value; } vring;
        struct { uint32_t index, flags; uint64_t desc, used, avail, log; } addresses;
        struct { uint32_t count, padding; struct { uint64_t guest, size, user, offset; } region[REGIONS]; } memory;
        struct { uint64_t iova, size, user; uint8_t access, kind, padding[6]; } iotlb;
    };
} Message;
#define HEADER 12

typedef struct { uint64_t address; uint32_t length; uint16_t flags, next; } Descriptor;

typedef struct {
    bool enabled;
    uint32_t size;
    uint16_t next;              /* of the available ring, and of the used ring */
    uint64_t desc, avail, used; /* I/O virtual addresses */
    int kick, call;
} Queue;

typedef struct {
    int listener, socket, requests;
    struct { uint64_t size, user; uint8_t *here; } region[REGIONS];
    unsigned regions;
    struct { uint64_t iova, size, user; uint8_t access; } translation[TRANSLATIONS];
    unsigned translations;
    Queue queue[QUEUES];
} Device;

static Device devices[2];
static struct { unsigned long frames, bytes, misses, invalidations, dropped; } done;

static void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("vhostloop: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, " (%s)\n", strerror(errno));
    exit(1);
}

/* Memory of QEMU's at this address of its process, and how many bytes of it are there. */
static uint8_t *map(Device *device, uint64_t user, uint64_t *length)
{
    for (unsigned i = 0; i < device->regions; i++) {
        uint64_t offset = user - device->region[i].user;

        if (offset < device->region[i].size) {
            *length = device->region[i].size - offset;
            return device->region[i].here + offset;
        }
    }
    return NULL;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void take_fd(int *to, int fd)
{
    close_fd(to);
    *to = fd;
}

static void drop_memory(Device *device)
{
    for (unsigned i = 0; i < device->regions; i++) {
        munmap(device->region[i].here, device->region[i].size);
    }
    device->regions = 0;
}

static void hang_up(Device *device)
{
    close_fd(&device->socket);
    close_fd(&device->requests);
    for (int i = 0; i < QUEUES; i++) {
        close_fd(&device->queue[i].kick);
        close_fd(&device->queue[i].call);
        device->queue[i] = (Queue) { .kick = -1, .call = -1 };
    }
    drop_memory(device);
    device->translations = 0;
}

static void invalidate(Device *device, uint64_t iova, uint64_t size)
{
    uint64_t last = size - 1 > UINT64_MAX - iova ? UINT64_MAX : iova + size - 1;

    for (unsigned i = 0; i < device->translations;) {
        uint64_t from = device->translation[i].iova, to = from + device->translation[i].size - 1;

        if (from <= last && iova <= to) {
            device->translation[i] = device->translation[--device->translations];
        } else {
            i++;
        }
    }
}

static void answer(Device *device, Message *message, uint32_t size)
{
    message->flags = VERSION | ANSWER;
    message->size = size;
    if (send(device->socket, message, HEADER + size, MSG_NOSIGNAL) != (ssize_t)(HEADER + size)) {
        hang_up(device);
    }
}

static void set_memory(Device *device, const Message *message, int *fds)
{
    drop_memory(device);
    device->translations = 0;
    for (unsigned i = 0; i < message->memory.count && i < REGIONS; i++) {
        uint64_t size = message->memory.region[i].size;
        uint8_t *here = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], message->memory.region[i].offset);

        if (here == MAP_FAILED) {
            fail("cannot map QEMU's memory");
        }
        device->region[device->regions].here = here;
        device->region[device->regions].size = size;
        device->region[device->regions++].user = message->memory.region[i].user;
    }
}

/* Handles one message of QEMU, for which it waits. */
static void serve(Device *device)
{
    Message message = { 0 };
    int fds[REGIONS];
    union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(fds))]; } control;
    struct iovec vector = { &message, HEADER };
    struct msghdr header = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

    memset(fds, -1, sizeof(fds));
    if (recvmsg(device->socket, &header, MSG_WAITALL) != HEADER) {
        hang_up(device);
        return;
    }
    struct cmsghdr *found = CMSG_FIRSTHDR(&header);
    if (found && found->cmsg_type == SCM_RIGHTS) {
        memcpy(fds, CMSG_DATA(found), found->cmsg_len - CMSG_LEN(0));
    }
    if (message.size > sizeof(message) - HEADER ||
        (message.size && recv(device->socket, &message.number, message.size, MSG_WAITALL) != (ssize_t)message.size)) {
        hang_up(device);
        return;
    }
    Queue *queue = message.vring.index % NO_FD < QUEUES ? &device->queue[message.vring.index % NO_FD] : NULL;
    bool is_of_queue = message.request >= SET_VRING_NUM && message.request <= SET_VRING_ERR;

    if ((is_of_queue || message.request == SET_VRING_ENABLE) && !queue) {
        fail("there is no queue %u", message.vring.index);
    }
    switch (message.request) {
    case GET_FEATURES:
        message.number = FEATURES;
        answer(device, &message, sizeof(message.number));
        return;
    case GET_PROTOCOL_FEATURES:
        message.number = PROTOCOL_FEATURES;
        answer(device, &message, sizeof(message.number));
        return;
    case GET_VRING_BASE:
        queue->enabled = false;
        close_fd(&queue->kick);
        message.vring.value = queue->next;
        answer(device, &message, sizeof(message.vring));
        return;
    case SET_MEM_TABLE:
        set_memory(device, &message, fds);
        for (int i = 0; i < REGIONS; i++) {
            close_fd(&fds[i]);
        }
        break;
    case SET_VRING_NUM:
        queue->size = message.vring.value;
        break;
    case SET_VRING_ADDR:
        queue->desc = message.addresses.desc;
        queue->avail = message.addresses.avail;
        queue->used = message.addresses.used;
        break;
    case SET_VRING_BASE:
        queue->next = message.vring.value;
        break;
    case SET_VRING_KICK:
        take_fd(&queue->kick, fds[0]);
        break;
    case SET_VRING_CALL:
        take_fd(&queue->call, fds[0]);
        break;
    case SET_VRING_ERR:
        close_fd(&fds[0]);
        break;
    case SET_VRING_ENABLE:
        queue->enabled = message.vring.value != 0;
        break;
    case SET_BACKEND_REQ_FD:
        take_fd(&device->requests, fds[0]);
        break;
    case IOTLB_MSG:
        invalidate(device, message.iotlb.iova, message.iotlb.size);
        if (message.iotlb.kind == INVALIDATE) {
            done.invalidations++;
        } else if (message.iotlb.kind == UPDATE) {
            unsigned at = device->translations < TRANSLATIONS ? device->translations++ : 0;

            device->translation[at].iova = message.iotlb.iova;
            device->translation[at].size = message.iotlb.size;
            device->translation[at].user = message.iotlb.user;
            device->translation[at].access = message.iotlb.access;
        }
        break;
    default:
        break;
    }
    if (message.flags & WANTS_ANSWER) {
        message.number = 0;
        answer(device, &message, sizeof(message.number));
    }
}

static uint8_t *translated(Device *device, uint64_t iova, uint8_t access, uint64_t *length)
{
    for (unsigned i = 0; i < device->translations; i++) {
        uint64_t offset = iova - device->translation[i].iova;

        if (offset < device->translation[i].size && (device->translation[i].access & access) == access) {
            uint64_t rest = 0, size = device->translation[i].size - offset;
            uint8_t *here = map(device, device->translation[i].user + offset, &rest);

            *length = size < rest ? size : rest;
            return here;
        }
    }
    return NULL;
}

/* Translates an address, and asks QEMU if it is not known. NULL if the queue is stopped meanwhile, or QEMU has none. */
static uint8_t *translate(Device *device, Queue *queue, uint64_t iova, uint8_t access, uint64_t *length)
{
    uint8_t *here = translated(device, iova, access, length);
    time_t end = time(NULL) + PATIENCE;

    if (here || device->requests < 0) {
        return here;
    }
    Message miss = { .request = BACKEND_IOTLB_MSG, .flags = VERSION, .size = sizeof(miss.iotlb),
                     .iotlb = { .iova = iova, .access = access, .kind = MISS } };

    done.misses++;
    if (send(device->requests, &miss, HEADER + miss.size, MSG_NOSIGNAL) < 0) {
        return NULL;
    }
    while (!here && queue->enabled && queue->kick >= 0 && time(NULL) < end) {
        struct pollfd readable[2] = { { .fd = devices[0].socket, .events = POLLIN }, { .fd = devices[1].socket, .events = POLLIN } };

        poll(readable, 2, 1000);
        /* QEMU answers after the other device has answered it */
        for (int i = 0; i < 2; i++) {
            if (readable[i].revents) {
                serve(&devices[i]);
            }
        }
        here = translated(device, iova, access, length);
    }
    if (!here && time(NULL) >= end) {
        fprintf(stderr, "vhostloop: no translation of %#llx\n", (unsigned long long)iova);
    }
    return here;
}

static bool copy(Device *device, Queue *queue, uint64_t iova, void *buffer, uint64_t length, uint8_t access)
{
    uint8_t *bytes = buffer;

    while (length) {
        uint64_t there;
        uint8_t *here = translate(device, queue, iova, access, &there);

        if (!here) {
            return false;
        }
        there = there < length ? there : length;
        if (access == READ) {
            memcpy(bytes, here, there);
        } else {
            memcpy(here, bytes, there);
        }
        iova += there;
        bytes += there;
        length -= there;
    }
    return true;
}

static bool read_index(Device *device, Queue *queue, uint64_t iova, uint16_t *value)
{
    uint64_t length;
    uint8_t *here = translate(device, queue, iova, READ, &length);

    if (here) {
        *value = __atomic_load_n((uint16_t *)here, __ATOMIC_ACQUIRE);
    }
    return here;
}

/* Returns whether the guest has given the queue a buffer, and its first descriptor. */
static bool next_buffer(Device *device, int index, uint16_t *head)
{
    Queue *queue = &device->queue[index];
    uint16_t available;

    return queue->enabled && queue->kick >= 0 && queue->size && read_index(device, queue, queue->avail + 2, &available) &&
           available != queue->next &&
           copy(device, queue, queue->avail + 4 + 2 * (queue->next % queue->size), head, sizeof(*head), READ);
}

/* Copies a chain of buffers into `bytes`, or the other way round. Returns the number of bytes, or -1. */
static ssize_t copy_chain(Device *device, int index, uint16_t head, uint8_t *bytes, size_t length)
{
    Queue *queue = &device->queue[index];
    size_t copied = 0;
    bool writes = index == RX;

    for (uint32_t i = 0; i < queue->size; i++) {
        Descriptor descriptor;

        if (!copy(device, queue, queue->desc + sizeof(descriptor) * (head % queue->size), &descriptor, sizeof(descriptor), READ)) {
            return -1;
        }
        size_t part = descriptor.length < length - copied ? descriptor.length : length - copied;

        if (descriptor.flags & INDIRECT || !(descriptor.flags & WRITABLE) == writes ||
            !copy(device, queue, descriptor.address, bytes + copied, part, writes ? WRITE : READ)) {
            return -1;
        }
        copied += part;
        if (!(descriptor.flags & NEXT)) {
            return copied;
        }
        head = descriptor.next;
    }
    return -1;
}

static void return_buffer(Device *device, int index, uint16_t head, uint32_t length)
{
    Queue *queue = &device->queue[index];
    struct { uint32_t head, length; } element = { head, length };
    uint64_t there;
    uint8_t *here;
    uint16_t next = queue->next + 1;

    if (!copy(device, queue, queue->used + 4 + sizeof(element) * (queue->next % queue->size), &element, sizeof(element), WRITE) ||
        !(here = translate(device, queue, queue->used + 2, WRITE, &there))) {
        return;
    }
    __atomic_store_n((uint16_t *)here, next, __ATOMIC_RELEASE);
    queue->next = next;
    if (queue->call >= 0 && write(queue->call, &(uint64_t) { 1 }, sizeof(uint64_t)) < 0) {
        fail("cannot interrupt the guest");
    }
}

/* Moves frames from one device to the other, as long as both have buffers. */
static void forward(Device *from, Device *to)
{
    static uint8_t frame[LONGEST];
    uint16_t sent, received;

    while (next_buffer(to, RX, &received) && next_buffer(from, TX, &sent)) {
        ssize_t length = copy_chain(from, TX, sent, frame, sizeof(frame));
        ssize_t copied = -1;

        if (length >= NET_HEADER) {
            memset(frame, 0, NET_HEADER);
            frame[10] = 1; /* num_buffers */
            copied = copy_chain(to, RX, received, frame, length);
        }
        if (length >= 0) {
            return_buffer(from, TX, sent, 0);
        }
        if (length < NET_HEADER || copied != length) {
            done.dropped++;
            return;
        }
        return_buffer(to, RX, received, length);
        done.frames++;
        done.bytes += length - NET_HEADER;
    }
}

static void start(Device *device, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    *device = (Device) { .socket = -1, .requests = -1, .queue = { { .kick = -1, .call = -1 }, { .kick = -1, .call = -1 } } };
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    unlink(path);
    device->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (device->listener < 0 || bind(device->listener, (struct sockaddr *)&address, sizeof(address)) ||
        listen(device->listener, 1)) {
        fail("cannot listen on %s", path);
    }
}

int main(int argc, char **argv)
{
    bool has_begun[2] = { false, false };

    if (argc != 3) {
        fprintf(stderr, "usage: vhostloop SOCKET SOCKET\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        start(&devices[i], argv[i + 1]);
    }
    while (!has_begun[0] || !has_begun[1] || devices[0].socket >= 0 || devices[1].socket >= 0) {
        struct pollfd fds[2 * (1 + QUEUES)];

        for (int i = 0; i < 2; i++) {
            bool is_on = devices[i].socket >= 0;

            fds[3 * i] = (struct pollfd) { .fd = is_on ? devices[i].socket : devices[i].listener, .events = POLLIN };
            for (int j = 0; j < QUEUES; j++) {
                fds[3 * i + 1 + j] = (struct pollfd) { .fd = devices[i].queue[j].kick, .events = POLLIN };
            }
        }
        if (poll(fds, 2 * (1 + QUEUES), -1) < 0) {
            fail("cannot wait");
        }
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < QUEUES; j++) {
                uint64_t count;

                if (fds[3 * i + 1 + j].revents && read(devices[i].queue[j].kick, &count, sizeof(count)) < 0 && errno != EAGAIN) {
                    close_fd(&devices[i].queue[j].kick);
                }
            }
        }
        for (int i = 0; i < 2; i++) {
            if (!fds[3 * i].revents) {
                continue;
            }
            if (devices[i].socket >= 0) {
                serve(&devices[i]);
            } else {
                devices[i].socket = accept(devices[i].listener, NULL, NULL);
                has_begun[i] = devices[i].socket >= 0;
            }
        }
        forward(&devices[0], &devices[1]);
        forward(&devices[1], &devices[0]);
    }
    printf("%lu frames, %lu bytes, %lu misses, %lu invalidations, %lu dropped\n", done.frames, done.bytes, done.misses,
           done.invalidations, done.dropped);
    return 0;
}
