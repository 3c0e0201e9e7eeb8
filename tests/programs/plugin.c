/* A shared object with content enough for many pages, for the program `load`. */
const char bytes[64 * 4096] __attribute__((visibility("default"))) = {1};
