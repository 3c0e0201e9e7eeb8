/* A workload that reads files of an image in every way there is, and says which bytes it needed: one line
 * `truth KIND PATH OFFSET LENGTH` for each, or `absent KIND` for a way that this machine does not have. Each kind has a
 * file of its own, KIND in the directory that the variable DATA names, else /data; it is called data/KIND. Where the
 * variable SAY names a file, the lines go there. Arguments: the kinds, after `await FILE` only when there is that file; or
 * `flood FILE PAGES`, which reads pages one by one; or `pour FILE CALL BYTES`, which reads a file to its end by calls of so
 * many bytes; or `nothing`.
 * Linked statically: an image may consist of it and its files. A failed call ends it with code 99. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define FILE_BYTES (256 * PAGE)
#define THREADS 8
#define FORKS 10000

static char buffer[64 * PAGE];
static char path[256];

static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(99);
    }
}

static void name_data(const char *kind) {
    const char *directory = getenv("DATA");
    snprintf(path, sizeof path, "%s/%s", directory ? directory : "/data", kind);
}

static int open_data(const char *kind) {
    name_data(kind);
    int fd = open(path, O_RDONLY);
    need(fd >= 0, path);
    return fd;
}

static void truth(const char *kind, long offset, long length) {
    printf("truth %s data/%s %ld %ld\n", kind, kind, offset, length);
}

/* A thread: every THREADS-th page, from its number on. */
static void *read_pages(void *number) {
    char byte;
    int fd = open(path, O_RDONLY);
    need(fd >= 0, path);
    for (long page = (long)number; page < FILE_BYTES / PAGE; page += THREADS) {
        need(pread(fd, &byte, 1, page * PAGE) == 1, path);
    }
    close(fd);
    return NULL;
}

static void touch(const char *kind, volatile char *bytes, long page) {
    (void)bytes[page * PAGE + 5];
    truth(kind, page * PAGE, PAGE);
}

