/* Attempts to get out of a sandbox, or to reach what is not its own. Each returns 0 if it succeeded, else an error.
 * `attempts`: tries all that belong inside and prints a line for each.  `attempts outside`: tries those that prove, by
 * succeeding on the bare machine as its superuser, that they are attempts at all. Nothing here changes the machine: files
 * that would be written are opened only, and what is made is made in a temporary folder and undone.
 * `attempts NAME`: tries one. The environment tells what the test has laid out: see `value`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/aio_abi.h>
#include <linux/capability.h>
#include <linux/if_alg.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int result(long answer) { return answer < 0 ? (errno ? errno : EINVAL) : 0; }
static const char *value(const char *name) { const char *v = getenv(name); return v ? v : ""; }
static char folder[64] = "/tmp/attempts-XXXXXX";

/* Mounts and namespaces. */
static int mount_tmpfs(void) {
    char at[80]; snprintf(at, 80, "%s/mount", folder); mkdir(at, 0700);
    int r = result(mount("none", at, "tmpfs", 0, 0)); if (!r) umount(at); return r;
}
static int mount_proc(void) {
    char at[80]; snprintf(at, 80, "%s/proc", folder); mkdir(at, 0700);
    int r = result(mount("proc", at, "proc", 0, 0)); if (!r) umount(at); return r;
}
static int mount_cgroup(void) {
    char at[80]; snprintf(at, 80, "%s/cgroup", folder); mkdir(at, 0700);
    int r = result(mount("none", at, "cgroup2", 0, 0)); if (!r) umount(at); return r;
}
static int remount_root(void) { return result(mount(0, "/", 0, MS_REMOUNT | MS_BIND, 0)); }
static int remount_bind(void) { return result(mount(0, value("READ_ONLY"), 0, MS_REMOUNT | MS_BIND, 0)); }
static int unmount_proc(void) { return result(umount2("/proc", MNT_DETACH)); }
static int unmount_bind(void) { return result(umount2(value("READ_ONLY"), MNT_DETACH)); }
static int fs_open(void) { int fd = syscall(430, "tmpfs", 0); if (fd >= 0) close(fd); return result(fd); }
static int tree_clone(void) { int fd = syscall(428, AT_FDCWD, "/", 1); if (fd >= 0) close(fd); return result(fd); }
static int tree_open(void) { int fd = syscall(428, AT_FDCWD, "/", 0); if (fd >= 0) close(fd); return result(fd); }
static int attributes_clear(void) {
    struct { uint64_t set, clear, propagation, fd; } a = { 0, 1, 0, 0 };
    return result(syscall(442, AT_FDCWD, value("READ_ONLY"), 0, &a, sizeof a));
}
static int change_root(void) { return result(chroot(folder)); }
static int pivot(void) { return result(syscall(SYS_pivot_root, ".", ".")); }
static int in_child(int (*what)(void)) {
    fflush(stdout); pid_t c = fork();
    if (c < 0) return result(c);
    if (!c) _exit(what());
    int s; waitpid(c, &s, 0); return WIFEXITED(s) ? WEXITSTATUS(s) : 250;
}
static int flags;
static int do_unshare(void) { return result(unshare(flags)); }
static int unshare_user(void) { flags = CLONE_NEWUSER; return in_child(do_unshare); }
static int unshare_mount(void) { flags = CLONE_NEWNS; return in_child(do_unshare); }
static int unshare_net(void) { flags = CLONE_NEWNET; return in_child(do_unshare); }
static int unshare_time(void) { flags = 0x80; return in_child(do_unshare); }
static int clone_user(void) {
    pid_t c = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (c == 0) _exit(0);
    if (c > 0) waitpid(c, 0, 0);
    return result(c);
}
static int clone3_user(void) {
    uint64_t a[11] = { CLONE_NEWUSER, 0, 0, 0, SIGCHLD };
    pid_t c = syscall(435, a, 64);
    if (c == 0) _exit(0);
    if (c > 0) waitpid(c, 0, 0);
    return result(c);
}
static int join(const char *path) {
    int fd = open(path, O_RDONLY); if (fd < 0) return errno;
    int r = result(setns(fd, 0)); close(fd); return r;
}
static int join_own(void) { return join("/proc/self/ns/uts"); }
static int join_first(void) { return join("/proc/1/ns/mnt"); }
static int join_own_pidfd(void) {
    int fd = syscall(434, 1, 0); if (fd < 0) return errno;
    int r = result(setns(fd, CLONE_NEWNS | CLONE_NEWPID)); close(fd); return r;
}

