/* Reads a file in one way and says which bytes it needed: lines `truth KIND PATH OFFSET LENGTH`, as tests/programs/access.c
 * does. Arguments: ROOT PATH WAY [NUMBER...]; the file is ROOT/PATH, and KIND the last part of PATH. Ways:
 *   sendfile CHUNK        all of it, CHUNK bytes at a time, into a pipe
 *   pread LENGTH STEP     LENGTH bytes at every multiple of STEP
 *   map plain|sequential|huge|backward STEP    one byte of every STEP-th page of a mapping
 * A failed call ends it with code 99. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096L

static char buffer[1 << 20];

static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(99);
    }
}

int main(int argc, char **argv) {
    need(argc > 4, "arguments");
    const char *path = argv[2], *way = argv[3];
    const char *kind = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char file[4096];
    snprintf(file, sizeof file, "%s/%s", argv[1], path);
    int fd = open(file, O_RDONLY);
    struct stat about;
    need(fd >= 0 && fstat(fd, &about) == 0, file);
    long size = about.st_size;
    if (!strcmp(way, "sendfile")) {
        int ends[2];
        need(pipe(ends) == 0, "pipe");
        long sent, chunk = atol(argv[4]);
        while ((sent = sendfile(ends[1], fd, NULL, chunk)) > 0) {
            while (sent > 0) {
                long got = read(ends[0], buffer, sent);
                need(got > 0, "pipe");
                sent -= got;
            }
        }
        need(sent == 0, way);
        printf("truth %s %s 0 %ld\n", kind, path, size);
    } else if (!strcmp(way, "pread")) {
        need(argc > 5, "arguments");
        long length = atol(argv[4]), step = atol(argv[5]);
        for (long at = 0; at + length <= size; at += step) {
            need(pread(fd, buffer, length, at) == length, way);
            printf("truth %s %s %ld %ld\n", kind, path, at, length);
        }
    } else if (!strcmp(way, "map")) {
        need(argc > 5, "arguments");
        long pages = (size + PAGE - 1) / PAGE, step = atol(argv[5]);
        volatile char *bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        need(bytes != MAP_FAILED, way);
        if (!strcmp(argv[4], "huge")) (void)madvise((void *)bytes, size, MADV_HUGEPAGE); /* a kernel may not have them */
        if (!strcmp(argv[4], "sequential")) need(madvise((void *)bytes, size, MADV_SEQUENTIAL) == 0, way);
        int back = !strcmp(argv[4], "backward");
        for (long n = 0; n < pages; n += step) {
            long page = back ? pages - 1 - n : n;
            (void)bytes[page * PAGE];
            long length = page * PAGE + PAGE > size ? size - page * PAGE : PAGE;
            printf("truth %s %s %ld %ld\n", kind, path, page * PAGE, length);
        }
    } else {
        need(0, "way");
    }
    return 0;
}
