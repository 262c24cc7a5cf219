// A handler of a fault that gives up by abort, called from some depth.
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void give_up(int number) { (void)number; abort(); }
static void handler(int number) { give_up(number); }

static int touch(volatile int *where) { return *where + 1; }
__attribute__((noinline)) static int deeper(volatile int *where, int depth) {
    if (depth == 0) return touch(where);
    return deeper(where, depth - 1) + depth;
}

int main(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(SIGSEGV, &action, 0);
    return deeper((volatile int *)8, 8);
}