/* Files of the machine's. */
static int opens(const char *path, int how) { int fd = open(path, how | O_CLOEXEC); if (fd >= 0) close(fd); return result(fd); }
static int core_pattern(void) { return opens("/proc/sys/kernel/core_pattern", O_WRONLY); }
static int modprobe(void) { return opens("/proc/sys/kernel/modprobe", O_WRONLY); }
static int hostname_sys(void) { return opens("/proc/sys/kernel/hostname", O_WRONLY); }
static int sysctl_vm(void) { return opens("/proc/sys/vm/overcommit_memory", O_WRONLY); }
static int binfmt(void) { return opens("/proc/sys/fs/binfmt_misc/register", O_WRONLY); }
static int sysrq(void) { return opens("/proc/sysrq-trigger", O_WRONLY); }
static int kcore(void) {
    int fd = open("/proc/kcore", O_RDONLY); char b[64]; if (fd < 0) return errno;
    ssize_t n = read(fd, b, 64); close(fd); return n > 0 ? 0 : ENODATA;
}
static int kallsyms(void) {
    FILE *f = fopen("/proc/kallsyms", "r"); unsigned long a = 0; if (!f) return errno;
    int n = fscanf(f, "%lx", &a); fclose(f); return n == 1 && a ? 0 : EACCES;
}
static int kernel_log(void) { return result(syscall(SYS_syslog, 3, folder, 16)); }
static int kernel_log_device(void) { return opens("/dev/kmsg", O_RDONLY | O_NONBLOCK); }
static int sys_write(void) { return opens("/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY); }
static int uevent(void) { return opens("/sys/kernel/uevent_helper", O_WRONLY); }
static int found;
static int writable(const char *path, const struct stat *s, int kind, struct FTW *at) {
    (void)at;
    if (kind == FTW_F && S_ISREG(s->st_mode) && !opens(path, O_WRONLY)) { printf("# %s can be written\n", path); found = 1; return 1; }
    return 0;
}
static int sys_any(void) { found = 0; nftw("/sys", writable, 16, FTW_PHYS); return found ? 0 : EACCES; }
static int proc_sys_any(void) {
    found = 0; nftw("/proc/sys", writable, 16, FTW_PHYS);
    return found ? 0 : EACCES;
}
static int proc_any(void) {
    const char *at[] = { "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/driver", "/proc/tty" };
    found = 0;
    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) nftw(at[i], writable, 16, FTW_PHYS);
    return found ? 0 : EACCES;
}
static int proc_told(void) {
    const char *at[] = { "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kmsg" };
    int r = ENOENT; char b[64];
    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) {
        int fd = open(at[i], O_RDONLY | O_NONBLOCK); if (fd < 0) { r = errno; continue; }
        if (read(fd, b, sizeof b) > 0) { printf("# %s\n", at[i]); r = 0; }
        close(fd); if (!r) return 0;
    }
    return r;
}
static int release_agent(void) {
    const char *at[] = { "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cpu/release_agent", "/sys/fs/cgroup/pids/release_agent" };
    int r = ENOENT; for (int i = 0; i < 3; i++) if (!(r = opens(at[i], O_WRONLY))) return 0;
    return r;
}
static int shadow(void) { return opens("/etc/shadow", O_RDONLY); }
static int passwd_write(void) { return opens("/etc/passwd", O_WRONLY); }
static int host_secret(void) { return opens(value("SECRET"), O_RDONLY); }
static int host_secret_by_root(void) {
    char at[4200]; snprintf(at, sizeof at, "/proc/1/root%s", value("SECRET")); return opens(at, O_RDONLY);
}
static int host_secret_by_climbing(void) {
    char at[4200]; snprintf(at, sizeof at, "/../../../../..%s", value("SECRET")); return opens(at, O_RDONLY);
}
/* Beyond the root, step by step: what lies above it is still above it at the top. */
static int climb(void) {
    int fd = open("/", O_PATH | O_DIRECTORY); struct stat root, here; if (fd < 0 || fstat(fd, &root)) return errno;
    for (int i = 0; i < 32; i++) {
        int up = openat(fd, "..", O_PATH | O_DIRECTORY); if (up < 0) return errno;
        close(fd); fd = up;
        if (fstat(fd, &here)) return errno;
        if (here.st_dev != root.st_dev || here.st_ino != root.st_ino) return 0;
    }
    char at[4200]; snprintf(at, sizeof at, ".%s", value("SECRET"));
    int r = result(openat(fd, at, O_RDONLY)); close(fd); return r;
}
static int hard_link(void) {
    char at[80]; snprintf(at, 80, "%s/link", folder);
    int r = result(link(value("READ_ONLY_FILE"), at)); if (!r) unlink(at); return r;
}
static int read_only_write(void) { return opens(value("READ_ONLY_FILE"), O_WRONLY); }
static int read_only_truncate(void) { return result(truncate(value("READ_ONLY_FILE"), 0)); }
static int read_only_create(void) {
    char at[4200]; snprintf(at, sizeof at, "%s/made", value("READ_ONLY")); return opens(at, O_WRONLY | O_CREAT);
}
static int read_only_reopen(void) {
    int fd = open(value("READ_ONLY_FILE"), O_RDONLY); char at[64]; if (fd < 0) return errno;
    snprintf(at, 64, "/proc/self/fd/%d", fd); int r = opens(at, O_RDWR); close(fd); return r;
}
static int read_only_by_root(void) {
    char at[4200]; snprintf(at, sizeof at, "/proc/self/root%s", value("READ_ONLY_FILE")); return opens(at, O_WRONLY);
}
static int read_only_mode(void) { return result(chmod(value("READ_ONLY_FILE"), 0777)); }
static int read_only_times(void) { return result(utimensat(AT_FDCWD, value("READ_ONLY_FILE"), 0, 0)); }
static int read_only_attribute(void) { return result(setxattr(value("READ_ONLY_FILE"), "user.mine", "x", 1, 0)); }
static int read_only_handle(void) {
    /* What a descriptor of the folder allows, its mount must forbid. */
    int dir = open(value("READ_ONLY"), O_RDONLY | O_DIRECTORY); if (dir < 0) return errno;
    int fd = openat(dir, "file", O_WRONLY); int r = result(fd); close(dir); return r;
}
static int handle_name(void) {
    struct { struct file_handle h; char more[128]; } a = { .h.handle_bytes = 128 }; int id;
    return result(name_to_handle_at(AT_FDCWD, "/", &a.h, &id, 0));
}
static int handle_open(void) {
    struct { struct file_handle h; uint32_t inode[2]; } a = { .h = { 8, 1 }, .inode = { 2, 0 } };
    int at = open(*value("READ_ONLY") ? value("READ_ONLY") : "/", O_RDONLY);
    int fd = open_by_handle_at(at, &a.h, O_RDONLY); close(at); if (fd >= 0) close(fd); return result(fd);
}

