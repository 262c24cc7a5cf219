// A function whose stack is realigned, so that its frame's address is itself kept in memory.
#include <stdlib.h>
typedef double wide __attribute__((vector_size(32)));

__attribute__((noinline)) void end(wide *where) { where[0][0] = 1; abort(); }
__attribute__((noinline, target("avx"))) int realigned(int count, ...) {
    wide held[4] __attribute__((aligned(64)));
    char *room = __builtin_alloca(count);
    room[0] = 1;
    end(held);
    return held[1][1] > 0 ? room[0] : 0;
}
__attribute__((noinline)) int outer(int count) { return realigned(count, 1, 2, 3) + 1; }
int main(int count, char **arguments) { (void)arguments; return outer(count * 40); }
