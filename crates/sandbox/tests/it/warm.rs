//! Sandboxes that are built ahead, parked and started later.

use crate::bench::{Bench, Who, order, plan, shell, streams, text};
use sandbox::{Event, FaultKind, Status};
use std::path::{Path, PathBuf};

#[test]
fn parked_sandboxes_run_what_comes() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let numbers: Vec<u64> = (0..4).map(|_| bench.number()).collect();
        for number in &numbers {
            bench.spawner.build(*number, &plan()).expect("the spawner listens");
        }
        let mut built = Vec::new();
        while built.len() < numbers.len() {
            match bench.events.next() {
                Some(Event::Built { number, wire: None }) => built.push(number),
                other => panic!("{who:?}: {other:?}"),
            }
        }
        for number in numbers {
            let (stdio, output, _error) = streams(b"abc");
            let order = shell("cat; echo; echo $$; exit 5");
            bench.spawner.start_program(number, &order, &stdio).expect("the spawner listens");
            drop(stdio);
            assert!(bench.started(number).is_none());
            let ending = bench.end(number).expect("it ran");
            assert_eq!((ending.status, text(output).as_str()), (Status::Exited(5), "abc\n2\n"), "{who:?}");
        }
    }
}

#[test]
fn a_parked_sandbox_says_when_it_cannot_run_something() {
    let mut bench = Bench::new();
    let number = bench.number();
    bench.spawner.build(number, &plan()).expect("the spawner listens");
    let (stdio, ..) = streams(b"");
    assert!(matches!(bench.events.next(), Some(Event::Built { .. })));
    bench.spawner.start_program(number, &order(&["nothing-like-it"]), &stdio).expect("the spawner listens");
    let fault = bench.end(number).expect_err("there is no such program");
    assert_eq!(fault.kind, FaultKind::NoProgram, "{fault}");
}

/// Returns the file that says whether the processors are for the group of a spawner's one sandbox only when nobody else
/// wants them; none where the kernel has no such file.
fn idle_file(spawner: u32) -> Option<PathBuf> {
    let threads = std::fs::read_dir(format!("/proc/{spawner}/task")).expect("it lives").filter_map(Result::ok);
    let born: String =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok()).collect();
    let init = born.split_whitespace().next().expect("there is a sandbox");
    let groups = std::fs::read_to_string(format!("/proc/{init}/cgroup")).expect("it lives");
    let mut found = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_one = controllers.is_empty() || controllers.split(',').any(|controller| controller == "cpu");
        let folder = Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/'));
        Some(folder.join("cpu.idle")).filter(|file| is_one && path.contains("quarry-") && file.exists())
    });
    found.next()
}

#[test]
fn what_is_built_ahead_stands_behind_what_is_waited_for() {
    let mut bench = Bench::new();
    let number = bench.number();
    bench.spawner.build(number, &plan()).expect("the spawner listens");
    assert!(matches!(bench.events.next(), Some(Event::Built { .. })));
    let Some(file) = idle_file(bench.spawner.pid()) else { return };
    let is_idle = || std::fs::read_to_string(&file).expect("it is there").trim() == "1";
    assert!(is_idle());
    let (stdio, ..) = streams(b"");
    bench.spawner.start_program(number, &shell("sleep 1000"), &stdio).expect("the spawner listens");
    assert!(bench.started(number).is_none());
    assert!(!is_idle());
    bench.stop(number, sandbox::Stop::Now);
    bench.end(number).expect("it ran");
}