/* Devices. */
static int node_made(mode_t kind, int major, int minor) {
    char at[80]; snprintf(at, 80, "%s/node", folder);
    int r = result(mknod(at, kind | 0600, (dev_t)major << 8 | minor)); if (!r) unlink(at); return r;
}
static int node_character(void) { return node_made(S_IFCHR, 1, 1); }
static int node_block(void) { return node_made(S_IFBLK, 8, 0); }
static int node_whiteout(void) { return node_made(S_IFCHR, 0, 0); }
static int device_any(void) {
    DIR *d = opendir("/dev"); if (!d) return errno;
    const char *good[] = { "null", "zero", "full", "random", "urandom", "tty", "ptmx", "console" };
    int r = ENOENT; struct dirent *e;
    while ((e = readdir(d))) {
        int known = 0; struct stat s; char at[300]; snprintf(at, 300, "/dev/%s", e->d_name);
        for (int i = 0; i < 8; i++) known |= !strcmp(good[i], e->d_name);
        if (known || stat(at, &s) || !(S_ISBLK(s.st_mode) || S_ISCHR(s.st_mode))) continue;
        if (strncmp(e->d_name, "std", 3) && strcmp(e->d_name, "fd")) { printf("# %s\n", at); r = 0; }
    }
    closedir(d); return r;
}
static int memory_device(void) { return opens("/dev/mem", O_RDONLY); }
static int tun_device(void) { return opens("/dev/net/tun", O_RDWR); }
static int fuse_device(void) { return opens("/dev/fuse", O_RDWR); }

