//! Sandboxes by other OCI runtimes, those that this machine has.

use crate::house::{Keeper, compile};
use model::{Access, LimitSet, Limits, Network};
use sandbox::{
    Bind, Bundle, Container, Ending, Event, Fault, FaultKind, Order, Place, Plan, Root, Runtime, Sort, Status,
};
use sandbox::{Stop, bundle};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FIRST: u32 = 300_000;

const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <errno.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static void say(const char *name, long answer) { printf("%s %d\n", name, answer < 0 ? errno : 0); }
void stop(int signal) { write(1, signal == SIGINT ? "int\n" : "term\n", signal == SIGINT ? 4 : 5); if (signal == SIGTERM) _exit(3); }
int main(int count, char **words) {
    if (!strcmp(words[1], "who")) printf("%d %d %s %s\n", getuid(), getpid(), getenv("NAME"), access("/made", W_OK) ? "new" : "old");
    if (!strcmp(words[1], "calls")) {
        say("unix", socket(AF_UNIX, SOCK_STREAM, 0));
        say("tcp", socket(AF_INET, SOCK_STREAM, 0));
        say("udp", socket(AF_INET6, SOCK_DGRAM, 17));
        say("ciphers", socket(38, SOCK_SEQPACKET, 0));
        say("sctp", socket(AF_INET, SOCK_STREAM, 132));
        say("persona", personality(0xffffffff));
        say("fixed", personality(ADDR_NO_RANDOMIZE));
        say("bsd", personality(6));
        say("namespace", syscall(SYS_unshare, 0x10000000));
        say("memory", syscall(SYS_shmget, 0, 4096, 0600));
        say("ring", syscall(SYS_io_uring_setup, 1, 0));
        say("bpf", syscall(SYS_bpf, 0, 0, 0));
        say("trace", syscall(SYS_ptrace, 0, 0, 0, 0));
        say("keys", syscall(SYS_keyctl, 0, -3, 1));
        say("unknown", syscall(1000));
    }
    if (!strcmp(words[1], "make")) { int fd = open("/made", O_CREAT | O_WRONLY, 0600); return fd < 0 ? 1 : 0; }
    if (!strcmp(words[1], "code")) return 7;
    if (!strcmp(words[1], "high")) return 137;
    if (!strcmp(words[1], "die")) { char *no = (char *)8; *no = 1; }
    if (!strcmp(words[1], "eat")) { for (;;) { char *at = malloc(1 << 20); memset(at, 7, 1 << 20); } }
    if (!strcmp(words[1], "fork")) { int n = 0, made; while ((made = fork()) > 0) n++; while (made == 0) pause(); printf("%d\n", n); fflush(stdout); kill(-1, SIGKILL); }
    if (!strcmp(words[1], "sleep")) { signal(SIGINT, SIG_IGN); signal(SIGTERM, SIG_IGN); puts("up"); fflush(stdout); for (;;) pause(); }
    if (!strcmp(words[1], "heed")) { signal(SIGINT, stop); signal(SIGTERM, stop); puts("up"); fflush(stdout); for (;;) pause(); }
    if (!strcmp(words[1], "cat")) { char line[64]; int n; while ((n = read(0, line, 64)) > 0) write(1, line, n); }
    if (!strcmp(words[1], "read")) { int fd = open("/mnt/file", O_RDWR); char text[8] = {0}; if (fd >= 0) puts("writable"); fd = open("/mnt/file", O_RDONLY); read(fd, text, 7); puts(text); }
    return 0;
}"#;

/// A layer with one program, and a place for containers. Nobody but root may pass through its folder, as in a node's.
struct Yard {
    folder: tempfile::TempDir,
    runtime: Runtime,
    plan: Plan,
    user: &'static str,
    count: u32,
}

/// What is to be done with a program that runs.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Stop(Stop),
    /// The node goes.
    Leave,
}

impl Yard {
    fn new(runtime: Runtime) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let made = compile(&layer, "program", PROGRAM, &["-static"]);
        fs::create_dir(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/passwd"), "ann:x:1000:1000::/:/program\n").unwrap();
        fs::create_dir(folder.path().join("containers")).unwrap();
        for path in [&layer, &made] {
            chown(path, Some(FIRST), Some(FIRST)).unwrap();
        }
        let plan = Plan {
            root: Root::Layers(vec![layer]),
            binds: Vec::new(),
            hostname: "yard".to_owned(),
            network: Network::None,
            limits: Limits { memory_bytes: 64 << 20, grace_ms: 100, ..Limits::default() },
            ptrace: false,
            terminal: false,
            file_capabilities: false,
        };
        Self { folder, runtime, plan, user: "ann", count: 0 }
    }

