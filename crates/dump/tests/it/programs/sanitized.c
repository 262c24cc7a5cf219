/* Writes to memory that was freed, or beyond what was allocated, which AddressSanitizer ends by an abort. */
#include <stdlib.h>

const char *__asan_default_options(void) { return "abort_on_error=1:detect_leaks=0:disable_coredump=0"; }

static void store(char *where) { *where = 1; }

int main(int count, char **words) {
  char *memory = malloc(16);
  if (count > 1) free(memory);
  store(memory + (count > 1 ? 0 : 16));
  return 0;
}
