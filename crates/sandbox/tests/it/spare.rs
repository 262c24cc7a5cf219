//! Namespaces that are used for more than one sandbox, as long as nothing was ever in them.

use crate::bench::{Bench, order, plan, shell};
use sandbox::{Plan, Status};
use std::collections::BTreeSet;

/// Sandboxes one after the other, more than a spawner keeps namespaces for at first.
const RUNS: usize = 12;

fn outputs(bench: &mut Bench, plan: &Plan, script: &str) -> Vec<String> {
    (0..RUNS).map(|_| bench.run(plan, &shell(script)).output).collect()
}

#[test]
fn namespaces_in_which_nothing_was_are_used_again() {
    let mut bench = Bench::new();
    for name in ["ipc", "net"] {
        let seen = outputs(&mut bench, &plan(), &format!("readlink /proc/self/ns/{name}"));
        assert!(seen.iter().all(|line| line.starts_with(&format!("{name}:["))), "{seen:?}");
        assert!(BTreeSet::from_iter(&seen).len() < RUNS, "{seen:?}");
    }
    // A socket alone moves nothing, and where processes may trace each other no notes are kept: the counters then tell.
    for ptrace in [false, true] {
        let script = "python3 -c 'import socket; socket.socket()'; readlink /proc/self/ns/net";
        let seen = outputs(&mut bench, &Plan { ptrace, ..plan() }, script);
        assert!(BTreeSet::from_iter(&seen).len() < RUNS, "ptrace {ptrace}: {seen:?}");
    }
}

#[test]
fn what_made_queues_leaves_nothing_to_the_next() {
    // What is there at first, and which number the first of each sort gets: both tell of whoever was there before.
    let script =
        "cat /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm | grep -vc key; ipcmk -M 64; ipcmk -S 1; ipcmk -Q";
    let fresh = "0\nShared memory id: 0\nSemaphore id: 0\nMessage queue id: 0\n";
    for ptrace in [false, true] {
        let mut bench = Bench::new();
        let plan = Plan { ptrace, ..plan() };
        for (at, output) in outputs(&mut bench, &plan, script).into_iter().enumerate() {
            assert_eq!(output, fresh, "run {at}, ptrace: {ptrace}");
        }
    }
}

#[test]
fn no_network_was_used_by_another() {
    let mut bench = Bench::new();
    let script = "import socket; s = socket.socket(2, 2); s.bind(('127.0.0.1', 9)); s.sendto(b'x', ('127.0.0.1', 9))";
    for _ in 0..6 {
        let seen = bench.run(&plan(), &shell("awk '/lo:/ { print $2, $3 }' /proc/net/dev; tail -n +2 /proc/net/tcp"));
        assert_eq!(seen.output, "0 0\n", "{seen:?}");
        let used = bench.run(&plan(), &order(&["python3", "-c", script]));
        assert_eq!(used.ending.status, Status::Exited(0), "{used:?}");
    }
}