    fn containers(&self) -> PathBuf {
        self.folder.path().join("containers")
    }

    fn bundle(&mut self, command: &[&str]) -> Bundle {
        self.count += 1;
        let id = format!("yard-{}-{}-{}", std::process::id(), self.runtime.name, self.count);
        let order = Order {
            command: command.iter().map(ToString::to_string).collect(),
            env: vec![("NAME".to_owned(), "value".to_owned())],
            cwd: "/".to_owned(),
            user: self.user.to_owned(),
            window: None,
        };
        Bundle {
            folder: self.containers().join(&id),
            id,
            runtime: self.runtime.clone(),
            place: Place::Range { first: FIRST, count: 65_536 },
            plan: self.plan.clone(),
            order,
        }
    }

    fn run(&mut self, command: &[&str]) -> Result<(Ending, String), Fault> {
        self.run_then(command, Then::Nothing)
    }

    fn run_then(&mut self, command: &[&str], then: Then) -> Result<(Ending, String), Fault> {
        let bundle = self.bundle(command);
        let (mut output, writer) = std::io::pipe().unwrap();
        let (input, mut feed) = std::io::pipe().unwrap();
        feed.write_all(b"fed\n").unwrap();
        drop(feed);
        let stdio = [OwnedFd::from(input), writer.try_clone().unwrap().into(), OwnedFd::from(writer)];
        let helper = Path::new(env!("CARGO_BIN_EXE_sandbox-spawner"));
        let (container, mut vigil) = Container::start(helper, "minder", &bundle, &stdio).unwrap();
        drop(stdio);
        let mut container = Some(container);
        let mut told = Vec::new();
        let end = loop {
            match vigil.next() {
                Some(Event::Started { .. }) => match then {
                    Then::Nothing => {}
                    Then::Stop(stop) => {
                        read_until(&mut output, &mut told, "up\n");
                        container.as_ref().unwrap().stop(stop).unwrap();
                    }
                    Then::Leave => container = None,
                },
                Some(Event::Ended { ending, .. }) => break Ok(*ending),
                Some(Event::Failed { fault, .. }) => break Err(fault),
                Some(Event::Built { .. } | Event::Measured { .. }) => {}
                None => panic!("the minder of {command:?} ended without a word"),
            }
        };
        drop(vigil);
        output.read_to_end(&mut told).unwrap();
        self.expect_nothing(&bundle.id);
        end.map(|ending| (ending, String::from_utf8_lossy(&told).into_owned()))
    }

    /// Looks for anything that a container left.
    fn expect_nothing(&self, id: &str) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("/run/quarry") && !mounts.contains(id), "a mount was left: {mounts}");
        assert_eq!(fs::read_dir(self.containers()).unwrap().count(), 0, "a folder of `{id}` was left");
        assert_eq!(groups(id), Vec::<PathBuf>::new());
    }
}

fn read_until(output: &mut impl Read, told: &mut Vec<u8>, words: &str) {
    let mut byte = [0];
    while !told.ends_with(words.as_bytes()) {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "it ended before it said `{words}`");
        told.push(byte[0]);
    }
}

/// Finds the control groups whose path holds a container's name.
fn groups(id: &str) -> Vec<PathBuf> {
    fn look(folder: &Path, id: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(path.to_string_lossy().contains(id).then(|| path.clone()));
                look(&path, id, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), id, 5, &mut found);
    found
}

fn runtimes() -> Vec<Runtime> {
    if Keeper::me() != Keeper::Root {
        return Vec::new();
    }
    let programs = ["/usr/bin/crun", "/usr/sbin/runc", "/usr/bin/runsc"].map(PathBuf::from);
    let there = programs.iter().filter(|path| path.exists());
    there.map(|path| Runtime::probe(&path.file_name().unwrap().to_string_lossy(), path).unwrap()).collect()
}

