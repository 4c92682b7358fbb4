/* SPDX-FileCopyrightText: The edgeprov authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Append records to the ring of an edgeprov session (FORMAT.md, section "Ring"). C11 or C++, libc only, Linux.
 *
 * The application speaks the recording protocol (FORMAT.md section 24) with "ring": true in its hello. The answer
 * brings the ring's descriptor (SCM_RIGHTS), its size and the session's first record number:
 *
 *     struct edgeprov_ring ring;
 *     if (edgeprov_attach(&ring, ring_fd, ring_bytes, first)) perror("edgeprov_attach");
 *     long long n = edgeprov_append(&ring, row, row_bytes);
 *
 * edgeprov_append returns the record's number, and the record then survives a kill of this process. Otherwise it
 * returns EDGEPROV_FULL (ask the service with ["room", 9 + row_bytes]; its answer ["room", n] gives the number of the
 * next record: set ring.next to it, build the row with that number, then call again), EDGEPROV_FORKED (this process
 * was forked after edgeprov_attach: open a session of its own) or EDGEPROV_LONG. When edgeprov_wake() returns 1
 * after an append, send ["wake"] to the service. One thread at a time.
 */
#ifndef EDGEPROV_RING_H
#define EDGEPROV_RING_H
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EDGEPROV_PAGE 4096
#define EDGEPROV_FULL (-1LL)
#define EDGEPROV_FORKED (-2LL)
#define EDGEPROV_LONG (-3LL)
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

struct edgeprov_ring {
    volatile uint8_t *page;  /* head at 0, limit at 64, the service sleeps at 80, news at 82 and 83, time at 96 */
    uint8_t *data;
    volatile uint8_t *alive; /* the kernel clears it in a forked child */
    uint32_t size, position;
    int64_t next;
    uint32_t crc[256];
};

static inline int edgeprov_attach(struct edgeprov_ring *r, int fd, uint32_t size, int64_t first) {
    void *map = mmap(0, EDGEPROV_PAGE + (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *own = mmap(0, EDGEPROV_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    close(fd);
    if (map == MAP_FAILED || own == MAP_FAILED) return -1;
    if (madvise(own, EDGEPROV_PAGE, MADV_WIPEONFORK)) return -1;
    if (madvise(map, EDGEPROV_PAGE + (size_t)size, MADV_DONTFORK)) return -1;
    r->page = (uint8_t *)map;
    r->data = (uint8_t *)map + EDGEPROV_PAGE;
    r->alive = (uint8_t *)own;
    r->alive[0] = 1;
    r->size = size;
    r->position = __atomic_load_n((uint32_t *)map, __ATOMIC_ACQUIRE);
    r->next = first;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
        r->crc[i] = c;
    }
    return 0;
}

static inline void edgeprov_detach(struct edgeprov_ring *r) {
    munmap((void *)r->page, EDGEPROV_PAGE + (size_t)r->size);
    munmap((void *)r->alive, EDGEPROV_PAGE);
    r->page = 0;
}

static inline void edgeprov_put(struct edgeprov_ring *r, uint32_t position, const void *bytes, uint32_t count) {
    uint32_t place = position % r->size, first = count < r->size - place ? count : r->size - place;
    memcpy(r->data + place, bytes, first);
    memcpy(r->data, (const uint8_t *)bytes + first, count - first);
}

/* row: an encoded record (FORMAT.md section 11) that carries the number r->next. */
static inline long long edgeprov_append(struct edgeprov_ring *r, const void *row, uint32_t count) {
    const uint8_t *bytes = (const uint8_t *)row;
    uint8_t frame[9];
    uint32_t room, c = 0xFFFFFFFFu;
    if (!r->alive[0]) return EDGEPROV_FORKED;
    if (count > r->size - sizeof frame) return EDGEPROV_LONG;
    room = __atomic_load_n((uint32_t *)(r->page + 64), __ATOMIC_ACQUIRE) - r->position;
    if (room > r->size || room < sizeof frame + count) return EDGEPROV_FULL;
    c = r->crc[(c ^ 3) & 255] ^ c >> 8; /* the checksum covers the frame's kind (3: record) and the row */
    for (uint32_t i = 0; i < count; i++) c = r->crc[(c ^ bytes[i]) & 255] ^ c >> 8;
    c = ~c;
    for (int i = 0; i < 4; i++) frame[i] = (uint8_t)(count >> 8 * i), frame[4 + i] = (uint8_t)(c >> 8 * i);
    frame[8] = 3;
    edgeprov_put(r, r->position, frame, sizeof frame);
    edgeprov_put(r, r->position + sizeof frame, bytes, count);
    r->position += sizeof frame + count;
    __atomic_store_n((uint32_t *)r->page, r->position, __ATOMIC_RELEASE); /* now the record exists */
    return r->next++;
}

/* 1 when the service sleeps and waits for a message; call it after edgeprov_append. */
static inline int edgeprov_wake(struct edgeprov_ring *r) {
    if (!r->page[80]) return 0;
    r->page[80] = 0;
    return 1;
}

/* 1 when the session has ended; else 0, and *floor_ns is raised to the service's lower bound of time, below which no
 * record may be stamped. Call it before each record. */
static inline int edgeprov_look(struct edgeprov_ring *r, int64_t *floor_ns) {
    if (r->page[82]) {
        r->page[82] = 0;
        int64_t told = __atomic_load_n((int64_t *)(r->page + 96), __ATOMIC_ACQUIRE);
        if (told > *floor_ns) *floor_ns = told;
    }
    return r->page[83];
}
#endif
