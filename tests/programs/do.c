/* A workload that does exactly what its arguments say, one after the other. Linked statically: it needs no libraries,
 * so an image may consist of it alone. An unknown word or a failed call ends it with code 99. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void on_term(int signal) {
    (void)signal;
    _exit(7);
}

static volatile int ints;

static void on_int(int signal) {
    char line[] = "INT number 0\n";
    (void)signal;
    line[11] += ++ints;
    if (write(1, line, sizeof line - 1) < 0 || ints > 1) _exit(9);
}

static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(99);
    }
}

/* show FILE: its content on standard output */
static void do_show(const char *file) {
    char buffer[4096];
    int fd = open(file, O_RDONLY);
    need(fd >= 0, file);
    for (ssize_t length; (length = read(fd, buffer, sizeof buffer)) > 0;) fwrite(buffer, 1, length, stdout);
    fflush(stdout);
    close(fd);
}

/* read FILE OFFSET LENGTH: with pread */
static void do_read(const char *file, long offset, long length) {
    int fd = open(file, O_RDONLY);
    need(fd >= 0, file);
    char *buffer = malloc(length);
    need(pread(fd, buffer, length, offset) >= 0, file);
    free(buffer);
    close(fd);
}

/* many FILE COUNT: as many reads of a byte, each of another one, no two side by side */
static void do_many(const char *file, long count) {
    char byte;
    int fd = open(file, O_RDONLY);
    need(fd >= 0, file);
    for (long at = 0; at < count; at++) need(pread(fd, &byte, 1, 2 * at) == 1, file);
    close(fd);
}

/* pages FILE COUNT: a byte of each of so many pages, no two side by side; COUNT and 617 have no factor in common */
static void do_pages(const char *file, long count) {
    char byte;
    int fd = open(file, O_RDONLY);
    need(fd >= 0, file);
    for (long at = 0; at < count; at++) need(pread(fd, &byte, 1, at * 617 % count * 4096) == 1, file);
    close(fd);
}

/* map FILE PAGE: touch one byte of one page of a mapping */
static void do_map(const char *file, long page) {
    int fd = open(file, O_RDONLY);
    struct stat st;
    need(fd >= 0 && fstat(fd, &st) == 0, file);
    volatile char *bytes = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    need(bytes != MAP_FAILED, file);
    volatile char byte = bytes[page * 4096 + 1];
    (void)byte;
    munmap((void *)bytes, st.st_size);
    close(fd);
}

static void do_listen(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    need(fd >= 0 && bind(fd, (void *)&address, sizeof address) == 0 && listen(fd, 8) == 0, "listen");
}

/* notify TEXT: one datagram to NOTIFY_SOCKET, as sd_notify(3) does it */
static void do_notify(const char *text) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    need(path != NULL, "NOTIFY_SOCKET");
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    need(fd >= 0 && sendto(fd, text, strlen(text), 0, (void *)&address, sizeof address) > 0, "notify");
    close(fd);
}

/* ask PORT: the byte that a server on this machine answers with */
static int do_ask(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    unsigned char answer;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    need(fd >= 0 && connect(fd, (void *)&address, sizeof address) == 0 && read(fd, &answer, 1) == 1, "ask");
    close(fd);
    return answer;
}

int main(int argc, char **argv) {
    int answer = 0;
    setvbuf(stdout, NULL, _IOLBF, 4096); /* whole lines, each in one write */
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "read")) {
            do_read(argv[i + 1], atol(argv[i + 2]), atol(argv[i + 3]));
            i += 3;
        } else if (!strcmp(word, "many")) {
            do_many(argv[i + 1], atol(argv[i + 2]));
            i += 2;
        } else if (!strcmp(word, "pages")) {
            do_pages(argv[i + 1], atol(argv[i + 2]));
            i += 2;
        } else if (!strcmp(word, "map")) {
            do_map(argv[i + 1], atol(argv[i + 2]));
            i += 2;
        } else if (!strcmp(word, "say")) {
            printf("%s\n", argv[++i]);
        } else if (!strcmp(word, "exists")) {
            printf("%s %s\n", argv[i + 1], access(argv[i + 1], F_OK) == 0 ? "yes" : "no");
            i += 1;
        } else if (!strcmp(word, "write")) {
            int fd = open(argv[++i], O_CREAT | O_WRONLY | O_TRUNC, 0644);
            need(fd >= 0 && write(fd, "x", 1) == 1, argv[i]);
        } else if (!strcmp(word, "sleep")) {
            usleep(1000 * atol(argv[++i]));
        } else if (!strcmp(word, "listen")) {
            do_listen(atoi(argv[++i]));
        } else if (!strcmp(word, "notify")) {
            do_notify(argv[++i]);
        } else if (!strcmp(word, "need")) {
            if (access(argv[++i], F_OK) != 0) return 1;
        } else if (!strcmp(word, "await")) { /* until there is such a file */
            i++;
            while (access(argv[i], F_OK) != 0) usleep(2000);
        } else if (!strcmp(word, "ask")) {
            answer = do_ask(atoi(argv[++i]));
        } else if (!strcmp(word, "read-answer")) { /* the page of that number */
            do_read(argv[++i], 4096L * answer, 1);
        } else if (!strcmp(word, "exit-answer")) {
            return answer;
        } else if (!strcmp(word, "handle-term")) {
            signal(SIGTERM, on_term);
        } else if (!strcmp(word, "count-int")) { /* say so at each SIGINT, and end at the second */
            struct sigaction action = {.sa_handler = on_int};
            need(sigaction(SIGINT, &action, NULL) == 0, "sigaction");
        } else if (!strcmp(word, "show")) {
            do_show(argv[++i]);
        } else if (!strcmp(word, "session")) {
            printf("session %s\n", getsid(0) == getpid() ? "own" : "other");
        } else if (!strcmp(word, "fork-sleep")) {
            if (fork() == 0) {
                sleep(1000);
                _exit(0);
            }
        } else if (!strcmp(word, "who")) {
            gid_t groups[32];
            int count = getgroups(32, groups);
            printf("pid %d uid %d gid %d groups", getpid(), getuid(), getgid());
            for (int n = 0; n < count; n++) printf(" %d", groups[n]);
            char cwd[4096], host[256];
            need(getcwd(cwd, sizeof cwd) != NULL && gethostname(host, sizeof host) == 0, "who");
            printf(" cwd %s host %s\n", cwd, host);
        } else if (!strcmp(word, "env")) {
            const char *value = getenv(argv[++i]);
            printf("%s=%s\n", argv[i], value ? value : "(none)");
        } else if (!strcmp(word, "exit")) {
            return atoi(argv[++i]);
        } else {
            fprintf(stderr, "unknown word %s\n", word);
            return 99;
        }
    }
    return 0;
}
