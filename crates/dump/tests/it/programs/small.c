// A library small enough that every byte of what is made of it can be damaged in turn.
static inline __attribute__((always_inline)) int inner(int value) {
    volatile int kept = value;
    return kept * 3;
}

__attribute__((noinline)) int outer(int value) {
    return inner(value) + inner(value + 1);
}

int plain(int value) {
    return outer(value) - 1;
}
