// A small program of many threads that need no library: each some calls deep when one of them crashes.
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>

enum { THREADS = 12, STACK = 2048 };
static char stacks[THREADS][STACK] __attribute__((aligned(16)));
static volatile int ready;

static long call(long number, long one, long two, long three, long four) {
    register long fourth __asm__("r10") = four;
    long answer;
    __asm__ volatile("syscall"
                     : "=a"(answer)
                     : "a"(number), "D"(one), "S"(two), "d"(three), "r"(fourth)
                     : "rcx", "r11", "memory");
    return answer;
}

static __attribute__((noinline)) int deep(int depth) {
    if (depth > 0) return deep(depth - 1) + 1;
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    for (;;) call(SYS_pause, 0, 0, 0, 0);
}

// A thread begins on a stack of its own, on which nothing may be returned to.
static void begin(int number) {
    const long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    long answer;
    register long none __asm__("r10") = 0;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %[number], %%edi\n\t"
                     "call *%[deep]\n1:"
                     : "=a"(answer)
                     : "a"(SYS_clone), "D"(flags), "S"(stacks[number + 1]), "d"(0), "r"(none),
                       [number] "r"(number % 7), [deep] "r"(deep)
                     : "rcx", "r11", "memory");
}

void _start(void) {
    for (int number = 0; number < THREADS - 1; number++) begin(number);
    while (ready < THREADS - 1) call(SYS_sched_yield, 0, 0, 0, 0);
    *(volatile int *)8 = deep == 0;
}
