//! Programs that die under the tracer's eye, compiled here by gcc, and their cores read by gdb beside the kernel's own.

use super::{Taken, Tracer, Turn, request};
use crate::profile::Profile;
use crate::seccomp::Filter;
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BYTES_MAX: u64 = 64 << 20;

/// Compiles a program.
fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (text, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&text, source).unwrap();
    let done = Command::new("gcc").args(["-g", "-O0", "-pthread", "-o"]).arg(&program).arg(&text).args(flags).status();
    assert!(done.unwrap().success(), "gcc could not compile {name}");
    program
}

/// What became of a program: its status, its core, and how often init's loop turned.
struct Fate {
    status: i32,
    core: Option<(Taken, File)>,
    turns: usize,
}

/// A program that has the filter upon it and waits for a word to begin.
struct Parked {
    pid: i32,
    listener: OwnedFd,
    word: UnixStream,
}

impl Parked {
    /// Prepares a program whose cores of the kernel's own may have so many bytes.
    fn new(folder: &Path, command: &[&str], kernel_bytes_max: u64) -> Self {
        let words: Vec<_> = command.iter().map(|word| CString::new(*word).unwrap()).collect();
        let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let cwd = CString::new(folder.to_str().unwrap()).unwrap();
        let filter = Filter::new(Profile::EVERY[1]);
        let (mut word, theirs) = UnixStream::pair().unwrap();
        let limit = libc::rlimit { rlim_cur: kernel_bytes_max, rlim_max: kernel_bytes_max };
        let (number, mut go) = (theirs.as_raw_fd(), 0_u8);
        // SAFETY: the child makes system calls only, up to its exec.
        let pid = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::chdir(cwd.as_ptr());
                libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
                libc::personality(libc::ADDR_NO_RANDOMIZE as u64);
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                let Ok(Some(listener)) = filter.install() else { libc::_exit(255) };
                let shown = listener.as_raw_fd();
                libc::write(number, (&raw const shown).cast(), 4);
                libc::read(number, (&raw mut go).cast(), 1);
                libc::execv(pointers[0], pointers.as_ptr());
                libc::_exit(254);
            }
            child
        };
        let mut shown = [0; 4];
        word.read_exact(&mut shown).unwrap();
        Self { pid, listener: borrow_from(pid, i32::from_ne_bytes(shown)), word }
    }

    /// Runs it without a tracer, and returns its status.
    fn run(mut self) -> i32 {
        self.word.write_all(&[1]).unwrap();
        let mut status = 0;
        // SAFETY: the kernel writes one status.
        assert_eq!(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }, self.pid);
        status
    }

    /// Runs it under the tracer's eye, as a sandbox's init does, looking for notices of the filter every so many
    /// milliseconds, or never.
    fn run_traced(mut self, bytes_max: u64, notice_ms: Option<i32>) -> Fate {
        let proc = OwnedFd::from(File::open("/proc").unwrap());
        let mut tracer = Tracer::new(proc, bytes_max);
        tracer.seize(self.pid).unwrap();
        self.word.write_all(&[1]).unwrap();
        let (mut turns, mut status) = (0, 0);
        let any = libc::__WALL | libc::__WNOTHREAD | notice_ms.map_or(0, |_| libc::WNOHANG);
        loop {
            let mut ready = libc::pollfd { fd: self.listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the kernel writes one status.
            let got = unsafe { libc::waitpid(-1, &raw mut status, any) };
            if got > 0 {
                turns += 1;
                if tracer.handle(got, status, &mut tempfile::tempfile) == Turn::Gone && got == self.pid {
                    return Fate { status, core: tracer.finish(), turns };
                }
                continue;
            }
            // SAFETY: the kernel writes one answer.
            let is_ready = unsafe { libc::poll(&raw mut ready, 1, notice_ms.unwrap_or(0)) } > 0;
            if is_ready && ready.revents & libc::POLLIN != 0 {
                tracer.answer(self.listener.as_fd()).unwrap();
            }
        }
    }
}

fn traced(folder: &Path, command: &[&str], bytes_max: u64) -> Fate {
    Parked::new(folder, command, 0).run_traced(bytes_max, Some(1))
}

/// Takes a copy of another process's descriptor.
fn borrow_from(pid: i32, number: i32) -> OwnedFd {
    // SAFETY: both calls answer with descriptors that nobody else knows.
    unsafe {
        let process = OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32);
        OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) as i32)
    }
}

/// Puts a core into a folder, where debuggers find it.
fn keep(core: &mut File, path: &Path) {
    use std::io::Seek;
    core.rewind().unwrap();
    std::io::copy(core, &mut File::create(path).unwrap()).unwrap();
}

