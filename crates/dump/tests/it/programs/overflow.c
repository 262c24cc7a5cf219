// Recursion without end.
__attribute__((noinline)) static int down(int depth) {
    volatile char room[200];
    room[depth % 200] = (char)depth;
    return down(depth + 1) + room[depth % 200];
}
int main(void) { return down(1); }