#[test]
fn other_runtimes_run_programs() {
    for runtime in runtimes() {
        let (name, sort) = (runtime.name.clone(), runtime.sort);
        let mut yard = Yard::new(runtime);
        let (ending, told) = yard.run(&["/program", "who"]).unwrap();
        assert_eq!((ending.status, told.as_str()), (Status::Exited(0), "1000 1 value new\n"), "{name}");
        let (ending, told) = yard.run(&["/program", "make"]).unwrap();
        assert_eq!(ending.status, Status::Exited(1), "{name}: only the superuser inside makes files there: {told}");
        let (ending, _) = yard.run(&["/program", "code"]).unwrap();
        assert_eq!(ending.status, Status::Exited(7), "{name}");
        let (ending, told) = yard.run(&["/program", "cat"]).unwrap();
        assert_eq!((ending.status, told.as_str()), (Status::Exited(0), "fed\n"), "{name}");
        let (ending, _) = yard.run(&["/program", "die"]).unwrap();
        assert_eq!(ending.status, Status::Signalled(libc::SIGSEGV), "{name}");
        if sort == Sort::Plain {
            let (ending, _) = yard.run(&["/program", "high"]).unwrap();
            assert_eq!(ending.status, Status::Exited(137), "{name}");
        }
        let fault = yard.run(&["/nothing"]).unwrap_err();
        assert!(fault.kind == FaultKind::NoProgram && fault.cause.contains("/nothing"), "{name}: {fault}");
        yard.user = "0";
        let (ending, told) = yard.run(&["/program", "make"]).unwrap();
        assert_eq!(ending.status, Status::Exited(0), "{name}: {told}");
        yard.user = "nobody";
        let fault = yard.run(&["/program", "code"]).unwrap_err();
        assert!(fault.cause.contains("`nobody` does not exist"), "{name}: {fault}");
    }
}

#[test]
fn other_runtimes_filter_system_calls() {
    for runtime in runtimes() {
        let (name, sort) = (runtime.name.clone(), runtime.sort);
        if sort == Sort::Sentry {
            // Its programs call a kernel of its own.
            continue;
        }
        let mut yard = Yard::new(runtime);
        let (ending, told) = yard.run(&["/program", "calls"]).unwrap();
        assert_eq!(ending.status, Status::Exited(0), "{name}");
        let (none, refused) = (libc::ENOSYS, libc::EPERM);
        let expected = format!(
            "unix 0\ntcp 0\nudp 0\nciphers {none}\nsctp {none}\npersona 0\nfixed 0\nbsd {none}\nnamespace {none}\n\
             memory 0\nring {refused}\nbpf {refused}\ntrace {refused}\nkeys {refused}\nunknown {none}\n"
        );
        assert_eq!(told, expected, "{name}");
        yard.plan.ptrace = true;
        let (_, told) = yard.run(&["/program", "calls"]).unwrap();
        assert!(told.contains("trace 0\n"), "{name}: {told}");
    }
}

#[test]
fn other_runtimes_stop_when_told() {
    for runtime in runtimes() {
        let name = runtime.name.clone();
        let mut yard = Yard::new(runtime);
        let (ending, told) = yard.run_then(&["/program", "heed"], Then::Stop(Stop::Gently)).unwrap();
        let seen = (ending.status, ending.is_stopped, ending.is_timed_out, told.as_str());
        assert_eq!(seen, (Status::Exited(3), true, false, "up\nint\nterm\n"), "{name}");
        let (ending, _) = yard.run_then(&["/program", "sleep"], Then::Stop(Stop::Gently)).unwrap();
        assert!(ending.is_stopped && ending.status == Status::Signalled(libc::SIGKILL), "{name}: {ending:?}");
        let begin = Instant::now();
        yard.plan.limits.grace_ms = 60_000;
        let (ending, _) = yard.run_then(&["/program", "sleep"], Then::Stop(Stop::Now)).unwrap();
        assert!(ending.is_stopped && ending.status == Status::Signalled(libc::SIGKILL), "{name}: {ending:?}");
        let (ending, _) = yard.run_then(&["/program", "sleep"], Then::Leave).unwrap();
        assert!(ending.is_stopped && ending.status == Status::Signalled(libc::SIGKILL), "{name}: {ending:?}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{name}");
        (yard.plan.limits.wall_ms, yard.plan.limits.grace_ms) = (300, 100);
        let (ending, _) = yard.run(&["/program", "sleep"]).unwrap();
        assert!(ending.is_timed_out && ending.status == Status::Signalled(libc::SIGKILL), "{name}: {ending:?}");
        assert!(ending.usage.wall_ms >= 500, "{name}: {ending:?}");
    }
}

