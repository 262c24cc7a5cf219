//! Limits that hold: memory, processes, processors, files, time; and what is said of those that do not.

use crate::bench::{Bench, Who, order, plan, settings, shell};
use model::{Access, LimitSet, Limits};
use sandbox::{Bind, FaultKind, Plan, Settings, Spawner, Status};
use std::time::Instant;

fn limited(change: impl FnOnce(&mut Limits)) -> Plan {
    let mut plan = plan();
    change(&mut plan.limits);
    plan
}

#[test]
fn a_memory_bomb_goes_off_alone() {
    let mut bench = Bench::new();
    let plan = limited(|limits| limits.memory_bytes = 64 << 20);
    let script = "x = []\nwhile True: x.append(bytearray(1 << 20))";
    for _ in 0..2 {
        let run = bench.run(&plan, &order(&["python3", "-c", script]));
        assert_eq!(run.ending.status, Status::Signalled(libc::SIGKILL), "{run:?}");
        assert!(run.ending.usage.oom_kills >= 1, "{run:?}");
        assert!(run.ending.usage.memory_peak_bytes <= 64 << 20, "{run:?}");
    }
    // The next one in the same cell begins afresh, under its own limit.
    let plan = limited(|limits| limits.memory_bytes = 256 << 20);
    let run = bench.run(&plan, &order(&["python3", "-c", "x = bytearray(128 << 20); print(len(x))"]));
    assert_eq!((run.ending.status, run.ending.usage.oom_kills), (Status::Exited(0), 0), "{run:?}");
}

#[test]
fn a_fork_bomb_runs_into_its_limit() {
    let script = "import os\nn = 0\ntry:\n  while True:\n    if os.fork() == 0:\n      import time\n      time.sleep(100)\n    \
        n += 1\nexcept BlockingIOError:\n  print(n)";
    for who in [Who::Root, Who::Ordinary] {
        let run = Bench::of(who).run(&limited(|limits| limits.pids = 20), &order(&["python3", "-c", script]));
        assert_eq!(run.output, "19\n", "{who:?}: {run:?}");
    }
}

#[test]
fn processors_are_shared_out() {
    let plan = limited(|limits| limits.cpu_milli = 200);
    let script = "import time\nend = time.time() + 1\nwhile time.time() < end: pass";
    let usage = Bench::new().run(&plan, &order(&["python3", "-c", script])).ending.usage;
    assert!(usage.cpu_ms >= 100 && usage.cpu_ms * 10 < usage.wall_ms * 4, "{usage:?}");
}

#[test]
fn storage_traffic_is_slowed_down_and_only_while_it_should_be() {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder on the disk");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is opened");
    let bind = Bind { source: folder.path().to_owned(), target: "/mnt".into(), access: Access::ReadWrite };
    let mut bench = Bench::new();
    let mut run = |bytes_second: u64| {
        let plan = Plan { binds: vec![bind.clone()], ..limited(|limits| limits.io_bytes_second = bytes_second) };
        // Only what passes by the cache is charged to whoever writes it, on the older control groups. The loop uses so much
        // of a processor that the limits are written anew for the next one.
        let script = "x=0; while [ $x -lt 30000 ]; do x=$((x + 1)); done; \
            LC_ALL=C dd if=/dev/zero of=/mnt/file bs=256k count=8 oflag=direct conv=notrunc 2>&1";
        let run = bench.run(&plan, &shell(script));
        assert_eq!(run.ending.status, Status::Exited(0), "{run:?}");
        assert!(!run.ending.usage.unenforced.io, "{run:?}");
        let seconds = run.output.rsplit(", ").nth(1).and_then(|text| text.strip_suffix(" s")?.parse::<f64>().ok());
        seconds.unwrap_or_else(|| panic!("dd says how long it took: {run:?}"))
    };
    let (slow, free) = (run(1 << 20), run(0));
    assert!(slow >= 1.4, "2 MiB at 1 MiB a second took {slow} s");
    assert!(free + 0.8 < slow, "what has no limit took {free} s, and what has one {slow} s");
}