/* Other processes. */
static int first_memory(void) { return opens("/proc/1/mem", O_RDWR); }
static int first_descriptors(void) { DIR *d = opendir("/proc/1/fd"); if (!d) return errno; closedir(d); return 0; }
static int first_environment(void) { return opens("/proc/1/environ", O_RDONLY); }
static int first_root(void) { return opens("/proc/1/root/", O_RDONLY | O_DIRECTORY); }
static int first_program(void) { return opens("/proc/1/exe", O_RDONLY); }
static int first_maps(void) { FILE *f = fopen("/proc/1/maps", "r"); char b[8]; if (!f) return errno; int r = fgets(b, 8, f) ? 0 : EACCES; fclose(f); return r; }
static int first_traced(void) { return result(ptrace(PTRACE_SEIZE, 1, 0, 0)); }
static int first_read(void) { char b[8]; struct iovec l = { b, 8 }, m = { (void *)0x400000, 8 }; return result(process_vm_readv(1, &l, 1, &m, 1, 0)); }
static int first_descriptor_taken(void) {
    int fd = syscall(434, 1, 0); if (fd < 0) return errno;
    int got = syscall(438, fd, 0, 0); close(fd); return result(got);
}
static int first_killed(void) {
    /* The kernel says yes to a signal that init then does not take. */
    kill(1, SIGKILL); kill(1, SIGSTOP); kill(1, SIGTERM); usleep(20000);
    return kill(1, 0) && errno == ESRCH ? 0 : EPERM;
}
static int first_limits(void) { struct rlimit l = { 8, 8 }; return result(prlimit(1, RLIMIT_NOFILE, &l, 0)); }
static int host_killed(void) { return result(kill(atoi(value("HOST_PID")), 0)); }
static int host_seen(void) { char at[64]; snprintf(at, 64, "/proc/%s/comm", value("HOST_PID")); return opens(at, O_RDONLY); }
static int child_traced(void) {
    pid_t c = fork(); if (!c) for (;;) pause();
    int r = result(ptrace(PTRACE_ATTACH, c, 0, 0)); kill(c, SIGKILL); waitpid(c, 0, __WALL); return r;
}
static int child_read(void) {
    static char here[8] = "secret"; char b[8]; pid_t c = fork(); if (!c) for (;;) pause();
    struct iovec l = { b, 8 }, m = { here, 8 }; int r = result(process_vm_readv(c, &l, 1, &m, 1, 0)); kill(c, SIGKILL); waitpid(c, 0, 0); return r;
}

