// Functions without call frame information and without frame pointers, called from some that have both.
#include <stdlib.h>
__attribute__((noinline)) void last(int value) { if (value) abort(); }
__attribute__((noinline)) int third(int value) { volatile int room[20]; room[3] = value; last(value + room[3]); return room[3] + 1; }
__attribute__((noinline)) int second(int value) { volatile int room[9]; room[1] = value; return third(value) + room[1]; }
__attribute__((noinline)) int first(int value) { return second(value + 1) + 2; }
int main(int count, char **arguments) { (void)arguments; return first(count) + 1; }
