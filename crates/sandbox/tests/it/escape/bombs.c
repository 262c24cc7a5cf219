/* Takes more of one thing than a sandbox may have: `bombs KIND MEGABYTES`. Says "full" if it got all of it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

static void touch(char *at, long bytes) { for (long i = 0; i < bytes; i += 4096) at[i] = 1; }

int main(int count, char **words) {
    const char *kind = words[1]; long step = 1 << 20, all = atol(words[2]) * step;
    int fd = -1;
    (void)count;
    if (!strcmp(kind, "tmp")) fd = open("/tmp/bomb", O_CREAT | O_RDWR, 0600);
    if (!strcmp(kind, "shm")) fd = open("/dev/shm/bomb", O_CREAT | O_RDWR, 0600);
    if (!strcmp(kind, "root")) fd = open("/var/bomb", O_CREAT | O_RDWR, 0600);
    if (!strcmp(kind, "nameless")) fd = memfd_create("bomb", 0);
    if (!strcmp(kind, "locked")) mlockall(MCL_FUTURE);
    char *block = malloc(step); memset(block, 7, step);
    for (long done = 0; done < all; done += step) {
        if (fd >= 0) { if (write(fd, block, step) != step) { perror(kind); return 3; } continue; }
        char *at = MAP_FAILED;
        if (!strcmp(kind, "sysv")) { int id = shmget(IPC_PRIVATE, step, IPC_CREAT | 0600); at = id < 0 ? MAP_FAILED : shmat(id, 0, 0); }
        else if (!strcmp(kind, "shared")) at = mmap(0, step, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        else at = mmap(0, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) { perror(kind); return 3; }
        touch(at, step);
    }
    printf("full\n");
    return 0;
}
