//! Lives of programs: how they end, what they say, what they are told.

use crate::bench::{Bench, order, plan, shell};
use sandbox::{FaultKind, Status};

#[test]
fn programs_end_as_they_do_by_hand() {
    let mut bench = Bench::new();
    let mut check = |script: &str, status: Status, output: &str| {
        let run = bench.run(&plan(), &shell(script));
        assert_eq!((run.ending.status, run.output.as_str()), (status, output), "{script}: {run:?}");
    };
    check("echo hello", Status::Exited(0), "hello\n");
    check("exit 7", Status::Exited(7), "");
    check("kill -SEGV $$", Status::Signalled(libc::SIGSEGV), "");
    check("kill -KILL $$", Status::Signalled(libc::SIGKILL), "");
    check("kill -TERM $$", Status::Signalled(libc::SIGTERM), "");
    check("echo $$", Status::Exited(0), "2\n");
    check("(sleep 100 &) ; echo gone", Status::Exited(0), "gone\n");
    check("hostname; id -u; pwd", Status::Exited(0), "box\n0\n/\n");
}

#[test]
fn what_cannot_run_says_why() {
    let mut bench = Bench::new();
    let mut check = |command: &[&str], words: &str| {
        let fault = bench.try_run(&plan(), &order(command), b"").expect_err(words);
        assert_eq!(fault.kind, FaultKind::Order, "{fault}");
        assert!(fault.cause.contains(words), "{fault}");
    };
    check(&["no-such-program"], "does not exist");
    check(&["/no/such/program"], "does not exist");
    check(&["/etc/passwd"], "may not be run");
    check(&["/etc"], "may not be run");
}