/// What a debugger says about a core.
fn debugger(program: &Path, core: &Path, commands: &[&str]) -> String {
    let asked = commands.iter().flat_map(|command| ["-ex", command]);
    let told = Command::new("gdb").args(["-nx", "-batch"]).args(asked).arg(program).arg(core).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let errors = String::from_utf8_lossy(&told.stderr);
    // The ids of threads, and the words that introduce them, are the only things that differ from run to run.
    let is_told = |line: &&str| !line.starts_with("[New LWP") && !line.contains("libthread_db");
    let lines: Vec<_> = text.lines().chain(errors.lines()).filter(is_told).map(without_ids).collect();
    lines.join("\n")
}

fn without_ids(line: &str) -> String {
    let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    for at in 1..words.len() {
        if words[at - 1].ends_with("LWP") || words[at - 1].ends_with("process") {
            words[at] = "ID".to_owned();
        }
    }
    words.join(" ")
}

const CRASH: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
int global = 4711; char *heap; double half = 0.5; _Atomic int ready;
static void *idle(void *arg) { volatile long local = (long)arg * 3; ready++; for (;;) pause(); return (void *)local; }
static int third(volatile int *where) { return *where + global; }
static int second(int depth) { char frame[64]; memset(frame, depth, 64); return third((int *)(long)(depth - 7)); }
static int first(int depth) { return second(depth + 1); }
int main(void) {
    pthread_t threads[3];
    /* A stretch of addresses that nobody ever touches costs nothing. */
    mmap(0, 1UL << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    heap = malloc(32); strcpy(heap, "kept on the heap");
    for (long i = 0; i < 3; i++) pthread_create(&threads[i], 0, idle, (void *)i);
    while (ready < 3) usleep(1000);
    usleep(20000);
    half *= 3;
    return first(6);
}"#;

#[test]
fn a_core_says_what_the_kernels_own_says() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "crash", CRASH, &["-lm"]);
    let fate = traced(folder.path(), &[program.to_str().unwrap()], BYTES_MAX);
    assert!(libc::WIFSIGNALED(fate.status) && libc::WTERMSIG(fate.status) == libc::SIGSEGV, "{}", fate.status);
    let (taken, mut file) = fate.core.expect("a core was taken");
    assert_eq!((taken.signal, taken.program.as_str(), taken.is_truncated), (libc::SIGSEGV, "crash", false));
    assert_eq!(taken.bytes, file.metadata().unwrap().len());
    let ours = folder.path().join("ours.core");
    keep(&mut file, &ours);
    let asked = [
        "bt full",
        "thread apply all bt",
        "info registers",
        "p $_siginfo.si_signo",
        "p $_siginfo._sifields._sigfault.si_addr",
        "info sharedlibrary",
        "info float",
        "p global",
        "p heap",
        "p (char*)heap",
        "info auxv",
        "x/4i $pc",
        "info proc mappings",
    ];
    let told = debugger(&program, &ours, &asked);
    for words in ["third (where=0x0)", "second (depth=7)", "first (depth=6)", "kept on the heap", "= 4711", "libc.so.6"]
    {
        assert!(told.contains(words), "gdb does not say `{words}`:\n{told}");
    }
    assert_eq!(told.matches("idle (arg=").count(), 3, "{told}");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.trim() != "core" {
        eprintln!("the kernel writes no core into the folder here, so ours stands alone");
        return;
    }
    Parked::new(folder.path(), &[program.to_str().unwrap()], libc::RLIM_INFINITY).run();
    let named: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let is_core = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("core");
    let theirs = named.iter().find(is_core).expect("the kernel left a core");
    // The order of threads beyond the first is nobody's promise, and the ids differ.
    let sorted = |told: String| {
        let mut lines: Vec<_> = told.lines().map(without_thread).collect();
        lines.sort();
        lines.join("\n")
    };
    let (ours, theirs) = (sorted(told), sorted(debugger(&program, theirs, &asked)));
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs, "gdb reads the two differently");
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

/// Numbers and descriptors of threads depend on the order in which they are listed.
fn without_thread(line: &str) -> String {
    let names = ["Thread 0x", "LWP", ".reg-xstate/"];
    if names.iter().any(|name| line.contains(name)) { "a thread".to_owned() } else { line.to_owned() }
}

