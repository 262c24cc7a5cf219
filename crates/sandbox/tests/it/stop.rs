//! Stops: the ladder of signals, and that nothing survives it.

use crate::bench::{Bench, Who, plan, shell, streams, text};
use crate::house::{House, Keeper, compile, shown};
use sandbox::{Ending, Order, Status, Stop};
use std::io::Read;
use std::time::{Duration, Instant};

/// Runs a program that says `ready`, stops it, and returns how it ended and what it said after that.
fn stopped(bench: &mut Bench, order: &Order, stop: Stop) -> (Ending, String) {
    let number = bench.number();
    let (stdio, mut output, _error) = streams(b"");
    bench.spawner.run(number, &plan(), order, &stdio).expect("the spawner listens");
    drop(stdio);
    let mut said = [0; 6];
    output.read_exact(&mut said).expect("it says that it is ready");
    bench.stop(number, stop);
    let ending = bench.end(number).expect("it ran");
    assert!(ending.is_stopped && !ending.is_timed_out, "{ending:?}");
    (ending, text(output))
}

#[test]
fn each_signal_has_its_turn() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let mut check = |script: &str, stop: Stop, status: Status, output: &str| {
            let (ending, said) = stopped(&mut bench, &shell(script), stop);
            assert_eq!((ending.status, said.as_str()), (status, output), "{who:?}: {script}");
        };
        let forever = "echo ready; while :; do sleep 0.01; done";
        check(&format!("trap 'echo int; exit 3' INT; {forever}"), Stop::Gently, Status::Exited(3), "int\n");
        check(
            &format!("trap '' INT; trap 'echo term; exit 4' TERM; {forever}"),
            Stop::Gently,
            Status::Exited(4),
            "term\n",
        );
        check(&format!("trap '' INT TERM; {forever}"), Stop::Gently, Status::Signalled(libc::SIGKILL), "");
        check(&format!("trap 'echo int' INT; {forever}"), Stop::Now, Status::Signalled(libc::SIGKILL), "");
    }
}

#[test]
fn nothing_survives() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        // Daemonised, in sessions of their own, deaf, and one that is stopped: their names tell them from others.
        let name = format!("survivor-{}-{}", std::process::id(), who == Who::Root);
        let script = format!(
            "cp /bin/sleep /tmp/{name}; cd /tmp; trap '' INT TERM HUP; (setsid ./{name} 1000 >/dev/null 2>&1 &); \
             ./{name} 1000 & kill -STOP $!; echo ready; wait"
        );
        stopped(&mut bench, &shell(&script), Stop::Gently);
        assert_eq!(named(&name), Vec::<String>::new(), "{who:?}");
    }
}

/// Lists the processes of this machine that were started under a name.
pub(crate) fn named(name: &str) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").expect("there is a /proc").filter_map(Result::ok);
    lines
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (pid != std::process::id() && line.contains(name)).then_some(line)
        })
        .collect()
}

#[test]
fn what_was_never_started_can_be_stopped() {
    let mut bench = Bench::new();
    let number = bench.number();
    bench.spawner.build(number, &plan()).expect("the spawner listens");
    bench.stop(number, Stop::Gently);
    let fault = bench.end(number).expect_err("it never ran");
    assert!(fault.cause.contains("stopped before"), "{fault}");
}

/// Programs that keep init busy, or from hearing of the program's end: while a child asks whether it may trace it, and when
/// those that it left behind do nothing but stop.
const BUSY: &str = "#define _GNU_SOURCE\n#include <signal.h>\n#include <stdlib.h>\n#include <sys/ptrace.h>\n\
    #include <sys/wait.h>\n#include <unistd.h>\n\
    int main(int count, char **words) {\n\
      pid_t me = getpid();\n\
      if (words[1][0] == 'k') {\n\
        if (!fork()) { usleep(300000); kill(me, SIGKILL); _exit(0); }\n\
        if (!vfork()) { usleep(100000); ptrace(PTRACE_SEIZE, me, 0, 0); pause(); }\n\
        return 1; }\n\
      signal(SIGUSR1, SIG_IGN);\n\
      for (int i = 0; i < 100; i++) if (!fork()) for (;;) raise(SIGUSR1);\n\
      usleep(300000); return 0; }\n";

#[test]
fn an_end_is_told_whatever_keeps_init_busy() {
    let folder = tempfile::tempdir().unwrap();
    compile(folder.path(), "busy", BUSY, &[]);
    for keeper in Keeper::all() {
        let mut house = House::new(keeper);
        let mut plan = house.plan();
        plan.binds.push(shown(folder.path(), "/ground"));
        for (word, expected) in [("killed", Status::Signalled(libc::SIGKILL)), ("left", Status::Exited(0))] {
            let begun = Instant::now();
            let (ending, _) = house.run(&plan, &house.order(&["/ground/busy", word], "0"));
            assert_eq!(ending.status, expected, "{keeper:?}, {word}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{keeper:?}, {word}: {:?}", begun.elapsed());
        }
    }
}