/* Doors of the kernel's. */
static int key_add(void) { return result(syscall(SYS_add_key, "user", "attempt", "x", 1, -2)); }
static int key_session(void) { return result(syscall(SYS_keyctl, 0, -3, 0)); }
static int key_request(void) { return result(syscall(SYS_request_key, "user", "attempt", 0, 0)); }
static int uring(void) { char p[256] = { 0 }; int fd = syscall(425, 4, p); if (fd >= 0) close(fd); return result(fd); }
static int bpf_map(void) { uint32_t a[32] = { 2, 4, 4, 1 }; int fd = syscall(SYS_bpf, 0, a, sizeof a); if (fd >= 0) close(fd); return result(fd); }
static int fault(void) { int fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1); if (fd >= 0) close(fd); return result(fd); }
static int perf(void) {
    struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_CPU_CLOCK };
    int fd = syscall(SYS_perf_event_open, &a, 0, -1, -1, 0); if (fd >= 0) close(fd); return result(fd);
}
static int watch_all(void) { int fd = syscall(SYS_fanotify_init, 0, 0); if (fd >= 0) close(fd); return result(fd); }
static int module_load(void) { return result(syscall(SYS_init_module, "", 0, "")) == EPERM ? EPERM : 0; }
static int kernel_load(void) { return result(syscall(SYS_kexec_load, 0, 0, 0, 0)); }
static int swap(void) { return result(swapon("/nowhere", 0)) == EPERM ? EPERM : 0; }
static int account_all(void) { return result(acct("/nowhere")) == EPERM ? EPERM : 0; }
static int power(void) { return result(syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0)); }
static int clock_set(void) { struct timeval t = { -1, -1 }; return result(syscall(SYS_settimeofday, &t, 0)) == EPERM ? EPERM : 0; }
static int clock_tuned(void) { struct timex t = { .modes = ADJ_TICK, .tick = 1 }; return result(adjtimex(&t)) == EPERM ? EPERM : 0; }
static int name_set(void) { return result(sethostname("x", 1)); }
static int ports(void) { return result(syscall(SYS_iopl, 3)); }
static int port_bits(void) { return result(syscall(SYS_ioperm, 0x80, 1, 1)); }
static int segments(void) { char b[64]; return result(syscall(SYS_modify_ldt, 0, b, 64)); }
static int persona(void) { int r = result(personality(0x0400000)); if (!r) personality(0); return r; }
static int quota(void) { return result(syscall(SYS_quotactl, 0x80000100, 0, 0, 0)) == EPERM ? EPERM : 0; }
static int hang_up(void) { return result(vhangup()); }
static int push_input(void) {
    int m = open("/dev/ptmx", O_RDWR | O_NOCTTY); if (m < 0) return errno;
    int s = ioctl(m, 0x5441, O_RDWR | O_NOCTTY); if (s < 0) return errno;
    char c = 'x'; setsid(); ioctl(s, TIOCSCTTY, 0); int r = result(ioctl(s, TIOCSTI, &c)); close(s); close(m); return r;
}
static int push_input_apart(void) { return in_child(push_input); }
static int old_calls(void) {
#ifdef __x86_64__
    /* By the 32-bit interface's number for getpid; a process that is ended for it comes back as 250. */
    long a; __asm__ volatile("int $0x80" : "=a"(a) : "0"(20L) : "memory"); return a > 0 ? 0 : ENOSYS;
#else
    return ENOSYS;
#endif
}
static int old_calls_apart(void) { return in_child(old_calls); }

/* Sockets. */
static int sock(int family, int kind, int protocol) { int fd = socket(family, kind, protocol); if (fd >= 0) close(fd); return result(fd); }
static int socket_vsock(void) { return sock(AF_VSOCK, SOCK_STREAM, 0); }
static int socket_alg(void) { return sock(AF_ALG, SOCK_SEQPACKET, 0); }
static int socket_packet(void) { return sock(AF_PACKET, SOCK_RAW, 0); }
static int socket_raw(void) { return sock(AF_INET, SOCK_RAW, IPPROTO_TCP); }
static int socket_audit(void) { return sock(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT); }
static int socket_uevent(void) { return sock(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT); }
static int socket_filter(void) { return sock(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER); }
static int socket_abstract(void) {
    struct sockaddr_un a = { .sun_family = AF_UNIX }; const char *name = value("ABSTRACT");
    memcpy(a.sun_path + 1, name, strlen(name)); int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int r = result(connect(fd, (void *)&a, sizeof a.sun_family + 1 + strlen(name))); close(fd); return r;
}
static int host_port(void) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(value("HOST_PORT"))), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0); int r = result(connect(fd, (void *)&a, sizeof a)); close(fd); return r;
}

