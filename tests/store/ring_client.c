/* SPDX-FileCopyrightText: The edgeprov authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Appends rows from C to a ring that a test made; usage: ring_client RING BYTES COUNT
 * Row n is n in decimal, n % 600 characters wide. Prints the last number, and the code in a forked child.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "edgeprov_ring.h"

int main(int argc, char **argv) {
    static struct edgeprov_ring ring;
    char row[1024];
    long long n = 0, count;
    int status;
    if (argc != 4 || edgeprov_attach(&ring, open(argv[1], O_RDWR), (uint32_t)atol(argv[2]), 1)) return 2;
    count = atoll(argv[3]);
    while (n < count) {
        int size = snprintf(row, sizeof row, "%0*lld", (int)((n + 1) % 600), n + 1);
        while ((n = edgeprov_append(&ring, row, (uint32_t)size)) == EDGEPROV_FULL) usleep(200);
        if (n < 0) return 3;
    }
    pid_t child = fork();
    if (!child) _exit(edgeprov_append(&ring, "x", 1) == EDGEPROV_FORKED ? 42 : 1);
    if (waitpid(child, &status, 0) != child) return 4;
    if (edgeprov_append(&ring, row, ring.size) != EDGEPROV_LONG) return 5;
    printf("%lld %d\n", n, WEXITSTATUS(status));
    edgeprov_detach(&ring);
    return 0;
}