/* One read through a ring of its own, by raw system calls. */
static int uring_read(int fd, void *to, unsigned length, off_t offset) {
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    int ring = syscall(__NR_io_uring_setup, 4, &p);
    if (ring < 0) return -1;
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *queue = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(unsigned), protection, flags, ring,
                       IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry =
        mmap(NULL, p.sq_entries * sizeof *entry, protection, flags, ring, IORING_OFF_SQES);
    need(queue != MAP_FAILED && (void *)entry != MAP_FAILED, "io_uring");
    memset(entry, 0, sizeof *entry);
    entry->opcode = IORING_OP_READ;
    entry->fd = fd;
    entry->addr = (unsigned long)to;
    entry->len = length;
    entry->off = offset;
    *(unsigned *)(queue + p.sq_off.array) = 0;
    __atomic_store_n((unsigned *)(queue + p.sq_off.tail), 1, __ATOMIC_RELEASE);
    need(syscall(__NR_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "io_uring_enter");
    close(ring);
    return 0;
}

static void one(const char *kind) {
    int pipe_fds[2];
    need(pipe(pipe_fds) == 0, "pipe");
    int fd = open_data(kind);
    if (!strcmp(kind, "read")) {
        need(lseek(fd, 5000, SEEK_SET) == 5000 && read(fd, buffer, 100) == 100, kind);
        truth(kind, 5000, 100);
        need(lseek(fd, 9 * PAGE - 1, SEEK_SET) > 0 && read(fd, buffer, 2) == 2, kind);
        truth(kind, 9 * PAGE - 1, 2);
    } else if (!strcmp(kind, "whole")) {
        while (read(fd, buffer, sizeof buffer) > 0) continue;
        truth(kind, 0, FILE_BYTES);
    } else if (!strcmp(kind, "pread")) {
        need(pread(fd, buffer, 10, 20000) == 10, kind);
        truth(kind, 20000, 10);
        need(pread(fd, buffer, 3 * PAGE, 100 * PAGE) == 3 * PAGE, kind);
        truth(kind, 100 * PAGE, 3 * PAGE);
    } else if (!strcmp(kind, "readv")) {
        struct iovec parts[2] = {{buffer, 700}, {buffer + PAGE, PAGE}};
        need(lseek(fd, 28672, SEEK_SET) > 0 && readv(fd, parts, 2) == 700 + PAGE, kind);
        truth(kind, 28672, 700 + PAGE);
        need(preadv(fd, parts, 2, 200 * PAGE) == 700 + PAGE, kind);
        truth(kind, 200 * PAGE, 700 + PAGE);
    } else if (!strcmp(kind, "preadv2")) { /* at a place, and at the position */
        struct iovec parts[2] = {{buffer, 300}, {buffer + PAGE, 2 * PAGE}};
        need(preadv2(fd, parts, 2, 90 * PAGE + 50, 0) == 300 + 2 * PAGE, kind);
        truth(kind, 90 * PAGE + 50, 300 + 2 * PAGE);
        need(lseek(fd, 150 * PAGE + 7, SEEK_SET) > 0 && preadv2(fd, parts, 1, -1, 0) == 300, kind);
        truth(kind, 150 * PAGE + 7, 300);
    } else if (!strcmp(kind, "sendfile")) {
        off_t at = 8192;
        need(sendfile(pipe_fds[1], fd, &at, 3000) == 3000, kind);
        truth(kind, 8192, 3000);
    } else if (!strcmp(kind, "splice")) {
        off_t at = 16384;
        need(splice(fd, &at, pipe_fds[1], NULL, 2000, 0) == 2000, kind);
        truth(kind, 16384, 2000);
    } else if (!strcmp(kind, "copy")) {
        off_t at = 24576;
        name_data("copied");
        int to = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        need(to >= 0, path);
        ssize_t copied = copy_file_range(fd, &at, to, NULL, 1500, 0);
        need(copied == 1500 || errno == EXDEV || errno == EOPNOTSUPP, kind);
        if (copied == 1500) truth(kind, 24576, 1500);
        else printf("absent %s\n", kind);
        close(to);
    } else if (!strcmp(kind, "threads")) { /* each page by one of several threads, at once */
        pthread_t threads[THREADS];
        for (long n = 0; n < THREADS; n++) {
            need(pthread_create(&threads[n], NULL, read_pages, (void *)n) == 0, kind);
        }
        for (long n = 0; n < THREADS; n++) need(pthread_join(threads[n], NULL) == 0, kind);
        truth(kind, 0, FILE_BYTES);
    } else if (!strcmp(kind, "forks")) { /* each page by a short process */
        for (long page = 0; page < FORKS; page++) {
            pid_t child = fork();
            if (child == 0) _exit(pread(fd, buffer, 1, page * PAGE) == 1 ? 0 : 99);
            int status;
            need(child > 0 && waitpid(child, &status, 0) == child && status == 0, kind);
        }
        truth(kind, 0, FORKS * (long)PAGE);
    } else if (!strcmp(kind, "direct")) { /* around the page cache, at a place and at the position */
        static char aligned[2 * PAGE] __attribute__((aligned(PAGE)));
        int around = open(path, O_RDONLY | O_DIRECT);
        if (around < 0) {
            printf("absent %s\n", kind);
        } else {
            need(pread(around, aligned, 2 * PAGE, 60 * PAGE) == 2 * PAGE, kind);
            truth(kind, 60 * PAGE, 2 * PAGE);
            need(lseek(around, 120 * PAGE, SEEK_SET) > 0 && read(around, aligned, PAGE) == PAGE, kind);
            truth(kind, 120 * PAGE, PAGE);
            close(around);
        }
    } else if (!strcmp(kind, "ahead")) { /* much is brought into memory, and one page of it is used */
        need(readahead(fd, 0, 32 * PAGE) == 0, kind);
        need(posix_fadvise(fd, 64 * PAGE, 32 * PAGE, POSIX_FADV_WILLNEED) == 0, kind);
        char *bytes = mmap(NULL, FILE_BYTES, PROT_READ, MAP_PRIVATE, fd, 0);
        need(bytes != MAP_FAILED && madvise(bytes + 128 * PAGE, 32 * PAGE, MADV_WILLNEED) == 0, kind);
        need(pread(fd, buffer, 10, 20 * PAGE) == 10, kind);
        truth(kind, 20 * PAGE, 10);
    } else if (!strcmp(kind, "uring")) {
        if (uring_read(fd, buffer, 512, 12288) == 0) truth(kind, 12288, 512);
        else printf("absent %s\n", kind);
    } else if (!strcmp(kind, "shared") || !strcmp(kind, "private") || !strcmp(kind, "code")) {
        int protection = PROT_READ | (*kind == 'c' ? PROT_EXEC : 0);
        char *bytes = mmap(NULL, FILE_BYTES, protection, *kind == 's' ? MAP_SHARED : MAP_PRIVATE, fd, 0);
        need(bytes != MAP_FAILED, kind);
        long pages[] = {10, 11, 40, 7, 200, 255, 128};
        for (unsigned n = 0; n < sizeof pages / sizeof *pages; n++) touch(kind, bytes, pages[n]);
    } else if (!strcmp(kind, "ascending") || !strcmp(kind, "sequential") || !strcmp(kind, "huge") ||
               !strcmp(kind, "descending") || !strcmp(kind, "strided")) { /* every page, in an order; every 7th */
        struct stat stat;
        need(fstat(fd, &stat) == 0, kind);
        char *bytes = mmap(NULL, stat.st_size, PROT_READ, MAP_SHARED, fd, 0);
        need(bytes != MAP_FAILED, kind);
        if (!strcmp(kind, "sequential")) madvise(bytes, stat.st_size, MADV_SEQUENTIAL);
        if (!strcmp(kind, "huge")) madvise(bytes, stat.st_size, MADV_HUGEPAGE);
        long count = stat.st_size / PAGE, step = !strcmp(kind, "strided") ? 7 : 1;
        for (long page = 0; page < count; page += step) {
            long at = !strcmp(kind, "descending") ? count - 1 - page : page;
            (void)((volatile char *)bytes)[at * PAGE + 5];
            if (step > 1) truth(kind, at * PAGE, PAGE);
        }
        if (step == 1) truth(kind, 0, count * PAGE);
    } else if (!strcmp(kind, "write")) { /* a private page that is written to: its content is needed first */
        char *bytes = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        need(bytes != MAP_FAILED, kind);
        bytes[30 * PAGE] = 1;
        truth(kind, 30 * PAGE, PAGE);
    } else if (!strcmp(kind, "populate")) {
        need(mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 16 * PAGE) != MAP_FAILED, kind);
        truth(kind, 16 * PAGE, 4 * PAGE);
    } else if (!strcmp(kind, "shared_position")) { /* two processes read through one open file, a byte at a time */
        pid_t child = fork();
        for (int n = 0; n < 3000; n++) need(read(fd, buffer, 1) == 1, kind);
        if (child == 0) _exit(0);
        int status;
        need(waitpid(child, &status, 0) == child && status == 0, kind);
        truth(kind, 0, 6000);
    } else if (!strcmp(kind, "appended")) { /* each of these makes an overlay copy the file, all of it */
        int to = open(path, O_WRONLY | O_APPEND);
        need(to >= 0 && write(to, "x", 1) == 1, kind);
        close(to);
        truth(kind, 0, FILE_BYTES);
    } else if (!strcmp(kind, "chowned")) {
        need(chown(path, 7, 7) == 0, kind);
        truth(kind, 0, FILE_BYTES);
    } else if (!strcmp(kind, "moved")) {
        char other[sizeof path + 8];
        snprintf(other, sizeof other, "%s.moved", path);
        need(rename(path, other) == 0, kind);
        truth(kind, 0, FILE_BYTES);
    } else if (!strcmp(kind, "opened")) { /* and not read, here and by two other calls */
        close(openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC));
        unsigned long long how[3] = {O_RDONLY, 0, 0};
        close(syscall(__NR_openat2, AT_FDCWD, path, how, sizeof how));
    } else if (!strcmp(kind, "reasons")) { /* reads of files that are not the image's, 100 bytes each */
        const char *names[] = {"/data/written", "/data/deleted", "/dev/shm/elsewhere", "/data/reasons"};
        for (int n = 0; n < 4; n++) {
            int file = open(names[n], O_RDWR | O_CREAT, 0600);
            need(file >= 0 && pwrite(file, buffer, 100, 0) == 100, names[n]);
            if (n == 1) need(unlink(names[n]) == 0, names[n]);
            need(pread(file, buffer, 100, 0) == 100, names[n]);
            close(file);
        }
        need(rename("/data/old-name", "/data/new-name") == 0, "rename");
        int renamed = open("/data/new-name", O_RDONLY);
        need(renamed >= 0 && pread(renamed, buffer, 100, 0) == 100, "/data/new-name");
        close(renamed);
    } else if (!strcmp(kind, "exec") || !strcmp(kind, "plugin")) { /* the second: by a program that says it itself */
        char program[sizeof path + 16];
        const char *directory = getenv("DATA");
        snprintf(program, sizeof program, "%s/../bin/load", directory ? directory : "/data");
        pid_t child = fork();
        if (child == 0) {
            if (*kind == 'e') execl(path, path, "nothing", NULL);
            else execl(program, program, path, NULL);
            _exit(99);
        }
        int status;
        need(waitpid(child, &status, 0) == child && status == 0, kind);
        if (*kind == 'e') truth(kind, 0, PAGE);
    } else {
        fprintf(stderr, "unknown kind %s\n", kind);
        exit(99);
    }
    close(fd);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void pour(const char *call, long bytes) {
    static char to[1 << 20];
    int fd = open(path, O_RDONLY), nothing = open("/dev/null", O_WRONLY), pipe_fds[2];
    need(fd >= 0 && nothing >= 0 && pipe(pipe_fds) == 0, path);
    ssize_t got = 1;
    for (off_t at = 0; got > 0; at += got) {
        struct iovec parts[2] = {{to, bytes / 3}, {to + bytes / 3, bytes - bytes / 3}};
        if (!strcmp(call, "sendfile")) got = sendfile(nothing, fd, NULL, bytes);
        else if (!strcmp(call, "splice")) {
            got = splice(fd, NULL, pipe_fds[1], NULL, bytes, 0);
            if (got > 0) need(splice(pipe_fds[0], NULL, nothing, NULL, got, 0) == got, call);
        } else if (!strcmp(call, "readv")) got = readv(fd, parts, 2);
        else if (!strcmp(call, "pread")) got = pread(fd, to, bytes, at);
        else got = read(fd, to, bytes);
    }
    need(got == 0, call);
}

int main(int argc, char **argv) {
    const char *say = getenv("SAY");
    need(!say || freopen(say, "a", stdout), "SAY");
    if (argc == 2 && !strcmp(argv[1], "nothing")) return 0;
    if (argc == 4 && !strcmp(argv[1], "flood")) {
        int fd = open(argv[2], O_RDONLY);
        need(fd >= 0, argv[2]);
        for (long page = 0; page < atol(argv[3]); page++) {
            need(pread(fd, buffer, 1, page * PAGE) == 1, argv[2]);
        }
        return 0;
    }
    if (argc == 5 && !strcmp(argv[1], "pour")) {
        snprintf(path, sizeof path, "%s", argv[2]);
        pour(argv[3], atol(argv[4]));
        return 0;
    }
    int first = argc > 2 && !strcmp(argv[1], "await") ? 3 : 1;
    while (first == 3 && access(argv[2], F_OK) != 0) usleep(10000);
    for (int n = first; n < argc; n++) one(argv[n]);
    return 0;
}
