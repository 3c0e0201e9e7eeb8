/* zlib_inflate FILE: inflates a gzip file with the system's zlib and throws the bytes away; the yardstick of
 * `cargo xtask bench ztoc`. Prints "CPU_NANOS PEAK_KIB".
 */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

int main(int count, char **words) {
  static unsigned char in[1 << 18], out[1 << 18];
  z_stream stream = {0};
  int file = count == 2 ? open(words[1], O_RDONLY) : -1;
  if (file < 0 || inflateInit2(&stream, 15 + 16) != Z_OK) return perror("zlib_inflate"), 1;
  int state = Z_OK;
  for (ssize_t length; state == Z_OK && (length = read(file, in, sizeof in)) > 0;) {
    stream.next_in = in;
    stream.avail_in = length;
    do {
      stream.next_out = out;
      stream.avail_out = sizeof out;
      state = inflate(&stream, Z_NO_FLUSH);
    } while (state == Z_OK && stream.avail_out == 0);
    if (state == Z_BUF_ERROR) state = Z_OK; /* all of this piece is used up */
  }
  if (state != Z_STREAM_END) return fprintf(stderr, "%s: not one whole gzip member\n", words[1]), 1;
  struct timespec cpu;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  unsigned long peak = 0;
  char line[256];
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %lu", &peak);
  printf("%lld %lu\n", cpu.tv_sec * 1000000000LL + cpu.tv_nsec, peak);
  return 0;
}