/* Favours. */
static int nicer(void) { errno = 0; int r = nice(-5) == -1 && errno ? errno : 0; if (!r) nice(5); return r; }
static int real_time(void) {
    struct sched_param p = { 1 }, n = { 0 }; int r = result(sched_setscheduler(0, SCHED_FIFO, &p));
    if (!r) sched_setscheduler(0, SCHED_OTHER, &n);
    return r;
}
static int disk_first(void) { int r = result(syscall(SYS_ioprio_set, 1, 0, 1 << 13)); if (!r) syscall(SYS_ioprio_set, 1, 0, 0); return r; }
static int oom_spared(void) {
    /* Back to what everybody has is no favour; less is. */
    int fd = open("/proc/self/oom_score_adj", O_RDWR); if (fd < 0) return errno;
    int r = pwrite(fd, "-1", 2, 0) < 0 ? errno : 0; close(fd); return r;
}
static int limits_raised(void) {
    struct rlimit l; getrlimit(RLIMIT_NOFILE, &l); l.rlim_max++; return result(setrlimit(RLIMIT_NOFILE, &l));
}
static int core_limit_raised(void) {
    struct rlimit l = { 1 << 20, 1 << 20 }; return result(setrlimit(RLIMIT_CORE, &l));
}
static int status_has(const char *name, const char *good) {
    FILE *f = fopen("/proc/self/status", "r"); char line[256]; int r = EPROTO; if (!f) return 0;
    while (fgets(line, 256, f)) if (!strncmp(line, name, strlen(name))) { r = strstr(line, good) ? EPERM : 0; if (!r) printf("# %s", line); }
    fclose(f); return r;
}
static int cap_effective(void) { return status_has("CapEff:", value("CAPABILITIES")); }
static int cap_permitted(void) { return status_has("CapPrm:", value("CAPABILITIES")); }
static int cap_inheritable(void) { return status_has("CapInh:", "0000000000000000"); }
static int cap_ambient(void) { return status_has("CapAmb:", "0000000000000000"); }
static int cap_bounding(void) { return status_has("CapBnd:", value("CAPABILITIES")); }
static int privileges_new(void) { return status_has("NoNewPrivs:", "\t1\n"); }
static int filter_missing(void) { return status_has("Seccomp:", "\t2\n"); }
static int cap_set(void) {
    struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct d[2] = { { 1 << CAP_SYS_ADMIN, 1 << CAP_SYS_ADMIN, 0 } };
    return result(syscall(SYS_capset, &h, d));
}
static int cap_file(void) {
    /* Version 2, all permitted, effective. */
    uint32_t cap[5] = { 0x02000001, 0xffffffff, 0, 0xffffffff, 0 }; char at[80]; snprintf(at, 80, "%s/able", folder);
    close(open(at, O_CREAT | O_WRONLY, 0755)); int r = result(setxattr(at, "security.capability", cap, 20, 0)); unlink(at); return r;
}
static int host_root_mapped(void) {
    FILE *f = fopen("/proc/self/uid_map", "r"); unsigned inside, outside, count; int r = EPERM; if (!f) return 0;
    while (fscanf(f, "%u %u %u", &inside, &outside, &count) == 3) if (outside < 1000) r = 0;
    fclose(f); return r;
}
static int descriptors_left(void) {
    DIR *d = opendir("/proc/self/fd"); if (!d) return EPERM; int r = EPERM; struct dirent *e;
    while ((e = readdir(d))) { int n = atoi(e->d_name); if (n > 2 && n != dirfd(d)) { printf("# descriptor %d\n", n); r = 0; } }
    closedir(d); return r;
}