#[test]
fn readelf_finds_the_notes() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "crash", CRASH, &[]);
    let fate = traced(folder.path(), &[program.to_str().unwrap()], BYTES_MAX);
    let ours = folder.path().join("ours.core");
    keep(&mut fate.core.expect("a core was taken").1, &ours);
    let told = Command::new("readelf").args(["-h", "-l", "-n", "-W"]).arg(&ours).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert_eq!(errors, "");
    for words in ["CORE (Core file)", "NT_PRSTATUS", "NT_PRPSINFO", "NT_SIGINFO", "NT_AUXV", "NT_FILE", "NT_FPREGSET"] {
        assert!(text.contains(words), "readelf does not say `{words}`:\n{text}");
    }
    assert_eq!(text.matches("NT_PRSTATUS").count(), 4, "{text}");
}

fn check(name: &str, source: &str, bytes_max: u64, want: (i32, Option<&str>)) -> Fate {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), name, source, &[]);
    let fate = traced(folder.path(), &[program.to_str().unwrap()], bytes_max);
    let got = fate.core.as_ref().map(|(taken, _)| taken.program.as_str());
    assert_eq!((fate.status, got), want, "{name}");
    fate
}

#[test]
fn only_what_dies_of_a_signal_leaves_a_core() {
    let main = |body: &str| {
        format!(
            "#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <string.h>\n#include <setjmp.h>\n\
             #include <sys/wait.h>\n#include <sys/mman.h>\nstatic sigjmp_buf jump;\n\
             static void leap(int s) {{ (void)s; siglongjmp(jump, 1); }}\n\
             static void quit(int s) {{ _exit(s); }}\nint main(void) {{ {body} return 3; }}\n"
        )
    };
    let over = 3 << 8;
    check("quiet", &main(""), BYTES_MAX, (over, None));
    check("aborts", &main("abort();"), BYTES_MAX, (libc::SIGABRT, Some("aborts")));
    check("traps", &main("__builtin_trap();"), BYTES_MAX, (libc::SIGILL, Some("traps")));
    check("breaks", &main("raise(SIGTRAP);"), BYTES_MAX, (libc::SIGTRAP, Some("breaks")));
    check("ends", &main("raise(SIGTERM);"), BYTES_MAX, (libc::SIGTERM, None));
    check("killed", &main("raise(SIGKILL);"), BYTES_MAX, (libc::SIGKILL, None));
    check("ignores", &main("signal(SIGQUIT, SIG_IGN); raise(SIGQUIT);"), BYTES_MAX, (over, None));
    let caught = "signal(SIGSEGV, leap); for (int i = 0; i < 99; i++) if (!sigsetjmp(jump, 1)) *(volatile int *)0 = 1;";
    check("catches", &main(caught), BYTES_MAX, (over, None));
    // A signal that is forced upon a process ends it even if it is blocked or ignored.
    check(
        "ignores-segv",
        &main("signal(SIGSEGV, SIG_IGN); *(volatile int *)0 = 1;"),
        BYTES_MAX,
        (libc::SIGSEGV, Some("ignores-segv")),
    );
    let stopped = "pid_t c = fork(); if (!c) { raise(SIGSTOP); return 0; } int s; waitpid(c, &s, WUNTRACED); \
                   if (!WIFSTOPPED(s)) return 9; kill(c, SIGCONT); waitpid(c, &s, 0); if (s) return 8;";
    check("stops", &main(stopped), BYTES_MAX, (over, None));
    let child = "for (int i = 0; i < 20; i++) { pid_t c = fork(); if (!c) abort(); waitpid(c, 0, 0); }";
    check("parent", &main(child), BYTES_MAX, (over, Some("parent")));
    let both = "pid_t c = fork(); if (!c) *(volatile int *)0 = 1; waitpid(c, 0, 0); abort();";
    let fate = check("both", &main(both), BYTES_MAX, (libc::SIGABRT, Some("both")));
    assert_eq!(fate.core.unwrap().0.signal, libc::SIGABRT, "the program's own core goes before its child's");
    check("none-wanted", &main("abort();"), 0, (libc::SIGABRT, None));
    let big = "char *p = malloc(200 << 20); memset(p, 7, 200 << 20); abort();";
    let fate = check("big", &main(big), 8 << 20, (libc::SIGABRT, Some("big")));
    let (taken, _) = fate.core.unwrap();
    assert!(taken.is_truncated && taken.bytes <= 8 << 20 && taken.bytes > 1 << 20, "{taken:?}");
}