#[test]
fn other_runtimes_keep_limits_or_say_that_they_do_not() {
    for runtime in runtimes() {
        let (name, sort) = (runtime.name.clone(), runtime.sort);
        let mut yard = Yard::new(runtime);
        let demand = LimitSet { memory: true, cpu: true, pids: true, io: false };
        yard.plan.limits = Limits { pids: 12, io_bytes_second: 100 << 20, demand, ..yard.plan.limits };
        if sort == Sort::Sentry {
            let fault = yard.run(&["/program", "code"]).unwrap_err();
            assert!(fault.kind == FaultKind::Plan && fault.cause.contains("limits of pids"), "{name}: {fault}");
            yard.plan.limits =
                Limits { memory_bytes: 128 << 20, demand: LimitSet { pids: false, ..demand }, ..yard.plan.limits };
            let (ending, _) = yard.run(&["/program", "code"]).unwrap();
            assert_eq!(ending.usage.unenforced, LimitSet { pids: true, ..LimitSet::default() }, "{name}: {ending:?}");
            let (ending, _) = yard.run(&["/program", "eat"]).unwrap();
            assert!(
                ending.status == Status::Signalled(libc::SIGKILL) && ending.usage.oom_kills >= 1,
                "{name}: {ending:?}"
            );
            continue;
        }
        let (ending, _) = yard.run(&["/program", "eat"]).unwrap();
        assert_eq!(ending.status, Status::Signalled(libc::SIGKILL), "{name}");
        assert!(ending.usage.oom_kills >= 1 && ending.usage.memory_peak_bytes >= 60 << 20, "{name}: {ending:?}");
        assert!(ending.usage.cpu_ms > 0 && ending.usage.unenforced.is_empty(), "{name}: {ending:?}");
        let (ending, told) = yard.run(&["/program", "fork"]).unwrap();
        assert_eq!(told, "11\n", "{name}: {ending:?}");
    }
}

#[test]
fn what_other_runtimes_cannot_do_is_refused() {
    for runtime in runtimes() {
        let name = runtime.name.clone();
        let mut yard = Yard::new(runtime);
        let plan = yard.plan.clone();
        let mut check = |change: fn(&mut Plan), words: &str| {
            yard.plan = plan.clone();
            change(&mut yard.plan);
            let fault = yard.run(&["/program", "code"]).unwrap_err();
            assert!(fault.kind == FaultKind::Plan && fault.cause.contains(words), "{name}: {fault}");
        };
        check(|plan| plan.root = Root::Host, "needs an image");
        check(|plan| plan.network = Network::Egress, "no network `egress`");
        check(|plan| plan.terminal = true, "gives no terminal");
        check(|plan| plan.root = Root::Layers(vec!["/absent".into()]), "`/absent` cannot be opened");
    }
}

#[test]
fn other_runtimes_see_what_is_bound() {
    for runtime in runtimes() {
        let name = runtime.name.clone();
        let mut yard = Yard::new(runtime);
        let source = yard.folder.path().join("shown");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "shown").unwrap();
        fs::set_permissions(source.join("file"), Permissions::from_mode(0o666)).unwrap();
        for (access, expected) in [(Access::ReadOnly, "shown\n"), (Access::ReadWrite, "writable\nshown\n")] {
            yard.plan.binds = vec![Bind { source: source.clone(), target: "/mnt".into(), access }];
            let (ending, told) = yard.run(&["/program", "read"]).unwrap();
            assert_eq!((ending.status, told.as_str()), (Status::Exited(0), expected), "{name}");
        }
    }
}

#[test]
fn nothing_is_left_of_a_killed_minder() {
    for runtime in runtimes() {
        let name = runtime.name.clone();
        let mut yard = Yard::new(runtime);
        for is_swept in [false, true] {
            let bundle = yard.bundle(&["/program", "sleep"]);
            let (mut output, writer) = std::io::pipe().unwrap();
            let null = || OwnedFd::from(File::open("/dev/null").unwrap());
            let stdio = [null(), writer.into(), null()];
            let helper = Path::new(env!("CARGO_BIN_EXE_sandbox-spawner"));
            let (container, mut vigil) = Container::start(helper, "minder", &bundle, &stdio).unwrap();
            drop(stdio);
            assert!(matches!(vigil.next(), Some(Event::Started { .. })), "{name}");
            read_until(&mut output, &mut Vec::new(), "up\n");
            let pid = rustix::process::Pid::from_raw(vigil.pid().cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            // Only when nothing holds its output any more does it end.
            assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
            assert!(vigil.next().is_none(), "{name}");
            if is_swept {
                // As by a node that comes after one that was killed together with the minder.
                std::mem::forget(vigil);
                assert_eq!(bundle::sweep(&yard.containers()), 1, "{name}");
            } else {
                drop(vigil);
            }
            drop(container);
            yard.expect_nothing(&bundle.id);
        }
    }
}