#[test]
fn a_disk_filler_fills_its_own() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let plan = limited(|limits| limits.disk_bytes = 1 << 20);
        for place in ["/tmp/full", "/dev/shm/full"] {
            let script = format!("dd if=/dev/zero of={place} bs=64k count=100 2>/dev/null; stat -c %s {place}");
            let run = bench.run(&plan, &shell(&script));
            let bytes: u64 = run.output.trim().parse().expect("a size");
            assert!((512 << 10..=1 << 20).contains(&bytes), "{who:?}: {run:?}");
        }
        let run = bench.run(&plan, &shell("ls /tmp /dev/shm | grep full"));
        assert_eq!(run.output, "", "{who:?}: {run:?}");
    }
}

#[test]
fn time_runs_out() {
    for who in [Who::Root, Who::Ordinary] {
        let begin = Instant::now();
        let plan = limited(|limits| (limits.wall_ms, limits.grace_ms) = (200, 100));
        let run = Bench::of(who).run(&plan, &shell("trap '' INT TERM; while :; do :; done"));
        assert!(run.ending.is_timed_out && !run.ending.is_stopped, "{who:?}: {run:?}");
        assert_eq!(run.ending.status, Status::Signalled(libc::SIGKILL), "{who:?}: {run:?}");
        assert!((400..5000).contains(&run.ending.usage.wall_ms), "{who:?}: {run:?}");
        assert!(begin.elapsed().as_secs() < 10);
    }
}

#[test]
fn what_cannot_be_had_is_refused() {
    let check = |who: Who, plan: &Plan, words: &str| {
        let fault = Bench::of(who).try_run(plan, &shell("true"), b"").expect_err(words);
        assert_eq!(fault.kind, FaultKind::Plan, "{fault}");
        assert!(fault.cause.contains(words), "{fault}");
    };
    check(Who::Root, &limited(|limits| limits.memory_bytes = 1 << 40), "bytes of memory are asked for");
    check(Who::Root, &limited(|limits| limits.cpu_milli = 1_000_000), "of a processor are asked for");
    let demand = LimitSet { memory: true, ..LimitSet::default() };
    check(Who::Ordinary, &limited(|limits| limits.demand = demand), "cannot enforce limits of memory");
    let bench = Bench::new();
    assert_eq!(bench.spawner.abilities().limits, LimitSet::ALL, "{:?}", bench.spawner.abilities());
    let bench = Bench::of(Who::Ordinary);
    assert!(bench.spawner.abilities().limits.is_empty());
    assert!(
        bench.spawner.abilities().notes.iter().any(|note| note.contains("memory")),
        "{:?}",
        bench.spawner.abilities()
    );
}

#[test]
fn a_spawner_without_room_for_its_sandboxes_does_not_begin() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let start = |files: u32, cells: u32| {
        let state = tempfile::tempdir().expect("is made");
        let run = format!("ulimit -n {files}; exec {}", env!("CARGO_BIN_EXE_sandbox-spawner"));
        let arguments = vec!["-c".to_owned(), run];
        let settings = Settings { program: "/bin/sh".into(), arguments, ..settings(state.path().to_owned(), cells) };
        Spawner::start(&settings).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(start(1024, 4), Ok(()));
    // Too few to prepare them, and too few to use them.
    for cells in [200, 60] {
        let told = start(1024, cells).expect_err("is refused");
        assert!(told.contains(&format!("{cells} sandboxes at once need")) && told.contains("may have 1024"), "{told}");
    }
}

#[test]
fn a_program_may_open_what_programs_usually_may() {
    for who in [Who::Root, Who::Ordinary] {
        let run = Bench::of(who).run(&limited(|_| ()), &shell("ulimit -Sn"));
        assert_eq!(run.output.trim(), "1024", "{who:?}: {run:?}");
    }
}
