// A program of 32 bits without a library, so that it is built wherever gcc builds for this machine: a few calls deep it
// reads through a null pointer.
struct item { int value; const struct item *next; };

__attribute__((noinline)) static int walk(const volatile struct item *item) {
    int sum = 0;
    for (;;) {
        sum += item->value;
        item = item->next;
    }
    return sum;
}

__attribute__((noinline)) static int sum(int first) {
    volatile struct item last = {first, 0}, item = {first + 1, (const struct item *)&last};
    return walk(&item) + last.value;
}

__attribute__((noinline, used)) static void begin(void) {
    volatile int kept = sum(7);
    (void)kept;
}

asm(".globl _start\n"
    ".type _start, @function\n"
    "_start:\n"
    "    .cfi_startproc\n"
    "    .cfi_undefined eip\n"
    "    call begin\n"
    "    hlt\n"
    "    .cfi_endproc\n"
    "    .size _start, . - _start\n");
