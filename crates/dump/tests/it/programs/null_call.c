// A call through a pointer that leads nowhere: nothing is there, or no code, and one of two functions calls.
static int (*volatile nowhere)(int);
__attribute__((noinline)) static int call(int value) { return nowhere(value) + 1; }
__attribute__((noinline)) static int ask(int value) { return nowhere(value) + 2; }
int main(int count, char **arguments) {
    (void)arguments;
    if (count > 2) nowhere = (int (*)(int))0x123456789000;
    return count % 2 ? call(3) + 1 : ask(3) + 2;
}
