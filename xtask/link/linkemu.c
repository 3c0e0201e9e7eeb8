/* linkemu RATE_MBIT DELAY_US QUEUE_MS
 *
 * A wire between two new network namespaces: each gets a TUN device "link0", and what one side sends
 * arrives at the other after it was serialised at RATE_MBIT (0 = no limit) and delayed by DELAY_US, one
 * way. A packet that would wait longer than QUEUE_MS for its turn is dropped, as a router's queue does.
 *
 * Prints "up CLIENT_FD REGISTRY_FD": /proc/PID/fd/CLIENT_FD is the client's namespace (and the one this
 * process stays in, so /proc/PID/net/dev has the client's counters), the other one the registry's. Ends when
 * its stdin is closed. The namespaces have no names: they are gone with the last process inside.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 65536 + 512, SEGMENT_HEADERS = 40, BATCH = 16 };
typedef long long nanos;

struct packet {
  struct packet *next;
  nanos arrives;
  ssize_t length;
  unsigned char bytes[];
};

struct lane {
  int from, to;
  struct packet *first, **last;
  nanos idle_at; /* when the sender's line has sent all it has */
};

static nanos now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void check(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

/* Moves into a new namespace; *space keeps it open. Returns its end of the wire. */
static int new_end(int *space) {
  check(unshare(CLONE_NEWNET) == 0, "unshare");
  *space = open("/proc/self/ns/net", O_RDONLY);
  int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  check(*space >= 0 && tun >= 0, "/dev/net/tun");
  struct ifreq request = {.ifr_name = "link0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  check(ioctl(tun, TUNSETIFF, &request) == 0, "TUNSETIFF");
  /* Large segments cross in one piece: one wake-up for each 1500 bytes would cost more than it shows. */
  check(ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) == 0, "TUNSETOFFLOAD");
  return tun;
}

/* Bytes on the wire: every segment of a large one has its own headers. */
static size_t wire_bytes(const unsigned char *bytes, ssize_t length) {
  const struct virtio_net_hdr *header = (const void *)bytes;
  size_t size = length - sizeof *header;
  if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && header->gso_size)
    size += size / header->gso_size * SEGMENT_HEADERS;
  return size;
}

int main(int count, char **words) {
  if (count != 4) {
    fputs("usage: linkemu RATE_MBIT DELAY_US QUEUE_MS\n", stderr);
    return 2;
  }
  double nanos_per_byte = atof(words[1]) > 0 ? 8000.0 / atof(words[1]) : 0;
  nanos delay = atof(words[2]) * 1e3, longest_wait = atof(words[3]) * 1e6;
  int client_space, registry_space;
  int registry = new_end(&registry_space), client = new_end(&client_space);
  struct lane lanes[2] = {{.from = client, .to = registry}, {.from = registry, .to = client}};
  for (int i = 0; i < 2; i++) lanes[i].last = &lanes[i].first;
  prctl(PR_SET_TIMERSLACK, 1);
  printf("up %d %d\n", client_space, registry_space);
  fflush(stdout);

  static unsigned char buffer[LARGEST];
  for (;;) {
    nanos next = -1, t = now();
    for (int i = 0; i < 2; i++) {
      struct lane *lane = &lanes[i];
      while (lane->first && lane->first->arrives <= t) {
        struct packet *packet = lane->first;
        if (write(lane->to, packet->bytes, packet->length) < 0) { /* the other end is down: lost */ }
        if (!(lane->first = packet->next)) lane->last = &lane->first;
        free(packet);
      }
      if (lane->first && (next < 0 || lane->first->arrives < next)) next = lane->first->arrives;
    }
    struct pollfd ends[3] = {{client, POLLIN, 0}, {registry, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    nanos wait = next > (t = now()) ? next - t : 0;
    struct timespec timeout = {wait / 1000000000, wait % 1000000000};
    if (ppoll(ends, 3, next < 0 ? NULL : &timeout, NULL) <= 0) continue;
    if (ends[2].revents) return 0;
    for (int i = 0; i < 2; i++) {
      struct lane *lane = &lanes[i];
      for (int k = 0; ends[i].revents & POLLIN && k < BATCH; k++) {
        ssize_t length = read(lane->from, buffer, sizeof buffer);
        if (length <= (ssize_t)sizeof(struct virtio_net_hdr)) break;
        t = now();
        nanos start = lane->idle_at > t ? lane->idle_at : t;
        if (nanos_per_byte > 0 && start - t > longest_wait) continue;
        lane->idle_at = start + wire_bytes(buffer, length) * nanos_per_byte;
        struct packet *packet = malloc(sizeof *packet + length);
        check(packet != NULL, "malloc");
        *packet = (struct packet){.arrives = lane->idle_at + delay, .length = length};
        memcpy(packet->bytes, buffer, length);
        *lane->last = packet;
        lane->last = &packet->next;
      }
    }
  }
}