#[test]
fn a_thread_that_cannot_be_stopped_holds_nobody_up() {
    // A thread that waits for its child of `vfork` takes no notice of its tracer until the child has gone on.
    let source = "#define _GNU_SOURCE\n#include <pthread.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
        static void *idle(void *arg) { if (!vfork()) { sleep(60); _exit(0); } return arg; }\n\
        int main(void) { pthread_t t; pthread_create(&t, 0, idle, 0); usleep(50000); abort(); }\n";
    let begin = Instant::now();
    let fate = check("stuck", source, BYTES_MAX, (libc::SIGABRT, Some("stuck")));
    assert!(begin.elapsed() < Duration::from_secs(30) && fate.core.is_some());
}

#[test]
fn a_core_cut_short_still_shows_where_it_happened() {
    let folder = tempfile::tempdir().unwrap();
    let source = CRASH.replace("half *= 3;", "heap = malloc(99 << 20); memset(heap, 7, 99 << 20);");
    let program = compile(folder.path(), "crash", &source, &[]);
    let fate = traced(folder.path(), &[program.to_str().unwrap()], 1 << 20);
    let (taken, mut file) = fate.core.expect("a core was taken");
    assert!(taken.is_truncated && taken.bytes <= 1 << 20, "{taken:?}");
    let core = folder.path().join("short.core");
    keep(&mut file, &core);
    let told = debugger(&program, &core, &["bt"]);
    assert!(told.contains("third (where=0x0)") && told.contains("main ()"), "{told}");
}

#[test]
fn sanitizers_work_under_the_filter() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, body: &str, sanitizer: &str, want: i32| {
        let source = format!(
            "#include <stdlib.h>\n#include <pthread.h>\n#include <unistd.h>\nvoid *kept; int shared;\n\
             static void *idle(void *a) {{ for (;;) pause(); return a; }}\n\
             static void *count(void *a) {{ for (int i = 0; i < 1000; i++) shared++; return a; }}\n\
             int main(void) {{ pthread_t t, u; (void)t; (void)u; {body} return 0; }}\n"
        );
        let program = compile(folder.path(), name, &source, &[sanitizer]);
        let fate =
            traced(folder.path(), &["/bin/sh", "-c", &format!("exec {} 2>{name}.err", program.display())], BYTES_MAX);
        let told = std::fs::read_to_string(folder.path().join(format!("{name}.err"))).unwrap();
        assert_eq!(fate.status, want << 8, "{name}: {told}");
        told
    };
    let told = check("clean", "kept = malloc(7); pthread_create(&t, 0, idle, 0);", "-fsanitize=address", 0);
    assert_eq!(told, "");
    let told = check("leaky", "kept = malloc(7); kept = 0; pthread_create(&t, 0, idle, 0);", "-fsanitize=address", 1);
    assert!(told.contains("detected memory leaks"), "{told}");
    let told = check("overrun", "char *p = malloc(7); p[7] = 1;", "-fsanitize=address", 1);
    assert!(told.contains("heap-buffer-overflow"), "{told}");
    let race =
        "pthread_create(&t, 0, count, 0); pthread_create(&u, 0, count, 0); pthread_join(t, 0); pthread_join(u, 0);";
    let told = check("racy", race, "-fsanitize=thread", 66);
    assert!(told.contains("data race"), "{told}");
}

#[test]
fn nobody_traces_another() {
    let body = "#include <sys/ptrace.h>\n#include <errno.h>\n#include <unistd.h>\n#include <signal.h>\n\
                int main(void) { pid_t c = fork(); if (!c) for (;;) pause();\n\
                long a = ptrace(PTRACE_ATTACH, c, 0, 0); int e = errno;\n\
                long b = ptrace(PTRACE_TRACEME, 0, 0, 0); int f = errno; kill(c, SIGKILL);\n\
                return a == -1 && e == EPERM && b == -1 && f == EPERM ? 3 : 4; }\n";
    check("nosy", body, BYTES_MAX, (3 << 8, None));
}

#[test]
#[ignore = "prints the figures of docs/cores.md"]
fn forks_under_the_tracer() {
    let folder = tempfile::tempdir().unwrap();
    let script = "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done";
    for _ in 0..3 {
        let begin = Instant::now();
        Command::new("/bin/sh").args(["-c", script]).status().unwrap();
        let plain = begin.elapsed();
        let begin = Instant::now();
        let fate = Parked::new(folder.path(), &["/bin/sh", "-c", script], 0).run_traced(BYTES_MAX, None);
        println!("1,000 programs: {plain:?} alone, {:?} traced in {} turns", begin.elapsed(), fate.turns);
        assert_eq!(fate.status, 0);
    }
    // What was seized and can be let go of again is no longer traced.
    assert!(request(libc::PTRACE_DETACH, 1, 0).is_err());
}
