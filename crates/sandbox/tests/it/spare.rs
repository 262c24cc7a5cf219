//! Namespaces that are used for more than one sandbox, as long as nothing was ever in them.

use crate::bench::{Bench, order, plan, shell};
use model::Access;
use sandbox::{Bind, Plan, Status};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

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
}

#[test]
fn a_name_that_was_handed_on_is_free_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let place = folder.path().join("place");
    // Whoever is handed something here keeps it: what waits to be accepted is never taken.
    let _listener = UnixListener::bind(&place).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
    let shared = Bind { source: folder.path().to_owned(), target: "/share".into(), access: Access::ReadOnly };
    let hand_on = "import socket; named, to = socket.socket(1), socket.socket(1); named.bind('\\0name'); \
                   to.connect('/share/place'); socket.send_fds(to, [b'x'], [named.fileno()])";
    let take = "import socket; socket.socket(1).bind('\\0name')";
    let mut bench = Bench::new();
    for round in 0..RUNS / 2 {
        for (script, binds) in [(hand_on, vec![shared.clone()]), (take, Vec::new())] {
            let ran = bench.run(&Plan { binds, ..plan() }, &order(&["python3", "-c", script]));
            assert_eq!(ran.ending.status, Status::Exited(0), "round {round}, {script}: {ran:?}");
        }
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
