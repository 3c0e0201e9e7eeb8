/* Loads the shared object argv[1], touches pages of it far apart, and says which pages of its file these were: a line
 * `truth dlopen data/plugin OFFSET LENGTH` for each. A failed call ends it with code 99. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    void *plugin = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!plugin) return 99;
    const volatile char *bytes = dlsym(plugin, "bytes");
    if (!bytes) return 99;
    printf("truth dlopen data/plugin 0 64\n"); /* the header */
    for (long page = 3; page < 64; page += 20) {
        const volatile char *at = bytes + page * 4096;
        (void)*at;
        FILE *maps = fopen("/proc/self/maps", "r");
        char line[4096];
        unsigned long start, end, offset, found = 0;
        while (maps && fgets(line, sizeof line, maps)) {
            if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) != 3) continue;
            if ((unsigned long)at < start || (unsigned long)at >= end) continue;
            printf("truth dlopen data/plugin %lu 1\n", (unsigned long)at - start + offset);
            found = 1;
        }
        if (!maps || !found) return 99;
        fclose(maps);
    }
    return 0;
}
