// One way to die for each argument.
#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int zero;
static char *volatile wild = (char *)0x123456789000;
static char *volatile impossible = (char *)0x4141414141414141;
static int *volatile null;
static void (*volatile nowhere)(void);

__attribute__((noinline)) static void smash(int length) {
    char room[16];
    for (int at = 0; at < length; at++) ((volatile char *)room)[at] = 'A';
}
__attribute__((noinline)) static void overwrite(void) {
    // Its own return address, as an overflow of a buffer would.
    void **frame = __builtin_frame_address(0);
    *(void *volatile *)&frame[1] = (void *)0x4242424242424242;
}

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    if (!strcmp(how, "null_read")) return *null;
    if (!strcmp(how, "null_write")) *null = 1;
    if (!strcmp(how, "null_exec")) nowhere();
    if (!strcmp(how, "wild_read")) return *wild;
    if (!strcmp(how, "wild_write")) *wild = 1;
    if (!strcmp(how, "impossible_write")) *impossible = 1;
    if (!strcmp(how, "wild_exec")) ((void (*)(void))wild)();
    if (!strcmp(how, "wild_return")) overwrite();
    if (!strcmp(how, "constant_write")) *(volatile char *)"constant" = 1;
    if (!strcmp(how, "division_by_zero")) return count * 100 / zero;
    if (!strcmp(how, "trap")) __builtin_trap();
    if (!strcmp(how, "illegal_instruction")) __asm__ volatile(".byte 0x06");
    if (!strcmp(how, "garbage")) {
        char *room = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(room, 6, 4096);
        ((void (*)(void))room)();
    }
    if (!strcmp(how, "assert")) assert(zero == 1);
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "stack_smashing")) smash(30 + zero);
    if (!strcmp(how, "buffer_overflow")) { char room[4]; strcpy(room, how + zero); puts(room); }
    if (!strcmp(how, "double_free")) { char *volatile one = malloc(2000), *volatile two = malloc(10); free(one); free(one); free(two); }
    if (!strcmp(how, "bus_error")) {
        int file = open("short", O_RDWR | O_CREAT, 0600);
        volatile char *bytes = mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
        return bytes[100];
    }
    if (!strcmp(how, "killed")) raise(SIGSEGV);
    return 0;
}
