/* SPDX-FileCopyrightText: The edgeprov authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * The recording protocol without any library, as a C application may speak it (FORMAT.md section 24).
 * usage: record_client SOCKET
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(const char *what) { perror(what); return 1; }

int main(int argc, char **argv) {
    /* ["hello", {"outputs": [{"dtype": "int8", "name": "StatefulPartitionedCall_1:0", "shape": [1, 1]}], "v": 1, "weights": true}] */
    static const unsigned char hello[] =
        "\x92\xa5hello\x83\xa7outputs\x91\x83\xa5" "dtype\xa4int8\xa4name\xbb" "StatefulPartitionedCall_1:0" "\xa5shape\x92\x01\x01\xa1v\x01\xa7weights\xc3";
    /* ["record", 1000, [bin 7f]] */
    static const unsigned char record[] = "\x93\xa6record\xcd\x03\xe8\x91\xc4\x01\x7f";
    unsigned char answer[4096];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {answer, sizeof answer};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), weights = -1;

    if (argc != 2) return 2;
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) return fail("connect");
    if (write(fd, hello, sizeof hello - 1) != sizeof hello - 1) return fail("hello");
    if (recvmsg(fd, &message, 0) < 8 || memcmp(answer, "\x92\xa5ready", 7)) return fail("ready");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_type == SCM_RIGHTS) memcpy(&weights, CMSG_DATA(c), sizeof weights);
    if (weights < 0 || fstat(weights, &status)) return fail("weights");
    const unsigned char *model = (const unsigned char *)mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, weights, 0);
    if (model == MAP_FAILED || memcmp(model + 4, "TFL3", 4)) return fail("model");
    if (mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, weights, 0) != MAP_FAILED) return 3; /* sealed */
    for (int i = 1; i <= 3; i++) {
        if (write(fd, record, sizeof record - 1) != sizeof record - 1) return fail("record");
        ssize_t size = read(fd, answer, sizeof answer);
        if (size != 11 || memcmp(answer, "\x92\xa8recorded", 10)) return fail("recorded");
        printf("%d\n", answer[10]);
    }
    printf("%lld bytes of model\n", (long long)status.st_size);
    return 0;
}
