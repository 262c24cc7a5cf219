// A call through a pointer that leads nowhere.
static int (*volatile nowhere)(int);
__attribute__((noinline)) static int call(int value) { return nowhere(value) + 1; }
int main(void) { return call(3) + 1; }