#define IN 1
#define OUT 2
static const struct { const char *name; int (*what)(void); int where; } all[] = {
#define BOTH(n) { #n, n, IN | OUT }
#define INSIDE(n) { #n, n, IN }
    INSIDE(descriptors_left), BOTH(mount_tmpfs), BOTH(mount_proc), BOTH(mount_cgroup), INSIDE(remount_root), INSIDE(remount_bind), INSIDE(unmount_proc),
    INSIDE(unmount_bind), BOTH(fs_open), BOTH(tree_clone), BOTH(tree_open), INSIDE(attributes_clear), INSIDE(change_root), INSIDE(pivot),
    BOTH(unshare_user), BOTH(unshare_mount), BOTH(unshare_net), BOTH(unshare_time), BOTH(clone_user), BOTH(clone3_user), BOTH(join_own), INSIDE(join_first),
    INSIDE(join_own_pidfd), BOTH(core_pattern), INSIDE(modprobe), BOTH(hostname_sys), BOTH(sysctl_vm), INSIDE(binfmt), INSIDE(sysrq), INSIDE(kcore),
    INSIDE(kallsyms), BOTH(kernel_log), BOTH(kernel_log_device), INSIDE(sys_write), INSIDE(uevent), INSIDE(sys_any), INSIDE(proc_sys_any), INSIDE(proc_any), INSIDE(proc_told), INSIDE(release_agent), BOTH(shadow),
    BOTH(passwd_write), BOTH(host_secret), INSIDE(host_secret_by_root), BOTH(host_secret_by_climbing), BOTH(climb), INSIDE(hard_link), BOTH(read_only_write),
    INSIDE(read_only_truncate), INSIDE(read_only_create), BOTH(read_only_reopen), BOTH(read_only_by_root), BOTH(read_only_mode), BOTH(read_only_times),
    INSIDE(read_only_attribute), BOTH(read_only_handle), BOTH(handle_name), BOTH(handle_open), BOTH(node_character), BOTH(node_block), BOTH(node_whiteout), BOTH(device_any),
    INSIDE(memory_device), INSIDE(tun_device), INSIDE(fuse_device), INSIDE(first_memory), BOTH(first_descriptors), INSIDE(first_environment), INSIDE(first_root),
    INSIDE(first_program), INSIDE(first_maps), INSIDE(first_traced), INSIDE(first_read), INSIDE(first_descriptor_taken), INSIDE(first_limits), BOTH(host_killed),
    BOTH(host_seen), BOTH(child_traced), BOTH(child_read), BOTH(key_add), BOTH(key_session), INSIDE(key_request), BOTH(uring), BOTH(bpf_map), BOTH(fault), BOTH(perf),
    BOTH(watch_all), INSIDE(module_load), INSIDE(kernel_load), INSIDE(swap), INSIDE(account_all), INSIDE(power), INSIDE(clock_set), INSIDE(clock_tuned), INSIDE(name_set), INSIDE(ports),
    INSIDE(port_bits), INSIDE(segments), BOTH(persona), INSIDE(quota), INSIDE(hang_up), INSIDE(push_input_apart), INSIDE(old_calls_apart), INSIDE(socket_vsock), INSIDE(socket_alg),
    BOTH(socket_packet), BOTH(socket_raw), INSIDE(socket_audit), BOTH(socket_uevent), INSIDE(socket_filter), BOTH(socket_abstract), BOTH(host_port), BOTH(nicer),
    BOTH(real_time), BOTH(disk_first), INSIDE(oom_spared), INSIDE(limits_raised), INSIDE(core_limit_raised), INSIDE(cap_effective), INSIDE(cap_permitted), INSIDE(cap_inheritable),
    INSIDE(cap_ambient), INSIDE(cap_bounding), INSIDE(privileges_new), INSIDE(filter_missing), INSIDE(cap_set), BOTH(cap_file), INSIDE(host_root_mapped), INSIDE(first_killed),
};

int main(int count, char **words) {
    const char *only = count > 1 && strcmp(words[1], "outside") ? words[1] : 0;
    int where = count > 1 && !only ? OUT : IN;
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!mkdtemp(folder)) { perror(folder); return 99; }
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (only ? strcmp(only, all[i].name) : !(all[i].where & where)) continue;
        errno = 0;
        int r = all[i].what();
        if (r) printf("%s: %s\n", all[i].name, strerrorname_np(r) ? strerrorname_np(r) : "ended"); else printf("%s: done\n", all[i].name);
    }
    printf("over\n");
    char command[128]; snprintf(command, 128, "rm -rf %s", folder); return system(command) ? 98 : 0;
}
